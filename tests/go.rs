//! Go in a worker: signals, reload, quit and stop under load, memory, and a
//! client that lives as long as the worker. What handlers do is in `t/54-go.t`;
//! the Go side alone is tested with `go test`, which runs here too.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use support::builder::Builder;
use support::http::Load;
use support::process::{self, Signal};
use support::redis::Redis;
use support::{EXIT_PROMISE, Nginx, Size, eventually, root};

/// How handlers are called: see `t/plugins/go/main.go`.
const ENTRIES: [&str; 3] = ["do", "do inline", "do goroutines"];

/// An nginx whose Lua code has `go(entry)`, a runtime of the library for tests,
/// and `count(key)`, what that library has counted.
fn builder() -> Builder {
    Nginx::builder()
        .language("go")
        .init(
            "nbffi.pool('wide', { threads = 4 })
             function go(entry, given)
                 return assert(harness.load({
                     runtime = 'go', library = 'go_verbs', pool = 'wide', entry = entry
                 }, given))
             end",
        )
        .location(
            "/counts",
            "ngx.print(assert(go('do'):call('counts', { timeout = 20 })))",
        )
        .location(
            "/echo",
            "local entry, id = ngx.unescape_uri(ngx.var.args):match('^(.*)-(%d+)$')
             ngx.print(assert(go(entry):call('echo ' .. id)))",
        )
        .location(
            "/do",
            "local entry, request = ngx.unescape_uri(ngx.var.args):match('^(.-)-(.*)$')
             ngx.print(assert(go(entry):call(request)))",
        )
}

/// Where an entry is called with a request, or to echo what follows.
fn path(entry: &str, request: &str) -> String {
    format!("/do?{entry}-{request}").replace(' ', "%20")
}

fn echo(entry: &str) -> String {
    format!("/echo?{entry}-").replace(' ', "%20")
}

#[test]
fn signals_stay_nginxs() {
    let nginx = builder().start();
    let worker = nginx.worker();
    let before = ["SigIgn", "SigCgt"].map(|key| process::signals(worker, key));
    for entry in ENTRIES {
        assert_eq!(nginx.text(&(echo(entry) + "1")), "1");
    }
    // Faults are Go's, since a nil pointer is a panic, and SIGURG, with which it
    // stops its threads. (33 is glibc's, for its own threads.)
    let [ignored, caught] = ["SigIgn", "SigCgt"].map(|key| process::signals(worker, key));
    // The library has a handler for what nginx ignores, for the sake of children.
    // What nginx does at the end of a child is not done in a worker, unless it is
    // nginx-lua's.
    let (pipe, child) = (
        BTreeSet::from([libc::SIGPIPE]),
        BTreeSet::from([libc::SIGCHLD]),
    );
    assert_eq!(ignored, &before[0] - &pipe);
    let before = &before[1] - &child;
    let more: BTreeSet<i32> = caught.difference(&before).copied().collect();
    let go = [libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGURG];
    let expected = go.into_iter().chain([33, libc::SIGPIPE, libc::SIGCHLD]);
    let expected: BTreeSet<i32> = expected.collect();
    assert!(
        more.is_subset(&expected) && more.contains(&libc::SIGURG),
        "{more:?}"
    );
    assert!(caught.is_superset(&before));
    eventually("no thread blocks signals, so no child does", || {
        process::blocking(worker).is_empty()
    });
    // What a worker lives through without Go, it does with it: in the middle of
    // work, too.
    let load = Load::start(&nginx, 4, &echo("do"), "");
    let harmless = [libc::SIGPIPE, libc::SIGURG, libc::SIGCHLD, libc::SIGHUP];
    for _ in 0..20 {
        for signal in harmless {
            process::signal(worker, signal);
        }
        load.await_more(20);
    }
    assert_eq!(nginx.text(&path("do", "pipe")), "true");
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0]);
    assert_eq!(nginx.worker(), worker);
}

#[test]
fn quit_and_term_of_a_worker_are_nginxs() {
    let nginx = builder().start();
    for round in 0..6 {
        let worker = nginx.worker();
        for entry in ENTRIES {
            assert_eq!(nginx.text(&(echo(entry) + "1")), "1");
        }
        let signal = [libc::SIGQUIT, libc::SIGTERM, libc::SIGINT][round % 3];
        process::signal(worker, signal);
        nginx.wait_gone(worker, EXIT_PROMISE);
        eventually("another worker", || {
            let workers = nginx.workers();
            workers.len() == 1 && !workers.contains(&worker)
        });
    }
    eventually("the exits are in the log", || nginx.clean_exits() == 6);
}

#[test]
fn a_reload_under_load_loses_no_request() {
    for entry in ENTRIES {
        let nginx = builder().workers(2).start();
        let load = Load::start(&nginx, 8, &echo(entry), "");
        load.outlive_reloads(&nginx, Size::Reloads.or(4), 50);
    }
}

