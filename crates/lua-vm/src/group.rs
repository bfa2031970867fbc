//! VM groups: which runtimes share Lua VMs.
//!
//! A group belongs to one pool and has one VM on each of its threads. Each thread makes
//! its VM at its next pause after the first VM of the group has started. It replaces the
//! VM when that is spent, and closes it when the group's last runtime is closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interrupter::Target;
use crate::shared::{Config, ERR, Shared, WARN};
use crate::vm::{Spent, Vm};
use nonblocking_ffi_core::pool::{self, Chores, Pool, ThreadId};
use nonblocking_ffi_core::runtime::Place;
use nonblocking_ffi_core::wake::outbox;

/// A group.
#[derive(Debug)]
pub struct Group {
    /// What its VMs share.
    pub shared: Arc<Shared>,
    /// The pool's name.
    pool: String,
    /// Whether a first VM has started, so that the others may.
    proven: AtomicBool,
    closed: AtomicBool,
    counters: Counters,
    /// By the number of the thread.
    threads: Box<[ThreadVm]>,
}

/// What a group counts: VMs that were made, and those that were replaced.
#[derive(Debug, Default)]
struct Counters {
    made: AtomicU64,
    out_of_memory: AtomicU64,
    stopped: AtomicU64,
    recycled: AtomicU64,
}

/// A thread's VM, as other threads see it.
#[derive(Debug, Default)]
struct ThreadVm {
    target: Mutex<Option<Arc<Target>>>,
    memory: AtomicUsize,
}

impl ThreadVm {
    fn target(&self) -> MutexGuard<'_, Option<Arc<Target>>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statistics of a group. `core/cdefs.lua` declares it, too.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub struct Stats {
    /// VMs that there are.
    pub vms: f64,
    /// Bytes that they use.
    pub memory: f64,
    /// VMs whose code should have ended but cannot be stopped.
    pub stuck: f64,
    /// VMs that were made.
    pub made: f64,
    /// VMs that were replaced because they hit the memory limit.
    pub out_of_memory: f64,
    /// VMs that were replaced because their code was stopped, or had changed them.
    pub stopped: f64,
    /// VMs that were replaced because they had served their time.
    pub recycled: f64,
}

static GROUPS: Mutex<Vec<Arc<Group>>> = Mutex::new(Vec::new());

fn groups() -> MutexGuard<'static, Vec<Arc<Group>>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A VM of this thread.
struct Local {
    group: Arc<Group>,
    vm: Rc<Vm>,
}

thread_local! {
    static VMS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

impl Group {
    /// The group of a key in a pool, with one user more: a runtime's number. It is
    /// made if there is none.
    pub fn obtain(place: Place, config: Config, user: u32) -> Arc<Self> {
        let mut groups = groups();
        let pool = place.pool;
        let name = &pool.config().name;
        let known = groups
            .iter()
            .find(|group| group.shared.config.key == config.key && group.pool == *name);
        let group = match known {
            Some(group) => group.clone(),
            None => {
                let group = Arc::new(Self {
                    shared: Arc::new(Shared::new(config, place)),
                    pool: name.clone(),
                    proven: AtomicBool::new(false),
                    closed: AtomicBool::new(false),
                    counters: Counters::default(),
                    threads: (0..pool.config().threads)
                        .map(|_| ThreadVm::default())
                        .collect(),
                });
                groups.push(group.clone());
                pool.when_idle(Chores {
                    is_due: has_garbage,
                    some: collect_some,
                });
                group
            }
        };
        group.shared.add_user(user);
        group
    }

    /// Removes a user. The last one closes the group.
    pub fn leave(self: &Arc<Self>, pool: &'static Pool, user: u32) {
        let mut groups = groups();
        if self.shared.remove_user(user) {
            groups.retain(|group| !Arc::ptr_eq(group, self));
            // Release: pairs with the Acquire in `reconcile`.
            self.closed.store(true, Ordering::Release);
            drop(groups);
            pool.broadcast(reconcile);
        }
    }

    /// Makes every thread of the pool start its VM, since one has succeeded.
    pub fn spread(&self, pool: &'static Pool) {
        // Release: pairs with the Acquire in `reconcile`.
        self.proven.store(true, Ordering::Release);
        pool.broadcast(reconcile);
    }

    /// Its statistics.
    pub fn stats(&self) -> Stats {
        // Relaxed, here and where they change: statistics.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let mut stats = Stats {
            made: count(&self.counters.made),
            out_of_memory: count(&self.counters.out_of_memory),
            stopped: count(&self.counters.stopped),
            recycled: count(&self.counters.recycled),
            ..Stats::default()
        };
        for thread in &self.threads {
            if let Some(target) = &*thread.target() {
                stats.vms += 1.0;
                stats.memory += thread.memory.load(Ordering::Relaxed) as f64;
                stats.stuck += f64::from(target.is_stuck());
            }
        }
        stats
    }

    fn note_vm(&self, thread: ThreadId, vm: Option<&Vm>) {
        if let Some(place) = self.threads.get(thread.index) {
            *place.target() = vm.map(|vm| vm.interrupt().target().clone());
        }
    }

    fn note_memory(&self, thread: ThreadId, vm: &Vm) {
        if let Some(place) = self.threads.get(thread.index) {
            place.memory.store(vm.memory(), Ordering::Relaxed);
        }
    }
}

