-- What ngx.run_worker_thread runs: a Lua VM of its own loads this.

local char = string.char
local floor = math.floor
local sub = string.sub

local _M = {}


function _M.echo(request)
    return request
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
