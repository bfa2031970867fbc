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
//! | `shield(by)` | keeps the calling thread's task from being stopped, by 1 or -1; whether it is to be stopped now |
//! | `inbox(runtime)` | the descriptor that tells of tasks for a loop |
//! | `take(runtime)` | `(task, request)`: the next task of a loop; `(task, None)`: to be cancelled; or `None` |
//! | `respond(task, result)`, `fail(task, code, message)` | end a task of a loop |
//! | `serve(runtime)` | makes the calling thread a loop's; with 0, not any more |
//! | `turn()` | the loop goes to wait |
//! | `forked()` | this process is the child of a fork |
//! | `order_faults(function)` | calls what installs handlers of faults, and has language runtimes come before them |
//! | `unorder_faults(function)` | calls what takes them out again |
//! | `is_handled(signal)` | whether the process has a handler for it |
//! | `set_type(dict, type)` | makes a plain dictionary one of another type |

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use nonblocking_ffi_plugin::{faults, sys};
use nonblocking_ffi_runtimes_common::entry::PANIC;
use nonblocking_ffi_runtimes_common::{log, monotonic_ns, task};

use crate::api::{Api, FastCall, METH_FASTCALL, PyMethodDef, PyObject};
use crate::child;
use crate::inbox::{self, Item};
use crate::object::{Bound, Gil, Raised, Result};
use crate::reply::{self, Reply};
use crate::threads;

/// The name of the module.
const NAME: &CStr = c"_nonblocking_ffi";
/// What a task is failed with that nobody wants any more before it has begun.
const GIVEN_UP: &[u8] = b"the task was given up before it began";
/// Linux cuts a thread's name after this many bytes.
const THREAD_NAME: &CStr = c"nbffi-asyncio";

static API: OnceLock<&'static Api> = OnceLock::new();

/// A table of functions with their names and numbers of arguments.
macro_rules! functions {
    ($($name:ident($count:literal),)*) => {
        const FUNCTIONS: &[(&CStr, FastCall)] = &[$({
            unsafe extern "C" fn entry(
                _this: *mut PyObject,
                arguments: *const *mut PyObject,
                count: isize,
            ) -> *mut PyObject {
                // SAFETY: Python calls with the GIL, and so many arguments.
                unsafe { enter(arguments, count, $count, $name) }
            }
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => (name, entry as FastCall),
                Err(_) => unreachable!(),
            }
        },)*];
    };
}

functions! {
    here(0),
    unwanted(1),
    remaining(1),
    set_status(3),
    log(3),
    shield(1),
    inbox(1),
    take(1),
    respond(2),
    fail(3),
    serve(1),
    turn(0),
    forked(0),
    set_type(2),
    order_faults(1),
    unorder_faults(1),
    is_handled(1),
}

/// Makes the module.
pub fn register(gil: Gil<'_>) -> Result<Bound<'_>> {
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
    for &(name, function) in FUNCTIONS {
        // Python keeps a pointer to it, for ever.
        let definition = Box::leak(Box::new(PyMethodDef {
            name: name.as_ptr(),
            meth: function,
            flags: METH_FASTCALL,
            doc: std::ptr::null(),
        }));
        let new = gil.PyCFunction_NewEx;
        // SAFETY: a definition that lives for ever; a new reference.
        let function = unsafe { gil.owned(new(definition, null_mut(), null_mut()))? };
        module.set_attribute(name, &function)?;
    }
    Ok(module)
}

type Builtin = for<'py> fn(Gil<'py>, &Arguments<'py>) -> Result<Bound<'py>>;

/// The way in from Python.
///
/// # Safety
///
/// This thread has the GIL; `count` objects at `arguments` live until this
/// returns.
unsafe fn enter(
    arguments: *const *mut PyObject,
    count: isize,
    expected: usize,
    function: Builtin,
) -> *mut PyObject {
    let Some(&api) = API.get() else {
        return null_mut();
    };
    // SAFETY: by the contract; it is not used after this.
    let gil = unsafe { Gil::assume(api) };
    if count != expected as isize {
        gil.type_error("wrong number of arguments");
        return null_mut();
    }
    let objects = match expected {
        0 => &[],
        // SAFETY: by the contract.
        n => unsafe { std::slice::from_raw_parts(arguments, n) },
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        function(gil, &Arguments { gil, objects })
    }));
    match result {
        Ok(Ok(result)) => result.into_ptr(),
        Ok(Err(Raised)) => null_mut(),
        Err(_) => {
            gil.type_error(PANIC);
            null_mut()
        }
    }
}

struct Arguments<'py> {
    gil: Gil<'py>,
    objects: &'py [*mut PyObject],
}

impl<'py> Arguments<'py> {
    fn object(&self, index: usize) -> Bound<'py> {
        // SAFETY: the arguments live while the function runs.
        unsafe { self.gil.borrowed(self.objects[index]) }
    }

    fn number(&self, index: usize) -> Result<u64> {
        self.object(index).number()
    }

    fn signed(&self, index: usize) -> Result<i64> {
        self.object(index).signed()
    }

    fn text(&self, index: usize) -> Result<String> {
        self.object(index).string()
    }
}

fn here<'py>(gil: Gil<'py>, _: &Arguments<'py>) -> Result<Bound<'py>> {
    match threads::here().filter(|r| r.runtime() != 0 && !r.is_loop()) {
        Some(record) => gil.tuple([gil.int(record.runtime())?, gil.int(record.task())?]),
        None => Ok(gil.none()),
    }
}

