# setup and pool: defaults, conflicts, and the threads that come of it.

use lib '.';
use t::TestNbffi;

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 4);
run_tests();

__DATA__

=== TEST 1: setup changes the defaults of load
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        package.loaded.seen = nbffi.setup { timeout = 7,
                                            max_response = 10 }
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
local rt = assert(nbffi.load { language = "c", library = "verbs" })
local left = tonumber((rt:call("deadline")))
say(require "seen", left > 3 and left <= 7)
say(rt:call("size 11"))
-- What load is given goes first.
rt = assert(nbffi.load { language = "c", library = "verbs", timeout = 30,
                         max_response = 11 })
left = tonumber((rt:call("deadline")))
say(left > 15 and left <= 30, #rt:call("size 11"))
--- response_body
true true
nil response too large
true 11



=== TEST 2: setup changes the defaults of pools, those of "default" too
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        nbffi.setup { threads = 3, max_queue = 17, nice = 5 }
        assert(nbffi.pool("mine", { threads = 1 }))
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.load { language = "c", library = "echo" })
assert(nbffi.load { language = "c", library = "echo", pool = "mine" })
local pools = nbffi.stats().pools
ngx.say(pools.default.threads, " ", pools.default.max_queue)
ngx.say(pools.mine.threads, " ", pools.mine.max_queue)
--- response_body
3 17
1 17



=== TEST 3: setup's on_full
--- lua
local nbffi = require "resty.nonblocking_ffi"
local tp = require "test_plugins"
local gate = tp.gate()
nbffi.setup { on_full = "wait" }
nbffi.pool("small", { threads = 1, max_queue = 0 })
local function load(on_full)
    return assert(nbffi.load { language = "c", library = "gate",
                               pool = "small", on_full = on_full })
end
local waits, refuses = load(), load("error")
local first = waits:submit("hold x")
gate.has("started", 1)
local waiting = ngx.thread.spawn(function()
    return waits:call("note y")
end)
tp.say(refuses:call("note z"))
gate.open()
tp.say(first:wait(), select(2, ngx.thread.wait(waiting)))
--- response_body
nil queue overflow
x y



=== TEST 4: a default pool has as many threads as there are processors
--- lua
local nbffi = require "resty.nonblocking_ffi"
assert(nbffi.load { language = "c", library = "echo" })
local status = io.open("/proc/self/status"):read("*a")
local cpus = 0
for range in status:match("Cpus_allowed_list:%s+(%S+)"):gmatch("[^,]+") do
    local first, last = range:match("^(%d+)%-?(%d*)$")
    cpus = cpus + (tonumber(last) or first) - first + 1
end
local threads = nbffi.stats().pools.default.threads
ngx.say(threads >= 1 and threads <= cpus and "as expected" or threads)
--- response_body
as expected



=== TEST 5: pool: again, with the same and with other settings
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
say(nbffi.pool("p", { threads = 2, max_queue = 5 }))
say(nbffi.pool("p", { max_queue = 5, threads = 2 }))
say(nbffi.pool("p", { threads = 3, max_queue = 5 }))
say(nbffi.pool("p", { threads = 2, max_queue = 6 }))
say(nbffi.pool("p"))
say(nbffi.pool("q"))
say(nbffi.pool("q", {}))
local rt = assert(nbffi.load { language = "c", library = "echo",
                               pool = "p" })
say(rt:call("works"), rt:stats().pool)
say(nbffi.pool("p", { threads = 2, max_queue = 5 }))
say(nbffi.pool("p", { threads = 1, max_queue = 5 }))
--- response_body_like
(?-s)^true
true
nil pool "p" .*threads = 2
nil pool "p" .*max_queue = 5
nil pool "p" .*
true
true
works p
true
nil pool "p" .*threads = 2$



=== TEST 6: the default pool can be declared before it is used, not after
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
assert(nbffi.pool("early", { threads = 1 }))
assert(nbffi.load { language = "c", library = "echo", pool = "early" })
say(nbffi.pool("default", { threads = 1, max_queue = 3 }))
assert(nbffi.load { language = "c", library = "echo" })
local figures = nbffi.stats().pools.default
say(figures.threads, figures.max_queue)
say(nbffi.pool("default", { threads = 2 }))
--- response_body_like
(?-s)^true
1 3
nil pool "default" .*$



=== TEST 7: the default pool in use: declaring what it is anyway is no conflict
--- lua
local nbffi = require "resty.nonblocking_ffi"
local say = require("test_plugins").say
assert(nbffi.load { language = "c", library = "echo" })
say(nbffi.pool("default"))
say(nbffi.pool("default", { threads = 64 }))
--- response_body_like
(?-s)^true
nil pool "default" .*$



