//! The module `_nonblocking_ffi`: what Python code may call. It is the private
//! part of the package `nonblocking_ffi`, which has the public one, and of
//! `python/host.py`.
//!
//! | function | |
//! |---|---|
//! | `here()` | `(runtime, task)` of the calling pool thread (task 0: none), or `None` |
//! | `unwanted(task)` | whether its result is wanted no more |
//! | `remaining(task)` | nanoseconds to its deadline, `None` if it has none |
//! | `set_status(task, code, message)` | gives its response a status |
//! | `log(runtime, level, text)` | writes to nginx's error log |
//! | `shield(by)` | keeps the calling thread's task from being stopped, by 1 or -1 |
//! | `inbox(runtime)` | the descriptor that tells of tasks for a loop |
//! | `take(runtime)` | `(task, request)`: the next task of a loop, or `None` |
//! | `respond(task, result)`, `fail(task, code, message)` | end a task of a loop |
//! | `serve(runtime)` | makes the calling thread a loop's; with 0, not any more |
//! | `turn(at_work)` | the loop begins to work, or to wait |
//! | `forked()` | this process is the child of a fork |
//! | `order_faults(function)` | calls what installs handlers of faults, and has language runtimes come before them |
//! | `unorder_faults(function)` | calls what takes them out again |
//! | `is_handled(signal)` | whether the process has a handler for it |
//! | `set_type(dict, type)` | makes a plain dictionary one of another type |

use std::ffi::{CStr, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};

use nonblocking_ffi_plugin::{faults, sys};
use nonblocking_ffi_runtimes_common::entry::PANIC;
use nonblocking_ffi_runtimes_common::{log, monotonic_ns, task};

use crate::api::{Api, FastCall, METH_FASTCALL, PyMethodDef, PyObject};
use crate::object::{Gil, Raised, Ref, Result};
use crate::reply::{self, Reply};
use crate::{child, inbox, threads};

/// The name of the module.
const NAME: &CStr = c"_nonblocking_ffi";
/// What a task is failed with that nobody wants any more before it has begun.
const GIVEN_UP: &str = "the task was given up before it began";
/// Linux cuts a thread's name after this many bytes.
const THREAD_NAME: &CStr = c"nbffi-asyncio";

static API: OnceLock<&'static Api> = OnceLock::new();

/// The functions, by name.
const FUNCTIONS: [(&CStr, FastCall); 17] = [
    (c"here", enter::<Here>),
    (c"unwanted", enter::<Unwanted>),
    (c"remaining", enter::<Remaining>),
    (c"set_status", enter::<SetStatus>),
    (c"log", enter::<Log>),
    (c"shield", enter::<Shield>),
    (c"inbox", enter::<InboxOf>),
    (c"take", enter::<Take>),
    (c"respond", enter::<Respond>),
    (c"fail", enter::<Fail>),
    (c"serve", enter::<Serve>),
    (c"turn", enter::<Turn>),
    (c"forked", enter::<Forked>),
    (c"set_type", enter::<SetType>),
    (c"order_faults", enter::<OrderFaults>),
    (c"unorder_faults", enter::<UnorderFaults>),
    (c"is_handled", enter::<IsHandled>),
];

/// Makes the module.
pub fn register(gil: Gil) -> Result<Ref> {
    let api = API.get_or_init(|| gil.api());
    debug_assert!(std::ptr::eq(*api, gil.api()));
    child::is_worker();
    // SAFETY: AddModule returns a borrowed reference, or NULL; the module is
    // kept by sys.modules.
    let module = unsafe {
        let module = (gil.PyImport_AddModule)(NAME.as_ptr());
        if module.is_null() {
            return Err(Raised);
        }
        gil.borrowed(module)
    };
    for (name, function) in FUNCTIONS {
        // Python keeps a pointer to it, for ever.
        let definition = Box::leak(Box::new(PyMethodDef {
            name: name.as_ptr(),
            meth: function,
            flags: METH_FASTCALL,
            doc: std::ptr::null(),
        }));
        // SAFETY: a definition that lives for ever; new references.
        unsafe {
            let function = (gil.PyCFunction_NewEx)(definition, null_mut(), null_mut());
            let function = gil.owned(function)?;
            let set = gil.PyObject_SetAttrString;
            if set(module.as_ptr(), name.as_ptr(), function.as_ptr()) != 0 {
                return Err(Raised);
            }
        }
    }
    Ok(module)
}

/// One of the functions.
trait Builtin {
    /// How many arguments it has.
    const ARGUMENTS: usize;
    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref>;
}

