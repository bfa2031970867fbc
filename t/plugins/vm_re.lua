-- Random cases for ngx.re and the library "ngx.re", run in a VM and in the
-- event loop. Patterns are such as PCRE and PCRE2 agree on.

local vm_ngx = require "vm_ngx"

local concat = table.concat
local random = math.random


local _M = { run = vm_ngx.run, value = vm_ngx.value, call = vm_ngx.call }


local ATOMS = {
    "a", "b", "c", "1", ".", "\\w", "\\d", "\\s", "[ab]", "[^a]", "\\b", "^",
    "$", "é", "\\x41", "[[:alpha:]]", "(?:ab|c)", "", "\\A", "\\z", "\\Q+\\E",
    "\\h", "A", " ", "\\n",
}
local QUANTIFIERS = {
    "", "", "", "", "*", "+", "?", "{1,2}", "*?", "+?", "{2}",
}
local LETTERS = { "a", "b", "c", "A", "1", "é", " ", "\n", "+", "ab", "x" }
local REPLACEMENTS = {
    "", "x", "$0", "[$1]", "${1}2", "$$", "$9", "$1$2", "a$0b${0}c", "$10",
}


local function pick(list)
    return list[random(#list)]
end


local function pattern(depth)
    local parts = {}
    for i = 1, random(3) do
        local kind = depth > 0 and random(12) or 12
        if kind <= 2 then
            parts[i] = "(" .. pattern(depth - 1) .. ")" .. pick(QUANTIFIERS)
        elseif kind == 3 then
            parts[i] = "(?<" .. pick { "x", "y" } .. i .. depth .. ">"
                       .. pattern(depth - 1) .. ")"
        elseif kind == 4 then
            parts[i] = "(?:" .. pattern(depth - 1) .. "|" .. pattern(depth - 1)
                       .. ")" .. pick(QUANTIFIERS)
        elseif kind == 5 then
            parts[i] = pick { "(?!a)", "(?<=a)", "(?<!b)", "(?i)" }
        else
            parts[i] = pick(ATOMS) .. pick(QUANTIFIERS)
        end
    end
    return concat(parts)
end


local function subject()
    local parts = {}
    for i = 1, random(0, 12) do
        parts[i] = pick(LETTERS)
    end
    return concat(parts)
end


local function options()
    local parts = {}
    for letter in ("aijmosuUx"):gmatch(".") do
        if random(4) == 1 then
            parts[#parts + 1] = letter
        end
    end
    return #parts > 0 and concat(parts) or nil
end


local function counted(...)
    return { select("#", ...), ... }
end


-- What is compared, by name. Each returns all that a caller can see, the number
-- of results included.
local OPERATIONS = {
    match = function(text, regex, opts, pos)
        local ctx = pos and { pos = pos }
        local count, found, err = unpack(counted(ngx.re.match(text, regex,
                                                              opts, ctx)))
        return found, err, ctx and ctx.pos, count
    end,
    match_into = function(text, regex, opts)
        return ngx.re.match(text, regex, opts, nil, { "old", x = "old" })
    end,
    find = function(text, regex, opts, pos, nth)
        local ctx = pos and { pos = pos }
        local results = counted(ngx.re.find(text, regex, opts, ctx, nth))
        return results[2], results[4], results[3], ctx and ctx.pos, results[1]
    end,
    gmatch = function(text, regex, opts)
        local iterator, err = ngx.re.gmatch(text, regex, opts)
        if not iterator then
            return nil, err
        end
        local all = {}
        for i = 1, 40 do
            local results = counted(iterator())
            if not results[2] then
                -- Once more: it must have ended for good.
                return all, results[3], results[1], iterator()
            end
            all[i] = results
        end
        return all
    end,
    sub = function(text, regex, opts, _, _, replacement)
        return ngx.re.sub(text, regex, replacement, opts)
    end,
    gsub = function(text, regex, opts, _, _, replacement)
        return ngx.re.gsub(text, regex, replacement, opts)
    end,
    gsub_function = function(text, regex, opts)
        return ngx.re.gsub(text, regex, function(found)
            -- In here the same pattern may be used.
            ngx.re.find("zzz", regex, opts)
            return "<" .. found[0] .. tostring(found[1]) .. ">"
        end, opts)
    end,
    split = function(text, regex, opts, pos, limit)
        local ctx = pos and { pos = pos > 0 and pos or 1 }
        local results = counted(require("ngx.re").split(text, regex, opts, ctx,
                                                        limit))
        return results[2], results[3], ctx and ctx.pos, results[1]
    end,
}

local NAMES = {}
for name in pairs(OPERATIONS) do
    NAMES[#NAMES + 1] = name
end
table.sort(NAMES)


-- One operation: for vm_ngx.run.
function _M.operate(name, ...)
    return OPERATIONS[name](...)
end


-- So many random cases. With characters of several bytes, nginx fails on empty
-- matches, so these are only matched once.
function _M.cases(count)
    local cases = {}
    for i = 1, count do
        local name, opts, text = pick(NAMES), options(), subject()
        local pos = random(3) == 1 and random(-1, 8) or nil
        if opts and opts:find("[uU]") then
            if name ~= "match" and name ~= "find" then
                text = text:gsub("[\128-\255]", "")
            end
            pos = nil
        end
        cases[i] = { "vm_re:operate", n = 7, name, text, pattern(2), opts, pos,
                     random(2) == 1 and random(-1, 3) or nil,
                     pick(REPLACEMENTS) }
    end
    return cases
end


-- The words of an error depend on the version of PCRE, and so do its codes.
function _M.adapt(result)
    for i = 2, result.n do
        local value = result[i]
        if type(value) == "string" then
            if value:find("^pcre2?_compile%(%) failed: ") then
                result[i] = "cannot be compiled"
            elseif value:find("^pcre_exec%(%) failed: %-%d+$") then
                result[i] = "cannot be executed"
            end
        end
    end
end


-- Patterns compiled to machine code, so many of them, each used once.
function _M.use_patterns(count)
    for i = 1, count do
        ngx.re.find("x", "(?:ab|c" .. i .. ")+[a-z]{3}(foo|bar)*", "jo")
    end
    return count
end


-- The same, and then an endless loop that LuaJIT compiles.
function _M.use_patterns_for_ever(count)
    _M.use_patterns(count)
    while true do end
end


-- A loop that LuaJIT compiles while matching is quick, and that then spends its
-- time in PCRE2: each further letter doubles it, up to the match limit.
function _M.match_for_ever(opts, letters)
    local texts, find, min = {}, ngx.re.find, math.min
    for i = 1, 999 do
        texts[i] = "a!"
    end
    texts[1000] = ("a"):rep(letters) .. "!"
    local i = 0
    while true do
        i = min(i + 1, 1000)
        find(texts[i], "(a+)+$", opts)
    end
end


-- The same, in one call.
function _M.gsub_for_ever()
    local text = (("a"):rep(20) .. "!"):rep(100000)
    return ngx.re.gsub(text, "(a+)+(?=!)(?!!)|!", "$0", "jo")
end


return _M
