//! The host functions.

use std::collections::VecDeque;
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::offset_of;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};

use super::tasks::{self, Task, complete, pending};
use super::{Callback, INSIDE, Outcome, Via, lock, measured};
use crate::Level;
use crate::sys::*;

/// The table of one runtime, with what its functions need behind it.
#[repr(C)]
pub(super) struct Table {
    host: nbffi_host,
    name: CString,
    config: CString,
    log: Mutex<Vec<(Level, String)>>,
    /// Whether the plugin has done with a task when it asks for the next one.
    pub blocking: bool,
    /// Tasks that `next` gives out, each with its priority.
    queue: Mutex<VecDeque<(i32, u64)>>,
    pub exits: Mutex<Vec<Callback>>,
}

impl Table {
    pub fn new(name: &str, config: Vec<u8>, version: u32, blocking: bool) -> Box<Self> {
        let size = match version & 0xffff {
            0 => offset_of!(nbffi_host, next),
            1 => offset_of!(nbffi_host, await_next),
            2 => offset_of!(nbffi_host, at_exit),
            _ => size_of::<nbffi_host>(),
        };
        Box::new(Self {
            host: nbffi_host {
                abi_version: version,
                size: size as u32,
                log,
                config: get_config,
                name: get_name,
                deadline_ns,
                is_cancelled,
                alloc,
                respond_buffer,
                respond,
                respond_owned,
                fail,
                set_status,
                next,
                // The thread may always be wanted elsewhere.
                await_next: next,
                at_exit,
                on_cancel,
            },
            name: CString::new(name).expect("a name without NUL"),
            config: CString::new(config).expect("a configuration without NUL"),
            log: Mutex::default(),
            blocking,
            queue: Mutex::default(),
            exits: Mutex::default(),
        })
    }

    pub fn as_ptr(&self) -> *const nbffi_host {
        // Of all of it: the functions look behind the table.
        std::ptr::from_ref(self).cast()
    }

    /// # Safety
    /// `host` is what `as_ptr` gave, and the runtime was not dropped.
    unsafe fn of<'a>(host: *const nbffi_host) -> &'a Self {
        // SAFETY: by the contract; the host leads the table.
        unsafe { &*host.cast() }
    }

    pub fn log(&self) -> MutexGuard<'_, Vec<(Level, String)>> {
        lock(&self.log)
    }

    pub fn queue(&self) -> MutexGuard<'_, VecDeque<(i32, u64)>> {
        lock(&self.queue)
    }

    pub fn pop(&self) -> Option<u64> {
        self.queue().pop_front().map(|(_, task)| task)
    }
}

/// `len` bytes at `data`; `None` if there is nothing there.
///
/// # Safety
/// They are readable if `data` is not null.
unsafe fn bytes<'a>(data: *const c_void, len: u64) -> Option<&'a [u8]> {
    match (data.is_null(), len) {
        (_, 0) => Some(&[]),
        (true, _) => None,
        // SAFETY: by the contract.
        _ => Some(unsafe { std::slice::from_raw_parts(data.cast(), len as usize) }),
    }
}

