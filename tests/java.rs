//! Java in nginx's workers, and what can go wrong with it: signals, reloads and
//! stops under load, a JVM that does not start, classes that stay, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::builder::Builder;
use support::http::Load;
use support::plugins::{Count, has};
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, Size, eventually, in_turns, root};

/// Opens the library, which changes some of what signals do; Java changes nothing.
const LIBRARY: &str = "assert(nbffi.load { runtime = 'c', library = 'echo' })";

/// An nginx with functions that load the test classes: `java(options)`, `faults(options)`
/// for the class `Faults`.
fn builder() -> Builder {
    Nginx::builder().language("java").init(
        "function java(given)
             return harness.load(
                 { runtime = 'java', class_path = 'lib/java' }, given)
         end
         function faults(given)
             return assert(java(harness.with(
                 { entry = 'faults.Faults#call', config = harness.counters }, given)))
         end\n",
    )
}

/// The same with `/call?<verb>-<ms>-<id>`, which answers with the request.
fn caller() -> Builder {
    builder()
        .init("nbffi.pool('wide', { threads = 8 })")
        .location(
            "/call",
            "local request = ngx.var.args:gsub('-', ' ')
             ngx.print(assert(faults { pool = 'wide' }:call(request)))",
        )
        .location(
            "/later",
            "local request = ngx.var.args:gsub('-', ' ')
             local rt = faults { pool = 'wide', name = 'later',
                                 entry = 'faults.Faults#later' }
             ngx.print(assert(rt:call(request)))",
        )
}

/// The signal that stops Java threads: not nginx's SIGUSR2.
fn stop_signal() -> i32 {
    libc::SIGRTMAX() - 5
}

/// The signal that wakes Java threads from system calls.
fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// The signals that a process ignores and those that it catches, without those that
/// a JVM has to have, and the two that the C library uses as soon as there are threads.
fn dispositions(pid: i32) -> [BTreeSet<i32>; 2] {
    let own = BTreeSet::from([
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        stop_signal(),
        wake_signal(),
        32,
        33,
    ]);
    ["SigIgn", "SigCgt"].map(|key| &process::signals(pid, key) - &own)
}

#[test]
fn signals_are_as_they_were_and_do_what_they_did() {
    if !has("java") {
        return;
    }
    let mut nginx = caller().location("/library", LIBRARY).start();
    assert_eq!(nginx.text("/library"), "");
    let before = dispositions(nginx.worker());
    assert_eq!(nginx.text("/call?echo-0-1"), "echo 0 1");
    let worker = nginx.worker();
    assert_eq!(dispositions(worker), before);
    assert!(process::signals(worker, "SigCgt").contains(&stop_signal()));
    assert!(
        process::threads(worker)
            .iter()
            .any(|(_, name)| name == "nbffi-java")
    );

    // What nginx notes and ignores in a worker, it still does; and it does not
    // even note SIGPIPE.
    let noted = [libc::SIGHUP, libc::SIGUSR2, libc::SIGIO];
    for signal in noted.iter().chain(&[libc::SIGPIPE]) {
        process::signal(worker, *signal);
    }
    for signal in noted {
        eventually("nginx's handler has run", || {
            let log = nginx.log();
            let mut lines = log
                .lines()
                .filter(|line| line.contains(&format!("{worker}#")));
            lines.any(|line| line.contains(&format!("signal {signal} (")))
        });
    }
    assert_eq!(nginx.text("/call?echo-0-2"), "echo 0 2");
    assert_eq!(nginx.worker(), worker);
    // It may not open the log that the master has opened, but it does try.
    nginx.allow("error.log\" failed");
    process::signal(worker, libc::SIGUSR1);
    eventually("the log is reopened", || {
        nginx.log().contains("reopening logs")
    });

    // These end it, each in its way; every one with code 0.
    for (index, signal) in [libc::SIGQUIT, libc::SIGTERM, libc::SIGINT]
        .iter()
        .enumerate()
    {
        let worker = nginx.worker();
        process::signal(worker, *signal);
        nginx.wait_gone(worker, EXIT_PROMISE);
        eventually("a new worker", || nginx.workers().len() == 1);
        assert_eq!(nginx.text("/call?echo-0-3"), "echo 0 3");
        assert_eq!(nginx.clean_exits(), index + 1);
    }
    nginx.stop(Signal::Quit, EXIT_PROMISE);
}

