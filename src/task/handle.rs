//! Names of tasks: [`Handle`] for one that any thread may hold, however long, and
//! [`Running`] for one that the calling thread has claimed.

use super::{Failure, Kind, Slot, Task, arena};
use crate::error::Error;
use crate::task::reply::{Reply, Watch};
use crate::task::state::{Stale, Watched};

/// Names one task: a slot and its generation. Once the task is gone, every step
/// fails.
#[derive(Clone, Copy)]
pub struct Handle {
    slot: &'static Slot,
    generation: u32,
}

impl Handle {
    /// The task that a slot holds, or will hold next.
    pub(super) fn of(slot: &'static Slot) -> Self {
        Self {
            slot,
            generation: slot.state.generation(),
        }
    }

    /// The task of a number that a plugin has; `None` if there is no such slot.
    #[inline]
    pub fn from_number(number: u64) -> Option<Self> {
        Some(Self {
            slot: arena::get(number as u32)?,
            generation: (number >> 32) as u32,
        })
    }

    /// The number by which plugins name the task. Never 0.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot.index)
    }

    /// Its slot, which may be another task's by now, and its generation.
    pub(crate) fn parts(self) -> (&'static Slot, u32) {
        (self.slot, self.generation)
    }

    /// Whether nobody wants the task's result any more.
    pub fn is_unwanted(self) -> bool {
        self.slot.state.is_unwanted(self.generation)
    }

    /// Completes a running task. `check` says whether that can be done; if it
    /// fails, the task stays as it was. Then `write` fills the reply; if it
    /// fails, the task ends with that error.
    pub fn complete(
        self,
        check: impl FnOnce(&Task, &mut Reply) -> Result<(), Failure>,
        write: impl FnOnce(&Task, &mut Reply) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        self.slot
            .state
            .edit(self.generation)
            .map_err(|Stale| Failure::Stale)?;
        // SAFETY: the edit began, so the task was claimed and this thread alone may
        // write the reply.
        let (task, reply) = unsafe { (self.slot.task(), self.slot.reply()) };
        if let Err(failure) = check(task, reply) {
            self.slot.state.end_edit();
            return Err(failure);
        }
        self.slot.state.promote();
        let written = write(task, reply);
        if let Err(error) = written {
            reply.fail(error, 0, b"");
        }
        self.slot.deliver(task, reply);
        written.map_err(Failure::Ended)
    }

    /// Completes a running task whose plugin has no say in it.
    pub fn end(self, write: impl FnOnce(&mut Reply)) {
        // Fails if the plugin has completed it, which is fine.
        let _ = self.complete(
            |_, _| Ok(()),
            |_, reply| {
                write(reply);
                Ok(())
            },
        );
    }

    /// Changes the reply of a running task without completing it. `change` must be
    /// quick: others wait for it.
    pub fn edit<T>(self, change: impl FnOnce(&Task, &mut Reply) -> T) -> Result<T, Stale> {
        self.slot.state.edit(self.generation)?;
        // SAFETY: `state.edit` succeeded, so the task was claimed and this thread
        // alone may write the reply.
        let changed = unsafe { change(self.slot.task(), self.slot.reply()) };
        self.slot.state.end_edit();
        Ok(changed)
    }

    /// Has a plugin told when a running task is unwanted. Returns how it was before,
    /// and the deadline.
    pub fn watch(self, watch: Watch) -> Result<(Watched, u64), Stale> {
        self.slot.state.edit(self.generation)?;
        // SAFETY: as in `edit`.
        let (task, reply) = unsafe { (self.slot.task(), self.slot.reply()) };
        let deadline_ns = task.deadline_ns;
        reply.watch = Some(watch);
        Ok((self.slot.state.end_edit_watched(), deadline_ns))
    }
}

/// A task that the calling thread has claimed and runs. It has a copy of what was
/// asked for, since any thread may end the task, and then the slot is another's.
pub struct Running {
    handle: Handle,
    request: *const u8,
    request_len: usize,
    deadline_ns: u64,
    tag: u32,
    kind: Kind,
}

impl Running {
    #[inline]
    pub(super) fn new(slot: &'static Slot, task: &Task) -> Self {
        Self {
            handle: Handle::of(slot),
            request: task.request,
            request_len: task.request_len,
            deadline_ns: task.deadline_ns,
            tag: task.tag,
            kind: task.kind,
        }
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The request: where, and how many bytes. Readable until the task has ended.
    pub fn request(&self) -> (*const u8, usize) {
        (self.request, self.request_len)
    }

    /// See [`Task::deadline_ns`].
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// See [`Task::tag`].
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// See [`Task::kind`].
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
