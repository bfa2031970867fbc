//! The Java half: its classes, which the shared object carries, and its methods
//! that are called from here (`Boot.java`, `Worker.java`).

use std::ffi::CStr;

use jni_sys::{jclass, jmethodID, jobject, jvalue};

use crate::env::{Env, Result, Thrown};
use crate::frame::Frame;
use crate::natives;

/// The class files, those that others extend before these.
static CLASSES: &[(&CStr, &[u8])] = include!(concat!(env!("OUT_DIR"), "/classes.rs"));

const BOOT: &CStr = c"io/github/nonblockingffi/host/Boot";
const NATIVE: &CStr = c"io/github/nonblockingffi/host/Native";
const RUNTIME: &CStr = c"io/github/nonblockingffi/host/JavaRuntime";
const WORKER: &CStr = c"io/github/nonblockingffi/host/Worker";
const EXIT_GUARD: &CStr = c"io/github/nonblockingffi/host/ExitGuard";
/// What `System.exit` and `Runtime.halt` call first, in all versions of the JDK.
const SHUTDOWN: &CStr = c"java/lang/Shutdown";

/// Whether there are classes: there was a JDK when this was compiled.
pub fn is_complete() -> bool {
    !CLASSES.is_empty()
}

/// The Java half, in a JVM.
#[derive(Debug)]
pub struct Java {
    boot: jclass,
    runtime: jclass,
    open: jmethodID,
    close: jmethodID,
    enter: jmethodID,
    leave: jmethodID,
    watch: jmethodID,
    run: jmethodID,
}

// SAFETY: global references and ids of methods, which are for all threads.
unsafe impl Send for Java {}
// SAFETY: as above.
unsafe impl Sync for Java {}

fn object(object: jobject) -> jvalue {
    jvalue { l: object }
}

fn number(number: i64) -> jvalue {
    jvalue { j: number }
}

impl Java {
    /// Brings the classes into a JVM that has just been made.
    ///
    /// # Errors
    /// What was thrown.
    pub fn start(env: Env) -> Result<Self> {
        let loader_class = env.find_class(c"java/lang/ClassLoader")?;
        let get = env.static_method(
            loader_class,
            c"getSystemClassLoader",
            c"()Ljava/lang/ClassLoader;",
        )?;
        // SAFETY: found in this class, without arguments.
        let loader = unsafe { env.call_static_object(loader_class, get, &[])? };

        let mut known = [
            (BOOT, None),
            (NATIVE, None),
            (RUNTIME, None),
            (WORKER, None),
            (EXIT_GUARD, None),
        ];
        for (name, bytes) in CLASSES {
            let class = env.define_class(name, loader, bytes)?;
            for (wanted, found) in &mut known {
                if wanted == name {
                    *found = Some(env.global(class));
                }
            }
            env.delete_local(class);
        }
        let [boot, native, runtime, worker, exit_guard] = known.map(|(_, found)| found);
        let missing = || Thrown("a class of the Java half is missing".to_owned());
        let boot = boot.ok_or_else(missing)?;
        env.register(native.ok_or_else(missing)?, &natives::table())?;
        let exit_guard = exit_guard.ok_or_else(missing)?;
        let refuse = env.static_method(exit_guard, c"refuse", c"()V")?;
        natives::refuse_exits_by(exit_guard, refuse);
        env.register(env.find_class(SHUTDOWN)?, &natives::shutdown_table())?;
        let java = Self {
            boot,
            runtime: runtime.ok_or_else(missing)?,
            open: env.static_method(boot, c"open", c"(J[[B)Ljava/lang/Object;")?,
            close: env.static_method(
                boot,
                c"close",
                c"(Lio/github/nonblockingffi/host/JavaRuntime;)V",
            )?,
            enter: env.static_method(
                boot,
                c"enter",
                c"(JLjava/nio/ByteBuffer;)Lio/github/nonblockingffi/host/Worker;",
            )?,
            leave: env.static_method(
                boot,
                c"leave",
                c"(Lio/github/nonblockingffi/host/Worker;)V",
            )?,
            watch: env.static_method(boot, c"watch", c"()V")?,
            run: env.method(
                worker.ok_or_else(missing)?,
                c"run",
                c"(Lio/github/nonblockingffi/host/JavaRuntime;J)V",
            )?,
        };
        let start = env.static_method(boot, c"start", c"()V")?;
        // SAFETY: found in this class, without arguments.
        unsafe { env.call_static_void(boot, start, &[])? };
        Ok(java)
    }

