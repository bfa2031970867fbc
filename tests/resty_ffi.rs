//! Plugins written for lua-resty-ffi in a real nginx: signals, libraries that
//! change, workers that leave, load, memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use support::builder::Builder;
use support::http::Load;
use support::plugins::{self, compile};
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, PATIENCE, Size, eventually, idle, root};

/// The plugin that `t/56-resty-ffi.t` uses as well, in a file of its own.
struct Plugin(PathBuf);

impl Plugin {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("librffi-{}-{number}.so", std::process::id());
        let library = plugins::temporary().join(name);
        compile(&root().join("t/plugins/rffi.c"), &library, &[]);
        Self(library)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An nginx in which `ngx.load_ffi(rffi, ...)` loads that plugin.
fn builder(library: &Path) -> Builder {
    let declare = format!("require 'resty_ffi' rffi = {:?}", library);
    Nginx::builder().init(&declare)
}

#[test]
fn signals_and_the_exit_that_a_library_took_are_nginxs_again() {
    let library = Plugin::new();
    let mut nginx = builder(&library.0)
        .workers(2)
        .init_worker("assert(ngx.load_ffi(rffi, 'signals farewell'))")
        .start();
    let said = "SIGQUIT, SIGTERM, SIGPIPE are handled by nginx again";
    eventually("the log says so", || nginx.log().matches(said).count() == 2);
    let workers: Vec<i32> = nginx.workers().into_iter().collect();
    process::signal(workers[0], Signal::Term);
    process::signal(workers[1], Signal::Quit);
    for worker in workers {
        nginx.wait_gone(worker, EXIT_PROMISE);
    }
    eventually("both exited with code 0", || nginx.clean_exits() == 2);
    nginx.stop(Signal::Term, EXIT_PROMISE);
}

/// A library that says which version it is, and how often it was initialised.
const VERSIONED: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

void *ngx_http_lua_ffi_task_poll(void *tq);
void ngx_http_lua_ffi_respond(void *tsk, int rc, char *rsp, int rsp_len);

static int inits;

static void *
run(void *tq)
{
    void  *task;
    char  *text;

    while ((task = ngx_http_lua_ffi_task_poll(tq)) != NULL) {
        text = malloc(64);
        snprintf(text, 64, "%s/%d", VERSION, inits);
        ngx_http_lua_ffi_respond(task, 0, text, 0);
    }
    return NULL;
}

int
libffi_init(char *cfg, void *tq)
{
    pthread_t  thread;

    (void) cfg;
    inits++;
    return pthread_create(&thread, NULL, run, tq);
}
"#;

#[test]
fn a_library_is_opened_anew_when_its_file_has_changed() {
    let nginx = Nginx::builder()
        .init("require 'resty_ffi'")
        .location(
            "/call",
            "local rt = ngx.load_ffi(ngx.config.prefix() .. 'lib/versioned.so', nil,
                                     { unpin = ngx.var.arg_unpin == '1' })
             ngx.print(select(2, rt:call()))
             if ngx.var.arg_unload then rt:__unload() end",
        )
        .start();
    let library = nginx.dir().join("prefix/lib/versioned.so");
    let source = nginx.dir().join("versioned.c");
    fs::write(
        &source,
        VERSIONED.replacen("#include", "#include <stdlib.h>\n#include", 1),
    )
    .unwrap();
    let install = |version: &str| {
        let fresh = library.with_extension("new");
        compile(&source, &fresh, &[&format!("-DVERSION=\"{version}\"")]);
        fs::rename(&fresh, &library).unwrap();
    };
    install("one");
    assert_eq!(nginx.text("/call?unpin=1"), "one/1");
    install("two");
    // Not while it is loaded.
    assert_eq!(nginx.text("/call?unpin=1&unload=1"), "one/1");
    assert_eq!(nginx.text("/call?unpin=1&unload=1"), "two/1");
    // Nor if nothing has changed.
    assert_eq!(nginx.text("/call?unpin=1&unload=1"), "two/2");
    install("three");
    assert_eq!(nginx.text("/call?unpin=1&unload=1"), "three/1");
    // Written over, in place: the one that is mapped is ours.
    let four = library.with_extension("four");
    compile(&source, &four, &["-DVERSION=\"four\""]);
    let bytes = fs::read(&four).unwrap();
    fs::write(&library, bytes).unwrap();
    assert_eq!(nginx.text("/call?unpin=1&unload=1"), "four/1");
    let descriptors = process::descriptors(nginx.worker());
    for version in 0..10 {
        install(&format!("{version}"));
        assert_eq!(nginx.text("/call?unpin=1&unload=1"), format!("{version}/1"));
    }
    assert!(process::descriptors(nginx.worker()) <= descriptors);
}

