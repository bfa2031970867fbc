//! The JVM: there can be one in a process, and it stays.
//!
//! A thread with an ample stack makes it, and then runs `Canceller.java`. The JVM is
//! never destroyed: nginx's worker leaves with `_exit`, after shutdown hooks have
//! run (`runtime.rs`).
//!
//! A JVM that cannot start (too large a heap, for instance) ends the process,
//! as `java` would. But it calls a hook first, on the thread that makes it. Our hook
//! does not return: only that thread is lost.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jni::sys::{self, JNI_OK, JNI_VERSION_10, JavaVMInitArgs, JavaVMOption, jint};
use jni::{EnvUnowned, JavaVM, errors};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use nonblocking_ffi_plugin::sys::NBFFI_LOG_NOTICE;
use nonblocking_ffi_plugin::threads;
use nonblocking_ffi_runtimes_common::log::log_for_any;

use crate::config::Config;
use crate::java::{self, Boot};
use crate::locate::{self, Home, Places};
use crate::options;
use crate::signals;

/// pthread's default. `-Xss` is for the threads that Java makes.
const STACK_BYTES: usize = 8 << 20;
/// More threads than a JVM starts before it runs anything: it may end the process
/// if it cannot have one.
const THREADS: usize = 24;

/// The attempt to make the JVM.
struct Made {
    /// Final: once the JVM has begun to start, a process cannot try again.
    result: Result<JavaVM, String>,
    home: PathBuf,
    arguments: Vec<String>,
}

static MADE: Mutex<Option<Made>> = Mutex::new(None);

/// The JVM; it is made for the first runtime that wants it.
///
/// # Errors
/// In words: there is none, it cannot be made, or it was made in another way than
/// this runtime wants it.
pub(crate) fn obtain(config: &Config) -> Result<JavaVM, String> {
    if !java::is_complete() {
        return Err(
            "libnonblocking_ffi_java.so was built on a machine without a JDK, and has no Java \
             half: build it again with one (Debian: openjdk-17-jdk-headless)"
                .to_owned(),
        );
    }
    options::check(&config.jvm_args)?;
    let mut made = lock(&MADE);
    let made = match &mut *made {
        Some(made) => {
            if made.result.is_ok() {
                check_same(made, config)?;
            }
            made
        }
        none => {
            let home = locate::find(&Places::of_process(config.java_home.clone()))?;
            let does_not_start =
                |why| format!("the JVM of {} does not start: {why}", home.path.display());
            // Until it begins to start, nothing has happened: it is tried again.
            let create = prepare(&home).map_err(does_not_start)?;
            let made = make(create, home.version, &config.jvm_args).map_err(does_not_start)?;
            let made = made
                .recv()
                .unwrap_or_else(|_| Err("the thread that made it has ended".to_owned()));
            none.insert(Made {
                result: made.map_err(does_not_start),
                home: home.path,
                arguments: config.jvm_args.clone(),
            })
        }
    };
    made.result.clone()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a JVM that exists is what a later runtime wants.
fn check_same(made: &Made, config: &Config) -> Result<(), String> {
    if !config.jvm_args.is_empty() && config.jvm_args != made.arguments {
        return Err(format!(
            "jvm_args: a worker has one JVM, and this one was made with {}, not with {}: give all \
             Java runtimes the same, or only the one that is loaded first",
            in_words(&made.arguments),
            in_words(&config.jvm_args),
        ));
    }
    match config.java_home.as_deref().map(Path::canonicalize) {
        Some(Ok(home)) if home != made.home => Err(format!(
            "java_home: a worker has one JVM, and this one is that of {}, not of {}",
            made.home.display(),
            home.display(),
        )),
        _ => Ok(()),
    }
}

fn in_words(arguments: &[String]) -> String {
    match arguments {
        [] => "none".to_owned(),
        _ => format!("\"{}\"", arguments.join(" ")),
    }
}

/// The thread that waits for the JVM that is being made.
static WAITING: Mutex<Option<Sender<Result<JavaVM, String>>>> = Mutex::new(None);
/// What the JVM has said and is not logged yet.
static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Whether it is being made.
static STARTING: AtomicBool = AtomicBool::new(false);

/// Finds the function that makes it, and checks that there are threads for it.
fn prepare(home: &Home) -> Result<CreateFn, String> {
    threads::can_start(THREADS).map_err(|error| format!("it needs {THREADS} threads: {error}"))?;
    let library = home.library();
    // As the program `java` does it. SAFETY: the library's constructors run.
    let object = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) };
    let object = object.map_err(|error| format!("cannot load {}: {error}", library.display()))?;
    // SAFETY: the function has this type.
    let create = unsafe { object.get::<CreateFn>(b"JNI_CreateJavaVM\0").map(|f| *f) };
    // Never closed: its threads stay.
    std::mem::forget(object);
    create.map_err(|error| error.to_string())
}