/// As `bytes`, for text.
///
/// # Safety
/// As for `bytes`.
unsafe fn text(data: *const c_char, len: u64) -> Option<String> {
    // SAFETY: by the contract.
    let bytes = unsafe { bytes(data.cast(), len) }?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

unsafe extern "C" fn log(host: *const nbffi_host, level: c_int, msg: *const c_char, len: u64) {
    // SAFETY: the plugin passes what init was given, and a message.
    let (table, message) = unsafe { (Table::of(host), text(msg, len)) };
    let message = message.unwrap_or_default();
    table.log().push((Level::of(level), message));
}

/// # Safety
/// `len` is null or writable.
unsafe fn hand_out(text: &CString, len: *mut u64) -> *const c_char {
    // SAFETY: by the contract.
    if let Some(len) = unsafe { len.as_mut() } {
        *len = text.as_bytes().len() as u64;
    }
    text.as_ptr()
}

unsafe extern "C" fn get_config(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: the plugin passes what init was given; `len` may be null.
    unsafe { hand_out(&Table::of(host).config, len) }
}

unsafe extern "C" fn get_name(host: *const nbffi_host, len: *mut u64) -> *const c_char {
    // SAFETY: as above.
    unsafe { hand_out(&Table::of(host).name, len) }
}

unsafe extern "C" fn deadline_ns(task: u64) -> u64 {
    if measured::is(task) {
        return NBFFI_NO_DEADLINE;
    }
    pending(task, |task| task.deadline_ns).unwrap_or(0)
}

unsafe extern "C" fn is_cancelled(task: u64) -> c_int {
    let unwanted = !measured::is(task) && pending(task, |t| t.is_unwanted()).unwrap_or(true);
    unwanted.into()
}

unsafe extern "C" fn alloc(task: u64, size: u64) -> *mut c_void {
    if measured::is(task) {
        return measured::room(size);
    }
    let buffer = pending(task, |task| {
        // Either way the task stays pending.
        let refused = match size {
            size if size > task.options.max_response => Outcome::TooLarge,
            size if size > task.options.memory => Outcome::NoMemory,
            _ => {
                // What no test expects, to find bytes that were not written.
                let buffer = task.buffer.insert(vec![0xEE; size.max(1) as usize]);
                return buffer.as_mut_ptr().cast();
            }
        };
        task.refused = Some(refused);
        null_mut()
    });
    buffer.unwrap_or(null_mut())
}

fn success(task: &mut Task, data: Vec<u8>, via: Via) -> Result<Outcome, c_int> {
    if data.len() as u64 > task.options.max_response {
        return Err(NBFFI_TOO_LARGE);
    }
    let status = task.status.take();
    Ok(Outcome::Response { data, status, via })
}

unsafe extern "C" fn respond_buffer(task: u64, len: u64) -> c_int {
    if measured::is(task) {
        return measured::end();
    }
    complete(task, |task| match task.buffer.take() {
        _ if len > task.options.max_response => Err(NBFFI_TOO_LARGE),
        Some(mut buffer) if len <= buffer.len() as u64 => {
            buffer.truncate(len as usize);
            success(task, buffer, Via::Buffer)
        }
        buffer => {
            task.buffer = buffer;
            Err(NBFFI_INVALID)
        }
    })
}

unsafe extern "C" fn respond(task: u64, data: *const c_void, len: u64) -> c_int {
    if measured::is(task) {
        return measured::end();
    }
    complete(task, |task| {
        let request = task.request.as_ptr_range();
        let inside = len > 0 && request.contains(&data.cast::<u8>());
        // SAFETY: the plugin passes readable bytes; those of the request are
        // readable, since the task has not ended.
        let data = unsafe { bytes(data, len) }.ok_or(NBFFI_INVALID)?;
        let via = if inside { Via::Request } else { Via::Copy };
        success(task, data.to_vec(), via)
    })
}

unsafe extern "C" fn respond_owned(
    task: u64,
    data: *mut c_void,
    len: u64,
    release: Option<nbffi_release_fn>,
    arg: *mut c_void,
) -> c_int {
    if measured::is(task) {
        if let Some(release) = release {
            // SAFETY: once, with what the plugin passed.
            unsafe { release(arg, data) };
        }
        return measured::end();
    }
    let code = complete(task, |task| {
        // SAFETY: the plugin passes readable bytes.
        let data = unsafe { bytes(data, len) }.ok_or(NBFFI_INVALID)?;
        success(task, data.to_vec(), Via::Owned)
    });
    if let Some(release) = release {
        /// What the plugin hands over goes to another thread, as to nginx's.
        struct Owned(*mut c_void, *mut c_void);
        // SAFETY: the ABI has it released on whichever thread.
        unsafe impl Send for Owned {}
        let owned = Owned(arg, data);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let Owned(arg, data) = { owned };
                // SAFETY: once, with what the plugin passed.
                unsafe { release(arg, data) };
            });
        });
    }
    code
}

unsafe extern "C" fn fail(task: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    if measured::is(task) {
        // Not counted, so that it is noticed.
        return NBFFI_OK;
    }
    complete(task, |_| {
        // SAFETY: the plugin's message.
        let message = unsafe { text(msg, len) }.ok_or(NBFFI_INVALID)?;
        Ok(Outcome::Failed { code, message })
    })
}

unsafe extern "C" fn set_status(task: u64, code: i64, msg: *const c_char, len: u64) -> c_int {
    // SAFETY: the plugin's message.
    let Some(message) = (unsafe { text(msg, len) }) else {
        return NBFFI_INVALID;
    };
    pending(task, |task| task.status = Some((code, message))).map_or(NBFFI_STALE, |()| NBFFI_OK)
}

unsafe extern "C" fn next(
    host: *const nbffi_host,
    task: *mut nbffi_task,
    req: *mut *const c_void,
    len: *mut u64,
) -> c_int {
    let (inside, last) = INSIDE.get();
    if !std::ptr::eq(inside, host) {
        return 0;
    }
    // SAFETY: the plugin passes what init was given.
    let table = unsafe { Table::of(host) };
    let next = if measured::is(last) {
        measured::next()
    } else {
        tasks::settle(last, 0, table.blocking);
        table.pop()
    };
    let Some(id) = next else {
        return 0;
    };
    INSIDE.set((host, id));
    // SAFETY: the plugin passes places to write to.
    unsafe {
        *task = id;
        (*req, *len) = tasks::request_of(id);
    }
    1
}

unsafe extern "C" fn at_exit(
    host: *const nbffi_host,
    function: Option<nbffi_exit_fn>,
    arg: *mut c_void,
) -> c_int {
    let Some(function) = function else {
        return NBFFI_INVALID;
    };
    // SAFETY: the plugin passes what init was given.
    let mut exits = lock(&unsafe { Table::of(host) }.exits);
    let hook = Callback { function, arg };
    if !exits.iter().any(|other| other.is(&hook)) {
        exits.push(hook);
    }
    NBFFI_OK
}

unsafe extern "C" fn on_cancel(
    task: nbffi_task,
    function: Option<nbffi_cancel_fn>,
    arg: *mut c_void,
) -> c_int {
    match function {
        None => NBFFI_INVALID,
        Some(_) if measured::is(task) => NBFFI_OK,
        Some(function) => tasks::watch(task, Callback { function, arg }),
    }
}
