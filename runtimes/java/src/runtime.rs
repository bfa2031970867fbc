//! One runtime: the host's side of it, and Java's.

use std::time::Duration;

use jni::objects::{Global, JObjectArray, JString};
use jni::{Env, JavaVM, errors};
use nonblocking_ffi_plugin::sys::NBFFI_LOG_ERR;
use nonblocking_ffi_runtimes_common::entry;
use nonblocking_ffi_runtimes_common::host::{AtExit, Host, Request};
use nonblocking_ffi_runtimes_common::log::{Registration, log_for_any};
use nonblocking_ffi_runtimes_common::task;

use crate::config::Config;
use crate::frame::{self, CODE};
use crate::java::{self, Boot, JavaRuntime};
use crate::jvm;
use crate::thread::{self, with_env};

/// A class path, an entry and a configuration.
#[derive(Debug)]
pub struct Runtime {
    host: Host,
    vm: JavaVM,
    java: Global<JavaRuntime<'static>>,
    interrupts: bool,
    /// Java logs under its number.
    _log: Registration,
}

// SAFETY: the copy in a frame is used inside of a call, and that of the log is
// dropped with the runtime.
unsafe impl entry::Runtime for Runtime {
    fn open(host: Host) -> Result<Self, String> {
        let config = Config::parse(host.config())?;
        let vm = jvm::obtain(&config)?;
        host.at_exit(&ShutdownHooks)?;
        let log = Registration::new(host);
        let name = String::from_utf8_lossy(host.name());
        let opened = with_env(&vm, |env| {
            let given = strings(env, &name, &config)?;
            let id = log.id() as i64;
            let java = Boot::open(env, id, config.interrupt, config.virtual_threads, given)?;
            env.new_global_ref(java)
        });
        // What threads keep of a class path that failed must go as well.
        let java = opened.inspect_err(|_| thread::renew_all())?;
        let interrupts = config.interrupt;
        Ok(Self {
            host,
            vm,
            java,
            interrupts,
            _log: log,
        })
    }

    unsafe fn call(&self, request: Request) {
        if frame::refuses(&request) {
            return;
        }
        // SAFETY: in the call for this task, on this thread, which has the frame.
        let done = unsafe {
            thread::run(&self.vm, &self.java, &request, |frame| {
                frame.begin(self.host, self.interrupts, request);
            })
        };
        if let Err((task, why)) = done {
            // SAFETY: Java has given the task up.
            unsafe { task::fail(task, CODE, why.as_bytes()) };
        }
    }

    fn close(self) {
        let Self { vm, java, .. } = self;
        // Java catches and logs what goes wrong. If there is no memory to attach this
        // thread, the runtime stays as it is.
        let _ = with_env(&vm, |env| {
            let closed = Boot::close(env, &*java);
            drop(java);
            closed
        });
        // Values of its thread-locals would keep its classes.
        thread::renew_all();
    }
}

/// The strings that `Boot.open` takes.
fn strings<'local>(
    env: &mut Env<'local>,
    name: &str,
    config: &Config,
) -> errors::Result<JObjectArray<'local, JString<'local>>> {
    let mut all = vec![name, &config.entry, &config.config];
    all.extend(config.class_path.iter().map(String::as_str));
    let array = env.new_object_type_array::<JString>(all.len(), JString::null())?;
    for (index, text) in all.iter().enumerate() {
        let text = JString::from_str(env, text)?;
        array.set_element(env, index, &text)?;
        env.delete_local_ref(text);
    }
    Ok(array)
}

/// At the end of the process shutdown hooks run, on a thread of the host. The JVM
/// itself is not destroyed: threads go on running Java.
struct ShutdownHooks;

impl AtExit for ShutdownHooks {
    fn at_exit(&'static self, _left: Duration) {
        let vm = JavaVM::singleton().map_err(|error| error.to_string());
        if let Err(why) = vm.and_then(|vm| with_env(&vm, java::run_shutdown_hooks)) {
            log_for_any(NBFFI_LOG_ERR, &format!("at the end of the worker: {why}"));
        }
    }
}
