//! The two traits a plugin implements, and the macros that export them.

use crate::{Calls, Error, Host, OwnedTask, Response, Task};

/// A blocking plugin: `call` runs on a pool thread and returns the response.
///
/// One value is one runtime (one `load` in Lua, per worker); `call` is called
/// from several threads at a time.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// Prepares one runtime, on a pool thread. It may block.
    ///
    /// # Errors
    ///
    /// The error's message is what `load` returns in Lua.
    fn init(host: Host) -> Result<Self, Error>;

    /// Answers one request.
    ///
    /// A long-running call should ask [`Task::is_cancelled`] now and then, and
    /// give up if so; nobody sees what it returns then.
    ///
    /// # Errors
    ///
    /// Lua gets `nil, "runtime error: <message>", code, message`.
    fn call(&self, task: &Task<'_>, request: &[u8]) -> Result<Response, Error>;

    /// What a pool thread does here: it makes one call. For a plugin in which
    /// it costs something to enter (a lock to take, a thread to attach to some
    /// runtime) this can be done once for several calls that wait already:
    ///
    /// ```
    /// # use std::sync::Mutex;
    /// # use nonblocking_ffi_plugin::{Calls, Error, Host, Plugin, Response, Task};
    /// # struct Interpreter { lock: Mutex<()> }
    /// # impl Plugin for Interpreter {
    /// #   fn init(_: Host) -> Result<Self, Error> { Ok(Interpreter { lock: Mutex::default() }) }
    /// #   fn call(&self, _: &Task<'_>, _: &[u8]) -> Result<Response, Error> { Ok(().into()) }
    /// fn call_batch(&self, calls: Calls<'_, Self>) {
    ///     let _guard = self.lock.lock().unwrap();
    ///     calls.all();
    /// }
    /// # }
    /// ```
    fn call_batch(&self, calls: Calls<'_, Self>) {
        calls.one();
    }

    /// Ends the runtime, on a pool thread, after its last task. The default
    /// drops it. It is not called when a worker is killed.
    fn close(self) {}
}

/// An asynchronous plugin: `submit` accepts a task that is completed later,
/// from any thread.
///
/// One value is one runtime (one `load` in Lua, per worker); `submit` is called
/// from several threads at a time.
pub trait AsyncPlugin: Send + Sync + Sized + 'static {
    /// Prepares one runtime, on a pool thread: starts threads, connects. It may
    /// block.
    ///
    /// # Errors
    ///
    /// The error's message is what `load` returns in Lua.
    fn init(host: Host) -> Result<Self, Error>;

    /// Accepts one task: keeps it, sends it to another thread, or completes it.
    /// It should not block, because it occupies a pool thread.
    fn submit(&self, task: OwnedTask);

    /// Nobody waits any more for the task with this [`Task::id`], for which
    /// [`OwnedTask::watch`] was called. It may be completed at this moment.
    ///
    /// It runs on one thread of the host for all runtimes, so it should be short:
    /// it sends a message, or wakes a thread that may be waiting for something.
    fn cancelled(&self, task: u64) {
        let _ = task;
    }

    /// Ends the runtime, on a pool thread, after its last task: stops and joins
    /// the plugin's threads. The default drops it. It is not called when a
    /// worker is killed.
    fn close(self) {}
}

/// Exports a [`Plugin`] as `nbffi_plugin_entry`, or under another name, for
/// several plugins in one library: `export_plugin!(Type, other_entry)` is
/// loaded with `entry = "other_entry"`.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        $crate::export_plugin!($plugin, nbffi_plugin_entry);
    };
    ($plugin:ty, $entry:ident $(,)?) => {
        $crate::__export!(blocking, $plugin, $entry);
    };
}

/// Exports an [`AsyncPlugin`]; otherwise as [`export_plugin!`].
#[macro_export]
macro_rules! export_async_plugin {
    ($plugin:ty) => {
        $crate::export_async_plugin!($plugin, nbffi_plugin_entry);
    };
    ($plugin:ty, $entry:ident $(,)?) => {
        $crate::__export!(asynchronous, $plugin, $entry);
    };
}

/// Exports a [`TokioPlugin`](crate::TokioPlugin); otherwise as
/// [`export_plugin!`].
#[cfg(feature = "tokio")]
#[macro_export]
macro_rules! export_tokio_plugin {
    ($plugin:ty) => {
        $crate::export_tokio_plugin!($plugin, nbffi_plugin_entry);
    };
    ($plugin:ty, $entry:ident $(,)?) => {
        $crate::__export!(tokio, $plugin, $entry);
    };
}

/// The common part of the macros; not for direct use.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($kind:ident, $plugin:ty, $entry:ident) => {
        /// Entry function of the plugin. It returns the descriptor whatever
        /// the host's version is: the host compares, and names both.
        #[unsafe(no_mangle)]
        pub extern "C" fn $entry(_host_abi_version: u32) -> *const $crate::sys::nbffi_plugin {
            static DESCRIPTOR: $crate::sys::nbffi_plugin = $crate::__private::$kind::<$plugin>();
            &DESCRIPTOR
        }
    };
}
