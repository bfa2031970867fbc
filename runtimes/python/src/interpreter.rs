//! The interpreter: one per process, started by the first runtime that needs
//! one, and never finalised.
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

use crate::api::{Api, LibPython, PyStatus};
use crate::builtins;
use crate::config::Config;
use crate::locate::{self, Found, Wanted};
use crate::object::{Bound, Gil, Py, Raised, Result};
use crate::threads::{self, Attached};

/// `PyPreConfig` has 40 bytes and `PyConfig` some 450.
const CONFIG_BYTES: usize = 8192;
/// `_config_init`, `parse_argv`, `isolated`, `use_environment`,
/// `configure_locale`, `coerce_c_locale`, `coerce_c_locale_warn`, `utf8_mode`,
/// `dev_mode`, as `PyPreConfig_InitIsolatedConfig` leaves them.
const ISOLATED: [c_int; 9] = [3, 0, 1, 0, 0, 0, 0, 0, 0];
const UTF8_MODE: usize = 7;

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
    open: Py,
    yield_gil: Py,
    close: Py,
    collect: Py,
    describe: Py,
    end: Py,
    finish: Py,
    task_of_loop: Py,
    stopped: Py,
}

/// Memory for one of Python's structures.
#[repr(C, align(16))]
struct Room([u8; CONFIG_BYTES]);

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

fn load_host(gil: Gil<'_>) -> Result<Host> {
    let module = builtins::register(gil)?;
    // SAFETY: a new reference.
    let sources = unsafe { gil.owned((gil.PyDict_New)())? };
    for (name, source) in SOURCES {
        let source = gil.text(source.as_bytes())?;
        let set = gil.PyDict_SetItemString;
        // SAFETY: both live; the dictionary takes a reference of its own.
        if unsafe { set(sources.as_ptr(), name.as_ptr(), source.as_ptr()) } != 0 {
            return Err(Raised);
        }
    }
    module.set_attribute(c"sources", &sources)?;
    let source = CString::new(HOST).unwrap_or_default();
    let host = gil.run_module(
        c"_nonblocking_ffi_host",
        c"<_nonblocking_ffi_host>",
        &source,
    )?;
    let get = |name| host.attribute(name).map(Bound::unbind);
    Ok(Host {
        open: get(c"open")?,
        yield_gil: get(c"yield_gil")?,
        close: get(c"close")?,
        collect: get(c"collect")?,
        describe: get(c"describe")?,
        end: get(c"end")?,
        finish: get(c"finish")?,
        task_of_loop: get(c"task_of_loop")?,
        stopped: get(c"Stopped")?,
    })
}

/// What an opened runtime is to its host.
#[derive(Debug)]
pub struct Opened {
    /// Its Python side, for [`Interpreter::close`].
    pub handle: Py,
    /// The function to call with each request; none if it is served by a loop.
    pub function: Option<Py>,
}

impl Interpreter {
    /// Starts Python on this thread, which has let go of the GIL afterwards.
    ///
    /// # Errors
    ///
    /// If Python does not start. There is no second attempt.
    ///
    /// # Safety
    ///
    /// Nobody else starts Python at the same time.
    pub unsafe fn start(found: Found) -> std::result::Result<Self, String> {
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
        let host = load_host(gil)
            .map_err(|_| format!("Python's half of the host fails: {}", gil.take_message()));
        // SAFETY: the GIL is there, and not used any more.
        unsafe { (library.api.PyEval_SaveThread)() };
        Ok(Self {
            library,
            host: host?,
        })
    }

    /// Takes the GIL.
    ///
    /// # Safety
    ///
    /// The calling thread does not have it.
    pub unsafe fn attach(&self) -> Attached {
        // SAFETY: by the contract; Python is initialised.
        unsafe { threads::attach(&self.library.api) }
    }

