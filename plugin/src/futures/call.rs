//! One call: its future, its panics, its end.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::TokioPlugin;
use super::watch::Watch;
use crate::{Error, OwnedTask, Response};

/// Runs a call and completes its task.
pub async fn run<P: TokioPlugin>(plugin: Arc<P>, task: OwnedTask, watch: Arc<Watch>) {
    let result = answer(&*plugin, &task, &watch).await;
    // The runtime may be closed as soon as the task is completed: nothing of
    // it is kept that long.
    drop((plugin, watch));
    task.complete(result);
}

async fn answer<P: TokioPlugin>(
    plugin: &P,
    task: &OwnedTask,
    watch: &Arc<Watch>,
) -> Result<Response, Error> {
    let interest = task.interest();
    let mut call = pin!(plugin.call(task, task.request()));
    let mut note = None;
    poll_fn(|context| {
        // SAFETY: the task is completed when this future is over.
        if unsafe { interest.is_lost() } {
            return Poll::Ready(Err(Error::new(Error::CANCELLED, "cancelled")));
        }
        let polled = poll(call.as_mut(), context);
        if polled.is_pending() && note.is_none() {
            // A task's waker stays the same.
            let waker = context.waker().clone();
            // SAFETY: the task is completed when this future is over.
            note = Some(unsafe { watch.note(interest, waker) });
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
