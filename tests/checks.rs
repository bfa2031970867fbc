//! The checks that support/ makes at the end of each test find what they should.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use support::process::{self, Signal};
use support::{Nginx, eventually};

/// What the checks report at the end of a test that does this.
fn complaint(deed: impl FnOnce(&mut Nginx)) -> String {
    let end = catch_unwind(AssertUnwindSafe(|| {
        let mut nginx = Nginx::builder()
            .location("/alert", "ngx.log(ngx.ALERT, 'something is wrong')")
            .location("/work", "harness.fault():call('echo')")
            .start();
        nginx.text("/work");
        deed(&mut nginx);
    }));
    end.map_or_else(
        |payload| *payload.downcast::<String>().unwrap(),
        |()| String::new(),
    )
}

#[test]
fn a_clean_test_is_fine() {
    assert_eq!(complaint(|_| {}), "");
}

#[test]
fn an_alert_is_noticed_unless_it_is_expected() {
    let said = complaint(|nginx| {
        nginx.text("/alert");
    });
    assert!(said.contains("something is wrong"), "{said}");
    let said = complaint(|nginx| {
        nginx.text("/alert");
        nginx.allow("something is wrong");
    });
    assert_eq!(said, "");
}

#[test]
fn a_dead_worker_is_noticed_unless_it_is_expected() {
    let kill = |nginx: &mut Nginx| {
        let worker = nginx.worker();
        process::signal(worker, Signal::Kill);
        eventually("the worker is replaced", || {
            nginx.log().contains("exited on signal 9") && !nginx.workers().contains(&worker)
        });
    };
    let said = complaint(kill);
    assert!(said.contains("exited on signal 9"), "{said}");
    let said = complaint(|nginx| {
        nginx.allow_kills(1);
        kill(nginx);
    });
    assert_eq!(said, "");
    let said = complaint(|nginx| nginx.allow_kills(1));
    assert!(said.contains("0 workers ended on a signal"), "{said}");
}

#[test]
fn what_is_left_behind_is_noticed() {
    let said = complaint(|nginx| {
        fs::write(nginx.dir().join("sockets/nbffi.leftover"), "").unwrap();
    });
    assert!(said.contains("nbffi.leftover"), "{said}");
}

/// A master that was killed leaves its worker behind.
#[test]
fn a_process_that_is_left_is_noticed() {
    let mut worker = 0;
    let said = complaint(|nginx| {
        worker = nginx.worker();
        process::signal(nginx.master(), Signal::Kill);
    });
    assert!(
        said.contains(&format!("process {worker} is left")),
        "{said}"
    );
    process::signal(worker, Signal::Kill);
    eventually("the worker is gone", || !process::is_alive(worker));
}
