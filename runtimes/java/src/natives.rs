//! The native methods of `Native.java`, and one of the JDK.
//!
//! The JVM calls them on any thread that runs Java. An error or a panic is thrown
//! there. What is called for every task is `raw` and does without that: it costs
//! 40 ns, as much as the rest of a call with 64 bytes. For the same reason requests
//! and responses that do not fit into a frame use JNI itself.

use std::ffi::c_void;
use std::panic::catch_unwind;
use std::ptr::null_mut;

use jni::objects::{JByteArray, JClass};
use jni::refs::{LoaderContext, Reference};
use jni::sys::{JNI_ABORT, JNIEnv, jboolean, jbyteArray, jclass, jint, jlong, jobject};
use jni::{Env, EnvUnowned, NativeMethod, bind_java_type, errors, jni_str};

use nonblocking_ffi_plugin::sys::NBFFI_NO_DEADLINE;
use nonblocking_ffi_runtimes_common::{log, task};

use crate::cancelled;
use crate::frame::{CODE, Frame};

/// What `next` returns if there is no task.
const NO_TASK: jlong = -1;

bind_java_type! {
    Native => io.github.nonblockingffi.runtime.Native,
    native_methods_export = false,
    native_methods {
        static raw fn next(frame: jlong, response: jlong) -> jlong,
        static fn fail(task: jlong, code: jlong, message: jbyte[]),
        static fn set_status(task: jlong, code: jlong, message: jbyte[]),
        static raw fn is_cancelled(task: jlong) -> jboolean,
        static fn is_unwanted(task: jlong) -> jboolean,
        static raw fn deadline(task: jlong) -> jlong,
        static fn log(runtime: jlong, level: jint, text: jbyte[], length: jint),
        static fn on_cancel(task: jlong),
        static fn await_cancelled() -> jlong,
        static fn claim(frame: jlong, task: jlong) -> jlong,
        static fn release(frame: jlong, epoch: jlong),
    },
}

bind_java_type! {
    ExitGuard => io.github.nonblockingffi.runtime.ExitGuard,
    methods { static fn refuse() },
}

bind_java_type! {
    Shutdown => java.lang.Shutdown,
    native_methods_export = false,
    native_methods { static fn before_halt() },
}

/// Gives the classes their methods.
///
/// # Errors
/// If there are no such classes or methods.
pub fn register(env: &mut Env<'_>, context: &LoaderContext<'_, '_>) -> errors::Result<()> {
    NativeAPI::get(env, context)?;
    ExitGuardAPI::get(env, context)?;
    ShutdownAPI::get(env, context)?;
    let native = Native::lookup_class(env, context)?;
    // SAFETY: the functions have these signatures, of static methods.
    unsafe {
        let method =
            |name, signature, function| NativeMethod::from_raw_parts(name, signature, function);
        let methods = [
            method(
                jni_str!("requestBytes"),
                jni_str!("(J)[B"),
                request_bytes as *mut c_void,
            ),
            method(
                jni_str!("requestBuffer"),
                jni_str!("(J)Ljava/nio/ByteBuffer;"),
                request_buffer as *mut c_void,
            ),
            method(
                jni_str!("respondArray"),
                jni_str!("(J[BII)V"),
                respond_array as *mut c_void,
            ),
            method(
                jni_str!("respondDirect"),
                jni_str!("(JJLjava/nio/ByteBuffer;II)V"),
                respond_direct as *mut c_void,
            ),
        ];
        env.register_native_methods(&*native, &methods)
    }
}

unsafe extern "system" fn request_bytes(env: *mut JNIEnv, _: jclass, frame: jlong) -> jbyteArray {
    // SAFETY: this thread's JNI. Java passes the frame of the thread, whose task has
    // not ended. The array has this length. If memory is out, that is thrown in Java.
    unsafe {
        let request = Frame::at(frame).request();
        let (data, len) = (request.as_ptr().cast(), request.len() as jint);
        let array = ((**env).v1_1.NewByteArray)(env, len);
        if !array.is_null() {
            ((**env).v1_1.SetByteArrayRegion)(env, array, 0, len, data);
        }
        array
    }
}

unsafe extern "system" fn request_buffer(env: *mut JNIEnv, _: jclass, frame: jlong) -> jobject {
    // SAFETY: as above. How long users may use the buffer is documented; it is
    // read-only to them.
    unsafe {
        let request = Frame::at(frame).request();
        let data = request.as_ptr().cast_mut().cast();
        ((**env).v1_4.NewDirectByteBuffer)(env, data, request.len() as jlong)
    }
}

