//! The native methods of `Native.java`.
//!
//! Each is called by the JVM, on any thread that runs Java, and must not unwind.
//! None blocks.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::OnceLock;

use jni_sys::{
    JNIEnv, JNINativeMethod, jboolean, jbyteArray, jclass, jint, jlong, jmethodID, jobject,
};
use nonblocking_ffi_plugin::sys;

use crate::env::{Env, native};
use crate::frame::Frame;
use crate::runtime;

/// The code of what has none of its own.
const CODE: i64 = 1;
/// What `next` returns if there is no task.
const NO_TASK: jlong = -1;
/// What an array can have; a bit less than the largest number of 31 bits.
const LONGEST_ARRAY: u64 = i32::MAX as u64 - 8;

/// The host's functions for tasks. They are the host's code, the same for all
/// runtimes, and may be asked about tasks that are long gone, even when the
/// table of the runtime is.
#[derive(Debug, Clone, Copy)]
struct TaskFunctions {
    deadline_ns: unsafe extern "C" fn(u64) -> u64,
    is_cancelled: unsafe extern "C" fn(u64) -> i32,
    alloc: unsafe extern "C" fn(u64, u64) -> *mut c_void,
    respond_buffer: unsafe extern "C" fn(u64, u64) -> i32,
    respond: unsafe extern "C" fn(u64, *const c_void, u64) -> i32,
    fail: unsafe extern "C" fn(u64, i64, *const std::ffi::c_char, u64) -> i32,
    set_status: unsafe extern "C" fn(u64, i64, *const std::ffi::c_char, u64) -> i32,
}

static FUNCTIONS: OnceLock<TaskFunctions> = OnceLock::new();

/// Notes the host's functions.
pub fn use_host(host: &sys::nbffi_host) {
    FUNCTIONS.get_or_init(|| TaskFunctions {
        deadline_ns: host.deadline_ns,
        is_cancelled: host.is_cancelled,
        alloc: host.alloc,
        respond_buffer: host.respond_buffer,
        respond: host.respond,
        fail: host.fail,
        set_status: host.set_status,
    });
}

/// Runs the body of a native method; a panic becomes `otherwise`.
fn guard<T>(otherwise: T, body: impl FnOnce(&TaskFunctions) -> T) -> T {
    let Some(functions) = FUNCTIONS.get() else {
        return otherwise;
    };
    // Unwind safety: what a body changes is behind atomics or locks.
    catch_unwind(AssertUnwindSafe(|| body(functions))).unwrap_or(otherwise)
}

/// Fails a task.
fn fail(functions: &TaskFunctions, task: u64, message: &str) {
    // SAFETY: the message is readable. A task that has ended is none of ours.
    unsafe { (functions.fail)(task, CODE, message.as_ptr().cast(), message.len() as u64) };
}

unsafe extern "system" fn next(_: *mut JNIEnv, _: jclass, frame: jlong, response: jlong) -> jlong {
    guard(NO_TASK, |functions| {
        // SAFETY: Java hands back the frame of the thread it is on, from inside
        // of a call of the frame's runtime.
        unsafe {
            let frame = Frame::at(frame);
            let runtime = frame.runtime();
            if response >= 0 {
                frame.respond(runtime.host(), response as u64);
            }
            while let Some((task, request, len)) = runtime.next() {
                if len > LONGEST_ARRAY {
                    refuse_length(functions, task, len);
                    continue;
                }
                frame.turn(task, request, len);
                return len as jlong;
            }
            frame.rest();
            NO_TASK
        }
    })
}

/// Fails a task whose request no Java method could take.
fn refuse_length(functions: &TaskFunctions, task: u64, len: u64) {
    let message = format!("the request has {len} bytes, which is more than Java's arrays can have");
    fail(functions, task, &message);
}

/// The same for the first task of a call; true if it was refused.
pub fn refuses(task: u64, len: u64) -> bool {
    if len > LONGEST_ARRAY {
        guard((), |functions| refuse_length(functions, task, len));
    }
    len > LONGEST_ARRAY
}

/// Fails a task that went wrong on this side.
pub fn fail_task(task: u64, message: &str) {
    guard((), |functions| fail(functions, task, message));
}

