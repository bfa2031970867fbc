//! Callers that go away: killed light threads, requests that end while their
//! light threads call, clients that hang up. Every slot comes back, nobody gets
//! the answer of another, and what had not started never runs.

use support::builder::Builder;
use support::plugins::Count;
use support::{EXIT_PROMISE, Nginx, eventually};

/// One pool thread, so that what comes behind a sleep has to wait for it.
fn narrow() -> Builder {
    Nginx::builder()
        .setup("threads = 1")
        .http("lua_check_client_abort on;")
        .location(
            "/check",
            "local rt = harness.fault()
             for i = 1, 200 do
                 local request = 'echo 0 ' .. 1000 + i
                 local res, err = rt:call(request)
                 if res ~= request then
                     return ngx.print(i, ': ', res, err)
                 end
             end
             ngx.print('fine')",
        )
}

fn all_slots_are_back(nginx: &Nginx) {
    eventually("all slots are free again", || {
        nginx.figure("slots.used") == 0.0
    });
    assert_eq!(nginx.text("/check"), "fine");
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

#[test]
fn light_threads_are_killed_while_they_call() {
    let nginx = narrow()
        .location(
            "/kill",
            "local rt = harness.fault()
             local threads = {}
             local returned = 0
             for id = 1, 50 do
                 threads[id] = ngx.thread.spawn(function()
                     rt:call('sleep 5 ' .. id)
                     returned = returned + 1
                 end)
             end
             ngx.sleep(0.02)
             for id = 1, 50 do
                 ngx.thread.kill(threads[id])
             end
             ngx.sleep(0)
             ngx.print(returned)",
        )
        .start();
    let returned: u64 = nginx.text("/kill").parse().unwrap();
    all_slots_are_back(&nginx);
    // Only the core knows that the callers are gone, if at all, so the tasks
    // may have run; but each at most once, and the returned ones did.
    let runs = nginx.counters().runs(50);
    assert!(runs.iter().all(|&runs| runs <= 1), "{runs:?}");
    assert!(runs.iter().sum::<u64>() >= returned);
}

#[test]
fn a_request_exits_while_its_light_threads_call() {
    let nginx = narrow()
        .location(
            "/exit",
            "local rt = harness.fault()
             for id = 1, 20 do
                 ngx.thread.spawn(function()
                     rt:call('sleep 2 ' .. id)
                     ngx.log(ngx.ALERT, 'returned after the end of its request')
                 end)
             end
             ngx.exit(204)",
        )
        .start();
    for _ in 0..20 {
        assert_eq!(nginx.get("/exit").status, 204);
    }
    all_slots_are_back(&nginx);
}

#[test]
fn futures_are_collected_while_their_tasks_run() {
    let nginx = narrow()
        .location(
            "/forget",
            "local rt = harness.fault()
             for id = 1, 100 do
                 rt:submit(('sleep 1 %d'):format(id) .. (' '):rep(10000))
                 collectgarbage()
             end",
        )
        .start();
    nginx.text("/forget");
    all_slots_are_back(&nginx);
    assert_eq!(nginx.counters().runs(100), [1; 100]);
    assert_eq!(nginx.counters().get(Count::Bad), 0);
}

#[test]
fn clients_hang_up() {
    let nginx = narrow()
        .location(
            "/call",
            "local rt = harness.fault()
             ngx.print(assert(rt:call('sleep 20 ' .. ngx.var.args)))",
        )
        .location(
            "/cancel",
            "local rt = harness.fault()
             local future = rt:submit('linger 60000 ' .. ngx.var.args)
             ngx.on_abort(function()
                 future:cancel()
                 ngx.exit(499)
             end)
             future:wait()",
        )
        .start();
    for id in 1..=20 {
        let stream = nginx.client().send_only(&format!("/call?{id}"));
        eventually("the request has arrived", || {
            nginx.figure("runtimes.fault.in_flight") >= 1.0
                || nginx.counters().runs(20)[id - 1] == 1
        });
        drop(stream);
    }
    all_slots_are_back(&nginx);

    // Whoever watches out for it can tell the plugin.
    let stream = nginx.client().send_only("/cancel?21");
    eventually("the call runs", || nginx.counters().runs(21)[20] == 1);
    drop(stream);
    all_slots_are_back(&nginx);
    assert_eq!(nginx.counters().get(Count::Cancelled), 1);
    assert_eq!(nginx.figure("runtimes.fault.errors.cancelled"), 1.0);
}

#[test]
fn what_is_given_up_in_the_queue_never_runs() {
    let nginx = narrow()
        .location(
            "/block",
            "blocker = harness.fault():submit('linger 60000 1')",
        )
        .location("/unblock", "assert(blocker:cancel())")
        .location(
            "/give-up",
            "local rt = harness.fault()
             local counts = {}
             local futures = {}
             for id = 2, 11 do
                 futures[#futures + 1] = rt:submit('echo 0 ' .. id)
             end
             for id = 12, 21 do
                 harness.count(counts, rt:call('echo 0 ' .. id,
                                               { timeout = 0.005 }))
             end
             for i = 1, #futures do
                 assert(futures[i]:cancel())
                 assert(not futures[i]:cancel())
                 harness.count(counts, futures[i]:wait())
             end
             assert(rt:cast('echo 0 22', { timeout = 0.005 }))
             ngx.sleep(0.01)
             harness.dump(counts)",
        )
        .start();
    nginx.text("/block");
    eventually("the thread is taken", || nginx.counters().runs(1) == [1]);
    let counts = nginx.figures("/give-up");
    assert_eq!(counts["timeout"], 10.0);
    assert_eq!(counts["cancelled"], 10.0);
    nginx.text("/unblock");
    all_slots_are_back(&nginx);
    assert_eq!(nginx.counters().runs(22)[1..], [0; 21]);
    assert_eq!(nginx.counters().get(Count::Cancelled), 1);
    // The cast alone was found to be too late by the pool; the others had been
    // given up before that.
    assert_eq!(nginx.figure("runtimes.fault.errors.timeout"), 11.0);
    assert_eq!(nginx.figure("runtimes.fault.errors.cancelled"), 11.0);
}

/// Nothing of a call is left in a worker that was told to exit, when the
/// client who asked for it is gone.
#[test]
fn a_client_that_hung_up_does_not_hold_an_old_worker() {
    let nginx = narrow()
        .location(
            "/call",
            "harness.say(harness.async():call('never 0 1', { timeout = 3600 }))",
        )
        .start();
    let stream = nginx.client().send_only("/call");
    eventually("the call runs", || nginx.counters().runs(1) == [1]);
    drop(stream);
    nginx.replace_workers(EXIT_PROMISE);
}

#[test]
fn answers_come_too_late_or_twice() {
    let nginx = narrow()
        .location(
            "/late",
            "local rt = harness.async()
             local counts = {}
             harness.together(50, function()
                 harness.count(counts, rt:call('late 500', { timeout = 0.2 }))
             end)
             harness.dump(counts)",
        )
        .location(
            "/twice",
            "local rt = harness.fault()
             for i = 1, 50 do
                 assert(rt:call('twice') == 'first')
             end",
        )
        .start();
    assert_eq!(nginx.figures("/late")["timeout"], 50.0);
    // Slots are taken again while late answers to the former tasks come in.
    all_slots_are_back(&nginx);
    let counters = nginx.counters();
    let late = counters.get(Count::Started) - 200;
    assert!(late > 0, "none was started in time");
    eventually("all late answers were given", || {
        counters.get(Count::Refused) == late
    });
    assert_eq!(counters.get(Count::Cancelled), late);
    nginx.text("/twice");
    assert_eq!(counters.get(Count::Refused), late + 50);
    all_slots_are_back(&nginx);
}

/// A future whose deadline has passed is over for everybody: its caller, the
/// statistics, and the plugin.
#[test]
fn a_future_that_has_timed_out_has_ended() {
    let nginx = narrow()
        .location(
            "/never",
            "local rt = harness.async()
             local futures = {}
             for i = 1, 200 do
                 futures[i] = rt:submit('never', { timeout = i * 0.003 })
             end
             for i = 1, 200 do
                 local res, err = futures[i]:wait()
                 assert(not res and err == 'timeout', err)
                 -- More than these, if the machine was too busy to run them.
                 local ended = rt:stats().errors.timeout
                 if ended < i then
                     return ngx.print(i, ' returned, ', ended, ' ended')
                 end
             end
             ngx.print(rt:stats().errors.timeout)",
        )
        .start();
    assert_eq!(nginx.text("/never"), "200");
    // The plugin still has those that it was given in time.
    let kept = nginx.counters().get(Count::Started);
    assert!((1..=200).contains(&kept), "{kept}");
    assert_eq!(nginx.figure("slots.used"), kept as f64);
}
