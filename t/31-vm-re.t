# ngx.re and the library "ngx.re" in the VMs of Lua runtimes.

use lib '.';
use t::TestNbffi;

our $HttpConfig = q{
    init_by_lua_block {
        -- A runtime of t/plugins/vm_re.lua on one thread, that module, and
        -- vm_ngx.lua.
        function vm_re()
            local nbffi = require "resty.nonblocking_ffi"
            math.randomseed(31)
            assert(nbffi.pool("re", { threads = 1 }))
            return assert(nbffi.load {
                language = "lua", module = "vm_re", pool = "re",
            }), require "vm_re", require "vm_ngx"
        end
    }
};

repeat_each(1);
plan tests => repeat_each() * (blocks() * 3 + 2);
log_level('warn');
run_tests();

__DATA__

=== TEST 1: random patterns, options and subjects: as nginx's own
--- lua
local rt, re, t = vm_re()
for _ = 1, 5 do
    ngx.say(t.compare(rt, re.cases(4000), re.adapt))
end
--- response_body
equal
equal
equal
equal
equal



=== TEST 2: every option
--- lua
local rt, _, t = vm_re()
local cases = {}
for letter in ("adDijJmosuUx"):gmatch(".") do
    for _, case in ipairs {
        { "bab", "a" }, { "BAB", "a" }, { "b\na", "^a" },
        { "a\nb", "a.b" }, { "ab", " a b # c" }, { "é", "^.$" },
        { "ab", "a|ab" }, { "xa", "(?<n>b)?a" }, { "ab", "(?<n>a)(b)" },
    } do
        cases[#cases + 1] = { "ngx.re.match", n = 3, case[1], case[2],
                              letter }
        cases[#cases + 1] = { "ngx.re.match", n = 3, case[1], case[2],
                              letter .. "j" }
    end
end
for _, case in ipairs {
    { "ngx.re.match", n = 3, "ab", "(?<n>a)|(?<n>b)", "D" },
    { "ngx.re.match", n = 3, "ab", "(?<n>a)(?<n>b)", "D" },
    { "ngx.re.match", n = 3, "a", "(?<n>a)|(?<m>b)", "" },
    { "ngx.re.match", n = 3, "a", "[]|a", "J" },
    { "ngx.re.match", n = 3, 12, "\\d", "" },
    { "ngx.re.match", n = 2, nil, "n.l" },
    { "ngx.re.match", n = 3, "a", "a", "q" },
    { "ngx.re.gsub", n = 4, "a", "a", "b", "jq" },
    { "ngx.re.gmatch", n = 3, "a", "a", "?" },
    { "ngx.re.find", n = 5, "ab", "(a)(b)?", "", nil, 2 },
    { "ngx.re.find", n = 5, "ab", "(a)(b)?", "", nil, 3 },
    { "ngx.re.find", n = 5, "a", "(a)(b)?", "", nil, 2 },
    { "ngx.re.find", n = 4, "aXa", "a", "", { pos = 2 } },
    { "ngx.re.find", n = 4, "aXa", "a", "", { pos = -7 } },
    { "ngx.re.gsub", n = 3, "ab", "[ab]", 7 },
    { "ngx.re.sub", n = 3, "ab", "b", true },
} do
    cases[#cases + 1] = case
end
ngx.say(t.compare(rt, cases))
--- response_body
equal



=== TEST 3: errors of patterns and replacements
--- lua
local rt = vm_re()
local function compile(pattern)
    local found, err = rt:call("call", "ngx.re.match", "a", pattern)
    ngx.say(found, " ", (err:gsub("^pcre2?_compile", "PCRE")))
end
compile "a[b"
compile "a**b"
compile "(?<n>a)(?<n>b)"
local from, to, err = rt:call("call", "ngx.re.find", "a", "[b")
ngx.say(from, " ", to, " ", (err:gsub("^pcre2?_compile", "PCRE")))
ngx.say(rt:call("call", "ngx.re.gsub", "a", "a", "$x"))
ngx.say(rt:call("call", "ngx.re.gsub", "a", "a", "${1"))
ngx.say(rt:call("call", "ngx.re.sub", "a", "a", "x$"))
ngx.say(rt:call("call", "ngx.re.match", "a", "a", "", { pos = 3 }))
--- response_body
nil PCRE() failed: missing terminating ] for character class in "a[b"
nil PCRE() failed: quantifier does not follow a repeatable item in "a**b" at "*b"
nil PCRE() failed: two named subpatterns have the same name (PCRE2_DUPNAMES not set) in "(?<n>a)(?<n>b)" at "b)"
nil nil PCRE() failed: missing terminating ] for character class in "[b"
nilnilfailed to compile the replacement template
nilnilfailed to compile the replacement template
nilnilfailed to compile the replacement template
nilpcre_exec() failed: -33
--- error_log
attempt to use named capturing variable "x"
the closing bracket in "1" variable is missing
invalid capturing variable name found in "x$"



