-- A blocking HTTP client on luasocket. It runs in the VM of a pool thread, and
-- keeps one connection to each server open from call to call: a VM does one
-- thing at a time, so it never needs a second one.

local socket = require "socket"
local url = require "socket.url"
local worker = require "resty.nonblocking_ffi.worker"

local concat = table.concat
local find = string.find
local format = string.format
local gettime = socket.gettime
local huge = math.huge
local is_cancelled = worker.is_cancelled
local lower = string.lower
local match = string.match
local min = math.min
local pairs = pairs
local tonumber = tonumber
local upper = string.upper


local _M = {}


local TIMEOUT = 5
-- Seconds that a call blocks at most before it looks whether somebody still
-- waits for it. A VM that does not return when its caller is gone is replaced,
-- and its connections with it.
local SLICE = 0.02
local MAX_BODY = 16 * 1024 * 1024
local MAX_HEADERS = 100
-- Connections that are kept, and seconds that one may have been idle. Servers
-- close theirs, nginx after 75 seconds.
local MAX_KEPT = 32
local MAX_IDLE = 30

-- Sending such a request twice does no harm.
local REPEATABLE = {
    GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true,
}


-- By "host:port": { socket, number, requests, used = when last }.
local kept, kept_count = {}, 0
-- Connections that this VM has opened so far.
local opened = 0


local function forget(connection)
    if kept[connection.name] == connection then
        kept[connection.name] = nil
        kept_count = kept_count - 1
    end
    connection.socket:close()
end


local function forget_oldest()
    local oldest
    for _, connection in pairs(kept) do
        if not oldest or connection.used < oldest.used then
            oldest = connection
        end
    end
    forget(oldest)
end


local function connect(host, port, name, deadline)
    local tcp, err = socket.tcp()
    if not tcp then
        return nil, err
    end
    local left = deadline - gettime()
    if left <= 0 then
        tcp:close()
        return nil, "timeout"
    end
    tcp:settimeout(left)
    local ok
    ok, err = tcp:connect(host, port)
    if not ok then
        tcp:close()
        return nil, "cannot connect to " .. name .. ": " .. err
    end
    tcp:setoption("tcp-nodelay", true)
    opened = opened + 1
    if kept_count == MAX_KEPT then
        forget_oldest()
    end
    local connection = {
        socket = tcp, name = name, number = opened, requests = 0,
        used = gettime(),
    }
    kept[name] = connection
    kept_count = kept_count + 1
    return connection
end


-- The time until the next look around; or nil and why there is none.
local function next_slice(deadline)
    local left = deadline - gettime()
    if left <= 0 then
        return nil, "timeout"
    end
    if is_cancelled() then
        return nil, "cancelled"
    end
    return min(left, SLICE)
end


local function send(connection, data, deadline)
    local tcp = connection.socket
    local from = 1
    while from <= #data do
        local slice, why = next_slice(deadline)
        if not slice then
            return nil, why
        end
        tcp:settimeout(slice)
        local last, err, partial = tcp:send(data, from)
        if not last and err ~= "timeout" then
            return nil, err
        end
        from = (last or partial) + 1
    end
    return true
end


-- Receives by a pattern of luasocket's. Returns the data; or nil, an error, and
-- what has come so far.
local function receive(connection, pattern, deadline)
    local tcp = connection.socket
    local so_far = ""
    while true do
        local slice, why = next_slice(deadline)
        if not slice then
            return nil, why, so_far
        end
        tcp:settimeout(slice)
        local data, err
        data, err, so_far = tcp:receive(pattern, so_far)
        if data then
            return data
        end
        if err ~= "timeout" then
            return nil, err, so_far
        end
    end
end


local function receive_headers(connection, deadline)
    local headers = {}
    for _ = 1, MAX_HEADERS do
        local line, err = receive(connection, "*l", deadline)
        if not line then
            return nil, err
        end
        if line == "" then
            return headers
        end
        local name, value = match(line, "^([^:%s]+):%s*(.-)%s*$")
        if not name then
            return nil, "a header that is none: " .. line
        end
        name = lower(name)
        headers[name] = headers[name] and headers[name] .. ", " .. value
                        or value
    end
    return nil, "too many headers"
end


