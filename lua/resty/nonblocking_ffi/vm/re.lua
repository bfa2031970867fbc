-- ngx.re: match, find, gmatch, sub, gsub, as nginx-lua has them, on a PCRE2 of
-- our own.

local ffi = require "ffi"
local regex = require "resty.nonblocking_ffi.vm.regex"

local after = regex.after
local concat = table.concat
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_string = ffi.string
local setmetatable = setmetatable
local sub = string.sub
local tostring = tostring
local type = type


local _M = {}


local NO_MATCH = -1
local ERROR_SIZE = 256
-- Replacements that are kept compiled.
local MAX_TEMPLATES = 1024


-- The 0-based offset to begin at.
local function start_of(ctx)
    local pos = ctx and ctx.pos
    if not pos or pos <= 0 then
        return 0
    end
    return pos - 1
end


local function exec_error(code)
    return "pcre_exec() failed: " .. code
end


-- Compiled replacements; returns the function that looks one up, or nil and an
-- error, after having told the log why.
local function new_templates(C, log_error)
    local error_buffer = ffi_new("char[?]", ERROR_SIZE)
    local young, old, count = {}, {}, 0


    local function make(text)
        local template = C.nbffi_re_template_new(text, #text, error_buffer,
                                                 ERROR_SIZE)
        if template == nil then
            log_error(ffi_string(error_buffer))
            return nil, "failed to compile the replacement template"
        end
        return ffi_gc(template, C.nbffi_re_template_free)
    end


    return function(text)
        local template = young[text]
        if template then
            return template
        end
        local err
        template = old[text]
        if not template then
            template, err = make(text)
            if not template then
                return nil, err
            end
        end
        young[text] = template
        count = count + 1
        if count >= MAX_TEMPLATES then
            young, old, count = {}, young, 0
        end
        return template
    end
end


-- The table `ngx.re`. `env` has regex_cache and pcre2; `log_error` writes a
-- line to the log. The fields `obtain`, `release` and `exec` of the second
-- result are for the library "ngx.re".
function _M.new(C, env, log_error)
    local obtain, release, exec, collect = regex.new(C, env.regex_cache,
                                                     env.pcre2)
    local template_of = new_templates(C, log_error)
    local result = ffi_new("nbffi_text")

    local re_table = {}


    function re_table.match(subject, pattern, opts, ctx, res)
        subject = tostring(subject)
        local re, err = obtain(pattern, opts)
        if not re then
            return nil, err
        end
        local count = exec(re, subject, start_of(ctx), false)
        if count < 0 then
            release(re)
            if count == NO_MATCH then
                return nil
            end
            return nil, exec_error(count)
        end
        if ctx then
            ctx.pos = re.offsets[1] + 1
        end
        res = collect(re, subject, res)
        release(re)
        return res
    end


    function re_table.find(subject, pattern, opts, ctx, nth)
        subject = tostring(subject)
        local re, err = obtain(pattern, opts)
        if not re then
            return nil, nil, err
        end
        local count = exec(re, subject, start_of(ctx), false)
        if count < 0 then
            release(re)
            if count == NO_MATCH then
                return nil
            end
            return nil, nil, exec_error(count)
        end

        local offsets = re.offsets
        if ctx then
            ctx.pos = offsets[1] + 1
        end
        if not nth or nth < 0 then
            nth = 0
        end
        local captures = re.captures
        release(re)
        if nth > captures then
            return nil, nil, "nth out of bound"
        end
        local from, to = offsets[2 * nth], offsets[2 * nth + 1]
        if from < 0 then
            return nil, nil
        end
        return from + 1, to
    end


    local iterator = {}


    local function finish(self)
        release(self.re)
        self.re = nil
    end


    function iterator:__call()
        local re = self.re
        if not re then
            return nil
        end
        local subject, pos = self.subject, self.pos
        local count = exec(re, subject, pos, pos > 0)
        if count < 0 then
            finish(self)
            if count == NO_MATCH then
                return nil
            end
            return nil, exec_error(count)
        end

        local res = collect(re, subject)
        local from, to = re.offsets[0], re.offsets[1]
        if to <= from then
            to = after(re, subject, to)
            if to > #subject then
                finish(self)
            end
        end
        self.pos = to
        return res
    end


    function re_table.gmatch(subject, pattern, opts)
        local re, err = obtain(pattern, opts)
        if not re then
            return nil, err
        end
        return setmetatable({
            re = re,
            subject = tostring(subject),
            pos = 0,
        }, iterator)
    end


    local function sub_text(subject, pattern, replace, opts, global)
        local re, err = obtain(pattern, opts)
        if not re then
            return nil, nil, err
        end
        local template
        template, err = template_of(replace)
        if not template then
            release(re)
            return nil, nil, err
        end
        local count = C.nbffi_re_sub(re.handle, template, subject, #subject,
                                     global, result)
        release(re)
        if count > 0 then
            return ffi_string(result.data, result.len), count
        elseif count == 0 then
            return subject, 0
        elseif count == regex.STOPPED then
            regex.stop()
        end
        return nil, nil, exec_error(count)
    end


    local function sub_function(subject, pattern, replace, opts, global)
        local re, err = obtain(pattern, opts)
        if not re then
            return nil, nil, err
        end
        local pieces, count = {}, 0
        local copied, pos = 0, 0
        repeat
            local code = exec(re, subject, pos, pos > 0)
            if code == NO_MATCH then
                break
            elseif code < 0 then
                release(re)
                return nil, nil, exec_error(code)
            end
            -- The function may match with the same pattern.
            local from, to = re.offsets[0], re.offsets[1]
            count = count + 1
            pieces[2 * count - 1] = sub(subject, copied + 1, from)
            pieces[2 * count] = tostring(replace(collect(re, subject)))
            copied, pos = to, to
            if to <= from then
                pos = after(re, subject, to)
            end
        until not global or pos > #subject
        release(re)
        if count == 0 then
            return subject, 0
        end
        pieces[2 * count + 1] = sub(subject, copied + 1)
        return concat(pieces), count
    end


    local function sub_any(subject, pattern, replace, opts, global)
        subject = tostring(subject)
        if type(replace) == "function" then
            return sub_function(subject, pattern, replace, opts, global)
        end
        return sub_text(subject, pattern, tostring(replace), opts, global)
    end


    function re_table.sub(subject, pattern, replace, opts)
        return sub_any(subject, pattern, replace, opts, false)
    end


    function re_table.gsub(subject, pattern, replace, opts)
        return sub_any(subject, pattern, replace, opts, true)
    end


    return re_table, { obtain = obtain, release = release, exec = exec }
end


return _M
