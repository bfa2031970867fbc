//! Workers that exit while pool threads, and a plugin's own, are running: code
//! 0 and no crash, again and again.

use support::builder::Builder;
use support::plugins::Count;
use support::process::Signal;
use support::{EXIT_PROMISE, Nginx, PATIENCE, eventually};

const WORKERS: usize = 4;
/// Tasks that run in each worker, all of them endless: one in each thread.
const BUSY: usize = 4;
/// What a worker logs when they do.
const AT_WORK: &str = "all threads are at work";

/// Every worker starts to work as soon as it is there: four pool threads sleep,
/// compute, or look whether they are cancelled, and four threads of the plugin
/// will answer some time; more tasks wait in the queue.
fn busy() -> Builder {
    Nginx::builder()
        .workers(WORKERS)
        .setup("threads = 4, shutdown_timeout = 0.02")
        .init_worker(&format!(
            "local rt, async = harness.fault(), harness.async()
             local function cast(runtime, request)
                 assert(runtime:cast(request, {{ timeout = 3600 }}))
             end
             for i = 1, 4 do
                 cast(async, 'late ' .. i * 20)
             end
             cast(rt, 'sleep 3600000')
             cast(rt, 'linger 3600000')
             cast(rt, 'spin 300000')
             cast(rt, 'spin 3600000000')
             for i = 1, 20 do
                 cast(rt, 'sleep 3600000')
                 cast(async, 'late 10')
             end
             ngx.timer.at(0, function()
                 repeat
                     ngx.sleep(0.002)
                     local running = nbffi.stats().pools.default.running
                 until running >= {BUSY}
                 ngx.log(ngx.NOTICE, '{AT_WORK}')
             end)",
        ))
}

#[test]
fn two_hundred_times_in_a_row() {
    let mut nginx = busy().start();
    let mut exits = 0;
    let mut round = 0;
    while exits < 200 {
        eventually("all workers are at work", || {
            nginx.log().matches(AT_WORK).count() == exits + WORKERS
                && nginx.workers().len() == WORKERS
        });
        nginx.end_workers(round, PATIENCE);
        exits += WORKERS;
        eventually("the exits are in the log", || nginx.clean_exits() == exits);
        round += 1;
    }
    nginx.stop(Signal::Term, EXIT_PROMISE);
    assert_eq!(nginx.clean_exits(), exits + WORKERS);
}

/// A request that is read by the plugin is not freed under it, and a response
/// that is being written when the worker exits does no harm.
#[test]
fn large_requests_are_in_use_at_the_exit() {
    let mut nginx = Nginx::builder()
        .workers(2)
        .setup("threads = 4, shutdown_timeout = 0.02")
        .init_worker(
            "ngx.timer.at(0, function()
                 local echo = harness.echo()
                 local request = ('x'):rep(4000000)
                 local function feed()
                     while not ngx.worker.exiting() do
                         echo:call(request .. ngx.now())
                     end
                 end
                 for i = 1, 8 do
                     ngx.thread.spawn(feed)
                 end
                 harness.fault():cast('echo 1')
             end)",
        )
        .start();
    for round in 1..=10 {
        eventually("the workers are at work", || {
            nginx.counters().get(Count::Started) >= 2 * round && nginx.workers().len() == 2
        });
        nginx.end_workers(round as usize % 2, PATIENCE);
    }
    nginx.stop(Signal::Term, EXIT_PROMISE);
    // Those that were to replace the last ones may not have been started.
    assert!(nginx.clean_exits() >= 20, "{}", nginx.log());
}

/// An init that takes its time does not keep a worker from stopping.
#[test]
fn a_worker_stops_while_a_plugin_is_being_loaded() {
    let mut nginx = Nginx::builder()
        .init_worker(
            "ngx.timer.at(0, function()
                 nbffi.load { runtime = 'c', library = 'fault', timeout = 3600,
                              config = 'init_ms=3600000' }
             end)
             ngx.timer.at(0, function() harness.fault():cast('echo 1') end)",
        )
        .start();
    eventually("the other runtime is at work", || {
        nginx.counters().get(Count::Ended) == 1
    });
    nginx.stop(Signal::Term, EXIT_PROMISE);
}
