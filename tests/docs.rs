//! README.md and docs/*.md are true: every block of code runs, every link leads
//! somewhere, every error is listed.
//!
//! | block        | test |
//! |--------------|------|
//! | `lua`        | runs in a content handler, with `nbffi`, `rt` (the plugin echo), `timer` (async_timer) and `slow` (blocking) defined. Its output must be the texts after `-->`, in order. `/path/to/` is the folder of the plugins. |
//! | `lua FILE`   | a Lua module of that file name, for the document's `lua` blocks to load |
//! | `nginx`      | a whole configuration: nginx runs with it and the files that `scripts/install.sh` installed. The test requests each `location =` of it and runs each `curl` of the following `sh` blocks. |
//! | `nginx http` | the same, as a part of `http` |
//! | `sh`         | by its first word, see [`check_command`] |
//! | `c`          | compiles without a warning; a `cc` command of the same document makes a plugin of it, which Lua then calls |
//! | `rust`       | a doc test of the author crate, which includes the document |
//! | `go`         | a program: vetted; the `go` commands of the same document make a library of one, which Lua then calls |
//! | `java FILE`  | a Java file of that name; the document's `javac` command makes the classes that its `lua` blocks load |
//! | `python FILE` | a Python module of that file name, in the folder `/path/to/python`, for the document's `lua` blocks to load; `test_*.py` is a program |
//! | `toml`       | a manifest that cargo understands |
//!
//! No other kind of block is allowed, and none without a kind.

#[path = "docs/document.rs"]
mod document;
#[path = "docs/golang.rs"]
mod golang;
#[path = "docs/java.rs"]
mod java;
#[path = "docs/python.rs"]
mod python;
#[path = "docs/server.rs"]
mod server;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use document::{Block, Document, document, documents, run};
use nonblocking_ffi_core::error::Error;
use server::Server;
use support::folder::Folder;
use support::{Nginx, root};

#[test]
fn every_block_is_of_a_kind_that_is_tested() {
    let known = [
        "lua",
        "nginx",
        "nginx http",
        "sh",
        "c",
        "rust",
        "toml",
        "go",
    ];
    let crate_root = fs::read_to_string(root().join("plugin/src/lib.rs")).unwrap();
    let mut seen = BTreeSet::new();
    for document in documents() {
        for Block { place, kind, .. } in &document.blocks {
            let is_file = kind.starts_with("lua ") && kind.ends_with(".lua");
            let is_file = is_file || python::is_module(kind) || java::is_class(kind);
            let is_known = is_file || known.contains(&kind.as_str());
            assert!(is_known, "{place}: kind {kind:?}");
            if !is_file {
                seen.insert(kind.clone());
            }
            let include = format!("include_str!(\"../../{}\")", document.name);
            let included = crate_root.contains(&include);
            assert!(kind != "rust" || included, "{place}: not a doc test");
        }
    }
    assert_eq!(seen.len(), known.len(), "only {seen:?}");
}

/// Where the plugins of a document's `cc` commands are: `lib<name>.so`.
struct Built {
    folder: Folder,
    names: Vec<String>,
}

/// Compiles every `c` block, and runs the `cc` commands as they are printed.
fn build_c(document: &Document) -> Built {
    let folder = Folder::new();
    symlink(root().join("include"), folder.join("include")).unwrap();
    let sources: Vec<&Block> = document.of_kind("c").collect();
    for (number, block) in sources.iter().enumerate() {
        let source = folder.join(format!("block{number}.c"));
        fs::write(&source, &block.code).unwrap();
        let strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
        let mut cc = Command::new("cc");
        cc.args(strict).args(["-fsyntax-only", "-Iinclude"]);
        run(&block.place, cc.arg(source).current_dir(&*folder));
    }
    let mut names = Vec::new();
    for block in document.of_kind("sh") {
        for command in block.commands().iter().filter(|c| c.starts_with("cc ")) {
            let mut words = command.split_whitespace();
            let stem = words.find_map(|word| word.strip_suffix(".c"));
            let stem = stem.unwrap_or_else(|| panic!("{}: no source", block.place));
            let named = sources.iter().find(|source| source.code.contains(stem));
            let source = named.or(sources.first()).expect("no C in the document");
            fs::write(folder.join(format!("{stem}.c")), &source.code).unwrap();
            let mut sh = Command::new("sh");
            sh.arg("-c").arg(command).current_dir(&*folder);
            run(&block.place, &mut sh);
            names.push(stem.to_owned());
        }
    }
    Built { folder, names }
}