/// The way in from Python.
unsafe extern "C" fn enter<B: Builtin>(
    _this: *mut PyObject,
    arguments: *const *mut PyObject,
    count: isize,
) -> *mut PyObject {
    let Some(&api) = API.get() else {
        return null_mut();
    };
    // SAFETY: Python calls with the GIL, and has it until this returns.
    let gil = unsafe { Gil::assume(api) };
    if count != B::ARGUMENTS as isize {
        gil.type_error("wrong number of arguments");
        return null_mut();
    }
    let arguments = match B::ARGUMENTS {
        0 => &[],
        // SAFETY: that many objects, which live until this returns.
        n => unsafe { std::slice::from_raw_parts(arguments, n) },
    };
    let result = catch_unwind(AssertUnwindSafe(|| B::call(gil, Arguments(gil, arguments))));
    match result {
        Ok(Ok(result)) => result.into_ptr(),
        Ok(Err(Raised)) => null_mut(),
        Err(_) => {
            gil.type_error(PANIC);
            null_mut()
        }
    }
}

struct Arguments<'a>(Gil, &'a [*mut PyObject]);

impl Arguments<'_> {
    fn number(&self, index: usize) -> Result<u64> {
        // SAFETY: an object; what is no number raises.
        let number = unsafe { (self.0.PyLong_AsUnsignedLongLong)(self.1[index]) };
        if number == u64::MAX {
            self.check()?;
        }
        Ok(number)
    }

    fn signed(&self, index: usize) -> Result<i64> {
        // SAFETY: as above.
        let number = unsafe { (self.0.PyLong_AsLongLong)(self.1[index]) };
        if number == -1 {
            self.check()?;
        }
        Ok(number)
    }

    fn check(&self) -> Result<()> {
        // SAFETY: the GIL is there.
        match unsafe { (self.0.PyErr_Occurred)() }.is_null() {
            true => Ok(()),
            false => Err(Raised),
        }
    }

    fn text(&self, index: usize) -> Result<String> {
        self.0.string(&self.object(index))
    }

    fn object(&self, index: usize) -> Ref {
        // SAFETY: the arguments live while the function runs.
        unsafe { self.0.borrowed(self.1[index]) }
    }
}

fn none(gil: Gil) -> Result<Ref> {
    // SAFETY: None lives.
    Ok(unsafe { gil.borrowed(gil.none()) })
}

fn truth(gil: Gil, value: bool) -> Result<Ref> {
    // SAFETY: a new reference.
    unsafe { gil.owned((gil.PyBool_FromLong)(c_long::from(value))) }
}

struct Here;

impl Builtin for Here {
    const ARGUMENTS: usize = 0;

    fn call(gil: Gil, _arguments: Arguments<'_>) -> Result<Ref> {
        match threads::here().filter(|r| r.runtime() != 0 && !r.is_loop()) {
            Some(record) => gil.tuple([gil.int(record.runtime())?, gil.int(record.task())?]),
            None => none(gil),
        }
    }
}

struct Unwanted;

impl Builtin for Unwanted {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        truth(gil, task::is_unwanted(arguments.number(0)?))
    }
}

struct Remaining;

impl Builtin for Remaining {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        match task::deadline_ns(arguments.number(0)?) {
            sys::NBFFI_NO_DEADLINE => none(gil),
            deadline => gil.int(deadline.saturating_sub(monotonic_ns())),
        }
    }
}

struct SetStatus;

impl Builtin for SetStatus {
    const ARGUMENTS: usize = 3;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let (task, code) = (arguments.number(0)?, arguments.signed(1)?);
        task::set_status(task, code, arguments.text(2)?.as_bytes());
        none(gil)
    }
}

struct Log;

impl Builtin for Log {
    const ARGUMENTS: usize = 3;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let (runtime, level) = (arguments.number(0)?, arguments.signed(1)? as c_int);
        let text = arguments.text(2)?;
        if child::is_child() {
            // Nobody reads this process's part of the log.
            log::to_stderr(&text);
        } else if !log::log(runtime, level, &text) {
            log::log_for_any(level, &text);
        }
        none(gil)
    }
}

struct Shield;

impl Builtin for Shield {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let more = arguments.signed(0)? > 0;
        if let Some(record) = threads::here() {
            // Relaxed: with the GIL only, which orders it. Saturating: `with`
            // has them in pairs, but a generator may be closed elsewhere.
            let shields = record.shields.load(Ordering::Relaxed);
            let shields = match more {
                true => shields.saturating_add(1),
                false => shields.saturating_sub(1),
            };
            record.shields.store(shields, Ordering::Relaxed);
        }
        none(gil)
    }
}

struct InboxOf;

impl Builtin for InboxOf {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        match inbox::of(arguments.number(0)?) {
            Some(inbox) => gil.int(inbox.descriptor() as u64),
            None => none(gil),
        }
    }
}

struct Take;

