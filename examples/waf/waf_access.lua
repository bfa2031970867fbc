-- The firewall's side of the event loop: collects a request, has it looked at
-- in the pool, and lets it pass or not.

local nbffi = require "resty.nonblocking_ffi"

local rules = require "waf.rules"

local BODY_LIMIT = require("waf.request").BODY_LIMIT

local concat = table.concat
local format = string.format
local get_body_data = ngx.req.get_body_data
local get_body_file = ngx.req.get_body_file
local get_headers = ngx.req.get_headers
local get_method = ngx.req.get_method
local gsub = string.gsub
local ngx = ngx
local read_body = ngx.req.read_body
local require = require
local sub = string.sub


local _M = {}


local MAX_HEADERS = 100
-- Seconds between two looks whether somebody wants the rules read anew.
local INTERVAL = 0.5
local THRESHOLD = 5

local POOL = { max_queue = 256 }
local RUNTIME = {
    language = "lua", module = "waf", pool = "waf", timeout = 1,
    -- When attacked we must not become slower than the attack: what finds no
    -- room in the queue is looked at in the event loop, as if there were no
    -- pool. Nothing passes unseen.
    on_full = "inline",
}

local generation = 0


local function runtime()
    return nbffi.load(RUNTIME)
end


-- To be called in init_by_lua: declares the pool and reads the rules; those
-- that are needed in the event loop are compiled here, once for all workers.
function _M.init()
    nbffi.pool("waf", POOL)
    rules.publish()
    require "waf"
end


local function follow_reloads(premature)
    local wanted = ngx.shared.waf:get("generation") or 0
    if premature or wanted == generation then
        return
    end
    generation = wanted
    local rt, ok, err
    rt, err = runtime()
    if rt then
        ok, err = rt:reload()
    end
    if not ok then
        ngx.log(ngx.ERR, "waf: the rules are not loaded: ", err)
        return
    end
    -- Now, rather than in a request.
    require "waf"
    ngx.log(ngx.NOTICE, "waf: new rules")
end


-- To be called in init_worker_by_lua: starts the pool.
function _M.init_worker()
    generation = ngx.shared.waf:get("generation") or 0
    ngx.timer.every(INTERVAL, follow_reloads)
    local rt, err = runtime()
    if not rt then
        ngx.log(ngx.ERR, "waf: ", err)
        return
    end
    ngx.log(ngx.NOTICE, "waf: ready")
end


local function collect()
    read_body()
    local headers, err = get_headers(MAX_HEADERS)
    -- Plain names: the table's metatable would not travel.
    local body = get_body_data()
    if body and #body > BODY_LIMIT then
        body = sub(body, 1, BODY_LIMIT)
    end
    return {
        method = get_method(), target = ngx.var.request_uri, headers = headers,
        headers_cut = err == "truncated", body = body,
        -- Reading it would block here; it does not in the pool.
        body_file = not body and get_body_file() or nil,
    }
end


local function inspect(options, request)
    if options.in_loop then
        return require("waf").inspect(request, options.skip)
    end
    local rt, err = runtime()
    if not rt then
        return nil, err
    end
    return rt:call("inspect", request, options.skip)
end


-- The hits in words. What a client sent must not look like lines of the log.
local function describe(hits)
    local lines = {}
    for i = 1, #hits do
        local hit = hits[i]
        lines[i] = format("%d (%s: %s) in %s \"%s\"", hit.id, hit.group,
                          hit.what, hit.part, hit.text)
    end
    return (gsub(concat(lines, "; "), "[%c\128-\255]", "?"))
end


-- syntax: waf_access.check(options?)
--
-- For access_by_lua: ends the request with status 403 if the rules' scores add
-- up to `threshold`. Options:
--   threshold  default 5, that of one certain attack
--   only_log   true: nothing is blocked, but logged
--   skip       rules that do not count here: { [1002] = true }
--   fail       status if the firewall itself fails, by default nil: passes
--   in_loop    true: in the event loop, to compare
function _M.check(options)
    local score, hits = inspect(options or {}, collect())
    if not score then
        ngx.log(ngx.ERR, "waf: ", hits)
        if options and options.fail then
            return ngx.exit(options.fail)
        end
        return
    end
    if score == 0 then
        return
    end
    local threshold = options and options.threshold or THRESHOLD
    local blocks = score >= threshold and not (options and options.only_log)
    ngx.log(blocks and ngx.WARN or ngx.NOTICE, "waf: ",
            blocks and "blocked" or "passed", ", score ", score, ": ",
            describe(hits))
    if blocks then
        return ngx.exit(ngx.HTTP_FORBIDDEN)
    end
end


-- Content handler: has the files read anew, and the rules taken over by all
-- workers, unless they are wrong.
function _M.reload()
    local count
    local rt, err = runtime()
    if rt then
        -- It blocks and computes: not here.
        count, err = rt:call("publish")
    end
    if count then
        ngx.shared.waf:incr("generation", 1, 0)
        ngx.say("rules: ", count)
        return
    end
    ngx.log(ngx.ERR, "waf: the rules stay as they are: ", err)
    ngx.status = 500
    ngx.say(err)
end


-- Content handler: what there was to do.
function _M.status()
    local rt, err = runtime()
    if not rt then
        ngx.status = 500
        ngx.say(err)
        return
    end
    local count, checks = require("waf").count()
    local stats = rt:stats()
    ngx.say("rules: ", count, ", and ", checks, " checks\n",
            "requests: ", stats.calls, ", of which in the event loop: ",
            stats.inline, "\n",
            format("microseconds each: median %.0f, p99 %.0f",
                   stats.run_time.p50 * 1e6, stats.run_time.p99 * 1e6))
end


return _M
