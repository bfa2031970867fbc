-- Compiled patterns of a worker VM: options, cache, matching. The functions of
-- ngx.re and of the library "ngx.re" are made of these.
--
-- The cache has two generations. What is used moves to the younger one; when
-- that has `lua_regex_cache_max_entries` patterns it becomes the older one, and
-- the older one is dropped. A hit costs two table reads, and no pattern of a
-- working set that nginx would keep is ever dropped. There are at most twice as
-- many patterns as nginx keeps.

local bit = require "bit"
local ffi = require "ffi"
local new_tab = require "table.new"

local band = bit.band
local bor = bit.bor
local byte = string.byte
local error = error
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_string = ffi.string
local format = string.format
local lshift = bit.lshift
local pairs = pairs
local sub = string.sub


local _M = {}


-- Bits of crates/lua-vm/src/regex.rs, and one of our own.
local DUPNAMES = lshift(1, 7)
local DFA = lshift(1, 10)
local ONCE = lshift(1, 11)

local LETTERS = {
    i = 1,
    m = lshift(1, 1),
    s = lshift(1, 2),
    x = lshift(1, 3),
    a = lshift(1, 4),
    u = lshift(1, 5),
    U = bor(lshift(1, 5), lshift(1, 6)),
    D = DUPNAMES,
    J = lshift(1, 8),
    j = lshift(1, 9),
    d = DFA,
    o = ONCE,
}

-- What C returns if the VM's code is to end.
local STOPPED = -1000

local ERROR_SIZE = 256
local INT_MAX = 0x7fffffff


-- The numbers and names of the groups that have one, as a list of both in
-- turn; nil if there are none.
local function names_of(info)
    local count = info.name_count
    if count == 0 then
        return nil
    end
    local list = new_tab(2 * count, 0)
    local entry = info.names
    for i = 1, count do
        list[2 * i - 1] = bor(lshift(entry[0], 8), entry[1])
        list[2 * i] = ffi_string(entry + 2)
        entry = entry + info.name_size
    end
    return list
end


-- Ends the VM's code. Code that LuaJIT has compiled does not look whether it
-- should end, so it must get here by itself.
local function stop()
    error("stopped: its caller has given up", 0)
end


-- Returns four functions:
--
-- obtain(pattern, opts)
--     the compiled pattern, or nil and an error. Unknown options raise one at
--     the caller of its caller.
-- release(re)
--     to be called when a compiled pattern is not used any more
-- exec(re, subject, start, valid)
--     matches from the 0-based offset `start` on: the number of pairs in
--     re.offsets that are set, or PCRE2's negative error code. `valid`: the
--     subject was matched before from offset 0.
-- collect(re, subject, res)
--     the captures of that match, in `res` if it is a table
--
-- A compiled pattern has the fields offsets, captures (the number of groups),
-- handle (for C) and utf.
function _M.new(C, max_entries, pcre2)
    local error_buffer = ffi_new("char[?]", ERROR_SIZE)
    local info = ffi_new("nbffi_re_info")
    local compiler = pcre2 and "pcre2_compile" or "pcre_compile"

    -- By the text of the options: their bits and their part of the cache.
    local modes = {}
    -- Patterns in all the younger generations.
    local young_count = 0


    local function parse(opts)
        local bits = 0
        for i = 1, #opts do
            local letter = LETTERS[sub(opts, i, i)]
            if not letter then
                error(format('unknown flag "%s" (flags "%s")', sub(opts, i, i),
                             opts), 4)
            end
            bits = bor(bits, letter)
        end
        local mode = {
            bits = bits,
            once = band(bits, ONCE) ~= 0 and max_entries > 0,
            young = {},
            old = {},
        }
        modes[opts] = mode
        return mode
    end


    local function compile(pattern, mode)
        local handle = C.nbffi_re_new(pattern, #pattern, mode.bits, info,
                                      error_buffer, ERROR_SIZE)
        if handle == nil then
            local message = format('%s() failed: %s in "%s"', compiler,
                                   ffi_string(error_buffer), pattern)
            local offset = info.error_offset
            if offset < #pattern then
                message = format('%s at "%s"', message,
                                 sub(pattern, offset + 1))
            end
            return nil, message
        end
        local captures = info.captures
        return {
            handle = ffi_gc(handle, C.nbffi_re_free),
            captures = captures,
            offsets = ffi_new("int32_t[?]", 2 * captures + 2),
            names = names_of(info),
            utf = info.utf,
            dupnames = band(mode.bits, DUPNAMES) ~= 0,
            once = mode.once,
        }
    end


    local function remember(pattern, mode, re)
        mode.young[pattern] = re
        mode.old[pattern] = nil
        young_count = young_count + 1
        if young_count >= max_entries then
            for _, each in pairs(modes) do
                each.old = each.young
                each.young = {}
            end
            young_count = 0
        end
    end


    local function obtain_slowly(pattern, mode)
        local re = mode.old[pattern]
        if not re then
            local err
            re, err = compile(pattern, mode)
            if not re then
                return nil, err
            end
        end
        if mode.once then
            remember(pattern, mode, re)
        end
        return re
    end


    local function obtain(pattern, opts)
        opts = opts or ""
        local mode = modes[opts] or parse(opts)
        local re = mode.young[pattern]
        if re then
            return re
        end
        return obtain_slowly(pattern, mode)
    end


    local function release(re)
        if not re.once then
            C.nbffi_re_free(ffi_gc(re.handle, nil))
        end
    end


    local function exec(re, subject, start, valid)
        if start > INT_MAX then
            start = INT_MAX
        end
        local count = C.nbffi_re_match(re.handle, subject, #subject, start,
                                       valid, re.offsets)
        if count == STOPPED then
            stop()
        end
        return count
    end


    local function collect_names(re, res)
        local names = re.names
        for i = 1, #names, 2 do
            local capture = res[names[i]]
            local name = names[i + 1]
            if not re.dupnames then
                res[name] = capture
            elseif capture then
                -- A list of what matched.
                local list = res[name]
                if list then
                    list[#list + 1] = capture
                else
                    res[name] = { capture }
                end
            end
        end
    end


    local function collect(re, subject, res)
        local offsets = re.offsets
        local captures = re.captures
        res = res or new_tab(captures, re.names and #re.names / 2 or 0)
        for i = 0, captures do
            local from = offsets[2 * i]
            res[i] = from >= 0 and sub(subject, from + 1, offsets[2 * i + 1])
        end
        if re.names then
            collect_names(re, res)
        end
        return res
    end


    return obtain, release, exec, collect
end


-- The 0-based offset of the character after that at `offset`, which is the next
-- byte unless the pattern says that there are characters.
function _M.after(re, subject, offset)
    local next = offset + 1
    if re.utf then
        while band(byte(subject, next + 1) or 0, 0xc0) == 0x80 do
            next = next + 1
        end
    end
    return next
end


_M.STOPPED = STOPPED
_M.stop = stop


return _M
