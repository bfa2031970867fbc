//! Lua states beside worker VMs, for C functions of nginx that want one and may
//! not fail for want of memory; see `vm/shdict.lua`.

use std::ptr;

use nonblocking_ffi_lua_vm::belongings::{SideState, keep};
use nonblocking_ffi_lua_vm::lua_State;

use super::catch;

/// Makes a state that lives as long as the VM. Null if there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_side_state() -> *mut lua_State {
    catch(ptr::null_mut(), || {
        let state = SideState::new();
        // SAFETY: what is kept is live.
        state.map_or(ptr::null_mut(), |state| unsafe { &*keep(state) }.as_ptr())
    })
}
