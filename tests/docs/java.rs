//! The Java code of a document: its `java FILE` blocks are files of that name; its
//! `javac` commands, run as they are printed, make the folder of classes that its
//! `lua` blocks load.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::document::{Document, run};
use support::folder::{Folder, copy};
use support::root;

/// Where the documents have the jar of the API.
const API: &str = "/path/to/nonblocking-ffi-api.jar";
/// Where it is.
const BUILT: &str = "target/java/nonblocking-ffi-api.jar";

/// The file name of a block of this kind.
fn file_of(kind: &str) -> Option<&str> {
    let file = kind.strip_prefix("java ")?;
    file.ends_with(".java").then_some(file)
}

/// Whether a block is one of these.
pub fn is_class(kind: &str) -> bool {
    file_of(kind).is_some()
}

/// Whether there is a JDK, with which the Java runtime was built.
pub fn is_built() -> bool {
    root().join(BUILT).exists()
}

/// Compiles the classes, and copies the folder that comes of it, `classes`, into
/// another one.
pub fn build(document: &Document, into: &Path) {
    let folder = Folder::new();
    let mut files = 0;
    for block in &document.blocks {
        if let Some(file) = file_of(&block.kind) {
            fs::write(folder.join(file), &block.code).unwrap();
            let class = format!("class {} ", file.trim_end_matches(".java"));
            assert!(block.code.contains(&class), "{}: no {class}", block.place);
            files += 1;
        }
    }
    if files == 0 {
        return;
    }
    let api = root().join(BUILT).display().to_string();
    let mut commands = 0;
    for block in document.of_kind("sh") {
        for command in block.commands() {
            if command.starts_with("javac ") {
                assert!(command.contains(API), "{}", block.place);
                let strict = command.replacen("javac ", "javac -Xlint:all -Werror ", 1);
                let mut sh = Command::new("sh");
                sh.arg("-c").arg(strict.replace(API, &api));
                run(&block.place, sh.current_dir(&*folder));
                commands += 1;
            }
        }
    }
    assert_eq!(commands, 1, "{}: one javac command", document.name);
    copy(&folder.join("classes"), &into.join("classes"));
}
