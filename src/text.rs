//! Texts and buffers of C callers.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;

/// Text of a caller that is not NUL-terminated.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Text {
    /// The first byte.
    pub data: *const c_char,
    /// The number of bytes.
    pub len: usize,
}

impl Text {
    /// The bytes, or why they cannot be used.
    ///
    /// # Safety
    /// `data` points at `len` readable bytes, or `len` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
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
    pub unsafe fn string(self) -> String {
        // SAFETY: by the contract.
        String::from_utf8_lossy(unsafe { self.bytes() }).into_owned()
    }

    /// As a path, which may be made of any bytes.
    ///
    /// # Safety
    /// As for [`Text::bytes`].
    pub unsafe fn path(self) -> OsString {
        // SAFETY: by the contract.
        OsStr::from_bytes(unsafe { self.bytes() }).to_owned()
    }

    /// As a C string; the error names the `option` that has a NUL inside.
    ///
    /// # Safety
    /// As for [`Text::bytes`].
    pub unsafe fn c_string(self, option: &str) -> Result<CString, String> {
        // SAFETY: by the contract.
        CString::new(unsafe { self.bytes() })
            .map_err(|_| format!("{option} must not contain a NUL byte"))
    }
}

/// Where a function writes the text of its error.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ErrorBuffer {
    /// The first byte.
    pub data: *mut c_char,
    /// The number of bytes.
    pub size: usize,
}

impl ErrorBuffer {
    /// Writes a text, NUL-terminated, and cut if need be, in whole characters.
    /// A NUL of its own would end it too early, and is written as `\x00`.
    ///
    /// # Safety
    /// `data` points at `size` writable bytes.
    pub unsafe fn write(self, text: &str) {
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
    pub unsafe fn write_bytes(self, text: &[u8]) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn errors_are_cut_to_their_buffer() {
        let mut room = [b'x' as c_char; 8];
        let buffer = ErrorBuffer {
            data: (&raw mut room).cast(),
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
