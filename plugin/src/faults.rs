//! Keeps the handlers of faults (SIGSEGV, SIGBUS, SIGFPE, SIGILL) in an order in
//! which each fault finds the one that it is for.
//!
//! A JVM and Go make a null reference into an exception by such a handler, and
//! pass on what is not theirs to the handler that was there before. Others do not:
//! a crash reporter, or Python's `faulthandler`, takes every fault for a crash. If
//! it is installed after a language runtime, the next null reference ends the
//! process. So whoever lets foreign code run that may install handlers notes those
//! there are before, and calls [`Handlers::keep_order`] afterwards. If something has
//! come in front of a language runtime, a handler of this file is put in front of
//! it, which decides by the address of the code that failed:
//!
//! - In a library of Go's: the handlers from before, of which one is Go's.
//! - In the JVM, or in no library at all, as compiled Java: the JVM is asked.
//! - Otherwise, and if the JVM knows nothing of it: what was installed, the last
//!   one first. One that passes on the signal, by raising it again for instance,
//!   gets here once more, and the next one has its turn; after the last one, the
//!   handlers from before, then the system's default.
//!
//! This is for language runtimes and for the host; each library that has this crate
//! in it has a handler of its own, and treats those of others like any handler.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::{MaybeUninit, transmute};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The signals that faults cause.
const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
/// How many threads may be in the handler at a time and be told apart.
const THREADS: usize = 64;

/// `JVM_handle_linux_signal`: whether the JVM has dealt with a fault.
type AskJvm = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void, c_int) -> c_int;
type Handler = unsafe extern "C" fn(c_int);
type InfoHandler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Whose code a library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Jvm,
    Go,
    Other,
}

/// What is loaded.
#[derive(Debug, Default)]
struct Objects {
    ranges: Vec<(usize, usize, Kind)>,
    ask_jvm: Option<AskJvm>,
}

impl Objects {
    fn kind(&self, address: usize) -> Option<Kind> {
        let mut ranges = self.ranges.iter();
        let found = ranges.find(|(start, end, _)| (*start..*end).contains(&address));
        found.map(|(_, _, kind)| *kind)
    }

    fn has_language(&self) -> bool {
        self.ranges.iter().any(|(_, _, kind)| *kind != Kind::Other)
    }
}

/// The handlers of one signal, behind ours.
struct Order {
    /// What takes every fault for its own. The one that was installed last comes
    /// first.
    others: Vec<libc::sigaction>,
    /// What was there before: language runtimes, for instance. Likewise.
    earlier: Vec<libc::sigaction>,
    objects: &'static Objects,
}

/// For each signal, what the handler goes by. Never freed, as a handler may be in
/// it: there is one for each different order.
static ORDERS: [AtomicPtr<Order>; SIGNALS.len()] =
    [const { AtomicPtr::new(null_mut()) }; SIGNALS.len()];

/// What is not freed, to be used again. Locked while handlers are changed.
struct Known {
    objects: Vec<&'static Objects>,
    orders: Vec<&'static Order>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known {
    objects: Vec::new(),
    orders: Vec::new(),
});

/// The handlers of faults, at one moment.
pub struct Handlers([libc::sigaction; SIGNALS.len()]);

impl std::fmt::Debug for Handlers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses = self.0.map(|action| action.sa_sigaction);
        formatter.debug_tuple("Handlers").field(&addresses).finish()
    }
}

impl PartialEq for Handlers {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs
            .into_iter()
            .all(|(a, b)| a.sa_sigaction == b.sa_sigaction)
    }
}

impl Handlers {
    /// Those there are now.
    pub fn now() -> Self {
        Self(SIGNALS.map(action))
    }

