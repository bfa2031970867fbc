-- What the phases of nginx-lua allow.

local get_phase = ngx.get_phase


local _M = {}


-- Phases in which a coroutine may wait. A phase that is not known is taken for
-- one in which it may not.
local CAN_YIELD = {
    rewrite = true, server_rewrite = true, access = true, content = true,
    timer = true, preread = true, ssl_cert = true, ssl_session_fetch = true,
    ssl_client_hello = true,
}


_M.CANNOT_YIELD = "cannot yield in this phase"


function _M.can_yield()
    return CAN_YIELD[get_phase()]
end


function _M.is_init()
    return get_phase() == "init"
end


function _M.is_init_worker()
    return get_phase() == "init_worker"
end


return _M
