//! Tasks whose time is measured: of one request, many times, on one thread.
//! Nothing is kept of them, and no lock is taken.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::null;

use crate::sys::NBFFI_OK;

/// The handle of each of them; no other task gets it.
const TASK: u64 = 1 << 63;

thread_local! {
    static REQUEST: Cell<(*const u8, usize)> = const { Cell::new((null(), 0)) };
    /// How many can still be given out by `next`.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static ENDED: Cell<u64> = const { Cell::new(0) };
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn is(task: u64) -> bool {
    task == TASK
}

/// One call of the plugin with such tasks, on this thread.
pub(super) struct Run<'a> {
    times: u64,
    /// It uses the request, and belongs to the thread.
    _on: PhantomData<(&'a [u8], *const ())>,
}

/// Readies `times` tasks; `next` gives out all but the first.
pub(super) fn begin(request: &[u8], times: u64) -> Run<'_> {
    REQUEST.set((request.as_ptr(), request.len()));
    LEFT.set(times - 1);
    ENDED.set(0);
    let _on = PhantomData;
    Run { times, _on }
}

impl Run<'_> {
    pub fn task(&self) -> u64 {
        TASK
    }

    /// How many tasks were given out and, each once, answered.
    pub fn ended(&self) -> u64 {
        let given = self.times - LEFT.get();
        assert_eq!(ENDED.get(), given, "answers");
        given
    }
}

pub(super) fn request() -> (*const c_void, u64) {
    let (data, len) = REQUEST.get();
    (data.cast(), len as u64)
}

pub(super) fn next() -> Option<u64> {
    let left = LEFT.get().checked_sub(1)?;
    LEFT.set(left);
    Some(TASK)
}

pub(super) fn end() -> c_int {
    ENDED.set(ENDED.get() + 1);
    NBFFI_OK
}

/// A buffer for a response.
pub(super) fn room(size: u64) -> *mut c_void {
    ROOM.with_borrow_mut(|room| {
        if room.len() < size as usize {
            room.resize(size as usize, 0);
        }
        room.as_mut_ptr().cast()
    })
}
