//! The nginx that everything runs in: one worker, started in a temporary
//! folder on a free port, stopped by its pid, its folder removed.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::languages::{self, Language, Server};
use crate::{Result, echo_server, process};

/// How long nginx may take to start.
const START: Duration = Duration::from_secs(20);
/// How long nginx may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);
/// Plugins, by the name of their source, and where that is in the repository.
const PLUGINS: [(&str, &str); 4] = [
    ("echo", "examples/echo/echo.c"),
    ("copy", "bench/plugins/copy.c"),
    ("sleep", "bench/plugins/sleep.c"),
    ("spin", "bench/plugins/spin.c"),
];

/// The repository.
pub fn root() -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench).to_owned()
}

/// A running nginx; stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Nginx {
    /// Before the folder, in which their sockets are.
    _servers: Vec<Server>,
    folder: Folder,
    master: Child,
    worker: i32,
    port: u16,
    version: String,
}

/// A folder that is removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The nginx to use and its modules, as `scripts/nginx-env.sh` finds them.
struct Binary {
    path: String,
    modules: String,
}

impl Binary {
    fn find() -> Result<Self> {
        let script = root().join("scripts/nginx-env.sh");
        let output = Command::new("sh").arg(&script).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let text = String::from_utf8(output.stdout)?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.ok_or_else(|| format!("{} says no {name}", script.display()))?;
            Ok::<_, String>(line.trim_matches(['=', '\'']).to_owned())
        };
        Ok(Self {
            path: value("TEST_NGINX_BINARY")?,
            modules: value("TEST_NGINX_LOAD_MODULES")?,
        })
    }

    /// The command that starts it.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // nginx takes a variable of this name for the sockets that it inherits.
        command.env_remove("NGINX");
        command
    }

    fn version(&self) -> Result<String> {
        let output = self.command().arg("-v").output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        let version = text.trim().rsplit(": ").next().unwrap_or_default();
        Ok(version.to_owned())
    }
}

impl Nginx {
    /// Builds what nginx needs for these languages, too, starts it and their
    /// servers, and waits until it answers.
    pub fn start(languages: &BTreeSet<Language>) -> Result<Self> {
        let binary = Binary::find()?;
        let version = binary.version()?;
        let folder = Folder(fresh_folder()?);
        let dir = folder.0.as_path();
        install(dir, languages)?;
        echo_server::start(&dir.join("echo.sock"))?;
        let mut servers = Vec::new();
        for language in languages {
            servers.extend(language.serve(dir)?);
        }
        // Somebody else may take the port between our look and nginx's bind.
        for _ in 0..5 {
            let port = free_port()?;
            fs::write(dir.join("nginx.conf"), configuration(&binary, dir, port))?;
            let mut master = spawn(&binary, dir)?;
            match wait_until_ready(&mut master, dir, port) {
                Ok(Some(worker)) => {
                    return Ok(Self {
                        _servers: servers,
                        version,
                        folder,
                        master,
                        worker,
                        port,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    stop(&mut master);
                    return Err(error);
                }
            }
        }
        Err("no free port found".into())
    }

    /// A connection to it.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.port)?)
    }

    /// The worker's process.
    pub fn worker(&self) -> i32 {
        self.worker
    }

    /// What it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it says it is.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops it; an error if anything went wrong meanwhile that the answers
    /// did not show: a worker that died, errors in the log.
    pub fn finish(mut self) -> Result<()> {
        let workers = process::children(self.master.id() as i32);
        let log = self.log();
        if workers != [self.worker] {
            return Err(format!("the worker was replaced\n{log}").into());
        }
        stop(&mut self.master);
        let log = self.log();
        let serious = ["[emerg]", "[alert]", "[crit]", "[error]"];
        let complaint = log
            .lines()
            .find(|line| serious.iter().any(|level| line.contains(level)));
        complaint.map_or(Ok(()), |line| Err(format!("nginx said: {line}").into()))
    }

    /// The end of nginx's error log.
    pub fn log(&self) -> String {
        log_of(&self.folder.0)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        stop(&mut self.master);
    }
}

/// A folder that nginx's unprivileged user can enter.
fn fresh_folder() -> Result<PathBuf> {
    let name = format!("nbffi-bench-{}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir.canonicalize()?)
}

/// Puts all that nginx reads into its folder: an unprivileged worker may not
/// be able to enter those in which the originals are.
fn install(dir: &Path, languages: &BTreeSet<Language>) -> Result<()> {
    for sub in ["lib", "lua", "temp", "sockets"] {
        fs::create_dir(dir.join(sub))?;
    }
    for open in ["temp", "sockets"] {
        fs::set_permissions(dir.join(open), fs::Permissions::from_mode(0o777))?;
    }
    let root = root();
    copy_tree(&root.join("lua"), &dir.join("lua"))?;
    copy_tree(&root.join("bench/lua"), &dir.join("lua"))?;
    let core = root.join("target/release/libnonblocking_ffi.so");
    fs::copy(&core, dir.join("lib/libnonblocking_ffi.so"))
        .map_err(|error| format!("{}: {error}: run `make build`", core.display()))?;
    for (name, source) in PLUGINS {
        compile(&root, source, &dir.join(format!("lib/lib{name}.so")))?;
    }
    for language in languages {
        language.install(&root, dir)?;
    }
    make_readable(dir)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn compile(root: &Path, source: &str, library: &Path) -> Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-std=c99", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra"])
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join(source))
        .arg("-o")
        .arg(library)
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{compiler} {source}: {}\n{said}", output.status).into())
}

