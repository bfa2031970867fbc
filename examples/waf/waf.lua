-- A web application firewall: hundreds of regular expressions over a request.
-- It runs in the VM of a pool thread, and as it is in the event loop.

local checks = require "waf.checks"
local decode = require "waf.decode"
local request_parts = require "waf.request"
local rules = require "waf.rules"

local find = ngx.re.find
local match = string.match
local OPTIONS = rules.OPTIONS
local pairs = pairs
local split = request_parts.split
local sub = string.sub


-- Bytes around a match that are reported.
local BEFORE, AFTER = 20, 60
-- Rules of which a report tells.
local MAX_REPORTED = 20


local _M = {
    -- Puts what the files say in force: see there.
    publish = rules.publish,
}


-- Who looks at what: a list of { part, form, rules }.
local function plan_of(list)
    local plan, known = {}, {}
    for i = 1, #list do
        local rule = list[i]
        for _, part in pairs(rule.parts) do
            local key = part .. " " .. rule.form
            local step = known[key]
            if not step then
                step = { part = part, form = rule.form, rules = {} }
                known[key] = step
                plan[#plan + 1] = step
            end
            step.rules[#step.rules + 1] = rule
        end
    end
    return plan
end


local list = rules.in_force()
local plan = plan_of(list)


-- The line of a match, cut to what is around it.
local function excerpt(subject, from, to)
    local start = from > BEFORE and from - BEFORE or 1
    local text = sub(subject, start, to + AFTER)
    local line = match(sub(text, 1, from - start), "[^\n]*$")
                 .. sub(text, from - start + 1)
    return match(line, "^[^\n]*")
end


local function report(found, rule, part, text)
    found.ids[rule.id] = true
    found.score = found.score + rule.score
    local hits = found.hits
    if #hits < MAX_REPORTED then
        hits[#hits + 1] = {
            id = rule.id, score = rule.score, group = rule.group,
            what = rule.what, part = part, text = text,
        }
    end
end


local function scan(subject, step, skip, found)
    local step_rules = step.rules
    for i = 1, #step_rules do
        local rule = step_rules[i]
        local from, to, err = find(subject, rule.pattern, OPTIONS)
        if (from or err) and not found.ids[rule.id] and not skip[rule.id] then
            -- A text that is too much work for a rule is as bad as one that
            -- it finds: somebody may be trying to get around it.
            report(found, rule, step.part, err or excerpt(subject, from, to))
        end
    end
end


local NOTHING = {}


-- syntax: score, hits = waf.inspect(request, skip?)
--
-- request  as for waf/request.lua
-- skip     set of rules' ids that do not count: { [1001] = true }
--
-- Returns the sum of the scores of all rules that found something, and unless
-- that is 0, a list of { id =, score =, group =, what =, part =, text = }.
function _M.inspect(request, skip)
    skip = skip or NOTHING
    local parts, facts = split(request)
    local found = { score = 0, ids = {}, hits = {} }
    local shell = {}
    for i = 1, #plan do
        local step = plan[i]
        local part = step.part
        local subject = parts[part]
        if subject ~= "" then
            if step.form == "shell" then
                shell[part] = shell[part] or decode.shell(subject)
                subject = shell[part]
            end
            scan(subject, step, skip, found)
        end
    end
    for i = 1, #checks do
        local check = checks[i]
        if not skip[check.id] and check.holds(facts) then
            report(found, check, "facts", "")
        end
    end
    if found.score == 0 then
        return 0
    end
    return found.score, found.hits
end


-- syntax: count, checks = waf.count()
--
-- How many rules there are, and checks beside.
function _M.count()
    return #list, #checks
end


-- syntax: failures = waf.selftest()
--
-- Holds each rule to the texts that its file says it finds, or does not find.
-- Returns a list of lines, one for each that is not so.
function _M.selftest()
    return require("waf.selftest")(list, _M.inspect)
end


return _M