=== TEST 4: a pattern that backtracks without end fails
--- lua
local rt = vm_re()
local text = ("a"):rep(60) .. "!"
for _, opts in ipairs { "", "j", "o", "jo", "u" } do
    ngx.say(rt:call("call", "ngx.re.match", text, "(a+)+$", opts))
end
ngx.say(rt:call("call", "ngx.re.find", text, "(a+)+$", "jo"))
ngx.say(rt:call("call", "ngx.re.gsub", text, "(a+)+$", "x", "jo"))
ngx.say(rt:call("value", [[(function()
    local iterator = ngx.re.gmatch(("a"):rep(60) .. "!", "(a+)+$")
    local found, err = iterator()
    return found, err, iterator()
end)()]]))
-- Memory is limited too.
ngx.say(rt:call("call", "ngx.re.match", ("ab"):rep(500000), "(a|b)*"))
ngx.say(rt:call("call", "ngx.re.match", ("ab"):rep(500000), "(a|b)*",
                "jo"))
-- After all that, matching goes on.
ngx.say(rt:call("call", "ngx.re.find", "xab", "(a|b)*$", "jo"))
--- response_body
nilpcre_exec() failed: -47
nilpcre_exec() failed: -47
nilpcre_exec() failed: -47
nilpcre_exec() failed: -47
nilpcre_exec() failed: -47
nilnilpcre_exec() failed: -47
nilnilpcre_exec() failed: -47
nilpcre_exec() failed: -47nil
nilpcre_exec() failed: -63
nilpcre_exec() failed: -46
23



=== TEST 5: characters of several bytes, where nginx fails
--- lua
local rt = vm_re()
for _, opts in ipairs { "u", "ju", "U", "joU" } do
    ngx.say(rt:call("call", "ngx.re.gsub", "éà!", "x*", "-", opts))
end
ngx.say(rt:call("call", "ngx.re.gsub", "éà!", "(*UTF)x*", "-"))
ngx.say(rt:call("value", [[(function()
    local count = 0
    for found in ngx.re.gmatch("éà!", "", "ju") do
        count = count + 1
    end
    local text = ngx.re.gsub("éà!", "", function() return "." end, "u")
    return count, text
end)()]]))
ngx.say(table.concat(rt:call("call", "ngx.re:split", "éà!", "", "ju"),
                     ","))
-- What is no UTF-8 is an error, or matches nothing.
ngx.say(rt:call("call", "ngx.re.find", "a\255b", "b", "u") == nil)
ngx.say(rt:call("call", "ngx.re.find", "a\255b", "b", "U"))
ngx.say(rt:call("call", "ngx.re.find", "a\255b", "a.b", "jU"))
ngx.say(rt:call("call", "ngx.re.gsub", ("\195"):rep(1000), "(?<=.)x?",
                "", "jU") == ("\195"):rep(1000))
--- response_body
-é-à-!-4
-é-à-!-4
-é-à-!-4
-é-à-!-4
-é-à-!-4
4.é.à.!.
é,à,!
true
33
nil
true



=== TEST 6: replacements by functions
--- lua
local rt, _, t = vm_re()
-- Functions do not travel, so the same code runs on both sides.
local function both(code)
    local here = t.words { t.value(code) }
    local there = t.words { rt:call("value", code) }
    ngx.say(here == there and "equal" or here .. " " .. there)
end
for _, opts in ipairs { "", "o", "jo", "d", "D" } do
    both(string.format([[ngx.re.gsub("a1b22c", "(?<n>\\d+)",
        function(m) return "<" .. m[0] .. tostring(m[1])
                           .. type(m.n) .. ">" end, "%s")]], opts))
end
both [[ngx.re.sub("abc", "b", function() return 5 end)]]
both [[ngx.re.sub("abc", "b", function() return nil end)]]
both [[ngx.re.gsub("abc", "x", function() error("never") end)]]
-- The same pattern from within; nginx's own function does not end.
ngx.say(rt:call("value", [[ngx.re.gsub("aa", "a", function(m)
    return ngx.re.gsub("bab", "a", function() return "(" .. m[0] .. ")"
                       end, "jo")
end, "jo")]]))
ngx.say(rt:call("value", [[pcall(ngx.re.gsub, "abc", "b", function()
    error("from within", 0) end)]]))
ngx.say(rt:call("value", [[ngx.re.gsub("abc", "b", "$0$0")]]))
--- response_body
equal
equal
equal
equal
equal
equal
equal
equal
b(a)bb(a)b2
falsefrom within
abbc1



