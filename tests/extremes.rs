//! Very many calls, very large and very small ones, and two runtimes beside
//! each other.

use std::collections::BTreeMap;

use support::plugins::Count;
use support::{Nginx, eventually, process};

#[test]
fn ten_thousand_calls_in_flight() {
    const CALLS: u64 = 10_000;
    let nginx = Nginx::builder()
        .plugin("async_timer")
        .location(
            "/all",
            "local timer = assert(nbffi.load { runtime = 'c', library = 'async_timer' })
             local futures = {}
             for i = 1, 10000 do
                 futures[i] = assert(timer:submit('2000 ' .. i))
             end
             most = nbffi.stats().slots.used
             local found, missing = nbffi.wait_all(futures)
             for i = 1, 10000 do
                 if found[i] ~= tostring(i) then
                     return ngx.print(i, ': ', found[i], ' ', missing[i])
                 end
             end
             ngx.print(most)",
        )
        .start();
    assert_eq!(nginx.text("/all"), CALLS.to_string());
    let stats = nginx.figures("/stats");
    assert_eq!(stats["slots.used"], 0.0);
    assert_eq!(stats["runtimes.async_timer.ok"], CALLS as f64);
    assert_eq!(stats["runtimes.async_timer.calls"], CALLS as f64);
    assert_eq!(stats["runtimes.async_timer.in_flight"], 0.0);
    assert_eq!(stats["pools.default.in_flight"], 0.0);
}

