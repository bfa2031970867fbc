-- Large results in pieces, so that the event loop decodes some of them, looks
-- after its other work, and goes on.
--
-- A result of some size is cut, in the VM that has it, into *records*: a table,
-- or a part of one, without those of its tables that are large themselves.
-- These are records of their own that come before, and the record says where
-- they belong. So decoding a record takes some 50 us, whatever the size of the
-- whole.
--
-- The bytes: the number of records, then for each of them
--   id      of the table that the record is (part of)
--   shift   of the indices, for a part of a list, or false
--   part    the items
--   links   false, or key and id, in turns, for tables of earlier records
-- The last table's items are the results: { n = their number, ... }.

local codec = require "resty.nonblocking_ffi.lua.codec"

local ceil = math.ceil
local new_buffer = codec.new_buffer
local next = next
local pairs = pairs
local type = type
local unpack = unpack

-- What a record weighs at most. One for each item ...
local MAX_WEIGHT = 500
-- ... and one more for so many bytes of a string.
local STRING_UNIT = 512
-- Results that take less bytes than this are not cut: decoding them takes less
-- than some hundred microseconds.
local MIN_BYTES = 32768


local _M = {
    MIN_BYTES = MIN_BYTES,
}


-- Encoding ---------------------------------------------------------------

-- What a value weighs, or more than `limit` if it is heavier than that.
local function weigh(value, limit)
    local kind = type(value)
    if kind == "string" then
        return ceil(#value / STRING_UNIT) + 1
    end
    if kind ~= "table" then
        return 1
    end
    local weight = 1
    for key, item in next, value do
        weight = weight + 1 + weigh(item, limit - weight)
        if type(key) == "string" then
            weight = weight + ceil(#key / STRING_UNIT)
        end
        if weight > limit then
            break
        end
    end
    return weight
end


local function flush(state, id, shift, part, links)
    local buf = state.buf
    buf:encode(id)
    buf:encode(shift)
    buf:encode(part)
    buf:encode(links)
    state.records = state.records + 1
end


-- Whether a table has no keys but 1..#value.
local function is_list(value)
    local length = #value
    local count = 0
    for _ in pairs(value) do
        count = count + 1
    end
    return count == length
end


local cut


-- Puts one item into a part, or cuts it and notes the link. Returns the item's
-- weight in the part, and the links.
local function place(state, part, key, item, links, link_key)
    local weight = weigh(item, MAX_WEIGHT)
    if type(item) ~= "table" or weight <= MAX_WEIGHT then
        part[key] = item
        return weight, links
    end
    links = links or {}
    links[#links + 1] = link_key
    links[#links + 1] = cut(state, item)
    return 1, links
end


local function cut_list(state, id, list)
    local shift, part, links, weight = 0, {}, false, 0
    for i = 1, #list do
        local more
        -- A list that lacks an item would not be decoded as one.
        part[i - shift] = false
        more, links = place(state, part, i - shift, list[i], links, i)
        weight = weight + more
        if weight > MAX_WEIGHT then
            flush(state, id, shift, part, links)
            shift, part, links, weight = i, {}, false, 0
        end
    end
    flush(state, id, shift, part, links)
end


local function cut_map(state, id, map)
    local part, links, weight = {}, false, 0
    for key, item in next, map do
        local more
        more, links = place(state, part, key, item, links, key)
        weight = weight + more
        if weight > MAX_WEIGHT then
            flush(state, id, false, part, links)
            part, links, weight = {}, false, 0
        end
    end
    flush(state, id, false, part, links)
end


-- Writes the records of a table, those of its large tables first. Returns its
-- id.
function cut(state, value)
    local id = state.ids + 1
    state.ids = id
    if is_list(value) then
        cut_list(state, id, value)
    else
        cut_map(state, id, value)
    end
    return id
end


-- Puts results into a buffer, in pieces. They are known to be such as can be
-- encoded.
function _M.encode(buf, count, ...)
    local state = { buf = new_buffer(), records = 0, ids = 0 }
    local results = { ... }
    results.n = count
    cut(state, results)
    buf:reset()
    buf:encode(state.records)
    local data, len = state.buf:ref()
    buf:putcdata(data, len)
end


-- Decoding ---------------------------------------------------------------

-- Adds a further part to a table.
local function add(object, shift, part)
    if shift then
        for i = 1, #part do
            object[shift + i] = part[i]
        end
        return
    end
    for key, item in next, part do
        object[key] = item
    end
end


-- The results in some bytes: a string, or a pointer and a length. `pause` is
-- called after each record; it may let other coroutines run.
function _M.decode(data, len, pause)
    -- Not shared: others may decode while this pauses.
    local reader = new_buffer()
    if type(data) == "string" then
        reader:set(data)
    else
        reader:set(data, len)
    end
    local objects = {}
    local object
    for _ = 1, reader:decode() do
        local id, shift = reader:decode(), reader:decode()
        local part, links = reader:decode(), reader:decode()
        object = objects[id]
        if object then
            add(object, shift, part)
        else
            object = part
            objects[id] = object
        end
        if links then
            for i = 1, #links, 2 do
                object[links[i]] = objects[links[i + 1]]
                objects[links[i + 1]] = nil
            end
        end
        pause()
    end
    return unpack(object, 1, object.n)
end


return _M
