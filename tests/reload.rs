//! Reload, quit and stop of an nginx whose workers are at work: no request is
//! lost, and old workers leave as soon as they may.

use support::builder::Builder;
use support::http::Load;
use support::plugins::Count;
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, PATIENCE, Size, eventually};

/// `/sleep?<ms>+<id>`: sleeps in a pool thread and answers the request. The
/// calls of a request go one after the other.
fn sleeper() -> Builder {
    Nginx::builder()
        .init("nbffi.pool('wide', { threads = 8 })")
        .location(
            "/sleep",
            "local ms, id = ngx.var.args:match('^(%d+)-(%d+)$')
             local rt = harness.fault { pool = 'wide' }
             ngx.print(assert(rt:call('sleep ' .. ms .. ' ' .. id)))",
        )
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let nginx = sleeper().workers(2).start();
    let load = Load::start(&nginx, 8, "/sleep?5-", "sleep 5 ");
    let sent = load.outlive_reloads(&nginx, Size::Reloads.or(5), 50);
    // No request was run twice, none was answered without.
    let runs = nginx.counters().runs(sent);
    assert!(runs.iter().all(|&runs| runs == 1), "{runs:?}");
}

#[test]
fn an_old_worker_finishes_its_calls_and_leaves() {
    let nginx = sleeper().start();
    let worker = nginx.worker();
    std::thread::scope(|scope| {
        let long = scope.spawn(|| nginx.text("/sleep?1000-1"));
        eventually("the call runs", || {
            nginx.counters().get(Count::Running) == 1
        });
        nginx.reload();
        assert!(process::is_alive(worker));
        // The new worker serves meanwhile.
        assert_eq!(nginx.text("/sleep?1-2"), "sleep 1 2");
        assert_eq!(long.join().unwrap(), "sleep 1000 1");
        nginx.wait_gone(worker, EXIT_PROMISE);
    });
}

#[test]
fn calls_that_a_request_makes_after_the_reload_still_work() {
    let nginx = Nginx::builder()
        .location(
            "/series",
            "local rt = harness.fault()
             for i = 1, 5 do
                 assert(rt:call('sleep 100 ' .. i) == 'sleep 100 ' .. i)
                 local future = assert(rt:submit('echo 0 ' .. 10 + i))
                 ngx.sleep(0.02)
                 assert(future:wait() == 'echo 0 ' .. 10 + i)
                 assert(rt:cast('echo 0 ' .. 20 + i))
             end
             local found, missing = nbffi.wait_all {
                 rt:submit('sleep 1 31'), rt:submit('sleep 1 32')
             }
             ngx.print(found[1], found[2], next(missing))",
        )
        .start();
    let worker = nginx.worker();
    std::thread::scope(|scope| {
        let series = scope.spawn(|| nginx.text("/series"));
        eventually("the first call runs", || {
            nginx.counters().get(Count::Started) == 1
        });
        nginx.reload();
        assert_eq!(series.join().unwrap(), "sleep 1 31sleep 1 32nil");
        nginx.wait_gone(worker, EXIT_PROMISE);
    });
    let runs = nginx.counters().runs(32);
    let expected = (1..=32).map(|id| {
        u64::from([0, 10, 20, 30].iter().any(|&tens| {
            let ones = if tens == 30 { 2 } else { 5 };
            id > tens && id <= tens + ones
        }))
    });
    assert_eq!(runs, expected.collect::<Vec<_>>());
}

#[test]
fn quit_answers_what_it_has_begun() {
    let mut nginx = sleeper().workers(2).start();
    let calls: Vec<_> = (1..=8)
        .map(|id| (format!("/sleep?500-{id}"), format!("sleep 500 {id}")))
        .collect();
    nginx.quit_while(&calls, |nginx| nginx.counters().get(Count::Started) == 8);
    nginx.wait_stopped(EXIT_PROMISE);
    assert_eq!(nginx.counters().runs(8), [1; 8]);
}

