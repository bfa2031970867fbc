//! The interpreter: one per process, started by the first runtime that needs
//! one, on the keeper's thread, and never finalised.
//!
//! # Why a thread of its own
//!
//! Python takes the thread that starts it for the main thread, and lets only
//! that one install signal handlers. As no plugin's code ever runs there, none
//! can take a signal away from nginx: `signal.signal` raises everywhere.
//!
//! # How it is configured
//!
//! As an isolated one (PEP 587): no environment variables, no signal handlers,
//! nothing of the user's home. In UTF-8 mode, since nginx's locale is `C`. With
//! the older `Py_InitializeEx` what goes wrong would end the process; this way
//! it is an error that `load` returns.
//!
//! PEP 587 is public but not of the stable ABI: its structures grow. So they
//! are memory here, larger than they have ever been, that Python's own
//! functions fill in. Of one of them a member is set, `utf8_mode`; its place has
//! been the same from the first version on, and it is checked that what is
//! around it is as it should be.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};

use crate::api::{Api, LibPython, PyStatus};
use crate::builtins;
use crate::config::Config;
use crate::keeper;
use crate::locate::{self, Found, Wanted};
use crate::object::{Gil, Ref, Result};

/// `PyPreConfig` has 40 bytes and `PyConfig` some 450.
const CONFIG_BYTES: usize = 8192;
/// `_config_init`, `parse_argv`, `isolated`, `use_environment`,
/// `configure_locale`, `coerce_c_locale`, `coerce_c_locale_warn`, `utf8_mode`,
/// `dev_mode`, as `PyPreConfig_InitIsolatedConfig` leaves them.
const ISOLATED: [c_int; 9] = [3, 0, 1, 0, 0, 0, 0, 0, 0];
const UTF8_MODE: usize = 7;
/// Stack of the keeper: Python code runs on it, if little.
const STACK_BYTES: usize = 8 << 20;

/// The host's own Python code.
const HOST: &str = include_str!("python/host.py");
/// What it imports, and what plugins do.
const SOURCES: [(&CStr, &str); 12] = [
    (c"_nonblocking_ffi_errors", include_str!("python/errors.py")),
    (c"_nonblocking_ffi_exit", include_str!("python/exit.py")),
    (c"_nonblocking_ffi_faults", include_str!("python/faults.py")),
    (c"_nonblocking_ffi_finder", include_str!("python/finder.py")),
    (c"_nonblocking_ffi_log", include_str!("python/log.py")),
    (c"_nonblocking_ffi_loop", include_str!("python/loop.py")),
    (
        c"_nonblocking_ffi_modules",
        include_str!("python/modules.py"),
    ),
    (
        c"_nonblocking_ffi_namespaces",
        include_str!("python/namespaces.py"),
    ),
    (
        c"_nonblocking_ffi_spawned",
        include_str!("python/spawned.py"),
    ),
    (
        c"nonblocking_ffi",
        include_str!("../package/src/nonblocking_ffi/__init__.py"),
    ),
    (
        c"nonblocking_ffi._entry",
        include_str!("../package/src/nonblocking_ffi/_entry.py"),
    ),
    (
        c"nonblocking_ffi._outside",
        include_str!("../package/src/nonblocking_ffi/_outside.py"),
    ),
];

/// A Python that runs.
#[derive(Debug)]
pub struct Interpreter {
    library: &'static LibPython,
    host: Host,
}

/// What `python/host.py` has for us.
#[derive(Debug)]
struct Host {
    open: Ref,
    breathe: Ref,
    close: Ref,
    collect: Ref,
    describe: Ref,
    end: Ref,
    finish: Ref,
    task_of_loop: Ref,
    stopped: Ref,
}

