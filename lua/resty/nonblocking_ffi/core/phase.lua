-- What the phases of nginx-lua allow. Which of them may yield is asked of
-- nginx-lua, once each: newer versions have more.

local ffi = require "ffi"
local semaphore = require "ngx.semaphore"
local code_cache = require "resty.nonblocking_ffi.core.code_cache"

local C = ffi.C
local collectgarbage = collectgarbage
local get_phase = ngx.get_phase
local pcall = pcall
local select = select

local NO_ASYNC_FETCH = "API disabled in the context of ssl_session_fetch_by_lua"
                       .. "*: this OpenSSL cannot wait there"


ffi.cdef[[
void *nbffi_pending_session(void) __asm__("SSL_magic_pending_session_ptr");
]]


local _M = {}


-- By phase: false if a coroutine may wait, or nginx-lua's words for why not.
-- There is nobody to ask before workers are forked.
local refusals = { init = "no request found" }
-- Nobody posts it.
local probe


_M.CANNOT_YIELD = "cannot yield in this phase"


local function get_pending_session()
    return C.nbffi_pending_session
end


-- Waiting for no time does not wait, but is refused where waiting would be.
local function wait_for_nothing()
    if not probe then
        local err
        probe, err = semaphore.new(0)
        if not probe then
            return err
        end
    end
    return select(2, probe:wait(0))
end


local function ask(phase)
    local why = wait_for_nothing()
    if code_cache.is_off() then
        -- No semaphore may be left in such a VM (see flusher.lua).
        probe = nil
        collectgarbage()
    end
    local refusal = why ~= "timeout" and why
    -- nginx-lua allows it, but then the handshake goes on without it, unless
    -- OpenSSL has a patch of OpenResty's.
    if phase == "ssl_session_fetch" and not pcall(get_pending_session) then
        refusal = NO_ASYNC_FETCH
    end
    refusals[phase] = refusal
    return refusal
end


-- Why a coroutine cannot wait, in nginx-lua's words; false if it can.
local function refusal()
    local phase = get_phase()
    local known = refusals[phase]
    if known == nil then
        return ask(phase)
    end
    return known
end
_M.refusal = refusal


-- Whether a coroutine may wait.
function _M.can_yield()
    return not refusal()
end


function _M.is_init()
    return get_phase() == "init"
end


function _M.is_init_worker()
    return get_phase() == "init_worker"
end


return _M
