//! What a VM has outside of its heap: compiled patterns, for one.
//!
//! Lua's collector frees such a thing through a finalizer. But a VM whose code
//! had to be stopped is not closed, its memory is released as a whole; then the
//! list that is kept here is what frees them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;

use super::vm;

type DropIt = unsafe fn(*mut ());

/// The things of one VM, by address, and how each is dropped.
#[derive(Debug, Default)]
pub struct Belongings {
    things: RefCell<HashMap<*mut (), DropIt>>,
}

impl Drop for Belongings {
    fn drop(&mut self) {
        for (thing, drop_it) in self.things.get_mut().drain() {
            // SAFETY: it was kept with this function, and not given back.
            unsafe { drop_it(thing) };
        }
    }
}

/// # Safety
/// `thing` is a `T` that came from `Box::into_raw`, and nobody's any more.
unsafe fn drop_box<T>(thing: *mut ()) {
    // SAFETY: by the contract.
    drop(unsafe { Box::from_raw(thing.cast::<T>()) });
}

fn of_current<'a>() -> Option<&'a Belongings> {
    // SAFETY: the VM lives while it runs, which is while this is called.
    vm::now().map(|now| unsafe { &*now.vm }.belongings())
}

/// Makes a thing one of the VM that runs on this thread. It lives until
/// [`give_back`], or until the VM ends.
pub fn keep<T: 'static>(thing: T) -> *mut T {
    let thing = Box::into_raw(Box::new(thing));
    if let Some(belongings) = of_current() {
        let mut things = belongings.things.borrow_mut();
        things.insert(thing.cast(), drop_box::<T>);
    }
    thing
}

/// Drops a thing.
///
/// # Safety
/// [`keep`] has returned it to this VM, it was not given back before, and nobody
/// uses it any more.
pub unsafe fn give_back<T: 'static>(thing: *mut T) {
    if let Some(belongings) = of_current() {
        belongings.things.borrow_mut().remove(&thing.cast());
    }
    // SAFETY: by the contract; the list has it no more.
    unsafe { drop_box::<T>(thing.cast()) };
}

/// Says whether this thread is in machine code that is not Lua's, which the
/// watchdog must not leave as it leaves Lua's.
pub fn in_foreign_code(inside: bool) {
    if let Some(now) = vm::now() {
        // SAFETY: the VM lives while it runs, which is while this is called.
        unsafe { &*now.vm }.watched().nest(inside);
    }
}

/// Whether the VM that runs on this thread should end. Lua code sees by itself
/// that it should, but not while it is here.
pub fn is_stopped() -> bool {
    // SAFETY: the VM lives while it runs, which is while this is called.
    vm::now().is_some_and(|now| unsafe { &*now.vm }.watched().is_stopped())
}

/// A Lua state beside a VM, without its limit.
#[derive(Debug)]
pub struct SideState(ptr::NonNull<mlua::ffi::lua_State>);

impl SideState {
    /// A state without libraries. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        // SAFETY: takes nothing.
        ptr::NonNull::new(unsafe { mlua::ffi::luaL_newstate() }).map(Self)
    }

    /// The state.
    pub fn as_ptr(&self) -> *mut mlua::ffi::lua_State {
        self.0.as_ptr()
    }
}

impl Drop for SideState {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { mlua::ffi::lua_close(self.as_ptr()) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn what_was_not_given_back_ends_with_the_vm() {
        let witness = Rc::new(());
        let belongings = Belongings::default();
        for _ in 0..3 {
            let thing = Box::into_raw(Box::new(witness.clone()));
            let mut things = belongings.things.borrow_mut();
            things.insert(thing.cast(), drop_box::<Rc<()>>);
        }
        assert_eq!(Rc::strong_count(&witness), 4);
        drop(belongings);
        assert_eq!(Rc::strong_count(&witness), 1);
    }

    #[test]
    fn without_a_vm_things_live_until_they_are_given_back() {
        let witness = Rc::new(());
        let thing = keep(witness.clone());
        assert_eq!(Rc::strong_count(&witness), 2);
        // SAFETY: kept above.
        unsafe { give_back(thing) };
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