unsafe extern "system" fn request_bytes(env: *mut JNIEnv, _: jclass, frame: jlong) -> jbyteArray {
    guard(null_mut(), |_| {
        // SAFETY: Java's own env, and the frame of the thread it is on, whose
        // task is pending; the request is readable until it is not.
        unsafe {
            let (data, len) = Frame::at(frame).request();
            let request = std::slice::from_raw_parts(data, len as usize);
            Env::new(env).bytes_or_pending(request)
        }
    })
}

unsafe extern "system" fn request_buffer(env: *mut JNIEnv, _: jclass, frame: jlong) -> jobject {
    guard(null_mut(), |_| {
        // SAFETY: as for `request_bytes`.
        unsafe {
            let (data, len) = Frame::at(frame).request();
            Env::new(env).direct_buffer_or_pending(data.cast_mut().cast(), len as usize)
        }
    })
}

unsafe extern "system" fn respond_array(
    env: *mut JNIEnv,
    _: jclass,
    task: jlong,
    array: jbyteArray,
    offset: jint,
    len: jint,
) {
    guard((), |functions| {
        let (task, size) = (task as u64, len as u64);
        // SAFETY: Java's own env; it passes a part of the array. `alloc` gives
        // room for so many bytes or null.
        unsafe {
            let env = Env::new(env);
            let room = (functions.alloc)(task, size);
            if room.is_null() {
                // Too large, or out of memory, or too late: `respond` ends it.
                let end = |data: *const u8| {
                    (functions.respond)(task, data.add(offset as usize).cast(), size)
                };
                if env.with_array(array, end).is_none() {
                    fail(functions, task, "java.lang.OutOfMemoryError");
                }
                return;
            }
            env.copy_bytes(array, offset, len, room.cast());
            (functions.respond_buffer)(task, size);
        }
    });
}

unsafe extern "system" fn respond_direct(
    env: *mut JNIEnv,
    _: jclass,
    frame: jlong,
    task: jlong,
    buffer: jobject,
    position: jint,
    len: jint,
) {
    guard((), |functions| {
        let (task, size) = (task as u64, len as u64);
        // SAFETY: Java's own env; it passes a direct buffer and a part of it,
        // and the frame of the thread it is on, or 0.
        unsafe {
            let mut data = Env::new(env).direct_address(buffer).cast_const();
            if data.is_null() && len != 0 {
                return fail(functions, task, "the buffer is not direct");
            }
            data = data.wrapping_add(position as usize);
            if frame != 0 {
                data = Frame::at(frame).in_request(data, size);
            }
            (functions.respond)(task, data.cast(), size);
        }
    });
}

unsafe extern "system" fn fail_with(
    env: *mut JNIEnv,
    _: jclass,
    task: jlong,
    code: jlong,
    message: jbyteArray,
) {
    guard((), |functions| {
        // SAFETY: Java's own env and array; the copy is readable.
        unsafe {
            let message = Env::new(env).vec_of(message);
            let (data, len) = (message.as_ptr().cast(), message.len() as u64);
            (functions.fail)(task as u64, code, data, len);
        }
    });
}

unsafe extern "system" fn set_status(
    env: *mut JNIEnv,
    _: jclass,
    task: jlong,
    code: jlong,
    message: jbyteArray,
) {
    guard((), |functions| {
        // SAFETY: as for `fail_with`.
        unsafe {
            let message = Env::new(env).vec_of(message);
            let (data, len) = (message.as_ptr().cast(), message.len() as u64);
            (functions.set_status)(task as u64, code, data, len);
        }
    });
}

unsafe extern "system" fn is_cancelled(_: *mut JNIEnv, _: jclass, task: jlong) -> jboolean {
    // SAFETY: any task may be asked about.
    guard(true, |functions| unsafe {
        (functions.is_cancelled)(task as u64) != 0
    })
}

unsafe extern "system" fn deadline(_: *mut JNIEnv, _: jclass, task: jlong) -> jlong {
    guard(0, |functions| {
        // SAFETY: any task may be asked about.
        let deadline = unsafe { (functions.deadline_ns)(task as u64) };
        // HotSpot's System.nanoTime is CLOCK_MONOTONIC, too.
        match deadline {
            sys::NBFFI_NO_DEADLINE => -1,
            deadline => deadline as jlong,
        }
    })
}

