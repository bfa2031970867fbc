//! One Lua VM: a LuaJIT state on a pool thread, kept between tasks.
//!
//! In the shared object, VMs use the LuaJIT of nginx, since Lua's C modules bind to
//! that one. A VM's first code is `vm/boot.lua`. It returns a message handler and the
//! *dispatcher*, which stay at the bottom of the stack. The dispatcher runs one task,
//! which it finds in the [`CallFrame`].

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use mlua::ffi as lua;

use crate::current::Current;
use crate::heap::{self, Heap};
use crate::interrupt::{Ended, Interrupt, NO_TASK};
use crate::module::Module;
use crate::resources::Resources;
use crate::shared::{Shared, WARN};
use nonblocking_ffi_core::error::Error;

/// The lowest bits of a tag: how the arguments are encoded.
const ENCODING_BITS: u32 = 4;

/// Stack indices in every VM.
const MESSAGE_HANDLER: c_int = 1;
const DISPATCHER: c_int = 2;
const COLLECTOR: c_int = 3;

/// Garbage is collected when a VM has grown by so many bytes, and by half, since its
/// last collection.
const MIN_GROWTH: usize = 256 << 10;
/// A VM that has grown by so many bytes more than twofold is collected at once, not when
/// its thread is idle.
const MIN_OUTGROWTH: usize = 4 << 20;
/// What LuaJIT collects at a time, in KB: some 50 us of work.
const COLLECT_KB: c_int = 16;
/// Cycles of a whole collection. LuaJIT may be in the middle of one, which keeps what
/// has died since it began.
const CYCLES: u8 = 2;

/// What the dispatcher is to run. `vm/cdefs.lua` declares it, too.
#[repr(C)]
#[derive(Debug)]
struct CallFrame {
    /// The request.
    data: *const u8,
    len: f64,
    /// The number of the Lua runtime.
    runtime: u32,
    /// How often its module was reloaded.
    generation: u32,
    /// The number of the function, see [`Module::function_name`].
    function: u32,
    /// How the arguments are encoded, see `codec.lua`.
    encoding: u32,
    /// Not 0 if code has changed the VM by the debug library (`vm/debug.lua`).
    changed: u32,
    /// Not 0 if the present hook is not the one to keep.
    hooked: u32,
    /// Not 0 if the present hook is to be kept.
    keeps_hook: u32,
}

impl CallFrame {
    const EMPTY: Self = Self {
        data: ptr::null(),
        len: 0.0,
        runtime: 0,
        generation: 0,
        function: 0,
        encoding: 0,
        changed: 0,
        hooked: 0,
        keeps_hook: 0,
    };
}

/// A call of a module's function. The default tag only loads the module.
#[derive(Debug)]
pub struct Call<'a> {
    /// The module.
    pub module: &'a Module,
    /// The handle of the task, or [`NO_TASK`].
    pub task: u64,
    /// When the code is stopped.
    pub deadline_ns: u64,
    /// The function and the encoding of its arguments.
    pub tag: u32,
    /// The arguments: where, and how many bytes.
    pub request: (*const u8, usize),
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
    /// It has run as many tasks, or uses as much memory, as it may.
    Recycled,
}

/// A VM. It stays on the thread that made it.
#[derive(Debug)]
pub struct Vm {
    state: *mut lua::lua_State,
    /// Whether `state` must not even be closed.
    abandoned: Cell<bool>,
    tasks: Cell<u64>,
    /// Bytes in use after the last collection.
    kept: Cell<usize>,
    /// How many cycles of the present collection are left.
    cycles: Cell<u8>,
    /// Whether `collect` has ended a cycle.
    cycle_ended: Cell<bool>,
    frame: Box<UnsafeCell<CallFrame>>,
    /// The events of the hook that is to be kept.
    hook_mask: Cell<c_int>,
    interrupt: Interrupt,
    shared: Arc<Shared>,
    /// Dropped after the state was closed or abandoned.
    resources: Resources,
    /// Dropped last: all memory of the VM.
    heap: Box<Heap>,
}

/// Passed to the first code of a VM.
struct Start<'a> {
    shared: &'a Shared,
    frame: *mut c_void,
    cycle_ended: *const Cell<bool>,
    /// Keys of the registry.
    start: c_int,
    message_handler: c_int,
    dispatcher: c_int,
    collector: c_int,
}

