//! Loading, and what can be wrong with it: the library, the plugin, the user,
//! the places for sockets. A worker survives all of it.

use std::fs;
use std::path::Path;

use support::folder::{Folder, set_mode};
use support::plugins::Count;
use support::process::Signal;
use support::{Nginx, PATIENCE, eventually, process};

#[test]
fn a_library_that_cannot_be_loaded_is_an_error() {
    let nginx = Nginx::builder()
        .workers(2)
        .plugin("no_entry")
        .init_worker(
            "local rt, err = nbffi.load { runtime = 'c', library = 'missing' }
             at_start = tostring(rt) .. ' ' .. tostring(err)",
        )
        .location("/start", "ngx.print(at_start)")
        .location(
            "/load",
            "local rt, err = nbffi.load { runtime = 'c', library = ngx.var.arg_library,
                                          entry = ngx.var.arg_entry,
                                          config = ngx.var.arg_config }
             ngx.print(tostring(rt), ' ', tostring(err))",
        )
        .location("/works", "ngx.print((harness.fault():call('echo')))")
        .start();
    let text = nginx.dir().join("prefix/lib/libtext.so");
    fs::write(&text, "this is no shared object").unwrap();
    fs::write(nginx.dir().join("prefix/lib/libempty.so"), "").unwrap();

    let failed = |query: &str, what: &[&str]| {
        // Each time anew, and each time the same.
        for _ in 0..3 {
            let answer = nginx.text(&format!("/load?{query}"));
            let error = answer
                .strip_prefix("nil ")
                .unwrap_or_else(|| panic!("{answer}"));
            for part in what {
                assert!(error.contains(part), "{query}: {error}");
            }
        }
        assert_eq!(nginx.text("/works"), "echo");
    };
    failed("library=missing", &["cannot load library", "missing"]);
    failed(
        "library=/nonexistent/libx.so",
        &["/nonexistent/libx.so", "No such file"],
    );
    failed("library=text", &["cannot load library", "libtext.so"]);
    failed("library=empty", &["cannot load library", "libempty.so"]);
    failed("library=/", &["cannot load library"]);
    failed(
        "library=no_entry",
        &["libno_entry.so", "nbffi_plugin_entry"],
    );
    failed("library=fault&entry=nothing", &["libfault.so", "nothing"]);
    failed(
        "library=fault&config=fail=broken",
        &["libfault.so", "broken"],
    );
    assert!(
        nginx
            .text("/start")
            .starts_with("nil cannot load library \"missing\"")
    );
    // Nothing of what failed is left.
    let stats = nginx.figures("/stats");
    assert!(
        stats
            .keys()
            .all(|key| !key.contains("missing") && !key.contains("no_entry"))
    );
    assert_eq!(stats["slots.used"], 0.0);
}

#[test]
fn the_core_is_missing() {
    let nginx = Nginx::builder()
        .init("package.cpath = '/nonexistent/?.so;./here/?.so'")
        .location(
            "/load",
            "ngx.print(select(2, nbffi.load { runtime = 'c', library = 'echo' }))",
        )
        .start();
    let error = nginx.text("/load");
    for path in [
        "/nonexistent/libnonblocking_ffi.so",
        "./here/libnonblocking_ffi.so",
    ] {
        assert!(error.contains(path), "{error}");
    }
}

#[test]
fn many_requests_load_at_the_same_time() {
    let nginx = Nginx::builder()
        .location(
            "/load",
            "local rt = harness.fault {
                 config = 'init_ms=200 counters=' .. harness.counters
             }
             ngx.print((rt:call('echo')))",
        )
        .location(
            "/failing",
            "local rt, err = nbffi.load {
                 runtime = 'c', library = 'fault', config = 'init_ms=200 fail=broken'
             }
             ngx.print(tostring(rt), ' ', err)",
        )
        .start();
    for (path, end) in [("/load", "echo"), ("/failing", "broken")] {
        std::thread::scope(|scope| {
            let answers: Vec<_> = (0..8).map(|_| scope.spawn(|| nginx.text(path))).collect();
            for answer in answers {
                let answer = answer.join().unwrap();
                assert!(answer.ends_with(end), "{answer}");
            }
        });
    }
    assert_eq!(nginx.counters().get(Count::Inits), 1);
}

