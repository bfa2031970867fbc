//! What a VM owns outside of its heap, such as compiled patterns.
//!
//! Lua's collector frees such a resource by a finalizer. The finalizers of a VM that
//! was stopped never run: its memory is released as a whole, and this list frees the
//! rest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::NonNull;

type DropFn = unsafe fn(*mut ());

/// The resources of one VM, by address, and how each is dropped.
#[derive(Debug, Default)]
pub struct Resources(RefCell<HashMap<*mut (), DropFn>>);

impl Resources {
    /// Keeps a value until [`release`](Self::release), or until the VM ends.
    pub fn keep<T: 'static>(&self, value: T) -> *mut T {
        let value = Box::into_raw(Box::new(value));
        self.0.borrow_mut().insert(value.cast(), drop_box::<T>);
        value
    }

    /// Drops a value.
    ///
    /// # Safety
    /// [`keep`](Self::keep) of the same VM returned it, it was not released before,
    /// and nobody uses it any more.
    pub unsafe fn release<T: 'static>(&self, value: *mut T) {
        self.0.borrow_mut().remove(&value.cast());
        // SAFETY: by the contract; the list no longer has it.
        unsafe { drop_box::<T>(value.cast()) };
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        for (value, drop_it) in self.0.get_mut().drain() {
            // SAFETY: kept with this function, and not released.
            unsafe { drop_it(value) };
        }
    }
}

/// # Safety
/// `value` is a `T` from `Box::into_raw`, and nobody else uses it.
unsafe fn drop_box<T>(value: *mut ()) {
    // SAFETY: by the contract.
    drop(unsafe { Box::from_raw(value.cast::<T>()) });
}

/// A Lua state beside a VM, without the VM's memory limit: for C functions of nginx
/// that want a state and may not fail for lack of memory.
#[derive(Debug)]
pub struct ScratchState(NonNull<mlua::ffi::lua_State>);

impl ScratchState {
    /// A state without libraries. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        // SAFETY: takes nothing.
        NonNull::new(unsafe { mlua::ffi::luaL_newstate() }).map(Self)
    }

    /// The state.
    pub fn as_ptr(&self) -> *mut mlua::ffi::lua_State {
        self.0.as_ptr()
    }
}

impl Drop for ScratchState {
    fn drop(&mut self) {
        // SAFETY: live, and this is its only owner.
        unsafe { mlua::ffi::lua_close(self.as_ptr()) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn resources_are_dropped_once() {
        let witness = Rc::new(());
        let resources = Resources::default();
        let kept = [(); 3].map(|()| resources.keep(witness.clone()));
        assert_eq!(Rc::strong_count(&witness), 4);
        // SAFETY: kept above.
        unsafe { resources.release(kept[1]) };
        assert_eq!(Rc::strong_count(&witness), 3);
        drop(resources);
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