/// What a library is linked with is where the library is, whether the worker may
/// write there or not.
#[test]
fn a_library_that_is_opened_anew_finds_what_is_beside_it() {
    const LINKED: &str = "const char *beside(void);
        #define VERSION beside()
        #include \"versioned.c\"
        const char *own(void) { return OWN; }";
    let nginx = Nginx::builder()
        .init("require 'resty_ffi'")
        .location(
            "/call",
            "local rt = ngx.load_ffi(ngx.config.prefix() .. 'lib/linked.so', nil,
                                     { unpin = ngx.var.arg_unpin == '1' })
             ngx.print(select(2, rt:call()))
             rt:__unload()",
        )
        .start();
    let folder = nginx.dir().join("prefix/lib");
    let source = nginx.dir().join("linked.c");
    fs::write(nginx.dir().join("versioned.c"), VERSIONED).unwrap();
    fs::write(&source, LINKED).unwrap();
    let beside = nginx.dir().join("beside.c");
    fs::write(&beside, "const char *beside(void) { return \"beside\"; }").unwrap();
    compile(&beside, &folder.join("libbeside.so"), &[]);
    let install = |version: &str| {
        let fresh = folder.join("linked.new");
        let own = format!("-DOWN=\"{version}\"");
        let path = format!("-L{}", folder.display());
        let options = [&own, &path, "-Wl,--no-as-needed,-rpath,$ORIGIN", "-lbeside"];
        compile(&source, &fresh, &options);
        fs::rename(&fresh, folder.join("linked.so")).unwrap();
    };
    for (mode, version) in [
        (0o755, "one"),
        (0o755, "two"),
        (0o777, "three"),
        (0o755, "four"),
    ] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        install(version);
        assert_eq!(nginx.text("/call?unpin=1"), "beside/1", "{version}");
    }
    // Who does not ask for the newest gets what was opened last.
    assert_eq!(nginx.text("/call"), "beside/2");
    install("five");
    assert_eq!(nginx.text("/call"), "beside/3");
    // Copies do not stay.
    let left = fs::read_dir(&folder).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let copies = left
        .iter()
        .filter(|name| name.to_string_lossy().contains("nbffi-"));
    assert_eq!(copies.count(), 0, "{left:?}");
}

/// So many that not each can have a place of its own where it sleeps.
#[test]
fn four_hundred_pollers_sleep_wake_and_end() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .location(
            "/load",
            "crowd = ngx.load_ffi(rffi, 'pollers=400')
             ngx.print(select(2, crowd:echo('echo x')))",
        )
        .location(
            "/meet",
            "-- Each answers when all are there.
             local met = 0
             harness.together(400, function()
                 local ok = crowd:meet('meet 400')
                 met = met + (ok and 1 or 0)
             end)
             ngx.print(met)",
        )
        .location("/unload", "crowd:__unload()")
        .start();
    assert_eq!(nginx.text("/load"), "echo x");
    // As in the original, its threads are as important as nginx's.
    let nices: BTreeSet<String> = fs::read_dir(format!("/proc/{}/task", nginx.worker()))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap())
        .map(|stat| {
            stat.rsplit(')')
                .next()
                .unwrap()
                .split(' ')
                .nth(17)
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(nices, BTreeSet::from(["0".to_owned()]));
    let switches = || {
        let tasks = format!("/proc/{}/task", nginx.worker());
        let of = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|l| l.starts_with("voluntary_ctxt"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let tasks = fs::read_dir(tasks).unwrap().flatten();
        tasks.filter_map(of).sum::<u64>()
    };
    for _ in 0..3 {
        assert_eq!(nginx.text("/meet"), "400");
    }
    // Once all sleep, they go on sleeping: while another worker would have woken
    // thousands of times, nobody does.
    let mut before = switches();
    eventually("all of them sleep", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = switches();
        std::mem::replace(&mut before, now) + 20 > now
    });
    let threads = || {
        fs::read_dir(format!("/proc/{}/task", nginx.worker()))
            .unwrap()
            .count()
    };
    assert!(threads() > 400);
    nginx.text("/unload");
    eventually("all of them have ended", || threads() < 50);
}

#[test]
fn a_library_that_is_pinned_stays_what_it_was() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .location(
            "/call",
            "local rt = ngx.load_ffi(rffi, 'label=' .. ngx.var.arg_label)
             ngx.print(select(2, rt:label('label')))
             rt:__unload()",
        )
        .start();
    assert_eq!(nginx.text("/call?label=a"), "a");
    fs::remove_file(&library.0).unwrap();
    fs::write(&library.0, "no library").unwrap();
    assert_eq!(nginx.text("/call?label=b"), "b");
}