/// The host tells the thread that cancels when there is something to do.
#[test]
fn nothing_polls_while_java_runs() {
    if !has("java") {
        return;
    }
    let mut nginx = caller().start();
    let naps = |worker| -> Vec<(String, u64)> {
        let mut threads = process::naps(worker);
        threads.retain(|(name, _)| name.starts_with("nbffi-java"));
        threads
    };
    std::thread::scope(|scope| {
        scope.spawn(|| nginx.client().get("/call?sleep-60000-1"));
        eventually("Java runs", || nginx.counters().get(Count::Started) == 1);
        let worker = nginx.worker();
        // It may be on its way to sleep.
        eventually("it sleeps for a second", || {
            let before = naps(worker);
            std::thread::sleep(Duration::from_secs(1));
            before.len() == 1 && naps(worker) == before
        });
        assert_eq!(nginx.counters().get(Count::Ended), 0);
        nginx.signal(Signal::Term);
    });
    nginx.wait_stopped(EXIT_PROMISE);
}

#[test]
fn a_reload_under_load_loses_no_request() {
    if !has("java") {
        return;
    }
    for (path, answer) in [
        ("/call?sleep-5-", "sleep 5 "),
        ("/later?later-5-", "later 5 "),
    ] {
        let nginx = caller().workers(2).start();
        let load = Load::start(&nginx, 8, path, answer);
        let sent = load.outlive_reloads(&nginx, Size::Reloads.or(4), 50);
        let runs = nginx.counters().runs(sent);
        assert!(runs.iter().all(|&runs| runs == 1), "{runs:?}");
    }
}

#[test]
fn quit_answers_what_it_has_begun() {
    if !has("java") {
        return;
    }
    let mut nginx = caller().start();
    let calls: Vec<_> = (1..=8)
        .map(|id| (format!("/call?sleep-500-{id}"), format!("sleep 500 {id}")))
        .collect();
    nginx.quit_while(&calls, |nginx| nginx.counters().get(Count::Started) == 8);
    nginx.wait_stopped(EXIT_PROMISE);
    // The runtime was closed, too.
    assert_eq!(nginx.counters().get(Count::Closes), 1);
}

#[test]
fn stop_ends_at_once_whatever_java_does() {
    if !has("java") {
        return;
    }
    for path in [
        "/call?sleep-60000-",
        "/call?spin-60000-",
        "/later?later-60000-",
    ] {
        let mut nginx = caller().workers(2).start();
        let load = Load::start(&nginx, 16, path, "");
        eventually("Java is busy", || nginx.counters().get(Count::Started) >= 8);
        nginx.stop(Signal::Term, EXIT_PROMISE);
        assert_eq!(load.stop().answered, 0);
        assert_eq!(nginx.clean_exits(), 2);
    }
}

/// Nobody waits for them, so nobody will: the worker leaves after its timeout.
#[test]
fn a_worker_leaves_runaway_java_behind() {
    if !has("java") {
        return;
    }
    let nginx = builder()
        .setup("threads = 2, shutdown_timeout = 0.1")
        .location(
            "/cast",
            "for _ = 1, 4 do
                 faults():cast('spin 3600000', { timeout = 3600 })
             end",
        )
        .start();
    for round in 1..=3 {
        nginx.text("/cast");
        eventually("Java is busy", || {
            nginx.counters().get(Count::Started) == 2 * round
        });
        nginx.replace_workers(EXIT_PROMISE);
    }
}

/// Whatever the JVM is at: being made, loading classes, running them.
#[test]
fn a_worker_stops_while_the_jvm_starts() {
    if !has("java") {
        return;
    }
    for delay in [0, 5, 10, 20, 30, 40, 60, 80, 100, 150] {
        let mut nginx = builder()
            .init_worker(
                "ngx.timer.at(0, function()
                     faults():cast('spin 1000')
                 end)",
            )
            .start();
        std::thread::sleep(Duration::from_millis(delay));
        nginx.stop(Signal::Term, EXIT_PROMISE);
    }
}