=== TEST 8: misuse of setup and pool blames the caller
--- lua
local nbffi = require "resty.nonblocking_ffi"
local blame = require("test_plugins").blame
for _, code in ipairs {
    "setup()", "setup(5)", "setup { timeuot = 1 }",
    "setup { timeout = 0 }", "setup { threads = 0 }",
    "setup { threads = 1.5 }", "setup { threads = 100000 }",
    "setup { max_queue = -1 }", "setup { nice = 20 }",
    "setup { nice = -1 }", "setup { on_full = 'drop' }",
    "setup { socket_dirs = '/tmp' }", "setup { socket_dirs = {} }",
    "setup { shutdown_timeout = -1 }", "setup { library = 'x' }",
    "pool()", "pool('')", "pool({})", "pool('p', 5)",
    "pool('p', { thread = 1 })", "pool('p', { threads = '1' })",
    "pool('p', { timeout = 1 })",
} do
    local err = blame("local nbffi = ...\nlocal ok = nbffi." .. code
                      .. "\nreturn ok", nbffi)
    local what = code:match("^%a+")
    if err:find("^caller:2: " .. what .. ": ") == nil then
        ngx.say(code, ": ", err)
    end
end
ngx.say(blame("local nbffi = ...\nlocal ok = nbffi.setup { nice = 20 }"
              .. "\nreturn ok", nbffi))
--- response_body
caller:2: setup: nice must be an integer from 0 to 19, got 20



=== TEST 9: threads: started on first use, named, cut where the name is long
--- lua
local nbffi = require "resty.nonblocking_ffi"
local function names_now()
    local all = {}
    local pipe = io.popen("cat /proc/" .. ngx.worker.pid()
                          .. "/task/*/comm")
    for name in pipe:lines() do
        if name:find("^nbffi/") then all[#all + 1] = name end
    end
    pipe:close()
    table.sort(all)
    return table.concat(all, ", "), #all
end
-- A thread names itself when it first runs.
local function names(count)
    local all, found
    repeat
        all, found = names_now()
    until found >= count
    return all
end
nbffi.pool("cpu", { threads = 2 })
nbffi.pool("a-very-long-name", { threads = 1 })
nbffi.pool("never", { threads = 1 })
ngx.say("[", names(0), "]")
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               pool = "cpu" })
ngx.say("[", names(2), "]")
assert(nbffi.load { language = "c", library = "verbs",
                    pool = "a-very-long-name" })
ngx.say("[", names(3), "]")
ngx.say((rt:call("thread")))
--- response_body_like
(?-s)^\[\]
\[nbffi/cpu/0, nbffi/cpu/1\]
\[nbffi/a-very-/0, nbffi/cpu/0, nbffi/cpu/1\]
nbffi/cpu/[01]$



=== TEST 10: no signal is blocked in pool threads, nor in nginx's
--- lua
local function mask(path)
    local file = io.open(path)
    if not file then return end
    local text = file:read("*a")
    file:close()
    return text:match("Name:%s+(%S+)"), text:match("SigBlk:%s+(%x+)")
end
local _, before = mask("/proc/self/status")
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("cpu", { threads = 3 })
local rt = assert(nbffi.load { language = "c", library = "verbs",
                               pool = "cpu" })
ngx.say((rt:call("signals")))
local _, after = mask("/proc/self/status")
ngx.say(before == after)
local function free()
    local pipe = io.popen("ls /proc/" .. ngx.worker.pid() .. "/task")
    local threads, free = 0, 0
    for task in pipe:lines() do
        local name, bits = mask("/proc/self/task/" .. task .. "/status")
        if name and name:find("^nbffi/cpu/") then
            threads = threads + 1
            if not bits:find("[^0]") then
                free = free + 1
            end
        end
    end
    pipe:close()
    return threads, free
end
-- A thread names itself when it first runs.
require("test_plugins").poll(function()
    return select(2, free()) == 3
end)
ngx.say(select(2, free()))
--- response_body
none blocked
true
3



