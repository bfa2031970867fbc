//! Stops Lua code whose caller has given up.
//!
//! One thread looks every [`TICK`] at what the VMs of the process run, while
//! they run anything, and sends a signal to a thread whose task was cancelled
//! or is past its deadline; `guard.c` says what the signal does. Code that asks
//! `worker.is_cancelled()` has [`GRACE`] to end by itself. Code that cannot be
//! stopped, since it is in a C function, is reported as stuck.
//!
//! What it costs: two stores and a fence per task, and the watchdog's own
//! looks, which end a second after the last task.

use std::ffi::{c_int, c_uint};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mlua::ffi as lua;

use super::unwind::{Row, Rows};
use nonblocking_ffi_core::pool::spawn_helper;
use nonblocking_ffi_core::sync::{AtomicU32, AtomicU64, Ordering, fence, now_ns};
use nonblocking_ffi_core::task::arena;
use nonblocking_ffi_core::wake::Mailbox;

/// How often it looks.
const TICK: Duration = Duration::from_millis(10);
/// How long after its deadline a task may run on.
const GRACE: u32 = 3;
/// After so many looks in vain, a task is stuck.
const STUCK: u32 = 50;
/// After so many looks at nothing, it sleeps.
const IDLE: u32 = 100;
/// The most executable mappings that it tells the guard of.
const MAX_RANGES: usize = 2048;
/// nginx's level for what an operator should know.
const WARN: u8 = 5;

/// What a VM runs that is no task: its own start. No slot has such a handle.
pub const NO_TASK: u64 = u64::MAX;

#[repr(C)]
#[derive(Debug)]
pub struct Guard {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn nbffi_guard_install() -> c_int;
    fn nbffi_guard_new(state: *mut lua::lua_State) -> *mut Guard;
    fn nbffi_guard_free(guard: *mut Guard);
    fn nbffi_guard_stop(guard: *mut Guard, run: c_int, thread: libc::pid_t);
    fn nbffi_guard_nest(guard: *mut Guard, nested: c_int);
    fn nbffi_guard_unknown(guard: *mut Guard) -> usize;
    fn nbffi_guard_is_stopped(guard: *const Guard) -> c_int;
    fn nbffi_guard_call(guard: *mut Guard, run: c_int, nargs: c_int, errfunc: c_int) -> c_int;
    fn nbffi_guard_collect(guard: *mut Guard, run: c_int) -> c_int;
    fn nbffi_guard_close(guard: *mut Guard, run: c_int) -> c_int;
    fn nbffi_guard_ranges(
        bounds: *const usize,
        count: c_uint,
        luajit_start: usize,
        luajit_end: usize,
        luajit_is_alone: c_int,
    );
    fn nbffi_guard_rows(rows: *const Row, count: c_uint);
}

/// How a guarded call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The function returned.
    Returned,
    /// It raised an error, which is on the stack.
    Raised,
    /// The VM was left in the middle of something; only its memory may be
    /// released.
    Abandoned,
}

impl Ended {
    fn of(status: c_int) -> Self {
        match status {
            lua::LUA_OK => Self::Returned,
            -1 => Self::Abandoned,
            _ => Self::Raised,
        }
    }
}

/// What the watchdog knows of one VM. The VM's thread writes, it reads.
#[derive(Debug)]
pub struct Watched {
    guard: NonNull<Guard>,
    /// The VM's thread.
    thread: libc::pid_t,
    /// The handle of the task that runs, [`NO_TASK`], or 0.
    task: AtomicU64,
    /// When it must have ended.
    deadline_ns: AtomicU64,
    /// Its number, for the guard.
    run: AtomicU32,
    /// Whether what runs should have ended long ago: 1 if so.
    stuck: AtomicU32,
}

// SAFETY: the guard is used by the VM's thread, but for `nbffi_guard_stop`,
// which is atomic and called only while the VM is in the list of the watched.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

impl Watched {
    /// Watches a VM of the calling thread from now on. The error says why that
    /// cannot be done; a later VM may have more luck. The watchdog warns through
    /// `mailbox` of what it cannot do here.
    ///
    /// # Safety
    /// `state` is live until `forget` is called.
    pub unsafe fn new(state: *mut lua::lua_State, mailbox: &Mailbox) -> Result<Arc<Self>, String> {
        let watchdog = start(mailbox)?;
        // SAFETY: by the contract.
        let guard = NonNull::new(unsafe { nbffi_guard_new(state) });
        let watched = Arc::new(Self {
            guard: guard.ok_or("no memory")?,
            // SAFETY: takes nothing and cannot fail.
            thread: unsafe { libc::gettid() },
            task: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            run: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
        });
        watchdog.unblock();
        watchdog.lock().watched.push(watched.clone());
        Ok(watched)
    }