#[test]
fn a_jvm_that_cannot_start_is_an_error_of_load() {
    if !has("java") {
        return;
    }
    let load = |arguments: &str| {
        format!(
            "local rt, err = java {{ entry = 'faults.Faults#echo', {arguments} }}
             ngx.print(rt and rt:call('loaded') or err)"
        )
    };
    for (arguments, said) in [
        (
            "jvm_args = { '-Xmx99999999g' }",
            "Could not reserve enough space",
        ),
        // The first of these is found wrong late, when it would end a program.
        ("jvm_args = { '-Xmx64m', '-Xms32g' }", "heap size"),
        ("jvm_args = { '-XX:+NoSuchFlag' }", "NoSuchFlag"),
        (
            "jvm_args = { '-Xbootclasspath/a:/x', '-XX:MaxRAM=oops' }",
            "MaxRAM",
        ),
        (
            "jvm_args = { '-javaagent:/no/such.jar' }",
            "agent library failed to init",
        ),
    ] {
        let nginx = builder()
            .location("/load", &load(arguments))
            .location("/plain", &load(""))
            .start();
        let worker = nginx.worker();
        let text = nginx.text("/load");
        assert!(text.contains("does not start: "), "{arguments}: {text}");
        assert!(text.contains(said), "{arguments}: {text}");
        // There is no second attempt in this worker, which is alive.
        assert_eq!(nginx.text("/plain"), text);
        assert_eq!(nginx.worker(), worker);
    }
}

#[test]
fn a_java_that_is_not_there_is_an_error_of_load() {
    if !has("java") {
        return;
    }
    let nginx = builder()
        .location(
            "/load",
            "local rt, err = java { entry = 'faults.Faults#echo',
                                    java_home = ngx.var.args }
             ngx.print(rt and rt:call('loaded') or err)",
        )
        .start();
    let text = nginx.text("/load?/no/java");
    assert!(
        text.contains("java_home: /no/java: there is none"),
        "{text}"
    );
    let text = nginx.text("/load?/usr");
    assert!(text.contains("no lib/server/libjvm.so in it"), "{text}");
    // It was not the last word.
    let homes = java_homes();
    assert_eq!(
        nginx.text(&format!("/load?{}", homes[0].display())),
        "loaded"
    );
    if let Some(other) = homes.get(1) {
        let text = nginx.text(&format!("/load?{}", other.display()));
        assert!(text.contains("this one is that of"), "{text}");
    }
}

/// Every Java of this machine that will do.
fn java_homes() -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.path().canonicalize().ok())
        .filter(|home| home.join("lib/server/libjvm.so").exists())
        .filter(|home| {
            let release = fs::read_to_string(home.join("release")).unwrap_or_default();
            let version = release.split("JAVA_VERSION=\"").nth(1).unwrap_or("0");
            let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
            version[..end].parse::<u32>().unwrap_or(0) >= 17
        })
        .collect();
    homes.sort();
    homes.dedup();
    if homes.is_empty() {
        homes.extend(std::env::var_os("JAVA_HOME").map(PathBuf::from));
    }
    assert!(
        !homes.is_empty(),
        "no Java in /usr/lib/jvm, and no JAVA_HOME"
    );
    homes
}

/// All of it, with each Java that is installed; virtual threads if it has them.
#[test]
fn every_java_that_is_installed_will_do() {
    if !has("java") {
        return;
    }
    for home in java_homes() {
        let home = home.display();
        let nginx = builder()
            .init(&format!("home = '{home}'"))
            .location("/library", LIBRARY)
            .location(
                "/memory",
                "local rt = assert(java { entry = 'faults.Faults#memory', java_home = home })
                 ngx.print(rt:call(''))",
            )
            .location(
                "/echo",
                "for _, how in ipairs { 'echo', 'echoBuffer', 'echoFuture' } do
                     local rt = assert(java { entry = 'faults.Faults#' .. how,
                                              java_home = home })
                     for _, size in ipairs { 0, 100, 5000, 1000000 } do
                         local text = ('x'):rep(size)
                         for i = 1, 200 do
                             assert(rt:call(text) == text)
                         end
                     end
                 end
                 ngx.print('the end')",
            )
            .location(
                "/virtual",
                "local rt, err = java { entry = 'faults.Faults#call',
                                        config = harness.counters, java_home = home,
                                        virtual_threads = true }
                 if not rt then
                     return ngx.print(err)
                 end
                 nbffi.pool('one', { threads = 1 })
                 rt = assert(java { entry = 'faults.Faults#call', java_home = home,
                                    config = harness.counters, pool = 'one',
                                    virtual_threads = true })
                 local futures = {}
                 for id = 1, 5000 do
                     futures[id] = rt:submit('sleep 200 ' .. id)
                 end
                 local results = nbffi.wait_all(futures)
                 for id = 1, 5000 do
                     assert(results[id] == 'sleep 200 ' .. id)
                 end
                 -- One that is given up, and one that throws.
                 local _, timeout = rt:call('sleep 3600000', { timeout = 0.1 })
                 local _, wrong = rt:call('nonsense')
                 ngx.print(timeout, ' ', wrong:match('^[^\\n]*'))",
            )
            .start();
        let worker = nginx.worker();
        assert_eq!(nginx.text("/library"), "");
        let before = dispositions(worker);
        let version = nginx.figures("/memory")["version"];
        assert_eq!(dispositions(worker), before, "{home}");
        assert_eq!(nginx.text("/echo"), "the end");
        let text = nginx.text("/virtual");
        if version < 21.0 {
            assert!(
                text.contains("virtual_threads needs Java 21"),
                "{home}: {text}"
            );
            continue;
        }
        let wrong = "runtime error: java.lang.IllegalArgumentException: nonsense";
        assert_eq!(text, format!("timeout {wrong}"), "{home}");
        eventually("the interrupted thread ends", || {
            nginx.counters().get(Count::Running) == 0
        });
        assert_eq!(nginx.counters().runs(5000), [1; 5000]);
    }
}