#[test]
fn another_implementation_is_noticed() {
    let source = std::env::temp_dir().join(format!("nbffi-rival-{}.c", std::process::id()));
    let library = Plugin::new();
    let rival = Plugin(source.with_extension("so"));
    fs::write(
        &source,
        "void *ngx_http_lua_ffi_task_poll(void *tq) { return tq; }",
    )
    .unwrap();
    compile(&source, &rival.0, &[]);
    fs::remove_file(source).unwrap();
    let nginx = builder(&library.0)
        .init(&format!("rival = require('ffi').load({:?}, true)", rival.0))
        .location("/load", "ngx.print(select(2, pcall(ngx.load_ffi, rffi)))")
        .start();
    let error = nginx.text("/load");
    let named = format!("{} has functions of lua-resty-ffi, too", rival.0.display());
    assert!(error.contains(&named), "{error}");
}

/// Tasks that a library keeps, and threads that poll for ever, do not keep a
/// worker that nobody waits for.
#[test]
fn a_worker_leaves_with_tasks_in_the_library() {
    let library = Plugin::new();
    let mut nginx = builder(&library.0)
        .workers(2)
        .setup("shutdown_timeout = 0.02")
        .main("worker_shutdown_timeout 1s;")
        .init_worker("many = assert(ngx.load_ffi(rffi, 'pollers=8'))")
        .location(
            "/hold",
            "for i = 1, 20 do
                 ngx.thread.kill(ngx.thread.spawn(many.call, many, 'hold'))
             end
             ngx.print('held')",
        )
        .location("/wait", "ngx.print(many:call('hold'))")
        .location(
            "/many",
            "ngx.print(select(2, many:call('echo ' .. ngx.var.args)))",
        )
        .start();
    for round in 0..6 {
        assert_eq!(nginx.text("/hold"), "held");
        assert_eq!(nginx.text("/many?x"), "echo x");
        // One that waits for ever leaves when nginx lets it.
        let waiting = nginx.client().send_only("/wait");
        nginx.end_workers(round, EXIT_PROMISE * 2);
        drop(waiting);
        eventually("others are there", || nginx.workers().len() == 2);
    }
    nginx.stop(Signal::Term, EXIT_PROMISE);
    // The last two may still have been starting.
    assert!(nginx.clean_exits() >= 12, "{}", nginx.log());
}

/// A call without a time limit in a timer does not keep a worker either.
#[test]
fn a_watch_loop_leaves_no_old_worker() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .setup("shutdown_timeout = 0.02")
        .init_worker(
            "local rt = assert(ngx.load_ffi(rffi, 'pollers=1'))
             ngx.timer.at(0, function()
                 ngx.log(ngx.NOTICE, 'the watch begins')
                 local ok, err
                 repeat
                     ok, err = rt:call('hold')
                 until not ok
                 ngx.log(ngx.NOTICE, 'the watch ends: ', err)
             end)",
        )
        .start();
    for round in 1..=3 {
        let logged = |line: &str| nginx.log().matches(line).count();
        eventually("it watches", || logged("the watch begins") == round);
        nginx.replace_workers(PATIENCE);
        assert_eq!(logged("the watch ends: shutting down"), round);
    }
}

