//! Regular expressions for `ngx.re` in worker VMs, see
//! [`nonblocking_ffi_lua_vm::regex`]. `lua/resty/nonblocking_ffi/vm/cdefs.lua`
//! declares these.
//!
//! They are called on pool threads. A pattern and a template belong to the VM
//! that made them; everything else belongs to the calling thread. Arguments are
//! plain ones, no structures: LuaJIT's compiler cannot pass those.

use std::ffi::c_char;

use super::{ErrorBuffer, Text, catch};
use nonblocking_ffi_lua_vm::belongings::{give_back, keep};
use nonblocking_ffi_lua_vm::regex::{self, NO_MEMORY, Regex, Template};

/// What Lua wants to know of a pattern.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RegexInfo {
    /// The table of names, as long as the pattern lives: entries of `name_size`
    /// bytes, a 16-bit number with the high byte first, then the name, then NUL.
    names: *const u8,
    name_count: u32,
    name_size: u32,
    /// Groups that capture.
    captures: u32,
    /// Where in the pattern the error is, if there is one.
    error_offset: u32,
    /// Subjects consist of characters, not of bytes.
    utf: bool,
}

fn text(data: *const c_char, len: usize) -> Text {
    Text { data, len }
}

/// Compiles `len` bytes at `pattern`, with options of [`regex::option`]. Null
/// with PCRE2's words in `error` and the place in `info` if that fails.
///
/// # Safety
/// The pattern is readable, `info` writable, and so are `error_size` bytes at
/// `error`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_new(
    pattern: *const c_char,
    len: usize,
    options: u32,
    info: *mut RegexInfo,
    error: *mut c_char,
    error_size: usize,
) -> *mut Regex {
    catch(std::ptr::null_mut(), || {
        // SAFETY: by the contract.
        let (pattern, info) = unsafe { (text(pattern, len).bytes(), &mut *info) };
        let error = ErrorBuffer {
            data: error,
            size: error_size,
        };
        match Regex::new(pattern, options) {
            Ok(regex) => {
                *info = RegexInfo {
                    names: regex.names,
                    name_count: regex.name_count,
                    name_size: regex.name_size,
                    captures: regex.captures,
                    error_offset: 0,
                    utf: regex.utf,
                };
                keep(regex)
            }
            Err(why) => {
                info.error_offset = why.offset as u32;
                // SAFETY: by the contract.
                unsafe { error.write(&why.message) };
                std::ptr::null_mut()
            }
        }
    })
}

/// Frees a pattern.
///
/// # Safety
/// It is live, for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_free(regex: *mut Regex) {
    // SAFETY: by the contract; it came from `keep`.
    catch((), || unsafe { give_back(regex) });
}

/// Matches `len` bytes at `subject` from the offset `start` on. Returns the
/// number of pairs of offsets that were set, or PCRE2's negative error code, -1
/// for no match; or [`regex::STOPPED`]. `offsets` has a pair for the match and for each group, -1 for
/// one that did not take part. `valid`: this subject was matched before from
/// offset 0, so is known to be UTF-8.
///
/// # Safety
/// `regex` is live, `subject` readable, `offsets` has room for all pairs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_match(
    regex: *const Regex,
    subject: *const c_char,
    len: usize,
    start: u32,
    valid: bool,
    offsets: *mut i32,
) -> i32 {
    catch(NO_MEMORY, || {
        // SAFETY: by the contract.
        let (regex, subject) = unsafe { (&*regex, text(subject, len).bytes()) };
        let room = 2 * (regex.captures as usize + 1);
        // SAFETY: by the contract.
        let offsets = unsafe { std::slice::from_raw_parts_mut(offsets, room) };
        match regex.find(subject, start as usize, valid, offsets) {
            Ok(pairs) => pairs as i32,
            Err(code) => code,
        }
    })
}

/// Replaces the first match in `len` bytes at `subject`, or all if `global`.
/// Returns how many, or a negative code as above. `result` is the result if
/// there was a match, until this thread matches again.
///
/// # Safety
/// `regex` and `template` are live, `subject` is readable, `result` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_sub(
    regex: *const Regex,
    template: *const Template,
    subject: *const c_char,
    len: usize,
    global: bool,
    result: *mut Text,
) -> i32 {
    catch(NO_MEMORY, || {
        // SAFETY: by the contract.
        let (regex, template) = unsafe { (&*regex, &*template) };
        // SAFETY: by the contract.
        let subject = unsafe { text(subject, len).bytes() };
        let count = regex.sub(template, subject, global, |bytes| {
            // SAFETY: by the contract.
            unsafe { *result = text(bytes.as_ptr().cast(), bytes.len()) };
        });
        match count {
            Ok(count) => count as i32,
            Err(code) => code,
        }
    })
}

/// Compiles a replacement. Null with the reason in `error` if that fails.
///
/// # Safety
/// The source is readable, and `error_size` bytes at `error` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_template_new(
    source: *const c_char,
    len: usize,
    error: *mut c_char,
    error_size: usize,
) -> *mut Template {
    catch(std::ptr::null_mut(), || {
        // SAFETY: by the contract.
        match Template::new(unsafe { text(source, len).bytes() }) {
            Ok(template) => keep(template),
            Err(why) => {
                let error = ErrorBuffer {
                    data: error,
                    size: error_size,
                };
                // SAFETY: by the contract.
                unsafe { error.write(&why) };
                std::ptr::null_mut()
            }
        }
    })
}

/// Frees a replacement.
///
/// # Safety
/// It is live, for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_template_free(template: *mut Template) {
    // SAFETY: by the contract; it came from `keep`.
    catch((), || unsafe { give_back(template) });
}

/// Limits the stack of patterns compiled to machine code, for this thread, in
/// bytes. False if there is no memory for it, or no machine code here.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_re_jit_stack(limit: u32) -> bool {
    catch(false, || regex::set_jit_stack(limit as usize))
}
