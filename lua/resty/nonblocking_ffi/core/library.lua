-- Finding and opening shared objects.

local ffi = require "ffi"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"

local concat = table.concat
local find = string.find
local ffi_string = ffi.string
local gmatch = string.gmatch
local gsub = string.gsub
local package = package
local C = ffi.C


local NAME = "libnonblocking_ffi"
local R_OK = 4


ffi.cdef [[
int access(const char *path, int mode);
]]


local _M = {}


-- The path of the first file that package.cpath has for one of the names, or
-- nil and a list of what was tried. As package.searchpath, but that opens what
-- it finds, which for a FIFO would block nginx.
local function search(names)
    local tried = {}
    for i = 1, #names do
        local name = gsub(names[i], "%%", "%%%%")
        for template in gmatch(package.cpath, "[^;]+") do
            local path = gsub(template, "?", name)
            if C.access(path, R_OK) == 0 then
                return path
            end
            tried[#tried + 1] = "\n\tno file '" .. path .. "'"
        end
    end
    return nil, concat(tried)
end


-- Opens the core's shared object: ffi's namespace and the path, or nil and an
-- error that lists every path that was tried.
function _M.open_core()
    local path, tried = search { NAME }
    if not path then
        return nil, "cannot find " .. NAME .. ".so in package.cpath:" .. tried
    end

    local ok, lib = pcall(ffi.load, path)
    if not ok then
        return nil, "cannot load " .. path .. ": " .. tostring(lib)
    end

    local known, interface = pcall(function()
        return lib.nbffi_interface()
    end)
    if not known or interface ~= cdefs.INTERFACE then
        local version = known and ffi_string(lib.nbffi_version()) or "unknown"
        return nil, path .. " (version " .. version .. ") does not fit these"
                    .. " Lua files: install both from the same release"
    end
    return lib, path
end


-- The path of a plugin: as it is if it has a slash, else the file that
-- package.cpath has for `name` or `lib<name>`, else the name itself, for the
-- search of dlopen, and a list of what was tried.
function _M.plugin_path(name)
    if find(name, "/", 1, true) then
        return name
    end
    local path, tried = search { name, "lib" .. name }
    return path or name, tried
end


return _M