local function receive_chunks(connection, deadline)
    local chunks, total = {}, 0
    while true do
        local line, err = receive(connection, "*l", deadline)
        if not line then
            return nil, err
        end
        local digits = match(line, "^%x+")
        if not digits then
            return nil, "a chunk of no size"
        end
        local size = tonumber(digits, 16)
        if size == 0 then
            -- Headers may follow.
            local trailers
            trailers, err = receive_headers(connection, deadline)
            if not trailers then
                return nil, err
            end
            return concat(chunks)
        end
        total = total + size
        if total > MAX_BODY then
            return nil, "a body of more than " .. MAX_BODY .. " bytes"
        end
        local chunk
        chunk, err = receive(connection, size, deadline)
        if not chunk then
            return nil, err
        end
        chunks[#chunks + 1] = chunk
        line, err = receive(connection, "*l", deadline)
        if not line then
            return nil, err
        end
    end
end


-- The body, and whether the connection may live on.
local function receive_body(connection, method, status, headers, deadline)
    if method == "HEAD" or status == 204 or status == 304 then
        return "", true
    end
    if find(lower(headers["transfer-encoding"] or ""), "chunked", 1, true) then
        local body, err = receive_chunks(connection, deadline)
        return body, err or true
    end
    local length = headers["content-length"]
    if length then
        length = tonumber(length)
        if not length or length > MAX_BODY then
            return nil, "a body of a length that we do not take"
        end
        if length == 0 then
            return "", true
        end
        local body, err = receive(connection, length, deadline)
        return body, err or true
    end
    -- Until the server closes it.
    local body, err = receive(connection, "*a", deadline)
    return body, body and false or err
end


-- Returns the response; or nil, an error, and whether the server has not seen
-- the request: it had closed the connection before.
local function exchange(connection, method, text, deadline)
    connection.requests = connection.requests + 1
    local ok, err = send(connection, text, deadline)
    if not ok then
        return nil, err, err == "closed"
    end

    local line, so_far, version, status, headers
    repeat
        line, err, so_far = receive(connection, "*l", deadline)
        if not line then
            return nil, err, err == "closed" and so_far == ""
        end
        version, status = match(line, "^HTTP/(1%.%d) (%d%d%d)")
        if not status then
            return nil, "no HTTP: " .. line
        end
        headers, err = receive_headers(connection, deadline)
        if not headers then
            return nil, err
        end
        status = tonumber(status)
    until status >= 200

    local body, more = receive_body(connection, method, status, headers,
                                    deadline)
    if not body then
        return nil, more
    end
    connection.used = gettime()
    local ends = lower(headers.connection or "")
    if not more or version == "1.0" or find(ends, "close", 1, true) then
        forget(connection)
    end
    return {
        status = status, headers = headers, body = body,
        connection = connection.number, requests = connection.requests,
    }
end


-- The request as it is sent; or nil and an error.
local function compose(method, parsed, headers, body)
    local target = (parsed.path or "/")
                   .. (parsed.query and "?" .. parsed.query or "")
    local lines = {
        format("%s %s HTTP/1.1", method, target),
        "Host: " .. parsed.authority,
        "Connection: keep-alive",
    }
    if body then
        lines[#lines + 1] = "Content-Length: " .. #body
    end
    for name, value in pairs(headers or {}) do
        lines[#lines + 1] = name .. ": " .. value
    end
    for i = 1, #lines do
        -- Whoever can put an end of line into a request can add another one.
        if find(lines[i], "[%z\r\n]") or i == 1 and find(target, "%s") then
            return nil, "a blank, an end of line or a NUL in the request"
        end
    end
    return concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
end


-- A kept connection, or a new one. Returns it, and whether it was used before.
local function obtain(host, port, deadline)
    local name = host .. ":" .. port
    local connection = kept[name]
    if connection then
        if gettime() - connection.used < MAX_IDLE then
            return connection, true
        end
        forget(connection)
    end
    return connect(host, port, name, deadline)
end


-- syntax: response, err = http_client.request(options)
--
-- url      "http://host:port/path?query"
-- method   default "GET"; headers: a table; body: a string
-- timeout  seconds, default 5; never longer than the task's own deadline
--
-- Returns { status =, headers = (names in lower case), body =, connection =
-- its number in this VM, requests = how many there were on it }.
function _M.request(options)
    local method = upper(options.method or "GET")
    local parsed = url.parse(options.url or "")
    if not parsed or parsed.scheme ~= "http" or not parsed.host then
        return nil, "no URL of HTTP"
    end
    local text, err = compose(method, parsed, options.headers, options.body)
    if not text then
        return nil, err
    end
    local left = min(options.timeout or TIMEOUT, worker.deadline() or huge)
    local deadline = gettime() + left
    local port = tonumber(parsed.port) or 80

    while true do
        local connection, reused = obtain(parsed.host, port, deadline)
        if not connection then
            return nil, reused
        end
        local response, unseen
        response, err, unseen = exchange(connection, method, text, deadline)
        if response then
            return response
        end
        -- What is left of the response would be taken for that of the next
        -- request.
        forget(connection)
        if not (reused and unseen and REPEATABLE[method]) then
            return nil, err
        end
    end
end


return _M