#[test]
fn reload_and_stop_under_load() {
    let library = Plugin::new();
    let mut nginx = builder(&library.0)
        .workers(2)
        .location(
            "/work",
            "local rt = ngx.load_ffi(rffi, 'pollers=4')
             local request = 'echo ' .. ngx.var.args
             local ok, res = rt:call(request)
             ngx.print(ok and res or 'failed')",
        )
        .start();
    let load = Load::start(&nginx, 8, "/work?", "echo ");
    load.outlive_reloads(&nginx, Size::Reloads.or(5), 100);
    let load = Load::start(&nginx, 8, "/work?", "echo ");
    load.await_more(100);
    nginx.stop(Signal::Term, EXIT_PROMISE);
    load.stop();
}

/// Neither the event loop nor threads that poll wake up when there is nothing
/// to do, not even while tasks are in the library.
#[test]
fn an_idle_worker_sleeps() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .location(
            "/work",
            "local rt = ngx.load_ffi(rffi, 'pollers=3')
             harness.together(32, function()
                 for j = 1, 200 do
                     assert(rt:call('echo'))
                 end
             end)
             for i = 1, 32 do
                 ngx.thread.kill(ngx.thread.spawn(rt.call, rt, 'hold'))
             end",
        )
        .start();
    nginx.text("/work");
    idle::wait_until_idle(nginx.worker());
}

#[test]
fn ten_thousand_in_flight_in_two_runtimes() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .location(
            "/flood",
            "local a = ngx.load_ffi(rffi, 'pollers=2 label=a')
             local b = ngx.load_ffi(rffi, 'label=b')
             local lib = require('ffi').load(rffi)
             require('ffi').cdef 'int rffi_holding(void); int rffi_release(const char *text);'
             local threads, right = {}, 0
             for i = 1, 10000 do
                 local rt = i % 2 == 0 and a or b
                 threads[i] = ngx.thread.spawn(rt.call, rt, 'hold')
             end
             repeat ngx.sleep(0.001) until lib.rffi_holding() == 10000
             lib.rffi_release('released')
             for i = 1, 10000 do
                 local _, ok, res = ngx.thread.wait(threads[i])
                 right = right + (ok and res == 'released' and 1 or 0)
             end
             ngx.print(right, select(2, a:label('label')), select(2, b:label('label')))",
        )
        .start();
    for _ in 0..3 {
        assert_eq!(nginx.text("/flood"), "10000ab");
    }
    eventually("all slots are free", || nginx.figure("slots.used") == 0.0);
}

#[test]
fn memory_of_many_calls_and_loads_comes_back() {
    let library = Plugin::new();
    let nginx = builder(&library.0)
        .location(
            "/calls",
            "local rt = ngx.load_ffi(rffi)
             local request = 'echo ' .. ('x'):rep(20000)
             local text = ('y'):rep(1000)
             local function work()
                 for i = 1, 300 do
                     assert(select(2, rt:call(request)) == request)
                     assert(select(2, rt:call('cstr ' .. text)) == text)
                     assert(#select(2, rt:call('big 300000')) == 300000)
                     assert(select(3, rt:call('fail 3 ' .. text)) == text)
                     assert(rt:call('nothing'))
                 end
             end
             harness.together(8, work)
             for i = 1, 20 do
                 local own = ngx.load_ffi(rffi, 'pollers=3 label=' .. i)
                 assert(own:label('label'))
                 own:__unload()
             end
             collectgarbage()
             collectgarbage()",
        )
        .start();
    let worker = nginx.worker();
    for _ in 0..3 {
        nginx.text("/calls");
    }
    let rest = || {
        eventually("runtimes are gone", || {
            let threads = process::threads(worker);
            threads.len() == 3 && nginx.figure("slots.used") == 0.0
        });
        process::rss(worker)
    };
    let before = rest();
    for _ in 0..6 {
        nginx.text("/calls");
    }
    let grown = rest().saturating_sub(before);
    assert!(grown < 12_000, "{grown} KiB more after 72000 calls");
}