    /// Lets language runtimes come before what has been installed since. With
    /// `always`, also those that are not there yet: a handler that is to be
    /// installed after this finds ours, not what may be taken out again.
    pub fn keep_order(&self, always: bool) {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if *self == Self::now() {
            return;
        }
        let objects = known.objects();
        if !always && !objects.has_language() {
            return;
        }
        for (index, (signal, before)) in SIGNALS.into_iter().zip(&self.0).enumerate() {
            let now = action(signal);
            let is_languages = matches!(objects.kind(now.sa_sigaction), Some(Kind::Jvm | Kind::Go));
            if now.sa_sigaction == before.sa_sigaction || is_ours(&now) || is_languages {
                continue;
            }
            let mut order = Order {
                others: vec![now],
                earlier: Vec::new(),
                objects,
            };
            if !is_ours(before) {
                order.earlier.push(*before);
            }
            if let Some(old) = current(index) {
                add(&mut order.others, &old.others);
                // What has come between passes on to ours: it is not to get the
                // same twice.
                add(&mut order.earlier, &old.earlier);
            }
            // Release: partner of the Acquire in `current`.
            ORDERS[index].store(known.order(order), Ordering::Release);
            install(signal);
        }
    }

    /// Puts back those of before, and forgets what is there now: it has just been
    /// taken out by whoever had installed it. `installed` is what that was.
    pub fn put_back(&self, installed: &Self) {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = known.objects();
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            let (before, gone) = (&self.0[index], &installed.0[index]);
            if let Some(old) = current(index) {
                let mut others = old.others.clone();
                others.retain(|other| other.sa_sigaction != gone.sa_sigaction);
                let order = Order {
                    others,
                    earlier: old.earlier.clone(),
                    objects,
                };
                // Release: partner of the Acquire in `current`.
                ORDERS[index].store(known.order(order), Ordering::Release);
            }
            if before.sa_sigaction != gone.sa_sigaction {
                // SAFETY: an action that was this signal's a moment ago.
                unsafe { libc::sigaction(signal, before, null_mut()) };
            }
        }
    }
}

/// Whether anybody handles a signal.
pub fn is_handled(signal: c_int) -> bool {
    action(signal).sa_sigaction != libc::SIG_DFL
}

fn addresses(actions: &[libc::sigaction]) -> impl Iterator<Item = usize> + '_ {
    actions.iter().map(|action| action.sa_sigaction)
}

/// Adds those that are not there yet.
fn add(to: &mut Vec<libc::sigaction>, more: &[libc::sigaction]) {
    for action in more {
        if addresses(to).all(|known| known != action.sa_sigaction) {
            to.push(*action);
        }
    }
}

fn action(signal: c_int) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: asks only; all zeroes, which is the default, if it is no signal.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_fault as InfoHandler as usize
}

fn install(signal: c_int) {
    let mut ours = action(signal);
    ours.sa_sigaction = on_fault as InfoHandler as usize;
    // NODEFER: one that passes on a signal by raising it expects it to come at
    // once. ONSTACK: Go's code runs on small stacks.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: a set that sigfillset initialises; a handler of this type.
    unsafe {
        libc::sigfillset(&mut ours.sa_mask);
        for fault in SIGNALS.into_iter().chain([libc::SIGTRAP, libc::SIGABRT]) {
            libc::sigdelset(&mut ours.sa_mask, fault);
        }
        libc::sigaction(signal, &ours, null_mut());
    }
}

fn current(index: usize) -> Option<&'static Order> {
    // Acquire: partner of the Release of who made it.
    // SAFETY: null, or never freed.
    unsafe { ORDERS[index].load(Ordering::Acquire).as_ref() }
}

impl Known {
    /// What is loaded now.
    fn objects(&mut self) -> &'static Objects {
        let objects = Objects::now();
        let known = self.objects.iter().find(|o| o.ranges == objects.ranges);
        known.copied().unwrap_or_else(|| {
            let objects: &'static Objects = Box::leak(Box::new(objects));
            self.objects.push(objects);
            objects
        })
    }

    fn order(&mut self, order: Order) -> *mut Order {
        let is_same = |other: &&&'static Order| {
            std::ptr::eq(other.objects, order.objects)
                && addresses(&other.others).eq(addresses(&order.others))
                && addresses(&other.earlier).eq(addresses(&order.earlier))
        };
        let known = self.orders.iter().find(is_same).copied();
        let known = known.unwrap_or_else(|| {
            let order: &'static Order = Box::leak(Box::new(order));
            self.orders.push(order);
            order
        });
        std::ptr::from_ref(known).cast_mut()
    }
}

