-- The handlers of the demo: pictures in, thumbnails out, and what it costs; and
-- a text in, for other languages.

local nbffi = require "resty.nonblocking_ffi"

local ngx = ngx
local fmt = string.format

local _M = {}

local thumbnail

-- What each language does with a text: the options of load.
local LANGUAGES = {
    python = { language = "python", entry = "template:Words", path = "python" },
    go = {
        language = "go",
        library = ngx.config.prefix() .. "lib/libgo_markdown.so",
        entry = "page",
    },
    java = { language = "java", entry = "Gzip#call", class_path = "java" },
}


function _M.init_worker()
    -- Pictures are resized by threads that stand back for the event loop when
    -- there are fewer cores than work.
    assert(nbffi.pool("pictures"))

    -- What goes wrong here is in the error log; /thumb then answers with 500.
    thumbnail = assert(nbffi.load{
        name = "thumbnail",
        language = "c",
        library = ngx.config.prefix() .. "lib/libthumbnail.so",
        config = "width=160 height=160",
        pool = "pictures",
        timeout = 30,
    })
end


local function body()
    ngx.req.read_body()
    return ngx.req.get_body_data() or ""
end


function _M.thumb()
    local picture, err, code, msg = thumbnail:call(body())
    if not picture then
        ngx.status = 500
        local text = err .. (code and fmt(" (%d: %s)", code, msg or "") or "")
        ngx.header.content_length = #text
        ngx.print(text)
        return
    end

    -- The plugin's message: "image/jpeg 160x120 of 1600x1200".
    ngx.header.content_type = msg and msg:match("^%S+")
    ngx.header.x_thumbnail = msg
    ngx.header.content_length = #picture
    ngx.print(picture)
end


-- A language is loaded when it is first asked for: who has only some of them
-- sees what these do.
local function load(language)
    local options = { name = language, timeout = 30 }
    for key, value in pairs(assert(LANGUAGES[language])) do
        options[key] = value
    end
    -- The same options again are the same runtime.
    return nbffi.load(options)
end


function _M.work()
    local runtime, err = load(ngx.var.arg_language)
    local answer
    if runtime then
        answer, err = runtime:call(body())
    end
    if not answer then
        ngx.status = 500
        answer = err
    end
    ngx.header.content_length = #answer
    ngx.print(answer)
end


-- The contrast: as much work, in the worker's own thread.
function _M.busy()
    local seconds = tonumber(ngx.var.arg_seconds) or 0
    ngx.update_time()
    local until_ = ngx.now() + seconds
    repeat
        ngx.update_time()
    until ngx.now() >= until_

    ngx.header.content_length = 2
    ngx.print("ok")
end


function _M.stats()
    local language = ngx.var.arg_language
    local s = (language and assert(load(language)) or thumbnail):stats()
    local lines = {
        fmt("calls %d, ok %d, running %d, queued %d",
            s.calls, s.ok, s.running, s.queued),
    }
    for _, name in ipairs{ "queue_time", "run_time", "total_time" } do
        local t = s[name]
        lines[#lines + 1] = fmt("%s mean %.6f p50 %.6f p99 %.6f max %.6f s",
                                name, t.mean, t.p50, t.p99, t.max)
    end

    local text = table.concat(lines, "\n") .. "\n"
    ngx.header.content_length = #text
    ngx.print(text)
end


return _M
