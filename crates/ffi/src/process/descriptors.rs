//! Notes which descriptors are nginx's, and keeps them from children.
//!
//! All descriptors that exist when a worker is entered are nginx's, except the standard
//! ones. [`super::imports`] notes later ones. All of them close on exec, so no other
//! program gets one. A forked child that does not execute another program closes them
//! itself, and needs the notes for that. The flag "closes on exec" does not tell them
//! apart: languages set it, too, also for the pipes to such a child.
//!
//! # While a thread forks
//!
//! The kernel copies the descriptors first and then the memory, which takes milliseconds,
//! and the event loop continues meanwhile. If nginx closes a descriptor in between, the
//! child has that descriptor, and must have its note, too: [`close`] leaves the note as
//! [`CLOSED`], and the next thread that forks removes it. A fork waits for calls of
//! [`close`] that have begun; nginx waits for no fork.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// How many are noted: Linux's default limit for a process. Descriptors beyond it close
/// on exec as the others do, and stay open in forked children.
const MOST: usize = 1 << 20;
/// How many descriptors one system call checks.
const LOOK: usize = 1024;
/// The first that is not a standard one.
const FIRST: c_int = 3;

/// The note of a descriptor: not nginx's ...
const NONE: u8 = 0;
/// ... nginx's, and open ...
const OPEN: u8 = 1;
/// ... or nginx's, and closed while a thread forked.
const CLOSED: u8 = 2;

/// One note for each descriptor. Unused pages of it cost no memory.
static NOTES: [AtomicU8; MOST] = [const { AtomicU8::new(NONE) }; MOST];
/// One more than the highest number that was noted.
static END: AtomicUsize = AtomicUsize::new(0);
/// How many threads are in [`close`].
static CLOSING: AtomicU32 = AtomicU32::new(0);
/// Whether a thread is forking.
static FORKING: AtomicBool = AtomicBool::new(false);
/// Held by the thread that forks.
static FORK: Lock = Lock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

/// A lock that one function takes and another one releases, perhaps in a child.
struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: threads only use the mutex through the functions of pthread.
unsafe impl Sync for Lock {}

/// Notes a descriptor that nginx has made. A negative number is a failure, and ignored.
pub fn note(descriptor: c_int) {
    let number = usize::try_from(descriptor).unwrap_or(MOST);
    let Some(note) = NOTES.get(number) else {
        return;
    };
    // Relaxed: a child reads its own copy of the memory, and its parent makes a system
    // call, at the least, before it begins to fork.
    note.store(OPEN, Ordering::Relaxed);
    if number >= END.load(Ordering::Relaxed) {
        END.fetch_max(number + 1, Ordering::Relaxed);
    }
}

/// Closes a descriptor for nginx, and removes its note.
pub fn close(descriptor: c_int) -> c_int {
    let note = usize::try_from(descriptor).map(|number| NOTES.get(number));
    // SeqCst, both: partners of those in `begin_fork`. Either this thread sees that
    // another one forks, or that one sees this close, and waits for it.
    CLOSING.fetch_add(1, Ordering::SeqCst);
    let left = match FORKING.load(Ordering::SeqCst) {
        true => CLOSED,
        false => NONE,
    };
    if let Ok(Some(note)) = note {
        // Relaxed: see `note`; a thread that reads CLOSING as 0 sees it.
        if note.load(Ordering::Relaxed) != NONE {
            note.store(left, Ordering::Relaxed);
        }
    }
    // SAFETY: nginx's own call.
    let status = unsafe { libc::close(descriptor) };
    // Release: pairs with the Acquire in `begin_fork`.
    CLOSING.fetch_sub(1, Ordering::Release);
    status
}

/// Before a fork, on a thread other than nginx's.
pub fn begin_fork() {
    // SAFETY: a mutex that lives for ever; this thread releases it in `end_fork`.
    unsafe { libc::pthread_mutex_lock(FORK.0.get()) };
    for note in noted() {
        // Relaxed: no thread forks, so there will be no more of these. If nginx has made
        // a descriptor of that number meanwhile, the note stays.
        let _ = note.compare_exchange(CLOSED, NONE, Ordering::Relaxed, Ordering::Relaxed);
    }
    // SeqCst, and the load as well: see `close`.
    FORKING.store(true, Ordering::SeqCst);
    while CLOSING.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
}

