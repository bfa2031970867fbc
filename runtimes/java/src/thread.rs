//! Pool threads in the JVM: attached when they first run Java, as daemons, and
//! from then on.
//!
//! When a runtime is closed, threads may hold values of its thread-locals, and
//! these its classes. Java cannot clear them before the thread ends. So after each
//! close every pool thread leaves the JVM, and enters it as a new Java thread the
//! next time that it runs something.
//!
//! Code gets JNI's environment for as long as its closure runs:
//!
//! ```no_run
//! # use jni::{JavaVM, objects::JString};
//! # use nonblocking_ffi_java::thread::with_env;
//! # fn example(vm: &JavaVM) -> Result<String, String> {
//! with_env(vm, |env| JString::from_str(env, "tea")?.try_to_string(env))
//! # }
//! ```
//!
//! Neither it nor a local reference can leave the closure:
//!
//! ```compile_fail
//! # use jni::{JavaVM, objects::JString};
//! # use nonblocking_ffi_java::thread::with_env;
//! # fn example(vm: &JavaVM) -> Result<JString<'static>, String> {
//! with_env(vm, |env| JString::from_str(env, "tea"))
//! # }
//! ```

use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use jni::objects::Global;
use jni::sys::{self, JNI_OK, JNI_VERSION_10, JavaVMAttachArgs};
use jni::{Env, EnvUnowned, JavaVM, Outcome, errors};
use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::entry::PANIC;
use nonblocking_ffi_runtimes_common::host::Request;

use crate::frame::Frame;
use crate::java::{self, Boot, JavaFrame, JavaRuntime};

/// Local references that a closure may have at a time.
const LOCALS: usize = 16;

/// Both sides of a frame. A call has one of its own, since the host may run a task
/// inside of another one.
struct Frames {
    ours: &'static Frame,
    java: Global<JavaFrame<'static>>,
}

/// This thread in the JVM.
struct Attached {
    vm: JavaVM,
    env: *mut sys::JNIEnv,
    /// What `GENERATION` was when the thread entered.
    generation: u64,
    /// Frames that no call uses.
    idle: Vec<Frames>,
    /// Calls that this thread is in.
    depth: usize,
    /// Whether somebody else had attached the thread before.
    foreign: bool,
}

/// How often threads were told to enter anew.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ATTACHED: RefCell<Option<Attached>> = const { RefCell::new(None) };
}

