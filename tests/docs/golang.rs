//! The Go code of a document. Its `go` blocks are programs of their own; the `go`
//! commands of its `sh` blocks, run as they are printed, make a library of the
//! block that registers what the library is named after.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::document::{Block, Document, run};
use support::folder::Folder;
use support::root;

/// Where a document says that this repository is.
const PLACE: &str = "/path/to/lua-resty-nonblocking-ffi";

/// The libraries that were built.
pub struct Built {
    _folders: Vec<Folder>,
    /// Their paths, `lib<name>.so`.
    pub libraries: Vec<PathBuf>,
}

/// Vets every `go` block, and runs the `go` commands.
pub fn build(document: &Document) -> Built {
    let mut built = Built {
        _folders: Vec::new(),
        libraries: Vec::new(),
    };
    let blocks: Vec<&Block> = document.of_kind("go").collect();
    let mut commands = Vec::new();
    for block in document.of_kind("sh") {
        let go = block.commands().into_iter();
        let go = go.filter(|command| command.starts_with("go "));
        commands.extend(go.map(|command| (block.place.clone(), command)));
    }
    if blocks.is_empty() {
        assert!(commands.is_empty(), "{}: nothing to build", document.name);
        return built;
    }
    let names: Vec<String> = commands
        .iter()
        .filter_map(|(_, text)| library(text))
        .collect();
    assert_eq!(names.len(), 1, "{}: one library", document.name);
    let registered = format!("(\"{}\"", names[0]);
    for block in blocks {
        let folder = Folder::new();
        fs::write(folder.join("main.go"), &block.code).unwrap();
        let is_library = block.code.contains(&registered);
        for (place, command) in &commands {
            if library(command).is_some() && !is_library {
                continue;
            }
            let here = root().display().to_string();
            let mut sh = Command::new("sh");
            sh.arg("-c").arg(command.replace(PLACE, &here));
            run(place, sh.current_dir(&*folder));
        }
        let mut vet = Command::new("go");
        run(&block.place, vet.arg("vet").current_dir(&*folder));
        let mut format = Command::new("gofmt");
        let list = run(&block.place, format.args(["-l", "."]).current_dir(&*folder));
        assert_eq!(list, "", "{}: gofmt", block.place);
        if is_library {
            let path = folder.join(format!("lib{}.so", names[0]));
            built.libraries.push(path);
        }
        built._folders.push(folder);
    }
    assert_eq!(built.libraries.len(), 1, "{}", document.name);
    built
}

/// The name of the library that a command builds.
fn library(command: &str) -> Option<String> {
    let file = command
        .split_whitespace()
        .find_map(|word| word.strip_prefix("lib"))?;
    file.strip_suffix(".so").map(str::to_owned)
}
