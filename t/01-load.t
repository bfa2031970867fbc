# load: what it finds, what it refuses, and how it says so.

use lib '.';
use t::TestNbffi;

our $LuaPath = qq{
    lua_package_path "$ENV{TEST_NGINX_PWD}/lua/?.lua;$ENV{TEST_NGINX_PWD}/t/plugins/?.lua;;";
};

repeat_each(2);
plan tests => repeat_each() * ((blocks() * 3 + 2));
run_tests();

__DATA__

=== TEST 1: require does nothing
--- lua
local function threads()
    local status = io.open("/proc/self/status"):read("*a")
    return status:match("Threads:%s+(%d+)")
end
local before = threads()
local names = {}
for name in pairs(_G) do names[name] = true end

local nbffi = require "resty.nonblocking_ffi"

for name in pairs(_G) do
    if not names[name] then ngx.say("new global ", name) end
end
local maps = io.open("/proc/self/maps"):read("*a")
ngx.say(type(nbffi.load), " ", nbffi._VERSION)
ngx.say("threads: ", threads() - before)
ngx.say("core: ", maps:find("libnonblocking_ffi", 1, true))
--- response_body_like
(?-s)^function \d+\.\d+\.\d+
threads: 0
core: nil$



=== TEST 2: an absolute path; the same arguments give the same runtime
--- lua
local nbffi = require "resty.nonblocking_ffi"
local path = "$TEST_NGINX_PWD/target/examples/libecho.so"
local rt, err = nbffi.load { language = "c", library = path,
                             timeout = 5 }
ngx.say(rt and rt:call("hello"), " ", err)
ngx.say(rt == nbffi.load { timeout = 5, library = path,
                           language = "c" })
--- response_body
hello nil
true



=== TEST 3: other arguments give another runtime, with a name of its own
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function load(opts)
    opts.runtime, opts.library = "c", "verbs"
    return assert(nbffi.load(opts))
end
local a, b = load {}, load { config = "b" }
local c = load { config = "c", name = "third" }
ngx.say(a ~= b and b ~= c and a ~= c)
for _, rt in ipairs { a, b, c } do
    ngx.say(rt:call("name"), " ", rt:stats().name, " [",
            rt:call("config"), "]")
end
--- response_body
true
verbs verbs []
verbs-2 verbs-2 [b]
third third [c]



=== TEST 4: a bare name is looked for along package.cpath, with and without "lib"
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, name in ipairs { "echo", "libecho" } do
    local rt, err = nbffi.load { language = "c", library = name }
    ngx.say(name, ": ", rt and rt:call(name), " ", err)
end
--- response_body
echo: echo nil
libecho: libecho nil



=== TEST 5: one name for two different runtimes
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function load(config)
    return nbffi.load { language = "c", library = "verbs",
                        name = "mine", config = config }
end
assert(load("a"))
ngx.say(select(2, load("b")))
ngx.say(load("a"):call("config"))
--- response_body
a runtime named "mine" is loaded already, with other arguments
a



=== TEST 6: a library that is not there, or is none
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, library in ipairs { "/no/such/libx.so", "no-such-lib",
                           "/etc/passwd", "/tmp" } do
    local rt, err = nbffi.load { language = "c",
                                 library = library }
    ngx.say(rt, " ", err)
end
-- The worker is none the worse for it.
local rt = nbffi.load { language = "c", library = "echo" }
ngx.say(rt:call("alive"))
--- response_body_like
(?-s)^nil .*"/no/such/libx\.so".*No such file.*
nil .*"no-such-lib".*; not in package\.cpath either:
(\s*no file '.*'
)+nil .*"/etc/passwd".*
nil .*"/tmp".*
alive$



=== TEST 7: no entry function
--- lua
local nbffi = require "resty.nonblocking_ffi"
ngx.say(select(2, nbffi.load { language = "c",
                               library = "entries" }))
ngx.say(select(2, nbffi.load { language = "c",
                               library = "entries",
                               entry = "nothing_here" }))
local rt, err = nbffi.load { language = "c", library = "entries",
                             entry = "fine" }
ngx.say(rt and rt:call("works"), " ", err)
--- response_body_like
(?-s)^.*libentries\.so.* no plugin entry "nbffi_plugin_entry".*
.*libentries\.so.* no plugin entry "nothing_here".*
works nil$



