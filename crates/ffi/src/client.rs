//! A Lua VM's client: channel, log lines, exit.

use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{ErrorBuffer, PANICKED, Text, catch};
use nonblocking_ffi_core::client::Client;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::exit;
use nonblocking_ffi_core::log::stderr;
use nonblocking_ffi_core::wake::socket::Listener;

/// How often the main thread looks while the process exits.
const EXIT_POLL: Duration = Duration::from_millis(1);

/// The Lua VMs of this process that have a client: one per nginx subsystem.
static VMS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Makes the client of a Lua VM of an nginx subsystem ("http", "stream"), after
/// [`nbffi_enter`](crate::process::nbffi_enter). It lives until the process ends. Null
/// with the reason in `error` if the subsystem has one already: then every request has a
/// VM of its own (`lua_code_cache off`).
///
/// # Safety
/// Text and buffer are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_client_new(subsystem: Text, error: ErrorBuffer) -> *mut Client {
    catch(std::ptr::null_mut(), || {
        // SAFETY: by the contract.
        let subsystem = unsafe { subsystem.string() };
        let mut vms = VMS.lock().unwrap_or_else(PoisonError::into_inner);
        if vms.contains(&subsystem) {
            let why = "lua_code_cache is off: every request has a Lua VM of its own, but \
                       threads and runtimes belong to a worker; switch it on";
            // SAFETY: by the contract.
            unsafe { error.write(why) };
            return std::ptr::null_mut();
        }
        vms.push(subsystem);
        let mut client = Box::<Client>::default();
        // Lua calls `nbffi_more_slots`.
        client.set_grows(false);
        Box::into_raw(client)
    })
}

/// Allocates slots for more tasks: a post that finds no free slot fails for lack of
/// memory. Returns the number of the first of a chunk (`CHUNK` in cdefs.lua), or
/// `-n` for the error `n`. Posts use them after `nbffi_use_slots`. Before that, Lua makes
/// room in its own tables, which may fail.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_more_slots(client: *mut Client) -> i32 {
    let first = catch(Err(Error::Runtime), || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        unsafe { &mut *client }.slots().grow()
    });
    first.map_or_else(|error| -error.code(), |first| first as i32)
}

/// Has posts use the slots of `nbffi_more_slots` from now on.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_use_slots(client: *mut Client) {
    // SAFETY: by the contract; the VM's thread is the only one here.
    catch((), || unsafe { &mut *client }.slots().use_fresh());
}

/// Listens in a new directory below the first of `directories` that allows it, and writes
/// the path to connect to into `path`. NULs separate the directories, since no path has
/// one. Returns 0, or -1 with the reason in `error`.
///
/// # Safety
/// `client` is live, the buffers are as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_channel_open(
    client: *mut Client,
    directories: Text,
    path: ErrorBuffer,
    error: ErrorBuffer,
) -> i32 {
    catch(PANICKED, || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let (client, directories) = unsafe { (&mut *client, directories.bytes()) };
        let directories = directories.split(|&byte| byte == 0);
        let candidates = directories.map(|name| Path::new(OsStr::from_bytes(name)));
        match Listener::open(candidates) {
            Ok(listener) => {
                // SAFETY: by the contract.
                unsafe { path.write_bytes(listener.path().as_os_str().as_bytes()) };
                *client.listener() = Some(listener);
                0
            }
            Err(text) => {
                // SAFETY: by the contract.
                unsafe { error.write(&text) };
                -1
            }
        }
    })
}

/// Accepts the connection of the cosocket if it is `connected`; otherwise finds out why it
/// is not. Removes the path in both cases. Returns 0, or -1 with the reason in `error`.
///
/// # Safety
/// `client` is live, the buffer is as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_channel_accept(
    client: *mut Client,
    connected: bool,
    error: ErrorBuffer,
) -> i32 {
    catch(PANICKED, || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        let Some(listener) = client.listener().take() else {
            return 0;
        };
        let accepted = if connected {
            let accepted = listener.accept();
            accepted.and_then(|channel| client.mailbox().waker().connect(channel))
        } else {
            Err(listener.why_refused())
        };
        match accepted {
            Ok(()) => 0,
            Err(reason) => {
                // SAFETY: by the contract.
                unsafe { error.write(&format!("cannot connect the channel: {reason}")) };
                -1
            }
        }
    })
}

/// Asks for a byte on the channel as soon as there is something to drain.
/// False if there is something already.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_channel_arm(client: *const Client) -> bool {
    // SAFETY: by the contract.
    catch(false, || unsafe { &*client }.arm())
}

/// Sends a byte through the channel.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_channel_wake(client: *const Client) {
    // SAFETY: by the contract.
    catch((), || unsafe { &*client }.mailbox().waker().wake());
}

/// Says whether posts may be held back until `nbffi_flush`.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_may_hold(client: *mut Client, may_hold: bool) {
    catch((), || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        client.set_may_hold(may_hold);
        if !may_hold {
            client.flush();
        }
    });
}

/// Log lines more verbose than nginx's `level` will be dropped at once.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_log_level(client: *const Client, level: u8) {
    // SAFETY: by the contract.
    catch((), || unsafe { &*client }.log().set_level(level));
}

/// Takes the oldest log line of a plugin: returns its nginx level and writes the line to
/// `line`, which has `size` bytes; 0 if there is none. `line` is no `ErrorBuffer`, since
/// LuaJIT does not compile calls that pass structures, and each drain makes this call.
///
/// # Safety
/// `client` is live, the bytes are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_log_take(
    client: *const Client,
    line: *mut c_char,
    size: usize,
) -> i32 {
    catch(0, || {
        // SAFETY: by the contract.
        let Some(record) = unsafe { &*client }.log().take() else {
            return 0;
        };
        let line = ErrorBuffer { data: line, size };
        // SAFETY: by the contract.
        unsafe { line.write(&record.text) };
        record.level.into()
    })
}

/// Blocks the calling thread for up to `seconds`, until there is something to
/// drain. Only for a worker that does not serve requests yet (`init_worker_by_lua`).
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_block(client: *const Client, seconds: f64) {
    catch((), || {
        // SAFETY: by the contract.
        let completions = unsafe { &*client }.mailbox().completions();
        wait_while(seconds, || completions.is_empty());
    });
}

fn wait_while(seconds: f64, condition: impl Fn() -> bool) {
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let start = Instant::now();
    while condition() && start.elapsed() < limit {
        std::thread::sleep(EXIT_POLL);
    }
}

/// Step 2 of the shutdown, see [`nonblocking_ffi_core::exit`]. Queued tasks have `queued`
/// seconds to begin, then running ones `running` seconds to end; steps 3 to 5 have
/// `ending` seconds. Does not return if a task still runs.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_client_close(
    client: *mut Client,
    queued: f64,
    running: f64,
    ending: f64,
) {
    catch((), || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        exit::allow(Duration::try_from_secs_f64(ending).unwrap_or(Duration::MAX));
        client.flush();
        wait_while(queued, || client.unfinished().0 > 0);
        client.mailbox().close();
        wait_while(running, || client.unfinished() != (0, 0));
        if client.unfinished().1 > 0 {
            // A plugin may be reading a string that is about to be freed.
            while let Some(record) = client.log().take() {
                stderr::write_line(record.level, record.text.as_bytes());
            }
            exit::now(0);
        }
    });
}

/// The version of this library.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