/// Has a thread of its own make it, which sends the result.
fn make(
    create: CreateFn,
    version: u32,
    arguments: &[String],
) -> Result<Receiver<Result<JavaVM, String>>, String> {
    let (send, receive) = mpsc::channel();
    *lock(&WAITING) = Some(send);
    let arguments = options::all(version, arguments);
    let spawned = std::thread::Builder::new()
        .name("nbffi-java".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // SAFETY: this thread has no other purpose, and `obtain` starts one only
            // once.
            let created = unsafe { start(create, &arguments) };
            match created {
                // SAFETY: the JVM has just given it to this thread.
                Ok((vm, env)) => live(vm, unsafe { EnvUnowned::from_raw(env) }),
                Err(why) => report(Err(why)),
            }
        });
    spawned.map_err(|error| format!("no thread for it: {error}"))?;
    Ok(receive)
}

fn report(result: Result<JavaVM, String>) {
    if let Some(waiting) = lock(&WAITING).take() {
        // The thread waits until it is told.
        let _ = waiting.send(result);
    }
}

/// What the thread does that has made the JVM, to the end of the process.
fn live(vm: JavaVM, mut env: EnvUnowned<'_>) {
    let ended = env.with_env(|env| -> errors::Result<()> {
        match java::start(env) {
            Ok(()) => report(Ok(vm)),
            Err(error) => {
                report(Err(java::describe(env, &error)));
                return Ok(());
            }
        }
        Boot::cancel_forever(env)
    });
    // It does not return. If it did, nothing would be cancelled any more.
    drop(ended);
}

type CreateFn =
    unsafe extern "system" fn(*mut *mut sys::JavaVM, *mut *mut c_void, *mut c_void) -> jint;

/// Makes the JVM, with the calling thread as its first.
///
/// # Safety
/// Once in a process.
unsafe fn start(
    create: CreateFn,
    arguments: &[String],
) -> Result<(JavaVM, *mut sys::JNIEnv), String> {
    signals::choose_stop_signal();
    let handlers = signals::Handlers::now();
    let locale = Locale::now();
    // Relaxed: the hooks read it on this thread, or on one that the JVM starts
    // after this.
    STARTING.store(true, Ordering::Relaxed);
    // SAFETY: by the contract.
    let created = unsafe { call(create, arguments) };
    STARTING.store(false, Ordering::Relaxed);
    handlers.restore(create as *const c_void);
    locale.restore();
    let (raw, env) = created?;
    flush();
    // SAFETY: the JVM has just made it.
    Ok((unsafe { JavaVM::from_raw(raw) }, env.cast()))
}

