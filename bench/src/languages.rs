//! The languages that have a host: what nginx loads for them is built here, and
//! their rivals behind unix sockets, servers in the same language, are started.
//!
//! The sources are in `bench/go`, `bench/java` and `bench/python`.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::folder::copy;

use crate::Result;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);
/// The oldest Java that the host takes.
const OLDEST_JAVA: u32 = 17;

/// A language that functions of nginx's workers may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    /// With servers on `net`.
    Go,
    /// With servers on NIO.
    Java,
    /// With servers on asyncio, and on socketserver.
    Python,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Go, Self::Java, Self::Python];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "Go",
            Self::Java => "Java",
            Self::Python => "Python",
        }
    }

    /// What the names of its workloads begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Go => "go-",
            Self::Java => "java-",
            Self::Python => "python-",
        }
    }

    /// What this machine lacks for it, in words, if anything.
    pub fn missing(self, root: &Path) -> Option<&'static str> {
        let built = |name: &str| root.join("target/release").join(name).exists();
        match self {
            Self::Go if !runs(go().arg("version")) => Some("there is no go (Debian: golang-go)"),
            Self::Java if java_home().is_none() => {
                Some("there is no JDK 17 or later (Debian: openjdk-17-jdk-headless)")
            }
            Self::Java if !built("libnonblocking_ffi_java.so") => {
                Some("it is not built: run `make runtimes`")
            }
            Self::Python if !python().is_some_and(|python| has_libpython(&python)) => {
                Some("there is no python3 with its libpython (Debian: python3, libpython3-dev)")
            }
            Self::Python if !built("libnonblocking_ffi_python.so") => {
                Some("it is not built: run `make runtimes`")
            }
            _ => None,
        }
    }

    /// Puts what nginx loads into `dir/lib`, and the server's program beside it.
    /// `root` is a repository that is built.
    pub fn install(self, root: &Path, dir: &Path) -> Result<()> {
        let library = dir.join("prefix/lib");
        let host = |name: &str| copy(&root.join("target/release").join(name), &library.join(name));
        match self {
            Self::Go => {
                let build = |arguments: &[&str], output: &Path, package: &str| {
                    let mut command = go();
                    command.args(["build", "-buildvcs=false"]).args(arguments);
                    command.arg("-o").arg(output).arg(package);
                    done(command.current_dir(root.join("bench/go")))
                };
                build(
                    &["-buildmode=c-shared"],
                    &library.join("libgo_echo.so"),
                    "./plugin",
                )?;
                build(&[], &dir.join("go-server"), "./server")
            }
            Self::Java => {
                host("libnonblocking_ffi_java.so");
                let home = java_home().ok_or("there is no JDK")?;
                let mut javac = Command::new(home.join("bin/javac"));
                javac.args(["--release", "17", "-encoding", "UTF-8", "-d"]);
                done(
                    javac
                        .arg(dir.join("java"))
                        .arg(root.join("bench/java/Echo.java")),
                )
            }
            Self::Python => {
                host("libnonblocking_ffi_python.so");
                copy(&root.join("bench/python"), &dir.join("python"));
                Ok(())
            }
        }
    }

    /// Starts its servers in a folder that it is installed in.
    pub fn serve(self, dir: &Path) -> Result<Vec<Server>> {
        let server = |name: &str, command: &mut Command| {
            let socket = dir.join(format!("{name}.sock"));
            Server::start(command.arg(&socket), &socket)
        };
        match self {
            Self::Go => Ok(vec![server(
                "go",
                &mut Command::new(dir.join("go-server")),
            )?]),
            Self::Java => {
                let home = java_home().ok_or("there is no JDK")?;
                let mut java = Command::new(home.join("bin/java"));
                // A JVM that is killed would leave its file of counters behind.
                java.args(["-XX:-UsePerfData", "-cp"]);
                java.arg(dir.join("java")).arg("Echo");
                Ok(vec![server("java", &mut java)?])
            }
            Self::Python => {
                let python = python().ok_or("there is no python3")?;
                let run = |kind: &str| {
                    let mut command = Command::new(&python);
                    command.arg(dir.join("python/echo.py")).arg(kind);
                    server(kind, &mut command)
                };
                Ok(vec![run("asyncio")?, run("threads")?])
            }
        }
    }
}

fn go() -> Command {
    Command::new(env::var_os("GO").unwrap_or_else(|| "go".into()))
}

/// The Python that the host finds in nginx's workers, whose environment is empty.
fn python() -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin"];
    let mut paths = folders
        .map(|folder| Path::new(folder).join("python3"))
        .into_iter();
    paths.find(|path| path.exists())
}

fn has_libpython(python: &Path) -> bool {
    let open = "import ctypes, sys; \
                ctypes.CDLL('libpython%d.%d.so.1.0' % sys.version_info[:2])";
    runs(Command::new(python).args(["-c", open]))
}

/// The folder of a JDK that is new enough.
pub fn java_home() -> Option<PathBuf> {
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| {
        let folders: Vec<_> = env::split_paths(&path).collect();
        let javac = folders.into_iter().map(|folder| folder.join("javac"));
        // Often a link: the home is where it leads.
        javac.filter_map(|javac| Some(javac.canonicalize().ok()?.parent()?.parent()?.to_owned()))
    });
    let installed = fs::read_dir("/usr/lib/jvm").into_iter().flatten();
    let installed = installed.filter_map(|entry| Some(entry.ok()?.path()));
    let given = env::var_os("JAVA_HOME").map(PathBuf::from);
    let mut homes = given.into_iter().chain(in_path).chain(installed);
    homes.find(|home| {
        let version = Command::new(home.join("bin/javac"))
            .arg("-version")
            .output();
        let version = version.map(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let number = text.trim().strip_prefix("javac ")?.split('.').next()?;
            number.parse::<u32>().ok()
        });
        version.ok().flatten() >= Some(OLDEST_JAVA)
    })
}

/// Whether a command works.
fn runs(command: &mut Command) -> bool {
    let output = command.stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a command that has to work.
fn done(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{said}", output.status).into())
}

/// A server in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens and lets everybody in.
    fn start(command: &mut Command, socket: &Path) -> Result<Self> {
        // Control-C is for the bench, which then ends it.
        command.stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl with these arguments is a plain system call, which may be
        // made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A bench that is killed leaves no server behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn();
        let mut server = Self(child.map_err(|error| format!("{command:?}: {error}"))?);
        let start = Instant::now();
        loop {
            if let Some(status) = server.0.try_wait()? {
                return Err(format!("{command:?}: {status}").into());
            }
            let open = |meta: fs::Metadata| {
                use std::os::unix::fs::PermissionsExt;
                meta.permissions().mode() & 0o777 == 0o777
            };
            if fs::metadata(socket).is_ok_and(open) {
                return Ok(server);
            }
            if start.elapsed() > START {
                return Err(format!("{command:?} does not listen").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
