//! Python in nginx's workers, and what can go wrong with it: exceptions, tasks
//! that do not end, reloads and stops under load, signals, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::builder::Builder;
use support::folder::Folder;
use support::http::Load;
use support::plugins::Count;
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, PATIENCE, Size, eventually, idle, in_turns};

/// A folder of modules.
struct Modules(Folder);

impl Modules {
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("faults.py", include_str!("python/faults.py"));
        Self(folder)
    }

    /// An nginx with functions that load what is in the folder: `faults()`,
    /// `loop()`, `python(options)`.
    fn nginx(&self) -> Builder {
        let path = self.0.display();
        Nginx::builder().language("python").init(&format!(
            "function python(given)
                 return harness.load({{ runtime = 'python', path = '{path}' }}, given)
             end
             function faults(given)
                 return assert(python(harness.with(
                     {{ entry = 'faults:Faults', config = harness.counters }}, given)))
             end
             function loop()
                 return faults {{ entry = 'faults:Loop' }}
             end"
        ))
    }
}

/// `/call?<request>`: what `faults` answers, with `-` for blanks.
const CALL: &str = "local request = ngx.unescape_uri(ngx.var.args):gsub('-', ' ')
     harness.say(faults { threads = 4 }:call(request))";

#[test]
fn bodies_of_every_size_come_back() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/echo",
            "ngx.req.read_body()
             local rt = assert(python { entry = ngx.var.args })
             local body = ngx.req.get_body_data() or ''
             ngx.print(assert(rt:call(body)))",
        )
        .start();
    modules.0.write(
        "echo.py",
        "def sync(request): return request\nasync def coroutine(request): return request\n",
    );
    let bytes: Vec<u8> = (0..10_485_760_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for entry in ["echo:sync", "echo:coroutine"] {
        for size in [0, 1, 64, 65, 65_536, 65_537, 1 << 20, bytes.len()] {
            let answer = nginx.post(&format!("/echo?{entry}"), &bytes[..size]);
            assert_eq!(answer.status, 200, "{}", nginx.log());
            assert!(answer.body == bytes[..size], "{entry}: {size} bytes");
        }
    }
}

#[test]
fn nothing_that_python_code_raises_harms_the_worker() {
    let modules = Modules::new();
    let nginx = modules.nginx().location("/call", CALL).start();
    let worker = nginx.worker();
    for _ in 0..50 {
        for (request, said) in [
            ("fail-x", "error runtime error: ValueError: b'x'\n"),
            ("exit-x", "error runtime error: SystemExit: 1\n"),
            ("nothing-x", "error runtime error: AttributeError: "),
            ("echo-x", "ok echo x"),
            ("thread-x", "ok thread x"),
        ] {
            let text = nginx.text(&format!("/call?{request}"));
            assert!(text.starts_with(said), "{text}");
        }
    }
    assert_eq!(nginx.worker(), worker);
    let stats = nginx.figures("/stats");
    assert_eq!(stats["runtimes.faults:Faults.errors.runtime error"], 150.0);
}

/// With one thread, a task that is not stopped would be the last one.
#[test]
fn a_task_that_does_not_end_is_stopped_at_its_deadline() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/spin",
            "harness.say(faults { threads = 1 }:call('spin 3600000', { timeout = 0.02 }))",
        )
        .location(
            "/echo",
            "harness.say(faults { threads = 1 }:call('echo 1'))",
        )
        .location(
            "/loop",
            "harness.say(loop():call('spin 3600000', { timeout = 0.02 }))",
        )
        .location("/loop_echo", "harness.say(loop():call('echo 1'))")
        .start();
    for _ in 0..10 {
        let text = nginx.text("/spin");
        assert!(text.starts_with("error timeout"), "{text}");
        assert_eq!(nginx.text("/echo"), "ok echo 1");
    }
    for _ in 0..10 {
        let text = nginx.text("/loop");
        assert!(text.starts_with("error timeout"), "{text}");
        assert_eq!(nginx.text("/loop_echo"), "ok echo 1");
    }
}

