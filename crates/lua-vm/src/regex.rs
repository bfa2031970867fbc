//! Regular expressions for `ngx.re` in worker VMs: a PCRE2 of our own.
//!
//! nginx's regular expressions share one match context, one JIT stack and one
//! allocator among all requests, which only works on nginx's one thread. So a second
//! PCRE2 is linked into the shared object, which exports none of its names. All memory
//! that a match writes to belongs to one thread.
//!
//! | file         | role |
//! |--------------|------|
//! | this one     | [`Regex`], a compiled pattern: immutable, so any thread may use it |
//! | [`scratch`]  | a thread's memory for matches: offsets, limits, stack, result |
//! | [`template`] | [`Template`], a compiled replacement: text and references like `$1` |
//!
//! # Limits
//!
//! A pattern that backtracks without end stops at PCRE2's match limit, as in nginx
//! without `lua_regex_match_limit`. Its memory is limited too: PCRE2 alone would take
//! gigabytes. A thread frees the memory above some size after the match ([`scratch`]).
//!
//! The interrupter cannot stop PCRE2. Instead each match checks at its end whether the
//! VM's code should stop: a loop of matches is hardly ever interrupted in Lua.

mod scratch;
mod template;
#[cfg(all(test, not(loom)))]
mod tests;

use std::ptr::{self, NonNull};

use pcre2_sys as sys;

use crate::current;
pub use scratch::set_jit_stack;
use scratch::{Scratch, WORKSPACE};
pub use template::Template;
use template::append;

/// Bits of the options that `ngx.re` has letters for; `vm/re.lua` has the same.
pub mod option {
    /// `i`: letters match in either case.
    pub const CASELESS: u32 = 1;
    /// `m`: `^` and `$` match at every line.
    pub const MULTILINE: u32 = 1 << 1;
    /// `s`: a dot matches a newline too.
    pub const DOTALL: u32 = 1 << 2;
    /// `x`: blanks and comments in the pattern are ignored.
    pub const EXTENDED: u32 = 1 << 3;
    /// `a`: matches at the start offset only.
    pub const ANCHORED: u32 = 1 << 4;
    /// `u`: pattern and subject are UTF-8.
    pub const UTF: u32 = 1 << 5;
    /// `U`: the subject need not be valid UTF-8.
    pub const INVALID_UTF: u32 = 1 << 6;
    /// `D`: names may occur more than once.
    pub const DUPNAMES: u32 = 1 << 7;
    /// `J`: as in JavaScript.
    pub const JAVASCRIPT: u32 = 1 << 8;
    /// `j`: compiled to machine code, where that works.
    pub const JIT: u32 = 1 << 9;
    /// `d`: the longest match, by the algorithm that has no captures.
    pub const DFA: u32 = 1 << 10;
}

/// What matching found: pairs of offsets, or PCRE2's negative error code.
pub type Matched = Result<u32, i32>;

/// Nothing matched.
pub const NO_MATCH: i32 = sys::PCRE2_ERROR_NOMATCH;
/// No memory.
pub const NO_MEMORY: i32 = sys::PCRE2_ERROR_NOMEMORY;
/// The VM's code must stop, whatever was found. Not one of PCRE2's codes.
pub const STOPPED: i32 = -1000;
/// The start offset is beyond the subject's end.
const BAD_OFFSET: i32 = sys::PCRE2_ERROR_BADOFFSET;

/// Why a pattern cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// PCRE2's words.
    pub message: String,
    /// Where in the pattern, in bytes.
    pub offset: usize,
}

/// Facts about a pattern. `vm/cdefs.lua` declares it, too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Info {
    /// The table of names, as long as the pattern lives: entries of `name_size` bytes,
    /// each a 16-bit number with the high byte first, then the name, then a NUL.
    pub names: *const u8,
    /// The number of entries.
    pub name_count: u32,
    /// The bytes of an entry.
    pub name_size: u32,
    /// The number of groups that capture.
    pub captures: u32,
    /// Where in a pattern that cannot be compiled the error is.
    pub error_offset: u32,
    /// Whether subjects are UTF-8, valid or not.
    pub utf: bool,
}

impl Info {
    const NONE: Self = Self {
        names: ptr::null(),
        name_count: 0,
        name_size: 0,
        captures: 0,
        error_offset: 0,
        utf: false,
    };
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Regex {
    code: NonNull<sys::pcre2_code_8>,
    info: Info,
    dfa: bool,
    /// Whether PCRE2 checks that subjects are UTF-8.
    checked: bool,
    /// Whether there is machine code.
    jit: bool,
}

// SAFETY: matching does not write to a compiled pattern.
unsafe impl Send for Regex {}
// SAFETY: as above.
unsafe impl Sync for Regex {}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: nobody else has the code.
        unsafe { sys::pcre2_code_free_8(self.code.as_ptr()) };
    }
}

