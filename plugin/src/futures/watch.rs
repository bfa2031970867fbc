//! Calls that nobody wants any more.
//!
//! The host does not tell when a caller gives up; it can be asked. A call asks
//! whenever it is polled, but a pending one is not. So pending calls are noted
//! here, and while there are any, they are looked at every [`TICK`]: whoever is
//! not wanted is woken, asks, and ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use ::tokio::sync::Notify;
use ::tokio::time::{MissedTickBehavior, interval};

use crate::task::Interest;

/// How often calls are looked at.
const TICK: Duration = Duration::from_millis(10);

/// The pending calls of one runtime.
#[derive(Default)]
pub struct Watch {
    pending: Mutex<Pending>,
    /// Told when there is the first one.
    some: Notify,
}

#[derive(Default)]
struct Pending {
    calls: Vec<Option<Call>>,
    /// Places in `calls` that are empty.
    free: Vec<usize>,
    /// Whether somebody looks.
    watched: bool,
}

struct Call {
    interest: Interest,
    waker: Waker,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call that is pending, until the result is dropped.
    ///
    /// # Safety
    ///
    /// It is dropped before the task is completed.
    pub unsafe fn note(self: &Arc<Self>, interest: Interest, waker: Waker) -> Note {
        let mut pending = self.lock();
        let call = Some(Call { interest, waker });
        let place = match pending.free.pop() {
            Some(place) => {
                pending.calls[place] = call;
                place
            }
            None => {
                pending.calls.push(call);
                pending.calls.len() - 1
            }
        };
        if !std::mem::replace(&mut pending.watched, true) {
            self.some.notify_one();
        }
        Note {
            watch: self.clone(),
            place,
        }
    }

    /// Looks at the calls that are pending, for ever.
    pub async fn look(&self) {
        loop {
            self.some.notified().await;
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first one is over at once.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                if !self.look_once() {
                    break;
                }
            }
        }
    }

    /// Wakes the calls that are not wanted. False if no call is pending.
    fn look_once(&self) -> bool {
        let mut pending = self.lock();
        for call in pending.calls.iter().flatten() {
            // SAFETY: a task is completed after its note has been dropped, and
            // that waits for the lock.
            if unsafe { call.interest.is_lost() } {
                call.waker.wake_by_ref();
            }
        }
        pending.watched = pending.calls.len() > pending.free.len();
        pending.watched
    }
}

/// That a call is noted.
pub struct Note {
    watch: Arc<Watch>,
    place: usize,
}

impl Drop for Note {
    fn drop(&mut self) {
        let mut pending = self.watch.lock();
        let call = pending.calls[self.place].take();
        pending.free.push(self.place);
        drop(pending);
        // A waker is other people's code: not under the lock.
        drop(call);
    }
}
