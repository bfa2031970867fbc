-- Compares the functions of `ngx` in a VM with those of the event loop. `run`
-- is called in both, with equal cases: { what, n = number of arguments, ... },
-- where `what` is "ngx.md5", or "ngx.base64:encode_base64url" for a library's.

local concat = table.concat
local format = string.format
local gsub = string.gsub
local pack = function(...) return { n = select("#", ...), ... } end
local random = math.random
local sort = table.sort


local _M = { pack = pack }


local function resolve(what)
    local library, path = what:match("^(.*):(.*)$")
    local value = library and require(library) or _G
    for name in (path or what):gmatch("[^.]+") do
        value = value[name]
    end
    return value
end


-- What each case returned: { n, true, results } or { n, false, error }.
function _M.run(cases)
    local results = {}
    for i = 1, #cases do
        local case = cases[i]
        results[i] = pack(pcall(resolve(case[1]), unpack(case, 2, case.n + 1)))
    end
    return results
end


-- A value in words: equal words for equal values.
local function words(value)
    if type(value) == "string" then
        return format("%q", value)
    end
    if type(value) ~= "table" then
        return value == ngx.null and "null" or tostring(value)
    end
    local parts = {}
    for key, item in next, value do
        parts[#parts + 1] = "[" .. words(key) .. "]=" .. words(item)
    end
    sort(parts)
    return "{" .. concat(parts, ",") .. "}"
end
_M.words = words


-- An error without its place, and without the function's name, which C
-- functions do not know if they are called by pcall.
local function normal(result)
    if result[1] == false and type(result[2]) == "string" then
        local text = gsub(result[2], "^[^ ]*:%d+: ", "")
        result[2] = gsub(text, "to '[^']*'", "to '?'")
    end
    return words(result)
end


-- Runs cases here and in a runtime's VM. Returns what differs in words, and
-- "equal" if nothing does. `adapt(result, case)` may change a result.
function _M.compare(rt, cases, adapt)
    local there, err = rt:call("run", cases)
    if not there then
        return err
    end
    local here = _M.run(cases)
    local wrong, count = {}, 0
    for i = 1, #cases do
        if adapt then
            adapt(here[i], cases[i])
            adapt(there[i], cases[i])
        end
        local ours, theirs = normal(there[i]), normal(here[i])
        if ours ~= theirs then
            count = count + 1
            wrong[#wrong + 1] = format("%s\n  nginx: %s\n  VM:    %s",
                                       words(cases[i]), theirs, ours)
        end
    end
    if count == 0 then
        return #cases > 0 and "equal" or "no cases"
    end
    return count .. " differ:\n" .. concat(wrong, "\n", 1, math.min(count, 5))
end


-- Bytes: any, or those of an alphabet.
function _M.bytes(max, alphabet)
    local parts = {}
    for i = 1, random(0, max) do
        local at = alphabet and random(#alphabet)
        parts[i] = at and alphabet:sub(at, at) or string.char(random(0, 255))
    end
    return concat(parts)
end


-- Mostly bytes, sometimes something else.
function _M.any()
    local kind = random(20)
    if kind == 1 then
        return nil
    elseif kind == 2 then
        return random(1000000)
    elseif kind == 3 then
        return random()
    elseif kind <= 5 then
        return kind == 4
    end
    return _M.bytes(70)
end


-- So many cases of a function, whose arguments `make` returns.
function _M.cases(what, count, make)
    local cases = {}
    for i = 1, count do
        local args = pack(make())
        cases[i] = { what, n = args.n, unpack(args, 1, args.n) }
    end
    return cases
end


-- Calls a function of `ngx`, or of a library, by its name.
function _M.call(what, ...)
    return resolve(what)(...)
end


-- The value of an expression.
function _M.value(expression)
    return assert(loadstring("return " .. expression, "=value"))()
end


return _M