/// The exception that stops a task is sent at about the moment at which it ends
/// by itself, again and again; and to tasks that cannot meet it, as they are
/// written in C from their beginning to their end. The next one on the thread
/// must not get it.
#[test]
fn the_task_behind_one_that_is_stopped_is_not_hurt() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/race",
            "local rt = assert(python { entry = 'faults:Race', threads = 1 })
             -- On the same thread.
             local in_c = assert(python { entry = 'zlib:compress', threads = 1 })
             local parts = {}
             for i = 1, 40000 do parts[i] = i * 7919 % 10007 end
             local text = table.concat(parts)
             local right = 0
             for i = 1, 300 do
                 local late
                 if i % 10 == 0 then
                     late = in_c:submit(text, { timeout = 0.005 })
                 else
                     -- About as long as it takes to be noticed.
                     late = rt:submit('spin ' .. 0.010 + i % 50 * 0.0003,
                                      { timeout = 0.005 })
                 end
                 local behind = {}
                 for j = 1, 20 do
                     behind[j] = rt:submit('behind ' .. j)
                 end
                 late:wait()
                 for j = 1, 20 do
                     if behind[j]:wait() == 'behind ' .. j then right = right + 1 end
                 end
             end
             ngx.print(right, ' ', rt:call('hurt'))",
        )
        .start();
    let text = nginx.text("/race");
    let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().unwrap()).collect();
    let [right, hurt, stopped] = numbers[..] else {
        panic!("{text}");
    };
    assert_eq!((right, hurt), (6000, 0), "{text}");
    // Some were stopped, and some ended by themselves.
    assert!(stopped > 0 && stopped < 300, "{text}");
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .workers(2)
        .location(
            "/sync",
            "local ms, id = ngx.var.args:match('^(%d+)-(%d+)$')
             local rt = faults { threads = 8 }
             ngx.print(assert(rt:call('sleep ' .. ms .. ' ' .. id)))",
        )
        .location(
            "/loop",
            "local id = ngx.var.args
             ngx.print(assert(loop():call('sleep 5 ' .. id + 1000000)))",
        )
        .start();
    let sync = Load::start(&nginx, 4, "/sync?5-", "sleep 5 ");
    let asynchronous = Load::start(&nginx, 4, "/loop?", "sleep 5 100");
    // The answer has the request's number behind a million: count only.
    let sent = sync.outlive_reloads(&nginx, Size::Reloads.or(4), 40);
    let runs = nginx.counters().runs(sent);
    assert!(runs.iter().all(|&runs| runs == 1), "{runs:?}");
    let outcome = asynchronous.stop();
    assert!(outcome.sent > 0);
    for failure in outcome.failures {
        assert!(failure.contains(": 200 sleep 5 1"), "{failure}");
    }
    let runs = nginx.counters().runs(1_000_000 + outcome.sent);
    let runs = &runs[1_000_000..];
    assert!(runs.iter().all(|&runs| runs == 1), "{runs:?}");
}

/// Whatever Python does: sleep, compute, wait in a loop, with threads of its
/// own that never end.
fn busy(modules: &Modules) -> Builder {
    modules
        .nginx()
        .workers(2)
        .setup("shutdown_timeout = 0.02")
        .init_worker(
            "local rt, async = faults { threads = 4 }, loop()
             local function cast(runtime, request)
                 assert(runtime:cast(request, { timeout = 3600 }))
             end
             cast(rt, 'thread 1')
             cast(rt, 'sleep 3600000')
             cast(rt, 'spin 3600000')
             cast(rt, 'spin 3600000')
             cast(rt, 'numpy 3000')
             for i = 1, 20 do
                 cast(rt, 'echo 1')
                 cast(async, 'sleep 3600000')
                 cast(async, 'task 1')
             end
             cast(async, 'spin 3600000')",
        )
}

#[test]
fn stop_quit_and_reload_end_a_busy_worker_with_code_0() {
    let modules = Modules::new();
    let mut nginx = busy(&modules).start();
    let mut exits = 0;
    for round in 0..9 {
        // All of these of both workers have begun at least.
        let goal = (exits + 2) as u64 * 24;
        eventually("the workers are at work", || {
            // Two workers count without a lock.
            let started = nginx.counters().get(Count::Started);
            started + 20 >= goal && nginx.workers().len() == 2
        });
        let workers = nginx.end_workers(round, PATIENCE);
        exits += workers.len();
        eventually("the exits are in the log", || nginx.clean_exits() == exits);
    }
    // The master kills workers that need more than two seconds for a `stop`.
    nginx.stop(Signal::Quit, EXIT_PROMISE);
}

/// The signals that a process ignores, catches and blocks, without those of the C
/// library: threads that change their user, and such.
fn signals(pid: i32) -> [BTreeSet<i32>; 3] {
    ["SigIgn", "SigCgt", "SigBlk"].map(|key| {
        let mut set = process::signals(pid, key);
        set.retain(|signal| *signal < 32);
        set
    })
}