impl Vm {
    /// Makes a VM and runs its init code.
    pub fn new(shared: &Arc<Shared>) -> Result<Rc<Self>, String> {
        let limit = shared.config.limits.max_memory;
        let heap = Heap::new(limit).ok_or("no memory for a Lua VM")?;
        // SAFETY: the allocator's data lives until the VM is closed.
        let state = unsafe { lua::lua_newstate(heap::allocate, heap.as_ptr()) };
        if state.is_null() {
            return Err(format!(
                "cannot make a Lua VM of up to {limit} bytes, or with this LuaJIT, if it is not \
                 built with GC64"
            ));
        }
        // SAFETY: `state` is live as long as the VM.
        let interrupt = unsafe { Interrupt::new(state, shared) };
        let interrupt = interrupt.inspect_err(|_| {
            // SAFETY: made above, and nobody else has it.
            unsafe { lua::lua_close(state) }
        })?;
        let vm = Rc::new(Self {
            state,
            abandoned: Cell::new(false),
            tasks: Cell::new(0),
            kept: Cell::new(0),
            cycles: Cell::new(0),
            cycle_ended: Cell::new(false),
            frame: Box::new(UnsafeCell::new(CallFrame::EMPTY)),
            hook_mask: Cell::new(0),
            interrupt,
            shared: shared.clone(),
            resources: Resources::default(),
            heap,
        });
        vm.boot().map_err(with_cause)?;
        vm.kept.set(vm.memory());
        Ok(vm)
    }

    /// Its way to run code.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Bytes in use.
    pub fn memory(&self) -> usize {
        self.heap.used()
    }