/// A JVM has one `DriverManager`, one common pool, one `java.util.logging`, and one
/// `System.exit`, for all runtimes: each finds its own classes there, in any order,
/// and none takes them from the others. With more than two processors, as
/// `CompletableFuture` uses the common pool only then.
#[test]
fn what_a_jvm_has_once_serves_each_runtime() {
    if !has("java") {
        return;
    }
    let folder = root().join("target/test-plugins/java/jdbc");
    for home in java_homes() {
        let (home, folder) = (home.display(), folder.display());
        let nginx = builder()
            .init(&format!(
                "function shared(name)
                     return java {{
                         entry = 'jdbc.Shared#call', class_path = '{folder}', name = name,
                         java_home = '{home}', pool = 'three',
                         jvm_args = {{ '-XX:ActiveProcessorCount=4' }},
                     }}
                 end
                 function first_line(text)
                     return (tostring(text):match('^[^\\n]*'))
                 end"
            ))
            .init_worker("nbffi.pool('three', { threads = 3 })")
            .location(
                "/share",
                "local names = { 'one', 'two', 'three' }
                 for round = 1, 3 do
                     for _, name in ipairs(names) do
                         local rt = assert(shared(name))
                         for _, what in ipairs { 'connect', 'pool', 'stream', 'chosen' } do
                             ngx.say(name, ' ', what, ': ', rt:call(what))
                         end
                     end
                     -- The next round has other runtimes of the same names.
                     for _, name in ipairs(names) do
                         assert(assert(shared(name)):close())
                     end
                 end
                 ngx.print(assert(shared('one')):call('registered'))",
            )
            .location(
                "/exit",
                "local one, two = assert(shared('one')), assert(shared('two'))
                 for i = 1, 4 do
                     for _, what in ipairs { 'exit', 'halt' } do
                         ngx.say(first_line(select(2, two:call(what))))
                     end
                     ngx.say(two:call('thread'))
                 end
                 ngx.print(one:call('log'), ' ', two:call('log'))",
            )
            .start();
        let worker = nginx.worker();
        let expected: String = ["one", "two", "three"]
            .map(|name| {
                format!(
                    "{name} connect: jdbc:test:tea 1\n{name} pool: good day true\n\
                     {name} stream: 1\n{name} chosen: true good day true\n"
                )
            })
            .concat();
        let text = nginx.text("/share");
        assert_eq!(text, format!("{}1", expected.repeat(3)), "{home}");
        let refused = "runtime error: System.exit was called\n";
        let expected = format!("{refused}{refused}joined\n").repeat(4);
        assert_eq!(
            nginx.text("/exit"),
            format!("{expected}logged logged"),
            "{home}"
        );
        assert_eq!(nginx.worker(), worker);
        eventually("both have logged", || {
            let log = nginx.log();
            ["one", "two"].iter().all(|name| {
                log.contains(&format!("[{name}] shared: to java.util.logging"))
                    && log.contains(&format!("[{name}] shared: to System.Logger"))
            })
        });
        let log = nginx.log();
        let refusals = log
            .matches("[two] System.exit was called: that does not end")
            .count();
        assert_eq!(refusals, 12, "{home}");
        assert!(!log.contains("[one] System.exit"), "{home}");
    }
}

