//! The C functions that Lua calls, mirroring the core's modules. Nothing else
//! is exported. `lua/resty/nonblocking_ffi/core/cdefs.lua` declares them.
//!
//! | file        | role |
//! |-------------|------|
//! | [`calls`]   | post, drain, release, cancel: the call path |
//! | [`client`]  | a Lua VM's life: channel, log lines, exit |
//! | [`lua`]     | Lua runtimes |
//! | [`process`] | what children of the worker inherit |
//! | [`resty_ffi`] | plugins of lua-resty-ffi: what they call, making theirs |
//! | [`runtime`] | pools and runtimes: making and freeing |
//! | [`stats`]   | statistics |
//! | [`vm`]      | what Lua code in a VM of a pool thread calls |
//! | [`regex`]   | likewise: regular expressions |
//! | [`clock`]   | likewise: time |
//!
//! Every function but those of the last three is called by the thread of the
//! Lua VM that made the client, catches panics, and returns a status: 0 or more
//! is success, `-n` the error of code `n`. Longer errors go into a caller-owned
//! buffer.

#[cfg(all(feature = "host-luajit", feature = "vendored-luajit"))]
compile_error!(
    "host-luajit and vendored-luajit exclude each other: with --features vendored-luajit, say \
     --no-default-features"
);
#[cfg(not(any(feature = "host-luajit", feature = "vendored-luajit")))]
compile_error!("one of host-luajit (the default) and vendored-luajit is needed");

pub mod calls;
pub mod client;
pub mod clock;
pub mod lua;
pub mod process;
pub mod regex;
pub mod resty_ffi;
pub mod runtime;
pub mod stats;
pub mod vm;

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;

use nonblocking_ffi_core::catch::catch;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::memory;

#[global_allocator]
static MEMORY: memory::Memory = memory::Memory;

/// Changes whenever a function or structure here does, so that Lua files and
/// shared object of different versions do not meet.
const INTERFACE: u32 = 4;

/// Text of a caller that is not NUL-terminated.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Text {
    data: *const c_char,
    len: usize,
}

impl Text {
    /// The bytes, or why they cannot be used.
    ///
    /// # Safety
    /// `data` points at `len` readable bytes, or `len` is 0.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by the contract.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }

    /// As UTF-8; what is not is replaced.
    ///
    /// # Safety
    /// As for [`Text::bytes`].
    unsafe fn string(self) -> String {
        // SAFETY: by the contract.
        String::from_utf8_lossy(unsafe { self.bytes() }).into_owned()
    }

    /// As a path, which may be made of any bytes.
    ///
    /// # Safety
    /// As for [`Text::bytes`].
    unsafe fn path(self) -> OsString {
        // SAFETY: by the contract.
        OsStr::from_bytes(unsafe { self.bytes() }).to_owned()
    }

    /// As a C string; the error names the `option` that has a NUL inside.
    ///
    /// # Safety
    /// As for [`Text::bytes`].
    unsafe fn c_string(self, option: &str) -> Result<CString, String> {
        // SAFETY: by the contract.
        CString::new(unsafe { self.bytes() })
            .map_err(|_| format!("{option} must not contain a NUL byte"))
    }
}

/// Where a function writes the text of its error.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ErrorBuffer {
    data: *mut c_char,
    size: usize,
}

impl ErrorBuffer {
    /// Writes a text, NUL-terminated, and cut if need be, in whole characters.
    /// A NUL of its own would end it too early, and is written as `\x00`.
    ///
    /// # Safety
    /// `data` points at `size` writable bytes.
    unsafe fn write(self, text: &str) {
        if text.contains('\0') {
            // SAFETY: by the contract.
            return unsafe { self.write(&text.replace('\0', "\\x00")) };
        }
        let mut len = text.len().min(self.size.saturating_sub(1));
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        // SAFETY: by the contract.
        unsafe { self.write_bytes(&text.as_bytes()[..len]) };
    }

    /// Writes bytes that have no NUL, NUL-terminated and cut if need be.
    ///
    /// # Safety
    /// `data` points at `size` writable bytes.
    unsafe fn write_bytes(self, text: &[u8]) {
        let len = text.len().min(self.size.saturating_sub(1));
        if self.size > 0 {
            // SAFETY: `len` is less than `size`.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), self.data.cast(), len);
                *self.data.add(len) = 0;
            }
        }
    }
}

/// What is returned for a panic.
const PANICKED: i32 = -(Error::Runtime as i32);

/// What functions write that have no code for it.
const NO_MEMORY: &str = "no memory";

/// The number of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_interface() -> u32 {
    INTERFACE
}

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

    #[test]
    fn errors_are_cut_to_their_buffer() {
        let mut room = [b'x' as c_char; 8];
        let buffer = ErrorBuffer {
            data: room.as_mut_ptr(),
            size: 5,
        };
        // SAFETY: the buffer is as large as it says.
        unsafe { buffer.write("abcdefgh") };
        assert_eq!(room.map(|c| c as u8), *b"abcd\0xxx");
        // SAFETY: as above.
        unsafe { buffer.write("abcä") };
        assert_eq!(room.map(|c| c as u8), *b"abc\0\0xxx");
        let buffer = ErrorBuffer { size: 8, ..buffer };
        // SAFETY: as above.
        unsafe { buffer.write("a\0b") };
        assert_eq!(room.map(|c| c as u8), *b"a\\x00b\0x");
    }
}
