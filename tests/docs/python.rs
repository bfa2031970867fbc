//! The Python code of a document: `python FILE` blocks are modules of that name,
//! which its `lua` blocks load; those named `test_*.py` are programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::document::{Document, run};
use support::folder::Folder;
use support::root;

/// The file name of a block of this kind.
fn file_of(kind: &str) -> Option<&str> {
    let file = kind.strip_prefix("python ")?;
    file.ends_with(".py").then_some(file)
}

/// Whether a block is one of these.
pub fn is_module(kind: &str) -> bool {
    file_of(kind).is_some()
}

/// Writes the modules into a folder.
pub fn write(document: &Document, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for block in &document.blocks {
        if let Some(file) = file_of(&block.kind) {
            let marked = block.code.starts_with(&format!("# {file}\n"));
            assert!(marked, "{}: its first line names the file", block.place);
            fs::write(folder.join(file), &block.code).unwrap();
        }
    }
}

/// Runs the programs, with the package for authors and the other modules.
pub fn run_programs(document: &Document) {
    let folder = Folder::new();
    write(document, &folder);
    let package = root().join("runtimes/python/package/src");
    for block in &document.blocks {
        let Some(file) = file_of(&block.kind).filter(|file| file.starts_with("test_")) else {
            continue;
        };
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-W", "error", file]).current_dir(&*folder);
        python.env("PYTHONPATH", &package);
        run(&block.place, python.env("PYTHONDONTWRITEBYTECODE", "1"));
    }
}

/// `pip install <folder>` of this repository: there is a package.
pub fn check_pip(place: &str, words: &[&str]) {
    assert_eq!(words[..2], ["pip", "install"], "{place}");
    for folder in &words[2..] {
        let manifest = root().join(folder).join("pyproject.toml");
        assert!(manifest.exists(), "{place}: {folder}");
    }
}