fn unwanted<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    gil.truth(task::is_unwanted(arguments.number(0)?))
}

fn remaining<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    match task::deadline_ns(arguments.number(0)?) {
        sys::NBFFI_NO_DEADLINE => Ok(gil.none()),
        deadline => gil.int(deadline.saturating_sub(monotonic_ns())),
    }
}

fn set_status<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let (task, code) = (arguments.number(0)?, arguments.signed(1)?);
    task::set_status(task, code, arguments.text(2)?.as_bytes());
    Ok(gil.none())
}

fn log<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let (runtime, level) = (arguments.number(0)?, arguments.signed(1)? as c_int);
    let text = arguments.text(2)?;
    if child::is_child() {
        // Nobody reads this process's part of the log.
        log::to_stderr(&text);
    } else if !log::log(runtime, level, &text) {
        log::log_for_any(level, &text);
    }
    Ok(gil.none())
}

fn shield<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let begins = arguments.signed(0)? > 0;
    let is_late = threads::here().is_some_and(|record| {
        record.shield(begins) && record.task() != 0 && task::is_unwanted(record.task())
    });
    gil.truth(is_late)
}

fn inbox<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    match inbox::of(arguments.number(0)?) {
        Some(inbox) => gil.int(inbox.descriptor() as u64),
        None => Ok(gil.none()),
    }
}

fn take<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let Some(inbox) = inbox::of(arguments.number(0)?) else {
        return Ok(gil.none());
    };
    while let Some(item) = inbox.take() {
        let request = match item {
            Item::Begin(request) => request,
            Item::Cancel(task) => return gil.tuple([gil.int(task)?, gil.none()]),
        };
        let refuse = |why: &[u8]| {
            // SAFETY: taken just now, so it is nobody else's.
            unsafe { task::fail(request.task, 0, why) };
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
            refuse(gil.take_message().as_bytes());
            continue;
        }
        return taken;
    }
    Ok(gil.none())
}

fn respond<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let task = arguments.number(0)?;
    let reply = Reply::of(gil, arguments.object(1))?;
    // SAFETY: python/loop.py ends what `take` gave it, which has copied the
    // request.
    unsafe { reply.send(task) };
    Ok(gil.none())
}

fn fail<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let (task, code) = (arguments.number(0)?, arguments.signed(1)?);
    let message = arguments.text(2)?;
    // SAFETY: as in `respond`.
    unsafe { task::fail(task, code, message.as_bytes()) };
    Ok(gil.none())
}

fn serve<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    match arguments.number(0)? {
        0 => threads::forget(),
        runtime => {
            // SAFETY: python/loop.py calls this again with 0 when the thread ends.
            unsafe { threads::serve(gil, runtime) };
            // SAFETY: a terminated name, for the calling thread.
            unsafe { libc::prctl(libc::PR_SET_NAME, THREAD_NAME.as_ptr()) };
        }
    }
    Ok(gil.none())
}

fn turn<'py>(gil: Gil<'py>, _: &Arguments<'py>) -> Result<Bound<'py>> {
    if let Some(record) = threads::here() {
        record.turn();
        record.take_back(gil);
    }
    Ok(gil.none())
}

fn forked<'py>(gil: Gil<'py>, _: &Arguments<'py>) -> Result<Bound<'py>> {
    child::enter();
    Ok(gil.none())
}

/// Python would refuse `sys.modules.__class__ = ...`: a plain dictionary's type
/// is not to be changed. Its memory fits a subclass without attributes.
fn set_type<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let (object, class) = (arguments.object(0), arguments.object(1));
    // SAFETY: a new reference, or NULL.
    let plain = unsafe { gil.owned((gil.PyDict_New)())? }.class()?;
    let base = class.attribute(c"__base__")?;
    // SAFETY: an object begins with its reference count, a word, and then has
    // its type, in every build but free-threaded ones, which are refused; where
    // it does not, the comparison fails and nothing is written.
    unsafe {
        let place = object.as_ptr().cast::<*mut PyObject>().add(1);
        if base.as_ptr() != plain.as_ptr() || place.read() != plain.as_ptr() {
            return Err(gil.type_error("set_type: not a dict and a subclass of dict"));
        }
        // The object's reference to its type.
        place.write(class.into_ptr());
    }
    Ok(gil.none())
}

/// The handlers that `order_faults` has found in front, the last time that there
/// were new ones.
static INSTALLED: Mutex<Option<faults::Handlers>> = Mutex::new(None);

fn order_faults<'py>(_: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let before = faults::Handlers::now();
    let result = arguments.object(0).call([]);
    let now = faults::Handlers::now();
    if now != before {
        *INSTALLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
    // Always: what is loaded later is to find the handler that stays.
    before.keep_order(true);
    result
}

fn unorder_faults<'py>(_: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let before = faults::Handlers::now();
    let result = arguments.object(0).call([]);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(installed) = installed.take() {
        before.put_back(&installed);
    }
    result
}

fn is_handled<'py>(gil: Gil<'py>, arguments: &Arguments<'py>) -> Result<Bound<'py>> {
    let signal = arguments.signed(0)?;
    gil.truth(c_int::try_from(signal).is_ok_and(faults::is_handled))
}