/// Calls `work` with the calling thread's VM of a group, which is made if there is
/// none. Replaces the VM afterwards if it is spent.
pub fn with_vm<T>(
    group: &Arc<Group>,
    thread: ThreadId,
    work: impl FnOnce(&Vm) -> T,
) -> Result<T, String> {
    let vm = find_or_make(group, thread)?;
    let done = work(&vm);
    if vm.is_spent().is_none() && vm.has_outgrown() {
        // The task's response must not wait for this. Tasks of this thread's keys do.
        pool::keep_inbox();
        outbox::flush();
        vm.collect_all();
    }
    let Some(spent) = vm.is_spent() else {
        group.note_memory(thread, &vm);
        return Ok(done);
    };
    // The task's response must not wait for a new VM.
    outbox::flush();
    let counters = &group.counters;
    let (counter, reason) = match spent {
        Spent::Memory => (&counters.out_of_memory, "it hit its memory limit"),
        Spent::Stopped => (&counters.stopped, "its code had to be stopped"),
        Spent::Changed => (
            &counters.stopped,
            "a task has changed it by the debug library",
        ),
        Spent::Recycled => (&counters.recycled, ""),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    if !reason.is_empty() {
        group
            .shared
            .log(WARN, format!("a VM is replaced: {reason}"));
    }
    drop(vm);
    discard(thread, |local| Arc::ptr_eq(&local.group, group));
    if let Err(error) = find_or_make(group, thread) {
        group.shared.log(ERR, format!("no new VM: {error}"));
    }
    Ok(done)
}

fn find_or_make(group: &Arc<Group>, thread: ThreadId) -> Result<Rc<Vm>, String> {
    let found = VMS.with_borrow(|vms| {
        let found = vms.iter().find(|local| Arc::ptr_eq(&local.group, group));
        found.map(|local| local.vm.clone())
    });
    if let Some(vm) = found {
        return Ok(vm);
    }
    let vm = Vm::new(&group.shared)?;
    group.counters.made.fetch_add(1, Ordering::Relaxed);
    group.note_vm(thread, Some(&vm));
    group.note_memory(thread, &vm);
    let group = group.clone();
    let local = Local {
        group,
        vm: vm.clone(),
    };
    VMS.with_borrow_mut(|vms| vms.push(local));
    Ok(vm)
}

/// Drops VMs of this thread. The list is not borrowed meanwhile: finalizers run.
fn discard(thread: ThreadId, which: impl Fn(&Local) -> bool) {
    let dropped: Vec<_> =
        VMS.with_borrow_mut(|vms| vms.extract_if(.., |local| which(local)).collect());
    for Local { group, vm } in dropped {
        drop(vm);
        // Not earlier: its finalizers may have been stuck.
        group.note_vm(thread, None);
    }
}

/// Whether a VM of this thread has garbage that is worth collecting.
fn has_garbage() -> bool {
    VMS.with_borrow(|vms| vms.iter().any(|local| local.vm.wants_collection()))
}

/// Collects some of it.
fn collect_some(thread: ThreadId) {
    let group = VMS.with_borrow(|vms| {
        let local = vms.iter().find(|local| local.vm.wants_collection());
        local.map(|local| local.group.clone())
    });
    // The VM exists, so it cannot fail to start.
    let _ = group.map(|group| with_vm(&group, thread, Vm::collect));
}

/// Makes the VMs that this thread lacks, and closes those of closed groups.
fn reconcile(thread: ThreadId) {
    // Acquire: pairs with the Release in `leave`.
    discard(thread, |local| local.group.closed.load(Ordering::Acquire));
    // Acquire: pairs with the Release in `spread`. Init code that does not end keeps
    // only the thread busy that has tried it first.
    let is_ours =
        |group: &&Arc<Group>| group.pool == thread.pool && group.proven.load(Ordering::Acquire);
    let here: Vec<_> = groups().iter().filter(is_ours).cloned().collect();
    for group in here {
        if let Err(error) = find_or_make(&group, thread) {
            group.shared.log(ERR, format!("cannot start a VM: {error}"));
        }
    }
}
