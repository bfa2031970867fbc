//! Too few threads, too little memory, no descriptors: who asks for more is told
//! so, nothing is lost, and a shortage that has passed is forgotten.

use support::plugins::has;
use support::{Nginx, eventually};

/// A Lua runtime on the pool "short", and 40 calls of it at a time, each with a
/// key of its own: how many were answered, and by how many threads.
const KEYED: &str = "
    function keyed(name)
        return nbffi.load {
            runtime = 'lua', name = name, module = 'keyed', pool = name,
            init = [[package.preload.keyed = function()
                local worker = require 'resty.nonblocking_ffi.worker'
                return { where = function() return worker.index() end }
            end]],
        }
    end
    function call_with_keys(rt)
        local seen, answered, seats = {}, 0, 0
        harness.together(40, function(i)
            local key = 'key ' .. i
            local seat = assert(rt:call { 'where', key = key, timeout = 20 })
            answered = answered + 1
            seats = seats + (seen[seat] and 0 or 1)
            seen[seat] = true
        end)
        return answered .. ' ' .. seats
    end
    function threads_of(name)
        return nbffi.stats().pools[name].threads
    end
    ";

#[test]
fn keys_go_to_threads_that_exist_and_missing_threads_come_later() {
    let nginx = Nginx::builder()
        .preload("shortage")
        .init(KEYED)
        .init("nbffi.pool('short', { threads = 8 }) nbffi.pool('other', { threads = 1 })")
        .location(
            "/short",
            "-- Not the interrupter's thread: it is there then.
             assert(keyed('other'))
             harness.threads(3)
             local rt = assert(keyed('short'))
             assert(threads_of('short') == 3)
             ngx.print(call_with_keys(rt))",
        )
        .location("/again", "ngx.print(call_with_keys(keyed('short')))")
        .location(
            "/close",
            "assert(keyed('short'):close(20)) ngx.print('closed')",
        )
        .location("/plenty", "harness.threads(nil)")
        .location(
            "/threads",
            "assert(keyed('short'):call('where'))
             ngx.print(threads_of('short'))",
        )
        .start();
    let answered = |path: &str, most: usize| {
        let text = nginx.text(path);
        let (answered, seats) = text.split_once(' ').unwrap();
        assert_eq!(answered, "40");
        // Others help out a thread that is engaged.
        let seats: usize = seats.parse().unwrap();
        assert!((1..=most).contains(&seats), "{seats} threads");
    };
    answered("/short", 3);
    answered("/again", 3);
    assert_eq!(nginx.text("/close"), "closed");
    answered("/again", 3);
    let lines = |text: &str| nginx.log().matches(text).count();
    eventually("the log says so", || {
        lines("[short] has 3 of 8 threads: cannot start a thread") == 1
    });
    nginx.text("/plenty");
    eventually("all threads are there", || nginx.text("/threads") == "8");
    answered("/again", 8);
    eventually("the log says so, too", || {
        lines("[short] has all of its 8 threads now") == 1
    });
    assert_eq!(lines("[short] has "), 2, "said once");
}

/// What could not start at all is tried again: the pool, the interrupter.
#[test]
fn a_shortage_of_threads_that_has_passed_is_forgotten() {
    let nginx = Nginx::builder()
        .preload("shortage")
        .init(KEYED)
        .init("nbffi.pool('short', { threads = 4 }) nbffi.pool('other', { threads = 1 })")
        .location(
            "/load",
            "harness.threads(tonumber(ngx.var.args))
             local rt, err = keyed('short')
             if not rt then
                 return ngx.print(err)
             end
             ngx.print(call_with_keys(rt))",
        )
        .location(
            "/interrupter",
            "-- All threads of the pool, and no other.
             harness.threads(tonumber(ngx.var.args))
             assert(harness.fault({ pool = 'short' }):call('echo'))
             local rt, err = keyed('short')
             ngx.print(err)",
        )
        .start();
    for _ in 0..2 {
        let error = nginx.text("/load?0");
        assert!(
            error.contains("cannot start a thread of pool \"short\""),
            "{error}"
        );
    }
    for path in ["/interrupter?4", "/interrupter?0"] {
        let error = nginx.text(path);
        assert!(
            error.contains("cannot start the thread \"interrupter\""),
            "{error}"
        );
    }
    assert!(nginx.text("/load").starts_with("40 "));
}

