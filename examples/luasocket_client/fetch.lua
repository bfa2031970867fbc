-- The event loop's side: what a client wants is fetched in the pool.

local nbffi = require "resty.nonblocking_ffi"

local find = string.find
local ngx = ngx
local tonumber = tonumber


local _M = {}


local RUNTIME = {
    language = "lua", module = "http_client", pool = "clients", timeout = 10,
}


-- To be called in init_by_lua. Threads that wait for the network need no core:
-- as many as there may be requests at a time.
function _M.init()
    nbffi.pool("clients", { threads = 4, max_queue = 100 })
end


-- To be called in init_worker_by_lua.
function _M.init_worker()
    local rt, err = nbffi.load(RUNTIME)
    if not rt then
        ngx.log(ngx.ERR, "fetch: ", err)
    end
end


local function fail(status, why)
    ngx.status = status
    ngx.say(why)
end


-- Content handler: /fetch/<path>?tenant=<name>. Calls of a tenant go to the
-- same thread while it is free, and so over the same connection.
function _M.serve()
    local rt, err = nbffi.load(RUNTIME)
    if not rt then
        return fail(500, err)
    end
    local tenant = ngx.var.arg_tenant
    local timeout = tonumber(ngx.var.arg_timeout) or 2
    local response
    response, err = rt:call(
        { "request", key = tenant ~= "" and tenant or nil },
        {
            url = "http://" .. ngx.var.backend .. "/" .. ngx.var.what,
            timeout = timeout,
        })
    if not response then
        return fail(find(err, "timeout", 1, true) and 504 or 502, err)
    end
    ngx.status = response.status
    ngx.header.content_type = response.headers["content-type"]
    ngx.header.content_length = #response.body
    ngx.header.x_requests = response.requests
    ngx.print(response.body)
end


return _M
