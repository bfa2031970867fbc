//! The Java half: its classes, which the shared object carries, and its methods
//! that are called from here.

use std::sync::OnceLock;

use jni::objects::{JClassLoader, JMethodID, JString};
use jni::refs::{LoaderContext, Reference};
use jni::strings::JNIStr;
use jni::sys::{JNIEnv, jvalue};
use jni::{Env, bind_java_type, errors, jni_sig, jni_str};

use crate::natives;

/// The class files, those that others extend before these.
static CLASSES: &[(&JNIStr, &[u8])] = include!(concat!(env!("OUT_DIR"), "/classes.rs"));

bind_java_type! {
    pub JavaRuntime => io.github.nonblockingffi.runtime.JavaRuntime,
}

bind_java_type! {
    pub JavaFrame => io.github.nonblockingffi.runtime.Frame,
}

/// `Frame.run`. The class is never unloaded.
static RUN: OnceLock<JMethodID> = OnceLock::new();

/// Runs the task in a frame, whose request has this length, and those behind it.
/// Returns whether something was thrown, which is pending then. It uses JNI itself:
/// what the crate's checks cost is a third of a call.
///
/// # Safety
/// `env` is that of the calling thread, which has the frame, in a call of the runtime.
pub unsafe fn run(
    env: *mut JNIEnv,
    frame: &JavaFrame<'_>,
    runtime: &JavaRuntime<'_>,
    length: u64,
) -> bool {
    let Some(run) = RUN.get() else {
        return false;
    };
    let (runtime, length) = (runtime.as_raw(), length as i64);
    let arguments = [jvalue { l: runtime }, jvalue { j: length }];
    // SAFETY: by the contract; a method of this class, with its arguments.
    unsafe {
        let (frame, run) = (frame.as_raw(), run.into_raw());
        ((**env).v1_1.CallVoidMethodA)(env, frame, run, arguments.as_ptr());
        ((**env).v1_2.ExceptionCheck)(env)
    }
}

bind_java_type! {
    pub Boot => io.github.nonblockingffi.runtime.Boot,
    type_map = {
        JavaFrame => io.github.nonblockingffi.runtime.Frame,
        JavaRuntime => io.github.nonblockingffi.runtime.JavaRuntime,
    },
    methods {
        static fn start(),
        static fn cancel_forever(),
        static fn open(
            id: jlong,
            interrupts: jboolean,
            virtual_threads: jboolean,
            given: JString[],
        ) -> JavaRuntime,
        static fn close(runtime: JavaRuntime),
        static fn enter(address: jlong, memory: JByteBuffer) -> JavaFrame,
        static fn leave(frame: JavaFrame),
    },
}

/// Whether there are classes: there was a JDK when this was compiled.
pub fn is_complete() -> bool {
    !CLASSES.is_empty()
}

/// Brings the classes into a JVM that has just been made.
///
/// # Errors
/// See [`describe`].
pub fn start(env: &mut Env<'_>) -> errors::Result<()> {
    let loader = JClassLoader::get_system_class_loader(env)?;
    for (name, bytes) in CLASSES {
        let class = env.define_class(Some(name), &loader, bytes)?;
        env.delete_local_ref(class);
    }
    // Looked up now, since later there may be no memory for it, or a caller with
    // another class loader.
    let context = LoaderContext::Loader(&loader);
    natives::register(env, &context)?;
    BootAPI::get(env, &context)?;
    let frame = JavaFrame::lookup_class(env, &context)?;
    let signature = jni_sig!("(Lio/github/nonblockingffi/runtime/JavaRuntime;J)V");
    let run = env.get_method_id(&*frame, jni_str!("run"), signature)?;
    RUN.get_or_init(|| run);
    Boot::start(env)
}

/// Runs the shutdown hooks, as the JVM itself does when its last thread has ended.
/// The JVM is still there afterwards.
///
/// # Errors
/// See [`describe`]; not of a hook.
pub fn run_shutdown_hooks(env: &mut Env<'_>) -> errors::Result<()> {
    let shutdown = env.find_class(jni_str!("java/lang/Shutdown"))?;
    let (name, signature) = (jni_str!("shutdown"), jni_sig!(()));
    env.call_static_method(shutdown, name, signature, &[])
        .map(drop)
}

/// An error in words: the exception that is pending, as its `toString` has it. None
/// is pending afterwards.
pub fn describe(env: &mut Env<'_>, error: &errors::Error) -> String {
    let Some(thrown) = env.exception_occurred() else {
        return error.to_string();
    };
    env.exception_clear();
    let text = env
        .call_method(&thrown, jni_str!("toString"), jni_sig!(() -> JString), &[])
        .and_then(|text| env.cast_local::<JString>(text.l()?)?.try_to_string(env));
    env.exception_clear();
    text.unwrap_or_else(|_| "an exception that cannot be described".to_owned())
}
