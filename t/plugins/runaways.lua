-- Functions that never return, each in a way of its own. They count in cell 0
-- of a board when they start.

local ffi = require "ffi"

ffi.cdef[[
int getpid(void);
int usleep(unsigned int microseconds);
int poll(void *descriptors, unsigned long count, int milliseconds);
typedef struct { long seconds, part; } runaways_time;
int ppoll(void *descriptors, unsigned long count, const runaways_time *time,
          const void *signals);
int select(int count, void *reading, void *writing, void *other,
           runaways_time *time);
int pselect(int count, void *reading, void *writing, void *other,
            const runaways_time *time, const void *signals);
int nanosleep(const runaways_time *time, runaways_time *rest);
int clock_nanosleep(int clock, int flags, const runaways_time *time,
                    runaways_time *rest);
int epoll_create1(int flags);
int epoll_wait(int epoll, void *events, int count, int milliseconds);
int socketpair(int domain, int type, int protocol, int ends[2]);
int setsockopt(int socket, int level, int option, const void *value,
               unsigned int size);
ssize_t recv(int socket, void *to, size_t size, int flags);
void *memset(void *to, int byte, size_t size);
int pipe(int ends[2]);
ssize_t read(int descriptor, void *to, size_t size);
ssize_t write(int descriptor, const void *from, size_t size);
int close(int descriptor);
void qsort(void *base, size_t count, size_t size,
           int (*compare)(const void *, const void *));
]]

local C = ffi.C


local _M = {}


-- Loops that are compiled, and take nothing.
local loops = {}
_M.loops = loops

loops["while"] = function()
    while true do end
end

loops["counting"] = function()
    local n = 0
    for i = 1, math.huge do n = n + i end
    return n
end

loops["repeat"] = function()
    local n = 0
    repeat n = (n + 1) % 1000 until n < 0
end

loops["goto"] = function()
    ::again::
    goto again
end

-- They take away, or replace, the hook by which they are to be stopped.
loops["no hook"] = function()
    while true do debug.sethook() end
end
jit.off(loops["no hook"])

loops["hook of its own"] = function()
    local function hook() end
    while true do
        debug.sethook(hook, "l")
    end
end
jit.off(loops["hook of its own"])

loops["nested"] = function()
    while true do
        for i = 1, 100 do
            for j = 1, 100 do
                -- A sum: some LuaJITs of 2024 compile `i * j < 0` wrongly.
                if i + j < 0 then return end
            end
        end
    end
end

loops["tail calls"] = function()
    local function again(n) return again(n + 1) end
    return again(1)
end

loops["recursion"] = function()
    local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end
    return fib(1000)
end

loops["pairs"] = function()
    local list = { a = 1, b = 2, c = 3 }
    local sum = 0
    while true do
        for _, value in pairs(list) do sum = sum + value end
    end
end

loops["interpreted"] = function()
    jit.off(true, true)
    local n = 0
    while true do n = n + 1 end
end

loops["interpreted, without a call"] = function()
    jit.off(true, true)
    while true do end
end

-- Errors that are caught again and again.
loops["pcall"] = function()
    while true do pcall(error, "again") end
end

loops["pcall of a loop"] = function()
    local function forever()
        local n = 0
        while true do n = n + 1 end
    end
    while true do pcall(forever) end
end

loops["xpcall"] = function()
    local function handler() return "handled" end
    local function forever()
        while true do end
    end
    while true do xpcall(forever, handler) end
end

loops["pcall inside pcall"] = function()
    local function deeper(depth)
        if depth == 0 then
            while true do end
        end
        while true do pcall(deeper, depth - 1) end
    end
    deeper(20)
end

loops["a handler"] = function()
    xpcall(error, function()
        while true do end
    end)
end

-- Coroutines.
loops["in a coroutine"] = function()
    coroutine.wrap(function()
        local n = 0
        while true do n = n + 1 end
    end)()