/// Loads and closes the same classes again and again. Each time they take a
/// megabyte, and the pool's threads remember one of their objects: if that kept
/// them, the heap of 64 MB would not do.
#[test]
fn closed_runtimes_leave_no_classes_behind() {
    if !has("java") {
        return;
    }
    let nginx = builder()
        .setup("threads = 2")
        .init("nbffi.pool('observer', { threads = 1 })")
        .location(
            "/memory",
            "local rt = assert(java { entry = 'faults.Faults#memory', pool = 'observer' })
             ngx.print(rt:call(''))",
        )
        .location(
            "/rounds",
            "for _ = 1, tonumber(ngx.var.args) do
                 local rt = faults()
                 local futures = {}
                 for i = 1, 20 do
                     futures[i] = rt:submit('remember')
                 end
                 local results, errors = nbffi.wait_all(futures)
                 assert(not next(errors), errors[next(errors)])
                 assert(rt:close())
             end",
        )
        .start();
    // Until the heap is as large as it gets.
    nginx.text("/rounds?100");
    let before = nginx.figures("/memory");
    let rss = process::rss(nginx.worker());
    let cycles = Size::Cycles.or(100);
    in_turns(cycles, 100, |some| nginx.text(&format!("/rounds?{some}")));
    // Both threads have to run once more to let go of what they remember last.
    nginx.text("/rounds?1");
    let after = nginx.figures("/memory");
    let grown = |key: &str| after[key] - before[key];
    // Four classes of each round, if they stayed.
    assert!(grown("classes") < 200.0, "{before:?} {after:?}");
    assert!(grown("heap") < 8e6, "{before:?} {after:?}");
    assert!(grown("threads").abs() < 4.0, "{before:?} {after:?}");
    let more = process::rss(nginx.worker()).saturating_sub(rss);
    assert!(more < 20_000, "{more} KiB more");
    assert_eq!(nginx.counters().get(Count::Closes), 101 + cycles);
}

/// Very many calls: what is in use comes back to where it was.
/// `NBFFI_SOAK_CALLS` says how many.
#[test]
fn soak() {
    if !has("java") {
        return;
    }
    const PER_REQUEST: u64 = 2_000;
    let calls = Size::Calls.or(200_000);
    let nginx = builder()
        .setup("threads = 2")
        .location(
            "/memory",
            "local rt = assert(java { entry = 'faults.Faults#memory' })
             collectgarbage()
             ngx.print(rt:call(''))",
        )
        .location(
            "/soak",
            &format!(
                "local all = {{}}
                 for i, how in ipairs {{ 'echo', 'echoBuffer', 'echoFuture' }} do
                     all[i] = assert(java {{ entry = 'faults.Faults#' .. how }})
                 end
                 local large = ('x'):rep(100000)
                 local function some()
                     for i = 1, {PER_REQUEST} / 50 do
                         local text = i == 1 and large or 'call ' .. i
                         assert(all[i % 3 + 1]:call(text) == text)
                     end
                 end
                 harness.together(50, some)"
            ),
        )
        .start();
    let worker = nginx.worker();
    let soak = |calls: u64| nginx.repeat("/soak", calls.div_ceil(PER_REQUEST), |_| {});
    soak(calls / 4);
    let (before, rss) = (nginx.figures("/memory"), process::rss(worker));
    soak(calls);
    let (after, more) = (
        nginx.figures("/memory"),
        process::rss(worker).saturating_sub(rss),
    );
    assert!(after["heap"] - before["heap"] < 4e6, "{before:?} {after:?}");
    assert!(
        after["threads"] - before["threads"] < 4.0,
        "{before:?} {after:?}"
    );
    // The heap may still have grown to its 64 MB.
    assert!(more < 60_000, "{more} KiB more after {calls} calls");
}

/// A worker leaves nothing of the JVM's in the usual places.
#[test]
fn no_file_is_left_behind() {
    if !has("java") {
        return;
    }
    let mut nginx = caller().start();
    assert_eq!(nginx.text("/call?echo-0-1"), "echo 0 1");
    let worker = nginx.worker();
    let dir = nginx.dir().to_owned();
    let traces = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                let is_java = name.contains("java") || name.starts_with("hs_err");
                // Other programs may have left theirs in the same place.
                is_java && name.contains(&format!("{worker}"))
                    || name == "core" && folder.starts_with(&dir)
            })
            .collect()
    };
    let places = ["/tmp", "/tmp/hsperfdata_nobody", "/tmp/hsperfdata_root"].map(Path::new);
    for running in [true, false] {
        if !running {
            nginx.stop(Signal::Quit, EXIT_PROMISE);
        }
        for place in places.iter().copied().chain([&*dir.join("prefix")]) {
            assert_eq!(traces(place), Vec::<PathBuf>::new());
        }
    }
}