    /// The exception class of tasks that are stopped.
    pub fn stopped<'py>(&self, gil: Gil<'py>) -> Bound<'py> {
        self.host.stopped.bind(gil)
    }

    /// Whether it is what a further runtime wants.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn must_fit(&self, wanted: &Wanted) -> std::result::Result<(), String> {
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
    ///
    /// # Errors
    ///
    /// What `load` is to return.
    pub fn open(
        &self,
        gil: Gil<'_>,
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
        gil: Gil<'_>,
        id: u64,
        name: &[u8],
        config: &Config,
    ) -> Result<std::result::Result<Opened, String>> {
        let path = |path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            let (data, len) = (bytes.as_ptr().cast(), bytes.len() as isize);
            // SAFETY: the bytes are copied; a new reference.
            unsafe { gil.owned((gil.PyUnicode_DecodeFSDefaultAndSize)(data, len)) }
        };
        // SAFETY: a new reference.
        let folders = unsafe { gil.owned((gil.PyList_New)(0))? };
        for folder in &config.path {
            let folder = path(folder)?;
            // SAFETY: both live; the list takes a reference of its own.
            if unsafe { (gil.PyList_Append)(folders.as_ptr(), folder.as_ptr()) } != 0 {
                return Err(Raised);
            }
        }
        let venv = match &config.venv {
            Some(venv) => path(venv)?,
            None => gil.text(b"")?,
        };
        let answer = self.host.open.bind(gil).call([
            gil.int(id)?,
            gil.text(name)?,
            gil.text(config.entry.as_bytes())?,
            gil.text(&config.config)?,
            folders,
            venv,
        ])?;
        let (handle, function) = (answer.item(0)?, answer.item(1)?);
        if handle.is_none() {
            return Ok(Err(function.string()?));
        }
        let function = Some(function).filter(|function| !function.is_none());
        Ok(Ok(Opened {
            handle: handle.unbind(),
            function: function.map(Bound::unbind),
        }))
    }

    /// Ends a runtime's Python side.
    pub fn close(&self, gil: Gil<'_>, handle: Py) {
        tell(gil, &self.host.close, [handle.into_bound(gil)]);
    }

    /// Lets other threads have the GIL if they have asked for it.
    pub fn yield_gil(&self, gil: Gil<'_>) {
        tell(gil, &self.host.yield_gil, []);
    }

    /// Frees what closed runtimes have left, once nothing of theirs is held.
    pub fn collect(&self, gil: Gil<'_>) {
        tell(gil, &self.host.collect, []);
    }

    /// Does what is to be done when the process ends; on Python's main thread.
    pub fn end(&self, gil: Gil<'_>) {
        tell(gil, &self.host.end, []);
    }

    /// Does what of that must not wait any longer; on any other thread.
    pub fn finish(&self, gil: Gil<'_>) {
        tell(gil, &self.host.finish, []);
    }

    /// The exception that is set, as the code and the message to fail a task
    /// with. It is logged, too, and not set any more.
    pub fn describe(&self, gil: Gil<'_>, runtime: u64, unwanted: bool) -> (i64, String) {
        let Some(error) = gil.take_exception() else {
            let message = "the function returned nothing, and no exception";
            return (0, message.to_owned());
        };
        let described = || {
            let arguments = [gil.int(runtime)?, error, gil.truth(unwanted)?];
            let answer = self.host.describe.bind(gil).call(arguments)?;
            Ok::<_, Raised>((answer.item(0)?.signed()?, answer.item(1)?.string()?))
        };
        described().unwrap_or_else(|_| (0, gil.take_message()))
    }

    /// The task that a runtime's loop is in, or 0.
    pub fn task_of_loop(&self, gil: Gil<'_>, runtime: u64) -> u64 {
        let ask = || {
            self.host
                .task_of_loop
                .bind(gil)
                .call([gil.int(runtime)?])?
                .number()
        };
        ask().unwrap_or_else(|_| {
            gil.clear();
            0
        })
    }
}

/// Calls a function of python/host.py, which logs what goes wrong in there.
fn tell<'py, const N: usize>(gil: Gil<'py>, function: &Py, arguments: [Bound<'py>; N]) {
    if function.bind(gil).call(arguments).is_err() {
        gil.clear();
    }
}
