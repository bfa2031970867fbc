//! Lua code that misbehaves on pool threads: VMs that run out of memory, loops on every
//! thread, modules that cannot be loaded. Only the caller that causes a fault sees it. In
//! `exits`, nginx exits under such code.

#[path = "lua_faults/endless.rs"]
mod endless;
#[path = "lua_faults/exits.rs"]
mod exits;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::Nginx;
use support::builder::Builder;
use support::process;

/// A module of all configurations, for the event loop and for VMs.
const FAULTS: &str = r#"
local ffi = require "ffi"

ffi.cdef "int pause(void);"

local _M = {}

-- Loops of all sorts: compiled, interpreted, in coroutines, catching errors,
-- allocating, in callbacks from C.
_M.MIX = {
    "while", "counting", "interpreted", "pcall of a loop", "in a coroutine",
    "tables", "strings", "sort", "gsub", "a callback from C", "collections",
    "regular expressions",
}

function _M.loop(name)
    return require("runaways").loops[name]()
end

function _M.nap(seconds, value)
    ngx.sleep(seconds)
    return value
end

-- Cannot be stopped at all.
function _M.block()
    while true do ffi.C.pause() end
end

-- The same runtime again and again, by its name. For the event loop, where
-- init_by_lua has set nbffi. A short timeout is also that of the load, for which
-- a busy machine may need longer: until it is there.
function _M.load(name, options)
    options = options or {}
    options.runtime, options.name = "lua", name
    options.module = options.module or "faults"
    local rt, err
    repeat
        rt, err = nbffi.load(options)
    until rt or err ~= "timeout"
    return assert(rt, err)
end

-- Waits until a condition holds; an error if it never does.
function _M.await(what, condition)
    if not require("test_plugins").poll(condition) then
        error("not in time: " .. what, 2)
    end
end

-- An error without its place and traceback.
function _M.brief(err)
    return (tostring(err):gsub("\n.*", ""))
end

return _M
"#;

/// Starts nginx and writes the modules that VMs and the event loop require. They exist
/// before the first request, but not yet in `init_worker`.
fn start(builder: Builder) -> Nginx {
    let nginx = builder.test_modules().start();
    fs::write(nginx.dir().join("prefix/lua/faults.lua"), FAULTS).unwrap();
    nginx
}

#[test]
fn vms_run_out_of_memory_while_others_work() {
    let nginx = start(
        Nginx::builder()
            .setup("max_queue = 10000")
            .init("nbffi.pool('four', { threads = 4 })")
            .location(
                "/hog",
                "local faults = require 'faults'
                 local limit = 16 * 1048576
                 local hog = faults.load('hog', { module = 'vm_jobs',
                     pool = 'four', vm_max_memory = limit })
                 local calm = faults.load('calm', { module = 'vm_jobs',
                     pool = 'four', vm = 'calm' })
                 faults.await('eight VMs', function()
                     return hog:stats().vm.vms == 4 and calm:stats().vm.vms == 4
                 end)
                 local WAYS = { 'hoard_tables', 'hoard_strings', 'keep' }
                 local refused, right = 0, 0
                 local list = { 1, { 'two' } }
                 harness.together(24, function(i)
                     if i <= 6 then
                         for round = 1, 5 do
                             local res, err = hog:call(WAYS[round % 3 + 1],
                                                       2 * limit)
                             err = faults.brief(err)
                             assert(res == nil
                                    and err == 'runtime error: not enough memory',
                                    err)
                             refused = refused + 1
                         end
                         return
                     end
                     -- In VMs of others, and in those that are replaced.
                     local rt = i <= 15 and calm or hog
                     for round = 1, 40 do
                         local a, b, c = rt:call('echo', i, list, round)
                         assert(a == i and b[2][1] == 'two' and c == round, b)
                         right = right + 1
                     end
                 end)
                 faults.await('four VMs again', function()
                     local vm = hog:stats().vm
                     return vm.vms == 4 and vm.made == 4 + refused
                 end)
                 local stats, untouched = hog:stats(), calm:stats()
                 assert(stats.vm.memory < 4 * limit, stats.vm.memory)
                 harness.dump {
                     refused = refused, right = right,
                     replaced = stats.vm.replaced.memory,
                     stopped = stats.vm.replaced.stopped, stuck = stats.vm.stuck,
                     ok = stats.ok + untouched.ok, in_flight = stats.in_flight,
                     calm = untouched.vm.made,
                 }",
            ),
    );
    let figures = nginx.figures("/hog");
    let expected = [
        ("refused", 30.0),
        ("right", 720.0),
        ("replaced", 30.0),
        ("stopped", 0.0),
        ("stuck", 0.0),
        ("ok", 720.0),
        ("in_flight", 0.0),
        ("calm", 4.0),
    ];
    for (key, value) in expected {
        assert_eq!(figures[key], value, "{key}: {figures:?}");
    }
    assert_eq!(nginx.figure("slots.used"), 0.0);
    let notes = nginx
        .log()
        .matches("a VM is replaced: it hit its memory limit")
        .count();
    assert!(notes >= 1, "{}", nginx.log());
}