=== TEST 8: another ABI: the error names both versions
--- lua
local nbffi = require "resty.nonblocking_ffi"
local inits = require("test_plugins").entries().inits
local before = inits()
for _, entry in ipairs { "newer_major", "older_major",
                         "newer_minor" } do
    local rt, err = nbffi.load { language = "c",
                                 library = "entries",
                                 entry = entry }
    ngx.say(rt, " ", err)
end
ngx.say("inits: ", inits() - before)
--- response_body_like
(?-s)^nil .*ABI version 2\.0.* host has 1\.3.*
nil .*ABI version 0\.9.* host has 1\.3.*
nil .*ABI version 1\.7.* host has 1\.3.*
inits: 0$



=== TEST 9: descriptors that are wrong; a larger one is fine
--- lua
local nbffi = require "resty.nonblocking_ffi"
local inits = require("test_plugins").entries().inits
local before = inits()
local function load(entry)
    return nbffi.load { language = "c", library = "entries",
                        entry = entry }
end
for _, entry in ipairs { "smaller", "flagged", "callless",
                         "refusing" } do
    ngx.say(entry, ": ", select(2, load(entry)))
end
ngx.say("inits: ", inits() - before)
ngx.say(load("larger"):call("fits"))
--- response_body_like
(?-s)^smaller: .*libentries.*descriptor.*
flagged: .*libentries.*flags 0x40.*
callless: .*libentries.*no call function.*
refusing: .*libentries.*refuses.*1\.3.*
inits: 0
fits$



=== TEST 10: init fails: with a message, without, with a very long one
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function load(entry)
    local rt, err = nbffi.load { language = "c", entry = entry,
                                 library = "entries",
                                 config = "m7" }
    return rt == nil and err or "loaded"
