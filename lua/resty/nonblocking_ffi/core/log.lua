-- What plugins log, on its way to nginx's error log.

local ffi = require "ffi"
local errlog = require "ngx.errlog"
local base = require "resty.nonblocking_ffi.core.base"

local ffi_new = ffi.new
local ffi_string = ffi.string
local pcall = pcall
local raw_log = errlog.raw_log

local LINE_BYTES = 4096


local _M = {}


local line = ffi_new("char[?]", LINE_BYTES)


-- Lines more verbose than this are not wanted.
function _M.level()
    return errlog.get_sys_filter_level()
end


-- Writes the line that was taken with this level, and all behind it.
local function write(client, sink, level)
    local C = base.C
    while level ~= 0 do
        sink(level, ffi_string(line))
        level = C.nbffi_log_take(client, line, LINE_BYTES)
    end
end


-- Writes all lines that wait. Mostly there is none: that is checked without a
-- loop, so that LuaJIT can compile it into what calls this.
function _M.write()
    local client = base.client
    local level = base.C.nbffi_log_take(client, line, LINE_BYTES)
    if level ~= 0 then
        -- A line for which there is no memory is lost; the next one is written
        -- next time.
        pcall(write, client, raw_log, level)
    end
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


-- The same when the VM ends, after which `base` has no client.
function _M.write_at_end(client)
    write(client, log_at_end, base.C.nbffi_log_take(client, line, LINE_BYTES))
end


return _M
