-- Loading: which runtimes there are in this VM, and making new ones.

local base = require "resty.nonblocking_ffi.core.base"
local cdefs = require "resty.nonblocking_ffi.core.cdefs"
local channel = require "resty.nonblocking_ffi.core.channel"
local client = require "resty.nonblocking_ffi.core.client"
local codec = require "resty.nonblocking_ffi.lua.codec"
local lifecycle = require "resty.nonblocking_ffi.lifecycle"
local options = require "resty.nonblocking_ffi.core.options"
local phase = require "resty.nonblocking_ffi.core.phase"
local pools = require "resty.nonblocking_ffi.core.pool"
local runtime = require "resty.nonblocking_ffi.runtime"
local slots = require "resty.nonblocking_ffi.core.slots"
local wait = require "resty.nonblocking_ffi.core.wait"
local waiting = require "resty.nonblocking_ffi.core.waiter"

local can_yield = phase.can_yield
local clock = base.clock
local error = error
local fingerprint = codec.fingerprint
local format = string.format
local pairs = pairs
local pcall = pcall
local post_control = slots.post_control
local register = slots.register
local text = base.text
local texts = base.texts
local type = type

local CANNOT_YIELD = phase.CANNOT_YIELD
local LACK = base.LACK
local NO_MEMORY = cdefs.NO_MEMORY
local TIMEOUT = cdefs.TIMEOUT

-- Options that every language has. `runtime` is the old name of `language`.
local COMMON = {
    "language", "runtime", "name", "pool", "on_full", "timeout", "max_response",
}
-- For each language, a module of:
--   options  rules for its own options, see options.schema
--   missing  optional: function(given), what is missing in the options
-- and either, for a plugin with the plugin ABI:
--   prepare  function(given) -> { library = path, entry = symbol,
--            config = string, name = default name, tried = optional: where the
--            library was not found } or nil and an error
-- or, for a runtime that is made in another way:
--   name     function(given) -> default name
--   make     function(given, name, pool) -> pointer and fields of the
--            runtime, or nil and an error. A field `tried` is as above
--   class    the runtime's class
-- All are required here: later there may be no descriptor to read a file with.
local LANGUAGES = {
    c = require "resty.nonblocking_ffi.languages.c",
    lua = require "resty.nonblocking_ffi.languages.lua",
    python = require "resty.nonblocking_ffi.languages.python",
    java = require "resty.nonblocking_ffi.languages.java",
    go = require "resty.nonblocking_ffi.languages.go",
}
local NAMES = [["c", "lua", "python", "java" or "go"]]

-- How long load may take where it blocks the worker: in init_worker.
local BLOCKING_LOAD = 60


local _M = {}


-- Runtimes that are loaded or being loaded, by their arguments ...
local by_arguments = {}
-- ... and by name.
local by_name = {}

-- Before the worker exits: the plugins of idle runtimes are closed.
client.before_exit(function()
    for _, self in pairs(by_arguments) do
        if not self.loading
           and base.C.nbffi_runtime_in_flight(self.ptr) == 0
        then
            post_control(self.ptr, true)
        end
    end
end)


-- The name of a runtime, made unique if it was not given.
local function name_for(given, default)
    if given.name then
        if by_name[given.name] then
            return nil, "a runtime named \"" .. given.name .. "\" is loaded "
                        .. "already, with other arguments"
        end
        return given.name
    end
    local name, number = default, 1
    while by_name[name] do
        number = number + 1
        name = format("%s-%d", default, number)
    end
    return name
end


-- A plugin's runtime, not yet initialised.
local function make_plugin(plugin, given, name, pool)
    local ptr = base.C.nbffi_runtime_new_c(base.client, pool.ptr, text(name),
        text(plugin.library), text(plugin.entry), text(plugin.config),
        options.get(given, "max_response"), base.error_buffer())
    if ptr == nil then
        return nil, base.error_text()
    end
    return ptr, {}
end


-- Called when the initialisation of a runtime has ended.
local function loaded(self, waiter)
    self.loading = nil
    if waiter.err then
        -- A runtime that cannot be loaded is not there at all.
        self.forget()
        lifecycle.free(self)
        waiter.err = waiter.message or waiter.err
        if self.tried then
            waiter.err = waiter.err .. "; not in package.cpath either:"
                         .. self.tried
        end
    end
end


-- Makes a runtime known, as one that is being loaded.
local function enter(self, arguments)
    local waiter = waiting.fresh(clock() + self.timeout)
    waiter.callback = function() loaded(self, waiter) end
    self.loading = waiter
    by_arguments[arguments] = self
    by_name[self.name] = self
end


