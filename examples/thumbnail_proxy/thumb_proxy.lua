-- The proxy's side of the event loop: requests in, thumbnails out.

local nbffi = require "resty.nonblocking_ffi"

local format = string.format
local match = string.match
local ngx = ngx
local require = require
local tonumber = tonumber
local type = type


local _M = {}


-- What may be asked for: who may choose any size can have a server busy for
-- good.
local SIZES = { ["160x120"] = true, ["300x200"] = true, ["640x480"] = true }

-- A queue that is as long as somebody waits. More would be work for those who
-- have given up already.
local POOL = { max_queue = 32 }
local RUNTIME = {
    language = "lua", module = "thumb", pool = "pictures", timeout = 30,
}


-- To be called in init_by_lua.
function _M.init()
    nbffi.pool("pictures", POOL)
end


-- To be called in init_worker_by_lua: starts the pool's threads.
function _M.init_worker()
    local rt, err = nbffi.load(RUNTIME)
    if not rt then
        ngx.log(ngx.ERR, "thumbnails: ", err)
    end
end


local function fail(status, why)
    ngx.status = status
    ngx.header.content_type = "text/plain"
    if status == 503 then
        ngx.header.retry_after = "1"
    end
    ngx.say(why)
end


local function make(name, width, height)
    local rt, err = nbffi.load(RUNTIME)
    if not rt then
        return nil, 500, err
    end
    -- The key: who has decoded the picture before decodes no more.
    local jpeg, note, why = rt:call({ "make", key = name }, name, width, height)
    if jpeg or type(note) == "number" then
        return jpeg, note, why
    end
    if note == "queue overflow" then
        return nil, 503, "too many pictures wait"
    end
    if note == "timeout" then
        return nil, 504, "no thumbnail in time"
    end
    ngx.log(ngx.ERR, "thumbnails: ", note)
    return nil, 500, "no thumbnail"
end


-- Content handler for /thumb/<width>x<height>/<name of the picture>. With
-- `in_loop` the work is done in the event loop, to compare.
function _M.serve(in_loop)
    local size, name = match(ngx.var.uri, "/thumb/(%d+x%d+)/(.+)$")
    if not SIZES[size] then
        return fail(404, "no such size")
    end
    local width, height = match(size, "(%d+)x(%d+)")
    local func = in_loop and require("thumb").make or make
    local jpeg, note, why = func(name, tonumber(width), tonumber(height))
    if not jpeg then
        return fail(note, why)
    end
    ngx.header.content_type = "image/jpeg"
    ngx.header.content_length = #jpeg
    ngx.header.x_picture = note
    ngx.print(jpeg)
end


-- Content handler: what the pool is doing.
function _M.status()
    local rt, err = nbffi.load(RUNTIME)
    if not rt then
        return fail(500, err)
    end
    local stats = rt:stats()
    ngx.say(format("thumbnails %d, running %d, waiting %d, refused %d",
                   stats.ok, stats.running, stats.queued,
                   stats.errors["queue overflow"] or 0))
end


return _M
