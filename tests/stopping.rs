//! The C part that stops Lua code, alone, with each C library there is: opened
//! late, in threads that were there before and in others.
#![cfg(target_arch = "x86_64")]

use std::path::Path;
use std::process::Command;

/// Builds library and program with a compiler, and runs them. `None` if there is no
/// such compiler.
fn run(compiler: &str) -> Option<String> {
    Command::new(compiler).arg("--version").output().ok()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = root.join("crates/lua-vm/src");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stopping-{compiler}"));
    std::fs::create_dir_all(&folder).unwrap();
    let (library, program) = (folder.join("libinterrupt.so"), folder.join("program"));
    let compile = |command: &mut Command| {
        let command = command.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
        let output = command.arg("-I").arg(&sources).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler}: {complaints}");
    };
    compile(
        Command::new(compiler)
            .args(["-fPIC", "-shared", "-pthread", "-o"])
            .arg(&library)
            .args(["interrupt.c", "unwind.c"].map(|file| sources.join(file))),
    );
    compile(
        Command::new(compiler)
            .args(["-pthread", "-rdynamic", "-o"])
            .arg(&program)
            .arg(root.join("tests/stopping/program.c"))
            .arg("-ldl"),
    );
    let output = Command::new(program).arg(library).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn with_the_c_library_of_this_machine() {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    assert_eq!(run(&compiler).as_deref(), Some("all were stopped\n"));
}

#[test]
fn with_musl() {
    match run("musl-gcc") {
        Some(said) => assert_eq!(said, "all were stopped\n"),
        None => println!("left out: no musl-gcc (Debian: musl-tools)"),
    }
}