/// Makes every thread enter the JVM anew before it runs something again.
pub(crate) fn renew_all() {
    // Relaxed: a thread may as well see it one call later.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

impl Attached {
    fn enter(vm: &JavaVM) -> Result<Self, String> {
        // Relaxed: see `renew_all`.
        let generation = GENERATION.load(Ordering::Relaxed);
        let raw = vm.get_raw();
        let mut env = null_mut::<c_void>();
        // SAFETY: a pointer to write to, and a version that the JVM knows.
        let foreign = unsafe { ((**raw).v1_2.GetEnv)(raw, &mut env, JNI_VERSION_10) == JNI_OK };
        if !foreign {
            let name = name();
            let mut arguments = JavaVMAttachArgs {
                version: JNI_VERSION_10,
                name: name.as_ptr().cast_mut(),
                group: null_mut(),
            };
            let arguments = std::ptr::from_mut(&mut arguments).cast();
            // SAFETY: as above; the JVM copies the name, which is terminated.
            let status =
                unsafe { ((**raw).v1_4.AttachCurrentThreadAsDaemon)(raw, &mut env, arguments) };
            if status != JNI_OK {
                return Err(format!("the JVM does not take the thread (code {status})"));
            }
        }
        Ok(Self {
            vm: vm.clone(),
            env: env.cast(),
            generation,
            idle: Vec::new(),
            depth: 0,
            foreign,
        })
    }

    fn frames(&mut self) -> Result<Frames, String> {
        if let Some(frames) = self.idle.pop() {
            return Ok(frames);
        }
        let ours = Frame::take();
        let (memory, size) = (ours.memory(), size_of::<Frame>());
        // SAFETY: this thread's, which is attached. The frame is never freed.
        let java = unsafe {
            in_env(self.env, |env| {
                env.with_local_frame(LOCALS, |env| {
                    let buffer = env.new_direct_byte_buffer(memory, size)?;
                    let frame = Boot::enter(env, ours.address(), buffer)?;
                    env.new_global_ref(frame)
                })
            })
        };
        match java {
            Ok(java) => Ok(Frames { ours, java }),
            Err(why) => {
                // SAFETY: Java does not have it.
                unsafe { ours.give_back() };
                Err(why)
            }
        }
    }
}

impl Drop for Attached {
    /// When the generation changes, or the thread ends.
    fn drop(&mut self) {
        let idle = std::mem::take(&mut self.idle);
        // SAFETY: this thread's, which is attached still.
        let _ = unsafe {
            in_env(self.env, |env| {
                for frames in idle {
                    // It takes the frame from a list. If memory is out, the frame stays
                    // there, and this one is not used again.
                    Boot::leave(env, &*frames.java)?;
                    frames.ours.give_back();
                }
                Ok(())
            })
        };
        if !self.foreign {
            let raw = self.vm.get_raw();
            // SAFETY: `enter` has attached it. No call is under way, so no frame of
            // Java's is on its stack.
            unsafe { ((**raw).v1_2.DetachCurrentThread)(raw) };
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

/// Runs something with a thread's environment. No exception is pending afterwards.
///
/// # Safety
/// `env` is that of the calling thread, which is attached.
unsafe fn in_env<T>(
    env: *mut sys::JNIEnv,
    body: impl FnOnce(&mut Env<'_>) -> errors::Result<T>,
) -> Result<T, String> {
    // SAFETY: by the contract; the value is gone when this returns.
    let mut env = unsafe { EnvUnowned::from_raw(env) };
    let outcome = env.with_env(|env| -> errors::Result<_> {
        match body(env) {
            Ok(value) => Ok(Ok(value)),
            Err(error) => env.with_local_frame(LOCALS, |env| Ok(Err(java::describe(env, &error)))),
        }
    });
    match outcome.into_outcome() {
        Outcome::Ok(result) => result,
        Outcome::Err(error) => Err(error.to_string()),
        Outcome::Panic(_) => Err(PANIC.to_owned()),
    }
}

/// Runs something with the environment of this thread.
///
/// # Errors
/// If the JVM does not take the thread; or the body's, in words.
pub fn with_env<T>(
    vm: &JavaVM,
    body: impl FnOnce(&mut Env<'_>) -> errors::Result<T>,
) -> Result<T, String> {
    let env = begin(vm, |attached| Ok(attached.env))?;
    // SAFETY: this thread's. It stays attached until `end`.
    let result = unsafe { in_env(env, |env| env.with_local_frame(LOCALS, body)) };
    end(None);
    result
}

/// Runs a call's tasks in a frame of this thread, after `prepare` has put the first
/// into it. If something is thrown, the thread enters the JVM anew before it runs
/// anything else: nobody knows what state it is in.
///
/// # Errors
/// If the JVM does not take the thread; or the exception, and the task that the frame
/// was in.
///
/// # Safety
/// In a call of the runtime.
pub(crate) unsafe fn run(
    vm: &JavaVM,
    runtime: &JavaRuntime<'_>,
    first: &Request,
    prepare: impl FnOnce(&'static Frame),
) -> Result<(), (nbffi_task, String)> {
    let (env, frames) = begin(vm, |attached| Ok((attached.env, attached.frames()?)))
        .map_err(|why| (first.task, why))?;
    prepare(frames.ours);
    // SAFETY: this thread's, in a call.
    let thrown = unsafe { java::run(env, &frames.java, runtime, first.len()) };
    let mut result = Ok(());
    if thrown {
        let task = frames.ours.task();
        // SAFETY: this thread's, which is attached.
        let why = unsafe { in_env(env, |_| Err::<(), _>(errors::Error::JavaException)) };
        result = why.map_err(|why| (task, why));
        frames.ours.rest();
        renew_all();
    }
    end(Some(frames));
    result
}

/// Enters the JVM if need be, and one call deeper. The cell is not borrowed while
/// the call runs, which may lead back here.
fn begin<T>(
    vm: &JavaVM,
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
            none => none.insert(Attached::enter(vm)?),
        };
        let got = get(attached)?;
        attached.depth += 1;
        Ok(got)
    })
}

fn end(frames: Option<Frames>) {
    ATTACHED.with(|cell| {
        if let Some(attached) = &mut *cell.borrow_mut() {
            attached.depth -= 1;
            attached.idle.extend(frames);
        }
    });
}
