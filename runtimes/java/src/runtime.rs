//! One runtime: the host's side of it, and Java's.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr::null;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use jni_sys::jobject;
use nonblocking_ffi_plugin::sys;

use crate::config::Config;
use crate::end;
use crate::jvm::{self, Jvm};
use crate::thread;

/// `next` of a host of version 1.1.
type NextFn = unsafe extern "C" fn(
    *const sys::nbffi_host,
    *mut sys::nbffi_task,
    *mut *const c_void,
    *mut u64,
) -> c_int;

/// What `state` points to.
#[derive(Debug)]
pub struct Runtime {
    id: u64,
    host: *const sys::nbffi_host,
    /// `None` if the host is older.
    next: Option<NextFn>,
    jvm: &'static Jvm,
    /// A global reference to the `JavaRuntime`.
    java: jobject,
    interrupts: bool,
}

// SAFETY: the host's table and a global reference, both for all threads.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

/// A host's pointer, to log to.
struct Host(*const sys::nbffi_host);

// SAFETY: the header allows `log` on any thread, from init to close.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// The hosts of all runtimes that are not closed, by the runtime's id.
static HOSTS: RwLock<BTreeMap<u64, Host>> = RwLock::new(BTreeMap::new());

/// Writes to nginx's error log for a runtime; for id 0, that of any. What comes
/// from a closed one is dropped; for nobody, it goes to standard error.
pub fn log(id: u64, level: c_int, text: &[u8]) {
    // The lock keeps the runtime from being closed meanwhile.
    let hosts = HOSTS.read().unwrap_or_else(PoisonError::into_inner);
    let found = match id {
        0 => hosts.values().next(),
        id => hosts.get(&id),
    };
    match found {
        // SAFETY: not closed; the text is readable.
        Some(host) => unsafe {
            ((*host.0).log)(host.0, level, text.as_ptr().cast(), text.len() as u64);
        },
        None if id == 0 => {
            // One write, so that lines do not mix. If it fails, nobody listens.
            let line = [text, b"\n"].concat();
            // SAFETY: readable bytes.
            unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
        }
        None => {}
    }
}

fn forget(id: u64) {
    let mut hosts = HOSTS.write().unwrap_or_else(PoisonError::into_inner);
    hosts.remove(&id);
}

impl Runtime {
    /// Makes a runtime.
    ///
    /// # Errors
    /// What is wrong, in words.
    ///
    /// # Safety
    /// `host` is what the host passed to `init`; the runtime is closed before
    /// the host frees it.
    pub unsafe fn open(host: *const sys::nbffi_host) -> Result<Self, String> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        // SAFETY: by the contract. The table may be shorter than the one known
        // here; the fields used are those of version 1.0.
        let table = unsafe { &*host };
        crate::natives::use_host(table);
        // SAFETY: by the contract.
        let (name, config) = unsafe { (text(host, table.name), text(host, table.config)) };
        let config = Config::parse(config)?;
        let jvm = jvm::obtain(&config)?;
        // SAFETY: by the contract.
        unsafe { end::register(host, jvm) }?;
        // Relaxed: only unique.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut flags = String::new();
        if config.interrupt {
            flags += "interrupt ";
        }
        if config.virtual_threads {
            flags += "virtual ";
        }
        let mut fields = vec![
            name,
            config.entry.as_bytes(),
            config.config.as_bytes(),
            flags.as_bytes(),
        ];
        fields.extend(config.class_path.iter().map(String::as_bytes));
        HOSTS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Host(host));
        let opened = thread::with_env(jvm, |env| jvm.java().open(env, id, &fields));
        let java = opened.and_then(|opened| opened).inspect_err(|_| {
            forget(id);
            // What threads keep of the class path that failed goes as well.
            thread::renew_all();
        })?;
        Ok(Self {
            id,
            host,
            // SAFETY: by the contract.
            next: unsafe { next_of(host) },
            jvm,
            java,
            interrupts: config.interrupt,
        })
    }

    /// Ends it, after its last task.
    pub fn close(self) {
        // If there is no memory to attach this thread, it stays as it is.
        let _ = thread::with_env(self.jvm, |env| self.jvm.java().close(env, self.java));
        forget(self.id);
        // Values of its thread-locals would keep its classes.
        thread::renew_all();
    }

    /// Runs a task, and those behind it.
    ///
    /// # Safety
    /// On a pool thread, inside of a call of the host's for this task.
    pub unsafe fn call(&self, task: u64, request: *const u8, len: u64) {
        if crate::natives::refuses(task, len) {
            return;
        }
        // SAFETY: by the contract.
        let done = thread::with_worker(self.jvm, |env, worker| unsafe {
            worker.frame.begin(self, task, request, len);
            let done = self.jvm.java().run(env, worker.java, self.java, len);
            done.map_err(|thrown| (worker.frame.task(), thrown.0))
        });
        match done {
            Ok(Ok(())) => {}
            Ok(Err((task, why))) => crate::natives::fail_task(task, &why),
            Err(why) => crate::natives::fail_task(task, &why),
        }
    }

    /// The next task for this runtime, if there is one: the task, its request
    /// and its length.
    ///
    /// # Safety
    /// On the thread of a call, inside of it.
    pub unsafe fn next(&self) -> Option<(u64, *const u8, u64)> {
        let next = self.next?;
        let (mut task, mut request, mut len) = (0, null(), 0);
        // SAFETY: inside of a call; all pointers are writable.
        let found = unsafe { next(self.host, &mut task, &mut request, &mut len) };
        (found == 1).then_some((task, request.cast(), len))
    }

    /// The host's table, of which only fields of version 1.0 may be used.
    pub fn host(&self) -> &sys::nbffi_host {
        // SAFETY: valid until `close` has returned, which is after this.
        unsafe { &*self.host }
    }

    /// Whether its threads may be interrupted.
    pub fn interrupts(&self) -> bool {
        self.interrupts
    }
}

/// One of the host's strings.
///
/// # Safety
/// The function is the host's `name` or `config`; the string is the host's.
unsafe fn text<'a>(
    host: *const sys::nbffi_host,
    function: unsafe extern "C" fn(*const sys::nbffi_host, *mut u64) -> *const std::ffi::c_char,
) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: by the contract; it gives so many readable bytes.
    unsafe {
        let data = function(host, &mut len);
        std::slice::from_raw_parts(data.cast(), len as usize)
    }
}

/// The host's `next`, if it has one.
///
/// # Safety
/// `host` is a host's table.
unsafe fn next_of(host: *const sys::nbffi_host) -> Option<NextFn> {
    let end = offset_of!(sys::nbffi_host, next) + size_of::<NextFn>();
    // SAFETY: `size` is there in every version; `next` if the table is so long.
    unsafe { ((*host).size as usize >= end).then(|| (*host).next) }
}
