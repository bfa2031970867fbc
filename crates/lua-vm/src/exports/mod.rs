//! The C functions that code in VMs calls, on the VMs' threads.
//! `lua/resty/nonblocking_ffi/vm/cdefs.lua` declares them.
//!
//! | file      | role |
//! |-----------|------|
//! | [`vm`]    | the task, the VM, calls into other runtimes |
//! | [`regex`] | regular expressions |
//! | [`clock`] | time |

pub mod clock;
pub mod regex;
pub mod vm;

use std::ffi::{CStr, c_char};

use nonblocking_ffi_core::error::Error;

/// The text of an error's code, or null if there is no such error.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_error_text(code: i32) -> *const c_char {
    const TEXTS: [&CStr; Error::ALL.len()] = [
        c"timeout",
        c"cancelled",
        c"closed",
        c"shutting down",
        c"response too large",
        c"no memory",
        c"runtime error",
        c"queue overflow",
        c"load failed",
    ];
    let text = usize::try_from(code - 1).ok().and_then(|i| TEXTS.get(i));
    text.map_or(std::ptr::null(), |text| text.as_ptr())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_errors() {
        for error in Error::ALL {
            let text = nbffi_error_text(error.code());
            // SAFETY: not null, since the error exists; a static C string.
            let text = unsafe { CStr::from_ptr(text) };
            assert_eq!(text.to_str().unwrap(), error.to_string());
        }
        assert!(nbffi_error_text(0).is_null());
        assert!(nbffi_error_text(Error::ALL.len() as i32 + 1).is_null());
    }
}
