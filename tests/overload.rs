//! More calls than a pool has room for, under every policy. Every call ends
//! exactly once: what Lua got, what the statistics say and what the plugin
//! counted add up.

use std::collections::BTreeMap;

use support::builder::Builder;
use support::plugins::Count;
use support::{Nginx, eventually};

const CALLS: u64 = 400;

/// `/flood`: so many light threads call at the same time; the answer says how
/// often which result came. The arguments are options of load, in Lua.
fn flooded(options: &str, call: &str) -> Builder {
    Nginx::builder()
        .location(
            "/flood",
            &format!(
                "local rt = harness.fault {{ {options} }}
                 local counts, threads = {{}}, {{}}
                 for id = 1, {CALLS} do
                     threads[id] = ngx.thread.spawn(function()
                         {call}
                     end)
                 end
                 for id = 1, {CALLS} do
                     assert(ngx.thread.wait(threads[id]))
                 end
                 harness.dump(counts)"
            ),
        )
        .location(
            "/after",
            &format!(
                "local rt = harness.fault {{ {options} }}
                 for i = 1, 100 do
                     assert(rt:call('echo') == 'echo')
                 end"
            ),
        )
}

/// One call for each id.
const CALL: &str = "
    local request = 'sleep 1 ' .. id
    local res, err = rt:call(request)
    harness.count(counts, res and res == request, err or 'wrong')";

/// What must hold after a flood, whatever the policy.
fn check(nginx: &Nginx, counts: &BTreeMap<String, f64>) {
    assert_eq!(counts.values().sum::<f64>(), CALLS as f64, "{counts:?}");
    let counted = |key: &str| counts.get(key).copied().unwrap_or(0.0);
    eventually("all slots are free again", || {
        nginx.figure("slots.used") == 0.0
    });
    let stats = nginx.figures("/stats");
    let stat = |key: &str| stats[&format!("runtimes.fault.{key}")];
    assert_eq!(stat("calls"), CALLS as f64);
    let all = format!("Lua: {counts:?}\nstatistics: {stats:#?}");
    assert_eq!(stat("ok"), counted("ok"), "{all}");
    for error in ["queue overflow", "timeout", "cancelled", "closed"] {
        assert_eq!(
            stat(&format!("errors.{error}")),
            counted(error),
            "{error}\n{all}"
        );
    }
    assert_eq!(stat("in_flight") + stat("queued") + stat("running"), 0.0);
    let pool = |key: &str| stats[&format!("pools.small.{key}")];
    assert_eq!(pool("in_flight") + pool("queued") + pool("running"), 0.0);

    // Every call with a result ran once; no call ran twice.
    let runs = nginx.counters().runs(CALLS);
    assert!(runs.iter().all(|&runs| runs <= 1), "{runs:?}");
    let ran = runs.iter().sum::<u64>() as f64;
    assert!(ran >= counted("ok"), "{ran} ran, {counts:?}");
    assert!(
        ran <= CALLS as f64 - counted("queue overflow"),
        "{ran} ran, {counts:?}"
    );
    assert_eq!(nginx.counters().get(Count::Running), 0);

    // And there is room again.
    nginx.text("/after");
}

#[test]
fn an_overflow_is_an_error() {
    let nginx = flooded("pool = 'small'", CALL)
        .init("nbffi.pool('small', { threads = 2, max_queue = 10 })")
        .start();
    let counts = nginx.figures("/flood");
    check(&nginx, &counts);
    // All calls are posted within one turn of the event loop, which takes less
    // than what 12 of them sleep; but the pool may have run some meanwhile.
    assert!(
        counts["ok"] >= 12.0 && counts["queue overflow"] >= 100.0,
        "{counts:?}"
    );
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(nginx.counters().get(Count::MostRunning) <= 2);
    assert_eq!(nginx.counters().runs(12), [1; 12]);
    let ran = nginx.counters().runs(CALLS).iter().sum::<u64>();
    assert_eq!(ran as f64, counts["ok"]);
}