unsafe extern "system" fn respond_array(
    env: *mut JNIEnv,
    _: jclass,
    task: jlong,
    array: jbyteArray,
    offset: jint,
    len: jint,
) {
    let (task, size) = (task as u64, len as u64);
    // SAFETY: this thread's JNI. Java passes a part of the array, and does not use the
    // request any more. `alloc` gives room for so many bytes.
    unsafe {
        if let Some(room) = task::alloc(task, size) {
            let room = room.as_ptr().cast();
            ((**env).v1_1.GetByteArrayRegion)(env, array, offset, len, room);
            task::respond_buffer(task, size);
            return;
        }
        // The response is too large, memory is out, or it is too late: `respond` fails
        // the task. Nothing else is called while the array is pinned.
        let pinned = ((**env).v1_2.GetPrimitiveArrayCritical)(env, array, null_mut());
        if pinned.is_null() {
            return task::fail(task, CODE, b"java.lang.OutOfMemoryError");
        }
        task::respond(task, pinned.cast::<u8>().add(offset as usize), size);
        ((**env).v1_2.ReleasePrimitiveArrayCritical)(env, array, pinned, JNI_ABORT);
    }
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
    let (task, size) = (task as u64, len as u64);
    // SAFETY: this thread's JNI. Java passes a part of a direct buffer, and the frame of
    // the thread, or 0. It does not use the request any more.
    unsafe {
        let start = ((**env).v1_4.GetDirectBufferAddress)(env, buffer).cast::<u8>();
        if start.is_null() && len != 0 {
            return task::fail(task, CODE, b"the buffer is not direct");
        }
        let mut data = start.wrapping_add(position as usize).cast_const();
        if frame != 0 {
            data = Frame::at(frame).in_request(data, size);
        }
        task::respond(task, data, size);
    }
}

impl NativeNativeInterface for NativeAPI {
    type Error = errors::Error;

    fn next<'local>(
        _: EnvUnowned<'local>,
        _: JClass<'local>,
        frame: jlong,
        response: jlong,
    ) -> jlong {
        // The frame's state is behind atomics.
        let next = catch_unwind(|| {
            // SAFETY: Java passes the frame of the thread that it is on, from inside
            // of a call. It has written so many bytes of a response.
            unsafe {
                let frame = Frame::at(frame);
                if response >= 0 {
                    frame.respond(response as u64);
                }
                frame.next().map(|request| request.len() as jlong)
            }
        });
        next.ok().flatten().unwrap_or(NO_TASK)
    }

    fn fail<'local>(
        env: &mut Env<'local>,
        _: JClass<'local>,
        task: jlong,
        code: jlong,
        message: JByteArray<'local>,
    ) -> errors::Result<()> {
        let message = env.convert_byte_array(message)?;
        // SAFETY: Java does not use the request any more.
        unsafe { task::fail(task as u64, code, &message) };
        Ok(())
    }

    fn set_status<'local>(
        env: &mut Env<'local>,
        _: JClass<'local>,
        task: jlong,
        code: jlong,
        message: JByteArray<'local>,
    ) -> errors::Result<()> {
        task::set_status(task as u64, code, &env.convert_byte_array(message)?);
        Ok(())
    }

    fn is_cancelled<'local>(_: EnvUnowned<'local>, _: JClass<'local>, task: jlong) -> jboolean {
        task::is_cancelled(task as u64)
    }

    fn is_unwanted<'local>(
        _: &mut Env<'local>,
        _: JClass<'local>,
        task: jlong,
    ) -> errors::Result<jboolean> {
        Ok(task::is_unwanted(task as u64))
    }

    fn deadline<'local>(_: EnvUnowned<'local>, _: JClass<'local>, task: jlong) -> jlong {
        // HotSpot's System.nanoTime is CLOCK_MONOTONIC, too.
        match task::deadline_ns(task as u64) {
            NBFFI_NO_DEADLINE => -1,
            deadline => deadline as jlong,
        }
    }

    fn log<'local>(
        env: &mut Env<'local>,
        _: JClass<'local>,
        runtime: jlong,
        level: jint,
        text: JByteArray<'local>,
        length: jint,
    ) -> errors::Result<()> {
        let mut bytes = env.convert_byte_array(text)?;
        bytes.truncate(length as usize);
        let text = String::from_utf8_lossy(&bytes);
        match runtime {
            0 => log::log_for_any(level, &text),
            // What a runtime says that is closed is dropped.
            runtime => drop(log::log(runtime as u64, level, &text)),
        }
        Ok(())
    }

    fn on_cancel<'local>(
        _: &mut Env<'local>,
        _: JClass<'local>,
        task: jlong,
    ) -> errors::Result<()> {
        cancelled::subscribe(task as u64);
        Ok(())
    }

    fn await_cancelled<'local>(_: &mut Env<'local>, _: JClass<'local>) -> errors::Result<jlong> {
        Ok(cancelled::wait() as jlong)
    }

    fn claim<'local>(
        _: &mut Env<'local>,
        _: JClass<'local>,
        frame: jlong,
        task: jlong,
    ) -> errors::Result<jlong> {
        // SAFETY: a frame's address.
        let claimed = unsafe { Frame::at(frame) }.claim(task as u64);
        Ok(claimed.unwrap_or(0) as jlong)
    }

    fn release<'local>(
        _: &mut Env<'local>,
        _: JClass<'local>,
        frame: jlong,
        epoch: jlong,
    ) -> errors::Result<()> {
        // SAFETY: a frame's address.
        unsafe { Frame::at(frame) }.release(epoch as u64);
        Ok(())
    }
}

impl ShutdownNativeInterface for ShutdownAPI {
    type Error = errors::Error;

    /// Throws what `refuse` throws.
    fn before_halt<'local>(env: &mut Env<'local>, _: JClass<'local>) -> errors::Result<()> {
        ExitGuard::refuse(env)
    }
}
