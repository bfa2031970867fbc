//! Plugins that end the worker. nginx starts another one, also if the status is
//! the one that means "do not", and the log says who it was.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::builder::Builder;
use support::{Nginx, PATIENCE, eventually, root};

/// A worker for each, so that none would be left.
const WORKERS: usize = 3;

/// Has each worker end itself by what `/end` does; `says` is in the log for each.
fn end_all(builder: Builder, code: &str, status: &str, says: &[&str]) {
    let mut nginx = builder
        .workers(WORKERS)
        .location("/end", code)
        .location("/alive", "ngx.print('alive')")
        .start();
    let crashes = if status.contains("signal") {
        WORKERS
    } else {
        0
    };
    nginx.allow_crashes(crashes, status);
    for round in 1..=WORKERS {
        let before = nginx.workers();
        drop(nginx.client().get("/end"));
        eventually("one has ended", PATIENCE, || {
            nginx.log().matches(status).count() >= round
        });
        eventually("another one is there", PATIENCE, || {
            let now = nginx.workers();
            now.len() == WORKERS && now != before
        });
        assert_eq!(nginx.text("/alive"), "alive");
    }
    let log = nginx.log();
    for text in says {
        assert_eq!(log.matches(text).count(), WORKERS, "{text}\n{log}");
    }
    assert!(!log.contains("cannot be respawned"), "{log}");
}

#[test]
fn exit_in_c() {
    for status in [2, 258] {
        end_all(
            Nginx::builder().plugin("ending"),
            &format!(
                "local rt = assert(nbffi.load {{ runtime = 'c', library = 'ending',
                                                name = 'leaver' }})
                 rt:call('exit {status}')"
            ),
            "exited with code 1",
            &[
                &format!("the worker is ended by exit({status}) in thread \"nbffi/default/"),
                "in runtime leaver",
            ],
        );
    }
}

#[test]
fn exit_in_python() {
    let end = |code: &str, says: &str, status: &str| {
        let folder = std::env::temp_dir().join(format!("nbffi-exit-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("leaver.py"),
            format!("import os, posix, sys, threading\ndef call(request):\n    {code}\n"),
        )
        .unwrap();
        let path = folder.display();
        end_all(
            Nginx::builder().plugin("nonblocking_ffi_python"),
            &format!(
                "local rt = assert(nbffi.load {{ runtime = 'python', path = '{path}',
                                                name = 'leaver', entry = 'leaver:call' }})
                 rt:call('')"
            ),
            status,
            &[says],
        );
        fs::remove_dir_all(folder).unwrap();
    };
    let says = |status| format!("the worker is ended by os._exit({status}) in thread \"");
    end("os._exit(2)", &says(2), "exited with code 1");
    end("posix._exit(258)", &says(258), "exited with code 1");
    end("os._exit(status=3)", &says(3), "exited with code 3");
}

/// The status of a child is the child's own affair.
#[test]
fn a_forked_child_exits_with_what_it_wants() {
    let folder = std::env::temp_dir().join(format!("nbffi-fork-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let code = "import os
def call(request):
    pid = os.fork()
    if pid == 0:
        os._exit(2)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    fs::write(folder.join("forker.py"), code).unwrap();
    let path = folder.display();
    let nginx = Nginx::builder()
        .plugin("nonblocking_ffi_python")
        .location(
            "/fork",
            &format!(
                "local rt = assert(nbffi.load {{ runtime = 'python', path = '{path}',
                                                entry = 'forker:call' }})
                 ngx.print(assert(rt:call('')))"
            ),
        )
        .start();
    assert_eq!(nginx.text("/fork"), "2");
    assert!(!nginx.log().contains("is ended by"), "{}", nginx.log());
    fs::remove_dir_all(folder).unwrap();
}

/// A folder that every user may read, with what is in another one.
fn readable(name: &str, from: &Path, into: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("nbffi-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join(into)).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), folder.join(into).join(file.file_name())).unwrap();
        }
    }
    folder
}

#[test]
fn a_panic_in_go() {
    let folder = readable("panic", &root().join("target/test-plugins"), "");
    let path = folder.display();
    end_all(
        Nginx::builder(),
        &format!(
            "local rt = assert(nbffi.load {{ runtime = 'go', entry = 'do',
                                            library = '{path}/libgo_verbs.so' }})
             rt:call('crash')"
        ),
        "exited on signal 6",
        &["panic: nobody recovers this"],
    );
    fs::remove_dir_all(folder).unwrap();
}
