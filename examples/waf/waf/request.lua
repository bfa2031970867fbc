-- Takes a request apart: the texts that rules look at, and facts for checks.

local decode = require "waf.decode"

local concat = table.concat
local find = string.find
local gmatch = string.gmatch
local gsub = string.gsub
local io_open = io.open
local lower = string.lower
local match = string.match
local pairs = pairs
local pcall = pcall
local require = require
local sub = string.sub
local text_of = decode.text
local tostring = tostring
local type = type

local has_json, json = pcall(require, "cjson.safe")


local _M = {
    -- Bytes of a body that are looked at.
    BODY_LIMIT = 131072,
}


-- Tokens whose meaning is not that of text.
local UNREAD = { authorization = true, cookie = true }


local function add(list, text)
    if text ~= "" then
        list[#list + 1] = text_of(text)
    end
end


-- Adds the names and values of "a=1&b=2". Returns how many there are.
local function add_pairs(list, text)
    local count = 0
    text = gsub(text, "+", " ")
    for pair in gmatch(text, "[^&]+") do
        count = count + 1
        local name, value = match(pair, "^([^=]*)=(.*)$")
        add(list, name or pair)
        add(list, value or "")
    end
    return count
end


local function add_headers(list, headers, facts)
    for name, value in pairs(headers) do
        name = lower(name)
        if type(value) == "table" then
            facts.repeated[name] = true
            value = concat(value, ", ")
        end
        if not UNREAD[name] then
            list[#list + 1] = text_of(name .. ": " .. tostring(value))
        end
    end
end


local function add_cookies(list, headers)
    local cookie = headers.cookie
    if type(cookie) == "table" then
        cookie = concat(cookie, "; ")
    end
    for pair in gmatch(cookie or "", "[^;]+") do
        local name, value = match(pair, "^%s*([^=]*)=(.*)$")
        add(list, name or pair)
        add(list, value or "")
    end
end


local function add_json(list, value, depth)
    if type(value) == "table" and depth < 100 then
        for key, item in pairs(value) do
            if type(key) == "string" then
                add(list, key)
            end
            add_json(list, item, depth + 1)
        end
    elseif type(value) == "string" then
        add(list, value)
    end
end


-- Adds the fields of a form with files: names, values, and files' names as
-- "filename: x". What is in the files is not looked at.
local function add_multipart(list, body, boundary)
    local delimiter = "--" .. boundary
    local _, start = find(body, delimiter, 1, true)
    while start do
        local stop, next_start = find(body, delimiter, start + 1, true)
        local part = sub(body, start + 1, stop and stop - 1)
        local head, value = match(part, "^\r?\n(.-)\r?\n\r?\n(.*)$")
        if head then
            local file = match(head, '[Ff][Ii][Ll][Ee][Nn][Aa][Mm][Ee]%*?="?'
                                     .. '([^"\r\n]*)')
            add(list, match(head, '[^e]name="?([^"\r\n;]*)') or "")
            if file then
                add(list, "filename: " .. file)
            else
                add(list, gsub(value, "\r?\n$", ""))
            end
        end
        start = next_start
    end
end


-- The start of a body that nginx has put into a file. It is gone if the client
-- is.
local function read_file(path)
    local file = io_open(path, "rb")
    if not file then
        return ""
    end
    local body = file:read(_M.BODY_LIMIT)
    file:close()
    return body or ""
end


local function add_body(list, request, facts)
    local body = request.body
                 or request.body_file and read_file(request.body_file)
    if not body or body == "" then
        return
    end
    facts.has_body = true
    body = sub(body, 1, _M.BODY_LIMIT)
    local kind = request.headers["content-type"]
    if type(kind) == "table" then
        kind = kind[1]
    end
    facts.kind = kind
    local name = lower(match(kind or "", "^%s*([^;%s]*)"))
    if name == "application/x-www-form-urlencoded" then
        facts.fields = add_pairs(list, body)
    elseif name == "multipart/form-data" then
        local boundary = match(kind, '[Bb]oundary="?([^";%s]+)')
        if boundary then
            add_multipart(list, body, boundary)
        else
            facts.no_boundary = true
            add(list, body)
        end
    elseif has_json and find(name, "json", 1, true) then
        local value = json.decode(body)
        if value == nil then
            facts.broken_json = #body < _M.BODY_LIMIT
            add(list, body)
        else
            add_json(list, value, 1)
        end
    elseif name == "" or find(name, "^text/") or find(name, "xml", 1, true)
        or find(name, "json", 1, true) or find(name, "graphql", 1, true)
        or find(name, "javascript", 1, true)
    then
        add(list, body)
    end
    -- Anything else is pictures and the like.
end


-- syntax: parts, facts = request.split(request)
--
-- request  { method =, target = path and query as they were sent,
--          headers = { [name in lower case] = string or list of strings },
--          body = string or nil, body_file = path or nil }
--
-- Returns the texts of each part, as one string with a line for each:
--   path     the path; args: names and values of the query; cookies: likewise
--   headers  "name: value"; body: names and values, or strings of JSON
--   raw      the target, not decoded, in lower case
-- and facts for checks.lua.
function _M.split(request)
    local facts = {
        method = request.method, headers = request.headers, repeated = {},
        headers_cut = request.headers_cut,
    }
    local path, query = match(request.target, "^([^?]*)%??(.*)$")
    local args, cookies, headers, body = {}, {}, {}, {}
    facts.args = add_pairs(args, query)
    add_headers(headers, request.headers, facts)
    add_cookies(cookies, request.headers)
    add_body(body, request, facts)
    return {
        path = text_of(path),
        args = concat(args, "\n"),
        cookies = concat(cookies, "\n"),
        headers = concat(headers, "\n"),
        body = concat(body, "\n"),
        raw = lower(request.target),
    }, facts
end


return _M