/// A library: its name, and where its code is.
struct Library(CString, Vec<(usize, usize)>);

/// Notes a library. Nothing of the dynamic linker may be called here: it holds a
/// lock.
unsafe extern "C" fn note_library(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    libraries: *mut c_void,
) -> c_int {
    // SAFETY: as `libraries` has passed it; the information lives while this runs.
    let (info, libraries) = unsafe { (&*info, &mut *libraries.cast::<Vec<Library>>()) };
    let segments = match info.dlpi_phdr.is_null() {
        true => &[],
        // SAFETY: that many headers.
        false => unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) },
    };
    let name = match info.dlpi_name.is_null() {
        true => CString::default(),
        // SAFETY: a terminated text.
        false => unsafe { CStr::from_ptr(info.dlpi_name) }.to_owned(),
    };
    let is_code = |s: &&libc::Elf64_Phdr| s.p_type == libc::PT_LOAD && s.p_flags & libc::PF_X != 0;
    let range = |s: &libc::Elf64_Phdr| {
        let start = (info.dlpi_addr + s.p_vaddr) as usize;
        (start, start + s.p_memsz as usize)
    };
    let code = segments.iter().filter(is_code).map(range).collect();
    libraries.push(Library(name, code));
    0
}

impl Objects {
    fn now() -> Self {
        let mut libraries: Vec<Library> = Vec::new();
        // SAFETY: the callback gets what it expects, and does not unwind.
        unsafe {
            libc::dl_iterate_phdr(Some(note_library), (&raw mut libraries).cast());
        }
        let mut objects = Self::default();
        for Library(name, code) in libraries {
            let ask_jvm = symbol(&name, c"JVM_handle_linux_signal");
            let kind = match ask_jvm.is_null() {
                false => Kind::Jvm,
                // Exported by everything that is built with cgo.
                true if !symbol(&name, c"crosscall2").is_null() => Kind::Go,
                true => Kind::Other,
            };
            if kind == Kind::Jvm {
                // SAFETY: the function has this type, in all versions of the JDK.
                objects.ask_jvm = Some(unsafe { transmute::<*mut c_void, AskJvm>(ask_jvm) });
            }
            let ranges = code.into_iter().map(|(start, end)| (start, end, kind));
            objects.ranges.extend(ranges);
        }
        objects
    }
}

/// A function of one library itself, not of those that it needs.
fn symbol(library: &CStr, name: &CStr) -> *mut c_void {
    if library.is_empty() {
        return null_mut();
    }
    // SAFETY: terminated texts; the library is loaded, and stays so.
    unsafe {
        let object = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if object.is_null() {
            return null_mut();
        }
        let found = libc::dlsym(object, name.as_ptr());
        libc::dlclose(object);
        let mut of = MaybeUninit::<libc::Dl_info>::zeroed();
        if found.is_null() || libc::dladdr(found, of.as_mut_ptr()) == 0 {
            return null_mut();
        }
        let of = of.assume_init().dli_fname.cast::<c_char>();
        match !of.is_null() && CStr::from_ptr(of) == library {
            true => found,
            false => null_mut(),
        }
    }
}

// In the handler.

/// A thread that is in the handler.
struct Visit {
    thread: AtomicI32,
    /// An address in the frame of the first of its handlers.
    frame: AtomicUsize,
    /// Which of the others is the next to be called.
    next: AtomicUsize,
}

static VISITS: [Visit; THREADS] = [const {
    Visit {
        thread: AtomicI32::new(0),
        frame: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
    }
}; THREADS];

