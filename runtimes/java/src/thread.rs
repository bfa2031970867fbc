//! Pool threads in the JVM: attached when they first run Java, as daemons, and
//! from then on.
//!
//! When a runtime is closed, threads may hold values of its thread-locals, and
//! these its classes. Java has no way to clear them, but for the end of the
//! thread. So after each close every pool thread leaves the JVM and enters it
//! again, as a new Java thread, the next time that it runs something.

use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use jni_sys::{JNI_OK, JNI_VERSION_10, JNIEnv, JavaVMAttachArgs, jobject};

use crate::env::Env;
use crate::frame::Frame;
use crate::jvm::Jvm;

/// A thread that does the work of a call: calls may be nested, if the host runs
/// a task inside of another one, and each has a worker of its own.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// The memory that it shares with Java.
    pub frame: &'static Frame,
    /// A global reference to the `Worker`.
    pub java: jobject,
}

/// This thread in the JVM.
struct Attached {
    jvm: &'static Jvm,
    env: Env,
    /// What `GENERATION` was when it entered.
    generation: u64,
    /// Workers that are not at work.
    idle: Vec<Worker>,
    /// Calls that this thread is in.
    depth: usize,
    /// Whether the thread was in the JVM before we came, for somebody else.
    foreign: bool,
}

/// How often threads were told to enter anew.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ATTACHED: RefCell<Option<Attached>> = const { RefCell::new(None) };
}

/// Has every thread enter the JVM anew before it runs something again.
pub fn renew_all() {
    // Relaxed: a thread that sees it one call later is as good.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

impl Attached {
    fn enter(jvm: &'static Jvm) -> Result<Self, String> {
        // Relaxed: see `renew_all`.
        let generation = GENERATION.load(Ordering::Relaxed);
        let mut env = null_mut::<c_void>();
        // SAFETY: a pointer to write to, and a version that the JVM knows.
        let foreign = unsafe {
            let table = &(**jvm.raw()).v1_4;
            (table.GetEnv)(jvm.raw(), &mut env, JNI_VERSION_10) == JNI_OK
        };
        if !foreign {
            let name = name();
            let mut arguments = JavaVMAttachArgs {
                version: JNI_VERSION_10,
                name: name.as_ptr().cast_mut(),
                group: null_mut(),
            };
            // SAFETY: as above; the name is terminated, and copied.
            let status = unsafe {
                let table = &(**jvm.raw()).v1_4;
                let arguments = std::ptr::from_mut(&mut arguments).cast();
                (table.AttachCurrentThreadAsDaemon)(jvm.raw(), &mut env, arguments)
            };
            if status != JNI_OK {
                return Err(format!("the JVM does not take the thread (code {status})"));
            }
        }
        Ok(Self {
            jvm,
            // SAFETY: of this thread, which leaves when this is dropped.
            env: unsafe { Env::new(env.cast::<JNIEnv>()) },
            generation,
            idle: Vec::new(),
            depth: 0,
            foreign,
        })
    }

    fn worker(&mut self) -> Result<Worker, String> {
        if let Some(worker) = self.idle.pop() {
            return Ok(worker);
        }
        let frame = Frame::take();
        match self.jvm.java().enter(self.env, frame) {
            Ok(java) => Ok(Worker { frame, java }),
            Err(thrown) => {
                frame.give_back();
                Err(thrown.0)
            }
        }
    }
}

impl Drop for Attached {
    /// On a change of generation, or at the thread's end.
    fn drop(&mut self) {
        for worker in std::mem::take(&mut self.idle) {
            self.jvm.java().leave(self.env, worker.java);
            worker.frame.give_back();
        }
        if !self.foreign {
            // SAFETY: attached by us; no Java frame is on its stack, since no
            // call is under way.
            unsafe { ((**self.jvm.raw()).v1_4.DetachCurrentThread)(self.jvm.raw()) };
        }
    }
}

/// The name that the thread has outside of Java.
fn name() -> CString {
    let mut name = [0_u8; 16];
    // SAFETY: 16 bytes are what the kernel writes at most, the NUL included.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let end = name.iter().position(|&b| b == 0).unwrap_or(0);
    CString::new(&name[..end]).unwrap_or_default()
}

/// Runs something with the JNI of this thread.
///
/// # Errors
/// If the JVM does not take the thread.
pub fn with_env<T>(jvm: &'static Jvm, body: impl FnOnce(Env) -> T) -> Result<T, String> {
    begin(jvm, |attached| Ok(attached.env)).map(|env| {
        let result = body(env);
        end(None);
        result
    })
}

/// Runs something on this thread as a worker. An error of it gives the worker up:
/// nobody knows what state it is in.
///
/// # Errors
/// If the JVM does not take the thread.
pub fn with_worker<T, E>(
    jvm: &'static Jvm,
    body: impl FnOnce(Env, Worker) -> Result<T, E>,
) -> Result<Result<T, E>, String> {
    begin(jvm, |attached| Ok((attached.env, attached.worker()?))).map(|(env, worker)| {
        let result = body(env, worker);
        if result.is_err() {
            worker.frame.rest();
            renew_all();
        }
        end(Some(worker));
        result
    })
}

/// Enters the JVM if need be, and one call deeper. The cell is not borrowed while
/// the call runs, which may lead back here.
fn begin<T>(
    jvm: &'static Jvm,
    get: impl FnOnce(&mut Attached) -> Result<T, String>,
) -> Result<T, String> {
    ATTACHED.with(|cell| {
        let mut cell = cell.borrow_mut();
        // Relaxed: see `renew_all`.
        let generation = GENERATION.load(Ordering::Relaxed);
        let outdated =
            |attached: &Attached| attached.depth == 0 && attached.generation != generation;
        if cell.as_ref().is_some_and(outdated) {
            *cell = None;
        }
        let attached = match &mut *cell {
            Some(attached) => attached,
            none => none.insert(Attached::enter(jvm)?),
        };
        let got = get(attached)?;
        attached.depth += 1;
        Ok(got)
    })
}

fn end(worker: Option<Worker>) {
    ATTACHED.with(|cell| {
        if let Some(attached) = &mut *cell.borrow_mut() {
            attached.depth -= 1;
            attached.idle.extend(worker);
        }
    });
}
