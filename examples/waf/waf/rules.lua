-- Reads files of rules; README.md has their format.

local error = error
local find = string.find
local format = string.format
local gmatch = string.gmatch
local io_lines = io.lines
local io_open = io.open
local match = string.match
local ngx_find = ngx.re.find
local tonumber = tonumber


local _M = {
    -- How ngx.re is to match: compiled to machine code, once; `^` and `$` are
    -- the ends of each text.
    OPTIONS = "jom",
}


local PARTS = {
    path = true, args = true, cookies = true, headers = true, body = true,
    raw = true,
}
local FORMS = { text = true, shell = true }


-- The words of a line as a list. Each must be one of `allowed`.
local function words(line, allowed, fail)
    local list = {}
    for word in gmatch(line, "%S+") do
        if not allowed[word] then
            fail("unknown word \"" .. word .. "\"")
        end
        list[#list + 1] = word
    end
    if #list == 0 then
        fail("a word is missing")
    end
    return list
end


-- What lines within a rule mean, by their first character.
local LINES = {
    ["@"] = function(rule, text, fail)
        rule.parts = words(text, PARTS, fail)
    end,
    ["~"] = function(rule, text, fail)
        rule.form = words(text, FORMS, fail)[1]
    end,
    ["="] = function(rule, text)
        rule.pattern = (rule.pattern or "") .. text
    end,
    ["?"] = function(rule, text)
        rule.attacks[#rule.attacks + 1] = text
    end,
    ["!"] = function(rule, text)
        rule.harmless[#rule.harmless + 1] = text
    end,
}


-- What lines above the rules mean, by their first word.
local HEADINGS = {
    group = function(group, text)
        group.name = text
    end,
    parts = function(group, text, fail)
        group.parts = words(text, PARTS, fail)
    end,
    form = function(group, text, fail)
        group.form = words(text, FORMS, fail)[1]
    end,
}


-- What is wrong with a rule, or nil.
local function fault(rule)
    if not rule.pattern then
        return "no pattern"
    end
    if #rule.attacks == 0 then
        return "no attack that it is to find"
    end
    local _, _, err = ngx_find("", rule.pattern, _M.OPTIONS)
    return err
end


-- Adds the rules of a file to a list. `seen` has the rules so far, by id.
-- Raises an error that names file and line.
local function read_file(path, list, seen)
    local number = 0
    local function fail(what)
        error(format("%s:%d: %s", path, number, what), 0)
    end
    local file, err = io_open(path)
    if not file then
        fail(err)
    end
    file:close()
    local group = { form = "text" }
    local rule
    local function finish()
        local wrong = rule and fault(rule)
        if wrong then
            fail("the rule above, " .. rule.id .. ": " .. wrong)
        end
    end

    for line in io_lines(path) do
        number = number + 1
        local mark, text = match(line, "^([@~=?!]) (.*)$")
        local id, score, what = match(line, "^(%d+) (%d+) (.+)$")
        local heading, value = match(line, "^(%a+) (.+)$")
        if id then
            finish()
            if not (group.name and group.parts) then
                fail("group or parts are missing above the first rule")
            end
            rule = {
                id = tonumber(id), score = tonumber(score), what = what,
                group = group.name, parts = group.parts, form = group.form,
                attacks = {}, harmless = {},
            }
            if seen[rule.id] then
                fail("rule " .. id .. " exists already")
            end
            seen[rule.id] = rule
            list[#list + 1] = rule
        elseif mark and rule then
            LINES[mark](rule, text, fail)
        elseif heading and HEADINGS[heading] and not rule then
            HEADINGS[heading](group, value, fail)
        elseif find(line, "%S") and not find(line, "^#") then
            fail("not understood: " .. line)
        end
    end
    finish()
end


-- The rules of some files, as a list. A rule is a table:
--   id, score, what (in words), group
--   parts    names of the parts of a request that it looks at
--   form     "text" or "shell", see decode.lua
--   pattern  regular expression
--   attacks, harmless   texts that it must find, or must not
function _M.read(paths)
    local list, seen = {}, {}
    for i = 1, #paths do
        read_file(paths[i], list, seen)
    end
    return list
end


return _M
