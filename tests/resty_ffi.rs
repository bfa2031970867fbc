//! Plugins written for lua-resty-ffi in a real nginx: signals, libraries that
//! change, workers that leave, load, memory.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use support::builder::Builder;
use support::http::Load;
use support::process::{self, Signal};
use support::{eventually, idle, root, Nginx, Size, EXIT_PROMISE, PATIENCE};

/// Compiles a plugin.
fn compile(source: &Path, library: &Path, options: &[&str]) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-std=c99", "-fPIC", "-shared", "-pthread", "-O2", "-g"])
        .args(options)
        .arg(source)
        .arg("-o")
        .arg(library)
        .status();
    assert!(status.unwrap().success(), "{compiler} {}", source.display());
}

/// The plugin that `t/56-resty-ffi.t` uses as well, in a file of its own.
struct Plugin(PathBuf);

impl Plugin {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("librffi-{}-{number}.so", std::process::id());
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
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
    eventually("the log says so", PATIENCE, || {
        nginx.log().matches(said).count() == 2
    });
    let workers: Vec<i32> = nginx.workers().into_iter().collect();
    process::signal(workers[0], Signal::Term);
    process::signal(workers[1], Signal::Quit);
    for worker in workers {
        nginx.wait_gone(worker, EXIT_PROMISE);
    }
    eventually("both exited with code 0", PATIENCE, || {
        nginx.clean_exits() == 2
    });
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
        let workers = nginx.workers();
        match round % 3 {
            0 => nginx.signal(Signal::Hup),
            1 => workers
                .iter()
                .for_each(|&pid| process::signal(pid, Signal::Term)),
            _ => workers
                .iter()
                .for_each(|&pid| process::signal(pid, Signal::Quit)),
        }
        for worker in workers {
            nginx.wait_gone(worker, EXIT_PROMISE * 2);
        }
        drop(waiting);
        eventually("others are there", PATIENCE, || nginx.workers().len() == 2);
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
        eventually("it watches", PATIENCE, || {
            logged("the watch begins") == round
        });
        let worker = nginx.worker();
        nginx.reload();
        nginx.wait_gone(worker, PATIENCE);
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
             local threads = {}
             for i = 1, 32 do
                 threads[i] = ngx.thread.spawn(function()
                     for j = 1, 200 do
                         assert(rt:call('echo'))
                     end
                 end)
             end
             for i = 1, 32 do
                 assert(ngx.thread.wait(threads[i]))
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
    eventually("all slots are free", PATIENCE, || {
        nginx.figure("slots.used") == 0.0
    });
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
             local threads = {}
             for i = 1, 8 do threads[i] = ngx.thread.spawn(work) end
             for i = 1, 8 do assert(ngx.thread.wait(threads[i])) end
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
        eventually("runtimes are gone", PATIENCE, || {
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