#[test]
fn init_by_lua_is_refused_and_log_by_lua_is_not_harmed() {
    let nginx = Nginx::builder()
        .init("refused = select(2, nbffi.load { runtime = 'c', library = 'echo' })")
        .location("/refused", "ngx.print(refused)")
        .server(
            "location = /log {
                 return 200 'logged';
                 log_by_lua_block {
                     local rt, err = nbffi.load {
                         runtime = 'c', library = 'echo', name = 'from the log'
                     }
                     in_log = tostring(rt) .. ' ' .. tostring(err)
                 }
             }",
        )
        .location("/logged", "ngx.print(in_log)")
        .start();
    assert!(nginx.text("/refused").contains("init_worker"));
    nginx.text("/log");
    eventually("the log phase is over", || nginx.text("/logged") != "nil");
    assert_eq!(nginx.text("/logged"), "nil cannot yield in this phase");
}

#[test]
fn a_plugin_that_panics_fails_its_task_and_nothing_else() {
    let nginx = Nginx::builder()
        .plugin("panics")
        .location(
            "/panic",
            "local rt = assert(nbffi.load { runtime = 'c', library = 'panics' })
             local thread = ngx.thread.spawn(function()
                 for i = 1, 100 do
                     assert(rt:call('well ' .. i) == 'well ' .. i)
                 end
             end)
             local last
             for i = 1, 100 do
                 local res, err, code, message = rt:call('panic number ' .. i)
                 assert(res == nil and message and code)
                 assert(message:find('number ' .. i, 1, true), message)
                 assert(err == 'runtime error: ' .. message, err)
             end
             local res, err = rt:call('value')
             assert(res == nil and err:find('^runtime error: '))
             assert(ngx.thread.wait(thread))
             ngx.print('fine')",
        )
        .location(
            "/init",
            "ngx.print(select(2, nbffi.load {
                 runtime = 'c', library = 'panics', config = 'init'
             }))",
        )
        .location(
            "/close",
            "local rt = assert(nbffi.load {
                 runtime = 'c', library = 'panics', config = 'close'
             })
             assert(rt:call('x') == 'x')
             ngx.print(tostring(rt:close()))",
        )
        .start();
    let worker = nginx.worker();
    assert_eq!(nginx.text("/panic"), "fine");
    let error = nginx.text("/init");
    assert!(error.contains("as the config says"), "{error}");
    assert_eq!(nginx.text("/close"), "true");
    assert_eq!(nginx.worker(), worker);
    let stats = nginx.figures("/stats");
    assert_eq!(stats["runtimes.panics.errors.runtime error"], 101.0);
    assert_eq!(stats["runtimes.panics.ok"], 100.0);
}

#[test]
fn unprivileged_workers_and_a_prefix_that_is_read_only() {
    let nginx = Nginx::builder()
        .workers(2)
        .read_only_prefix()
        .location("/call", "ngx.print((harness.fault():call('echo 0 1')))")
        .start();
    for worker in nginx.workers() {
        eventually("the worker is not root", || {
            let (user, group) = process::owner(worker);
            user != 0 && group != 0
        });
    }
    assert_eq!(nginx.text("/call"), "echo 0 1");
    let old = nginx.reload();
    assert_eq!(nginx.text("/call"), "echo 0 1");
    for worker in old {
        nginx.wait_gone(worker, PATIENCE);
    }
}