-- Makes a runtime and posts its initialisation. Returns it, or nil and an
-- error.
local function begin_load(language, given, arguments)
    local plugin, name, pool, err
    if language.prepare then
        plugin, err = language.prepare(given)
        if not plugin then
            return nil, err
        end
    end
    name, err = name_for(given, plugin and plugin.name or not plugin
                                and language.name(given))
    if not name then
        return nil, err
    end
    pool, err = pools.obtain(given.pool or plugin and plugin.pool or "default")
    if not pool then
        return nil, err
    end
    local ptr, fields
    if plugin then
        ptr, fields = make_plugin(plugin, given, name, pool)
    else
        ptr, fields = language.make(given, name, pool)
    end
    if not ptr then
        return nil, fields
    end
    fields.name = name
    fields.ptr = ptr
    fields.pool = pool
    fields.timeout = options.get(given, "timeout")
    fields.waits = options.get(given, "on_full") == "wait"
    fields.forget = function()
        by_arguments[arguments] = nil
        by_name[name] = nil
    end
    fields.tried = plugin and plugin.tried or fields.tried
    local self = (language.class or runtime).new(fields)
    local entered
    entered, err = pcall(enter, self, arguments)
    local id = entered and post_control(ptr, false) or -NO_MEMORY
    if id < 0 then
        self.forget()
        lifecycle.free(self)
        if not entered and err ~= LACK then
            error(err, 0)
        end
        return nil, texts[-id]
    end
    register(id, self.loading)
    return self
end


-- The language that the options name: the name, and its module. Raises errors
-- for the caller of `load`.
local function find_language(given)
    if type(given) ~= "table" then
        error("load: a table of options expected, got " .. type(given), 4)
    end
    local name, old = given.language, given.runtime
    if name ~= nil and old ~= nil and name ~= old then
        error(format("load: language is %s, but runtime, its old name, is %s",
                     options.quote(name), options.quote(old)), 4)
    end
    if name == nil then
        name = old
    end
    if name == nil then
        error("load: language is missing: it must be " .. NAMES, 4)
    end
    if not LANGUAGES[name] then
        error(format("load: language must be %s, got %s", NAMES,
                     options.quote(name)), 4)
    end
    return name, LANGUAGES[name]
end


-- The schemas of the options of each language, by its module.
local schemas = {}


-- The options in `given`, with the old name of `language` replaced; and the
-- module of the language. Raises errors for the caller of `load`.
local function read_options(given, language)
    local name
    if not language then
        name, language = find_language(given)
    end
    schemas[language] = schemas[language]
                        or options.schema(COMMON, language.options)
    given = options.read("load", given, schemas[language], 3)
    given.language, given.runtime = name, nil
    return given, language
end


-- Loads a runtime; see nonblocking_ffi.lua. `language` is the module of one
-- that users cannot name: its runtimes are loaded without yielding, in any
-- phase.
function _M.load(given, language)
    local blocks = language or phase.is_init_worker()
    given, language = read_options(given, language)
    local missing = language.missing and language.missing(given)
    if missing then
        error("load: " .. missing, 2)
    end
    if given.on_full == "inline" and not language.make then
        error("load: on_full = \"inline\" is for Lua functions: the event "
              .. "loop can run nothing else", 2)
    end
    if phase.is_init() then
        return nil, "load must not be called in init_by_lua: threads do not "
                    .. "survive the fork of workers; call it in "
                    .. "init_worker_by_lua or later"
    end
    local arguments = fingerprint(given)
    local self = by_arguments[arguments]
    if self and not self.loading then
        return self
    end
    if not blocks and not can_yield() then
        return nil, CANNOT_YIELD
    end

    local ok, err = client.open()
    if not ok then
        return nil, err
    end
    if not self then
        self, err = begin_load(language, given, arguments)
        if not self then
            return nil, err
        end
    end
    local waiter = self.loading
    if blocks then
        ok = channel.block(waiter, BLOCKING_LOAD)
        channel.start()
    else
        ok, err = wait(waiter, self.timeout, clock() + self.timeout)
    end
    if not ok then
        return nil, err or texts[TIMEOUT]
    end
    if waiter.err then
        return nil, waiter.err
    end
    return self
end


local RUN_OPTIONS = options.schema { "timeout", "priority", "key", "pool" }


-- Calls a function of a Lua module; see nonblocking_ffi.lua.
function _M.run(module, func, ...)
    local target = func
    local pool
    if type(module) == "table" then
        local opts = options.read("run", module, RUN_OPTIONS, 2, true)
        pool = opts.pool
        opts.pool = nil
        opts[1] = func
        target = opts
        module = module[1]
    end
    if type(module) ~= "string" or module == "" then
        error("run: the name of a module expected, got "
              .. options.quote(module), 2)
    end
    if type(func) ~= "string" then
        error("run: the name of a function expected, got "
              .. options.quote(func), 2)
    end
    local self, err = _M.load { language = "lua", module = module, pool = pool }
    if not self then
        return nil, err
    end
    return self:call(target, ...)
end


-- Statistics of all runtimes, by name.
function _M.all_stats()
    local all = {}
    for name, self in pairs(by_name) do
        all[name] = self:stats()
    end
    return all
end


return _M