/// Whatever the umask is: everybody may read what is there.
fn make_readable(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let mut permissions = fs::metadata(&path)?.permissions();
        let more = if path.is_dir() { 0o555 } else { 0o444 };
        permissions.set_mode(permissions.mode() | more);
        fs::set_permissions(&path, permissions)?;
        if path.is_dir() {
            make_readable(&path)?;
        }
    }
    Ok(())
}

fn configuration(binary: &Binary, dir: &Path, port: u16) -> String {
    let modules = binary.modules.split_whitespace();
    let load: String = modules
        .map(|module| format!("load_module {module};\n"))
        .collect();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let java_home = languages::java_home().unwrap_or_default();
    include_str!("../nginx.conf")
        .replace("{{load_modules}}", &load)
        .replace("{{user}}", &unprivileged_user())
        .replace("{{java_home}}", &java_home.display().to_string())
        .replace("{{dir}}", &dir.display().to_string())
        .replace("{{port}}", &port.to_string())
        .replace("{{cores}}", &cores.to_string())
}

/// The directive for it, if we are root; otherwise we are unprivileged.
fn unprivileged_user() -> String {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        return String::new();
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let has = |name: &str| {
        groups
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let group = if has("nogroup") { "nogroup" } else { "nobody" };
    format!("user nobody {group};")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn spawn(binary: &Binary, dir: &Path) -> Result<Child> {
    let output = fs::File::create(dir.join("output"))?;
    let mut command = binary.command();
    command
        .arg("-p")
        .arg(format!("{}/", dir.display()))
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .arg("-e")
        .arg(dir.join("error.log"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Control-C is for the bench, which then stops nginx.
        .process_group(0);
    // SAFETY: prctl with these arguments is a plain system call, which may be
    // made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // A bench that is killed leaves no nginx behind.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let child = command.spawn();
    Ok(child.map_err(|error| format!("{}: {error}", binary.path))?)
}

/// The worker's pid, once it answers; none if the port was taken.
fn wait_until_ready(master: &mut Child, dir: &Path, port: u16) -> Result<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = master.try_wait()? {
            let log = log_of(dir);
            if log.contains("Address already in use") {
                fs::remove_file(dir.join("error.log"))?;
                return Ok(None);
            }
            return Err(format!("nginx did not start: {status}\n{log}").into());
        }
        let workers = process::children(master.id() as i32);
        let answers = |mut client: Client| client.get("/once/empty").is_ok();
        if workers.len() == 1 && Client::connect(port).is_ok_and(answers) {
            return Ok(Some(workers[0]));
        }
        if start.elapsed() > START {
            return Err(format!("nginx does not answer\n{}", log_of(dir)).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn log_of(dir: &Path) -> String {
    let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
    read("error.log") + &read("output")
}

/// Asks nginx to stop, waits until it has, and kills it if it does not.
fn stop(master: &mut Child) {
    if !matches!(master.try_wait(), Ok(None)) {
        return;
    }
    let workers = process::children(master.id() as i32);
    signal(master.id() as i32, libc::SIGTERM);
    let start = Instant::now();
    while matches!(master.try_wait(), Ok(None)) {
        if start.elapsed() > STOP {
            eprintln!("bench: nginx does not stop: killing it");
            for worker in workers {
                signal(worker, libc::SIGKILL);
            }
            signal(master.id() as i32, libc::SIGKILL);
            // Nothing can go wrong that one could do anything about.
            let _ = master.wait();
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(pid: i32, number: i32) {
    // SAFETY: plain numbers; the pid is that of a child which has not been
    // waited for, or of that child's child.
    unsafe { libc::kill(pid, number) };
}
