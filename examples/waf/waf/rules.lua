-- Reads files of rules; README.md has their format.
--
-- Those that are in force are kept in `ngx.shared.waf`, and taken from there: a
-- VM that starts while somebody edits the files has the rules of the others.

local concat = table.concat
local debug = debug
local error = error
local find = string.find
local format = string.format
local gmatch = string.gmatch
local gsub = string.gsub
local io_open = io.open
local match = string.match
local ngx = ngx
local ngx_find = ngx.re.find
local tonumber = tonumber


local FILES = {
    "sql", "script", "file", "shell", "code", "scanner", "protocol",
}


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


-- Adds the rules of a file's text to a list. `seen` has the rules so far, by
-- id. Raises an error that names file and line.
local function parse_file(path, content, list, seen)
    local number = 0
    local function fail(what)
        error(format("%s:%d: %s", path, number, what), 0)
    end
    local group = { form = "text" }
    local rule
    local function finish()
        local wrong = rule and fault(rule)
        if wrong then
            fail("the rule above, " .. rule.id .. ": " .. wrong)
        end
    end

    for line in gmatch(gsub(content, "\n$", "") .. "\n", "(.-)\n") do
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


-- Begins a file within the text of all, before its path.
local FILE = "\f"


-- The rules in a text of `read_files`, as a list. A rule is a table:
--   id, score, what (in words), group
--   parts    names of the parts of a request that it looks at
--   form     "text" or "shell", see decode.lua
--   pattern  regular expression
--   attacks, harmless   texts that it must find, or must not
local function parse(text)
    local list, seen = {}, {}
    local file = FILE .. "([^\n]*)\n([^" .. FILE .. "]*)"
    for path, content in gmatch(text, file) do
        parse_file(path, content, list, seen)
    end
    return list
end


local function read_files()
    local root = match(debug.getinfo(1, "S").source, "^@(.*)waf/rules%.lua$")
    local texts = {}
    for i = 1, #FILES do
        local path = root .. "rules/" .. FILES[i] .. ".rules"
        local file, err = io_open(path, "rb")
        if not file then
            error(err, 0)
        end
        texts[i] = FILE .. path .. "\n" .. gsub(file:read("*a"), FILE, " ")
        file:close()
    end
    return concat(texts)
end


-- syntax: count = rules.publish()
--
-- Puts the rules of the files in force, for all VMs that load them from now on.
-- Raises an error that names file and line where they are wrong; then nothing
-- changes.
function _M.publish()
    local text = read_files()
    local count = #parse(text)
    local ok, err = ngx.shared.waf:safe_set("rules", text)
    if not ok then
        error("no room for the rules in ngx.shared.waf: " .. err, 0)
    end
    return count
end


-- The rules in force, as a list.
function _M.in_force()
    local text = ngx.shared.waf:get("rules")
    return parse(text or error("no rules are published", 0))
end


return _M
