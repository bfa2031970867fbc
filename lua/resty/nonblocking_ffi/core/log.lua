-- What plugins log, on its way to nginx's error log.

local ffi = require "ffi"
local errlog = require "ngx.errlog"

local ffi_string = ffi.string
local pcall = pcall
local raw_log = errlog.raw_log


local _M = {}


-- Lines more verbose than this are not wanted.
function _M.level()
    return errlog.get_sys_filter_level()
end


-- Writes the line that was taken with this level, and all behind it.
local function write(C, client, line, size, sink, level)
    while level ~= 0 do
        sink(level, ffi_string(line))
        level = C.nbffi_log_take(client, line, size)
    end
end


-- Writes all lines that wait. `line` is memory of `size` bytes. Mostly there is
-- none: that is looked at without a loop, so that LuaJIT can compile it into
-- what calls this.
function _M.write(C, client, line, size)
    local level = C.nbffi_log_take(client, line, size)
    if level ~= 0 then
        -- A line for which there is no memory is lost; the next one is written
        -- next time.
        pcall(write, C, client, line, size, raw_log, level)
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


-- The same when the VM ends.
function _M.write_at_end(C, client, line, size)
    write(C, client, line, size, log_at_end,
          C.nbffi_log_take(client, line, size))
end


return _M
