-- The leaf of core/: the functions of the shared object and this VM's client,
-- once core/client.lua has opened them, and what goes with them. Requires no
-- other file of the library.

local ffi = require "ffi"

local ffi_cast = ffi.cast
local ffi_new = ffi.new
local ffi_string = ffi.string

local ERROR_BYTES = 4096


local _M = {
    -- set by `open`; `client` is nil again when the VM ends
    C = nil,
    client = nil,
    -- the path of the shared object
    path = nil,
    -- texts of the errors, by code
    texts = {},
    -- what LuaJIT raises when it has no memory
    LACK = "not enough memory",
}


local C
local error_bytes = ffi_new("char[?]", ERROR_BYTES)


-- Makes the shared object and the client known. `errors` is the number of error
-- codes.
function _M.open(functions, client, path, errors)
    C = functions
    _M.C = functions
    _M.client = client
    _M.path = path
    for code = 1, errors do
        _M.texts[code] = ffi_string(C.nbffi_error_text(code))
    end
end


-- The client ends: nobody may use it any more.
function _M.close()
    _M.client = nil
end


-- The clock of all deadlines, in seconds: that of the core. It is monotonic,
-- exact and never cached; ngx.now() is none of these.
function _M.clock()
    return C.nbffi_vm_monotonic()
end


-- A string as the C functions take it. The caller must keep the string alive
-- meanwhile.
function _M.text(value)
    return ffi_new("nbffi_text", value, #value)
end


-- A place where a C function writes an error.
function _M.error_buffer()
    return ffi_new("nbffi_buffer", error_bytes, ERROR_BYTES)
end


-- The error that a C function has written there.
function _M.error_text()
    return ffi_string(ffi_cast("const char *", error_bytes))
end


return _M
