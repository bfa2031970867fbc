//! Regular expressions for `ngx.re` in VMs, see [`crate::regex`].
//!
//! Patterns and replacements belong to the VM that made them;
//! everything else belongs to the calling thread. No argument is a structure, which
//! LuaJIT's compiler could not pass.

use std::ffi::c_char;

use crate::current;
use crate::regex::{self, Info, NO_MEMORY, Regex, Template};
use nonblocking_ffi_core::catch::catch;
use nonblocking_ffi_core::text::{ErrorBuffer, Text};

fn text(data: *const c_char, len: usize) -> Text {
    Text { data, len }
}

/// Keeps a value for the VM that runs, or writes why that cannot be.
///
/// # Safety
/// The buffer is as it says.
unsafe fn keep<T: 'static>(value: Result<T, String>, error: ErrorBuffer) -> *mut T {
    let kept = value.and_then(|value| {
        let kept = current::with(|vm| vm.resources.keep(value));
        kept.ok_or_else(|| "not in a VM of a pool thread".to_owned())
    });
    kept.unwrap_or_else(|why| {
        // SAFETY: by the contract.
        unsafe { error.write(&why) };
        std::ptr::null_mut()
    })
}

/// Frees a value that [`keep`] returned.
///
/// # Safety
/// It is live and of the VM that runs, and is not used again.
unsafe fn release<T: 'static>(value: *mut T) {
    catch((), || {
        // SAFETY: by the contract.
        current::with(|vm| unsafe { vm.resources.release(value) });
    });
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
    info: *mut Info,
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
        let compiled = Regex::new(pattern, options)
            .inspect(|regex| *info = *regex.info())
            .map_err(|why| {
                info.error_offset = why.offset as u32;
                why.message
            });
        // SAFETY: by the contract.
        unsafe { keep(compiled, error) }
    })
}

/// Frees a pattern.
///
/// # Safety
/// As for [`release`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_free(regex: *mut Regex) {
    // SAFETY: by the contract.
    unsafe { release(regex) };
}

/// Matches `len` bytes at `subject` from the offset `start` on. Returns the
/// number of pairs of offsets that were set, or PCRE2's negative error code, -1 for no
/// match, or [`regex::STOPPED`]. `offsets` has a pair for the match and for each group,
/// -1 for one that did not take part. `valid` as in [`Regex::find`].
///
/// # Safety
/// `regex` is live, `subject` readable, `offsets` has room for all pairs, and `valid`
/// is true.
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
        let room = 2 * (regex.info().captures as usize + 1);
        // SAFETY: by the contract, also `valid`.
        let found = unsafe {
            let offsets = std::slice::from_raw_parts_mut(offsets, room);
            regex.find(subject, start as usize, valid, offsets)
        };
        found.map_or_else(|code| code, |pairs| pairs as i32)
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
        count.map_or_else(|code| code, |count| count as i32)
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
        let error = ErrorBuffer {
            data: error,
            size: error_size,
        };
        // SAFETY: by the contract.
        unsafe { keep(Template::new(text(source, len).bytes()), error) }
    })
}

/// Frees a replacement.
///
/// # Safety
/// As for [`release`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_re_template_free(template: *mut Template) {
    // SAFETY: by the contract.
    unsafe { release(template) };
}

/// Limits the stack of patterns compiled to machine code, for this thread, in
/// bytes. False if there is no memory for it, or no machine code here.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_re_jit_stack(limit: u32) -> bool {
    catch(false, || regex::set_jit_stack(limit as usize))
}
