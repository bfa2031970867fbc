-- How a Lua runtime's init code and module are loaded, in a VM of a pool thread
-- or in the event loop (on_full = "inline").

local error = error
local find = string.find
local format = string.format
local gmatch = string.gmatch
local loadstring = loadstring
local next = next
local package = package
local require = require
local sub = string.sub
local type = type

-- What `require` keeps in package.loaded for a module while it loads it, as it
-- does for this one now; and for ever, if that fails.
local LOADING = package.loaded[...]


local _M = {}


-- Lets modules that failed to load be loaded again when they are asked for
-- next: `require` would answer "loop or previous error", for ever. Not to be
-- called while one is being loaded.
function _M.forget_failed()
    for name, module in next, package.loaded do
        if module == LOADING then
            package.loaded[name] = nil
        end
    end
end


-- Runs init code: Lua code, or a module that is required. A name without a
-- blank, a quote or a bracket is a module's.
function _M.run(init)
    if not find(init, "[^%w_.%-/]") then
        require(init)
        return
    end
    local chunk, err = loadstring(init, "=init")
    if not chunk then
        error(err, 0)
    end
    chunk()
end


-- A module's function of a name. Raises an error if there is none.
function _M.find(module, module_name, name)
    local func
    if type(module) == "table" then
        func = module[name]
    end
    if func == nil then
        error(format("module \"%s\" has no function \"%s\"", module_name, name),
              0)
    end
    return func
end


-- Forgets a module, those below it, and the modules of a list, so that
-- `require` loads them again. Returns what was loaded, by name.
function _M.forget(module_name, modules)
    local names = { [module_name] = true }
    for i = 1, #modules do
        names[modules[i]] = true
    end
    local below = module_name .. "."
    local forgotten = {}
    for name, value in next, package.loaded do
        if names[name] or sub(name, 1, #below) == below then
            forgotten[name] = value
        end
    end
    for name in next, forgotten do
        package.loaded[name] = nil
    end
    return forgotten
end


-- The names in a text, one per line.
function _M.lines(text)
    local names = {}
    for name in gmatch(text, "[^\n]+") do
        names[#names + 1] = name
    end
    return names
end


return _M
