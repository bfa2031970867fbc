//! Post, drain, release, cancel: the call path.

use super::{PANICKED, catch};
use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::runtime::Runtime;
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::state::Cancel;
use nonblocking_ffi_core::task::{Priority, Slot, arena};

/// What [`nbffi_post`] returns for a task that is done already.
const DONE: i32 = -100;
/// Added to a slot's number: the caller must see to a flush.
const HELD: i32 = 1 << 30;

/// A task that is done. Numbers are doubles where Lua would otherwise get a
/// boxed 64-bit integer.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Completion {
    slot: u32,
    /// 0, or the code of the error.
    status: i32,
    /// The plugin's own status code.
    code: f64,
    /// The response, until the slot is released.
    data: *const u8,
    len: f64,
    /// The plugin's own message, likewise; null if there is none.
    message: *const u8,
    message_len: f64,
}

/// # Safety
/// As for [`Client::collect`].
unsafe fn complete(client: &mut Client, slot: &'static Slot, now: u64) -> Completion {
    // SAFETY: by the contract.
    let result = unsafe { client.collect(slot, now) };
    let status = Error::status(result);
    // SAFETY: the slot is done, so the main thread may read the reply.
    let reply = unsafe { slot.reply() };
    let (data, len) = reply.data();
    // What a plugin said too late does not explain a timeout.
    let said = result != Err(Error::Timeout);
    let message = reply.message.as_deref().filter(|_| said);
    Completion {
        slot: slot.index,
        status,
        code: reply.code as f64,
        data,
        len: len as f64,
        message: message.map_or(std::ptr::null(), <[u8]>::as_ptr),
        message_len: message.map_or(0, <[u8]>::len) as f64,
    }
}

/// Posts a request: `len` bytes at `data`, which stay where they are until the
/// completion is collected. `timeout` is in seconds. `waits`: the caller is
/// about to wait, so the result may be taken at once. `tag` is a number for the
/// runtime. Requests of the same `key`, if that is not 0, go to the same thread
/// while it is free.
///
/// Returns the number of the slot; or that plus [`HELD`], if the caller must
/// see to it that `nbffi_flush` is called soon; or [`DONE`], with the
/// completion in `done`; or `-n` for the error `n`.
///
/// # Safety
/// `client` and `runtime` are live, `done` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_post(
    client: *mut Client,
    runtime: *const Runtime,
    data: *const u8,
    len: usize,
    timeout: f64,
    priority: u32,
    waits: bool,
    tag: u32,
    key: u32,
    done: *mut Completion,
) -> i32 {
    catch(PANICKED, || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let (client, runtime) = unsafe { (&mut *client, &*runtime) };
        let request = Request {
            data,
            len,
            timeout,
            priority: Priority::from_number(priority),
            waits,
            tag,
            key,
        };
        // SAFETY: Lua frees a runtime only when its last task is collected,
        // and keeps requests alive.
        match unsafe { client.post(runtime, request) } {
            Ok(Posted::Pending(slot)) => slot.index as i32,
            Ok(Posted::Held(slot)) => slot.index as i32 + HELD,
            Ok(Posted::Done(slot)) => {
                // SAFETY: by the contract; the client has just given the slot.
                unsafe { *done = complete(client, slot, now_ns()) };
                DONE
            }
            Err(error) => -error.code(),
        }
    })
}

/// Sends posts that were held back to the pools. To be called at the end of
/// the event loop's turn in which one was. True if `nbffi_watch` should be
/// called in some milliseconds.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_flush(client: *mut Client) -> bool {
    // SAFETY: by the contract; the VM's thread is the only one here.
    catch(false, || unsafe { &mut *client }.flush())
}

/// Sees to it that what was sent is taken care of. True if it should be called
/// again in some milliseconds.
///
/// # Safety
/// `client` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_watch(client: *mut Client) -> bool {
    // SAFETY: by the contract; the VM's thread is the only one here.
    catch(false, || unsafe { &mut *client }.watch())
}

/// Collects up to `room` tasks that are done, into `done`. Returns how many;
/// each must be released. Fewer than `room` means that there are no more.
///
/// # Safety
/// `client` is live, `done` has the room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_drain(client: *mut Client, done: *mut Completion, room: u32) -> u32 {
    catch(0, || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        let mut count = 0;
        let mut now = 0;
        while count < room {
            let Some(slot) = client.next_done() else {
                break;
            };
            if now == 0 {
                now = now_ns();
            }
            // SAFETY: the client has just given the slot; `count` is less than `room`.
            unsafe { *done.add(count as usize) = complete(client, slot, now) };
            count += 1;
        }
        count
    })
}

/// Releases collected tasks: their responses are gone after this.
///
/// # Safety
/// `client` is live, and `done[0..count]` was collected and not yet released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_release(client: *mut Client, done: *const Completion, count: u32) {
    catch((), || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        for index in 0..count as usize {
            // SAFETY: by the contract.
            let number = unsafe { &*done.add(index) }.slot;
            if let Some(slot) = arena::get(number) {
                // SAFETY: by the contract.
                unsafe { client.release(slot) };
            }
        }
    });
}

/// Seconds until the deadline of a task.
///
/// # Safety
/// `slot` holds a task that has not been collected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_left(slot: u32) -> f64 {
    catch(0.0, || {
        let Some(slot) = arena::get(slot) else {
            return 0.0;
        };
        // SAFETY: the slot holds a task, since Lua has not collected it.
        let deadline = unsafe { slot.task() }.deadline_ns;
        deadline.saturating_sub(now_ns()) as f64 / 1e9
    })
}

/// Gives a task up because of the error `why`, which is counted. 0: it will
/// never run; 1: it runs, and can find out; 2: it is done already.
///
/// # Safety
/// `client` is live, and `slot` holds a task that has not been collected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_cancel(client: *mut Client, slot: u32, why: i32) -> i32 {
    catch(PANICKED, || {
        // SAFETY: by the contract; the VM's thread is the only one here.
        let client = unsafe { &mut *client };
        let why = Error::ALL.into_iter().find(|error| error.code() == why);
        let (Some(slot), Some(why)) = (arena::get(slot), why) else {
            return -Error::Runtime.code();
        };
        // SAFETY: by the contract.
        match unsafe { client.cancel(slot, why) } {
            Cancel::BeforeRun => 0,
            Cancel::Running { .. } => 1,
            Cancel::TooLate => 2,
        }
    })
}