/// Waits until so many tasks of an entry are in Go. Asks nginx, not Go, which may
/// be busy.
fn await_running(nginx: &Nginx, entry: &str, number: usize) {
    eventually("all are in Go", || {
        nginx.figure(&format!("runtimes.{entry}.running")) >= number as f64
    });
}

#[test]
fn quit_answers_what_it_has_begun() {
    let mut nginx = builder().start();
    let calls: Vec<_> = [("sleep", "400"), ("wait", "400"), ("spin", "100")]
        .into_iter()
        .flat_map(|request| ENTRIES.map(|entry| (entry, request)))
        .map(|(entry, (verb, ms))| (path(entry, &format!("{verb} {ms}")), ms.to_owned()))
        .collect();
    nginx.quit_while(&calls, |nginx| {
        // On a busy machine some have ended before the last one begins.
        let stats = nginx.figures("/stats");
        let ended = ENTRIES.map(|entry| stats.get(&format!("runtimes.{entry}.calls")));
        let ended: f64 = ended.into_iter().flatten().sum();
        ended + stats["slots.used"] >= 9.0
    });
    nginx.wait_stopped(EXIT_PROMISE);
}

#[test]
fn stop_ends_at_once_whatever_goroutines_do() {
    for (entry, request) in [
        ("do", "sleep 600000"),
        ("do inline", "sleep 600000"),
        ("do goroutines", "spin 600000"),
        ("do goroutines", "hold 1"),
    ] {
        let mut nginx = builder().start();
        let stay = |_| nginx.client().send_only(&path(entry, request));
        let streams: Vec<_> = (0..3).map(stay).collect();
        await_running(&nginx, entry, 3);
        nginx.stop(Signal::Term, EXIT_PROMISE);
        drop(streams);
    }
}

/// Worker after worker leaves while pool threads are in Go, goroutines compute,
/// and garbage is collected.
#[test]
fn workers_leave_whatever_goroutines_do() {
    let nginx = builder()
        .setup("shutdown_timeout = 0.02")
        .location(
            "/busy",
            "local inline, goroutines = go('do inline'), go('do goroutines')
         local function cast(rt, request)
             assert(rt:cast(request, { timeout = 3600 }))
         end
         cast(goroutines, 'gc 1000000000')
         for i = 1, 2 do
             cast(goroutines, 'wait 3600000')
             cast(goroutines, 'sleep 3600000')
             cast(inline, 'spin 3600000')
             cast(goroutines, 'spin 3600000')
         end",
        )
        .start();
    const ROUNDS: usize = 12;
    for round in 0..ROUNDS {
        nginx.text("/busy");
        await_running(&nginx, "do inline", 2);
        await_running(&nginx, "do goroutines", 7);
        nginx.end_workers(round, EXIT_PROMISE);
        eventually("another worker", || nginx.workers().len() == 1);
    }
    eventually("the exits are in the log", || nginx.clean_exits() == ROUNDS);
}

/// `NBFFI_SOAK_CALLS` calls, as in `tests/soak.rs`.
#[test]
fn soak() {
    const PER_REQUEST: u64 = 5_000;
    let calls = Size::Calls.or(200_000);
    let requests = calls.div_ceil(PER_REQUEST).max(8);
    let nginx = builder()
        .location(
            "/soak",
            "local runtimes = { go('echo'), go('echo zero copy'), go('do inline'),
                            go('do goroutines') }
         local wrong = 0
         local function one(i)
             local rt = runtimes[i % 4 + 1]
             local text = 'echo ' .. ('x'):rep(i * 7 % 3000)
             local res, err
             if i % 50 == 0 then
                 res, err = rt:call(text, { timeout = 0.0005 })
                 if not res and err == 'timeout' then return end
             else
                 res, err = rt:call(text)
             end
             if res ~= text and 'echo ' .. tostring(res) ~= text then
                 wrong = wrong + 1
                 ngx.log(ngx.ERR, err)
             end
         end
         harness.together(50, function(i)
             for j = 1, 100 do one(i * 100 + j) end
         end)
         go('counter', { config = '1' }):close()
         ngx.print(wrong)",
        )
        .start();
    let worker = nginx.worker();
    let soak = |requests: u64| {
        nginx.repeat("/soak", requests, |text| {
            assert_eq!(text, "0", "{}", nginx.log())
        });
        eventually("all slots are free again", || {
            nginx.figure("slots.used") <= 1.0
        });
        let figures = nginx.figures("/counts");
        (
            process::rss(worker),
            process::threads(worker).len(),
            figures["goroutines"],
        )
    };
    // Go makes a thread whenever it needs one more than ever before, and keeps it:
    // how many these calls need at most is known when a while has brought no new
    // one. A leak would bring some for ever.
    const WHILE: u64 = 4;
    let mut threads = soak(WHILE).1;
    let (mut quiet, mut rounds) = (0, 0);
    while quiet < 3 {
        let now = soak(WHILE).1;
        quiet = if now > threads { 0 } else { quiet + 1 };
        threads = threads.max(now);
        rounds += 1;
        assert!(rounds < 60, "{threads} threads, and more with every round");
    }
    let (memory, _, _) = soak(requests / 4);
    let (memory_after, threads_after, goroutines) = soak(requests - requests / 4);
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 16_000, "{grown} KiB more after {calls} calls");
    assert!(
        threads_after <= threads + 4,
        "{threads} threads, then {threads_after}"
    );
    assert!(goroutines < 20.0, "{goroutines} goroutines");
}

