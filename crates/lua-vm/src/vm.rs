//! One Lua VM: a LuaJIT state on a pool thread, kept between tasks.
//!
//! The VM is made of the LuaJIT that nginx has, so that Lua's C modules work in
//! it (they bind to that one). Its first code is `vm/boot.lua`, which leaves
//! two functions at the bottom of the stack: a message handler and the
//! *dispatcher*, which runs one task that it finds on the [`Desk`].

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::ptr;
use std::sync::Arc;

use mlua::ffi as lua;

use super::LuaHost;
use super::belongings::Belongings;
use super::group::{self, Group};
use super::heap::{self, Heap};
use super::watchdog::{Ended, NO_TASK, Watched};
use nonblocking_ffi_core::error::Error;

/// Places on the stack of a VM.
const MESSAGE_HANDLER: c_int = 1;
const DISPATCHER: c_int = 2;
const COLLECTOR: c_int = 3;

/// A VM that has so many bytes more than after its last collection, and half as
/// much again, is worth one.
const MIN_GROWTH: usize = 256 << 10;
/// One that has so many bytes more, and as much again, does not wait for it until its
/// thread is idle.
const MIN_OUTGROWTH: usize = 4 << 20;
/// What LuaJIT collects at a time, in KB: some 50 us of work.
const COLLECT_KB: c_int = 16;
/// LuaJIT may be in the middle of a cycle, and keeps what has died since that
/// began. The next one finds all.
const CYCLES: u8 = 2;

/// What a VM's dispatcher is to run. `vm/cdefs.lua` declares it, too.
#[repr(C)]
#[derive(Debug)]
pub struct Desk {
    /// The request.
    pub data: *const u8,
    /// Its length.
    pub len: f64,
    /// The number of the Lua runtime.
    pub runtime: u32,
    /// How often that was reloaded.
    pub generation: u32,
    /// Which function: a number that the runtime has a name for.
    pub function: u32,
    /// How the arguments are encoded, see `codec.lua`.
    pub encoding: u32,
    /// Not 0 if code has changed the VM by the debug library (`vm/debug.lua`).
    pub changed: u32,
    /// Not 0 if the hook is not the one that is to stay.
    pub hooked: u32,
    /// Not 0 if the hook that there is has to stay.
    pub keeps_hook: u32,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            data: ptr::null(),
            len: 0.0,
            runtime: 0,
            generation: 0,
            function: 0,
            encoding: 0,
            changed: 0,
            hooked: 0,
            keeps_hook: 0,
        }
    }
}

/// What VM code asks about itself, by thread.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The VM.
    pub vm: *const Vm,
    /// The runtime whose task runs, null while the VM starts.
    pub host: *const LuaHost,
    /// The task, or [`NO_TASK`].
    pub task: u64,
}

thread_local! {
    static NOW: Cell<Option<Now>> = const { Cell::new(None) };
}

/// What the calling thread's VM runs; `None` outside of one.
pub fn now() -> Option<Now> {
    NOW.get()
}

/// Why a VM should be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// It has hit its memory limit.
    Memory,
    /// Its code was stopped.
    Stopped,
    /// Its code has changed what later tasks rely on.
    Changed,
    /// It has served its time: so many tasks, or so many bytes.
    Recycled,
}

/// A VM. Stays on the thread that made it.
#[derive(Debug)]
pub struct Vm {
    state: *mut lua::lua_State,
    /// Whether `state` may not even be closed.
    abandoned: Cell<bool>,
    tasks: Cell<u64>,
    /// Bytes in use after the last collection.
    kept: Cell<usize>,
    /// How many cycles the present collection takes yet.
    cycles: Cell<u8>,
    /// Whether `collect` has come to the end of a cycle.
    cycle_ended: Cell<bool>,
    desk: Box<UnsafeCell<Desk>>,
    /// The events of the hook that is to stay.
    hook_mask: Cell<c_int>,
    watched: Arc<Watched>,
    group: Arc<Group>,
    /// Dropped when the VM is closed, or abandoned.
    belongings: Belongings,
    /// Dropped last: all memory of the VM.
    heap: Box<Heap>,
}

/// What the first code of a VM works with.
struct Start<'a> {
    group: &'a Group,
    desk: *mut c_void,
    cycle_ended: *const Cell<bool>,
    /// Places in the registry.
    start: c_int,
    message_handler: c_int,
    dispatcher: c_int,
    collector: c_int,
}

