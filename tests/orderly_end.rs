//! What languages do at the end of a worker: files are flushed, functions that
//! are to run at the end do, no process is left. On quit and reload that is
//! promised; on stop it is tried, and works here, as it does not take long.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::plugins::has;
use support::process::{self, Signal};
use support::{Nginx, PATIENCE, eventually};

/// How a worker is ended.
const ENDS: [Signal; 3] = [Signal::Quit, Signal::Hup, Signal::Term];

/// An nginx with `python()`, a runtime of `tests/python/ending.py`.
fn python(setup: &str) -> Nginx {
    Nginx::builder()
        .language("python")
        .setup(setup)
        .init(
            "function python()
                 return assert(nbffi.load {
                     runtime = 'python', path = 'lib/python', entry = 'ending:Ending',
                     config = ngx.config.prefix() .. '/../temp'
                 })
             end",
        )
        .location("/do", "ngx.print(assert(python():call(ngx.var.args)))")
        .start()
}

/// Ends the worker, with its processes known before.
fn end(nginx: &mut Nginx, signal: Signal) -> BTreeSet<i32> {
    let worker = nginx.worker();
    let children = descendants(worker);
    if signal == Signal::Hup {
        nginx.replace_workers(PATIENCE);
    } else {
        nginx.stop(signal, PATIENCE);
    }
    children
}

fn descendants(pid: i32) -> BTreeSet<i32> {
    let mut found = process::children(pid);
    for child in found.clone() {
        found.extend(descendants(child));
    }
    found
}

fn semaphores() -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir("/dev/shm") else {
        return BTreeSet::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains("/sem.mp-"))
        .collect()
}

fn read(nginx: &Nginx, name: &str) -> String {
    fs::read_to_string(nginx.dir().join("temp").join(name)).unwrap_or_else(|error| {
        panic!("{name}: {error}\n{}", nginx.log());
    })
}

fn unpack(command: &str, file: &Path) -> String {
    let output = Command::new(command).arg("-dc").arg(file).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_ends_in_order() {
    for signal in ENDS {
        // Enough for a busy machine: nothing here takes any time.
        let mut nginx = python("shutdown_timeout = 20");
        for verb in [
            "global_file",
            "compressed_file",
            "thread_file",
            "atexit",
            "thread",
            "futures",
        ] {
            assert_eq!(nginx.text(&format!("/do?{verb}")), "done");
        }
        end(&mut nginx, signal);
        println!("{signal:?}");
        assert_eq!(read(&nginx, "text"), "text");
        assert_eq!(read(&nginx, "binary"), "binary");
        assert_eq!(read(&nginx, "random"), "random");
        assert_eq!(read(&nginx, "thread"), "of a thread");
        assert_eq!(read(&nginx, "atexit"), "main=True");
        assert_eq!(read(&nginx, "joined"), "joined");
        assert_eq!(read(&nginx, "futures"), "01234");
        let temp = nginx.dir().join("temp");
        assert_eq!(unpack("gzip", &temp.join("gzip")), "compressed");
        assert_eq!(unpack("bzip2", &temp.join("bz2")), "compressed");
    }
}

/// What hangs takes the rest of the time, and nothing from the others.
#[test]
fn what_hangs_in_python_is_left() {
    for stuck in ["stuck_thread", "stuck_pipe"] {
        let mut nginx = python("shutdown_timeout = 3");
        for verb in ["global_file", "thread_file", "atexit", stuck] {
            assert_eq!(nginx.text(&format!("/do?{verb}")), "done");
        }
        end(&mut nginx, Signal::Quit);
        println!("{stuck}");
        assert_eq!(read(&nginx, "text"), "text");
        assert_eq!(read(&nginx, "thread"), "of a thread");
        let main = if stuck == "stuck_thread" {
            "main=False"
        } else {
            "main=True"
        };
        assert_eq!(read(&nginx, "atexit"), main);
    }
}

#[test]
fn no_process_of_a_pool_is_left() {
    for signal in ENDS {
        for verb in ["processes", "busy_processes"] {
            let before = semaphores();
            let mut nginx = python("shutdown_timeout = 3");
            assert_eq!(nginx.text(&format!("/do?{verb}")), "done");
            let children = end(&mut nginx, signal);
            println!("{signal:?} {verb}: {children:?}");
            assert!(children.len() >= 2, "{children:?}");
            for child in children {
                eventually("it is gone", || !process::is_alive(child));
            }
            // Other tests of this machine may have some.
            eventually("semaphores are gone", || semaphores().is_subset(&before));
        }
    }
}

#[test]
fn children_are_ended_unless_they_have_a_session_of_their_own() {
    for signal in ENDS {
        let mut nginx = python("shutdown_timeout = 0.5");
        let own: i32 = nginx.text("/do?shells").parse().unwrap();
        let mut children = end(&mut nginx, signal);
        assert_eq!(children.len(), 5, "{children:?}");
        assert!(children.remove(&own));
        println!("{signal:?}: {children:?}");
        assert!(process::is_alive(own));
        process::signal(own, Signal::Kill);
        for child in children {
            eventually("it is gone", || !process::is_alive(child));
        }
    }
}

/// Every language has its time, also if another one hangs.
#[test]
fn functions_that_are_to_run_at_the_end_do() {
    let has_java = has("java");
    let code = format!(
        "local path = ngx.config.prefix() .. '/../temp/'
         local c = assert(nbffi.load {{ runtime = 'c', library = 'ending' }})
         local go = assert(nbffi.load {{ runtime = 'go', entry = 'do',
                                        library = 'go_verbs' }})
         local function call(rt, verb, name)
             assert(rt:call(name and verb .. ' ' .. path .. name or verb))
         end
         call(c, 'nothing')
         call(c, 'note', 'c')
         call(go, 'at_exit', 'go')
         local java = {has_java} and assert(nbffi.load {{
             runtime = 'java', class_path = 'lib/java', entry = 'faults.Ending#call'
         }})
         if java then
             call(java, 'hook', 'java')
         end
         if ngx.var.args == 'hang' then
             call(c, 'hang')
             call(c, 'leave')
             if java then
                 call(java, 'exit')
             end
         end
         local lua = assert(nbffi.load {{ runtime = 'lua' }})
         assert(lua:call_fn(function(name)
             file = io.open(name, 'w')
             return file:write('lua')
         end, path .. 'lua'))
         ngx.print('done')"
    );
    for signal in ENDS {
        for how in ["", "hang"] {
            let mut nginx = Nginx::builder()
                .plugin("ending")
                .language("go")
                .language("java")
                .setup(if how == "hang" {
                    "shutdown_timeout = 2"
                } else {
                    "shutdown_timeout = 20"
                })
                .location("/begin", &code)
                .start();
            assert_eq!(nginx.text(&format!("/begin?{how}")), "done");
            end(&mut nginx, signal);
            println!("{signal:?} {how}");
            assert_eq!(read(&nginx, "c"), "in time, ");
            assert_eq!(read(&nginx, "go"), "second true, first true, ");
            assert!(nginx.log().contains("told to panic"), "{}", nginx.log());
            assert_eq!(read(&nginx, "lua"), "lua");
            if has_java {
                assert_eq!(read(&nginx, "java"), "hook");
            }
        }
    }
}