impl Builtin for Take {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let Some(inbox) = inbox::of(arguments.number(0)?) else {
            return none(gil);
        };
        while let Some(request) = inbox.take() {
            let refuse = |why: &str| {
                // SAFETY: taken just now, so it is nobody else's.
                unsafe { task::fail(request.task, 0, why.as_bytes()) };
            };
            if task::is_unwanted(request.task) {
                refuse(GIVEN_UP);
                continue;
            }
            // SAFETY: taken just now, so nobody has completed it.
            let bytes = reply::bytes(gil, unsafe { request.bytes() });
            let taken = bytes.and_then(|bytes| gil.tuple([gil.int(request.task)?, bytes]));
            if taken.is_err() {
                // Nobody else would ever end it.
                refuse(&gil.take_message());
                continue;
            }
            return taken;
        }
        none(gil)
    }
}

struct Respond;

impl Builtin for Respond {
    const ARGUMENTS: usize = 2;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let task = arguments.number(0)?;
        let reply = Reply::of(gil, arguments.object(1))?;
        // SAFETY: python/loop.py ends what `take` gave it, which has copied the
        // request.
        unsafe { reply.send(gil, task) };
        none(gil)
    }
}

struct Fail;

impl Builtin for Fail {
    const ARGUMENTS: usize = 3;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let (task, code) = (arguments.number(0)?, arguments.signed(1)?);
        let message = arguments.text(2)?;
        // SAFETY: as in `Respond`.
        unsafe { task::fail(task, code, message.as_bytes()) };
        none(gil)
    }
}

struct Serve;

impl Builtin for Serve {
    const ARGUMENTS: usize = 1;

    /// With 0 the thread is no loop's any more.
    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        match arguments.number(0)? {
            0 => threads::forget(),
            runtime => {
                // SAFETY: Python calls with the GIL; python/loop.py has a new thread
                // call this first, and again with 0 when it ends.
                unsafe { threads::serve(gil.api(), runtime) };
                // SAFETY: a terminated name, for the calling thread.
                unsafe { libc::prctl(libc::PR_SET_NAME, THREAD_NAME.as_ptr()) };
            }
        }
        none(gil)
    }
}

struct Turn;

impl Builtin for Turn {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let at_work = arguments.signed(0)? != 0;
        if let Some(record) = threads::here() {
            record.turn(at_work);
            if !at_work {
                record.take_back(gil);
            }
        }
        none(gil)
    }
}

struct Forked;

impl Builtin for Forked {
    const ARGUMENTS: usize = 0;

    fn call(gil: Gil, _arguments: Arguments<'_>) -> Result<Ref> {
        child::enter();
        none(gil)
    }
}

struct SetType;

impl Builtin for SetType {
    const ARGUMENTS: usize = 2;

    /// Python would refuse `sys.modules.__class__ = ...`: a plain dictionary's
    /// type is not to be changed. Its memory fits a subclass without attributes.
    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let (object, class) = (arguments.object(0), arguments.object(1));
        // SAFETY: new references, or NULL.
        let (plain, base) = unsafe {
            let plain = gil.owned((gil.PyDict_New)())?;
            (
                gil.owned((gil.PyObject_Type)(plain.as_ptr()))?,
                gil.attribute(&class, c"__base__")?,
            )
        };
        // SAFETY: an object begins with its reference count, a word, and then has
        // its type, in every build but free-threaded ones, which are refused;
        // where it does not, the comparison fails and nothing is written.
        unsafe {
            let place = object.as_ptr().cast::<*mut PyObject>().add(1);
            if base.as_ptr() != plain.as_ptr() || place.read() != plain.as_ptr() {
                return Err(gil.type_error("set_type: not a dict and a subclass of dict"));
            }
            // The object's reference to its type.
            place.write(class.into_ptr());
        }
        none(gil)
    }
}

/// The handlers that `order_faults` has found in front, the last time that there
/// were new ones.
static INSTALLED: Mutex<Option<faults::Handlers>> = Mutex::new(None);

struct OrderFaults;

impl Builtin for OrderFaults {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let before = faults::Handlers::now();
        let result = gil.call(&arguments.object(0), []);
        let now = faults::Handlers::now();
        if now != before {
            *INSTALLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        // Always: what is loaded later is to find the handler that stays.
        before.keep_order(true);
        result
    }
}

struct UnorderFaults;

impl Builtin for UnorderFaults {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let before = faults::Handlers::now();
        let result = gil.call(&arguments.object(0), []);
        let installed = INSTALLED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(installed) = installed {
            before.put_back(&installed);
        }
        result
    }
}

struct IsHandled;

impl Builtin for IsHandled {
    const ARGUMENTS: usize = 1;

    fn call(gil: Gil, arguments: Arguments<'_>) -> Result<Ref> {
        let signal = arguments.signed(0)?;
        truth(gil, c_int::try_from(signal).is_ok_and(faults::is_handled))
    }
}
