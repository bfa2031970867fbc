-- Numbers that the event loop and code on pool threads both see: how a test
-- knows where a thread is, and tells it to go on. Cells are counted from 0.

local ffi = require "ffi"

ffi.cdef[[
typedef struct { volatile int32_t cells[64]; } test_board;
int usleep(unsigned int microseconds);
]]

-- Looks, a millisecond each, before a thread gives up.
local LOOKS = 10000


local _M = {}
local _MT = { __index = _M }
local kept = {}


-- A board of zeros. `address` is a number: what another VM finds it by.
function _M.new()
    local memory = ffi.new("test_board")
    kept[#kept + 1] = memory
    return setmetatable({
        memory = memory,
        address = tonumber(ffi.cast("intptr_t", ffi.cast("void *", memory))),
    }, _MT)
end


function _M.at(address)
    return setmetatable({
        memory = ffi.cast("test_board *", ffi.cast("intptr_t", address)),
    }, _MT)
end


function _M:get(cell)
    return self.memory.cells[cell]
end


function _M:set(cell, value)
    self.memory.cells[cell] = value
end


-- Not atomic: one thread per cell.
function _M:add(cell)
    self.memory.cells[cell] = self.memory.cells[cell] + 1
end


-- Blocks the thread until a cell has come to a value. False if it never did.
function _M:await(cell, value)
    for _ = 1, LOOKS do
        if self.memory.cells[cell] >= value then
            return true
        end
        ffi.C.usleep(1000)
    end
    return false
end


-- Likewise in the event loop, which goes on.
function _M:has(cell, value)
    return require("test_plugins").poll(function()
        return self.memory.cells[cell] >= value
    end)
end


return _M