impl Vm {
    /// A VM of a group, with the group's init code run in it.
    pub fn new(group: &Arc<Group>) -> Result<Box<Self>, String> {
        let limit = group.limits.max_memory;
        let heap = Heap::new(limit).ok_or("no memory for a Lua VM")?;
        // SAFETY: the allocator's data lives until the VM is closed.
        let state = unsafe { lua::lua_newstate(heap::allocate, heap.as_ptr()) };
        if state.is_null() {
            return Err(format!(
                "cannot make a Lua VM of up to {limit} bytes, or with this LuaJIT, if it is not \
                 built with GC64"
            ));
        }
        // SAFETY: `state` is live; `Drop` forgets it first.
        let watched = unsafe { Watched::new(state, group.mailbox()) };
        let watched = watched.inspect_err(|_| {
            // SAFETY: made above, and nobody else has it.
            unsafe { lua::lua_close(state) }
        })?;
        let vm = Box::new(Self {
            state,
            abandoned: Cell::new(false),
            tasks: Cell::new(0),
            kept: Cell::new(0),
            cycles: Cell::new(0),
            cycle_ended: Cell::new(false),
            desk: Box::default(),
            hook_mask: Cell::new(0),
            watched,
            group: group.clone(),
            belongings: Belongings::default(),
            heap,
        });
        vm.boot().map_err(with_cause)?;
        vm.kept.set(vm.memory());
        Ok(vm)
    }

    /// The group it belongs to.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Its watch.
    pub fn watched(&self) -> &Arc<Watched> {
        &self.watched
    }

    /// What it has outside of its heap.
    pub fn belongings(&self) -> &Belongings {
        &self.belongings
    }

    /// Bytes in use.
    pub fn memory(&self) -> usize {
        self.heap.used()
    }

    fn boot(&self) -> Result<(), String> {
        let mut start = Start {
            group: &self.group,
            desk: self.desk.get().cast(),
            cycle_ended: ptr::from_ref(&self.cycle_ended),
            start: 0,
            message_handler: 0,
            dispatcher: 0,
            collector: 0,
        };
        let pointer: *mut Start = &mut start;
        // SAFETY: a fresh state. Whatever may raise an error runs protected.
        let failed = unsafe { lua::lua_cpcall(self.state, prepare, pointer.cast()) };
        if failed != lua::LUA_OK {
            return Err(self.message());
        }
        // SAFETY: `prepare` has put a function there.
        unsafe {
            lua::lua_rawgeti_(self.state, lua::LUA_REGISTRYINDEX, (*pointer).start);
        }
        let deadline = self.group.limits.init_deadline();
        match self.call(ptr::null(), NO_TASK, deadline, 0) {
            Ended::Returned => {}
            // What load says if it has noticed before.
            _ if self.watched.is_stopped() => return Err(Error::Timeout.to_string()),
            Ended::Raised => return Err(self.message()),
            Ended::Abandoned => return Err(Error::Timeout.to_string()),
        }
        // SAFETY: `open` has put three functions there.
        unsafe {
            lua::lua_settop(self.state, 0);
            lua::lua_rawgeti_(
                self.state,
                lua::LUA_REGISTRYINDEX,
                (*pointer).message_handler,
            );
            lua::lua_rawgeti_(self.state, lua::LUA_REGISTRYINDEX, (*pointer).dispatcher);
            lua::lua_rawgeti_(self.state, lua::LUA_REGISTRYINDEX, (*pointer).collector);
            // What init code has done is what all tasks find.
            *self.desk.get() = Desk::default();
            self.hook_mask.set(lua::lua_gethookmask(self.state));
        }
        Ok(())
    }

    /// Calls the function on top of the stack.
    fn call(&self, host: *const LuaHost, task: u64, deadline_ns: u64, errfunc: c_int) -> Ended {
        // SAFETY: this is the VM's thread, and the function is there. Nothing
        // of ours is dropped between here and the Lua code.
        self.enter(host, task, || unsafe {
            self.watched.call(task, deadline_ns, 0, errfunc)
        })
    }

    /// Lets `run` run the VM.
    fn enter(&self, host: *const LuaHost, task: u64, run: impl FnOnce() -> Ended) -> Ended {
        let vm = ptr::from_ref(self);
        NOW.set(Some(Now { vm, host, task }));
        let ended = run();
        NOW.set(None);
        if ended == Ended::Abandoned {
            self.abandoned.set(true);
        }
        ended
    }