/// The output that a `lua` block announces after `-->`.
fn expected(code: &str) -> String {
    let marks = code.lines().filter_map(|line| line.split_once("--> "));
    marks
        .map(|(_, text)| format!("{}\n", text.trim()))
        .collect()
}

fn run_lua(document: &Document) {
    let built = build_c(document);
    let built_go = golang::build(document);
    let blocks: Vec<&Block> = document.of_kind("lua").collect();
    if blocks.is_empty() && built.names.is_empty() {
        return;
    }
    let has_java = document.blocks.iter().any(|b| java::is_class(&b.kind));
    if has_java && !java::is_built() {
        println!("{}: no JDK: its blocks are not run", document.name);
        return;
    }
    let builder = Nginx::builder().plugin("async_timer").plugin("blocking");
    let builder = builder.plugin("nonblocking_ffi_python");
    let builder = builder.plugin("nonblocking_ffi_java");
    let mut builder = builder.init_worker(
        "rt = assert(nbffi.load { runtime = 'c', library = 'echo' })
         timer = assert(nbffi.load { runtime = 'c', library = 'async_timer' })
         slow = assert(nbffi.load { runtime = 'c', library = 'blocking' })",
    );
    for (number, block) in blocks.iter().enumerate() {
        let code = block
            .code
            .replace("\"/path/to/", "ngx.config.prefix() .. \"lib/");
        builder = builder.location(
            &format!("/block/{number}"),
            &format!(
                "local ok, err = xpcall(function()\n{code}\nend, debug.traceback)
                 ngx.print(ok and 'the end' or err)"
            ),
        );
    }
    for name in &built.names {
        // Of lua-resty-ffi's kind, or with the plugin ABI.
        let code = if document.text.contains("libffi_init(") {
            format!("require 'resty_ffi' ngx.print(select(2, ngx.load_ffi('{name}'):call('42')))")
        } else {
            format!(
                "local built = assert(nbffi.load {{
                     runtime = 'c', library = '{name}', name = 'built {name}'
                 }})
                 ngx.print(assert(built:call('42')))"
            )
        };
        builder = builder.location(&format!("/built/{name}"), &code);
    }
    let nginx = builder.start();
    java::build(document, &nginx.dir().join("prefix/lib"));
    python::run_programs(document);
    python::write(document, &nginx.dir().join("prefix/lib/python"));
    for library in &built_go.libraries {
        let installed = nginx.dir().join("prefix/lib");
        fs::copy(library, installed.join(library.file_name().unwrap())).unwrap();
    }
    for block in &document.blocks {
        if let Some(file) = block.kind.strip_prefix("lua ") {
            fs::write(nginx.dir().join("prefix/lua").join(file), &block.code).unwrap();
        }
    }
    for name in &built.names {
        let library = format!("lib{name}.so");
        let installed = nginx.dir().join("prefix/lib").join(&library);
        fs::copy(built.folder.join(&library), installed).unwrap();
        assert_eq!(nginx.text(&format!("/built/{name}")), "42", "{name}");
    }
    for (number, block) in blocks.iter().enumerate() {
        let text = nginx.text(&format!("/block/{number}"));
        let expected = expected(&block.code) + "the end";
        assert_eq!(text, expected, "{}", block.place);
    }
}

#[test]
fn lua_and_c_of_the_documents_do_what_they_say() {
    documents().iter().for_each(run_lua);
}

