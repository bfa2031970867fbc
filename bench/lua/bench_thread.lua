-- What ngx.run_worker_thread runs, and our Lua runtime: Lua VMs of their own
-- load this.

local cjson = require "cjson"

local char = string.char
local floor = math.floor
local sub = string.sub

local _M = {}


function _M.echo(...)
    return ...
end


-- A JSON document: the whole of it, and a part.
_M.decode = cjson.decode


function _M.part(text)
    return cjson.decode(text)[2]
end


-- Documents by number, as a cache of each VM that has room for some of them.
local ROOM = 32
local documents, order, oldest = {}, {}, 0


local function make(number)
    local rows = {}
    for i = 1, 100 do
        rows[i] = { id = number, name = "row " .. i, tags = { "a", "b", "c" } }
    end
    return cjson.decode(cjson.encode(rows))
end


-- A value of a document, which is made if the cache does not have it.
function _M.cached(number)
    local document = documents[number]
    if not document then
        document = make(number)
        oldest = oldest % ROOM + 1
        if order[oldest] then
            documents[order[oldest]] = nil
        end
        order[oldest], documents[number] = number, document
    end
    return document[1].id
end


local stamp = 0

-- As plugins/copy.c does: a number in the place of the first four bytes.
function _M.copy(request)
    stamp = stamp + 1
    return char(stamp % 256, floor(stamp / 256) % 256,
                floor(stamp / 65536) % 256, floor(stamp / 16777216) % 256)
           .. sub(request, 5)
end


return _M