/// The visit of a thread, and whether this is within it. Without one, if too many
/// threads are in here.
fn visit(thread: i32, frame: usize) -> Option<(&'static Visit, bool)> {
    // Relaxed, here and below: what a thread has noted of itself only that thread
    // reads.
    for visit in &VISITS {
        if visit.thread.load(Ordering::Relaxed) == thread {
            // A handler may have left by longjmp: then this is no deeper.
            return Some((visit, frame < visit.frame.load(Ordering::Relaxed)));
        }
    }
    let relaxed = Ordering::Relaxed;
    let mut visits = VISITS.iter();
    let free = visits.find(|v| {
        v.thread
            .compare_exchange(0, thread, relaxed, relaxed)
            .is_ok()
    });
    free.map(|visit| (visit, false))
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let index = SIGNALS.iter().position(|&known| known == signal);
    let Some((index, order)) = index.and_then(|index| Some((index, current(index)?))) else {
        return;
    };
    // SAFETY: no arguments; errno is the thread's own.
    let (thread, errno) = unsafe { (libc::gettid(), *libc::__errno_location()) };
    let frame = (&raw const index).addr();
    let visited = visit(thread, frame);
    let is_within = visited.is_some_and(|(_, is_within)| is_within);
    // SAFETY: what the kernel, or whoever passes it on, gave us.
    unsafe {
        let is_fault = !info.is_null() && (*info).si_code > 0 && !context.is_null();
        let claim = match is_fault && !is_within {
            true => order.objects.claim(program_counter(context)),
            false => Claim::None,
        };
        let first = match claim {
            Claim::Go => order.others.len(),
            Claim::Jvm | Claim::None => 0,
        };
        if let (Some((visit, _)), false) = (visited, is_within) {
            visit.frame.store(frame, Ordering::Relaxed);
            visit.next.store(first, Ordering::Relaxed);
        }
        if claim != Claim::Jvm || !jvm_handles(order.objects, signal, info, context) {
            let next = |(visit, _): (&Visit, bool)| visit.next.fetch_add(1, Ordering::Relaxed);
            let mut handlers = order.others.iter().chain(&order.earlier);
            match handlers.nth(visited.map_or(first, next)) {
                Some(handler) => pass(handler, signal, info, context),
                None => end(signal, info),
            }
        }
        *libc::__errno_location() = errno;
    }
    if let (Some((visit, _)), false) = (visited, is_within) {
        visit.thread.store(0, Ordering::Relaxed);
    }
}

/// Who may know what to do about a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    None,
    Jvm,
    Go,
}

impl Objects {
    fn claim(&self, address: usize) -> Claim {
        match self.kind(address) {
            Some(Kind::Go) => Claim::Go,
            Some(Kind::Jvm) | None if self.ask_jvm.is_some() => Claim::Jvm,
            _ => Claim::None,
        }
    }
}

unsafe fn jvm_handles(
    objects: &Objects,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) -> bool {
    // SAFETY: a function of the JVM's that is made to be called from handlers.
    let ask = |ask: AskJvm| unsafe { ask(signal, info, context, 0) } != 0;
    objects.ask_jvm.is_some_and(ask)
}

unsafe fn program_counter(context: *mut c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: what the kernel passes to a handler.
    return unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] as usize };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    return unsafe { (*context).uc_mcontext.pc as usize };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        0
    }
}

/// Calls another handler.
unsafe fn pass(
    to: &libc::sigaction,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: a handler that was installed for this signal, with the arguments
    // that its flags say.
    unsafe {
        match to.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => end(signal, info),
            handler if to.sa_flags & libc::SA_SIGINFO != 0 => {
                transmute::<usize, InfoHandler>(handler)(signal, info, context);
            }
            handler => transmute::<usize, Handler>(handler)(signal),
        }
    }
}

/// Lets the system do what it does to a process that has no handler: at once if
/// the signal was sent, when the code that failed fails again otherwise.
unsafe fn end(signal: c_int, info: *mut libc::siginfo_t) {
    // SAFETY: all zeroes are the default action; `info` is the kernel's.
    unsafe {
        libc::sigaction(signal, MaybeUninit::zeroed().as_ptr(), null_mut());
        if info.is_null() || (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}