=== TEST 7: the compiled patterns that are kept are limited
--- http_config eval
qq{
    $::HttpConfig
    lua_regex_cache_max_entries 10;
}
--- lua
local rt = vm_re()
-- Finalizers count what was freed: of 1000 patterns, and as many
-- replacements, at most two times ten may be alive.
ngx.say(rt:call("value", [[(function()
    local ffi = require "ffi"
    local C = ffi.load(package.searchpath("libnonblocking_ffi",
                                          package.cpath))
    local made, freed = 0, 0
    local functions = setmetatable({
        nbffi_re_new = function(...)
            made = made + 1
            return C.nbffi_re_new(...)
        end,
        nbffi_re_free = function(re)
            freed = freed + 1
            C.nbffi_re_free(re)
        end,
    }, { __index = C })
    local re = require("resty.nonblocking_ffi.vm.re").new(functions, {
        regex_cache = 10, pcre2 = true,
    })
    for i = 1, 1000 do
        re.find("x", "x" .. i, "o")
    end
    collectgarbage()
    collectgarbage()
    local kept = made - freed
    -- The last ten are still there; the first is compiled again.
    made = 0
    for i = 991, 1000 do
        re.find("x", "x" .. i, "o")
    end
    local again = made
    re.find("x", "x1", "o")
    -- Without the option nothing is kept.
    made, freed = 0, 0
    for i = 1, 5 do
        re.find("x", "y", "")
        re.match("x", "y")
        re.gsub("x", "x", "y", "j")
    end
    return kept <= 20, kept >= 10, again, made, freed
end)()]]))
--- response_body
truetrue01515



=== TEST 8: a VM's patterns end with it, also if it cannot be closed
--- lua
local rt = vm_re()
-- KiB of memory with machine code that is no file's.
local function machine_code()
    local sum = 0
    for line in io.lines("/proc/self/maps") do
        local from, to, flags, file =
            line:match("^(%x+)%-(%x+) (%S+) %S+ %S+ %S+%s*(.*)$")
        if flags:find("x", 1, true) and file == "" then
            sum = sum + tonumber(to, 16) - tonumber(from, 16)
        end
    end
    return sum / 1024
end
local function stop_one()
    require("test_plugins").until_begun(rt, function()
        rt:call({ "use_patterns_for_ever", timeout = 0.3 }, 400)
    end)
end
stop_one()
ngx.say(rt:call("use_patterns", 1))
local before = machine_code()
for _ = 1, 5 do
    stop_one()
end
ngx.say(rt:call("use_patterns", 1))
-- 400 patterns are some 450 KiB.
local grown = machine_code() - before
ngx.say(grown < 5 * 200 and "bounded" or grown)
ngx.say(rt:stats().vm.replaced.stopped)
--- response_body
1
1
bounded
6



=== TEST 9: code that does nothing but match can be stopped
--- lua
local until_begun = require("test_plugins").until_begun
local rt = vm_re()
-- One match takes a millisecond; or tens of them, machine code of
-- PCRE2's most of the time.
for _, letters in ipairs { 20, 60 } do
    for _, opts in ipairs { "jo", "o", "jo" } do
        local err
        until_begun(rt, function()
            err = select(2, rt:call({ "match_for_ever", timeout = 0.1 },
                                    opts, letters))
        end)
        -- The only thread is back, and can match.
        ngx.say(err, " ", rt:call("call", "ngx.re.find", "ab", "b",
                                  "jo"))
    end
end
local err
until_begun(rt, function()
    err = select(2, rt:call({ "gsub_for_ever", timeout = 0.1 }))
end)
ngx.say(err, " ", rt:call("call", "ngx.re.find", "ab", "b", "jo"))
ngx.say(rt:stats().vm.replaced.stopped, " ", rt:stats().vm.stuck)
--- response_body
timeout 22
timeout 22
timeout 22
timeout 22
timeout 22
timeout 22
timeout 22
7 0



=== TEST 10: the library's options
--- lua
local rt = vm_re()
local text = ("ab"):rep(100000)
ngx.say(rt:call("call", "ngx.re.find", text, "(a|b)*", "jo"))
rt:call("call", "ngx.re:opt", "jit_stack_size", 64 * 1024 * 1024)
ngx.say(rt:call("call", "ngx.re.find", text, "(a|b)*", "jo"))
rt:call("call", "ngx.re:opt", "jit_stack_size", 1)
ngx.say(rt:call("call", "ngx.re.find", text, "(a|b)*", "jo"))
ngx.say(rt:call("value", "pcall(require('ngx.re').opt, 'no', 1)"))
ngx.say(rt:call("value", "pcall(require('ngx.re').split, '', '', '', "
                         .. "nil, 0, 7)"))
--- response_body
nilnilpcre_exec() failed: -46
1200000
nilnilpcre_exec() failed: -46
falseunrecognized option name
falseres is not a table



=== TEST 11: alternatives before a lazy repeat, which the JIT compiler of PCRE2 10.45 and 10.46 gets wrong
--- lua
local rt = vm_re()
local pattern = [[(?:curl|wget)[^\n;]{0,200}?;]]
for _, options in ipairs { "jo", "o", "j", "" } do
    ngx.say(rt:call("call", "ngx.re.find", "wget;", pattern, options))
end
--- response_body
15
15
15
15
