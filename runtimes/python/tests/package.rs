//! The package for authors of plugins: its own tests, with the Python that is
//! there (`NBFFI_PYTHON`, an interpreter, or Debian's).

use std::path::Path;
use std::process::Command;

#[test]
fn the_tests_of_the_package_pass() {
    let python = std::env::var("NBFFI_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
    let python = match Path::new(&python).is_dir() {
        true => format!("{python}/bin/python3"),
        false => python,
    };
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("package");
    let output = Command::new(&python)
        .args(["-W", "error", "-m", "unittest", "discover", "-v", "tests"])
        .env("PYTHONPATH", package.join("src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&package)
        .output()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // None at all would be a success, too.
    let ran = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(ran >= 9, "{said}");
}

/// What the shared object carries is what is published, but for what is of use
/// outside of nginx only.
#[test]
fn every_module_of_the_package_is_carried_or_for_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("package/src/nonblocking_ffi");
    let host = include_str!("../src/interpreter.rs");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let carried = host.contains(&format!("package/src/nonblocking_ffi/{name}"));
        let outside = ["testing.py", "py.typed", "__pycache__"];
        let known = outside.contains(&name.as_str());
        assert!(carried != known, "{name}");
    }
}