enum State {
    None,
    Running(&'static Interpreter),
    /// Half of it may be there; there is no second attempt.
    Broken(String),
}

static STATE: Mutex<State> = Mutex::new(State::None);

/// The interpreter, started if need be.
///
/// # Errors
///
/// If there is none that works, or the one that runs is not the one wanted.
pub fn obtain(config: &Config) -> std::result::Result<&'static Interpreter, String> {
    let wanted = Wanted {
        python: config.python.clone(),
        venv: config.venv.clone(),
    };
    // Held while Python starts: others wait for it, on pool threads, as init
    // may.
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*state {
        State::Running(interpreter) => {
            interpreter.must_fit(&wanted)?;
            return Ok(interpreter);
        }
        State::Broken(why) => return Err(why.clone()),
        State::None => {}
    }
    let found = locate::find(&wanted)?;
    // Nothing of Python has run if there is no thread for it: it is tried again.
    let started = start(found)?;
    let started = started
        .recv()
        .unwrap_or_else(|_| Err("Python's thread has ended".to_owned()));
    *state = match &started {
        Ok(interpreter) => State::Running(interpreter),
        Err(why) => State::Broken(format!("Python could not be started before: {why}")),
    };
    started
}

type Started = std::result::Result<&'static Interpreter, String>;