    fn boot(&self) -> Result<(), String> {
        let mut start = Start {
            shared: &self.shared,
            frame: self.frame.get().cast(),
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
        let deadline_ns = self.shared.config.limits.init_deadline();
        // SAFETY: the function is on the stack.
        let ended = self.enter(None, NO_TASK, || unsafe {
            self.interrupt.call(NO_TASK, deadline_ns, 0)
        });
        match ended {
            Ended::Returned => {}
            // The code may have caught the error that stopped it.
            _ if self.interrupt.is_stopped() => return Err(Error::Timeout.to_string()),
            Ended::Raised => return Err(self.message()),
            Ended::Abandoned => return Err(Error::Timeout.to_string()),
        }
        // SAFETY: `open` has put three functions there.
        unsafe {
            lua::lua_settop(self.state, 0);
            for function in [
                (*pointer).message_handler,
                (*pointer).dispatcher,
                (*pointer).collector,
            ] {
                lua::lua_rawgeti_(self.state, lua::LUA_REGISTRYINDEX, function);
            }
            // Changes that init code makes are there for all tasks.
            *self.frame.get() = CallFrame::EMPTY;
            self.hook_mask.set(lua::lua_gethookmask(self.state));
        }
        Ok(())
    }

    /// Makes this VM the thread's current one while `run` runs it.
    fn enter(&self, module: Option<&Module>, task: u64, run: impl FnOnce() -> Ended) -> Ended {
        let current = Current {
            interrupt: &self.interrupt,
            resources: &self.resources,
            shared: &self.shared,
            module,
            task,
        };
        let ended = current.enter(run);
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
        // SAFETY: the VM's thread. A string is not converted, so nothing is allocated,
        // and it lives while it is on the stack.
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

    /// Runs a call. The error is what the code raised, with its traceback.
    ///
    /// # Safety
    /// The request is readable until the task has ended.
    pub unsafe fn run(&self, call: &Call<'_>) -> Result<(), String> {
        self.tasks.set(self.tasks.get() + 1);
        // SAFETY: only Lua code of this thread reads the frame, and the request before it
        // responds. The stack has room: it only has three functions.
        unsafe {
            let frame = &mut *self.frame.get();
            *frame = CallFrame {
                data: call.request.0,
                len: call.request.1 as f64,
                runtime: call.module.number,
                generation: call.module.generation(),
                function: call.tag >> ENCODING_BITS,
                encoding: call.tag & ((1 << ENCODING_BITS) - 1),
                ..*frame
            };
            lua::lua_pushvalue(self.state, DISPATCHER);
        }
        // SAFETY: the dispatcher is on the stack.
        let ended = self.enter(Some(call.module), call.task, || unsafe {
            self.interrupt
                .call(call.task, call.deadline_ns, MESSAGE_HANDLER)
        });
        self.note_hook();
        match ended {
            Ended::Returned => Ok(()),
            Ended::Raised => Err(self.take_message()),
            Ended::Abandoned => Err(self.message()),
        }
    }

    /// The error on top of the stack, which is removed.
    fn take_message(&self) -> String {
        let message = self.message();
        // SAFETY: the VM's thread; the functions below the message stay.
        unsafe { lua::lua_settop(self.state, COLLECTOR) };
        message
    }

    /// Whether it probably has enough garbage for a collection to pay.
    pub fn wants_collection(&self) -> bool {
        let kept = self.kept.get();
        let limit = kept + MIN_GROWTH.max(kept / 2);
        !self.abandoned.get() && (self.cycles.get() > 0 || self.memory() > limit)
    }

    /// Whether it has grown so much that LuaJIT should have collected, but has not: it
    /// counts how often code allocates, not how much.
    pub fn has_outgrown(&self) -> bool {
        self.memory() > 2 * self.kept.get() + MIN_OUTGROWTH
    }

    /// Collects all of its garbage.
    pub fn collect_all(&self) {
        // Whatever is left of a collection that began while the thread was idle would
        // keep what the last task has made.
        self.cycles.set(CYCLES);
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
        let deadline_ns = self.shared.config.limits.init_deadline();
        // SAFETY: the collector is on the stack.
        let collect = || unsafe { self.interrupt.collect(deadline_ns) };
        if self.enter(None, NO_TASK, collect) == Ended::Raised {
            let text = format!("a finalizer of a VM: {}", self.take_message());
            self.shared.log(WARN, text);
        }
        if self.cycle_ended.take() {
            self.cycles.set(self.cycles.get() - 1);
            if self.cycles.get() == 0 {
                self.heap.trim();
                self.kept.set(self.memory());
            }
        }
    }

    /// A module that was loaded may have set a hook that is to be kept.
    fn note_hook(&self) {
        // SAFETY: the VM's thread, between two tasks; an abandoned state is not used.
        unsafe {
            let frame = &mut *self.frame.get();
            if frame.keeps_hook != 0 && !self.abandoned.get() {
                frame.keeps_hook = 0;
                self.hook_mask.set(lua::lua_gethookmask(self.state));
            }
        }
    }

    /// Whether its code has changed what later tasks rely on.
    fn is_changed(&self) -> bool {
        // SAFETY: as in `note_hook`.
        unsafe {
            let frame = &*self.frame.get();
            frame.changed != 0
                || frame.hooked != 0
                || lua::lua_gethookmask(self.state) != self.hook_mask.get()
        }
    }

    /// Whether it should be replaced, and why.
    pub fn is_spent(&self) -> Option<Spent> {
        let limits = &self.shared.config.limits;
        if self.abandoned.get() || self.interrupt.is_stopped() {
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

/// Adds the cause if there are no descriptors left: Lua reports a file that it cannot
/// open as missing.
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
        if self.abandoned.get() {
            return;
        }
        // Finalizers run in here, for as long as init code may.
        let deadline_ns = self.shared.config.limits.init_deadline();
        // SAFETY: nobody uses the state any more.
        let close = || unsafe { self.interrupt.close(deadline_ns) };
        if self.enter(None, NO_TASK, close) == Ended::Abandoned {
            self.shared
                .log(WARN, "finalizers of a VM had to be stopped");
        }
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
        local package_path, package_cpath, core, boot, frame, null, thread = ...
        package.path, package.cpath = package_path, package_cpath
        -- For codec.lua, until vm/ngx.lua has made the rest of it.
        ngx = { null = null }
        return require('resty.nonblocking_ffi.vm.boot')(core, boot, frame, thread)
    ";
    // SAFETY: the upvalue is a `Start` that outlives the call. Lua copies what is
    // pushed.
    unsafe {
        let start: *mut Start = lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast();
        lua::luaL_openlibs(state);
        let code = LOADER.to_bytes();
        let name = c"=nonblocking_ffi".as_ptr();
        if lua::luaL_loadbuffer(state, code.as_ptr().cast(), code.len(), name) != lua::LUA_OK {
            lua::lua_error(state);
        }
        let config = &(*start).shared.config;
        for text in [
            &config.package_path,
            &config.package_cpath,
            &config.core,
            &config.boot,
        ] {
            lua::lua_pushlstring_(state, text.as_ptr().cast::<c_char>(), text.len());
        }
        lua::lua_pushlightuserdata(state, (*start).frame);
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

/// Makes LuaJIT collect for a moment. Finalizers run in here.
unsafe extern "C-unwind" fn collect(state: *mut lua::lua_State) -> c_int {
    // SAFETY: the upvalue is a cell of the VM that runs.
    unsafe {
        let ended: *const Cell<bool> = lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast();
        (*ended).set(lua::lua_gc(state, lua::LUA_GCSTEP, COLLECT_KB) != 0);
    }
    0
}
