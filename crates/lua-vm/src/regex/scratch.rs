//! A thread's memory for matches: all that matching writes to.

use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr::{self, NonNull};

use pcre2_sys as sys;

use super::{Matched, NO_MEMORY};

/// Memory that the interpreter may use for one match, in KiB.
const HEAP_LIMIT_KIB: u32 = 128 * 1024;
/// Memory that a thread keeps from one match to the next, for each purpose.
pub const KEPT_BYTES: usize = 1 << 20;
/// The initial size of a thread's JIT stack, and its limit unless
/// `ngx.re.opt("jit_stack_size")` changes that. Unused parts take no memory.
const JIT_STACK_MIN: usize = 32 * 1024;
const JIT_STACK_MAX: usize = 1 << 20;
/// Numbers of the DFA algorithm's workspace.
pub const WORKSPACE: usize = 4096;
/// A thread starts with room for so many pairs of offsets.
const PAIRS: u32 = 32;

/// A thread's memory for matches.
#[derive(Debug)]
pub struct Scratch {
    /// Where PCRE2 puts the offsets.
    pub data: NonNull<sys::pcre2_match_data_8>,
    /// Pairs of offsets that `data` has room for.
    pairs: u32,
    /// Limits, and the JIT stack.
    pub context: NonNull<sys::pcre2_match_context_8>,
    jit_stack: *mut sys::pcre2_jit_stack_8,
    workspace: Vec<c_int>,
    /// The last result of a replacement.
    pub result: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

fn new_data(pairs: u32) -> Result<NonNull<sys::pcre2_match_data_8>, i32> {
    // SAFETY: any number of pairs is fine, and so is no context.
    let data = unsafe { sys::pcre2_match_data_create_8(pairs, ptr::null_mut()) };
    NonNull::new(data).ok_or(NO_MEMORY)
}

impl Scratch {
    fn new() -> Result<Self, i32> {
        // SAFETY: PCRE2 takes its memory from malloc if given no context.
        let context = unsafe { sys::pcre2_match_context_create_8(ptr::null_mut()) };
        let context = NonNull::new(context).ok_or(NO_MEMORY)?;
        let data = match new_data(PAIRS) {
            Ok(data) => data,
            Err(code) => {
                // SAFETY: it was made above.
                unsafe { sys::pcre2_match_context_free_8(context.as_ptr()) };
                return Err(code);
            }
        };
        let mut scratch = Self {
            data,
            pairs: PAIRS,
            context,
            jit_stack: ptr::null_mut(),
            workspace: Vec::new(),
            result: Vec::new(),
        };
        // SAFETY: the context is live.
        unsafe { sys::pcre2_set_heap_limit_8(scratch.context.as_ptr(), HEAP_LIMIT_KIB) };
        scratch.set_jit_stack(JIT_STACK_MAX);
        Ok(scratch)
    }

    /// Calls `body` with this thread's scratch.
    pub fn with(body: impl FnOnce(&mut Self) -> Matched) -> Matched {
        SCRATCH.with(|scratch| {
            // Not borrowed already: nothing in here calls back.
            let mut scratch = scratch.borrow_mut();
            if scratch.is_none() {
                *scratch = Some(Self::new()?);
            }
            let scratch = scratch.as_mut().ok_or(NO_MEMORY)?;
            if scratch.result.capacity() > KEPT_BYTES {
                // Not after the last replacement, whose caller reads it.
                scratch.result = Vec::new();
            }
            body(scratch)
        })
    }

    /// Limits the JIT stack. False if there is no memory, or no machine code.
    fn set_jit_stack(&mut self, limit: usize) -> bool {
        let limit = limit.max(JIT_STACK_MIN);
        // SAFETY: the sizes are sensible, and no context is needed. The old
        // stack is not in use, and no longer assigned when it is freed.
        unsafe {
            let stack = sys::pcre2_jit_stack_create_8(JIT_STACK_MIN, limit, ptr::null_mut());
            if stack.is_null() {
                return false;
            }
            sys::pcre2_jit_stack_assign_8(self.context.as_ptr(), None, stack.cast());
            sys::pcre2_jit_stack_free_8(self.jit_stack);
            self.jit_stack = stack;
        }
        true
    }

    /// Makes room for so many pairs of offsets.
    pub fn make_room(&mut self, pairs: u32) -> Result<(), i32> {
        if pairs > self.pairs {
            let pairs = pairs.next_power_of_two();
            self.replace_data(new_data(pairs)?);
            self.pairs = pairs;
        }
        Ok(())
    }

    fn replace_data(&mut self, data: NonNull<sys::pcre2_match_data_8>) {
        let old = std::mem::replace(&mut self.data, data);
        // SAFETY: nobody else has the old one.
        unsafe { sys::pcre2_match_data_free_8(old.as_ptr()) };
    }

    /// Frees memory that the interpreter took for a deep match. The offsets stay.
    pub fn trim(&mut self) {
        // SAFETY: it is live.
        let size = unsafe { sys::pcre2_get_match_data_heapframes_size_8(self.data.as_ptr()) };
        if size <= KEPT_BYTES {
            return;
        }
        if let Ok(data) = new_data(self.pairs) {
            let count = 2 * self.pairs as usize;
            // SAFETY: both are live and have room for that many offsets.
            unsafe {
                let from = sys::pcre2_get_ovector_pointer_8(self.data.as_ptr());
                let to = sys::pcre2_get_ovector_pointer_8(data.as_ptr());
                ptr::copy_nonoverlapping(from, to, count);
            }
            self.replace_data(data);
        }
    }

    /// [`WORKSPACE`] numbers for the DFA algorithm.
    pub fn workspace(&mut self) -> *mut c_int {
        self.workspace.resize(WORKSPACE, 0);
        self.workspace.as_mut_ptr()
    }

    /// An offset of the last match: start and end of the match, then of each
    /// group; `usize::MAX` for a group that did not take part or does not exist.
    pub fn offset(&self, index: usize) -> usize {
        if index >= 2 * self.pairs as usize {
            return usize::MAX;
        }
        // SAFETY: it is live, and has room for so many offsets.
        unsafe { *sys::pcre2_get_ovector_pointer_8(self.data.as_ptr()).add(index) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: they are this scratch's own.
        unsafe {
            sys::pcre2_match_data_free_8(self.data.as_ptr());
            sys::pcre2_match_context_free_8(self.context.as_ptr());
            sys::pcre2_jit_stack_free_8(self.jit_stack);
        }
    }
}

/// Limits the JIT stack of this thread, in bytes. False if that fails.
pub fn set_jit_stack(limit: usize) -> bool {
    let set = Scratch::with(|scratch| Ok(scratch.set_jit_stack(limit).into()));
    set == Ok(1)
}

/// The most memory that this thread keeps for one purpose.
#[cfg(all(test, not(loom)))]
pub fn kept_bytes() -> usize {
    SCRATCH.with_borrow(|scratch| {
        let Some(scratch) = scratch else {
            return 0;
        };
        // SAFETY: it is live.
        let frames = unsafe { sys::pcre2_get_match_data_heapframes_size_8(scratch.data.as_ptr()) };
        frames.max(scratch.result.capacity())
    })
}