#[test]
fn a_client_keeps_its_connections() {
    let nginx = Nginx::builder()
        .plugin("go_redis")
        .location(
            "/redis",
            "local rt, err = nbffi.load {
                 runtime = 'go', library = 'go_redis', entry = 'redis',
                 config = 'unix://' .. ngx.config.prefix() .. '../temp/redis.sock?pool_size=4',
             }
             if not rt then
                 return ngx.print(err)
             end
             ngx.req.read_body()
             harness.say(rt:call(ngx.req.get_body_data(), { timeout = tonumber(ngx.var.args) }))",
        )
        .start();
    let socket = nginx.dir().join("temp/redis.sock");
    let call = |command: &str| nginx.post("/redis", command.as_bytes()).text();
    // Nobody there yet: load says so, and tries again the next time.
    let refused = call(r#"["PING"]"#);
    assert!(
        refused.contains("redis.sock: connect: no such file"),
        "{refused}"
    );
    let redis = Redis::start(&socket);
    assert_eq!(call(r#"["PING"]"#), "ok \"PONG\"");
    assert_eq!(call(r#"["SET", "key", "value"]"#), "ok \"OK\"");
    assert_eq!(call(r#"["GET", "key"]"#), "ok \"value\"");
    assert_eq!(call(r#"["GET", "none"]"#), "ok null");
    assert_eq!(call(r#"["RPUSH", "list", "a", "b"]"#), "ok 2");
    assert_eq!(call(r#"["LRANGE", "list", 0, -1]"#), r#"ok ["a","b"]"#);
    assert!(call("nonsense").contains("code=400"));
    let wrong = call(r#"["INCR", "key"]"#);
    assert!(
        wrong.contains("ERR value is not an integer") && wrong.contains("code=422"),
        "{wrong}"
    );
    // Very many calls, few connections.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = nginx.client();
                for _ in 0..50 {
                    let response = client.post("/redis", br#"["INCR", "visits"]"#).unwrap();
                    assert!(response.text().starts_with("ok "), "{}", response.text());
                }
            });
        }
    });
    assert_eq!(call(r#"["GET", "visits"]"#), "ok \"800\"");
    let clients = call(r#"["CLIENT", "LIST"]"#);
    let connections = clients.matches("cmd=").count();
    assert!((1..=4).contains(&connections), "{clients}");
    // A caller that has no time left does not wait for the server.
    let slow = nginx
        .post("/redis?0.1", br#"["BLPOP", "empty", 60]"#)
        .text();
    assert!(slow.starts_with("error timeout "), "{slow}");
    // It comes back when the server does.
    drop(redis);
    let gone = call(r#"["PING"]"#);
    assert!(gone.contains("code=503"), "{gone}");
    let _redis = Redis::start(&socket);
    eventually("it is connected again", || {
        call(r#"["PING"]"#) == "ok \"PONG\""
    });
    assert!(nginx.log().contains("connected to "), "{}", nginx.log());
}

/// Runs a command of the Go tools, with nothing to complain about.
fn go(folder: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root().join(folder))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success(),
        "{folder}: {program} {arguments:?}: {text}"
    );
    text
}

#[test]
fn the_go_code_is_tested_vetted_and_formatted() {
    for folder in ["runtimes/go", "examples/go", "t/plugins/go", "bench/go"] {
        assert_eq!(go(folder, "gofmt", &["-l", "."]), "", "gofmt -w {folder}");
        go(folder, "go", &["vet", "./..."]);
    }
    let tested = go("runtimes/go", "go", &["test", "-count=1", "./..."]);
    assert!(tested.contains("ok"), "{tested}");
    // Every template is short.
    let template = fs::read_to_string(root().join("examples/go/template/main.go")).unwrap();
    assert!(template.lines().count() < 30);
}

/// A module is downloaded without what is outside of its folder.
#[test]
fn the_module_has_the_header() {
    let name = "nonblocking_ffi.h";
    let read = |folder: &str| fs::read_to_string(root().join(folder).join(name)).unwrap();
    let same = read("include") == read("runtimes/go/nonblockingffi");
    assert!(same, "cp include/{name} runtimes/go/nonblockingffi/");
}
