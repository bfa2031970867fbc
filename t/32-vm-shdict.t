# ngx.shared in the VMs of Lua runtimes: the same dictionaries as everywhere.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    lua_shared_dict inside 1m;
    lua_shared_dict outside 1m;
    lua_shared_dict large 16m;

    init_by_lua_block {
        -- A runtime of t/plugins/vm_dict.lua, that module, and vm_ngx.lua.
        function vm_dict()
            local nbffi = require "resty.nonblocking_ffi"
            math.randomseed(32)
            assert(nbffi.pool("dict", { threads = 2 }))
            return assert(nbffi.load {
                language = "lua", module = "vm_dict", pool = "dict",
            }), require "vm_dict", require "vm_ngx"
        end
    }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3);
log_level('warn');
run_tests();

__DATA__

=== TEST 1: random operations on a dictionary inside and on one outside
--- lua
local rt, dict, t = vm_dict()
for _ = 1, 4 do
    ngx.say(t.compare(rt, dict.cases(3000), dict.adapt))
end
-- Both have come to the same.
local function content(name)
    local shared = ngx.shared[name]
    local all = {}
    for _, key in ipairs(shared:get_keys(0)) do
        local value, flags = shared:get(key)
        all[key] = { value, flags, shared:llen(key) }
    end
    return t.words(all)
end
ngx.say(#content("inside") > 20 and content("inside")
        == content("outside"))
--- response_body
equal
equal
equal
equal
true



=== TEST 2: VMs and the event loop see what the other does
--- lua
local rt = vm_dict()
local dict = ngx.shared.outside
local large = ("0123456789"):rep(1000)
dict:set("text", large, 0, 7)
dict:set("flag", true)
dict:rpush("list", "first")
ngx.say(rt:call("value", [[(function()
    local dict = ngx.shared.outside
    local text, flags = dict:get("text")
    dict:rpush("list", 2.5)
    dict:set("number", 42, 1000)
    return #text, flags, dict:get("flag"), dict:lpop("list"),
           dict:get("none")
end)()]]))
ngx.say(dict:llen("list"), " ", dict:lpop("list"), " ",
        dict:get("number"), " ", dict:ttl("number") > 900)
ngx.say(rt:call("value", "ngx.shared.outside:capacity()"), " ",
        rt:call("value", "ngx.shared.outside:free_space()")
        == dict:free_space())
