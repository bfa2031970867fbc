//! VM groups: which runtimes share Lua VMs.
//!
//! A group belongs to one pool and has one VM on each of its threads. VMs are
//! made when the group is, by every thread at its next pause, and again when
//! one is spent; they are closed by their threads when the group's last
//! runtime is.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::vm::{Spent, Vm};
use super::watchdog::Watched;
use nonblocking_ffi_core::pool::{self, Chores, Pool, ThreadId};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::slot::deadline_after;
use nonblocking_ffi_core::wake::{Mailbox, outbox};

/// nginx's level for what an operator should know.
pub const WARN: u8 = 5;
/// nginx's level for errors.
const ERR: u8 = 4;

/// What bounds the VMs of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The most memory of a VM, in bytes.
    pub max_memory: usize,
    /// A VM that has more than this after a task is replaced.
    pub recycle_memory: usize,
    /// A VM that has run so many tasks is replaced.
    pub recycle_tasks: u64,
    /// How many seconds the start of a VM may take, init code included.
    pub init_seconds: f64,
}

impl Limits {
    /// When something must have ended that begins now and may take as long as
    /// the start of a VM.
    pub fn init_deadline(&self) -> u64 {
        deadline_after(now_ns(), self.init_seconds)
    }
}

/// A group.
#[derive(Debug)]
pub struct Group {
    /// Tells groups of a pool apart.
    key: Vec<u8>,
    /// The pool's name.
    pool: String,
    /// Bounds of its VMs.
    pub limits: Limits,
    /// `package.path` of its VMs.
    pub package_path: Vec<u8>,
    /// `package.cpath` of its VMs.
    pub package_cpath: Vec<u8>,
    /// The path of our shared object.
    pub core: Vec<u8>,
    /// What `vm/boot.lua` is to know, encoded.
    pub boot: Vec<u8>,
    mailbox: &'static Mailbox,
    /// The numbers of the runtimes that use it.
    users: Mutex<Vec<u32>>,
    /// Whether a first VM has started, so that the others may.
    proven: AtomicBool,
    closed: AtomicBool,
    /// Its figures.
    pub figures: Figures,
    /// Of each thread.
    seats: Box<[SeatFigures]>,
}

/// What a group counts.
#[derive(Debug, Default)]
pub struct Figures {
    /// VMs that were made.
    pub made: AtomicU64,
    /// VMs that were replaced since they hit the memory limit,
    pub memory: AtomicU64,
    /// since their code had to be stopped, or had changed them,
    pub stopped: AtomicU64,
    /// or since they had served their time.
    pub recycled: AtomicU64,
}