/// PCRE2's options for the bits of [`option`].
fn compile_options(options: u32) -> u32 {
    const TABLE: [(u32, u32); 8] = [
        (option::CASELESS, sys::PCRE2_CASELESS),
        (option::MULTILINE, sys::PCRE2_MULTILINE),
        (option::DOTALL, sys::PCRE2_DOTALL),
        (option::EXTENDED, sys::PCRE2_EXTENDED),
        (option::ANCHORED, sys::PCRE2_ANCHORED),
        (option::UTF, sys::PCRE2_UTF),
        (option::DUPNAMES, sys::PCRE2_DUPNAMES),
        (
            // What PCRE_JAVASCRIPT_COMPAT was.
            option::JAVASCRIPT,
            sys::PCRE2_ALT_BSUX | sys::PCRE2_ALLOW_EMPTY_CLASS | sys::PCRE2_MATCH_UNSET_BACKREF,
        ),
    ];
    let mut bits = 0;
    for (ours, theirs) in TABLE {
        if options & ours != 0 {
            bits |= theirs;
        }
    }
    // nginx turns the check off, so that PCRE2 reads beyond an invalid subject. This
    // option does not check either, but is safe. The DFA algorithm does not support it,
    // and keeps the check.
    if options & option::INVALID_UTF != 0 && options & option::DFA == 0 {
        bits |= sys::PCRE2_MATCH_INVALID_UTF;
    }
    bits
}

impl Regex {
    /// Compiles a pattern.
    pub fn new(pattern: &[u8], options: u32) -> Result<Self, CompileError> {
        let mut code = 0;
        let mut offset = 0;
        // SAFETY: the pattern is as long as it says; without a context
        // PCRE2's defaults hold.
        let compiled = unsafe {
            sys::pcre2_compile_8(
                pattern.as_ptr(),
                pattern.len(),
                compile_options(options),
                &mut code,
                &mut offset,
                ptr::null_mut(),
            )
        };
        let Some(compiled) = NonNull::new(compiled) else {
            return Err(CompileError {
                message: error_text(code),
                offset: offset.min(pattern.len()),
            });
        };
        let mut regex = Self {
            code: compiled,
            info: Info::NONE,
            dfa: options & option::DFA != 0,
            checked: false,
            jit: false,
        };
        if options & option::JIT != 0 && !regex.dfa {
            // SAFETY: the code is live. A failure is no error: the pattern is
            // interpreted then, as in nginx.
            let status =
                unsafe { sys::pcre2_jit_compile_8(compiled.as_ptr(), sys::PCRE2_JIT_COMPLETE) };
            regex.jit = status == 0;
        }
        // SAFETY: the answers have these types.
        let effective = unsafe {
            regex.info = Info {
                captures: regex.ask(sys::PCRE2_INFO_CAPTURECOUNT, 0),
                names: regex.ask(sys::PCRE2_INFO_NAMETABLE, ptr::null()),
                name_count: regex.ask(sys::PCRE2_INFO_NAMECOUNT, 0),
                name_size: regex.ask(sys::PCRE2_INFO_NAMEENTRYSIZE, 0),
                ..Info::NONE
            };
            // These include what the pattern itself sets, as "(*UTF)".
            regex.ask(sys::PCRE2_INFO_ALLOPTIONS, 0u32)
        };
        if regex.dfa {
            regex.info.captures = 0;
        }
        regex.info.utf = effective & sys::PCRE2_UTF != 0;
        regex.checked = regex.info.utf && effective & sys::PCRE2_MATCH_INVALID_UTF == 0;
        Ok(regex)
    }

    /// Facts about the pattern.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Asks PCRE2 about the pattern. Returns `otherwise` if there is no answer.
    ///
    /// # Safety
    /// The answer to `what` is a `T`.
    unsafe fn ask<T>(&self, what: u32, otherwise: T) -> T {
        let mut answer = otherwise;
        // SAFETY: by the contract; the code is live.
        unsafe {
            sys::pcre2_pattern_info_8(self.code.as_ptr(), what, (&raw mut answer).cast());
        }
        answer
    }

