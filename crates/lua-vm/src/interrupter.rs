//! The thread that interrupts Lua code whose caller has given up.
//!
//! It checks every [`TICK`] what the VMs of the process run, while they run anything,
//! and signals each thread whose task was cancelled or is past its deadline;
//! `interrupt.c` says what the signal does. Code that asks `worker.is_cancelled()` has
//! [`TOLERANCE`] to end by itself. Code that cannot be stopped, because it is in a C
//! function, is reported as stuck.

use std::ffi::{c_int, c_uint};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mlua::ffi as lua;

use crate::maps::Maps;
use crate::shared::{Shared, WARN};
use crate::unwind::{Row, Rows};
use nonblocking_ffi_core::pool::spawn_helper;
use nonblocking_ffi_core::sync::{AtomicU32, AtomicU64, Ordering, fence, now_ns};
use nonblocking_ffi_core::task::Handle;

/// The time between two checks.
const TICK: Duration = Duration::from_millis(10);
/// How many checks a task may run on after its deadline.
const TOLERANCE: u32 = 3;
/// After so many checks past its deadline, a task is stuck.
const STUCK: u32 = 50;
/// The thread sleeps after so many checks that found nothing running.
const IDLE: u32 = 100;

/// The C structure of a VM.
#[repr(C)]
#[derive(Debug)]
pub struct Raw {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn nbffi_interrupt_install() -> c_int;
    fn nbffi_interrupt_free(raw: *mut Raw);
    fn nbffi_interrupt_stop(raw: *mut Raw, run: c_int, thread: libc::pid_t);
    fn nbffi_interrupt_unknown(raw: *mut Raw) -> usize;
    fn nbffi_unwind_ranges(
        bounds: *const usize,
        count: c_uint,
        luajit_start: usize,
        luajit_end: usize,
        luajit_is_alone: c_int,
    );
    fn nbffi_unwind_rows(rows: *const Row, count: c_uint);
}

/// What the interrupter knows of one VM. The VM's thread writes it.
#[derive(Debug)]
pub struct Target {
    pub(crate) raw: NonNull<Raw>,
    /// The VM's thread.
    thread: libc::pid_t,
    /// The handle of the task that runs, [`NO_TASK`](crate::interrupt::NO_TASK), or 0.
    task: AtomicU64,
    deadline_ns: AtomicU64,
    /// The number of the present run, for the signal handler.
    run: AtomicU32,
    /// 1 if the task is stuck.
    stuck: AtomicU32,
}

// SAFETY: other threads use `raw` only through `nbffi_interrupt_stop` and `_unknown`,
// which are atomic.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// `raw` is live, and from now on this target's.
    pub(crate) unsafe fn new(raw: NonNull<Raw>) -> Self {
        Self {
            raw,
            // SAFETY: takes nothing and cannot fail.
            thread: unsafe { libc::gettid() },
            task: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            run: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
        }
    }

    /// Whether the task that runs cannot be stopped.
    pub fn is_stuck(&self) -> bool {
        // Relaxed: a statistic.
        self.stuck.load(Ordering::Relaxed) != 0
    }

    /// Notes what runs from now on. Returns the number of the run.
    pub(crate) fn begin(&self, task: u64, deadline_ns: u64) -> c_int {
        // Relaxed: only this thread writes it.
        let run = self.run.load(Ordering::Relaxed) % i32::MAX as u32 + 1;
        self.run.store(run, Ordering::Relaxed);
        self.deadline_ns.store(deadline_ns, Ordering::Relaxed);
        // Release: pairs with the Acquire in `Interrupter::check`.
        self.task.store(task, Ordering::Release);
        if let Some(interrupter) = INTERRUPTER.get() {
            interrupter.rouse();
        }
        run as c_int
    }

    /// Notes that `task` runs on without a deadline; 0 for nothing.
    pub(crate) fn relieve(&self, task: u64) {
        // Relaxed: at worst a signal is sent that the handler ignores.
        self.deadline_ns.store(u64::MAX, Ordering::Relaxed);
        self.task.store(task, Ordering::Relaxed);
        self.stuck.store(0, Ordering::Relaxed);
    }

    fn is_overdue(&self, task: u64, now: u64) -> bool {
        self.deadline_ns.load(Ordering::Relaxed) <= now
            || Handle::from_number(task).is_some_and(Handle::is_unwanted)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: neither the VM nor the interrupter has this any more.
        unsafe { nbffi_interrupt_free(self.raw.as_ptr()) };
    }
}

/// The state that the thread shares with those of the VMs.
#[derive(Debug)]
pub struct Interrupter {
    signal: c_int,
    targets: Mutex<Vec<Arc<Target>>>,
    roused: Condvar,
    /// 1 while it sleeps until it is roused.
    asleep: AtomicU32,
    maps: Mutex<Maps>,
}

/// Set once the thread was started.
static INTERRUPTER: OnceLock<&'static Interrupter> = OnceLock::new();