/// A worker whose memory is used up refuses tasks, and ends those that it has.
#[test]
fn sixty_thousand_posts_without_memory() {
    let nginx = Nginx::builder()
        .setup("max_queue = 100000")
        .location(
            "/posts",
            "local rt = harness.fault()
             local kind, megabytes = ngx.var.args:match('(%a+)-(%d+)')
             assert(rt:call('echo'))
             local futures, refused, raised = {}, 0, 0
             collectgarbage()
             for id = 1, 60000 do
                 futures[id] = false
             end
             -- What waits behind this is in the queue.
             local first = {}
             for i = 1, nbffi.stats().pools.default.threads do
                 first[i] = assert(rt:submit('linger 60000'))
             end
             local function post(id)
                 return rt[kind](rt, 'echo 0 ' .. id)
             end
             local lift = harness.limit('AS', harness.space() + megabytes * 1048576)
             for id = 1, 60000 do
                 local ok, posted, err = pcall(post, id)
                 if not ok then
                     assert(posted == 'not enough memory', posted)
                     raised = raised + 1
                 elseif posted then
                     futures[id] = posted
                 else
                     assert(err == 'no memory', err)
                     refused = refused + 1
                 end
             end
             lift()
             for i = 1, #first do
                 first[i]:cancel()
             end
             local answered = 0
             for id = 1, 60000 do
                 if futures[id] == true then
                     answered = answered + 1
                 elseif futures[id] then
                     assert(assert(futures[id]:wait()) == 'echo 0 ' .. id)
                     answered = answered + 1
                 end
             end
             assert(answered + refused + raised == 60000)
             ngx.print(answered, ' ', refused, ' ', raised)",
        )
        .location(
            "/after",
            "collectgarbage()
             ngx.print(harness.fault():call('echo 0 0'))",
        )
        .start();
    let worker = nginx.worker();
    let mut refused = 0;
    for args in ["cast-8", "submit-16", "submit-8", "cast-20"] {
        let text = nginx.text(&format!("/posts?{args}"));
        let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
        println!("{args}: {text}");
        refused += numbers[1] + numbers[2];
        // What was taken has been run, and what was not has not.
        eventually("all have ended", || nginx.figure("slots.used") == 0.0);
        assert_eq!(nginx.text("/after"), "echo 0 0");
    }
    assert!(refused > 0, "there was memory for all");
    assert_eq!(nginx.worker(), worker);
}