/// After the fork, in both processes.
pub fn end_fork() {
    // SeqCst: as all of this flag.
    FORKING.store(false, Ordering::SeqCst);
    // SAFETY: this thread has taken it in `begin_fork`.
    unsafe { libc::pthread_mutex_unlock(FORK.0.get()) };
}

/// In the child: closes nginx's descriptors. It makes system calls only.
pub fn close_nginxs() {
    for (descriptor, note) in (0..).zip(noted()) {
        // Relaxed: this thread is the only one of its process. It does not write over
        // NONE, which would copy the page.
        if note.load(Ordering::Relaxed) != NONE {
            note.store(NONE, Ordering::Relaxed);
            // SAFETY: nginx's, and nginx does not run in this process.
            unsafe { libc::close(descriptor) };
        }
    }
}

fn noted() -> &'static [AtomicU8] {
    // Relaxed: as for the notes.
    &NOTES[..END.load(Ordering::Relaxed)]
}

/// Has all existing descriptors except the standard ones close on exec, and notes that
/// they are nginx's.
///
/// It checks each possible number; a thousand of them take up to 50 us.
pub fn note_existing() {
    // SAFETY: plain numbers.
    let marked = unsafe {
        let flag: c_uint = libc::CLOSE_RANGE_CLOEXEC;
        libc::syscall(libc::SYS_close_range, FIRST, c_uint::MAX, flag) == 0
    };
    let limit = limit();
    for start in (FIRST as usize..limit).step_by(LOOK) {
        let mut entries = [libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        }; LOOK];
        let entries = &mut entries[..LOOK.min(limit - start)];
        for (descriptor, entry) in (start as c_int..).zip(entries.iter_mut()) {
            entry.fd = descriptor;
        }
        // SAFETY: the array has so many entries. With a time of 0 it does not block, but
        // a signal can end it early.
        while unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, 0) } < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return;
            }
        }
        for entry in entries.iter().filter(|e| e.revents & libc::POLLNVAL == 0) {
            note(entry.fd);
            if !marked {
                // Before Linux 5.11.
                // SAFETY: plain numbers.
                unsafe { libc::fcntl(entry.fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
}

/// One more than the highest number that a descriptor can have, [`MOST`] at most. It is
/// the size of the kernel's table, which may be small where the limit is a million.
fn limit() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    let size = line.and_then(|size| size.trim().parse().ok());
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: memory to write to.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let limit = usize::try_from(limit.rlim_cur).unwrap_or(MOST);
    // Without /proc only the limit is known.
    size.unwrap_or(limit).min(MOST)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    /// Forks as libc would, but calls the handlers itself. Returns the child's exit code.
    fn in_fork(meanwhile: impl FnOnce(), child: impl FnOnce() -> c_int) -> c_int {
        begin_fork();
        meanwhile();
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            0 => {
                close_nginxs();
                end_fork();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(child()) }
            }
            pid => {
                end_fork();
                let mut status = 0;
                // SAFETY: a child of this test.
                assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                libc::WEXITSTATUS(status)
            }
        }
    }

    fn is_open(descriptor: c_int) -> bool {
        // SAFETY: asks only.
        unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn a_forked_child_has_all_but_nginxs() {
        let open = || File::open("/dev/null").unwrap();
        let (mine, nginxs) = (open(), open().into_raw_fd());
        let late = open();
        // A high number, which no other test uses.
        // SAFETY: makes a descriptor of a number that is free.
        let closed = unsafe { libc::fcntl(late.as_raw_fd(), libc::F_DUPFD, 900) };
        note(nginxs);
        note(closed);
        let found = in_fork(
            || {
                // The event loop may close it while the kernel copies. Then the child
                // still has it, so the test makes it again with the same number.
                assert_eq!(close(closed), 0);
                // SAFETY: as above.
                let again = unsafe { libc::fcntl(late.as_raw_fd(), libc::F_DUPFD, closed) };
                assert_eq!(again, closed);
            },
            || {
                let open = [mine.as_raw_fd(), nginxs, closed].map(is_open);
                open.iter().fold(0, |all, &one| all * 2 + c_int::from(one))
            },
        );
        assert_eq!(found, 0b100);
        // nginx has closed it: the next fork does not touch the new one.
        let found = in_fork(|| {}, || c_int::from(is_open(closed)));
        assert_eq!(found, 1);
        // SAFETY: of this test.
        unsafe { libc::close(closed) };
        assert_eq!(close(nginxs), 0);
        assert_eq!(NOTES[nginxs as usize].load(Ordering::Relaxed), NONE);
    }
}