/// The interrupter; the first VM starts its thread. If that fails, the next VM tries
/// again.
pub fn start(shared: &Shared) -> Result<&'static Interrupter, String> {
    static MADE: Mutex<Option<&'static Interrupter>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let interrupter = match *made {
        Some(interrupter) => interrupter,
        None => {
            // SAFETY: takes nothing; the handler does nothing on other threads.
            let signal = unsafe { nbffi_interrupt_install() };
            if signal == 0 {
                return Err("no signal is free to stop Lua code with".to_owned());
            }
            made.insert(Box::leak(Box::new(Interrupter {
                signal,
                targets: Mutex::default(),
                roused: Condvar::new(),
                asleep: AtomicU32::new(0),
                maps: Mutex::default(),
            })))
        }
    };
    if let Some(warning) = interrupter.maps().open() {
        shared.log(WARN, warning);
    }
    if INTERRUPTER.get().is_none() {
        spawn_helper("interrupter", || interrupter.live())?;
        // Cannot fail: the lock is held.
        let _ = INTERRUPTER.set(interrupter);
    }
    Ok(interrupter)
}

impl Interrupter {
    fn targets(&self) -> MutexGuard<'_, Vec<Arc<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a VM of the calling thread, which receives the signal from now on.
    pub fn add(&self, target: Arc<Target>) {
        // SAFETY: the set is initialised by sigemptyset, and `how` is valid.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, self.signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
        self.targets().push(target);
    }

    /// Stops watching a VM.
    pub fn remove(&self, target: &Arc<Target>) {
        self.targets().retain(|other| !Arc::ptr_eq(other, target));
    }

    /// Called when a VM has begun to run something.
    fn rouse(&self) {
        // SeqCst: orders the store of the task before the load below; partner of the
        // fence in `live`. Either this thread sees that the interrupter sleeps, or
        // the interrupter sees the task.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            let _targets = self.targets();
            self.asleep.store(0, Ordering::Relaxed);
            self.roused.notify_one();
        }
    }

    fn live(&self) {
        let mut idle = 0;
        let mut strikes: Vec<(u32, u32)> = Vec::new();
        let mut rows = Rows::default();
        loop {
            let mut targets = self.targets();
            if self.check(&targets, &mut strikes, &mut rows) {
                idle = 0;
            } else {
                idle += 1;
            }
            if idle >= IDLE {
                self.asleep.store(1, Ordering::Relaxed);
                // SeqCst: partner of the fence in `rouse`.
                fence(Ordering::SeqCst);
                let runs = |target: &Arc<Target>| target.task.load(Ordering::Relaxed) != 0;
                if targets.iter().any(runs) {
                    self.asleep.store(0, Ordering::Relaxed);
                }
                while self.asleep.load(Ordering::Relaxed) != 0 {
                    let woken = self.roused.wait(targets);
                    targets = woken.unwrap_or_else(PoisonError::into_inner);
                }
                idle = 0;
            }
            drop(targets);
            std::thread::sleep(TICK);
        }
    }

    /// Checks all VMs once. `strikes` has, for each, the number of its run and how
    /// often that was found overdue. True if anything runs.
    fn check(
        &self,
        targets: &[Arc<Target>],
        strikes: &mut Vec<(u32, u32)>,
        rows: &mut Rows,
    ) -> bool {
        let now = now_ns();
        strikes.resize(targets.len(), (0, 0));
        let mut some = false;
        let mut told = false;
        for (target, strikes) in targets.iter().zip(strikes) {
            // Read before the task, so that it is never that of a later run.
            let run = target.run.load(Ordering::Relaxed);
            // Acquire: pairs with the Release in `Target::begin`.
            let task = target.task.load(Ordering::Acquire);
            some |= task != 0;
            if task == 0 || !target.is_overdue(task, now) {
                *strikes = (run, 0);
                continue;
            }
            if strikes.0 != run {
                *strikes = (run, 0);
            }
            strikes.1 += 1;
            if strikes.1 > TOLERANCE + 1 && !told {
                told = true;
                tell_ranges(&mut self.maps());
                tell_rows(targets, rows);
            }
            if strikes.1 > STUCK {
                target.stuck.store(1, Ordering::Relaxed);
            }
            if strikes.1 > TOLERANCE {
                // SAFETY: `raw` lives as long as `target`, and the thread lives for
                // ever. If it has begun another run, the handler ignores the signal.
                unsafe {
                    nbffi_interrupt_stop(target.raw.as_ptr(), run as c_int, target.thread);
                }
            }
        }
        some
    }
}

/// Tells the signal handlers how to unwind the addresses that they did not know.
fn tell_rows(targets: &[Arc<Target>], rows: &mut Rows) {
    let mut changed = rows.forget_unloaded();
    for target in targets {
        // SAFETY: `raw` lives as long as `target`.
        let address = unsafe { nbffi_interrupt_unknown(target.raw.as_ptr()) };
        changed |= address != 0 && rows.learn(address);
    }
    if changed {
        let rows = rows.as_slice();
        // SAFETY: as many rows as it is told.
        unsafe { nbffi_unwind_rows(rows.as_ptr(), rows.len() as c_uint) };
    }
}

/// Tells the signal handlers where compiled code may be.
fn tell_ranges(maps: &mut Maps) {
    // The next check tries again.
    let Ok(found) = maps.executable(lua::lua_pcall as *const () as usize) else {
        return;
    };
    let (start, end) = found.object;
    let count = (found.bounds.len() / 2) as c_uint;
    // SAFETY: as many pairs of bounds as it is told.
    unsafe {
        nbffi_unwind_ranges(
            found.bounds.as_ptr(),
            count,
            start,
            end,
            found.is_library.into(),
        );
    }
}