ngx.say(rt:call("value", "ngx.shared.no_such"))
ngx.say(rt:call("value", [[(function()
    local names = {}
    for name in pairs(ngx.shared) do
        names[#names + 1] = name
    end
    table.sort(names)
    return table.concat(names, " ")
end)()]]))
--- response_body
100007truefirstnil
1 2.5 42 true
1048576 true
nil
inside large outside



=== TEST 3: what expires, and what is stale
--- lua
local rt = vm_dict()
-- Waits until a key has expired.
local function await(key)
    for _ = 1, 500 do
        ngx.sleep(0.01)
        local _, _, stale = rt:call("operate", "inside", "get_stale",
                                    key)
        if stale then
            return
        end
    end
end
-- In this order: a later set would remove what has expired.
rt:call("value", [[(function()
    ngx.shared.inside:set("long", "value", 1000)
    ngx.shared.inside:set("brief", "value", 0.01)
end)()]])
await "brief"
ngx.say(rt:call("operate", "inside", "get_stale", "brief"))
ngx.say(rt:call("operate", "inside", "get_stale", "long"))
ngx.say(rt:call("operate", "inside", "flush_expired"))
ngx.say(rt:call("operate", "inside", "get", "brief"))
ngx.say(rt:call("operate", "inside", "expire", "long", 0.01))
await "long"
ngx.say(rt:call("operate", "inside", "get_keys")[1])
ngx.say(rt:call("operate", "inside", "flush_expired", 5))
--- response_body
valueniltrue
valuenilfalse
1
nil
true
nil
1



=== TEST 4: misuse
--- lua
local rt, _, t = vm_dict()
local function both(expression)
    local code = "pcall(function() return " .. expression .. " end)"
    local here, there = { t.value(code) }, { rt:call("value", code) }
    local function clean(text)
        return (text:gsub("value:1: ", "")
                    :gsub('"[^" ]*/shdict%.lua:%d+: ', '"')
                    :gsub("#%d to '[^']*'", "# to '?'"))
    end
    local ours, theirs = clean(t.words(there)), clean(t.words(here))
    ngx.say(ours == theirs and "equal" or theirs .. " / " .. ours)
end
for _, expression in ipairs {
    "ngx.shared.inside.get(nil, 'x')", "ngx.shared.inside.get({}, 'x')",
    "ngx.shared.inside.lpush({}, 'x', 1)",
    "ngx.shared.inside:lpush('x')", "ngx.shared.inside:lpush({}, 1)",
    "ngx.shared.inside:get_keys('x')",
    "ngx.shared.inside:incr('x', 1, 'x')",
    "ngx.shared.inside:set('x', 1, -1)",
} do
    both(expression)
end
--- response_body
equal
equal
equal
equal
equal
equal
equal
equal



=== TEST 5: two VMs and the event loop at once
--- lua
local rt, dict = vm_dict()
local futures = {}
for i = 1, 20 do
    futures[i] = rt:submit("count", "large", 5000)
end
for i = 1, 20 do
    dict.count("large", 5000)
    ngx.sleep(0)
end
for i = 1, 20 do
    futures[i]:wait()
end
ngx.say(ngx.shared.large:get("count"))

for i = 1, 20 do
    futures[i] = rt:submit("shuffle", "large", 1000)
end
local pushed, popped = dict.shuffle("large", 1000)
for i = 1, 20 do
    local went_in, came_out = futures[i]:wait()
    pushed, popped = pushed + went_in, popped + came_out
end
ngx.say(pushed == popped, " ", ngx.shared.large:llen("list"))
--- response_body
200000
true 0



=== TEST 6: a VM that has no memory left does not keep a dictionary locked
--- lua
local nbffi = require "resty.nonblocking_ffi"
local dict = ngx.shared.large
for i = 1, 40000 do
    assert(dict:safe_set(("key"):rep(20) .. i, i))
end
local rt = assert(nbffi.load {
    language = "lua", module = "vm_dict", vm_max_memory = 3000000,
})
for _ = 1, 3 do
    local _, err = rt:call("keys", "large")
    ngx.say((err:match("^[^\n]*"):gsub(": .*: ", ": ")))
    -- If it were locked, this would never return.
    ngx.say(dict:get(("key"):rep(20) .. 1))
end
ngx.say(rt:stats().vm.replaced.memory > 0)

local roomy = assert(nbffi.load {
    language = "lua", module = "vm_dict", vm = "roomy",
})
ngx.say(roomy:call("keys", "large"))
--- response_body
runtime error: not enough memory
1
runtime error: not enough memory
1
runtime error: not enough memory
1
true
40000



=== TEST 7: an nginx without dictionaries
--- http_config eval
$::HttpConfig =~ s/^\s*lua_shared_dict.*\n//mgr
--- lua
local rt = vm_dict()
ngx.say(rt:call("value", "next(ngx.shared)"))
ngx.say(rt:call("value", "ngx.md5('')"))
ngx.say(rt:call("value", "type(require 'resty.core.shdict')"))
--- response_body
nil
d41d8cd98f00b204e9800998ecf8427e
table



=== TEST 8: keys expire while the event loop sleeps, and live as long as they should
--- lua
local rt = vm_dict()
local here = ngx.shared.inside
here:set("before", 1, 0.2)
-- Nothing happens in the event loop meanwhile.
local before, short, added, items, keys, began = rt:call_fn(function()
    local dict = ngx.shared.inside
    ngx.sleep(0.5)
    local before = dict:get("before")
    local began = ngx.now()
    dict:set("late", 2, 100)
    dict:set("short", 3, 0.2)
    ngx.sleep(0.3)
    local short = dict:get("short")
    local added = dict:add("short", 4)
    dict:rpush("list", "item")
    dict:expire("list", 0.2)
    ngx.sleep(0.3)
    return before, short, added, dict:llen("list"),
           #dict:get_keys(0), began
end)
ngx.say(before, " ", short, " ", added, " ", items, " ", keys)
-- By an old clock it would end half a second too early.
ngx.update_time()
local ends = ngx.now() + here:ttl("late")
ngx.say(ends > began + 100 - 0.02)
here:flush_all()
--- response_body
nil nil true 0 2
true
