-- What is odd about a request and no regular expression sees: rules that are
-- functions of its facts (see request.lua).

local find = string.find
local type = type


local METHODS = {
    GET = true, HEAD = true, POST = true, PUT = true, PATCH = true,
    DELETE = true, OPTIONS = true,
}

-- Headers that a request has at most once.
local SINGLE = {
    "host", "content-type", "content-length", "user-agent", "referer",
    "authorization", "transfer-encoding",
}

local MAX_ARGS = 255
local MAX_FIELDS = 1000


local checks = {}


local function check(id, score, what, holds)
    checks[#checks + 1] = {
        id = id, score = score, what = what, group = "checks", holds = holds,
    }
end


check(8001, 5, "a method that no application has", function(facts)
    return not METHODS[facts.method]
end)

check(8002, 2, "GET or HEAD with a body", function(facts)
    return facts.has_body
           and (facts.method == "GET" or facts.method == "HEAD")
end)

check(8003, 2, "a body of no type", function(facts)
    return facts.has_body and not facts.kind
end)

check(8004, 2, "no user agent", function(facts)
    local agent = facts.headers["user-agent"]
    return agent == nil or agent == ""
end)

check(8005, 3, "a great many arguments", function(facts)
    return facts.args > MAX_ARGS
end)

check(8006, 3, "a great many fields in a form", function(facts)
    return facts.fields ~= nil and facts.fields > MAX_FIELDS
end)

check(8007, 3, "a great many headers", function(facts)
    return facts.headers_cut == true
end)

check(8008, 4, "a header twice that is there once", function(facts)
    for i = 1, #SINGLE do
        if facts.repeated[SINGLE[i]] then
            return true
        end
    end
    return false
end)

check(8009, 3, "JSON that is none", function(facts)
    return facts.broken_json == true
end)

check(8010, 5, "a form with files, but no boundary", function(facts)
    return facts.no_boundary == true
end)

check(8011, 3, "a content type that is none", function(facts)
    local kind = facts.kind
    return type(kind) == "string"
           and not find(kind, "^%s*[%w+.-]+/[%w+.*-]+")
end)


return checks
