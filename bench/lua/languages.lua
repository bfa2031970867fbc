-- Echo in other languages: options of load, and the sockets of their rivals.
-- src/languages.rs puts the files into the folder, and starts the servers.

local pairs = pairs

local _M = {}

local OPTIONS = {
    go = { runtime = "go", library = "go_echo", entry = "echo" },
    ["go-goroutine"] = {
        runtime = "go", library = "go_echo", entry = "echo in a goroutine",
    },
    java = { runtime = "java", entry = "Echo#call" },
    ["java-buffer"] = { runtime = "java", entry = "Echo#buffer" },
    python = { runtime = "python", entry = "echo:echo" },
    ["python-async"] = { runtime = "python", entry = "echo:aecho" },
}

local SOCKETS = {
    ["socket-go"] = "go",
    ["socket-java"] = "java",
    ["socket-asyncio"] = "asyncio",
    ["socket-threads"] = "threads",
}

local folder, java_home


function _M.init(settings)
    folder = settings.folder
    java_home = settings.java_home
end


-- The options of load for a contender, or nil if it is none of these.
function _M.options(name)
    local given = OPTIONS[name]
    if not given then
        return nil
    end
    local options = { name = name }
    for key, value in pairs(given) do
        options[key] = value
    end
    if given.runtime == "java" then
        options.class_path = folder .. "/java"
        options.java_home = java_home
    elseif given.runtime == "python" then
        options.path = folder .. "/python"
    end
    return options
end


-- The address of a contender's server, or nil if it is none of these.
function _M.socket(name)
    local server = SOCKETS[name]
    return server and "unix:" .. folder .. "/" .. server .. ".sock"
end


return _M
