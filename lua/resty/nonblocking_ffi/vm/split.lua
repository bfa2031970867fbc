-- The library "ngx.re" of worker VMs: split and opt.

local regex = require "resty.nonblocking_ffi.vm.regex"

local after = regex.after
local error = error
local max = math.max
local min = math.min
local new_tab = require "table.new"
local sub = string.sub
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


local NO_MATCH = -1
-- What a result table is made for if nothing says how many parts there are.
local PARTS = 4


-- Splits `subject` from the 1-based position `pos` on into `res`, into at most
-- `limit` parts (0: as many as there are). Returns the number of values, where
-- the rest begins, and the offset that the search got to; or nil and an error.
local function split_into(res, re, exec, subject, pos, limit)
    local offsets = re.offsets
    local len = #subject
    local count, parts = 0, 1
    -- The part that is being looked at begins here; an empty match lies at the
    -- end of a character, so the next part begins after it.
    local begin = pos
    local empty_before
    local start = pos - 1
    while (limit <= 0 or parts < limit) and start <= len do
        local code = exec(re, subject, start, start >= pos)
        if code == NO_MATCH then
            break
        elseif code < 0 then
            return nil, "pcre_exec() failed: " .. code
        end

        local from, to = offsets[0] + 1, offsets[1] + 1
        local is_empty = from == to
        start = is_empty and after(re, subject, to - 1) or to - 1
        begin = empty_before or begin
        if is_empty then
            empty_before = from
        end
        if from > begin or not empty_before then
            parts = parts + 1
            count = count + 1
            res[count] = sub(subject, begin, from - 1)
            if re.captures > 0 and code > 1 then
                count = count + 1
                res[count] = sub(subject, offsets[2] + 1, offsets[3])
            end
            begin = to
            if begin > len then
                break
            end
        end
    end
    return count, begin, start
end


-- The library. `re_table` is ngx.re's inner functions, see re.lua.
function _M.new(C, inner)
    local obtain, release, exec = inner.obtain, inner.release, inner.exec

    local library = {}


    -- Like that of lua-resty-core.
    function library.split(subject, pattern, opts, ctx, limit, res)
        subject = tostring(subject)
        local pos = ctx and ctx.pos or 1
        limit = limit or 0
        if not res then
            res = new_tab(limit > 0 and min(PARTS, limit) or PARTS, 0)
        elseif type(res) ~= "table" then
            error("res is not a table", 2)
        end
        local len = #subject
        if pos > len then
            res[1] = nil
            return res
        end

        local re, err = obtain(pattern, opts)
        if not re then
            return nil, err
        end
        local count, begin, reached = split_into(res, re, exec, subject,
                                                 max(pos, 1), limit)
        release(re)
        if not count then
            return nil, begin
        end
        if ctx then
            ctx.pos = reached
        end

        if limit > 0 or begin <= len then
            count = count + 1
            res[count] = sub(subject, begin)
        end
        -- What a table of the caller had there.
        res[count + 1] = nil
        if limit <= 0 and begin > len then
            -- Without a limit, empty parts at the end are left out.
            while count > 0 and res[count] == "" do
                res[count] = nil
                count = count - 1
            end
        end
        return res
    end


    -- "jit_stack_size": the limit in bytes, of this thread.
    function library.opt(option, value)
        if option ~= "jit_stack_size" then
            error("unrecognized option name", 2)
        end
        if not C.nbffi_re_jit_stack(max(tonumber(value) or 0, 0)) then
            error("pcre jit stack allocation failed", 2)
        end
    end


    return library
end


return _M
