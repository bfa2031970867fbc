//! Who may import whom: crates, modules of a crate, folders of Lua files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CORE: &str = "nonblocking-ffi-core";
const LUA_VM: &str = "nonblocking-ffi-lua-vm";
const PLUGIN: &str = "nonblocking-ffi-plugin";
const COMMON: &str = "nonblocking-ffi-runtimes-common";
const TEST_SUPPORT: &str = "nonblocking-ffi-test-support";

/// Every crate of the workspace, and which others it may depend on.
const CRATES: &[(&str, &[&str])] = &[
    (CORE, &[PLUGIN]),
    (LUA_VM, &[CORE]),
    ("resty-nonblocking-ffi", &[CORE, LUA_VM]),
    (PLUGIN, &[]),
    (COMMON, &[PLUGIN]),
    ("nonblocking-ffi-python", &[COMMON, PLUGIN]),
    ("nonblocking-ffi-java", &[COMMON, PLUGIN]),
    ("nonblocking-ffi-thumbnail", &[PLUGIN]),
    ("nonblocking-ffi-blocking", &[PLUGIN]),
    ("nonblocking-ffi-async_client", &[PLUGIN]),
    ("nonblocking-ffi-bench", &[CORE, TEST_SUPPORT]),
    (TEST_SUPPORT, &[]),
];

/// Crates whose `lib.rs` has a table of modules: each may only use those above it.
const LAYERED: &[&str] = &[
    "src",
    "crates/lua-vm/src",
    "runtimes/common/src",
    "runtimes/python/src",
    "runtimes/java/src",
];

/// Folders and files below `lua/resty/nonblocking_ffi`, and which others each may require.
const LUA: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("worker.lua", &[]),
    ("future.lua", &["core"]),
    ("lifecycle.lua", &["core"]),
    ("lua", &["core", "future", "lifecycle"]),
    ("runtime.lua", &["core", "future", "lifecycle"]),
    ("languages", &["core", "lua", "runtime", "vm.env"]),
    (
        "load.lua",
        &["core", "languages", "lifecycle", "lua", "runtime"],
    ),
    ("vm", &["lua", "worker"]),
    ("compat", &["core"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder, or a file itself, with this extension.
fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.flat_map(|path| files(&path, extension)).collect()
    } else {
        let wanted = path.extension().is_some_and(|found| found == extension);
        (wanted && path.is_file())
            .then(|| path.to_owned())
            .into_iter()
            .collect()
    }
}

/// The names that follow `prefix` in a text.
fn names<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = text.split(prefix).skip(1);
    parts.map(|part| {
        let end = part.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c)));
        &part[..end.unwrap_or(part.len())]
    })
}

#[test]
fn crates_depend_on_what_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--locked"])
        .args(["--no-dedupe", "--edges", "no-dev", "--depth", "1"])
        .args(["--prefix", "depth", "--format", " {p} "])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{tree}");
    let table: BTreeMap<_, _> = CRATES.iter().copied().collect();
    let mut seen = Vec::new();
    for line in tree.lines().filter(|line| line.contains("(/")) {
        let mut words = line.split_whitespace();
        let (depth, name) = (words.next().unwrap(), words.next().unwrap());
        if depth == "0" {
            assert!(table.contains_key(name), "{name} is not in the table");
            seen.push(name);
        } else {
            let crate_ = seen.last().unwrap();
            assert!(table[crate_].contains(&name), "{crate_} depends on {name}");
        }
    }
    assert_eq!(seen.len(), CRATES.len(), "{seen:?}");
}

#[test]
fn modules_use_only_those_above_them() {
    for folder in LAYERED {
        let folder = root().join(folder);
        let lib = fs::read_to_string(folder.join("lib.rs")).unwrap();
        let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
        let order: Vec<_> = rows
            .map(|row| row.split('`').next().unwrap().trim_start_matches("mod@"))
            .collect();
        let declared = lib.lines().filter_map(|line| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        for module in declared {
            assert!(order.contains(&module), "{module} is not in the table");
        }
        for (index, module) in order.iter().enumerate() {
            let own = folder.join(module);
            let file = own.with_extension("rs");
            for path in files(&own, "rs").into_iter().chain(files(&file, "rs")) {
                let text = fs::read_to_string(&path).unwrap();
                let depth = path.strip_prefix(&folder).unwrap().components().count();
                let above = "super::".repeat(depth - usize::from(path.ends_with("mod.rs")));
                let code = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                for line in code.take_while(|line| !line.starts_with("mod tests")) {
                    assert!(!line.contains("crate::{"), "{}: {line}", path.display());
                    let used = names(line, "crate::").chain(names(line, &above));
                    for name in used.filter(|name| order.contains(name)) {
                        assert!(
                            order[..=index].contains(&name),
                            "{} uses {name}, which is below {module}",
                            path.display()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn lua_files_require_what_they_may() {
    let lua = root().join("lua/resty/nonblocking_ffi");
    for entry in fs::read_dir(&lua).unwrap() {
        let name = entry.unwrap().file_name();
        let is_listed = LUA.iter().any(|(part, _)| name == *part);
        assert!(is_listed, "{name:?} is not in the table");
    }
    for (part, others) in LUA {
        for path in files(&lua.join(part), "lua") {
            let text = fs::read_to_string(&path).unwrap();
            for name in names(&text, "\"resty.nonblocking_ffi.") {
                let allowed = others.iter().chain([part]).any(|part| {
                    let rest = name.strip_prefix(part);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                });
                assert!(allowed, "{} requires {name}", path.display());
            }
        }
    }
}
