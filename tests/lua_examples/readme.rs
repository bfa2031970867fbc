//! What the READMEs of the examples tell people to type: `examples/run.sh`, and
//! then the commands with curl, whose output stands behind them as a comment.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::document::{Document, document, run};
use crate::example::{DEBIAN_PATH, debian_cpath};
use support::folder::Folder;
use support::process::{self, Signal};
use support::{eventually, root};

const EXAMPLES: [&str; 3] = ["waf", "thumbnail_proxy", "luasocket_client"];

/// A port that is free, as is the next one.
fn two_ports() -> u16 {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let pair = |_| {
        let first = bind(0).unwrap();
        let port = first.local_addr().unwrap().port();
        (port < u16::MAX && bind(port + 1).is_ok()).then_some(port)
    };
    (0..100).find_map(pair).expect("two free ports in a row")
}

/// An example that runs as its README says.
struct Running {
    shell: Child,
    port: u16,
    folder: Folder,
}

impl Running {
    fn start(name: &str) -> Self {
        let folder = Folder::new();
        let said = fs::File::create(folder.join("said")).unwrap();
        let port = two_ports();
        let mut shell = Command::new("sh");
        shell
            .arg(root().join("examples/run.sh"))
            .arg(name)
            .env("PORT", port.to_string())
            // Debian's LuaSocket is not where an OpenResty looks.
            .env("LUA_PATH", format!(";;{DEBIAN_PATH}"))
            .env("LUA_CPATH", format!(";;{}", debian_cpath()))
            .env("TMPDIR", folder.make("tmp", 0o755))
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said);
        // SAFETY: prctl with these arguments is a plain system call, which may
        // be made between fork and exec.
        unsafe {
            shell.pre_exec(|| {
                // A test run that is killed leaves no nginx behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let mut running = Self {
            shell: shell.spawn().unwrap(),
            port,
            folder,
        };
        eventually("the example answers", || {
            let ended = running.shell.try_wait().unwrap();
            assert!(ended.is_none(), "{name} has ended:\n{}", running.said());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        running
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// Ends it, as somebody who is done would.
    fn stop(mut self) {
        process::signal(self.shell.id() as i32, Signal::Term);
        eventually("the example ends", || {
            self.shell.try_wait().unwrap().is_some()
        });
        let status = self.shell.wait().unwrap();
        let said = self.said();
        assert!(status.success(), "{status}\n{said}");
        for level in ["[emerg]", "[alert]", "[crit]"] {
            assert!(!said.contains(level), "{said}");
        }
        let left: Vec<_> = fs::read_dir(self.folder.join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let gone = TcpListener::bind(("127.0.0.1", self.port));
        assert!(gone.is_ok(), "nginx still listens");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shell.try_wait().is_ok_and(|status| status.is_none()) {
            process::signal(self.shell.id() as i32, Signal::Term);
            let _ = self.shell.wait();
        }
    }
}

/// The commands with curl, and what they are to print.
fn curls(readme: &Document) -> Vec<(String, String)> {
    let blocks = readme.of_kind("sh").flat_map(|block| block.commands());
    let curls = blocks.filter(|command| command.starts_with("curl "));
    let split = |command: String| {
        let (command, expected) = command.rsplit_once("  # ").expect("what it prints");
        (command.trim().to_owned(), expected.trim().to_owned())
    };
    curls.map(split).collect()
}

fn check(name: &str) {
    let readme = document(&format!("examples/{name}/README.md"));
    let start = format!("sh examples/run.sh {name}");
    let commands: Vec<String> = readme
        .of_kind("sh")
        .flat_map(|block| block.commands())
        .collect();
    assert!(commands.contains(&start), "{name}: {start}");
    for command in &commands {
        let known = [
            "curl ",
            "make build",
            "make examples",
            "sh examples/",
            "apt-get install ",
        ];
        let known = known.iter().any(|start| command.starts_with(start))
            || command.starts_with("target/release/sample_picture ");
        assert!(known, "{name}: nobody knows how to test `{command}`");
        let packages = command.strip_prefix("apt-get install ").unwrap_or("");
        let deps = fs::read_to_string(root().join("scripts/deps.sh")).unwrap();
        for package in packages.split_whitespace() {
            assert!(
                deps.contains(package),
                "{name}: scripts/deps.sh has no {package}"
            );
        }
    }
    let drawn = root().join("examples/thumbnail_proxy/html/moon.jpg");
    let was_there = drawn.exists();
    for picture in commands
        .iter()
        .filter(|command| command.starts_with("target/"))
    {
        run(
            name,
            Command::new("sh")
                .arg("-c")
                .arg(picture)
                .current_dir(root()),
        );
    }

    let running = Running::start(name);
    let curls = curls(&readme);
    assert!(curls.len() >= 3, "{name}: only {} commands", curls.len());
    for (command, expected) in curls {
        let here = command.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", running.port));
        let printed = run(name, Command::new("sh").arg("-c").arg(here));
        assert_eq!(printed.trim(), expected, "{command}\n{}", running.said());
    }
    let script = root().join("examples").join(name).join("measure.sh");
    if script.exists() {
        let mut measure = Command::new("sh");
        measure.arg(script).env("PORT", running.port.to_string());
        let printed = run(name, measure.env("SECONDS_EACH", "1"));
        for place in ["in the pool", "in the loop"] {
            let line = printed.lines().find(|line| line.starts_with(place));
            let line = line.unwrap_or_else(|| panic!("{name}: no {place}\n{printed}"));
            // Its rate, and the two percentiles.
            assert_eq!(line.split_whitespace().count(), 6, "{line}");
            assert!(!line.contains(" 0/s"), "{line}\n{}", running.said());
        }
    }
    running.stop();
    if name == "thumbnail_proxy" && !was_there {
        fs::remove_file(drawn).unwrap();
    }
}

#[test]
fn the_firewall_does_what_its_readme_says() {
    check("waf");
}

#[test]
fn the_proxy_does_what_its_readme_says() {
    check("thumbnail_proxy");
}

#[test]
fn the_client_does_what_its_readme_says() {
    check("luasocket_client");
}

/// Links lead somewhere, and every block is of a kind that is tested here.
#[test]
fn readmes_are_in_order() {
    for name in EXAMPLES {
        let readme = document(&format!("examples/{name}/README.md"));
        for block in &readme.blocks {
            assert_eq!(block.kind, "sh", "{}", block.place);
        }
        let folder = root().join("examples").join(name);
        for link in readme.prose().split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            assert!(
                link.contains("://") || folder.join(link).exists(),
                "{name}: {link}"
            );
        }
    }
}

#[test]
fn run_sh_says_what_is_wrong() {
    let fails = |argument: &[&str]| {
        let mut shell = Command::new("sh");
        shell.arg(root().join("examples/run.sh")).args(argument);
        let output = shell.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(fails(&[]).contains("usage: run.sh EXAMPLE"));
    assert!(fails(&["nothing"]).contains("there is no "));
}
