//! What stays behind: nothing. Runtimes that are closed, threads, descriptors,
//! memory; and what an idle worker does: nothing.

use std::time::Duration;

use support::plugins::Count;
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, PATIENCE, Size, eventually, idle, in_turns};

#[test]
fn close_lets_calls_end_and_refuses_new_ones() {
    let nginx = Nginx::builder()
        .setup("threads = 2")
        .location(
            "/close",
            "local rt = harness.fault()
             local futures = {}
             for id = 1, 20 do
                 futures[id] = rt:submit('sleep 5 ' .. id)
                 rt:cast('sleep 5 ' .. 20 + id)
             end
             local closer = ngx.thread.spawn(function()
                 return rt:close()
             end)
             local res, err = rt:call('echo 0 41')
             assert(not res and err == 'closed', err)
             res, err = rt:submit('echo 0 42')
             assert(not res and err == 'closed', err)
             res, err = rt:cast('echo 0 43')
             assert(not res and err == 'closed', err)
             local found, missing = nbffi.wait_all(futures)
             assert(#found == 20 and not next(missing))
             local ok, closed = ngx.thread.wait(closer)
             assert(ok and closed)
             assert(rt:close())
             res, err = rt:call('echo 0 44')
             assert(not res and err == 'closed', err)
             local stats = rt:stats()
             assert(stats.ok == 40, stats.ok)

             local again = harness.fault()
             assert(again ~= rt and again:call('echo 0 45') == 'echo 0 45')
             ngx.print('fine')",
        )
        .start();
    assert_eq!(nginx.text("/close"), "fine");
    assert_eq!(
        nginx.counters().runs(45),
        [vec![1; 40], vec![0; 4], vec![1]].concat()
    );
    assert_eq!(nginx.counters().get(Count::Inits), 2);
    assert_eq!(nginx.counters().get(Count::Closes), 1);
}

#[test]
fn close_gives_up_waiting_and_goes_on() {
    let nginx = Nginx::builder()
        .location(
            "/close",
            "local rt = harness.async()
             local future = rt:submit('late 300 1')
             local ok, err = rt:close(0.02)
             assert(not ok and err == 'timeout', err)
             assert(future:wait() == 'late')
             assert(rt:close())
             ngx.print('fine')",
        )
        .start();
    assert_eq!(nginx.text("/close"), "fine");
    assert_eq!(nginx.counters().get(Count::Closes), 1);
}

#[test]
fn runtimes_are_loaded_and_closed() {
    let nginx = Nginx::builder()
        .plugin("async_timer")
        .location(
            "/cycle",
            "for i = 1, tonumber(ngx.var.args) do
                 local rt = harness.fault()
                 local timer = assert(nbffi.load { runtime = 'c',
                                                   library = 'async_timer' })
                 for j = 1, 20 do
                     assert(rt:call('echo') == 'echo')
                     assert(timer:submit('1 x'))
                 end
                 assert(timer:call('1 ' .. i) == tostring(i))
                 assert(rt:close() and timer:close())
             end
             collectgarbage()",
        )
        .start();
    let worker = nginx.worker();
    let figures = || {
        let threads = process::threads(worker);
        (
            process::descriptors(worker),
            threads.len(),
            process::rss(worker),
        )
    };
    // Keep the client's connection out of the count: each `text` has its own,
    // which is gone when nginx has noticed.
    nginx.text("/cycle?20");
    let idle_descriptors = settled(|| process::descriptors(worker));
    let (_, threads, memory) = figures();
    let cycles = Size::Cycles.or(200);
    in_turns(cycles, 200, |some| nginx.text(&format!("/cycle?{some}")));
    assert_eq!(settled(|| process::descriptors(worker)), idle_descriptors);
    let (_, threads_after, memory_after) = figures();
    assert_eq!(threads_after, threads, "{:?}", process::threads(worker));
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 4_000, "{grown} KiB more after {cycles} cycles");
    assert_eq!(nginx.counters().get(Count::Inits), 20 + cycles);
    assert_eq!(nginx.counters().get(Count::Closes), 20 + cycles);
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

/// A number once it does not change any more.
fn settled(mut number: impl FnMut() -> usize) -> usize {
    let mut last = number();
    let mut same = 0;
    eventually("a number that stays", || {
        std::thread::sleep(Duration::from_millis(10));
        let now = number();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same >= 10
    });
    last
}

#[test]
fn memory_of_many_calls_comes_back() {
    let nginx = Nginx::builder()
        .setup("threads = 4")
        .location(
            "/calls",
            "local rt, echo = harness.fault(), harness.echo()
             local request = ('x'):rep(20000)
             local function work()
                 for i = 1, 500 do
                     assert(echo:call(request) == request)
                     assert(#assert(rt:call('give 30000')) == 30000)
                 end
             end
             harness.together(8, work)
             collectgarbage()
             collectgarbage()",
        )
        .start();
    let worker = nginx.worker();
    for _ in 0..2 {
        nginx.text("/calls");
    }
    let before = process::rss(worker);
    for _ in 0..8 {
        nginx.text("/calls");
    }
    let grown = process::rss(worker).saturating_sub(before);
    assert!(grown < 10_000, "{grown} KiB more after 64000 calls");
    assert_eq!(nginx.counters().get(Count::Given), 40_000);
    assert_eq!(nginx.counters().get(Count::Released), 40_000);
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

/// Neither the event loop nor the pools' threads wake up when there is nothing
/// to do: no timer, no polling, no spinning.
#[test]
fn an_idle_worker_sleeps() {
    let nginx = Nginx::builder()
        .setup("threads = 3")
        .init("nbffi.pool('other', { threads = 2 })")
        .location(
            "/work",
            "local rt = harness.fault()
             local other = harness.fault { name = 'other', pool = 'other' }
             for i = 1, 1000 do
                 rt:call('echo')
                 rt:cast('echo')
                 other:submit('echo')
             end",
        )
        .start();
    nginx.text("/work");
    eventually("all calls have ended", || nginx.figure("slots.used") == 0.0);
    let worker = nginx.worker();
    let pool_threads = process::threads(worker);
    let pool_threads = pool_threads
        .iter()
        .filter(|(_, name)| name.starts_with("nbffi/"));
    assert_eq!(pool_threads.count(), 5);
    // The connection of the last request is closed by now or in a moment.
    idle::wait_until_idle(worker);
}

/// A worker that is being replaced leaves nothing in the master, either.
#[test]
fn the_master_does_not_grow_with_reloads() {
    let mut nginx = Nginx::builder()
        .workers(2)
        .init_worker("harness.fault():cast('echo')")
        .start();
    let worked = |workers: u64| {
        eventually("the workers work", || {
            nginx.counters().get(Count::Ended) == workers
        });
    };
    worked(2);
    let master = nginx.master();
    let descriptors = process::descriptors(master);
    for round in 2..=Size::Reloads.or(15) + 1 {
        nginx.replace_workers(EXIT_PROMISE);
        worked(2 * round);
        // The master closes its ends of a worker's channel after it has reaped it.
        eventually("as many descriptors as before", || {
            process::descriptors(master) == descriptors
        });
    }
    assert_eq!(process::threads(master).len(), 1);
    nginx.stop(Signal::Quit, PATIENCE);
}