    /// The error on top of the stack.
    fn message(&self) -> String {
        if self.abandoned.get() {
            return "stopped: its caller has given up".to_owned();
        }
        // SAFETY: the VM's thread; a string is not converted, so that nothing
        // is allocated, and it lives while it is on the stack.
        let bytes = unsafe {
            if lua::lua_type(self.state, -1) != lua::LUA_TSTRING {
                return "(an error that is no string)".to_owned();
            }
            let mut len = 0;
            let text = lua::lua_tolstring(self.state, -1, &mut len);
            std::slice::from_raw_parts(text.cast::<u8>(), len)
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Runs one task: `Err` is the error that it raised, with its traceback.
    pub fn run(
        &self,
        host: &LuaHost,
        task: u64,
        deadline_ns: u64,
        desk: Desk,
    ) -> Result<(), String> {
        self.tasks.set(self.tasks.get() + 1);
        // SAFETY: Lua code of this thread reads it during the call only. The
        // stack has room: three functions are all that is on it.
        unsafe {
            let place = &mut *self.desk.get();
            let (changed, hooked) = (place.changed, place.hooked);
            *place = Desk {
                changed,
                hooked,
                ..desk
            };
            lua::lua_pushvalue(self.state, DISPATCHER);
        }
        let ended = self.call(host, task, deadline_ns, MESSAGE_HANDLER);
        self.note_hook();
        match ended {
            Ended::Returned => Ok(()),
            Ended::Raised => {
                let message = self.message();
                // SAFETY: takes the message off.
                unsafe { lua::lua_settop(self.state, COLLECTOR) };
                Err(message)
            }
            Ended::Abandoned => Err(self.message()),
        }
    }

    /// Whether it has so much garbage that collecting it pays, as far as can be
    /// told.
    pub fn wants_collection(&self) -> bool {
        let kept = self.kept.get();
        let limit = kept + MIN_GROWTH.max(kept / 2);
        !self.abandoned.get() && (self.cycles.get() > 0 || self.memory() > limit)
    }

    /// Whether it has so much more than after its last collection that LuaJIT should
    /// have collected, but has not: it counts how often code allocates rather than
    /// how much.
    pub fn has_outgrown(&self) -> bool {
        self.memory() > 2 * self.kept.get() + MIN_OUTGROWTH
    }

    /// Collects all of its garbage.
    pub fn collect_all(&self) {
        self.collect();
        while self.cycles.get() > 0 && !self.abandoned.get() {
            self.collect();
        }
    }

    /// Collects some of its garbage.
    pub fn collect(&self) {
        if self.cycles.get() == 0 {
            self.cycles.set(CYCLES);
        }
        // SAFETY: as in `run`.
        unsafe { lua::lua_pushvalue(self.state, COLLECTOR) };
        let deadline_ns = self.group.limits.init_deadline();
        // SAFETY: as in `call`.
        let collect = || unsafe { self.watched.collect(deadline_ns) };
        if self.enter(ptr::null(), NO_TASK, collect) == Ended::Raised {
            let text = format!("a finalizer of a VM: {}", self.message());
            self.group.log(group::WARN, text.as_bytes());
            // SAFETY: takes the message off.
            unsafe { lua::lua_settop(self.state, COLLECTOR) };
        }
        if self.cycle_ended.take() {
            self.cycles.set(self.cycles.get() - 1);
            if self.cycles.get() == 0 {
                self.heap.trim();
                self.kept.set(self.memory());
            }
        }
    }

    /// A module that was loaded may have set a hook that is to stay.
    fn note_hook(&self) {
        // SAFETY: the VM's thread, between two tasks; a state that may not be used
        // is not.
        unsafe {
            let desk = &mut *self.desk.get();
            if desk.keeps_hook != 0 && !self.abandoned.get() {
                desk.keeps_hook = 0;
                self.hook_mask.set(lua::lua_gethookmask(self.state));
            }
        }
    }

    /// Whether its code has changed what later tasks rely on.
    fn is_changed(&self) -> bool {
        // SAFETY: as in `note_hook`.
        unsafe {
            let desk = &*self.desk.get();
            desk.changed != 0
                || desk.hooked != 0
                || lua::lua_gethookmask(self.state) != self.hook_mask.get()
        }
    }

    /// Whether it should be replaced, and why.
    pub fn is_spent(&self) -> Option<Spent> {
        let limits = &self.group.limits;
        if self.abandoned.get() || self.watched.is_stopped() {
            Some(Spent::Stopped)
        } else if self.heap.has_refused() {
            Some(Spent::Memory)
        } else if self.is_changed() {
            Some(Spent::Changed)
        } else if self.tasks.get() >= limits.recycle_tasks || self.memory() > limits.recycle_memory
        {
            Some(Spent::Recycled)
        } else {
            None
        }
    }
}

/// Says that there are no descriptors, if that is so: to Lua, a file that cannot be
/// opened is one that is not there.
fn with_cause(message: String) -> String {
    let failed = File::open("/").err();
    let cause = failed.filter(|error| {
        let code = error.raw_os_error();
        code == Some(libc::EMFILE) || code == Some(libc::ENFILE)
    });
    match cause {
        Some(cause) => format!("{cause}: {message}"),
        None => message,
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.abandoned.get() {
            // Finalizers run in here, which may be anybody's code: they have as
            // long as init code has.
            let deadline = self.group.limits.init_deadline();
            let before = NOW.replace(Some(Now {
                vm: ptr::from_ref(self),
                host: ptr::null(),
                task: NO_TASK,
            }));
            // SAFETY: the VM's thread; nobody uses the state any more. Nothing
            // of ours is dropped between here and the finalizers.
            let finished = unsafe { self.watched.close(deadline) };
            NOW.set(before);
            if !finished {
                let text = b"finalizers of a VM had to be stopped";
                self.group.log(group::WARN, text);
            }
        }
        self.watched.forget();
    }
}

/// Puts `open` where `boot` finds it.
unsafe extern "C-unwind" fn prepare(state: *mut lua::lua_State) -> c_int {
    // SAFETY: called by `lua_cpcall` with a `Start`.
    unsafe {
        let start: *mut Start = lua::lua_touserdata(state, 1).cast();
        lua::lua_pushlightuserdata(state, start.cast());
        lua::lua_pushcclosure(state, open, 1);
        (*start).start = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
    }
    0
}

/// Opens the standard libraries and runs `vm/boot.lua`.
unsafe extern "C-unwind" fn open(state: *mut lua::lua_State) -> c_int {
    const LOADER: &CStr = c"
        local package_path, package_cpath, core, boot, desk, null, thread = ...
        package.path, package.cpath = package_path, package_cpath
        -- For codec.lua, until vm/ngx.lua has made the rest of it.
        ngx = { null = null }
        return require('resty.nonblocking_ffi.vm.boot')(core, boot, desk, thread)
    ";
    // SAFETY: the upvalue is a `Start` that outlives the call. What is pushed
    // is copied by Lua.
    unsafe {
        let start: *mut Start = lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast();
        lua::luaL_openlibs(state);
        let code = LOADER.to_bytes();
        let name = c"=nonblocking_ffi".as_ptr();
        if lua::luaL_loadbuffer(state, code.as_ptr().cast(), code.len(), name) != lua::LUA_OK {
            lua::lua_error(state);
        }
        let group = (*start).group;
        for text in [
            &group.package_path,
            &group.package_cpath,
            &group.core,
            &group.boot,
        ] {
            lua::lua_pushlstring_(state, text.as_ptr().cast::<c_char>(), text.len());
        }
        lua::lua_pushlightuserdata(state, (*start).desk);
        lua::lua_pushlightuserdata(state, ptr::null_mut());
        lua::lua_pushthread(state);
        lua::lua_call(state, 7, 2);
        (*start).dispatcher = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        (*start).message_handler = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        lua::lua_pushlightuserdata(state, (*start).cycle_ended.cast_mut().cast());
        lua::lua_pushcclosure(state, collect, 1);
        (*start).collector = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
    }
    0
}

/// Lets LuaJIT collect for a moment. Finalizers run in here.
unsafe extern "C-unwind" fn collect(state: *mut lua::lua_State) -> c_int {
    // SAFETY: the upvalue is a cell of the VM that runs.
    unsafe {
        let ended: *const Cell<bool> = lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast();
        (*ended).set(lua::lua_gc(state, lua::LUA_GCSTEP, COLLECT_KB) != 0);
    }
    0
}
