//! Plugins that end the worker. nginx starts another one, also if the status is
//! the one that means "do not", and the log says who it was.

use support::builder::Builder;
use support::folder::Folder;
use support::{Nginx, eventually};

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
        eventually("one has ended", || {
            nginx.log().matches(status).count() >= round
        });
        eventually("another one is there", || {
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
        let folder = Folder::new();
        folder.write(
            "leaver.py",
            &format!("import os, posix, sys, threading\ndef call(request):\n    {code}\n"),
        );
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
    };
    let says = |status| format!("the worker is ended by os._exit({status}) in thread \"");
    end("os._exit(2)", &says(2), "exited with code 1");
    end("posix._exit(258)", &says(258), "exited with code 1");
    end("os._exit(status=3)", &says(3), "exited with code 3");
}

/// The status of a child is the child's own affair.
#[test]
fn a_forked_child_exits_with_what_it_wants() {
    let folder = Folder::new();
    let code = "import os
def call(request):
    pid = os.fork()
    if pid == 0:
        os._exit(2)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    folder.write("forker.py", code);
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
}

#[test]
fn a_panic_in_go() {
    end_all(
        Nginx::builder().language("go"),
        "local rt = assert(nbffi.load { runtime = 'go', entry = 'do', library = 'go_verbs' })
         rt:call('crash')",
        "exited on signal 6",
        &["panic: nobody recovers this"],
    );
}