/// # Safety
/// `create` is JNI's; once in a process.
unsafe fn call(
    create: CreateFn,
    arguments: &[String],
) -> Result<(*mut sys::JavaVM, *mut c_void), String> {
    let strings: Result<Vec<CString>, _> = arguments
        .iter()
        .map(|text| CString::new(text.as_str()))
        .collect();
    let strings = strings.map_err(|_| "jvm_args: an argument has a NUL".to_owned())?;
    let option = |text: &CStr, extra: *mut c_void| JavaVMOption {
        optionString: text.as_ptr().cast_mut(),
        extraInfo: extra,
    };
    let mut all = vec![
        option(c"vfprintf", print as *mut c_void),
        option(c"exit", on_exit as *mut c_void),
        option(c"abort", on_abort as *mut c_void),
    ];
    all.extend(strings.iter().map(|text| option(text, null_mut())));
    let mut init = JavaVMInitArgs {
        version: JNI_VERSION_10,
        nOptions: all.len() as jint,
        options: all.as_mut_ptr(),
        ignoreUnrecognized: false,
    };
    let (mut raw, mut env) = (null_mut(), null_mut());
    // SAFETY: as JNI has it; all strings live until it returns.
    let status = unsafe { create(&mut raw, &mut env, std::ptr::from_mut(&mut init).cast()) };
    match status {
        JNI_OK => Ok((raw, env)),
        status => Err(what_it_said(&format!("code {status}"))),
    }
}

/// What the JVM has said so far, in one line.
fn what_it_said(otherwise: &str) -> String {
    let said = std::mem::take(&mut *lock(&SAID));
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match lines[..] {
        [] => otherwise.to_owned(),
        _ => lines.join("; "),
    }
}

/// Logs the whole lines of what the JVM has said.
fn flush() {
    let mut said = lock(&SAID);
    let Some(end) = said.iter().rposition(|&b| b == b'\n') else {
        return;
    };
    let rest = said.split_off(end + 1);
    let lines = std::mem::replace(&mut *said, rest);
    drop(said);
    log_for_any(NBFFI_LOG_NOTICE, &String::from_utf8_lossy(&lines));
}

unsafe extern "C" {
    /// `va_list` is handed on as it came: a pointer on x86-64 and AArch64.
    fn vsnprintf(into: *mut c_char, size: usize, format: *const c_char, list: *mut c_void)
    -> c_int;
}

/// The JVM's printf.
unsafe extern "C" fn print(_file: *mut c_void, format: *const c_char, list: *mut c_void) -> c_int {
    let mut text = [0_u8; 4096];
    // SAFETY: the JVM's format and arguments; it writes what there is room for.
    let len = unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, list) };
    let written = usize::try_from(len).unwrap_or(0).min(text.len() - 1);
    lock(&SAID).extend_from_slice(&text[..written]);
    // Relaxed: see `start`.
    if !STARTING.load(Ordering::Relaxed) {
        flush();
    }
    len
}

extern "C" fn on_exit(code: jint) {
    give_up(&format!("it exits with code {code}"));
    // Runtime.halt, for instance. Not `_exit`, which some versions call: the host
    // logs the cause, and sets the status.
    // SAFETY: the host's handler ends the process at once, whatever threads run.
    unsafe { libc::exit(code) };
}

extern "C" fn on_abort() {
    give_up("it aborts");
}

/// The JVM is about to end the process. If it is still starting, this does not return:
/// so the process lives.
fn give_up(otherwise: &str) {
    // Relaxed: see `start`.
    if !STARTING.load(Ordering::Relaxed) {
        return;
    }
    report(Err(what_it_said(otherwise)));
    loop {
        std::thread::park();
    }
}

/// The C library's locale. The JVM sets it to that of the environment, which would
/// have Lua print numbers with a comma.
struct Locale(Option<CString>);

impl Locale {
    fn now() -> Self {
        // SAFETY: asks; the string is valid until the next change.
        let name = unsafe { libc::setlocale(libc::LC_ALL, std::ptr::null()) };
        // SAFETY: null or terminated.
        Self((!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_owned()))
    }

    fn restore(&self) {
        if let Some(name) = &self.0 {
            // SAFETY: a name that setlocale gave.
            unsafe { libc::setlocale(libc::LC_ALL, name.as_ptr()) };
        }
    }
}
