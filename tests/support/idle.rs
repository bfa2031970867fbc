//! Whether a worker sleeps: no timer, no polling, no spinning.
//!
//! nginx-lua itself may wake the event loop: later versions look once a second
//! for child processes. So what a worker of the same nginx does without the
//! library is looked at first, if need be, and allowed to the main thread.

use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::builder::nginx;
use crate::folder::Folder;
use crate::process::{self, Signal};
use crate::{PATIENCE, eventually};

/// How long is looked at once.
const WINDOW: Duration = Duration::from_secs(1);

/// Waits until the worker has slept through a second, with all its threads, but
/// for what nginx does by itself.
pub fn wait_until_idle(worker: i32) {
    let start = Instant::now();
    loop {
        let (naps, ticks) = (process::naps(worker), process::ticks(worker));
        let before = Instant::now();
        thread::sleep(WINDOW);
        let (naps_after, ticks_after) = (process::naps(worker), process::ticks(worker));
        if (&naps, ticks) == (&naps_after, ticks_after) {
            return;
        }
        let main = format!("({worker})");
        let split = |naps: &[(String, u64)]| {
            let (main, others): (Vec<_>, Vec<_>) = naps
                .iter()
                .cloned()
                .partition(|(name, _)| name.ends_with(&main));
            (main[0].1, others)
        };
        let ((main, others), (main_after, others_after)) = (split(&naps), split(&naps_after));
        let allowed = wake_ups_of_nginx(before.elapsed());
        // A wake-up takes microseconds; one in a thousand is seen as a tick.
        let slept = main_after - main <= allowed && ticks_after - ticks <= 1;
        if allowed > 0 && slept && others == others_after {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "never idle: {naps:?}, {ticks}, then {naps_after:?}, {ticks_after}; \
             nginx itself wakes up {allowed} times"
        );
    }
}

/// How often the event loop of this nginx may wake up in such a time without
/// anything of ours: never, or once a second.
fn wake_ups_of_nginx(time: Duration) -> u64 {
    static ONCE_A_SECOND: OnceLock<bool> = OnceLock::new();
    match ONCE_A_SECOND.get_or_init(wakes_up_by_itself) {
        // Both ends of the time may see one.
        true => time.as_secs() + 1,
        false => 0,
    }
}

/// Looks at a worker of an nginx with Lua, but without the library.
fn wakes_up_by_itself() -> bool {
    let dir = Folder::new();
    let configuration = format!(
        "{modules} daemon off; worker_processes 1; pid {dir}/pid; \
         events {{}} http {{ access_log off; \
         client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; \
         fastcgi_temp_path {dir}/3; uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5; \
         server {{ listen unix:{dir}/socket; \
         location / {{ content_by_lua_block {{ ngx.exit(204) }} }} }} }}",
        modules = nginx().load_modules(),
        dir = dir.display(),
    );
    dir.write("nginx.conf", &configuration);
    let mut command = nginx().command();
    command
        .arg("-p")
        .arg(&*dir)
        .arg("-c")
        .arg(dir.join("nginx.conf"));
    command.args(["-g", "error_log stderr crit;"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut master = command.spawn().unwrap();
    let pid = master.id() as i32;
    let worker = || process::children(pid).first().copied();
    eventually("a worker", || worker().is_some());
    let worker = worker().unwrap();
    let naps = || process::naps(worker)[0].1;
    // More than once, since its start may take a while.
    let wakes_up = (0..3).all(|_| {
        let before = naps();
        thread::sleep(WINDOW * 3 / 2);
        naps() > before
    });
    process::signal(pid, Signal::Term);
    let _ = master.wait();
    wakes_up
}
