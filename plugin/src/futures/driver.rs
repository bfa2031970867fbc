//! The thread that drives a runtime, from `init` to `close`.
//!
//! Pool threads send it tasks; it spawns a future for each. Sending wakes it
//! only if it is asleep, where spawning from outside would wake it each time.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ::tokio::runtime::Runtime;
use ::tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::call::Pending;
use super::{TokioPlugin, call};
use crate::{AsyncPlugin, Error, Host, OwnedTask};

/// So many tasks are taken at a time.
const BATCH: usize = 64;
/// How long `close` waits for blocking work that was spawned.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// Linux cuts a thread's name after this many bytes.
const NAME_BYTES: usize = 15;

/// Makes an [`AsyncPlugin`] of a [`TokioPlugin`].
pub struct Driver<P> {
    tasks: UnboundedSender<OwnedTask>,
    pending: Arc<Pending>,
    thread: JoinHandle<()>,
    plugin: std::marker::PhantomData<fn() -> P>,
}

impl<P: TokioPlugin> AsyncPlugin for Driver<P> {
    fn init(host: Host) -> Result<Self, Error> {
        let (tasks, inbox) = unbounded_channel();
        let pending = Arc::<Pending>::default();
        let its_pending = pending.clone();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(thread_name(host.name()))
            .spawn(move || drive::<P>(host, inbox, its_pending, &ready))?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Driver {
                tasks,
                pending,
                thread,
                plugin: std::marker::PhantomData,
            }),
            Ok(Err(error)) => {
                // It ends now, and has nothing to say any more.
                let _ = thread.join();
                Err(error)
            }
            // It is gone without a word: it has panicked.
            Err(_) => Err(thread
                .join()
                .err()
                .map_or_else(|| Error::msg("the thread ended"), Error::from_panic)),
        }
    }

    fn submit(&self, task: OwnedTask) {
        // If the thread is gone the task is dropped, and so fails.
        let _ = self.tasks.send(task);
    }

    fn cancelled(&self, task: u64) {
        self.pending.wake(task);
    }

    fn close(self) {
        drop(self.tasks);
        if let Err(payload) = self.thread.join() {
            // The caller's to report.
            std::panic::resume_unwind(payload);
        }
    }
}

/// `tokio/<name>`, cut so that it fits.
fn thread_name(name: &str) -> String {
    let mut text: String = format!("tokio/{name}").replace('\0', "");
    let mut end = text.len().min(NAME_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The life of the thread.
fn drive<P: TokioPlugin>(
    host: Host,
    inbox: UnboundedReceiver<OwnedTask>,
    pending: Arc<Pending>,
    ready: &mpsc::SyncSender<Result<(), Error>>,
) {
    let mut builder = P::runtime(&host);
    builder.enable_all();
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::from(error).context("cannot make a tokio runtime");
            let _ = ready.send(Err(error));
            return;
        }
    };
    match runtime.block_on(P::init(host)) {
        Ok(plugin) => {
            let _ = ready.send(Ok(()));
            serve(&runtime, plugin, inbox, pending);
        }
        Err(error) => {
            // Before the answer: `load` has failed when nothing is left of it.
            runtime.shutdown_timeout(SHUTDOWN);
            let _ = ready.send(Err(error));
            return;
        }
    }
    runtime.shutdown_timeout(SHUTDOWN);
}

/// Runs calls until there will be no more, and closes the plugin.
fn serve<P: TokioPlugin>(
    runtime: &Runtime,
    plugin: P,
    mut inbox: UnboundedReceiver<OwnedTask>,
    pending: Arc<Pending>,
) {
    runtime.block_on(async {
        let mut plugin = Arc::new(plugin);
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for task in batch.drain(..) {
                ::tokio::spawn(call::run(plugin.clone(), task, pending.clone()));
            }
        }
        // All tasks are completed, so all calls have let go of it, or do so at
        // this moment in another thread.
        let plugin = loop {
            match Arc::try_unwrap(plugin) {
                Ok(plugin) => break plugin,
                Err(shared) => plugin = shared,
            }
            ::tokio::task::yield_now().await;
        };
        plugin.close().await;
    });
}