end

loops["coroutines that end"] = function()
    while true do
        coroutine.wrap(function() return 1 end)()
    end
end

loops["coroutines that yield"] = function()
    local give = coroutine.wrap(function()
        while true do coroutine.yield(1) end
    end)
    while true do give() end
end

loops["a coroutine's errors are caught"] = function()
    while true do
        local co = coroutine.create(function()
            while true do end
        end)
        coroutine.resume(co)
    end
end

-- Memory.
loops["tables"] = function()
    local last
    while true do last = { last and 1 } end
end

loops["strings"] = function()
    local text = ""
    while true do
        text = text .. "x"
        if #text > 10000 then text = "" end
    end
end

loops["formats"] = function()
    local n = 0
    while true do
        n = n + 1
        local _ = string.format("%d %s %g", n, n, n)
    end
end

loops["closures"] = function()
    local f
    while true do
        local g = f
        f = function() return g and 1 end
        if f() then f = nil end
    end
end

loops["collections"] = function()
    while true do collectgarbage() end
end

loops["finalizers"] = function()
    while true do
        local made = ffi.gc(ffi.new("int[10]"), function() end)
        made[0] = 1
    end
end

loops["buffers"] = function()
    local found, buffer = pcall(require, "string.buffer")
    while true do
        if found then buffer.decode(buffer.encode({ 1, { 2 }, "3" })) end
    end
end

loops["loadstring"] = function()
    while true do assert(loadstring("return 1"))() end
end

-- C functions, called again and again, or that call back.
loops["getpid"] = function()
    while true do C.getpid() end
end

loops["gsub"] = function()
    local text = ("x"):rep(1000)
    while true do text:gsub(".", function(c) return c end) end
end

loops["gsub of one that never returns"] = function()
    ("x"):gsub("x", function()
        while true do end
    end)
end

loops["sort"] = function()
    local list = {}
    while true do
        for i = 1, 1000 do list[i] = i * 7919 % 1000 end
        table.sort(list, function(a, b) return a > b end)
    end
end

loops["sort of one that never returns"] = function()
    table.sort({ 1, 2, 3 }, function()
        local n = 0
        while true do n = n + 1 end
    end)
end

loops["a callback from C"] = function()
    local numbers = ffi.new("int[1000]")
    local compare = ffi.cast("int (*)(const void *, const void *)",
        function(a, b)
            return ffi.cast("const int *", a)[0] - ffi.cast("const int *", b)[0]
        end)
    while true do
        for i = 0, 999 do numbers[i] = i * 7919 % 1000 end
        C.qsort(numbers, 1000, 4, compare)
    end
end

loops["files"] = function()
    while true do io.open("/dev/null"):close() end
end

loops["metamethods"] = function()
    local odd = setmetatable({}, {
        __index = function(_, key) return key end,
        __add = function(a) return a end,
    })
    while true do odd = odd + odd[1] end
end

loops["regular expressions"] = function()
    while true do
        ngx.re.gsub("some text with words", [[\w+]], function(found)
            return found[0]
        end, "jo")
    end
end

loops["the clock"] = function()
    while true do
        local _ = os.time() + ngx.now()
    end
end