    /// Makes a runtime; a global reference to it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn open(
        &self,
        env: Env,
        id: u64,
        fields: &[&[u8]],
    ) -> std::result::Result<jobject, String> {
        let open = || {
            let fields = env.byte_arrays(fields.iter().copied())?;
            // SAFETY: `open` of `Boot`, with its arguments.
            let made = unsafe {
                let arguments = [number(id as i64), object(fields)];
                env.call_static_object(self.boot, self.open, &arguments)
            };
            env.delete_local(fields);
            made
        };
        let made = open().map_err(|Thrown(text)| text)?;
        let result = if env.is_instance(made, self.runtime) {
            Ok(env.global(made))
        } else {
            Err(String::from_utf8_lossy(&env.vec_of(made)).into_owned())
        };
        env.delete_local(made);
        result.and_then(|runtime| match runtime.is_null() {
            true => Err("out of memory".to_owned()),
            false => Ok(runtime),
        })
    }

    /// Closes a runtime, and deletes the reference to it.
    pub fn close(&self, env: Env, runtime: jobject) {
        // SAFETY: `close` of `Boot`, with its argument. It catches and logs what
        // goes wrong.
        let _ = unsafe { env.call_static_void(self.boot, self.close, &[object(runtime)]) };
        env.delete_global(runtime);
    }

    /// Makes the calling thread a worker; a global reference to that.
    ///
    /// # Errors
    /// What was thrown.
    pub fn enter(&self, env: Env, frame: &'static Frame) -> Result<jobject> {
        let address = frame.memory();
        let memory = env.direct_buffer(address, size_of::<Frame>())?;
        // SAFETY: `enter` of `Boot`, with its arguments.
        let worker = unsafe {
            let arguments = [number(address as i64), object(memory)];
            env.call_static_object(self.boot, self.enter, &arguments)
        };
        env.delete_local(memory);
        let worker = worker?;
        let global = env.global(worker);
        env.delete_local(worker);
        match global.is_null() {
            true => Err(Thrown("out of memory".to_owned())),
            false => Ok(global),
        }
    }

    /// Ends that, and deletes the reference.
    pub fn leave(&self, env: Env, worker: jobject) {
        // SAFETY: `leave` of `Boot`, with its argument. It only takes the worker
        // from a list; if there is no memory even for that, it stays there.
        let _ = unsafe { env.call_static_void(self.boot, self.leave, &[object(worker)]) };
        env.delete_global(worker);
    }

    /// Runs the task of a worker's frame, and those behind it.
    ///
    /// # Errors
    /// What was thrown: not by the task, that ends with it.
    pub fn run(&self, env: Env, worker: jobject, runtime: jobject, len: u64) -> Result<()> {
        // SAFETY: `run` of `Worker`, with its arguments.
        unsafe { env.call_void(worker, self.run, &[object(runtime), number(len as i64)]) }
    }

    /// Watches until the process ends.
    pub fn watch(&self, env: Env) {
        // SAFETY: `watch` of `Boot`, without arguments. It does not return; if
        // it did, nothing would be interrupted any more.
        let _ = unsafe { env.call_static_void(self.boot, self.watch, &[]) };
    }

    /// Runs what is to run when the process ends: shutdown hooks, as the JVM does
    /// itself when its last thread has ended. The JVM is still there afterwards.
    ///
    /// # Errors
    /// What was thrown: not by a hook.
    pub fn end(&self, env: Env) -> Result<()> {
        let shutdown = env.find_class(SHUTDOWN)?;
        let method = env.static_method(shutdown, c"shutdown", c"()V")?;
        // SAFETY: found in this class, without arguments.
        unsafe { env.call_static_void(shutdown, method, &[]) }
    }
}
