-- What the runtimes of Java and Python are configured with: named fields, each
-- `key:length:value` and a newline. runtimes/common reads them.

local sub = string.sub


local _M = {}


-- Adds a field to a list of them.
function _M.add(fields, key, value)
    fields[#fields + 1] = key .. ":" .. #value .. ":" .. value .. "\n"
end


-- A path relative to nginx's prefix: its working directory may be anything.
function _M.absolute(path)
    if sub(path, 1, 1) == "/" then
        return path
    end
    return ngx.config.prefix() .. path
end


return _M