#[test]
fn stop_ends_at_once_whatever_runs_and_waits() {
    let mut nginx = sleeper().workers(2).start();
    let load = Load::start(&nginx, 24, "/sleep?60000-", "");
    eventually("pool threads are busy", || {
        nginx.counters().get(Count::Running) >= 8
    });
    nginx.stop(Signal::Term, EXIT_PROMISE);
    let outcome = load.stop();
    assert_eq!(outcome.answered, 0);
    let runs = nginx.counters().runs(outcome.sent);
    assert!(runs.iter().all(|&runs| runs <= 1), "{runs:?}");
}

#[test]
fn a_killed_worker_is_replaced_and_the_others_go_on() {
    let mut nginx = sleeper().workers(3).start();
    let kills = Size::Reloads.or(5) as usize;
    nginx.allow_kills(kills);
    let load = Load::start(&nginx, 8, "/sleep?3-", "sleep 3 ");
    let victim = || nginx.text("/pid").parse().unwrap();
    let outcome = load.outlive_kills(&nginx, kills, 50, victim);
    let runs = nginx.counters().runs(outcome.sent);
    // The client sends a request again if the kept connection was closed
    // before a byte came: also after a kill.
    let repeated = runs.iter().filter(|&&runs| runs > 1).count();
    assert!(
        repeated <= 8 * kills && runs.iter().all(|&runs| runs <= 2),
        "{runs:?}"
    );
}

#[test]
fn what_was_cast_before_a_reload_still_runs() {
    let nginx = Nginx::builder()
        .setup("threads = 1, shutdown_timeout = 20")
        .location(
            "/cast",
            "local rt = harness.fault()
             for id = 1, 30 do
                 assert(rt:cast('sleep 10 ' .. id))
             end",
        )
        .start();
    nginx.text("/cast");
    nginx.replace_workers(PATIENCE);
    assert_eq!(nginx.counters().runs(30), [1; 30]);
}

#[test]
fn what_was_cast_is_given_up_after_the_shutdown_timeout() {
    let nginx = Nginx::builder()
        .setup("threads = 1, shutdown_timeout = 0.2")
        .location(
            "/cast",
            "local rt = harness.fault()
             for id = 1, 30 do
                 assert(rt:cast('sleep 60000 ' .. id))
             end",
        )
        .start();
    nginx.text("/cast");
    eventually("the first one runs", || {
        nginx.counters().get(Count::Started) == 1
    });
    nginx.replace_workers(EXIT_PROMISE);
    assert_eq!(nginx.counters().get(Count::Started), 1);
}

#[test]
fn a_plugin_that_never_answers_does_not_hold_an_old_worker() {
    let nginx = Nginx::builder()
        .location(
            "/never",
            "local rt = harness.async()
             harness.say(rt:call('never 0 1', { timeout = 0.5 }))",
        )
        .location(
            "/cast",
            "local rt = harness.async()
             assert(rt:cast('never 0 2', { timeout = 3600 }))
             assert(rt:submit('never 0 3', { timeout = 3600 }))",
        )
        .start();
    // One that has timed out before, two that nobody waits for, and one that
    // times out after the reload.
    assert_eq!(nginx.text("/never"), "error timeout code=nil message=nil");
    nginx.text("/cast");
    let worker = nginx.worker();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| nginx.text("/never"));
        eventually("all calls run", || {
            nginx.counters().get(Count::Started) == 4
        });
        nginx.reload();
        assert_eq!(call.join().unwrap(), "error timeout code=nil message=nil");
        nginx.wait_gone(worker, EXIT_PROMISE);
    });
}

#[test]
fn killed_coroutines_do_not_hold_an_old_worker() {
    let ways = [
        "rt:call('never 0 1', { timeout = 3600 })",
        "rt:submit('never 0 1', { timeout = 3600 }):wait()",
        "nbffi.wait_all { rt:submit('never 0 1', { timeout = 3600 }) }",
        "nbffi.wait_any { rt:submit('never 0 1', { timeout = 3600 }) }",
    ];
    for way in ways {
        let nginx = Nginx::builder()
            .location(
                "/killed",
                &format!(
                    "local rt = harness.async()
                     local thread = ngx.thread.spawn(function() {way} end)
                     while rt:stats().running == 0 do
                         ngx.sleep(0.001)
                     end
                     assert(ngx.thread.kill(thread))"
                ),
            )
            .start();
        nginx.text("/killed");
        let worker = nginx.worker();
        nginx.reload();
        println!("{way}");
        nginx.wait_gone(worker, EXIT_PROMISE);
    }
}