#[test]
fn signals_are_nginxs_alone() {
    let modules = Modules::new();
    let library = "assert(nbffi.load { runtime = 'c', library = 'echo' })";
    let nginx = modules.nginx().location("/call", CALL);
    let nginx = nginx.location("/library", library).start();
    let worker = nginx.worker();
    assert_eq!(nginx.text("/library"), "");
    let before = signals(worker);
    assert_eq!(nginx.text("/call?echo-1"), "ok echo 1");
    assert_eq!(nginx.text("/call?numpy-100"), "ok 1000000");
    assert_eq!(signals(worker), before);
    let said = nginx.text("/call?signals-1");
    assert!(said.contains("main thread"), "{said}");
    // faulthandler has its own way to handlers.
    for (signal, allowed) in [(libc::SIGUSR1, false), (libc::SIGTERM, false), (60, true)] {
        let code = format!("__import__('faulthandler').register({signal},open('/dev/null','w'))");
        let said = nginx.text(&format!("/call?python-{code}"));
        assert_eq!(said.contains("ValueError"), !allowed, "{signal}: {said}");
    }
    assert_eq!(
        nginx.text("/call?python-__import__('faulthandler').unregister(60)"),
        "ok True"
    );
    eventually("no thread blocks signals, so no child does", || {
        process::blocking(worker).is_empty()
    });
    process::signal(worker, libc::SIGPIPE);
    assert_eq!(nginx.text("/call?echo-2"), "ok echo 2");
    assert_eq!(nginx.worker(), worker);
    process::signal(worker, Signal::Term);
    nginx.wait_gone(worker, EXIT_PROMISE);
    eventually("a new worker", || nginx.workers().len() == 1);
    assert_eq!(nginx.text("/call?echo-3"), "ok echo 3");
}

/// A plugin may run programs, and even fork: the children end when they are told
/// to, and with the worker at the latest.
#[test]
fn programs_can_be_run_and_children_end() {
    let modules = Modules::new();
    let mut nginx = modules
        .nginx()
        .location("/call", CALL)
        .location(
            "/fork",
            "assert(faults { threads = 4 }:cast('fork 3600', { timeout = 3600 }))",
        )
        .start();
    for _ in 0..20 {
        assert_eq!(nginx.text("/call?run-hello"), "ok hello");
    }
    for _ in 0..5 {
        assert_eq!(nginx.text("/call?processes-7"), "ok [7, 2]");
    }
    nginx.text("/fork");
    let worker = nginx.worker();
    let mut children = process::children(worker);
    eventually("the children are there", || {
        children = process::children(worker);
        children.len() == 2
    });
    nginx.stop(Signal::Term, EXIT_PROMISE);
    for child in children {
        eventually("the children are gone", || !process::is_alive(child));
    }
}

/// Memory after many calls of many kinds. `NBFFI_SOAK_CALLS` says how many; a
/// million is what a release has to stand.
#[test]
fn memory_stays_where_it_is() {
    let calls = Size::Calls.or(100_000);
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/soak",
            "local rt, async = faults { threads = 2 }, loop()
             local requests = { 'echo 1', 'give 3000', 'cycle 1', 'echo 2', 'give 100000' }
             local text = ('x'):rep(200000)
             local function work(i)
                 for j = 1, 90 do
                     assert(rt:call(requests[(i + j) % 5 + 1]))
                 end
                 for j = 1, 6 do
                     assert(async:call('echo 1'))
                 end
                 assert(select(2, rt:call('fail 1')):find('ValueError', 1, true))
                 assert(select(2, async:call('fail 1')):find('ValueError', 1, true))
                 rt:call('spin 30', { timeout = 0.001 })
                 assert(rt:call { 'echo ', text })
             end
             harness.together(10, work)",
        )
        .location("/collect", "collectgarbage() collectgarbage()")
        .start();
    let run = |requests: u64| {
        nginx.repeat("/soak", requests, |_| {});
        nginx.text("/collect");
        process::rss(nginx.worker())
    };
    let requests = (calls / 1000).max(4);
    let before = run(requests / 4);
    let after = run(requests - requests / 4);
    let grown = after.saturating_sub(before);
    assert!(grown < 8_000, "{grown} KiB more after {calls} calls");
}

