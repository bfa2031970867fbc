//! nginx goes away while Lua code runs that does not end by itself: reload, quit,
//! stop, `kill -9`.

use crate::start;
use support::builder::Builder;
use support::http::Load;
use support::process::{self, Signal};
use support::{Nginx, PATIENCE, eventually};

/// `/work?<seconds>-<id>` answers on a pool of its own, `/mad` takes all threads
/// of another one for good: with loops, and one with a C function that nobody
/// can end; more of them wait. `/wait` waits for a loop, for a second.
fn busy() -> Builder {
    Nginx::builder()
        .setup("shutdown_timeout = 0.2")
        .init(
            "nbffi.pool('work', { threads = 4 })
             nbffi.pool('mad', { threads = 4 })",
        )
        .location(
            "/work",
            "local seconds, id = ngx.var.args:match('^([%d.]+)-(%d+)$')
             local rt = require('faults').load('work', { pool = 'work' })
             local res, err = rt:call('nap', tonumber(seconds), { 'nap ' .. id })
             ngx.print(res and res[1] or err)",
        )
        .location(
            "/mad",
            "local faults = require 'faults'
             local rt = faults.load('mad', { pool = 'mad', timeout = 3600 })
             assert(rt:cast('block'))
             faults.await('a thread is blocked', function()
                 return rt:stats().running == 1
             end)
             math.randomseed(ngx.worker.pid())
             for i = 1, 8 do
                 assert(rt:cast('loop', faults.MIX[math.random(#faults.MIX)]))
             end
             faults.await('all threads are taken', function()
                 return rt:stats().running == 4
             end)
             ngx.print(ngx.worker.pid())",
        )
        .location(
            "/wait",
            "local rt = require('faults').load('wait', { pool = 'work' })
             harness.say(rt:call({ 'loop', timeout = 1 }, 'while'))",
        )
}

#[test]
fn a_reload_while_lua_code_runs_loses_no_request() {
    let nginx = start(busy());
    let load = Load::start(&nginx, 4, "/work?0.002-", "nap ");
    for _ in 0..4 {
        let worker: i32 = nginx.text("/mad").parse().unwrap();
        load.await_more(20);
        std::thread::scope(|scope| {
            let wait = scope.spawn(|| nginx.text("/wait"));
            eventually("the loop runs", || {
                nginx.figure("runtimes.wait.running") == 1.0
            });
            nginx.reload();
            // What the old worker had begun, it ends.
            let answer = wait.join().unwrap();
            assert_eq!(answer, "error timeout code=nil message=nil");
        });
        nginx.wait_gone(worker, PATIENCE);
    }
    load.await_more(20);
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0]);
    assert_eq!(outcome.answered, outcome.sent);
}

#[test]
fn quit_while_lua_code_runs() {
    let mut nginx = start(busy());
    nginx.text("/mad");
    let calls: Vec<_> = (1..=4)
        .map(|id| (format!("/work?0.5-{id}"), format!("nap {id}")))
        .collect();
    nginx.quit_while(&calls, |nginx| {
        // On a busy machine some have ended before the last one begins.
        let stats = nginx.figures("/stats");
        let begun = ["running", "calls"].map(|key| stats.get(&format!("runtimes.work.{key}")));
        begun.into_iter().flatten().sum::<f64>() >= 4.0
    });
    nginx.wait_stopped(PATIENCE);
    assert_eq!(nginx.clean_exits(), 1, "{}", nginx.log());
}

#[test]
fn stop_while_lua_code_runs() {
    const ROUNDS: usize = 8;
    let mut nginx = start(busy());
    for round in 1..=ROUNDS {
        let worker: i32 = nginx.text("/mad").parse().unwrap();
        // nginx starts another one.
        process::signal(worker, Signal::Term);
        nginx.wait_gone(worker, PATIENCE);
        eventually("the exit is in the log", || nginx.clean_exits() == round);
        eventually("a new worker", || {
            nginx.client().get("/pid").is_ok_and(|r| r.status == 200)
        });
    }
    nginx.text("/mad");
    let load = Load::start(&nginx, 12, "/work?3600-", "");
    eventually("all threads are busy", || {
        nginx.figure("runtimes.work.running") == 4.0
    });
    nginx.stop(Signal::Term, PATIENCE);
    assert_eq!(load.stop().answered, 0);
    assert_eq!(nginx.clean_exits(), ROUNDS + 1, "{}", nginx.log());
}

#[test]
fn a_worker_is_killed_while_lua_code_runs() {
    const KILLS: usize = 4;
    let mut nginx = start(busy().workers(2));
    nginx.allow_kills(KILLS);
    let load = Load::start(&nginx, 6, "/work?0.002-", "nap ");
    load.outlive_kills(&nginx, KILLS, 20, || nginx.text("/mad").parse().unwrap());
}