#[test]
fn an_idle_worker_closes_its_runtimes_and_leaves_at_once() {
    let nginx = Nginx::builder()
        .workers(2)
        .init_worker("runtime = harness.fault(); harness.async()")
        .start();
    for round in 1..=3 {
        eventually("all runtimes are there", || {
            nginx.counters().get(Count::Inits) == 4 * round
        });
        nginx.replace_workers(EXIT_PROMISE);
        assert_eq!(nginx.counters().get(Count::Closes), 4 * round);
    }
}

/// Ways to wait in a timer for what never comes, each with no time limit that
/// matters. The error of each is logged.
const ENDLESS: [(&str, &str); 11] = [
    ("call", "return async:call('never', { timeout = 1e9 })"),
    (
        "wait",
        "return async:submit('never', { timeout = 1e9 }):wait()",
    ),
    (
        "wait_all",
        "local _, errors = nbffi.wait_all {
             async:submit('never', { timeout = 1e9 }),
             async:submit('never', { timeout = 1e9 })
         }
         assert(errors[1] == errors[2], errors[2])
         return nil, errors[1]",
    ),
    (
        "wait_any",
        "return nbffi.wait_any {
             async:submit('never', { timeout = 1e9 }),
             async:submit('never', { timeout = 1e9 })
         }",
    ),
    (
        "load",
        "return nbffi.load {
             runtime = 'c', library = 'fault', config = 'init_ms=3600000',
             timeout = 1e9, pool = 'loading', name = 'slow'
         }",
    ),
    (
        "close",
        "closed:cast('never', { timeout = 1e9 })
         return closed:close(1e9)",
    ),
    (
        "room",
        "return full:call('sleep 3600000', { timeout = 1e9 })",
    ),
    (
        "room to submit",
        "return full:submit('sleep 3600000', { timeout = 1e9 })",
    ),
    (
        "light thread",
        "local thread = ngx.thread.spawn(function()
             return async:call('never', { timeout = 1e9 })
         end)
         local _, res, err = ngx.thread.wait(thread)
         return res, err",
    ),
    (
        "watch",
        "local res, err
         while not ngx.worker.exiting() do
             res, err = async:call('never', { timeout = 1e9 })
         end
         return res, err",
    ),
    (
        "lua",
        "return lua:call_fn { function()
             local ffi = require 'ffi'
             ffi.cdef 'int poll(void *, unsigned long, int);'
             ffi.C.poll(nil, 0, 3600000)
         end, timeout = 1e9 }",
    ),
];

#[test]
fn timers_that_wait_for_ever_leave_no_old_worker() {
    let mut init_worker = String::from(
        "local full = harness.fault {
             name = 'full', pool = 'full', on_full = 'wait'
         }
         for i = 1, 2 do
             assert(full:cast('sleep 3600000', { timeout = 1e9 }))
         end
         local async = harness.async()
         local closed = harness.async { name = 'closed' }
         local lua = assert(nbffi.load { runtime = 'lua', pool = 'lua' })
         local function watch(name, wait)
             ngx.timer.at(0, function()
                 local res, err = wait()
                 ngx.log(ngx.NOTICE, 'waited: ', name, ': ', res, ', ', err)
             end)
         end
         -- Looks at no error.
         ngx.timer.at(0, function()
             while true do
                 async:call('never', { timeout = 1e9 })
             end
         end)
         ",
    );
    for (name, code) in ENDLESS {
        init_worker.push_str(&format!("watch('{name}', function() {code} end)\n"));
    }
    let nginx = Nginx::builder()
        .init(
            "nbffi.pool('loading', { threads = 1 })
             nbffi.pool('lua', { threads = 1 })
             nbffi.pool('full', { threads = 1, max_queue = 1 })",
        )
        .setup("shutdown_timeout = 0.2")
        .init_worker(&init_worker)
        .start();
    for round in 1..=3 {
        // Of the ways above, the careless one, and what fills the pool.
        eventually("all wait", || {
            nginx.counters().get(Count::Started) >= 11 * round
        });
        nginx.replace_workers(PATIENCE);
        for (name, _) in ENDLESS {
            let line = format!("waited: {name}: nil, shutting down");
            let count = nginx.log().matches(&line).count() as u64;
            assert_eq!(count, round, "{line}\n{}", nginx.log());
        }
        let line = "a timer goes on calling although the worker shuts down";
        let ended = nginx.log().matches(line).count() as u64;
        assert_eq!(ended, round, "{}", nginx.log());
    }
}

