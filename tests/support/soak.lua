-- Makes 5000 calls in ten ways and prints how often which result came. How a
-- call ends differs from run to run; that it does is what the test looks at.

local rt, async = harness.fault(), harness.async()
local counts = {}
local random = math.random
local REQUESTS = { "echo 1", "spin 50", "give 3000", "sleep 1", "twice 1" }


local function note(request, res, err)
    local right = res == request
                  or request == "give 3000" and res and #res == 3000
                  or request == "twice 1" and res == "first"
                  or request:find("^late") and res == "late"
    harness.count(counts, right, err or "wrong")
end


local function some_request()
    return REQUESTS[random(#REQUESTS)]
end


local function call(runtime, request, timeout)
    note(request, runtime:call(request, { timeout = timeout }))
end


local function submit(runtime, request, timeout, cancel)
    local future, err = runtime:submit(request, { timeout = timeout })
    if not future then
        return note(request, nil, err)
    end
    if cancel then
        future:cancel()
    end
    note(request, future:wait())
end


local WAYS = {
    function() call(rt, some_request(), 60) end,
    function() call(rt, some_request(), 60) end,
    function() call(rt, some_request(), random() * 0.01 + 0.001) end,
    function() submit(rt, some_request(), 60) end,
    function() submit(rt, some_request(), 60, true) end,
    function() submit(rt, "linger 1000", random() * 0.001 + 0.001) end,
    function() call(async, "echo 1", 60) end,
    function() call(async, "late " .. random(5), 0.003) end,
}


local function one()
    WAYS[random(#WAYS)]()
end


for _ = 1, 10 do
    -- Of the coroutines that call, some are killed: the first, since the others
    -- do not leave room for them.
    local doomed = {}
    for i = 1, 50 do
        local request = some_request()
        local over = false
        doomed[i] = { ngx.thread.spawn(function()
            local res, err = rt:call(request)
            over = true
            note(request, res, err)
        end), function() return over end }
    end
    for _ = 1, 50 do
        local ok, err = rt:cast(some_request())
        harness.count(counts, nil, ok and "cast" or err)
    end
    local threads = {}
    for i = 1, 400 do
        threads[i] = ngx.thread.spawn(one)
    end
    for i = 1, 50 do
        if not doomed[i][2]() then
            ngx.thread.kill(doomed[i][1])
            harness.count(counts, nil, "killed")
        end
    end
    for i = 1, 400 do
        assert(ngx.thread.wait(threads[i]))
    end
end

harness.dump(counts)