    /// Ends the watch, before the VM ends.
    pub fn forget(&self) {
        if let Some(watchdog) = WATCHDOG.get() {
            let mut all = watchdog.lock();
            all.watched.retain(|other| !std::ptr::eq(&**other, self));
        }
    }

    /// Whether the task that runs cannot be stopped.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) != 0
    }

    /// Whether the VM was told to stop, and should not be used any more.
    pub fn is_stopped(&self) -> bool {
        // SAFETY: the guard lives as long as this.
        unsafe { nbffi_guard_is_stopped(self.guard.as_ptr()) != 0 }
    }

    /// Says whether the VM has called into another runtime.
    pub fn nest(&self, nested: bool) {
        // SAFETY: as above; on the VM's thread.
        unsafe { nbffi_guard_nest(self.guard.as_ptr(), nested.into()) };
    }

    /// Calls the function on top of the VM's stack, below its `nargs`
    /// arguments, without results; `errfunc` is the place of the message
    /// handler. What runs is `task`, until `deadline_ns`.
    ///
    /// # Safety
    /// On the VM's thread, with such a stack; and no Rust frame with something
    /// to drop may be between this and the Lua code.
    pub unsafe fn call(&self, task: u64, deadline_ns: u64, nargs: c_int, errfunc: c_int) -> Ended {
        let run = self.begin(task, deadline_ns);
        // SAFETY: by the contract.
        let status = unsafe { nbffi_guard_call(self.guard.as_ptr(), run, nargs, errfunc) };
        self.end();
        Ended::of(status)
    }

    /// Calls the function on top of the VM's stack, which collects garbage, until
    /// `deadline_ns`. Finalizers that run in there are stopped as in `close`.
    ///
    /// # Safety
    /// As for `call`.
    pub unsafe fn collect(&self, deadline_ns: u64) -> Ended {
        let run = self.begin(NO_TASK, deadline_ns);
        // SAFETY: by the contract.
        let status = unsafe { nbffi_guard_collect(self.guard.as_ptr(), run) };
        self.end();
        Ended::of(status)
    }

    /// Closes the VM. True if its finalizers have all run; false if they had to
    /// be stopped, at `deadline_ns`.
    ///
    /// # Safety
    /// On the VM's thread, which uses the state no more; and no Rust frame with
    /// something to drop may be between this and the finalizers.
    pub unsafe fn close(&self, deadline_ns: u64) -> bool {
        let run = self.begin(NO_TASK, deadline_ns);
        // SAFETY: by the contract.
        let status = unsafe { nbffi_guard_close(self.guard.as_ptr(), run) };
        self.end();
        status == 0
    }

    /// Notes what runs from now on. Returns its number.
    fn begin(&self, task: u64, deadline_ns: u64) -> c_int {
        // Relaxed: only this thread writes it.
        let run = self.run.load(Ordering::Relaxed) % i32::MAX as u32 + 1;
        self.run.store(run, Ordering::Relaxed);
        self.deadline_ns.store(deadline_ns, Ordering::Relaxed);
        // Release: pairs with the Acquire in `Watchdog::look`.
        self.task.store(task, Ordering::Release);
        if let Some(watchdog) = WATCHDOG.get() {
            watchdog.rouse();
        }
        run as c_int
    }

    fn end(&self) {
        self.task.store(0, Ordering::Relaxed);
        self.stuck.store(0, Ordering::Relaxed);
    }

    /// The task has ended, whatever the VM still does.
    pub fn responded(&self) {
        self.deadline_ns.store(u64::MAX, Ordering::Relaxed);
        self.task.store(NO_TASK, Ordering::Relaxed);
    }

    /// Whether what runs should not any more. As the watchdog sees it.
    fn is_overdue(&self, task: u64, now: u64) -> bool {
        self.deadline_ns.load(Ordering::Relaxed) <= now || arena::is_unwanted(task)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: nobody has this any more: neither the VM nor the watchdog.
        unsafe { nbffi_guard_free(self.guard.as_ptr()) };
    }
}

struct Watchdog {
    signal: c_int,
    state: Mutex<State>,
    roused: Condvar,
    /// 1 while it sleeps until it is roused.
    asleep: AtomicU32,
    maps: Mutex<Maps>,
}