#[test]
fn runtimes_that_are_closed_leave_nothing() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/cycle",
            "for i = 1, tonumber(ngx.var.args) do
                 local rt, async = faults(), loop()
                 assert(rt:call('echo 1') and async:call('echo 1'))
                 assert(async:call('task 1'))
                 assert(rt:close() and async:close())
             end
             collectgarbage()",
        )
        .start();
    let worker = nginx.worker();
    nginx.text("/cycle?20");
    let figures = || {
        let threads = process::threads(worker).len();
        (process::descriptors(worker), threads, process::rss(worker))
    };
    let settled = || {
        let (mut last, mut same) = (0, 0);
        eventually("the connection is closed", || {
            std::thread::sleep(Duration::from_millis(10));
            let now = process::descriptors(worker);
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same >= 10
        });
    };
    settled();
    let (descriptors, threads, memory) = figures();
    let cycles = Size::Cycles.or(100);
    in_turns(cycles, 20, |some| nginx.text(&format!("/cycle?{some}")));
    settled();
    let (descriptors_after, threads_after, memory_after) = figures();
    assert_eq!(descriptors_after, descriptors);
    assert_eq!(threads_after, threads, "{:?}", process::threads(worker));
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 6_000, "{grown} KiB more after {cycles} cycles");
    let runtimes = 2 * (20 + cycles);
    assert_eq!(nginx.counters().get(Count::Inits), runtimes);
    assert_eq!(nginx.counters().get(Count::Closes), runtimes);
}

#[test]
fn an_idle_worker_sleeps() {
    let modules = Modules::new();
    let nginx = modules
        .nginx()
        .location(
            "/work",
            "local rt, async = faults(), loop()
             for i = 1, 100 do
                 rt:call('echo 1')
                 async:call('echo 1')
             end",
        )
        .start();
    nginx.text("/work");
    idle::wait_until_idle(nginx.worker());
}

#[test]
fn a_module_that_has_changed_is_loaded_anew_after_close() {
    let modules = Modules::new();
    modules.0.write("app/__init__.py", "");
    modules.0.write("helper.py", "name = 'helper one'\n");
    let main = "from . import part\nimport helper\n\
                def call(request): return f'{part.name}, {helper.name}'\n";
    modules.0.write("app/main.py", main);
    modules.0.write("app/part.py", "name = 'part one'\n");
    let nginx = modules
        .nginx()
        .location(
            "/call",
            "harness.say(assert(python { entry = 'app.main:call' }):call(''))",
        )
        .location(
            "/again",
            "local rt = python { entry = 'app.main:call' }
             rt:close()
             harness.say(assert(python { entry = 'app.main:call' }):call(''))",
        )
        .location(
            "/beside",
            "local rt, err = python { entry = 'app.main:call', name = 'beside' }
             ngx.print(rt and rt:call('') or err)",
        )
        .start();
    assert_eq!(nginx.text("/call"), "ok part one, helper one");
    modules.0.write("helper.py", "name = 'helper number two'\n");
    modules.0.write("app/part.py", "name = 'part number two'\n");
    assert_eq!(nginx.text("/call"), "ok part one, helper one");
    let second = "part number two, helper number two";
    // Another runtime beside the first gets the new one, too.
    assert_eq!(nginx.text("/beside"), second);
    assert_eq!(nginx.text("/call"), "ok part one, helper one");
    assert_eq!(nginx.text("/again"), format!("ok {second}"));
    // What is broken is an error of who loads it, and of nobody else.
    modules.0.write("app/part.py", "name = 'part three\n");
    let nginx_said = nginx.text("/call");
    assert_eq!(nginx_said, format!("ok {second}"));
}

/// A virtual environment with a package of its own, made by the interpreter
/// that the host finds.
fn environment(modules: &Modules, name: &str) -> PathBuf {
    let venv = modules.0.join(name);
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let lib = fs::read_dir(venv.join("lib")).unwrap().next().unwrap();
    let packages = lib.unwrap().path().join("site-packages");
    fs::write(
        packages.join("only_here.py"),
        format!("def call(request): return 'from {name}'\n"),
    )
    .unwrap();
    venv
}

#[test]
fn packages_of_a_virtual_environment_are_found() {
    let modules = Modules::new();
    let first = environment(&modules, "first");
    let second = environment(&modules, "second");
    let (first, second) = (first.display(), second.display());
    let nginx = modules
        .nginx()
        .location(
            "/none",
            "ngx.print(select(2, python { entry = 'only_here:call' }))",
        )
        .location(
            "/first",
            &format!(
                "local rt = assert(python {{ entry = 'only_here:call', venv = '{first}' }})
                 ngx.print(rt:call(''))"
            ),
        )
        .location(
            "/second",
            &format!(
                "local rt = assert(python {{ entry = 'only_here:call', venv = '{second}' }})
                 ngx.print(rt:call(''))"
            ),
        )
        .location(
            "/prefix",
            &format!("ngx.print(faults {{ venv = '{first}' }}:call('prefix 1'))"),
        )
        .start();
    // The first runtime decides whose environment it is ...
    let prefix = nginx.text("/prefix");
    let lines: Vec<&str> = prefix.lines().collect();
    assert_eq!(lines[0], first.to_string(), "{prefix}");
    assert_eq!(lines[1], "/usr", "{prefix}");
    assert_eq!(lines[2], format!("{first}/bin/python3"), "{prefix}");
    assert_eq!(nginx.text("/first"), "from first");
    // ... and others bring their packages.
    assert_eq!(nginx.text("/second"), "from second");
    assert_eq!(nginx.text("/first"), "from first");
}