/// Runs or checks a command that a document tells people to type.
fn check_command(place: &str, command: &str, server: Option<&Server>) {
    let command = command.strip_prefix("sudo ").unwrap_or(command);
    let words: Vec<&str> = command.split_whitespace().collect();
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let repository = || {
        let manifest = read("Cargo.toml");
        let line = manifest
            .lines()
            .find(|line| line.starts_with("repository = "));
        line.unwrap().split('"').nth(1).unwrap().to_owned()
    };
    match words[0] {
        // Run by `build_c`, `golang::build` and `java::build`.
        "cc" | "go" | "javac" => {}
        "pip" => python::check_pip(place, &words),
        "curl" => {
            let server = server.unwrap_or_else(|| panic!("{place}: no nginx"));
            let here = format!("127.0.0.1:{}", server.port);
            let command = command.replace("127.0.0.1:8080", &here);
            assert!(command.contains(" -f "), "{place}: failures must show");
            let answer = run(place, Command::new("sh").arg("-c").arg(&command));
            assert!(!answer.is_empty(), "{place}: no answer");
        }
        "make" => {
            // Names the targets and variables, but builds nothing.
            let makefile = read("Makefile");
            for word in &words[1..] {
                if let Some((variable, _)) = word.split_once('=') {
                    let used = makefile.contains(&format!("$({variable})"));
                    assert!(used, "{place}: no variable {variable}");
                }
            }
            let mut make = Command::new("make");
            make.arg("-n").args(&words[1..]).current_dir(root());
            run(place, &mut make);
        }
        "apt-get" => {
            assert_eq!(words[1], "install", "{place}");
            let deps = read("scripts/deps.sh");
            for package in &words[2..] {
                assert!(deps.contains(package), "{place}: package {package}");
                assert_ne!(*package, "luajit", "{place}: removes nginx's module");
            }
        }
        "git" => {
            let expected = ["git", "clone", &format!("{}.git", repository())];
            assert_eq!(words, expected, "{place}");
        }
        "cd" => {
            let repository = repository();
            assert_eq!(repository.rsplit('/').next(), Some(words[1]), "{place}");
        }
        "luarocks" => {
            assert_eq!(words.last(), Some(&"make"), "{place}");
            let files = fs::read_dir(root()).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            assert_eq!(names.filter(|name| name.ends_with(".rockspec")).count(), 1);
        }
        other => panic!("{place}: nobody knows how to test `{other}`"),
    }
}

#[test]
fn configurations_work_and_commands_exist() {
    for document in documents() {
        let mut server: Option<Server> = None;
        for block in &document.blocks {
            match block.kind.as_str() {
                "nginx" | "nginx http" => {
                    let next = Server::start(block);
                    next.check(block);
                    server = Some(next);
                }
                "sh" => {
                    for command in block.commands() {
                        check_command(&block.place, &command, server.as_ref());
                    }
                }
                "toml" => {
                    let folder = Folder::new();
                    let plugin = root().join("plugin").display().to_string();
                    let path = "/path/to/lua-resty-nonblocking-ffi/plugin";
                    assert!(block.code.contains(path), "{}", block.place);
                    let manifest = block.code.replace(path, &plugin);
                    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
                    fs::create_dir(folder.join("src")).unwrap();
                    fs::write(folder.join("src/lib.rs"), "").unwrap();
                    let mut cargo = Command::new(env!("CARGO"));
                    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
                    let metadata = run(&block.place, cargo.current_dir(&*folder));
                    assert!(metadata.contains("cdylib"), "{}: {metadata}", block.place);
                    assert!(metadata.contains("\"nonblocking-ffi-plugin\""));
                }
                _ => {}
            }
        }
    }
}

/// The anchor that a heading gets where Markdown is shown.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let underlined = lines.windows(2).filter(|pair| {
        let line = pair[1];
        line.len() > 2 && (line.chars().all(|c| c == '=') || line.chars().all(|c| c == '-'))
    });
    let hashed = lines.iter().filter(|line| line.starts_with('#'));
    let hashed = hashed.map(|line| anchor(line.trim_start_matches('#')));
    hashed
        .chain(underlined.map(|pair| anchor(pair[0])))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let folder = root().join(&document.name);
        let folder = folder.parent().unwrap();
        for link in document.prose().split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root().join(&document.name),
                path => folder.join(path),
            };
            assert!(target.exists(), "{}: {link}", document.name);
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let known = anchors(&text);
                assert!(known.contains(anchor), "{}: {link}", document.name);
            }
        }
    }
}

/// Folders of files that documents name.
const FOLDERS: [&str; 11] = [
    "bench", "crates", "examples", "include", "lua", "plugin", "runtimes", "scripts", "src", "t",
    "tests",
];