#[derive(Default)]
struct State {
    watched: Vec<Arc<Watched>>,
}

/// The watchdog, once its thread has been started.
static WATCHDOG: OnceLock<&'static Watchdog> = OnceLock::new();

/// The watchdog; its thread is started by the first VM. The error is not kept: a
/// thread that the system has refused once is asked for again.
fn start(mailbox: &Mailbox) -> Result<&'static Watchdog, String> {
    static MADE: Mutex<Option<&'static Watchdog>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let watchdog = match *made {
        Some(watchdog) => watchdog,
        None => {
            // SAFETY: takes nothing; the handler does nothing for other threads.
            let signal = unsafe { nbffi_guard_install() };
            if signal == 0 {
                return Err("no signal is free to stop Lua code with".to_owned());
            }
            made.insert(Box::leak(Box::new(Watchdog {
                signal,
                state: Mutex::default(),
                roused: Condvar::new(),
                asleep: AtomicU32::new(0),
                maps: Mutex::default(),
            })))
        }
    };
    watchdog.maps().open(mailbox);
    if WATCHDOG.get().is_none() {
        spawn_helper("watchdog", || watchdog.live())?;
        // Nobody else has: the lock is held.
        let _ = WATCHDOG.set(watchdog);
    }
    Ok(watchdog)
}

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the calling thread get the signal.
    fn unblock(&self) {
        // SAFETY: the set is initialised by sigemptyset, and `how` is valid.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, self.signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
    }

    /// Called when a VM has begun to run something.
    fn rouse(&self) {
        // SeqCst: orders the store of the task before this look; partner of the
        // fence in `live`. Either this sees that it sleeps, or it sees the task.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            let _state = self.lock();
            self.asleep.store(0, Ordering::Relaxed);
            self.roused.notify_one();
        }
    }

    fn live(&self) {
        let mut idle = 0;
        let mut strikes: Vec<(u32, u32)> = Vec::new();
        let mut rows = Rows::default();
        loop {
            let mut state = self.lock();
            if self.look(&state, &mut strikes, &mut rows) {
                idle = 0;
            } else {
                idle += 1;
            }
            if idle >= IDLE {
                self.asleep.store(1, Ordering::Relaxed);
                // SeqCst: partner of the fence in `rouse`.
                fence(Ordering::SeqCst);
                let runs = |watched: &Arc<Watched>| watched.task.load(Ordering::Relaxed) != 0;
                if state.watched.iter().any(runs) {
                    self.asleep.store(0, Ordering::Relaxed);
                }
                while self.asleep.load(Ordering::Relaxed) != 0 {
                    let woken = self.roused.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
                idle = 0;
            }
            drop(state);
            std::thread::sleep(TICK);
        }
    }

    /// One look. `strikes` has for each VM the number of what runs and how
    /// often it should have ended. True if anything runs.
    fn look(&self, state: &State, strikes: &mut Vec<(u32, u32)>, rows: &mut Rows) -> bool {
        let now = now_ns();
        strikes.resize(state.watched.len(), (0, 0));
        let mut some = false;
        let mut mapped = false;
        for (watched, strikes) in state.watched.iter().zip(strikes) {
            // The number before the task: if the task is still there after,
            // it is this one's.
            let run = watched.run.load(Ordering::Relaxed);
            // Acquire: pairs with the Release in `Watched::call`.
            let task = watched.task.load(Ordering::Acquire);
            some |= task != 0;
            if task == 0 || !watched.is_overdue(task, now) {
                *strikes = (run, 0);
                continue;
            }
            if strikes.0 != run {
                *strikes = (run, 0);
            }
            strikes.1 += 1;
            if strikes.1 > GRACE + 1 && !mapped {
                mapped = true;
                tell_ranges(&mut self.maps());
                tell_rows(state, rows);
            }
            if strikes.1 > STUCK {
                watched.stuck.store(1, Ordering::Relaxed);
            }
            if strikes.1 > GRACE {
                // SAFETY: the guard lives as long as `watched`, and the thread
                // for ever. If it has begun something else meanwhile, `run` is
                // not its number, and the handler does nothing.
                unsafe {
                    nbffi_guard_stop(watched.guard.as_ptr(), run as c_int, watched.thread);
                }
            }
        }
        some
    }
}

/// Where the kernel tells what is mapped where.
const MAPS: &str = "/proc/self/maps";

/// That file, kept open: it may be needed when there are no descriptors left.
#[derive(Debug, Default)]
struct Maps {
    file: Option<File>,
    /// Whether the log says that it cannot be opened.
    is_reported: bool,
}