/// A folder in which nobody but root may make anything. Root itself runs tests
/// as well, but its workers are unprivileged.
fn forbidden() -> Folder {
    let folder = Folder::new();
    set_mode(&folder, 0o555);
    folder
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn the_first_socket_folder_that_works_is_used() {
    let first = forbidden();
    let good = Folder::new();
    set_mode(&good, 0o777);
    {
        let nginx = Nginx::builder()
            .socket_dirs(&[Path::new("/nonexistent"), &first, &good])
            .location("/call", "ngx.print((harness.fault():call('sleep 5')))")
            .start();
        assert_eq!(nginx.text("/call"), "sleep 5");
        assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
        // The channel works: it is what woke the event loop.
        assert!(nginx.figure("channel.wakeups") >= 1.0);
        assert!(is_empty(&good));
    }
    assert!(is_empty(&first) && is_empty(&good));
}

#[test]
fn without_any_socket_folder_calls_work_and_the_log_says_why() {
    let only = forbidden();
    {
        let nginx = Nginx::builder()
            .socket_dirs(&[Path::new("/nonexistent"), &only])
            .location(
                "/call",
                "local rt = harness.fault()
                 for i = 1, 20 do
                     assert(rt:call('sleep 1') == 'sleep 1')
                 end
                 harness.say(rt:call('sleep 50', { timeout = 0.01 }))",
            )
            .start();
        assert_eq!(nginx.text("/call"), "error timeout code=nil message=nil");
        let log = nginx.log();
        let line = log.lines().find(|line| line.contains("nonblocking_ffi"));
        let line = line.unwrap_or_else(|| panic!("no line in the log:\n{log}"));
        assert!(line.contains("/nonexistent: "), "{line}");
        assert!(line.contains(&format!("{}: ", only.display())), "{line}");
        nginx.replace_workers(PATIENCE);
    }
    assert!(is_empty(&only));
}

/// Every request has a Lua VM of its own then. That need not work, but it must
/// not harm, and the error must say what it is.
#[test]
fn with_the_code_cache_off_there_is_an_answer_or_a_clear_error() {
    let mut nginx = Nginx::builder()
        .workers(2)
        .http("lua_code_cache off;")
        .location(
            "/call",
            "local rt, err = nbffi.load {
                 runtime = 'c', library = 'fault',
                 config = 'counters=' .. harness.counters,
             }
             if not rt then
                 return ngx.print('error ', err)
             end
             harness.say(rt:call('sleep 2 ' .. ngx.var.args))",
        )
        .start();
    nginx.allow("lua_code_cache is off");
    std::thread::scope(|scope| {
        for client in 0..4 {
            let nginx = &nginx;
            scope.spawn(move || {
                for number in 1..=50 {
                    let id = client * 50 + number;
                    let answer = nginx.text(&format!("/call?{id}"));
                    let works = answer == format!("ok sleep 2 {id}");
                    let explains =
                        answer.starts_with("error ") && answer.contains("lua_code_cache");
                    assert!(works || explains, "{id}: {answer}");
                }
            });
        }
    });
    let runs = nginx.counters().runs(200);
    assert!(runs.iter().all(|&runs| runs <= 1), "{runs:?}");
}

/// nginx-lua frees the memory of semaphores before it ends such a VM, and complains
/// of each that is left in it.
#[test]
fn with_the_code_cache_off_no_semaphore_is_left_at_the_end() {
    for (signal, hangs) in [
        (Signal::Term, true),
        (Signal::Term, false),
        (Signal::Quit, false),
    ] {
        let mut nginx = Nginx::builder()
            .http("lua_code_cache off;")
            .setup("threads = 3")
            .location(
                "/wait",
                "local rt = assert(nbffi.load {
                     runtime = 'c', library = 'fault',
                     config = 'counters=' .. harness.counters,
                 })
                 local request = ngx.unescape_uri(ngx.var.args)
                 -- A timer waits for one of several.
                 assert(ngx.timer.at(0, function()
                     nbffi.wait_any({ rt:submit(request), rt:submit(request) }, 60)
                 end))
                 harness.say(rt:submit(request):wait(60))",
            )
            .start();
        nginx.allow("lua_code_cache is off");
        let path = |request| format!("/wait?{request}");
        if hangs {
            let _client = nginx.client().send_only(&path("sleep%2060000"));
            eventually("three tasks run", || {
                nginx.counters().get(Count::Running) == 3
            });
        } else {
            assert_eq!(nginx.text(&path("echo")), "ok echo");
        }
        nginx.stop(signal, PATIENCE);
    }
}
