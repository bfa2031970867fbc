-- The clocks of `ngx`, from the system: nginx's own time is that of the event
-- loop's last turn.

local floor = math.floor
local date = os.date
local error = error
local format = string.format
local jit = jit
local min = math.min
local package = package
local tonumber = tonumber
local type = type


local _M = {}


-- How long a sleep is at most in C, in seconds. Between two of them the VM can
-- be stopped, by a hook, which code that LuaJIT has compiled would not see.
local SLICE = 0.01


-- A function that formats the present, and does so once a second.
local function formatter(C, how)
    local last, text
    return function()
        local second = floor(C.nbffi_vm_now())
        if second ~= last then
            last, text = second, date(how, second)
        end
        return text
    end
end


local function install_time(ngx, C)
    -- In milliseconds, as nginx has it.
    function ngx.now()
        return floor(C.nbffi_vm_now() * 1000) / 1000
    end


    function ngx.time()
        return floor(C.nbffi_vm_now())
    end


    function ngx.update_time()
        -- It is never old.
    end


    ngx.today = formatter(C, "%Y-%m-%d")
    ngx.localtime = formatter(C, "%Y-%m-%d %H:%M:%S")
    ngx.utctime = formatter(C, "!%Y-%m-%d %H:%M:%S")
end


local function install_sleep(ngx, C)
    function ngx.sleep(seconds)
        local left = tonumber(seconds)
        if not left then
            error(format("bad argument #1 to 'sleep' (number expected, got %s)",
                         type(seconds)), 2)
        end
        -- Not a number, too.
        if left * 1000 <= -1 or left ~= left then
            error(format('invalid sleep duration "%d"', left * 1000), 2)
        end
        local finish = C.nbffi_vm_monotonic() + left
        while left > 0 do
            C.nbffi_vm_sleep(min(left, SLICE))
            left = finish - C.nbffi_vm_monotonic()
        end
    end


    jit.off(ngx.sleep)
end


-- Adds the time functions and sleep to `ngx`. resty.core.time is loaded: its
-- functions that format and parse times are used as they are.
function _M.install(ngx, C)
    install_time(ngx, C)
    install_sleep(ngx, C)

    local core = package.loaded["resty.core.time"]
    if type(core) == "table" then
        function core.monotonic_time()
            return floor(C.nbffi_vm_monotonic() * 1000) / 1000
        end


        function core.monotonic_msec()
            return floor(C.nbffi_vm_monotonic() * 1000)
        end
    end
end


return _M
