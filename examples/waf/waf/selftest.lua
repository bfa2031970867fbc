-- Holds each rule to the texts in its file.

local escape_uri = ngx.escape_uri
local format = string.format
local gsub = string.gsub
local lower = string.lower
local match = string.match
local rep = string.rep


local function repeated(text, count)
    return rep(text, tonumber(count))
end


-- Makes a request with a text in a part of it.
local BUILD = {
    path = function(request, text)
        request.target = match(text, "^/") and gsub(text, " ", "%%20")
                         or "/" .. escape_uri(text)
    end,
    args = function(request, text)
        request.target = "/?q=" .. escape_uri(text)
    end,
    raw = function(request, text)
        request.target = text
    end,
    cookies = function(request, text)
        request.headers.cookie = "q=" .. escape_uri(text)
    end,
    headers = function(request, text, only)
        local name, value = match(text, "^([^:]+): ?(.*)$")
        if only and name then
            request.headers[lower(name)] = value
        else
            request.headers["x-text"] = text
        end
    end,
    body = function(request, text)
        request.method = "POST"
        request.body = text
        request.headers["content-type"] = "text/plain"
    end,
}


local function finds(inspect, rule, part, text)
    local request = { method = "GET", target = "/", headers = {} }
    -- "<<ab*3>>" is "ababab".
    text = gsub(text, "<<(.-)%*(%d+)>>", repeated)
    BUILD[part](request, text, #rule.parts == 1)
    local _, hits = inspect(request)
    for i = 1, hits and #hits or 0 do
        if hits[i].id == rule.id then
            return true
        end
    end
    return false
end


-- Returns a list of lines, one for each text that a rule should find in one of
-- its parts and does not, or should not find and does.
return function(list, inspect)
    local failures = {}
    local function try(rule, texts, expected)
        for i = 1, #texts do
            for _, part in ipairs(rule.parts) do
                if finds(inspect, rule, part, texts[i]) ~= expected then
                    failures[#failures + 1] = format(
                        "rule %d %s in %s: %s", rule.id,
                        expected and "misses" or "finds", part, texts[i])
                end
            end
        end
    end
    for i = 1, #list do
        try(list[i], list[i].attacks, true)
        try(list[i], list[i].harmless, false)
    end
    return failures
end
