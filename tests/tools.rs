//! The project's own tools: which nginx they start, and with what around it.
//!
//! nginx takes a variable NGINX in its environment for the sockets that it
//! inherits, and people say `NGINX=/path/to/nginx` to choose one.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output};

use support::folder::{Folder, set_mode};
use support::process::{self, Signal};
use support::{Nginx, builder, eventually, root};

/// A folder with a program in the place of nginx. The program writes down the
/// variable NGINX that it got, if any, and then is nginx.
struct Witness {
    dir: Folder,
}

impl Witness {
    fn new() -> Self {
        let dir = Folder::new();
        let real = builder::nginx().command();
        let script = format!(
            "#!/bin/sh\necho \"${{NGINX-none}}\" >>'{}/seen'\nexec '{}' \"$@\"\n",
            dir.display(),
            real.get_program().to_str().unwrap()
        );
        dir.write("nginx", &script);
        set_mode(&dir.join("nginx"), 0o755);
        Self { dir }
    }

    /// A command that is told to use it by the variable NGINX.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root());
        command.env("NGINX", self.dir.join("nginx"));
        command.env_remove("TEST_NGINX_BINARY");
        command
    }

    /// Fails unless the program was run, each time without the variable.
    fn check(&self, said: &str) {
        let seen = fs::read_to_string(self.dir.join("seen")).unwrap_or_default();
        assert!(!seen.is_empty(), "it was not used:\n{said}");
        assert!(seen.lines().all(|line| line == "none"), "{seen}\n{said}");
    }
}

fn both(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[test]
fn the_runner_of_t_uses_the_nginx_it_is_told() {
    let witness = Witness::new();
    let case = witness.dir.join("case.t");
    let text = "use Test::Nginx::Socket::Lua 'no_plan';\nrun_tests();\n__DATA__\n\n\
                === TEST 1: hello\n--- config\n\
                location = /t { content_by_lua_block { ngx.say('hello') } }\n\
                --- request\nGET /t\n--- response_body\nhello\n\
                --- no_error_log\n[error]\n[emerg]\n";
    fs::write(&case, text).unwrap();
    let case = case.to_str().unwrap();
    for (program, arguments) in [
        ("perl", vec!["scripts/run-t.pl", case]),
        ("perl", vec!["-It/lib", case]),
    ] {
        let output = witness.command(program, &arguments).output().unwrap();
        let said = both(&output);
        assert!(output.status.success(), "{said}");
        witness.check(&said);
    }
}

#[test]
fn an_example_uses_the_nginx_it_is_told() {
    let witness = Witness::new();
    let port = builder::free_port();
    let said = witness.dir.join("said");
    let file = fs::File::create(&said).unwrap();
    let mut command = witness.command("sh", &["examples/run.sh", "waf"]);
    command.env("PORT", port.to_string());
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let mut shell = command.spawn().unwrap();
    eventually("the example answers or has ended", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok() || shell.try_wait().unwrap().is_some()
    });
    process::signal(shell.id() as i32, Signal::Term);
    let status = shell.wait().unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{said}");
    assert!(
        !said.contains("[emerg]") && !said.contains("inherited sockets"),
        "{said}"
    );
    witness.check(&said);
}

/// Both ways of saying it, as an argument of make and in its environment.
#[test]
fn make_hands_the_path_on_under_another_name() {
    let show = "show: ; @echo \"$${NGINX-none} $${TEST_NGINX_BINARY-none}\"";
    for arguments in [
        vec!["-s", "--eval", show, "show"],
        vec!["-s", "--eval", show, "show", "NGINX=/a/path"],
        // A make within make, as `make test` has it.
        vec![
            "-s",
            "--eval",
            "twice: ; @$(MAKE) -s show",
            "--eval",
            show,
            "twice",
        ],
    ] {
        let mut make = Command::new("make");
        make.args(&arguments).current_dir(root());
        make.env("NGINX", "/a/path").env_remove("TEST_NGINX_BINARY");
        for name in ["MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
            make.env_remove(name);
        }
        let output = make.output().unwrap();
        let said = both(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.trim(), "none /a/path", "{arguments:?}");
    }
}

/// The Rust tests and the bench start nginx themselves.
#[test]
fn the_harness_keeps_the_variable_from_nginx() {
    // Set for this test's program alone, which others run in, too.
    if std::env::var_os("NGINX").is_none_or(|value| value != "nonsense;") {
        let name = "the_harness_keeps_the_variable_from_nginx";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name]).env("NGINX", "nonsense;");
        let program = builder::nginx().command().get_program().to_owned();
        let output = again.env("TEST_NGINX_BINARY", program).output().unwrap();
        let said = both(&output);
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // When it stops, it fails if there is an [emerg] in the log.
    let nginx = Nginx::builder().location("/t", "ngx.print('fine')").start();
    assert_eq!(nginx.text("/t"), "fine");
    let output = fs::read_to_string(nginx.dir().join("logs/output")).unwrap();
    assert!(
        !output.contains("NGINX") && !nginx.log().contains("NGINX"),
        "{output}"
    );
}