/// A package that is shared keeps what it gets for all runtimes. So it must not get
/// the `uuid.py` of one of them, by an import statement or by other means, as
/// pydantic's part in Rust does it.
#[test]
fn a_shared_package_gets_the_standard_library() {
    let modules = Modules::new();
    let venv = environment(&modules, "shared");
    let lib = fs::read_dir(venv.join("lib")).unwrap().next().unwrap();
    fs::write(
        lib.unwrap().path().join("site-packages/asks.py"),
        "import importlib, pickle, sys\n\
         def everything():\n\
         \x20   import uuid\n\
         \x20   yield uuid\n\
         \x20   yield __import__('uuid')\n\
         \x20   yield importlib.import_module('uuid')\n\
         \x20   yield sys.modules['uuid']\n\
         \x20   yield sys.modules[pickle.loads(b'cuuid\\nUUID\\n.').__module__]\n",
    )
    .unwrap();
    modules.0.write("uuid.py", "mine = 'own'\n");
    modules.0.write(
        "app.py",
        "import asks, importlib, pkgutil, sys\n\
         def call(request):\n\
         \x20   sys.modules.pop('uuid', None)\n\
         \x20   theirs = [hasattr(module, 'UUID') for module in asks.everything()]\n\
         \x20   import uuid\n\
         \x20   mine = [uuid, __import__('uuid'), importlib.import_module('uuid')]\n\
         \x20   mine = {module.mine for module in mine}\n\
         \x20   return f\"{theirs} {mine} {pkgutil.resolve_name('uuid:mine')}\"\n",
    );
    let nginx = modules
        .nginx()
        .location(
            "/call",
            &format!(
                "local rt = assert(python {{ entry = 'app:call', venv = '{}' }})
                 ngx.print(rt:call(''))",
                venv.display()
            ),
        )
        .start();
    let right = "[True, True, True, True, True] {'own'} own";
    for _ in 0..2 {
        assert_eq!(nginx.text("/call"), right);
    }
}

#[test]
fn without_an_environment_its_packages_are_not_found() {
    let modules = Modules::new();
    environment(&modules, "unused");
    let nginx = modules
        .nginx()
        .location(
            "/none",
            "ngx.print(select(2, python { entry = 'only_here:call' }))",
        )
        .start();
    let said = nginx.text("/none");
    assert!(said.contains("No module named 'only_here'"), "{said}");
}

/// numpy can be loaded only once per process, and Pillow is written in C: two
/// runtimes use both, one after the other, at the same time, and again after
/// they were closed.
#[test]
fn extensions_in_c_work_in_every_runtime() {
    let modules = Modules::new();
    modules.0.write(
        "science.py",
        "import io\nimport numpy\nfrom PIL import Image\n\
         def call(request):\n\
         \x20   n = int(request)\n\
         \x20   grey = (numpy.outer(numpy.arange(n), numpy.ones(n)) % 256).astype('u1')\n\
         \x20   out = io.BytesIO()\n\
         \x20   Image.fromarray(grey).resize((n // 2, n // 2)).save(out, 'PNG')\n\
         \x20   size = Image.open(io.BytesIO(out.getvalue())).size\n\
         \x20   return f'{size[0]}x{size[1]}'\n",
    );
    let nginx = modules
        .nginx()
        .location(
            "/science",
            "for round = 1, 3 do
                 local runtimes = {}
                 for i = 1, 2 do
                     runtimes[i] = assert(python { entry = 'science:call', config = 'c' .. i,
                                                   threads = 4 })
                 end
                 local futures = {}
                 for i = 1, 40 do
                     futures[i] = runtimes[i % 2 + 1]:submit('100')
                 end
                 for i = 1, 40 do
                     assert(futures[i]:wait() == '50x50')
                 end
                 for i = 1, 2 do
                     assert(runtimes[i]:close())
                 end
             end
             ngx.print('fine')",
        )
        .start();
    assert_eq!(nginx.text("/science"), "fine");
}