impl Maps {
    /// Opens it, unless it is. Warns once if that fails; each VM tries again.
    fn open(&mut self, mailbox: &Mailbox) {
        if self.file.is_some() {
            return;
        }
        match File::open(MAPS) {
            Ok(file) => self.file = Some(file),
            Err(error) if !self.is_reported => {
                self.is_reported = true;
                let text = format!(
                    "{MAPS} cannot be read ({error}): until it can, loops that LuaJIT has \
                     compiled are not stopped when their callers have given up"
                );
                mailbox.log(WARN, "lua", text.as_bytes());
            }
            Err(_) => {}
        }
    }

    fn read(&mut self) -> io::Result<String> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(MAPS)?),
        };
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Tells the guard how to unwind the code that its handlers did not know.
fn tell_rows(state: &State, rows: &mut Rows) {
    let mut changed = rows.forget_unloaded();
    for watched in &state.watched {
        // SAFETY: the guard lives as long as `watched`.
        let address = unsafe { nbffi_guard_unknown(watched.guard.as_ptr()) };
        changed |= address != 0 && rows.learn(address);
    }
    if changed {
        let rows = rows.as_slice();
        // SAFETY: as many rows as it is told.
        unsafe { nbffi_guard_rows(rows.as_ptr(), rows.len() as c_uint) };
    }
}

/// Tells the guard where compiled code may be.
fn tell_ranges(maps: &mut Maps) {
    // It is asked again at the next look.
    let Ok(maps) = maps.read() else {
        return;
    };
    let bounds = executable_memory(&maps);
    let luajit = mapping_of(&maps, lua::lua_pcall as *const () as usize);
    // Not found: everything may be LuaJIT's.
    let (start, end, file) = luajit.unwrap_or((0, usize::MAX, ""));
    let program = std::fs::read_link("/proc/self/exe");
    let alone = !file.is_empty() && program.is_ok_and(|program| program != Path::new(file));
    // SAFETY: pairs of bounds, as many as it is told.
    unsafe {
        nbffi_guard_ranges(
            bounds.as_ptr(),
            (bounds.len() / 2) as c_uint,
            start,
            end,
            alone.into(),
        );
    }
}

/// The bounds of the mapping that has an address in it, and its file.
fn mapping_of(maps: &str, address: usize) -> Option<(usize, usize, &str)> {
    let hex = |text: &str| usize::from_str_radix(text, 16).ok();
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let file = fields.nth(4).unwrap_or_default();
        (start..end)
            .contains(&address)
            .then_some((start, end, file))
    })
}

/// The bounds of executable mappings without a file, from /proc/self/maps.
fn executable_memory(maps: &str) -> Vec<usize> {
    let mut bounds: Vec<usize> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(flags)) = (fields.next(), fields.next()) else {
            continue;
        };
        // Offset, device, inode; a sixth field names a file or a special
        // mapping such as [vdso].
        if !flags.contains('x') || fields.nth(3).is_some() {
            continue;
        }
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        if let (Some(start), Some(end)) = (hex(start), hex(end)) {
            if bounds.last() == Some(&start) {
                bounds.pop();
                bounds.push(end);
            } else if bounds.len() < 2 * MAX_RANGES {
                bounds.extend([start, end]);
            }
        }
    }
    bounds
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_maps() {
        let maps = "\
55d0c0a00000-55d0c0a5c000 r-xp 00000000 fe:01 123 /usr/sbin/nginx
7f0000000000-7f0000010000 r-xp 00000000 00:00 0
7f0000010000-7f0000020000 rwxp 00000000 00:00 0 
7f0000030000-7f0000040000 rw-p 00000000 00:00 0
7f0000040000-7f0000050000 r-xp 00000000 00:00 0
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                  [vdso]
";
        assert_eq!(
            executable_memory(maps),
            [
                0x7f00_0000_0000,
                0x7f00_0002_0000,
                0x7f00_0004_0000,
                0x7f00_0005_0000
            ]
        );
        let nginx = (0x55d0_c0a0_0000, 0x55d0_c0a5_c000, "/usr/sbin/nginx");
        assert_eq!(mapping_of(maps, 0x55d0_c0a0_0001), Some(nginx));
        let nameless = (0x7f00_0000_0000, 0x7f00_0001_0000, "");
        assert_eq!(mapping_of(maps, 0x7f00_0000_0000), Some(nameless));
        assert_eq!(mapping_of(maps, 0x7f00_0002_0000), None);
    }
}