end
ngx.say(load("failing"))
ngx.say(load("silent"))
local err = load("verbose")
ngx.say(#err > 1000, " ", err:match("m+$") ~= nil)
--- response_body_like
(?-s)^.*libentries.*no such model: m7
.*libentries.* 42
true true$



=== TEST 11: a failed load is tried again by the next one
--- lua
local nbffi = require "resty.nonblocking_ffi"
local inits = require("test_plugins").entries().inits
local function load(entry, config)
    return nbffi.load { language = "c", entry = entry,
                        library = "entries", config = config }
end
local before = inits()
for _ = 1, 3 do load("failing", "x") end
ngx.say("tried: ", inits() - before)
if inits() % 2 == 1 then load("failing", "x") end

local config = tostring(before)
local rt, err = load("flaky", config)
ngx.say(rt, " ", err:match("not yet$"))
rt, err = load("flaky", config)
ngx.say(rt:call("here"), " ", err)
ngx.say(rt == load("flaky", config))
-- What failed left nothing behind.
local names = {}
for name in pairs(nbffi.stats().runtimes) do
    names[#names + 1] = name
end
ngx.say(#names == (before == 0 and 1 or 2))
--- response_body
tried: 3
nil not yet
here nil
true
true



=== TEST 12: the same runtime loaded by many light threads at a time: one init
--- lua
local nbffi = require "resty.nonblocking_ffi"
local inits = require("test_plugins").entries().inits
local before = inits()
local config = tostring(before)
local threads = {}
for i = 1, 20 do
    threads[i] = ngx.thread.spawn(function()
        return assert(nbffi.load { language = "c", entry = "fine",
                                   library = "entries",
                                   config = config })
    end)
end
local seen, different = {}, 0
for i = 1, 20 do
    local _, rt = ngx.thread.wait(threads[i])
    if not seen[rt] then
        seen[rt] = true
        different = different + 1
    end
end
ngx.say(different, " ", inits() - before)
--- response_body
1 1



=== TEST 13: misuse raises an error that blames the caller's line
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
local function try(options)
    ngx.say(blame("local nbffi = ...\nlocal rt = nbffi.load("
                  .. options .. ")\nreturn rt", nbffi))
end
try ""
try "'libecho.so'"
try "{ library = 'echo' }"
try "{ language = 'c' }"
try "{ language = 'c', library = 'echo', librari = 1 }"
try "{ language = 'c', library = 'echo', 7 }"
try "{ language = 'cobol', library = 'echo' }"
try "{ language = 'c', library = '' }"
try "{ language = 'c', library = 5 }"
try "{ language = 'c', library = 'echo', entry = true }"
try "{ language = 'c', library = 'echo', config = {} }"
try "{ language = 'c', library = 'echo', name = '' }"
try "{ language = 'c', library = 'echo', pool = 1 }"
try "{ language = 'c', library = 'echo', on_full = 'drop' }"
try "{ language = 'c', library = 'echo', timeout = 0 }"
try "{ language = 'c', library = 'echo', timeout = '1' }"
try "{ language = 'c', library = 'echo', timeout = 0/0 }"
try "{ language = 'c', library = 'echo', max_response = -1 }"
try "{ language = 'c', library = 'echo', threads = 2 }"
--- response_body_like
(?-s)^caller:2: load: a table of options expected, got nil
caller:2: load: a table of options expected, got string
caller:2: load: language is missing.*
caller:2: load: library is missing.*
caller:2: load: unknown option "librari" \(there are: config, entry, .*
caller:2: load: unknown option 1 .*
caller:2: load: language must be "c", "lua", "python", "java" or "go", got "cobol"
caller:2: load: library must be .*
caller:2: load: library must be .*
caller:2: load: entry must be .*
caller:2: load: config must be .*
caller:2: load: name must be .*
caller:2: load: pool must be .*
caller:2: load: on_full must be "error", "wait" or "inline", got "drop"
caller:2: load: timeout must be .*
caller:2: load: timeout must be .*
caller:2: load: timeout must be .*
caller:2: load: max_response must be .*
caller:2: load: unknown option "threads" .*$



=== TEST 14: NUL bytes where C strings cannot have them
--- lua
local nbffi = require "resty.nonblocking_ffi"
for _, key in ipairs { "name", "entry", "config", "library" } do
    local opts = { language = "c", library = "verbs" }
    opts[key] = "verbs\0verbs"
    local rt, err = nbffi.load(opts)
    ngx.say(key, ": ", rt, " ", type(err))
end
--- response_body
name: nil string
entry: nil string
config: nil string
library: nil string



=== TEST 15: a pool that nobody declared
--- lua
local nbffi = require "resty.nonblocking_ffi"
local pool = "nobody's " .. ngx.var.request_id
local rt, err = nbffi.load { language = "c", library = "echo",
                             pool = pool }
ngx.say(rt, " ", err)
assert(nbffi.pool(pool, { threads = 1 }))
rt, err = nbffi.load { language = "c", library = "echo",
                       pool = pool }
ngx.say(rt:call("now"), " ", err)
--- response_body_like
(?-s)^nil .*"nobody's [0-9a-f]+".*
now nil$



=== TEST 16: init_by_lua: refused, with a hint
--- http_config eval
q{
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local rt, err = nbffi.load { language = "c", library = "echo" }
        package.loaded.seen = tostring(rt) .. " " .. tostring(err)
    }
}
--- lua
ngx.say(package.loaded.seen)
local nbffi = require "resty.nonblocking_ffi"
ngx.say(nbffi.load({ language = "c", library = "echo" })
        :call("later"))
--- response_body_like
(?-s)^nil .*init_by_lua.*init_worker.*
later$



=== TEST 17: init_worker_by_lua: blocks until the plugin is ready
--- http_config eval
q{
    init_worker_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local inits = require("test_plugins").entries().inits
        local rt, err = nbffi.load { language = "c", library = "entries",
                                     entry = "fine" }
        local _, failure = nbffi.load { language = "c", library = "entries",
                                        entry = "failing", config = "w" }
        package.loaded.seen = { rt = rt, err = err, failure = failure,
                                inits = inits() }
    }
}
--- lua
local seen = require "seen"
local nbffi = require "resty.nonblocking_ffi"
ngx.say(seen.inits, " ", seen.err)
ngx.say(seen.failure)
ngx.say(seen.rt:call("served"))
ngx.say(seen.rt == nbffi.load { language = "c", entry = "fine",
                                library = "entries" })
--- response_body_like
(?-s)^2 nil
.*no such model: w
served
true$



=== TEST 18: phases that cannot yield: only what is loaded already
--- config
    location = /t {
        set_by_lua_block $in_set {
            local nbffi = require "resty.nonblocking_ffi"
            local rt, err = nbffi.load { language = "c", library = "verbs",
                                         config = ngx.var.request_id }
            return tostring(rt) .. " " .. tostring(err)
        }
        content_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local rt = assert(nbffi.load { language = "c", library = "echo" })
            ngx.ctx.rt = rt
            ngx.say("set: ", ngx.var.in_set)
        }
        header_filter_by_lua_block {
            local nbffi = require "resty.nonblocking_ffi"
            local rt, err = nbffi.load { language = "c", library = "verbs",
                                         config = ngx.var.request_id }
            ngx.header["X-New"] = tostring(rt) .. " " .. tostring(err)
            rt = nbffi.load { language = "c", library = "echo" }
            ngx.header["X-Loaded"] = tostring(rt == ngx.ctx.rt)
        }
    }
--- response_body
set: nil cannot yield in this phase
--- response_headers
X-New: nil cannot yield in this phase
X-Loaded: true



=== TEST 19: no core: the error lists every path that was tried
--- http_config eval
$::LuaPath . qq{
    lua_package_cpath "/nowhere/?.so;$ENV{TEST_NGINX_PWD}/t/?/x.so";
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, err = nbffi.load { language = "c", library = "echo" }
ngx.say(rt, " ", (err:gsub("\n", "|")))
ngx.say(type(nbffi.stats().runtimes))
--- response_body_like
(?-s)^nil .*/nowhere/libnonblocking_ffi\.so.*/t/libnonblocking_ffi/x\.so.*
table$



=== TEST 20: a core that is none
--- http_config eval
$::LuaPath . qq{
    lua_package_cpath "$ENV{TEST_NGINX_PWD}/target/test-plugins/libverbs.so";
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt, err = nbffi.load { language = "c", library = "echo" }
ngx.say(rt, " ", err)
--- response_body_like
(?-s)^nil .*libverbs\.so.*does not fit.*$



=== TEST 21: what options inherit counts like all else; what becomes of them later does not
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function inherit(own, from)
    return setmetatable(own, { __index = from })
end
local function echo(from)
    return nbffi.load(inherit({ language = "c" }, from))
end
local plain = { library = "echo", timeout = 7 }
local one = assert(echo(plain))
ngx.say(one.name, " ", one.timeout)
-- Equal, however it is said.
ngx.say(one == echo(function(_, key) return plain[key] end), " ",
        one == nbffi.load { language = "c", library = "echo",
                            timeout = 7 })
-- Different.
local other = assert(echo { library = "echo", timeout = 8 })
ngx.say(other == one, " ", other.timeout, " ", other.name)
local verbs = assert(echo { library = "verbs", timeout = 7 })
ngx.say(verbs:call("name"))
-- Numbers that differ in the last digit.
local a = assert(echo { library = "echo", max_response = 2^53 })
ngx.say(a == echo { library = "echo", max_response = 2^53 - 1 })
-- Bad ones are found there, too.
ngx.say(select(2, pcall(echo, { library = "echo", timeout = -1 })))
ngx.say(select(2, pcall(echo, { library = "echo", pool = {} })))
-- Per call.
local function call(opts)
    return one:call("tea", inherit({}, opts))
end
ngx.say(call { priority = "low" })
ngx.say(select(2, pcall(call, { priority = "none" })))
ngx.say(select(2, pcall(call, { timeout = {} })))
-- Other functions with options.
assert(nbffi.pool("small", inherit({}, { threads = 1 })))
ngx.say(select(2, nbffi.pool("small", { threads = 2 })))
local up = inherit({ "string" }, { pool = "small" })
ngx.say(nbffi.run(up, "upper", "tea"), " ", one.pool.name, " ",
        nbffi.stats().runtimes.string.pool)
-- Lists are copied.
local dirs = { "/tmp" }
assert(nbffi.setup(inherit({}, { socket_dirs = dirs })))
dirs[1] = 5
local defaults = require("resty.nonblocking_ffi.core.options").defaults
ngx.say(defaults.socket_dirs[1], " ", #defaults.socket_dirs)
ngx.say(select(2, pcall(nbffi.setup, { socket_dirs = {} })))
--- response_body
echo 7
true true
false 8 echo-2
verbs
false
load: timeout must be a positive number of seconds, got -1
load: pool must be a non-empty string, got table
tea
options: priority must be "high", "normal" or "low", got "none"
options: timeout must be a positive number of seconds, got table
pool "small" exists already, with threads = 1
TEA default small
/tmp 1
setup: socket_dirs must be a list of directories, got table



=== TEST 22: entries that are none: another library's functions, data, any function
--- lua
local nbffi = require "resty.nonblocking_ffi"
local entries = {
    -- of the C library, which this one is linked with
    "system", "abort", "exit", "malloc",
    -- its own: data, and functions that return something else
    "some_data", "returns_minus_one", "returns_seven",
    "returns_itself", "returns_text", "returns_zeros",
    "returns_end_of_memory",
}
for _, entry in ipairs(entries) do
    local rt, err = nbffi.load { language = "c", library = "entries",
                                 entry = entry }
    err = err:gsub('"/%S*/', '"'):gsub("/%S*/", "")
    ngx.say(rt, " ", (err:gsub("libc%.so%S*", "libc")))
end
local rt, err = nbffi.load { language = "go", library = "entries" }
ngx.say(rt, " ", err:match("has no plugin entry"))
ngx.say(assert(nbffi.load { language = "c", library = "entries",
                            entry = "fine" }):call("alive"))
--- response_body
nil library "libentries.so" has no plugin entry "system": libc has one, but it has none itself
nil library "libentries.so" has no plugin entry "abort": libc has one, but it has none itself
nil library "libentries.so" has no plugin entry "exit": libc has one, but it has none itself
nil library "libentries.so" has no plugin entry "malloc": libc has one, but it has none itself
nil library "libentries.so" has no plugin entry "some_data": it is data, not a function
nil library "libentries.so": "returns_minus_one" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil library "libentries.so": "returns_seven" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil library "libentries.so": "returns_itself" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil library "libentries.so": "returns_text" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil library "libentries.so": "returns_zeros" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil library "libentries.so": "returns_end_of_memory" is no plugin entry: it does not return a descriptor as nonblocking_ffi.h has it
nil has no plugin entry
alive



=== TEST 23: files that the dynamic linker would wait for, or die of
--- http_config eval
q{
    init_by_lua_block {
        os.execute("mkdir -p -m 777 " .. ngx.config.prefix() .. "logs/lib")
    }
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
local dir = ngx.config.prefix() .. "logs/lib/"
local source = io.open("$TEST_NGINX_PWD/target/examples/libecho.so",
                       "rb"):read("*a")
local function write(name, bytes)
    local file = assert(io.open(dir .. name, "wb"))
    file:write(bytes)
    file:close()
    return dir .. name
end
os.execute("mkfifo -m 666 " .. dir .. "fifo.so " .. dir .. "named.so")
local function load(library, runtime)
    local rt, err = nbffi.load { language = runtime or "c",
                                 library = library }
    return rt, (string.gsub(err or "", "^.*/", ""))
end
ngx.say(load(dir .. "fifo.so"))
ngx.say(load(dir .. "fifo.so", "go"))
-- Also where it is looked for by its name.
package.cpath = dir .. "?.so;" .. package.cpath
ngx.say(load("named"))
ngx.say(load("/dev/null"))
ngx.say(load(write("text.so", "no library\n")))
ngx.say(load(write("empty.so", "")))
ngx.say(load(write("machine.so", source:sub(1, 18) .. "\x2a\0"
                                 .. source:sub(21))))
ngx.say(load(write("bits.so", source:sub(1, 4) .. "\1"
                              .. source:sub(6))))
ngx.say(load("/bin/sh") == nil)
-- Cut anywhere: refused, or whole enough.
local refused = 0
for part = 1, 40 do
    local bytes = source:sub(1, math.floor(#source * part / 40))
    local rt = load(write("cut" .. part .. ".so", bytes))
    if not rt then
        refused = refused + 1
    else
        assert(rt:call("whole") == "whole")
    end
end
ngx.say(refused > 5, " ", refused < 40)
ngx.say(load(dir .. "cut3.so"))
--- response_body_like
^nilfifo\.so": it is a FIFO, not a file
nilfifo\.so": it is a FIFO, not a file
nilnamed\.so": it is a FIFO, not a file
nilnull": it is a device, not a file
niltext\.so": it is not an ELF file
nilempty\.so": it is not an ELF file
nilmachine\.so": it was built for another kind of machine
nilbits\.so": it was built for another kind of machine
true
true true
nilcut3\.so": it is cut short: there are \d+ bytes of it$