=== TEST 11: nice: that of the pool's threads, not nginx's
--- lua
local nbffi = require "resty.nonblocking_ffi"
nbffi.pool("nice", { threads = 1, nice = 7 })
nbffi.pool("plain", { threads = 1, nice = 0 })
nbffi.pool("usual", { threads = 1 })
assert(nbffi.load { language = "c", library = "echo", pool = "nice" })
assert(nbffi.load { language = "c", library = "echo", pool = "plain" })
assert(nbffi.load { language = "c", library = "echo", pool = "usual" })
-- By a thread's name: its niceness, relative to the main thread's.
local function nice(path)
    local stat = io.open(path .. "/stat"):read("*a")
    local name, rest = stat:match("%((.-)%) (.*)$")
    local fields = {}
    for field in rest:gmatch("%S+") do fields[#fields + 1] = field end
    return name, tonumber(fields[17])
end
local _, base = nice("/proc/self")
local pipe = io.popen("ls /proc/" .. ngx.worker.pid() .. "/task")
local lines = {}
for task in pipe:lines() do
    local name, value = nice("/proc/self/task/" .. task)
    if name:find("^nbffi/") then
        lines[#lines + 1] = name .. " +" .. value - base
    end
end
pipe:close()
table.sort(lines)
ngx.say(table.concat(lines, "\n"))
--- response_body
nbffi/nice/0 +7
nbffi/plain/0 +0
nbffi/usual/0 +10



=== TEST 12: pools are declared in init_by_lua for every worker
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        package.loaded.seen = {
            nbffi.pool("mine", { threads = 1 }),
            nbffi.pool("mine", { threads = 2 }),
        }
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
local seen = require "seen"
ngx.say(seen[1], " ", seen[2])
local rt = assert(nbffi.load { language = "c", library = "echo",
                               pool = "mine" })
ngx.say(rt:call("here"), " ", nbffi.stats().pools.mine.threads)
--- response_body
true nil
here 1



=== TEST 13: socket_dirs: the first that works; nothing is left in it
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local dir = ngx.config.prefix() .. "logs/sockets"
        assert(require("test_plugins").sh("mkdir -p -m 777 " .. dir))
        nbffi.setup { socket_dirs = { "/no/such/dir", "/proc", dir,
                                      "/nor/this" } }
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(rt:submit("works"):wait())
local dir = ngx.config.prefix() .. "logs/sockets"
local pipe = io.popen("ls -A " .. dir .. "; stat -c %h " .. dir)
-- No file, and no folder but itself.
ngx.print(pipe:read("*a"))
pipe:close()
--- response_body
works
2



=== TEST 14: socket_dirs: without any, calls go on, more slowly
--- http_config
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        nbffi.setup { socket_dirs = { "/no/such/dir" } }
    }
--- lua
local nbffi = require "resty.nonblocking_ffi"
local gate = require("test_plugins").gate()
local rt = assert(nbffi.load { language = "c", library = "gate" })
local fut = rt:submit("hold x")
gate.has("started", 1)
gate.open()
ngx.say(fut:wait())
ngx.say(rt:call("note y"))
--- response_body
x
y
--- no_error_log
[alert]
--- error_log
no channel, polling
/no/such/dir



=== TEST 15: socket_dirs: names of any bytes but NUL
--- http_config eval
q{
    init_by_lua_block {
        local nbffi = require "resty.nonblocking_ffi"
        local dir = ngx.config.prefix() .. "logs/\255\254 \n \195\164"
        os.execute("mkdir -p -m 777 '" .. dir .. "'")
        nbffi.setup { socket_dirs = { "/no/such\255\ndir", dir, "/tmp" } }
        ok, err = pcall(nbffi.setup, { socket_dirs = { "/tmp\0/x" } })
    }
}
--- lua
local nbffi = require "resty.nonblocking_ffi"
local rt = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(rt:submit("works"):wait())
-- The folder was made in, and emptied.
local dir = ngx.config.prefix() .. "logs/\255\254 \n \195\164"
local pipe = io.popen("ls -A '" .. dir .. "'; stat -c '%h %Y %W' '"
                      .. dir .. "'")
local links, changed, made = pipe:read("*a"):match("^(%d+) (%d+) (%d+)")
pipe:close()
ngx.say(links)
ngx.say(ok, " ", (err:match("socket_dirs must be.*")))
--- response_body eval
"works\n2\nfalse socket_dirs must be a list of directories, got table\n"
--- no_error_log
no channel



=== TEST 16: no connections left for the channel: the log says so
--- http_config eval
"lua_socket_log_errors off;"
--- lua
local nbffi = require "resty.nonblocking_ffi"
local socks = {}
repeat
    local sock = ngx.socket.udp()
    socks[#socks + 1] = sock
until not sock:setpeername("127.0.0.1", 9)
-- Two for timers, none for the channel.
socks[1]:close()
socks[2]:close()
local rt = assert(nbffi.load { language = "c", library = "echo" })
ngx.say(rt:submit("works"):wait())
for i = 3, #socks - 1 do
    socks[i]:close()
end
--- response_body
works
--- error_log
no channel, polling: cannot connect the channel: nginx has no connection left for it: raise worker_connections
--- no_error_log
No such file
--- allowed_log_errors
worker_connections are not enough



=== TEST 17: no connection left for the drain's timer: calls go on, and it is tried again
--- http_config eval
"lua_socket_log_errors off;"
--- lua
local nbffi = require "resty.nonblocking_ffi"
-- The first timer of a worker keeps a connection.
assert(ngx.timer.at(3600, function() end))
local socks = {}
repeat
    local sock = ngx.socket.udp()
    socks[#socks + 1] = sock
until not sock:setpeername("127.0.0.1", 9)
local rt = assert(nbffi.load { language = "c", library = "echo",
                               timeout = 600 })
ngx.say(rt:call("one"))
ngx.say(rt:submit("two"):wait())
for i = 1, #socks - 1 do
    socks[i]:close()
end
-- Nobody polls for a cast: what it has to say is written by the drain.
local verbs = assert(nbffi.load { language = "c", library = "verbs" })
ngx.say(require("test_plugins").poll(function()
    assert(verbs:cast("log 6 for your notice"))
    ngx.sleep(0.1)
    local file = assert(io.open(ngx.config.prefix() .. "logs/error.log"))
    local text = file:read("*a")
    file:close()
    return text:find("for your notice", 1, true) ~= nil
end))
--- response_body
one
two
true
--- error_log
could not create fake connection
--- no_error_log
[crit]
--- allowed_log_errors
worker_connections are not enough
could not create fake connection
