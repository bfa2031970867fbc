-- Starts loops of runaways.lua that wait in C functions, and stops them.

local _M = {}


-- Says "true", "well", "true": that all have ended, that the pool works, and
-- that one VM was replaced for each. Returns their boards.
function _M.all(names)
    local tp = require "test_plugins"
    local nbffi = require "resty.nonblocking_ffi"
    nbffi.pool("four", { threads = 4 })
    local rt = assert(nbffi.load { language = "lua", module = "runaways",
                                   pool = "four" })
    local threads, boards = {}, {}
    for i, name in ipairs(names) do
        local board = require("board").new()
        boards[i] = board
        threads[i] = ngx.thread.spawn(function()
            -- Cell 1 counts its rounds: enough of them to be compiled.
            local fut = rt:submit({ "wait", timeout = 30 }, board.address,
                                  name)
            board:has(1, 300)
            fut:cancel()
        end)
    end
    for i = 1, #threads do ngx.thread.wait(threads[i]) end
    ngx.say(tp.poll(function() return rt:stats().in_flight == 0 end))
    ngx.say((rt:call_fn(function() return "well" end)))
    ngx.say(tp.poll(function()
        return rt:stats().vm.replaced.stopped == #threads
    end))
    return boards
end


return _M