local names = {}
for name in pairs(loops) do names[#names + 1] = name end
table.sort(names)
_M.names = names


local function begin(address)
    require("board").at(address):add(0)
end


function _M.run(address, name)
    begin(address)
    return loops[name]()
end


-- Loops that spend their time in a C function, and next to none in Lua code.
-- They count their rounds in cell 1.
local waiting = {}

-- Nothing in these loops but one call: `call` is compiled into the loop.
local function wait_by(name, call)
    waiting[name] = function(cells)
        while true do
            cells[1] = cells[1] + 1
            call(cells)
        end
    end
end

local millisecond = ffi.new("runaways_time", 0, 1e6)
local room = ffi.new("char[100000]")

wait_by("ngx.sleep", function() ngx.sleep(0.001) end)
wait_by("poll", function() C.poll(nil, 0, 1) end)
wait_by("ppoll", function() C.ppoll(nil, 0, millisecond, nil) end)
wait_by("usleep", function() C.usleep(100) end)
wait_by("nanosleep", function() C.nanosleep(millisecond, nil) end)
wait_by("clock_nanosleep", function()
    C.clock_nanosleep(1, 0, millisecond, nil)
end)
wait_by("select", function()
    -- Its time is in microseconds, and it changes it.
    local time = ffi.new("runaways_time", 0, 1000)
    C.select(0, nil, nil, nil, time)
end)
wait_by("pselect", function()
    C.pselect(0, nil, nil, nil, millisecond, nil)
end)
wait_by("memset", function() C.memset(room, 0, 100000) end)

do
    local epoll, events
    wait_by("epoll_wait", function()
        if not epoll then
            epoll = C.epoll_create1(0x80000)
            events = ffi.new("char[64]")
        end
        C.epoll_wait(epoll, events, 1, 1)
    end)
end

do
    local ends
    wait_by("recv", function()
        if not ends then
            ends = ffi.new("int[2]")
            -- AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC; SOL_SOCKET, SO_RCVTIMEO.
            assert(C.socketpair(1, 0x80001, 0, ends) == 0)
            local time = ffi.new("runaways_time", 0, 1000)
            assert(C.setsockopt(ends[0], 1, 20, time, 16) == 0)
        end
        C.recv(ends[0], room, 1, 0)
    end)
end

_M.waiting_names = {}
for name in pairs(waiting) do
    _M.waiting_names[#_M.waiting_names + 1] = name
end
table.sort(_M.waiting_names)


-- Likewise, but in functions of our own: see deep_calls.c.
ffi.cdef[[
void among_return_addresses(volatile int32_t *cells);
void among_addresses(volatile int32_t *cells, const void *address);
void aligned(volatile int32_t *cells);
void of_variable_size(volatile int32_t *cells, int size);
void recursive(volatile int32_t *cells, int depth);
void large(volatile int32_t *cells);
int jumps(volatile int32_t *cells);
void computes(volatile int32_t *cells);
int lua_gettop(void *L);
]]

local deep

for _, name in ipairs { "among_return_addresses", "aligned", "large", "jumps",
                        "computes" } do
    wait_by(name, function(cells) deep[name](cells) end)
end
wait_by("among_addresses", function(cells)
    deep.among_addresses(cells, C.lua_gettop)
end)
wait_by("of_variable_size", function(cells)
    deep.of_variable_size(cells, 5000)
end)
wait_by("recursive", function(cells) deep.recursive(cells, 20) end)

_M.deep_names = { "aligned", "among_addresses", "among_return_addresses",
                  "computes", "jumps", "large", "of_variable_size",
                  "recursive" }


function _M.wait(address, name)
    deep = deep or ffi.load(assert(package.searchpath("libdeep_calls",
                                                      package.cpath)))
    begin(address)
    return waiting[name](require("board").at(address).memory.cells)
end


-- A C function that waits for a byte, and is not interrupted by signals.
function _M.read(address, descriptor)
    begin(address)
    local byte = ffi.new("char[1]")
    C.read(descriptor, byte, 1)
    return ffi.string(byte, 1)
end

-- What it waits for.
function _M.pipe()
    local ends = ffi.new("int[2]")
    assert(C.pipe(ends) == 0)
    return {
        reading = ends[0],
        write = function(byte) C.write(ends[1], byte, 1) end,
        close = function()
            C.close(ends[0])
            C.close(ends[1])
        end,
    }
end


-- Tries hard to live on after its end.
function _M.stubborn(address)
    begin(address)
    for _ = 1, 1000 do
        pcall(function()
            while true do end
        end)
    end
    return "lived on"
end


return _M