/// Starts Python on a thread of its own, which sends what comes of it.
fn start(found: Found) -> std::result::Result<mpsc::Receiver<Started>, String> {
    let (send, receive) = mpsc::channel();
    let body = move || {
        // SAFETY: this thread is nothing but Python's main thread.
        let started = unsafe { initialize(found) };
        let interpreter = started.map(|i| -> &'static Interpreter { Box::leak(Box::new(i)) });
        let _ = send.send(interpreter.clone());
        if let Ok(interpreter) = interpreter {
            keeper::live(interpreter);
        }
    };
    let thread = std::thread::Builder::new()
        .name("nbffi-python".to_owned())
        .stack_size(STACK_BYTES);
    thread
        .spawn(body)
        .map_err(|error| format!("cannot start a thread for Python: {error}"))?;
    Ok(receive)
}

/// Memory for one of Python's structures.
#[repr(C, align(16))]
struct Room([u8; CONFIG_BYTES]);

/// Starts Python on this thread, which has let go of the GIL afterwards.
///
/// # Safety
///
/// Nobody else starts Python at the same time.
unsafe fn initialize(found: Found) -> std::result::Result<Interpreter, String> {
    let Found { library, program } = found;
    // SAFETY: functions may be called before Python is initialised if they are
    // made for it, as these are.
    let running = unsafe { (library.api.Py_IsInitialized)() } != 0;
    if running {
        // Somebody else's, in the same process: another host of Python.
        // SAFETY: it is initialised.
        unsafe { (library.api.PyGILState_Ensure)() };
    } else {
        // SAFETY: passed on.
        unsafe { configure(&library.api, program.as_deref()) }?;
    }
    // The table lives as long as the interpreter, and that for ever.
    let library: &'static LibPython = Box::leak(Box::new(library));
    // SAFETY: the thread that starts Python has the GIL.
    let gil = unsafe { Gil::assume(&library.api) };
    let host = match load_host(gil) {
        Ok(host) => Ok(host),
        Err(_) => Err(format!(
            "Python's half of the host fails: {}",
            gil.take_message()
        )),
    };
    // SAFETY: the GIL is there. The keeper attaches when it has to.
    unsafe { (library.api.PyEval_SaveThread)() };
    Ok(Interpreter {
        library,
        host: host?,
    })
}

/// # Safety
///
/// Python is not initialised, and nobody else does it.
unsafe fn configure(api: &Api, program: Option<&Path>) -> std::result::Result<(), String> {
    let mut room = Room([0; CONFIG_BYTES]);
    let place: *mut c_void = room.0.as_mut_ptr().cast();
    // SAFETY: room enough for the structure, which the function fills in.
    unsafe { (api.PyPreConfig_InitIsolatedConfig)(place) };
    // SAFETY: aligned, and longer than the array.
    let members = unsafe { &mut *place.cast::<[c_int; ISOLATED.len()]>() };
    if *members == ISOLATED {
        members[UTF8_MODE] = 1;
    }
    // SAFETY: a structure that was filled in by its function.
    check(unsafe { (api.Py_PreInitialize)(place) })?;
    if let (Some(program), Some(set_name)) = (program, api.Py_SetProgramName) {
        let program = CString::new(program.as_os_str().as_bytes())
            .map_err(|_| "the path of python has a NUL in it".to_owned())?;
        // SAFETY: after pre-initialisation texts may be decoded. The name must
        // live on: it is never freed.
        unsafe {
            let name = (api.Py_DecodeLocale)(program.as_ptr(), std::ptr::null_mut());
            if !name.is_null() {
                set_name(name);
            }
        }
    }
    room.0.fill(0);
    // SAFETY: as above; the structure owns what it points to until it is
    // cleared.
    unsafe {
        (api.PyConfig_InitIsolatedConfig)(place);
        let status = (api.Py_InitializeFromConfig)(place);
        (api.PyConfig_Clear)(place);
        check(status)
    }
}

fn check(status: PyStatus) -> std::result::Result<(), String> {
    if status.kind == 0 {
        return Ok(());
    }
    let text = match status.err_msg.is_null() {
        true => format!("it wants to exit with code {}", status.exitcode),
        // SAFETY: a terminated text that lives as long as libpython.
        false => unsafe { CStr::from_ptr(status.err_msg) }
            .to_string_lossy()
            .into_owned(),
    };
    Err(format!("Python does not start: {text}"))
}

fn load_host(gil: Gil) -> Result<Host> {
    let module = builtins::register(gil)?;
    // SAFETY: new references; the dictionary takes one of its own.
    unsafe {
        let sources = gil.owned((gil.PyDict_New)())?;
        for (name, source) in SOURCES {
            let source = gil.text(source.as_bytes())?;
            (gil.PyDict_SetItemString)(sources.as_ptr(), name.as_ptr(), source.as_ptr());
        }
        let set = gil.PyObject_SetAttrString;
        if set(module.as_ptr(), c"sources".as_ptr(), sources.as_ptr()) != 0 {
            return Err(crate::object::Raised);
        }
    }
    let source = CString::new(HOST).unwrap_or_default();
    let host = gil.run_module(
        c"_nonblocking_ffi_host",
        c"<_nonblocking_ffi_host>",
        &source,
    )?;
    Ok(Host {
        open: gil.attribute(&host, c"open")?,
        breathe: gil.attribute(&host, c"breathe")?,
        close: gil.attribute(&host, c"close")?,
        collect: gil.attribute(&host, c"collect")?,
        describe: gil.attribute(&host, c"describe")?,
        end: gil.attribute(&host, c"end")?,
        finish: gil.attribute(&host, c"finish")?,
        task_of_loop: gil.attribute(&host, c"task_of_loop")?,
        stopped: gil.attribute(&host, c"Stopped")?,
    })
}

/// What an opened runtime is to its host.
#[derive(Debug)]
pub struct Opened {
    /// Its Python side, for [`Interpreter::close`].
    pub handle: Ref,
    /// The function to call with each request; none if it is served by a loop.
    pub function: Option<Ref>,
}

impl Interpreter {
    /// libpython's functions.
    pub fn api(&'static self) -> &'static Api {
        &self.library.api
    }

    /// The exception class of tasks that are stopped.
    pub fn stopped(&self) -> &Ref {
        &self.host.stopped
    }

    /// Whether it is what a further runtime wants.
    fn must_fit(&self, wanted: &Wanted) -> std::result::Result<(), String> {
        let own = &self.library.path;
        let minor = self.library.minor;
        let named = locate::named(wanted)?;
        if named.is_empty() || named.contains(own) {
            return Ok(());
        }
        // The environment of another installation of the same version will do
        // if its packages are all that is wanted.
        let version = wanted.venv.as_deref().and_then(locate::version_of_venv);
        if wanted.python.is_none() && version == Some(format!("3.{minor}")) {
            return Ok(());
        }
        Err(format!(
            "this worker runs Python {} ({}) already, and a process can have only one; {} was \
             asked for",
            self.library.version,
            own.display(),
            named[0].display(),
        ))
    }

    /// Imports an entry and readies it.
    pub fn open(
        &self,
        gil: Gil,
        id: u64,
        name: &[u8],
        config: &Config,
    ) -> std::result::Result<Opened, String> {
        let opened = self.try_open(gil, id, name, config);
        opened.unwrap_or_else(|_| Err(gil.take_message()))
    }

    /// The inner result is what `open` of python/host.py says.
    fn try_open(
        &self,
        gil: Gil,
        id: u64,
        name: &[u8],
        config: &Config,
    ) -> Result<std::result::Result<Opened, String>> {
        let path = |path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            // SAFETY: the bytes are copied; a new reference.
            unsafe {
                gil.owned((gil.PyUnicode_DecodeFSDefaultAndSize)(
                    bytes.as_ptr().cast(),
                    bytes.len() as isize,
                ))
            }
        };
        // SAFETY: a new list, which takes references of its own.
        let folders = unsafe {
            let folders = gil.owned((gil.PyList_New)(0))?;
            for folder in &config.path {
                let folder = path(folder)?;
                (gil.PyList_Append)(folders.as_ptr(), folder.as_ptr());
            }
            folders
        };
        let venv = match &config.venv {
            Some(venv) => path(venv)?,
            None => gil.text(b"")?,
        };
        let arguments = [
            gil.int(id)?,
            gil.text(name)?,
            gil.text(config.entry.as_bytes())?,
            gil.text(&config.config)?,
            folders,
            venv,
        ];
        let answer = gil.call(&self.host.open, arguments)?;
        let (handle, function) = (gil.item(&answer, 0)?, gil.item(&answer, 1)?);
        if handle.as_ptr() == gil.none() {
            return Ok(Err(gil.string(&function)?));
        }
        let function = Some(function).filter(|function| function.as_ptr() != gil.none());
        Ok(Ok(Opened { handle, function }))
    }

    /// Ends a runtime's Python side.
    pub fn close(&self, gil: Gil, handle: Ref) {
        if gil.call(&self.host.close, [handle]).is_err() {
            // python/host.py logs what goes wrong in there.
            gil.take_exception();
        }
    }

    /// Lets other threads have the GIL if they have asked for it.
    pub fn breathe(&self, gil: Gil) {
        if gil.call(&self.host.breathe, []).is_err() {
            gil.take_exception();
        }
    }

    /// Frees what closed runtimes have left, once nothing of theirs is held.
    pub fn collect(&self, gil: Gil) {
        if gil.call(&self.host.collect, []).is_err() {
            gil.take_exception();
        }
    }

    /// Does what is to be done when the process ends; on Python's main thread.
    pub fn end(&self, gil: Gil) {
        if gil.call(&self.host.end, []).is_err() {
            gil.take_exception();
        }
    }

    /// Does what of that must not wait any longer; on any other thread.
    pub fn finish(&self, gil: Gil) {
        if gil.call(&self.host.finish, []).is_err() {
            gil.take_exception();
        }
    }

    /// The exception that is set, as the code and the message to fail a task
    /// with. It is logged, too, and not set any more.
    pub fn describe(&self, gil: Gil, runtime: u64, unwanted: bool) -> (i64, String) {
        let Some(error) = gil.take_exception() else {
            return (
                0,
                "the function returned nothing, and no exception".to_owned(),
            );
        };
        let described = || {
            // SAFETY: a new reference.
            let unwanted = unsafe { gil.owned((gil.PyBool_FromLong)(unwanted.into()))? };
            let arguments = [gil.int(runtime)?, error, unwanted];
            let answer = gil.call(&self.host.describe, arguments)?;
            let (code, message) = (gil.item(&answer, 0)?, gil.item(&answer, 1)?);
            // SAFETY: any object may be asked; what is no number is -1 and an
            // exception.
            let code = unsafe { (gil.PyLong_AsLongLong)(code.as_ptr()) };
            Ok::<_, crate::object::Raised>((code, gil.string(&message)?))
        };
        described().unwrap_or_else(|_| (0, gil.take_message()))
    }

    /// The task that a runtime's loop is in, if it is in one.
    pub fn task_of_loop(&self, gil: Gil, runtime: u64) -> Option<u64> {
        let ask = || {
            let answer = gil.call(&self.host.task_of_loop, [gil.int(runtime)?])?;
            // SAFETY: as in `describe`.
            Ok::<_, crate::object::Raised>(unsafe {
                (gil.PyLong_AsUnsignedLongLong)(answer.as_ptr())
            })
        };
        match ask() {
            Ok(task) => Some(task).filter(|&task| task != 0),
            Err(_) => {
                gil.take_exception();
                None
            }
        }
    }
}
