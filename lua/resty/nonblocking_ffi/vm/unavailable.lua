-- The parts of `ngx` that need a request or the event loop, and so are not in a
-- worker VM. They are there by name: functions that raise an error when called,
-- tables that raise one when used, so that a module may keep them in locals at
-- its top, and fails where it would use them.

local error = error
local format = string.format
local ipairs = ipairs
local package = package
local pairs = pairs
local rawset = rawset
local setmetatable = setmetatable


local _M = {}


local function fail(name)
    error(format("%s is not available in a pool thread's VM", name), 3)
end


local function raising(name)
    return function()
        fail(name)
    end
end


-- A table in which every access to a field raises.
local function closed(name)
    return setmetatable({}, {
        __index = function()
            fail(name)
        end,
        __newindex = function()
            fail(name)
        end,
        __call = function()
            fail(name)
        end,
    })
end


local FUNCTIONS = {
    "say", "print", "flush", "eof", "exit", "exec", "redirect",
    "send_headers", "throw_error", "on_abort", "get_raw_phase",
    "run_worker_thread", "is_request_aborted",
}

-- Values of the request; reading or writing one raises.
local VALUES = {
    is_subrequest = true, headers_sent = true, status = true,
}

-- Tables of which nothing can be used.
local CLOSED = { "ctx", "var", "header", "arg" }

-- Tables of functions.
local TABLES = {
    location = { "capture", "capture_multi" },
    thread = { "spawn", "wait", "kill" },
    timer = { "at", "every", "running_count", "pending_count" },
    socket = { "tcp", "udp", "stream", "connect" },
    resp = { "get_headers", "add_header", "set_status", "bypass_if_checks" },
    req = {
        "is_internal", "start_time", "http_version", "raw_header",
        "get_method", "set_method", "set_uri", "set_uri_args", "get_uri_args",
        "get_query_args", "get_post_args", "get_headers", "set_header",
        "clear_header", "read_body", "discard_body", "get_body_data",
        "get_body_file", "set_body_data", "set_body_file", "init_body",
        "append_body", "finish_body", "socket",
    },
}

-- Libraries of lua-resty-core for requests and the event loop ...
local CLOSED_MODULES = {
    "ngx.balancer", "ngx.ocsp", "ngx.pipe", "ngx.process", "ngx.req",
    "ngx.resp", "ngx.semaphore", "ngx.ssl", "ngx.ssl.clienthello",
    "ngx.ssl.proxysslcert", "ngx.ssl.proxysslverify", "ngx.ssl.session",
}

-- ... and the files that put its functions into `ngx`. They may be required;
-- what is available is there already.
local EMPTY_MODULES = {
    "resty.core", "resty.core.coroutine", "resty.core.ctx", "resty.core.exit",
    "resty.core.misc", "resty.core.ndk", "resty.core.param",
    "resty.core.phase", "resty.core.regex", "resty.core.request",
    "resty.core.response", "resty.core.socket", "resty.core.socket.tcp",
    "resty.core.var",
}


-- Sees to it that `require` does not load what must not run off the event loop.
function _M.guard_modules()
    for _, name in ipairs(CLOSED_MODULES) do
        package.preload[name] = function()
            error(format("module '%s' is not available in a pool thread's VM",
                         name), 0)
        end
    end
    for _, name in ipairs(EMPTY_MODULES) do
        package.preload[name] = function()
            return { version = require("resty.core.base").version }
        end
    end
end


-- Adds what is not available to the tables `ngx` and `ndk`.
function _M.install(ngx, ndk)
    for _, name in ipairs(FUNCTIONS) do
        ngx[name] = raising("ngx." .. name)
    end
    for _, name in ipairs(CLOSED) do
        ngx[name] = closed("ngx." .. name)
    end
    for name, functions in pairs(TABLES) do
        local members = {}
        for _, member in ipairs(functions) do
            members[member] = raising("ngx." .. name .. "." .. member)
        end
        ngx[name] = members
    end
    ndk.set_var = closed("ndk.set_var")

    setmetatable(ngx, {
        __index = function(_, name)
            if VALUES[name] then
                fail("ngx." .. name)
            end
        end,
        __newindex = function(self, name, value)
            if VALUES[name] then
                fail("ngx." .. name)
            end
            rawset(self, name, value)
        end,
    })
end


return _M