unsafe extern "system" fn log(
    env: *mut JNIEnv,
    _: jclass,
    id: jlong,
    level: jint,
    line: jbyteArray,
    len: jint,
) {
    guard((), |_| {
        let mut text = vec![0; len as usize];
        // SAFETY: Java's own env; the array has so many bytes.
        unsafe { Env::new(env).copy_bytes(line, 0, len, text.as_mut_ptr()) };
        runtime::log(id as u64, level, &text);
    });
}

unsafe extern "system" fn turn(_: *mut JNIEnv, _: jclass, frame: jlong) -> jlong {
    // SAFETY: a frame's address.
    unsafe { Frame::at(frame) }.number() as jlong
}

unsafe extern "system" fn claim(_: *mut JNIEnv, _: jclass, frame: jlong, turn: jlong) -> jboolean {
    guard(false, |functions| {
        // SAFETY: a frame's address.
        let frame = unsafe { Frame::at(frame) };
        is_over(functions, frame.task()) && frame.claim(turn as u64)
    })
}

/// Whether nobody waits for a task any more.
fn is_over(functions: &TaskFunctions, task: u64) -> bool {
    // SAFETY: any task may be asked about; the clock has room to write to.
    unsafe {
        if (functions.is_cancelled)(task) != 0 {
            return true;
        }
        let mut now = std::mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        (functions.deadline_ns)(task) <= now
    }
}

unsafe extern "system" fn release(_: *mut JNIEnv, _: jclass, frame: jlong, turn: jlong) {
    // SAFETY: a frame's address.
    unsafe { Frame::at(frame) }.release(turn as u64);
}

/// For `RegisterNatives`.
pub fn table() -> Vec<JNINativeMethod> {
    vec![
        native(c"next", c"(JJ)J", next as *mut c_void),
        native(c"requestBytes", c"(J)[B", request_bytes as *mut c_void),
        native(
            c"requestBuffer",
            c"(J)Ljava/nio/ByteBuffer;",
            request_buffer as *mut c_void,
        ),
        native(c"respondArray", c"(J[BII)V", respond_array as *mut c_void),
        native(
            c"respondDirect",
            c"(JJLjava/nio/ByteBuffer;II)V",
            respond_direct as *mut c_void,
        ),
        native(c"fail", c"(JJ[B)V", fail_with as *mut c_void),
        native(c"setStatus", c"(JJ[B)V", set_status as *mut c_void),
        native(c"isCancelled", c"(J)Z", is_cancelled as *mut c_void),
        native(c"deadline", c"(J)J", deadline as *mut c_void),
        native(c"log", c"(JI[BI)V", log as *mut c_void),
        native(c"turn", c"(J)J", turn as *mut c_void),
        native(c"claim", c"(JJ)Z", claim as *mut c_void),
        native(c"release", c"(JJ)V", release as *mut c_void),
    ]
}

/// `ExitGuard` and its method `refuse`.
static REFUSE: OnceLock<(usize, usize)> = OnceLock::new();

/// Notes what is called instead of ending the process: a global reference, and a
/// static method of it without arguments or result.
pub fn refuse_exits_by(class: jclass, method: jmethodID) {
    REFUSE.get_or_init(|| (class as usize, method as usize));
}

/// `java.lang.Shutdown.beforeHalt`. What `refuse` throws is thrown by this.
unsafe extern "system" fn before_halt(env: *mut JNIEnv, _: jclass) {
    if let Some(&(class, method)) = REFUSE.get() {
        // SAFETY: JNI of this thread; a class and a method of it, without arguments.
        unsafe {
            let call = (**env).v1_4.CallStaticVoidMethodA;
            call(env, class as jclass, method as jmethodID, std::ptr::null());
        }
    }
}

/// The methods of `java.lang.Shutdown` that are ours.
pub fn shutdown_table() -> Vec<JNINativeMethod> {
    vec![native(c"beforeHalt", c"()V", before_halt as *mut c_void)]
}