/// As many again, in the queue of a blocking plugin, from many light threads.
#[test]
fn ten_thousand_calls_in_the_queue() {
    const CALLS: u64 = 10_000;
    let nginx = Nginx::builder()
        .location(
            "/all",
            "local rt = harness.fault()
             local counts = {}
             harness.together(10000, function(id)
                 local request = 'spin 20 ' .. id
                 local res, err = rt:call(request)
                 harness.count(counts, res == request, err or 'wrong')
             end)
             harness.dump(counts)",
        )
        .start();
    let expected = BTreeMap::from([("ok".to_owned(), CALLS as f64)]);
    assert_eq!(nginx.figures("/all"), expected);
    let runs = nginx.counters().runs(CALLS);
    assert!(runs.iter().all(|&runs| runs == 1));
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

#[test]
fn a_hundred_megabytes_there_and_back() {
    const BYTES: usize = 100_000_000;
    let nginx = Nginx::builder()
        .location(
            "/echo",
            "ngx.req.read_body()
             local body = ngx.req.get_body_data()
             local res, err = harness.echo():call(body)
             body = nil
             ngx.print(res or err)",
        )
        .location(
            "/give",
            "local res = assert(harness.fault():call('give 100000000'))
             ngx.print(#res, res == ('g'):rep(100000000))",
        )
        .location("/collect", "collectgarbage() collectgarbage()")
        .start();
    nginx.text("/collect");
    let before = process::rss(nginx.worker());
    // Every byte matters: a period that no buffer size divides.
    let body: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let response = nginx.post("/echo", &body);
    assert_eq!(response.status, 200);
    assert!(
        response.body == body,
        "{} bytes came back",
        response.body.len()
    );

    assert_eq!(nginx.text("/give"), format!("{BYTES}true"));
    assert_eq!(nginx.counters().get(Count::Given), 1);
    assert_eq!(nginx.counters().get(Count::Released), 1);

    // Nothing of it stays: not the buffers, not the strings.
    eventually("memory is given back", || {
        nginx.text("/collect");
        process::rss(nginx.worker()) < before + 50_000
    });
}

#[test]
fn a_response_that_is_too_large_is_an_error_and_released() {
    let nginx = Nginx::builder()
        .location(
            "/give",
            "local rt = harness.fault { max_response = 1000 }
             harness.say(rt:call('give ' .. ngx.var.args))",
        )
        .start();
    assert_eq!(nginx.text("/give?1000"), format!("ok {}", "g".repeat(1000)));
    let refused = nginx.text("/give?1001");
    assert!(refused.starts_with("error response too large"), "{refused}");
    assert_eq!(nginx.counters().get(Count::Given), 2);
    assert_eq!(nginx.counters().get(Count::Released), 2);
    assert_eq!(nginx.figure("slots.used"), 0.0);
}

#[test]
fn empty_strings_and_nul_bytes() {
    let nginx = Nginx::builder()
        .location(
            "/echo",
            r"local echo = harness.echo()
              local all = {}
              for byte = 0, 255 do
                  all[#all + 1] = string.char(byte)
              end
              all = table.concat(all)
              local requests = {
                  '', '\0', '\0\0\0', 'a\0b', all, all:rep(100), ('\0'):rep(100000),
              }
              for i = 1, #requests do
                  local request = requests[i]
                  local future = assert(echo:submit(request))
                  local first, second = echo:call(request), future:wait()
                  if first ~= request or second ~= request then
                      return ngx.print('request ', i)
                  end
                  assert(echo:cast(request))
              end
              assert(echo:call {} == '')
              assert(echo:call { '', { '\0', 1 }, 'x' } == '\0' .. '1x')
              ngx.print('fine')",
        )
        .location(
            "/empty",
            "local rt = harness.fault()
             local res = assert(rt:call('give 0'))
             ngx.print(#res)",
        )
        .start();
    assert_eq!(nginx.text("/echo"), "fine");
    assert_eq!(nginx.text("/empty"), "0");
    eventually("the casts have ended", || nginx.figure("slots.used") == 0.0);
}

/// Two runtimes, one of them blocked: the other goes on if it has a pool of its
/// own, and their answers, names and figures are apart.
#[test]
fn two_runtimes_do_not_get_into_each_others_way() {
    let nginx = Nginx::builder()
        .init("nbffi.pool('slow', { threads = 1 })")
        .location(
            "/both",
            "local slow = harness.fault { name = 'slow', pool = 'slow' }
             local quick = harness.fault { name = 'quick' }
             assert(slow ~= quick)
             assert(slow == harness.fault { name = 'slow', pool = 'slow' })
             local blocked = assert(slow:submit('linger 60000 1'))
             while slow:stats().running == 0 do
                 ngx.sleep(0.001)
             end
             for id = 2, 101 do
                 assert(quick:call('echo 0 ' .. id) == 'echo 0 ' .. id)
             end
             assert(blocked:cancel())
             assert(slow:call('echo 0 102') == 'echo 0 102')
             local echo = harness.echo()
             assert(echo:call('both') == 'both')
             assert(slow:close())
             harness.say(slow:call('echo 0 103'))
             assert(quick:call('echo 0 104'))
             ngx.print(' ', nbffi.load {
                 runtime = 'c', library = 'echo', name = 'quick',
             })",
        )
        .start();
    let answer = nginx.text("/both");
    assert!(
        answer.starts_with("error closed code=nil message=nil nil"),
        "{answer}"
    );
    let stats = nginx.figures("/stats");
    assert_eq!(stats["runtimes.quick.ok"], 101.0);
    assert_eq!(stats["runtimes.echo.ok"], 1.0);
    assert!(!stats.contains_key("runtimes.slow.ok"));
    assert_eq!(nginx.counters().get(Count::Inits), 2);
    assert_eq!(nginx.counters().get(Count::Closes), 1);
    assert_eq!(
        nginx.counters().runs(104),
        [vec![1; 102], vec![0, 1]].concat()
    );
}

/// Somebody who waits for the next of many futures, again and again, with one
/// among them that takes longer than all others.
#[test]
fn wait_any_twenty_thousand_times() {
    let nginx = Nginx::builder()
        .location(
            "/any",
            "local rt, async = harness.fault(), harness.async()
             local long = async:submit('late 60000')
             local memory
             for i = 1, 20000 do
                 local short = rt:submit('echo 0')
                 local index, res, err = nbffi.wait_any({ long, short }, 10)
                 if index ~= 2 or res ~= 'echo 0' then
                     return ngx.print(i, ': ', index, ' ', res, ' ', err)
                 end
                 if i % 10000 == 0 then
                     -- Compiled code is memory, too, but not what leaks.
                     jit.flush()
                     collectgarbage()
                     collectgarbage()
                     local now = collectgarbage('count')
                     if memory and now > memory + 100 then
                         return ngx.print(now - memory, ' KiB more')
                     end
                     memory = now
                 end
             end
             assert(long:cancel())
             local index, res, err = nbffi.wait_any { long }
             assert(index == 1 and not res and err == 'cancelled')
             ngx.print('fine')",
        )
        .start();
    assert_eq!(nginx.text("/any"), "fine");
}
