//! Plugins whose calls are futures, on a tokio runtime of their own.
//!
//! | file     | role |
//! |----------|------|
//! | `mod.rs` | the trait |
//! | `driver` | the thread that drives a runtime, from `init` to `close` |
//! | `call`   | one call: its future, its panics, its end |

mod call;
mod driver;

use std::future::Future;

use ::tokio::runtime::Builder;

use crate::{Error, Host, Response, Task};

pub use driver::Driver;

/// A plugin whose calls are futures. Thousands of them can be pending at a
/// time; they share what the plugin keeps, a connection for instance.
///
/// One value is one runtime (one `load` in Lua, per worker), which has a tokio
/// runtime of its own. Write its functions as `async fn`:
///
/// ```
/// use nonblocking_ffi_plugin::{export_tokio_plugin, Error, Host, Response, Task, TokioPlugin};
/// use std::time::Duration;
///
/// struct Sleepy;
///
/// impl TokioPlugin for Sleepy {
///     async fn init(_host: Host) -> Result<Self, Error> {
///         Ok(Sleepy)
///     }
///
///     async fn call(&self, _task: &Task<'_>, request: &[u8]) -> Result<Response, Error> {
///         let ms = std::str::from_utf8(request)?.parse()?;
///         tokio::time::sleep(Duration::from_millis(ms)).await;
///         Ok("slept well".into())
///     }
/// }
///
/// export_tokio_plugin!(Sleepy);
/// ```
pub trait TokioPlugin: Send + Sync + Sized + 'static {
    /// How the tokio runtime is made. All of them have time and, if the plugin
    /// has that feature of tokio, I/O enabled.
    ///
    /// The default has one thread, which is right for most clients: each worker
    /// of nginx has its own. For futures that also compute there is
    /// `tokio::runtime::Builder::new_multi_thread()`.
    fn runtime(host: &Host) -> Builder {
        let _ = host;
        Builder::new_current_thread()
    }

    /// Prepares one runtime: connects, spawns tasks. They live until `close`.
    ///
    /// # Errors
    ///
    /// The error's message is what `load` returns in Lua.
    fn init(host: Host) -> impl Future<Output = Result<Self, Error>>;

    /// Answers one request.
    ///
    /// The future is dropped, at an await, as soon as the caller has timed out or
    /// cancelled, or the deadline has passed. What it must do nevertheless belongs
    /// into a task that it spawns.
    ///
    /// # Errors
    ///
    /// Lua gets `nil, "runtime error: <message>", code, message`. A panic is an
    /// error as well.
    fn call(
        &self,
        task: &Task<'_>,
        request: &[u8],
    ) -> impl Future<Output = Result<Response, Error>> + Send;

    /// Ends the runtime, after its last call. Tasks that were spawned and still
    /// run are dropped when it has returned. It is not called when a worker is
    /// killed.
    fn close(self) -> impl Future<Output = ()> {
        async {}
    }
}