#[test]
fn every_thread_runs_away_and_comes_back() {
    let nginx = start(
        Nginx::builder()
            .init(
                "nbffi.pool('four', { threads = 4 })
                 nbffi.pool('other', { threads = 1 })",
            )
            .location(
                "/mad",
                "local faults = require 'faults'
                 local mad = faults.load('mad', { pool = 'four',
                                                  module = 'runaways' })
                 local same = faults.load('same', { pool = 'four',
                                                    module = 'vm_jobs' })
                 local other = faults.load('other', { pool = 'other',
                                                      module = 'vm_jobs' })
                 local stopped, right = 0, 0
                 local function check(value, res, err)
                     assert(res == value, err)
                     right = right + 1
                 end
                 for first = 1, #faults.MIX, 4 do
                     local loops, waiting = {}, {}
                     for i = 1, 4 do
                         local board = require('board').new()
                         loops[i] = mad:submit({ 'run', timeout = 3600 },
                                               board.address,
                                               faults.MIX[first + i - 1])
                         assert(board:has(0, 1), 'a thread is not to be had')
                     end
                     for i = 1, 20 do
                         waiting[i] = same:submit({ 'echo', timeout = 3600 }, i)
                     end
                     -- Another pool does not notice.
                     for i = 1, 50 do check(i, other:call('echo', i)) end
                     assert(same:stats().ok == right - 50 * (first + 3) / 4,
                            'a task ran on a thread that was taken')
                     for i = 1, 4 do
                         assert(loops[i]:cancel())
                         local res, err = loops[i]:wait()
                         assert(res == nil and err == 'cancelled', err)
                         stopped = stopped + 1
                     end
                     for i = 1, 20 do check(i, waiting[i]:wait()) end
                 end
                 faults.await('four VMs that are new', function()
                     local vm = mad:stats().vm
                     return vm.vms == 4 and vm.made == 4 + stopped
                 end)
                 local seen, count, key = {}, 0, 0
                 faults.await('every thread serves', function()
                     harness.together(8, function()
                         key = key + 1
                         local rounds, index = same:call { 'count',
                                                           key = 'key ' .. key }
                         assert(rounds, index)
                         count = count + (seen[index] and 0 or 1)
                         seen[index] = true
                     end)
                     return count == 4
                 end)
                 local stats = mad:stats()
                 harness.dump {
                     stopped = stats.vm.replaced.stopped, right = right,
                     stuck = stats.vm.stuck, cancelled = stats.errors.cancelled,
                     in_flight = stats.in_flight,
                 }",
            )
            .location(
                "/late",
                "local faults = require 'faults'
                 local mad = faults.load('mad', { pool = 'four',
                                                  module = 'runaways' })
                 local before = mad:stats().vm.replaced.stopped
                 local begun = 0
                 harness.together(#faults.MIX, function(i)
                     local board = require('board').new()
                     -- A deadline may pass in the queue: then once more.
                     faults.await('a loop begins', function()
                         local res, err = mad:call({ 'run', timeout = 0.2 },
                                                   board.address, faults.MIX[i])
                         assert(res == nil and err == 'timeout', err)
                         return board:get(0) > 0
                     end)
                     begun = begun + board:get(0)
                 end)
                 faults.await('each has cost one VM', function()
                     local stats = mad:stats()
                     return stats.in_flight == 0 and stats.vm.vms == 4
                            and stats.vm.replaced.stopped >= before + begun
                 end)
                 harness.together(40, function(i)
                     local res, err = mad:call_fn(function(value)
                         return value
                     end, i)
                     assert(res == i, err)
                 end)
                 ngx.print('fine')",
            ),
    );
    let figures = nginx.figures("/mad");
    let expected = [
        ("stopped", 12.0),
        ("right", 210.0),
        ("stuck", 0.0),
        ("cancelled", 12.0),
        ("in_flight", 0.0),
    ];
    for (key, value) in expected {
        assert_eq!(figures[key], value, "{key}: {figures:?}");
    }
    assert_eq!(nginx.text("/late"), "fine");
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

#[test]
fn sixty_four_vms() {
    let nginx = start(
        Nginx::builder()
            .init("nbffi.pool('wide', { threads = 64 })")
            .location(
                "/wide",
                "local faults = require 'faults'
                 local rt = faults.load('wide', { pool = 'wide',
                                                  module = 'vm_jobs' })
                 faults.await('all VMs are made', function()
                     return rt:stats().vm.vms == 64
                 end)
                 -- Each is found by some key; and leaves a mark when it ends.
                 ends = require('board').new()
                 local seen, count, key = {}, 0, 0
                 local function mark(address)
                     local index = require('resty.nonblocking_ffi.worker').index()
                     local cells = require('board').at(address)
                     last = last or newproxy(true)
                     getmetatable(last).__gc = function()
                         cells:set(index, 1)
                     end
                     return index
                 end
                 faults.await('each VM has been used', function()
                     for _ = 1, 100 do
                         key = key + 1
                         local index, err = rt:call_fn({ mark,
                             key = 'key ' .. key }, ends.address)
                         assert(index, err)
                         count = count + (seen[index] and 0 or 1)
                         seen[index] = true
                     end
                     return count == 64
                 end)
                 -- All at once.
                 local boards, futures = {}, {}
                 for i = 1, 64 do
                     boards[i] = require('board').new()
                     futures[i] = rt:submit({ 'hold', timeout = 60 },
                                            boards[i].address, { i })
                 end
                 faults.await('all of them run', function()
                     return rt:stats().running == 64
                 end)
                 for i = 1, 64 do boards[i]:set(1, 1) end
                 for i = 1, 64 do
                     local res, err = futures[i]:wait()
                     assert(res and res[1] == i, err)
                 end
                 local stats = rt:stats()
                 assert(stats.vm.memory < 64 * 2 ^ 21, stats.vm.memory)
                 harness.dump { vms = stats.vm.vms, made = stats.vm.made,
                                seen = count, failed = stats.calls - stats.ok }",
            )
            .location(
                "/close",
                "local faults = require 'faults'
                 local rt = faults.load('wide', { pool = 'wide',
                                                  module = 'vm_jobs' })
                 local function ended()
                     local count = 0
                     for cell = 0, 63 do count = count + ends:get(cell) end
                     return count
                 end
                 assert(ended() == 0)
                 assert(rt:close())
                 faults.await('all VMs are closed', function()
                     return ended() == 64
                 end)
                 ngx.print('fine')",
            ),
    );
    let figures = nginx.figures("/wide");
    for (key, value) in [
        ("vms", 64.0),
        ("made", 64.0),
        ("seen", 64.0),
        ("failed", 0.0),
    ] {
        assert_eq!(figures[key], value, "{key}: {figures:?}");
    }
    let threads = process::threads(nginx.worker());
    let wide = threads
        .iter()
        .filter(|(_, name)| name.starts_with("nbffi/wide"));
    assert_eq!(wide.count(), 64, "{threads:?}");
    assert_eq!(nginx.text("/close"), "fine");
}

#[test]
fn collectors_are_kept_busy_on_both_sides() {
    let nginx = start(
        Nginx::builder()
            .init("nbffi.pool('four', { threads = 4 })")
            .location(
                "/churn",
                "local faults, jobs = require 'faults', require 'vm_jobs'
                 -- Cycles all the time, and much less memory than all of the
                 -- values together take.
                 local eager = \"collectgarbage('setpause', 20) \"
                               .. \"collectgarbage('setstepmul', 2000)\"
                 local rt = faults.load('churn', { pool = 'four',
                     module = 'vm_jobs', init = eager,
                     vm_max_memory = 48 * 1048576 })
                 local round = tonumber(ngx.var.args)
                 local pause = collectgarbage('setpause', 20)
                 local right = 0
                 harness.together(12, function(thread)
                     local shape = jobs.SHAPES[(thread + round) % #jobs.SHAPES + 1]
                     local value = { jobs.build(shape, 3000) }
                     local found = { rt:call('build', shape, 3000) }
                     assert(jobs.same(found, value), shape)
                     found = { rt:call('echo', value, round, value) }
                     assert(jobs.same(found, { value, round, value }), shape)
                     if round % 5 == 0 then collectgarbage() end
                     right = right + 1
                 end)
                 collectgarbage('setpause', pause)
                 local vm = rt:stats().vm
                 harness.dump { right = right, shapes = #jobs.SHAPES,
                                made = vm.made, memory = vm.replaced.memory }",
            ),
    );
    let churn = |round: u32| {
        let figures = nginx.figures(&format!("/churn?{round}"));
        assert_eq!(figures["right"], 12.0, "{figures:?}");
        figures
    };
    let mut figures = churn(0);
    for round in 1..=2 * figures["shapes"] as u32 {
        figures = churn(round);
    }
    assert_eq!(figures["made"], 4.0, "{figures:?}");
    assert_eq!(figures["memory"], 0.0, "{figures:?}");
}

#[test]
fn with_the_code_cache_off_there_is_an_answer_or_a_clear_error() {
    let mut nginx = start(Nginx::builder().http("lua_code_cache off;").location(
        "/call",
        "local rt, err = nbffi.load { runtime = 'lua', module = 'faults' }
         if not rt then
             return ngx.print('error ', err)
         end
         harness.say(rt:call('nap', 0.01, 'call ' .. ngx.var.args))",
    ));
    nginx.allow("lua_code_cache is off");
    let worker = nginx.worker();
    let (works, explains) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (nginx, works, explains) = (&nginx, &works, &explains);
            scope.spawn(move || {
                for number in 1..=25 {
                    let id = client * 25 + number;
                    let answer = nginx.text(&format!("/call?{id}"));
                    // Relaxed: read when these threads have ended.
                    if answer == format!("ok call {id}") {
                        works.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert!(
                            answer.starts_with("error lua_code_cache is off"),
                            "{answer}"
                        );
                        explains.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    // One VM of a worker at a time is served.
    assert!(works.into_inner() > 0);
    assert!(explains.into_inner() > 0);
    assert_eq!(nginx.worker(), worker);
}

#[test]
fn modules_that_cannot_be_loaded() {
    let nginx = start(
        Nginx::builder()
            .init("nbffi.pool('two', { threads = 2 })")
            .location(
                "/try",
                "local faults = require 'faults'
                 local CASES = {
                     { 'not found', module = 'no.such.module' },
                     { 'not found', init = 'no.such.init' },
                     { 'init:1: oops', init = \"error('oops')\" },
                     { 'unexpected symbol', init = 'x = = 1' },
                     { 'timeout', timeout = 0.3, init = 'while true do end' },
                     { 'not enough memory', vm_max_memory = 2 ^ 22,
                       init = \"x = ('y'):rep(2 ^ 23)\" },
                 }
                 local function try(i)
                     local case = CASES[i % #CASES + 1]
                     local options = { runtime = 'lua', pool = 'two' }
                     for key, value in pairs(case) do options[key] = value end
                     options[1] = nil
                     options.module = options.module or 'vm_jobs'
                     local rt, err = nbffi.load(options)
                     assert(rt == nil, case[1])
                     assert(err:find(case[1], 1, true), err)
                 end
                 for i = 1, #CASES do try(i) end
                 harness.together(30, try)
                 local rt = faults.load('good', { pool = 'two',
                                                  module = 'vm_jobs' })
                 faults.await('the pool works', function()
                     return rt:stats().vm.vms == 2
                 end)
                 assert(rt:call('echo', 'well') == 'well')
                 assert(rt:close())
                 local stats = nbffi.stats()
                 local left = next(stats.runtimes)
                 ngx.print(tostring(left), ' ', stats.slots.used)",
            )
            .location(
                "/later",
                "local faults = require 'faults'
                 local board = require('board').new()
                 local rt = faults.load('later', { pool = 'two',
                     module = 'vm_jobs', vm_max_memory = 2 ^ 24,
                     init = (\"local cell = require('board').at(%.0f):get(1) \"
                             .. \"if cell == 1 then error('no more') end\")
                            :format(board.address) })
                 faults.await('two VMs', function()
                     return rt:stats().vm.vms == 2
                 end)
                 -- From now on no VM can be replaced.
                 board:set(1, 1)
                 local failed = 0
                 faults.await('no VM is left', function()
                     local res, err = rt:call('hoard_tables')
                     err = faults.brief(err)
                     assert(res == nil, 'unlimited')
                     assert(err == 'runtime error: not enough memory'
                            or err:find('runtime error: .*no more'), err)
                     failed = failed + (err:find('no more') and 1 or 0)
                     return rt:stats().vm.vms == 0
                 end)
                 harness.together(20, function(i)
                     local res, err = rt:call('echo', i)
                     assert(res == nil and err:find('no more'), err)
                 end)
                 board:set(1, 0)
                 harness.together(20, function(i)
                     local res, err = rt:call('echo', i)
                     assert(res == i, err)
                 end)
                 assert(rt:close())
                 ngx.print('fine')",
            ),
    );
    let worker = nginx.worker();
    for _ in 0..3 {
        assert_eq!(nginx.text("/try"), "nil 0");
    }
    assert_eq!(nginx.text("/later"), "fine");
    assert_eq!(nginx.worker(), worker);
    assert_eq!(nginx.figure("slots.used"), 0.0);
}
