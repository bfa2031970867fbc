//! One call: its future, its panics, its end; and who wakes it when nobody waits for
//! its result.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::TokioPlugin;
use crate::{Error, OwnedTask, Response};

/// The calls that wait for something, by the handles of their tasks.
#[derive(Default)]
pub struct Pending(Mutex<HashMap<u64, Waker>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the call of a task that nobody waits for: it asks, and ends.
    pub fn wake(&self, task: u64) {
        // A waker is other people's code: not under the lock.
        let waker = self.lock().get(&task).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// That a call is pending.
struct Note<'a> {
    pending: &'a Pending,
    task: u64,
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        let waker = self.pending.lock().remove(&self.task);
        drop(waker);
    }
}

/// Runs a call and completes its task.
pub async fn run<P: TokioPlugin>(plugin: Arc<P>, task: OwnedTask, pending: Arc<Pending>) {
    let result = answer(&*plugin, &task, &pending).await;
    // The runtime may be closed as soon as the task is completed: nothing of
    // it is kept that long.
    drop((plugin, pending));
    task.complete(result);
}

async fn answer<P: TokioPlugin>(
    plugin: &P,
    task: &OwnedTask,
    pending: &Pending,
) -> Result<Response, Error> {
    let mut call = pin!(plugin.call(task, task.request()));
    let mut note = None;
    poll_fn(|context| {
        if task.is_cancelled() {
            return Poll::Ready(Err(Error::new(Error::CANCELLED, "cancelled")));
        }
        let polled = poll(call.as_mut(), context);
        if polled.is_pending() && note.is_none() {
            let task_id = task.id();
            // A task's waker stays the same.
            pending.lock().insert(task_id, context.waker().clone());
            note = Some(Note {
                pending,
                task: task_id,
            });
            // Without memory for it, a cancelled call ends when it is polled next.
            let _ = task.watch();
        }
        polled
    })
    .await
}

/// Polls a future; a panic ends it with an error. It must not be polled then.
fn poll(
    future: std::pin::Pin<&mut impl Future<Output = Result<Response, Error>>>,
    context: &mut Context<'_>,
) -> Poll<Result<Response, Error>> {
    // Unwind safety: the future is dropped, and what it shares with others is
    // the plugin's to keep in order, as with any call.
    catch_unwind(AssertUnwindSafe(|| future.poll(context)))
        .unwrap_or_else(|payload| Poll::Ready(Err(Error::from_panic(payload))))
}