/// No memory for a result costs its caller that result, at once, and nobody else
/// anything: not the drain, not the slot.
#[test]
fn a_result_for_which_there_is_no_memory() {
    let nginx = Nginx::builder()
        .init(
            "-- The results of futures whose tasks have ended, with so many megabytes more.
             function results_with(megabytes, futures)
                 -- What is held back goes out at the end of the turn, which is not yet.
                 local base = require 'resty.nonblocking_ffi.core.base'
                 base.C.nbffi_flush(base.client)
                 repeat
                     local pool = nbffi.stats().pools.default
                 until pool.in_flight == 0
                 collectgarbage() collectgarbage()
                 local results, errors = {}, {}
                 for i = 1, #futures do
                     results[i], errors[i] = false, false
                 end
                 local lift = harness.limit('AS', harness.space() + megabytes * 1048576)
                 for i = 1, #futures do
                     results[i], errors[i] = futures[i]:wait()
                 end
                 lift()
                 return results, errors
             end",
        )
        .location(
            "/plugin",
            "local rt = harness.fault()
             assert(rt:call('echo'))
             local futures = {}
             for i = 1, 20 do
                 local large = i % 5 == 0
                 futures[i] = assert(rt:submit((large and 'give 40000000 ' or 'echo 0 ') .. i))
             end
             local results, errors = results_with(16, futures)
             for i = 1, 20 do
                 if i % 5 == 0 then
                     assert(results[i] == nil and errors[i] == 'no memory', errors[i])
                 else
                     assert(results[i] == 'echo 0 ' .. i)
                 end
             end
             assert(#assert(rt:call('give 40000000')) == 40000000)
             ngx.print('fine')",
        )
        .location(
            "/values",
            "local rt = assert(nbffi.load {
                 runtime = 'lua', module = 'large',
                 init = [[package.preload.large = function()
                     local make = {}
                     function make.text() return ('x'):rep(40000000), 1 end
                     function make.table()
                         local list = {}
                         for i = 1, 1000000 do list[i] = i + 0.5 end
                         return { list }
                     end
                     function make.small() return 'small', 1 end
                     return make
                 end]],
             })
             assert(rt:call('small'))
             local futures = {}
             for i, name in ipairs { 'small', 'text', 'table', 'small' } do
                 futures[i] = assert(rt:submit(name))
             end
             local results, errors = results_with(4, futures)
             assert(results[1] == 'small' and results[4] == 'small')
             assert(results[2] == nil and errors[2] == 'no memory', errors[2])
             assert(results[3] == nil and errors[3] == 'no memory', errors[3])
             assert(#assert(rt:call('table'))[1] == 1000000)
             local text, one = rt:call('text')
             assert(#text == 40000000 and one == 1)
             ngx.print('fine')",
        )
        .start();
    let worker = nginx.worker();
    assert_eq!(nginx.text("/plugin"), "fine");
    assert_eq!(nginx.text("/values"), "fine");
    assert_eq!(nginx.figure("slots.used"), 0.0);
    assert_eq!(nginx.worker(), worker);
}

/// Without descriptors, loading fails with an error that says so, and what is loaded
/// works: loops are stopped, too.
#[test]
fn without_descriptors() {
    let nginx = Nginx::builder()
        .init(
            "function lua(name)
                 return nbffi.load {
                     runtime = 'lua', module = name, name = name,
                     init = 'package.preload.spin = function() return '
                         .. '{ spin = function() while true do end end } end '
                         .. 'package.preload.other = function() return {} end',
                     vm = name,
                 }
             end",
        )
        .location(
            "/loads",
            "assert(harness.echo():call('there') == 'there')
             local lift = harness.limit('NOFILE', 3)
             local function load(options)
                 local ok, rt, err = pcall(nbffi.load, options)
                 return ok and rt == nil and err or 'raised ' .. tostring(rt)
             end
             local errors = {
                 load { runtime = 'c', library = 'async_timer' },
                 select(2, lua('other')),
                 load { runtime = 'python', entry = 'json:dumps' },
                 load { runtime = 'java', class_path = '/', entry = 'a.B#c' },
                 load { runtime = 'go', library = 'go_markdown' },
             }
             assert(harness.echo():call('again') == 'again')
             lift()
             assert(nbffi.load { runtime = 'c', library = 'async_timer' })
             assert(lua('other'))
             for i = 1, #errors do
                 ngx.say((errors[i]:gsub('\\n.*', '')))
             end",
        )
        .location(
            "/stop",
            "local rt = assert(lua('spin'))
             local threads = nbffi.stats().pools.default.threads
             repeat ngx.sleep(0.01) until rt:stats().vm.vms == threads
             local lift = harness.limit('NOFILE', 3)
             local res, err = rt:call { 'spin', timeout = 0.1 }
             assert(res == nil and err == 'timeout', err)
             -- Its VM is replaced once it has been stopped, which needs files.
             repeat ngx.sleep(0.01) until rt:stats().vm.replaced.stopped > 0
             lift()
             res, err = rt:call { 'spin', timeout = 0.1 }
             assert(res == nil and err == 'timeout', err)
             ngx.print('stopped')",
        )
        .plugin("async_timer")
        .start();
    let errors = nginx.text("/loads");
    let errors: Vec<_> = errors.lines().collect();
    assert_eq!(errors.len(), 5, "{errors:?}");
    for error in errors {
        assert!(!error.starts_with("raised"), "{error}");
        assert!(error.contains("Too many open files"), "{error}");
    }
    assert_eq!(nginx.text("/stop"), "stopped");
}

/// What cannot be done without /proc is said, once.
#[test]
fn loops_that_cannot_be_stopped_are_announced() {
    let nginx = Nginx::builder()
        .preload("shortage")
        .init(KEYED)
        .init("nbffi.pool('short', { threads = 2 }) nbffi.pool('other', { threads = 1 })")
        .location(
            "/load",
            "local ffi = require 'ffi'
             ffi.cdef 'void shortage_hide_maps(void);'
             ffi.C.shortage_hide_maps()
             assert(keyed('short'))
             assert(keyed('other'))
             ngx.print(call_with_keys(keyed('short')))",
        )
        .start();
    assert!(nginx.text("/load").starts_with("40 "));
    let lines = || {
        nginx
            .log()
            .matches("/proc/self/maps cannot be read")
            .count()
    };
    eventually("the log says so", || lines() == 1);
}

/// Languages whose runtimes would end the process, or would be taken for broken: they
/// say what they lack, and start when it is there.
#[test]
fn languages_without_threads() {
    let nginx = Nginx::builder()
        .preload("shortage")
        .language("python")
        .language("go")
        .language("java")
        .init("nbffi.pool('one', { threads = 1 })")
        .location(
            "/load",
            "local options = {
                 python = { entry = 'builtins:len' },
                 java = { entry = 'no.such.Class', class_path = '/' },
                 go = { library = 'go_verbs', entry = 'do' },
             }
             local language, threads = ngx.var.args:match('(%a+)-(%d+)')
             assert(harness.fault({ pool = 'one' }):call('echo'))
             harness.threads(tonumber(threads))
             local given = options[language]
             given.runtime, given.pool = language, 'one'
             local rt, err = nbffi.load(given)
             harness.threads(nil)
             ngx.print(rt and 'loaded' or err)",
        )
        .start();
    let worker = nginx.worker();
    let no_thread = "Resource temporarily unavailable";
    for (language, started) in [
        ("python", "loaded"),
        ("go", "loaded"),
        ("java", "no.such.Class"),
    ] {
        if !has(language) {
            continue;
        }
        for threads in [0, 0, if language == "python" { 0 } else { 6 }] {
            let error = nginx.text(&format!("/load?{language}-{threads}"));
            assert!(error.contains(no_thread), "{language}: {error}");
        }
        let text = nginx.text(&format!("/load?{language}-1000"));
        assert!(text.contains(started), "{language}: {text}");
        assert!(!text.contains(no_thread), "{language}: {text}");
    }
    assert_eq!(nginx.worker(), worker);
}