#[test]
fn without_a_queue_only_free_threads_take_calls() {
    let nginx = flooded("pool = 'small'", CALL)
        .init("nbffi.pool('small', { threads = 3, max_queue = 0 })")
        .start();
    let counts = nginx.figures("/flood");
    check(&nginx, &counts);
    assert!(
        counts["ok"] >= 3.0 && counts["queue overflow"] >= 100.0,
        "{counts:?}"
    );
    let most = nginx.counters().get(Count::MostRunning);
    assert!(most <= 3, "{most}");
    assert_eq!(nginx.counters().runs(3), [1; 3]);
}

#[test]
fn with_wait_every_call_gets_its_turn() {
    for max_queue in [0, 1, 10] {
        let nginx = flooded("pool = 'small', on_full = 'wait'", CALL)
            .init(&format!(
                "nbffi.pool('small', {{ threads = 2, max_queue = {max_queue} }})"
            ))
            .start();
        let counts = nginx.figures("/flood");
        check(&nginx, &counts);
        assert_eq!(counts["ok"], CALLS as f64, "{counts:?}");
        assert_eq!(nginx.counters().runs(CALLS), [1; CALLS as usize]);
        assert!(nginx.counters().get(Count::MostRunning) <= 2);
    }
}

#[test]
fn with_wait_a_call_waits_no_longer_than_its_timeout() {
    let call = "
        -- One deadline for all, however long it takes to start them.
        ngx.update_time()
        ngx.ctx.deadline = ngx.ctx.deadline or ngx.now() + 0.2
        local left = math.max(ngx.ctx.deadline - ngx.now(), 0.001)
        local request = 'sleep 20 ' .. id
        local res, err = rt:call(request, { timeout = left })
        harness.count(counts, res and res == request, err or 'wrong')";
    let nginx = flooded("pool = 'small', on_full = 'wait'", call)
        .init("nbffi.pool('small', { threads = 1, max_queue = 2 })")
        .start();
    let counts = nginx.figures("/flood");
    check(&nginx, &counts);
    assert!(counts["timeout"] >= 300.0, "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
    // At most one that timed out was running at that moment.
    let ran = nginx.counters().runs(CALLS).iter().sum::<u64>() as f64;
    assert!(ran <= counts["ok"] + 1.0, "{ran} ran, {counts:?}");
}

/// Priorities, futures, cancellations and timeouts at random.
#[test]
fn everything_at_once_adds_up() {
    let call = "
        local priority = ({ 'high', 'normal', 'low' })[id % 3 + 1]
        local request = 'sleep ' .. id % 3 .. ' ' .. id
        local options = { priority = priority, timeout = 0.01 + id % 7 * 0.05 }
        local res, err
        if id % 4 == 0 then
            res, err = rt:call(request, options)
        else
            local future
            future, err = rt:submit(request, options)
            if future then
                if id % 4 == 1 then
                    ngx.sleep(id % 5 * 0.01)
                    future:cancel()
                end
                res, err = future:wait()
            end
        end
        harness.count(counts, res and res == request, err or 'wrong')";
    for (on_full, max_queue) in [("error", 50), ("wait", 5), ("error", 0), ("wait", 0)] {
        let nginx = flooded(&format!("pool = 'small', on_full = '{on_full}'"), call)
            .init(&format!(
                "nbffi.pool('small', {{ threads = 2, max_queue = {max_queue} }})"
            ))
            .start();
        let counts = nginx.figures("/flood");
        check(&nginx, &counts);
        assert!(!counts.contains_key("wrong"), "{counts:?}");
    }
}

/// `low` is not starved: while a flood of `high` goes on, it gets through.
#[test]
fn a_flood_of_high_does_not_starve_low() {
    let nginx = Nginx::builder()
        .setup("threads = 1")
        .location(
            "/starve",
            "local rt = harness.fault()
             local stop = false
             local function feed()
                 while not stop do
                     rt:call('spin 500', { priority = 'high' })
                 end
             end
             for i = 1, 10 do
                 ngx.thread.spawn(feed)
             end
             ngx.sleep(0.05)
             local res, err = rt:call('echo 0 1', { priority = 'low', timeout = 20 })
             stop = true
             harness.say(res, err)",
        )
        .start();
    assert_eq!(nginx.text("/starve"), "ok echo 0 1");
}
