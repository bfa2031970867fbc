-- What tests need of the plugins beside this file: the libraries themselves,
-- opened with LuaJIT's ffi a second time, to look at them and to control them
-- from nginx's thread while pool threads run them.

local ffi = require "ffi"

ffi.cdef[[
void gate_reset(void);
void gate_open(void);
void gate_let(int tasks);
int gate_started(void);
int gate_ended(void);
int gate_cancelled(void);
int gate_inits(void);
int gate_closes(void);
void gate_order(char *to);

int verbs_last(void);
void verbs_forget(void);
int verbs_released(void);

int late_do(const char *key, const char *action, const char *data,
    uint64_t len);
int late_has(const char *key);
int late_told(const char *key);
int late_released(void);
int late_users(void);

int entries_inits(void);

int rffi_inits(void);
int rffi_asking(void);
int rffi_polled(void);
int rffi_nulls(void);
int rffi_holding(void);
void rffi_stop(int stop);
int rffi_release(const char *text);

typedef struct {
    long seconds, nanoseconds;
} test_time;
int test_clock_gettime(int id, test_time *time) __asm__("clock_gettime");
]]


local _M = {}

-- How long a test waits for what has to happen.
local PATIENCE = 30


local function open(name)
    local path = assert(package.searchpath("lib" .. name, package.cpath,
                                           "", ""))
    return ffi.load(path)
end


-- Seconds of the system's monotonic clock, exactly.
function _M.clock()
    local CLOCK_MONOTONIC = 1
    local time = ffi.new("test_time")
    ffi.C.test_clock_gettime(CLOCK_MONOTONIC, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end


-- Looks every few milliseconds until a condition holds. False if it never did.
function _M.poll(condition)
    local limit = ngx.now() + PATIENCE
    while not condition() do
        if ngx.now() > limit then
            return false
        end
        ngx.sleep(0.002)
    end
    return true
end


-- Starts a task with a short deadline until one did begin: on a busy machine it
-- may be too late to. `start` may return before the task has ended, if `begun`
-- counts those that began; otherwise the runtime must have nothing else in
-- flight.
function _M.until_begun(rt, start, begun)
    return _M.poll(function()
        local expired, before = rt:stats().expired, begun and begun()
        start()
        _M.poll(function()
            local stats = rt:stats()
            return stats.expired > expired or stats.in_flight == 0
                   or begun and begun() > before
        end)
        return rt:stats().expired == expired
    end)
end


-- The gate: open(), let(n), reset(), order(), and its counters as functions;
-- has(counter, n) waits until a counter has come to n.
function _M.gate()
    local lib = open("gate")
    local gate = {
        open = lib.gate_open,
        let = lib.gate_let,
        reset = lib.gate_reset,
        started = lib.gate_started,
        ended = lib.gate_ended,
        cancelled = lib.gate_cancelled,
        inits = lib.gate_inits,
        closes = lib.gate_closes,
    }
    function gate.order()
        local buf = ffi.new("char[4096]")
        lib.gate_order(buf)
        return ffi.string(buf)
    end
    function gate.has(counter, n)
        return _M.poll(function() return gate[counter]() >= n end)
    end
    return gate
end


-- late: act(key, action, data) does something with a task on the plugin's
-- thread, has(key) waits until the task is there.
function _M.late()
    local lib = open("late")
    return {
        act = function(key, action, data)
            data = data or ""
            return lib.late_do(key, action, data, #data)
        end,
        has = function(key)
            return _M.poll(function() return lib.late_has(key) == 1 end)
        end,
        told = lib.late_told,
        released = lib.late_released,
        users = lib.late_users,
    }
end


-- verbs: last() waits for what a function returned that was called after the
-- task was complete, and forgets it; released() counts releases.
function _M.verbs()
    local lib = open("verbs")
    local UNKNOWN = 1000
    return {
        last = function()
            _M.poll(function() return lib.verbs_last() ~= UNKNOWN end)
            local last = lib.verbs_last()
            lib.verbs_forget()
            return last
        end,
        released = lib.verbs_released,
    }
end


function _M.entries()
    return { inits = open("entries").entries_inits }
end


-- rffi: counters as functions; has(counter, n) as for the gate; stop(1) keeps
-- threads from polling until stop(0); release(text) responds to what is held.
function _M.rffi()
    local lib = open("rffi")
    local rffi = {
        inits = lib.rffi_inits,
        asking = lib.rffi_asking,
        polled = lib.rffi_polled,
        nulls = lib.rffi_nulls,
        holding = lib.rffi_holding,
        stop = lib.rffi_stop,
        release = lib.rffi_release,
    }
    function rffi.has(counter, n)
        return _M.poll(function() return rffi[counter]() >= n end)
    end
    return rffi
end


-- Says values with blanks between them, without the nils at the end.
function _M.say(...)
    local values, last = { ... }, 0
    for i = 1, select("#", ...) do
        if values[i] ~= nil then last = i end
        values[i] = tostring(values[i])
    end
    ngx.say(table.concat(values, " ", 1, last))
end


-- Runs a command of the shell; whether it succeeded. LuaJIT with the additions
-- of Lua 5.2, as OpenResty's, returns `true` where another returns 0.
function _M.sh(command)
    local status = os.execute(command)
    return status == true or status == 0
end


-- Runs a piece of Lua as a chunk named "caller" and returns the error that it
-- raises, with the place that is blamed in front.
function _M.blame(code, ...)
    local chunk = assert(loadstring(code, "=caller"))
    local ok, err = pcall(chunk, ...)
    return ok and "no error" or err
end


return _M