#[test]
fn timers_have_the_shutdown_timeout_and_requests_have_longer() {
    let nginx = Nginx::builder()
        .setup("shutdown_timeout = 20")
        .init_worker(
            "local rt = harness.fault()
             -- Flushes when the worker exits, beside one that began before.
             ngx.timer.at(1e6, function(premature)
                 assert(premature)
                 for i = 1, 3 do
                     local res, err = rt:call('sleep 30 ' .. i)
                     ngx.log(ngx.NOTICE, 'flushed: ', res, err)
                 end
             end)
             ngx.timer.at(0, function()
                 local res, err = rt:call('sleep 300 4')
                 ngx.log(ngx.NOTICE, 'flushed: ', res, err)
             end)",
        )
        .start();
    eventually("the long one runs", || {
        nginx.counters().get(Count::Started) == 1
    });
    nginx.replace_workers(PATIENCE);
    assert_eq!(nginx.counters().runs(4)[..3], [1; 3]);
    for request in ["sleep 30 1", "sleep 30 2", "sleep 30 3", "sleep 300 4"] {
        let line = format!("flushed: {request}nil");
        assert!(nginx.log().contains(&line), "{line}\n{}", nginx.log());
    }

    let nginx = Nginx::builder()
        .setup("shutdown_timeout = 0.05")
        .location(
            "/shared",
            "local rt = harness.fault()
             local future = rt:submit('sleep 1500 1')
             ngx.timer.at(0, function()
                 local res, err = future:wait()
                 ngx.log(ngx.NOTICE, 'the timer got: ', res, ', ', err)
             end)
             ngx.print(future:wait())",
        )
        .start();
    let worker = nginx.worker();
    std::thread::scope(|scope| {
        let request = scope.spawn(|| nginx.text("/shared"));
        eventually("it runs", || nginx.counters().get(Count::Started) == 1);
        nginx.reload();
        assert_eq!(request.join().unwrap(), "sleep 1500 1");
        nginx.wait_gone(worker, PATIENCE);
    });
    let line = "the timer got: nil, shutting down";
    assert!(nginx.log().contains(line), "{}", nginx.log());
}

/// The library is loaded for the first time by a request of a worker that is
/// leaving.
#[test]
fn what_is_first_loaded_in_a_leaving_worker_works() {
    let nginx = Nginx::builder()
        .setup("shutdown_timeout = 20")
        .location(
            "/late",
            "ngx.log(ngx.NOTICE, 'the request waits')
             while not ngx.worker.exiting() do
                 ngx.sleep(0.001)
             end
             local rt = harness.fault()
             local res = assert(rt:call('sleep 50 1'))
             local future = assert(rt:submit('echo 0 2'))
             assert(rt:cast('echo 0 3'))
             ngx.print(res, ' ', assert(future:wait()))",
        )
        .start();
    let worker = nginx.worker();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| nginx.text("/late"));
        eventually("the old worker has the request", || {
            nginx.log().contains("the request waits")
        });
        nginx.reload();
        assert_eq!(late.join().unwrap(), "sleep 50 1 echo 0 2");
        nginx.wait_gone(worker, PATIENCE);
    });
    assert_eq!(nginx.counters().runs(3), [1; 3]);
}
