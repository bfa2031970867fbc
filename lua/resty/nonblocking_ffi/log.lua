-- What plugins log, on its way to nginx's error log.

local ffi = require "ffi"
local errlog = require "ngx.errlog"

local ffi_string = ffi.string
local raw_log = errlog.raw_log


local _M = {}


-- Lines more verbose than this are not wanted.
function _M.level()
    return errlog.get_sys_filter_level()
end


local function write(C, client, line, buffer, sink)
    while true do
        local level = C.nbffi_log_take(client, buffer)
        if level == 0 then
            return
        end
        sink(level, ffi_string(line))
    end
end


-- Writes all lines that wait. `buffer` describes the memory at `line`.
function _M.write(C, client, line, buffer)
    write(C, client, line, buffer, raw_log)
end


-- errlog would write to the log of the last request, which is gone when the VM
-- ends.
local function log_at_end(level, text)
    if ngx.config.subsystem == "stream" then
        ffi.C.ngx_stream_lua_ffi_raw_log(nil, level, text, #text)
    else
        ffi.C.ngx_http_lua_ffi_raw_log(nil, level, text, #text)
    end
end


-- The same when the VM ends.
function _M.write_at_end(C, client, line, buffer)
    write(C, client, line, buffer, log_at_end)
end


return _M