impl Figures {
    /// In the order of their declaration.
    pub fn all(&self) -> [u64; 4] {
        // Relaxed: figures.
        [&self.made, &self.memory, &self.stopped, &self.recycled]
            .map(|figure| figure.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
struct SeatFigures {
    vm: Mutex<Option<Arc<Watched>>>,
    used: AtomicUsize,
}

/// How to make a group.
#[derive(Debug)]
pub struct Config {
    /// See [`Group`].
    pub key: Vec<u8>,
    /// See [`Group`].
    pub limits: Limits,
    /// See [`Group`].
    pub package_path: Vec<u8>,
    /// See [`Group`].
    pub package_cpath: Vec<u8>,
    /// See [`Group`].
    pub core: Vec<u8>,
    /// See [`Group`].
    pub boot: Vec<u8>,
}

static GROUPS: Mutex<Vec<Arc<Group>>> = Mutex::new(Vec::new());

thread_local! {
    /// The VMs of this thread. They are boxed: the list may change while one of
    /// them runs.
    #[allow(clippy::vec_box, reason = "addresses must not change")]
    static VMS: RefCell<Vec<Box<Vm>>> = const { RefCell::new(Vec::new()) };
}

fn groups() -> MutexGuard<'static, Vec<Arc<Group>>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// The group of a key in a pool, made if there is none, for one user more:
    /// a runtime's number.
    pub fn obtain(
        pool: &'static Pool,
        mailbox: &'static Mailbox,
        config: Config,
        user: u32,
    ) -> Arc<Self> {
        let mut groups = groups();
        let name = &pool.config().name;
        let known = groups
            .iter()
            .find(|group| group.key == config.key && group.pool == *name);
        if let Some(group) = known {
            group.users().push(user);
            return group.clone();
        }
        let threads = pool.config().threads;
        let group = Arc::new(Self {
            key: config.key,
            pool: name.clone(),
            limits: config.limits,
            package_path: config.package_path,
            package_cpath: config.package_cpath,
            core: config.core,
            boot: config.boot,
            mailbox,
            users: Mutex::new(vec![user]),
            proven: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            figures: Figures::default(),
            seats: (0..threads).map(|_| SeatFigures::default()).collect(),
        });
        groups.push(group.clone());
        pool.when_idle(Chores {
            is_due: has_garbage,
            some: collect_some,
        });
        group
    }

    /// One user less; the last one closes the group.
    pub fn leave(self: &Arc<Self>, pool: &'static Pool, user: u32) {
        let mut groups = groups();
        let mut users = self.users();
        users.retain(|other| *other != user);
        if users.is_empty() {
            groups.retain(|group| !Arc::ptr_eq(group, self));
            // Release: pairs with the Acquire in `reconcile`.
            self.closed.store(true, Ordering::Release);
            drop(groups);
            pool.broadcast(reconcile);
        }
    }

    fn users(&self) -> MutexGuard<'_, Vec<u32>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a runtime still uses it.
    pub fn serves(&self, user: u32) -> bool {
        self.users().contains(&user)
    }

    /// Has every thread of the pool make its VM, as one has succeeded.
    pub fn spread(&self, pool: &'static Pool) {
        // Release: pairs with the Acquire in `reconcile`.
        self.proven.store(true, Ordering::Release);
        pool.broadcast(reconcile);
    }

    /// VMs that there are, the bytes that they use, and how many run code that
    /// should have ended but cannot be stopped.
    pub fn totals(&self) -> (usize, usize, usize) {
        let (mut live, mut used, mut stuck) = (0, 0, 0);
        for seat in &self.seats {
            if let Some(watched) = &*seat.vm() {
                live += 1;
                // Relaxed: a figure.
                used += seat.used.load(Ordering::Relaxed);
                stuck += usize::from(watched.is_stuck());
            }
        }
        (live, used, stuck)
    }

    /// The mailbox of the client that made it.
    pub fn mailbox(&self) -> &'static Mailbox {
        self.mailbox
    }

    /// Writes to nginx's error log.
    pub fn log(&self, level: u8, text: &[u8]) {
        self.mailbox.log(level, "lua", text);
    }

    /// Has the event loop take a turn if it sleeps; true if it did.
    pub fn rouse_event_loop(&self) -> bool {
        self.mailbox.rouse()
    }

    fn note_vm(&self, seat: ThreadId, vm: Option<&Vm>) {
        if let Some(figures) = self.seats.get(seat.index) {
            *figures.vm() = vm.map(|vm| vm.watched().clone());
        }
    }

    fn note_memory(&self, seat: ThreadId, vm: &Vm) {
        if let Some(figures) = self.seats.get(seat.index) {
            // Relaxed: a figure.
            figures.used.store(vm.memory(), Ordering::Relaxed);
        }
    }
}

impl SeatFigures {
    fn vm(&self) -> MutexGuard<'_, Option<Arc<Watched>>> {
        self.vm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `work` with the calling thread's VM of a group, which is made if need
/// be; then replaces the VM if it is spent.
pub fn with_vm<T>(
    group: &Arc<Group>,
    seat: ThreadId,
    work: impl FnOnce(&Vm) -> T,
) -> Result<T, String> {
    let vm = find_or_make(group, seat)?;
    // SAFETY: the VM is this thread's, and is dropped below or by `reconcile`
    // only, neither of which happens while it runs.
    let vm = unsafe { &*vm };
    let done = work(vm);
    if vm.is_spent().is_none() && vm.has_outgrown() {
        // What the task has responded must not wait for that. What is posted then
        // finds this thread free.
        pool::keep_inbox();
        outbox::flush();
        vm.collect_all();
    }
    let Some(spent) = vm.is_spent() else {
        group.note_memory(seat, vm);
        return Ok(done);
    };
    // What the task has responded must not wait for a new VM.
    outbox::flush();
    // Relaxed: figures.
    let figures = &group.figures;
    let (counter, text) = match spent {
        Spent::Memory => (&figures.memory, "it hit its memory limit"),
        Spent::Stopped => (&figures.stopped, "its code had to be stopped"),
        Spent::Changed => (
            &figures.stopped,
            "a task has changed it by the debug library",
        ),
        Spent::Recycled => (&figures.recycled, ""),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    if !text.is_empty() {
        group.log(WARN, format!("a VM is replaced: {text}").as_bytes());
    }
    discard(seat, |other| std::ptr::eq(other, vm));
    if let Err(why) = find_or_make(group, seat) {
        group.log(ERR, format!("no new VM: {why}").as_bytes());
    }
    Ok(done)
}

fn find_or_make(group: &Arc<Group>, seat: ThreadId) -> Result<*const Vm, String> {
    let found = VMS.with_borrow(|vms| {
        let found = vms.iter().find(|vm| Arc::ptr_eq(vm.group(), group));
        found.map(|vm| std::ptr::from_ref::<Vm>(vm))
    });
    if let Some(vm) = found {
        return Ok(vm);
    }
    let vm = Vm::new(group)?;
    let pointer = std::ptr::from_ref::<Vm>(&vm);
    group.figures.made.fetch_add(1, Ordering::Relaxed);
    group.note_vm(seat, Some(&vm));
    group.note_memory(seat, &vm);
    VMS.with_borrow_mut(|vms| vms.push(vm));
    Ok(pointer)
}

/// Drops VMs of this thread. Outside of the list's borrow: finalizers run.
fn discard(seat: ThreadId, which: impl Fn(&Vm) -> bool) {
    let dropped: Vec<_> = VMS.with_borrow_mut(|vms| vms.extract_if(.., |vm| which(vm)).collect());
    for vm in dropped {
        let group = vm.group().clone();
        drop(vm);
        // Until then its finalizers run, and may be stuck.
        group.note_vm(seat, None);
    }
}

/// Whether a VM of this thread has garbage that is worth collecting.
fn has_garbage() -> bool {
    VMS.with_borrow(|vms| vms.iter().any(|vm| vm.wants_collection()))
}

/// Collects some of it.
fn collect_some(seat: ThreadId) {
    let group = VMS.with_borrow(|vms| {
        let vm = vms.iter().find(|vm| vm.wants_collection());
        vm.map(|vm| vm.group().clone())
    });
    // The VM is there, so it need not be made.
    let _ = group.map(|group| with_vm(&group, seat, Vm::collect));
}

/// Makes the VMs that this thread lacks, and closes those whose group is.
fn reconcile(seat: ThreadId) {
    // Acquire: pairs with the Release in `leave`.
    discard(seat, |vm| vm.group().closed.load(Ordering::Acquire));
    // Acquire: pairs with the Release in `spread`. Init code that does not end
    // keeps the thread that has tried it first, not all of them.
    let is_ours =
        |group: &&Arc<Group>| group.pool == seat.pool && group.proven.load(Ordering::Acquire);
    let here: Vec<_> = groups().iter().filter(is_ours).cloned().collect();
    for group in here {
        if let Err(why) = find_or_make(&group, seat) {
            group.log(ERR, format!("cannot start a VM: {why}").as_bytes());
        }
    }
}
