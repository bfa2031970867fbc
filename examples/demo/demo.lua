-- The handlers of the demo: pictures in, thumbnails out, and what it costs.

local nbffi = require "resty.nonblocking_ffi"

local ngx = ngx
local fmt = string.format

local _M = {}

local thumbnail


function _M.init_worker()
    -- Pictures are resized by threads that stand back for the event loop when
    -- there are fewer cores than work.
    assert(nbffi.pool("pictures"))

    -- What goes wrong here is in the error log; /thumb then answers with 500.
    thumbnail = assert(nbffi.load{
        name = "thumbnail",
        runtime = "c",
        library = ngx.config.prefix() .. "lib/libthumbnail.so",
        config = "width=160 height=160",
        pool = "pictures",
        timeout = 30,
    })
end


local function body()
    ngx.req.read_body()
    return ngx.req.get_body_data() or ""
end


function _M.thumb()
    local picture, err, code, msg = thumbnail:call(body())
    if not picture then
        ngx.status = 500
        local text = err .. (code and fmt(" (%d: %s)", code, msg or "") or "")
        ngx.header.content_length = #text
        ngx.print(text)
        return
    end

    -- The plugin's message: "image/jpeg 160x120 of 1600x1200".
    ngx.header.content_type = msg and msg:match("^%S+")
    ngx.header.x_thumbnail = msg
    ngx.header.content_length = #picture
    ngx.print(picture)
end


-- The contrast: as much work, in the worker's own thread.
function _M.busy()
    local seconds = tonumber(ngx.var.arg_seconds) or 0
    ngx.update_time()
    local until_ = ngx.now() + seconds
    repeat
        ngx.update_time()
    until ngx.now() >= until_

    ngx.header.content_length = 2
    ngx.print("ok")
end


function _M.stats()
    local s = thumbnail:stats()
    local lines = {
        fmt("calls %d, ok %d, running %d, queued %d",
            s.calls, s.ok, s.running, s.queued),
    }
    for _, name in ipairs{ "queue_time", "run_time", "total_time" } do
        local t = s[name]
        lines[#lines + 1] = fmt("%s mean %.6f p50 %.6f p99 %.6f max %.6f s",
                                name, t.mean, t.p50, t.p99, t.max)
    end

    local text = table.concat(lines, "\n") .. "\n"
    ngx.header.content_length = #text
    ngx.print(text)
end


return _M
