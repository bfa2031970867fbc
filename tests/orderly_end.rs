//! What languages do at the end of a worker: files are flushed, functions that
//! are to run at the end do, no process is left. On quit and reload that is
//! promised; on stop it is tried, and works here, as it does not take long.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::builder::Builder;
use support::process::{self, Signal};
use support::{Nginx, PATIENCE, eventually, root};

/// How a worker is ended.
const ENDS: [Signal; 3] = [Signal::Quit, Signal::Hup, Signal::Term];

/// An nginx with `python()`, a runtime of `tests/python/ending.py`, and the
/// folder of that module.
fn python(name: &str, setup: &str) -> (PathBuf, Builder) {
    let folder = std::env::temp_dir().join(format!("nbffi-end-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("ending.py"), include_str!("python/ending.py")).unwrap();
    let path = folder.display();
    let builder = Nginx::builder()
        .plugin("nonblocking_ffi_python")
        .setup(setup)
        .init(&format!(
            "function python()
                 return assert(nbffi.load {{
                     runtime = 'python', path = '{path}', entry = 'ending:Ending',
                     config = ngx.config.prefix() .. '/../temp'
                 }})
             end"
        ))
        .location("/do", "ngx.print(assert(python():call(ngx.var.args)))");
    (folder, builder)
}

/// Ends the worker, with its processes known before.
fn end(nginx: &mut Nginx, signal: Signal) -> BTreeSet<i32> {
    let worker = nginx.worker();
    let children = descendants(worker);
    if signal == Signal::Hup {
        nginx.reload();
        nginx.wait_gone(worker, PATIENCE);
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
        let (folder, builder) = python("order", "shutdown_timeout = 20");
        let mut nginx = builder.start();
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
        fs::remove_dir_all(folder).unwrap();
    }
}

/// What hangs takes the rest of the time, and nothing from the others.
#[test]
fn what_hangs_in_python_is_left() {
    for stuck in ["stuck_thread", "stuck_pipe"] {
        let (folder, builder) = python(stuck, "shutdown_timeout = 3");
        let mut nginx = builder.start();
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
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn no_process_of_a_pool_is_left() {
    for signal in ENDS {
        for verb in ["processes", "busy_processes"] {
            let before = semaphores();
            let (folder, builder) = python("processes", "shutdown_timeout = 3");
            let mut nginx = builder.start();
            assert_eq!(nginx.text(&format!("/do?{verb}")), "done");
            let children = end(&mut nginx, signal);
            println!("{signal:?} {verb}: {children:?}");
            assert!(children.len() >= 2, "{children:?}");
            for child in children {
                eventually("it is gone", PATIENCE, || !process::is_alive(child));
            }
            // Other tests of this machine may have some.
            eventually("semaphores are gone", PATIENCE, || {
                semaphores().is_subset(&before)
            });
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

#[test]
fn children_are_ended_unless_they_have_a_session_of_their_own() {
    for signal in ENDS {
        let (folder, builder) = python("shells", "shutdown_timeout = 0.5");
        let mut nginx = builder.start();
        let own: i32 = nginx.text("/do?shells").parse().unwrap();
        let mut children = end(&mut nginx, signal);
        assert_eq!(children.len(), 5, "{children:?}");
        assert!(children.remove(&own));
        println!("{signal:?}: {children:?}");
        assert!(process::is_alive(own));
        process::signal(own, Signal::Kill);
        for child in children {
            eventually("it is gone", PATIENCE, || !process::is_alive(child));
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Every language has its time, also if another one hangs.
#[test]
fn functions_that_are_to_run_at_the_end_do() {
    let folder = std::env::temp_dir().join(format!("nbffi-end-{}-all", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("faults")).unwrap();
    let plugins = root().join("target/test-plugins");
    fs::copy(
        plugins.join("libgo_verbs.so"),
        folder.join("libgo_verbs.so"),
    )
    .unwrap();
    let classes = plugins.join("java/faults/faults");
    let has_java = classes.join("Ending.class").exists();
    if has_java {
        for class in fs::read_dir(classes).unwrap() {
            let class = class.unwrap();
            fs::copy(class.path(), folder.join("faults").join(class.file_name())).unwrap();
        }
    } else {
        println!("without Java: built without a JDK (see runtimes/java/build.sh)");
    }
    let path = folder.display();
    let code = format!(
        "local path = ngx.config.prefix() .. '/../temp/'
         local c = assert(nbffi.load {{ runtime = 'c', library = 'ending' }})
         local go = assert(nbffi.load {{ runtime = 'go', entry = 'do',
                                        library = '{path}/libgo_verbs.so' }})
         local function call(rt, verb, name)
             assert(rt:call(name and verb .. ' ' .. path .. name or verb))
         end
         call(c, 'nothing')
         call(c, 'note', 'c')
         call(go, 'at_exit', 'go')
         local java = {has_java} and assert(nbffi.load {{
             runtime = 'java', class_path = '{path}', entry = 'faults.Ending#call'
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
                .plugin("nonblocking_ffi_java")
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
    fs::remove_dir_all(folder).unwrap();
}