/// Files and tests that a document names, as `tests/x.rs` or `t/01-x.t`, exist.
/// In a row of a table, the names after a file of tests in Rust, as `a`, `b`, are
/// tests in it.
#[test]
fn files_and_tests_that_are_named_exist() {
    let mut named = 0;
    for document in documents() {
        let mut source = String::new();
        for line in document.prose().replace("\n  ", " ").lines() {
            source.clear();
            for code in line.split('`').skip(1).step_by(2) {
                let folder = code.split_once('/').map_or("", |(folder, _)| folder);
                if FOLDERS.contains(&folder) {
                    let path = root().join(code);
                    assert!(path.exists(), "{}: {code}", document.name);
                    if path.is_file() {
                        source = fs::read_to_string(path).unwrap();
                    }
                } else if code.matches('_').count() >= 2
                    && !source.is_empty()
                    && line.starts_with("| ")
                {
                    let known = source.contains(&format!("fn {code}()"));
                    assert!(known, "{}: no test {code}", document.name);
                    named += 1;
                }
            }
        }
    }
    assert!(named > 10, "only {named} tests are named");
}

#[test]
fn every_error_is_documented() {
    let errors = document("docs/errors.md").text;
    for error in Error::ALL.into_iter().filter(|&error| error != Error::Load) {
        let text = error.to_string();
        let listed = errors.contains(&format!("| `{text}` |"))
            || errors.contains(&format!("| `{text}: <message>` |"));
        assert!(listed, "docs/errors.md: {text}");
    }
}

/// Source with the pieces of split strings put together, so that a text can be
/// found whatever the line length did to it.
fn sources() -> String {
    fn collect(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().and_then(|kind| kind.to_str());
            if path.is_dir() {
                collect(&path, into);
            } else if matches!(kind, Some("rs" | "lua" | "go" | "java" | "py")) {
                *into += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let mut text = String::new();
    for folder in ["src", "crates", "lua", "plugin/src", "runtimes"] {
        collect(&root().join(folder), &mut text);
    }
    let text = text.replace("\\\n", " ").replace("\\\"", "\"");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    ["\" .. \"", "\", \"", "\"+ \""]
        .iter()
        .fold(text, |text, glue| text.replace(glue, ""))
        .replace("\"\" .. ", "\" .. ")
}

/// The tables of log lines and of load's errors in operations.md quote the source;
/// `<...>` stands for what varies, `[...]` for the name before a log line.
#[test]
fn texts_in_operations_are_those_of_the_source() {
    let operations = document("docs/operations.md").text;
    let sources = sources();
    for (heading, least) in [("### Lines of the library", 20), ("### Errors of load", 20)] {
        let (_, section) = operations.split_once(heading).expect(heading);
        let section = section.split("\n#").next().unwrap();
        let rows: Vec<_> = section.lines().filter(|l| l.starts_with("| `")).collect();
        assert!(rows.len() >= least, "{heading}: only {} rows", rows.len());
        for row in rows.iter().filter(|row| !row.contains("nginx-lua's:")) {
            let cell = row.split(" | ").next().unwrap();
            for text in cell.split('`').skip(1).step_by(2) {
                let text = match text.split_once("] ") {
                    Some((name, text)) if name.starts_with('[') => text,
                    _ => text,
                };
                for part in text.split('<').flat_map(|part| part.split('>').next_back()) {
                    let part = part.trim_matches(['"', ' ', '\\']);
                    assert!(sources.contains(part), "docs/operations.md: {part:?}");
                }
            }
        }
    }
}

/// Every function with a `-- syntax:` in the Lua files has its section.
#[test]
fn every_function_is_documented() {
    let mut functions = 0;
    let files = [
        ("", "api"),
        ("/runtime", "api"),
        ("/lifecycle", "api"),
        ("/future", "api"),
        ("/lua/runtime", "lua"),
        ("/worker", "lua"),
    ];
    for (file, in_document) in files {
        let in_document = format!("docs/{in_document}.md");
        let api = document(&in_document).text;
        let name = format!("lua/resty/nonblocking_ffi{file}.lua");
        let source = fs::read_to_string(root().join(name)).unwrap();
        for line in source.lines() {
            let Some(syntax) = line.strip_prefix("-- syntax: ") else {
                continue;
            };
            let call = syntax.rsplit(" = ").next().unwrap();
            let function = call.split('(').next().unwrap();
            let heading = format!("\n## {function}\n");
            assert!(api.contains(&heading), "{in_document}: {function}");
            let documented = format!("\n## {function}\n\n**syntax:** `{syntax}`\n");
            assert!(api.contains(&documented), "{in_document}: {syntax}");
            functions += 1;
        }
    }
    assert!(functions >= 12, "only {functions} functions");
}