    /// Matches at `start` or after it.
    ///
    /// # Safety
    /// If `valid`, and the pattern checks its subjects, the subject is UTF-8.
    unsafe fn exec(
        &self,
        scratch: &mut Scratch,
        subject: &[u8],
        start: usize,
        valid: bool,
    ) -> Matched {
        if start > subject.len() {
            return Err(BAD_OFFSET);
        }
        // Rust's empty slices may be at address 1. PCRE2's machine code reads backwards
        // from there, to below zero.
        static EMPTY: [u8; 1] = [0];
        let subject = if subject.is_empty() {
            &EMPTY[..0]
        } else {
            subject
        };
        scratch.make_room(self.info.captures + 1)?;
        let code = self.code.as_ptr();
        let data = scratch.data.as_ptr();
        let context = scratch.context.as_ptr();
        // A pattern with \C may have stopped inside a character.
        let inside = subject.get(start).is_some_and(|&byte| is_trailing(byte));
        let options = if self.checked && valid && !inside {
            sys::PCRE2_NO_UTF_CHECK
        } else {
            0
        };
        let mut run = || {
            let (subject, len) = (subject.as_ptr(), subject.len());
            // SAFETY: all pointers are live and this thread's own; the subject is as long
            // as it says, and the offset is in it. Machine code, if there is any, may be
            // entered directly if subjects need no check.
            unsafe {
                if self.jit && !self.info.utf {
                    sys::pcre2_jit_match_8(code, subject, len, start, 0, data, context)
                } else if self.dfa {
                    let workspace = scratch.workspace();
                    sys::pcre2_dfa_match_8(
                        code, subject, len, start, options, data, context, workspace, WORKSPACE,
                    )
                } else {
                    sys::pcre2_match_8(code, subject, len, start, options, data, context)
                }
            }
        };
        let rc = if self.jit {
            current::in_foreign_code(&mut run)
        } else {
            let rc = run();
            scratch.trim();
            rc
        };
        if current::is_stopped() {
            return Err(STOPPED);
        }
        match u32::try_from(rc) {
            // The DFA algorithm also finds shorter matches: more than there are pairs.
            Ok(0) => Ok(1),
            Ok(pairs) => Ok(if self.dfa { 1 } else { pairs }),
            Err(_) => Err(rc),
        }
    }

    /// Matches at `start` or after it and writes the offsets of the match and of each
    /// group, -1 for a group that did not take part. Returns how many pairs were set.
    ///
    /// # Safety
    /// `valid` says that this subject was matched before, from offset 0: it need not be
    /// checked again to be UTF-8.
    pub unsafe fn find(
        &self,
        subject: &[u8],
        start: usize,
        valid: bool,
        offsets: &mut [i32],
    ) -> Matched {
        Scratch::with(|scratch| {
            // SAFETY: by the contract; that match has checked the subject.
            let pairs = unsafe { self.exec(scratch, subject, start, valid) }?;
            for (index, offset) in offsets.iter_mut().enumerate() {
                // PCRE2_UNSET becomes -1; Lua's strings end before 2 GiB.
                *offset = scratch.offset(index) as i32;
            }
            Ok(pairs)
        })
    }

    /// Replaces the first match, or all if `global`, and passes the result to
    /// `use_result` if there was a match. Returns the number of replacements.
    pub fn sub(
        &self,
        template: &Template,
        subject: &[u8],
        global: bool,
        use_result: impl FnOnce(&[u8]),
    ) -> Matched {
        Scratch::with(|scratch| {
            let mut result = std::mem::take(&mut scratch.result);
            result.clear();
            let count = self.sub_into(scratch, template, subject, global, &mut result);
            if matches!(count, Ok(1..)) {
                use_result(&result);
            }
            scratch.result = result;
            count
        })
    }

    fn sub_into(
        &self,
        scratch: &mut Scratch,
        template: &Template,
        subject: &[u8],
        global: bool,
        result: &mut Vec<u8>,
    ) -> Matched {
        let mut count = 0;
        let mut copied = 0;
        let mut start = 0;
        loop {
            // SAFETY: the first match began at offset 0, and checked the subject.
            let pairs = match unsafe { self.exec(scratch, subject, start, count > 0) } {
                Ok(pairs) => pairs,
                Err(NO_MATCH) => break,
                Err(code) => return Err(code),
            };
            count += 1;
            let (from, to) = (scratch.offset(0), scratch.offset(1));
            append(result, subject.get(copied..from))?;
            let capture = |number: u32| {
                let index = 2 * number as usize;
                let range = || scratch.offset(index)..scratch.offset(index + 1);
                (number < pairs)
                    .then(range)
                    .and_then(|range| subject.get(range))
            };
            template.expand(capture, result)?;
            copied = to;
            if !global {
                break;
            }
            start = to;
            if to <= from {
                start = self.after(subject, to);
                if start > subject.len() {
                    break;
                }
            }
        }
        append(result, subject.get(copied..))?;
        Ok(count)
    }

    /// The offset of the next character.
    pub fn after(&self, subject: &[u8], offset: usize) -> usize {
        let mut next = offset + 1;
        while self.info.utf && subject.get(next).is_some_and(|&byte| is_trailing(byte)) {
            next += 1;
        }
        next
    }
}

/// Whether this is a byte of a UTF-8 character, but not its first.
fn is_trailing(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// PCRE2's words for an error.
fn error_text(code: i32) -> String {
    let mut buffer = [0u8; 256];
    // SAFETY: the buffer is as long as it says.
    let len = unsafe { sys::pcre2_get_error_message_8(code, buffer.as_mut_ptr(), buffer.len()) };
    // A negative length: cut, which no message of PCRE2 needs.
    let len = usize::try_from(len).unwrap_or_default();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}
