//! The Lua files against the crates: the C definitions and numbers that both have, and
//! which Lua file may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nonblocking_ffi_core::error::Error;

const LUA: &str = "lua/resty/nonblocking_ffi";
const PREFIX: &str = "resty.nonblocking_ffi.";

/// The types that have different names in C (without `nbffi_`) and in Rust.
const TYPES: [(&str, &str); 19] = [
    ("text", "Text"),
    ("buffer", "ErrorBuffer"),
    ("client", "Client"),
    ("pool", "Pool"),
    ("runtime", "Runtime"),
    ("completion", "Completion"),
    ("summary", "Summary"),
    ("runtime_statistics", "RuntimeStats"),
    ("vm_statistics", "Stats"),
    ("pool_statistics", "PoolStats"),
    ("client_statistics", "ClientStats"),
    ("lua", "LuaHandle"),
    ("lua_options", "LuaOptions"),
    ("call_frame", "CallFrame"),
    ("answer", "Answer"),
    ("re", "Regex"),
    ("re_template", "Template"),
    ("re_info", "Info"),
    ("lua_State", "lua_State"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a folder whose names end so, by their paths in the repository.
fn files(folder: &str, end: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            all.append(&mut files(&path, end));
        } else if path.ends_with(end) {
            all.insert(path.clone(), read(&path));
        }
    }
    all
}

/// The source of the crates, without comments.
fn rust() -> String {
    let mut source = String::new();
    for folder in ["src", "crates/ffi/src", "crates/lua-vm/src"] {
        for text in files(folder, ".rs").values() {
            for line in text.lines() {
                source.push_str(line.split("//").next().unwrap());
                source.push('\n');
            }
        }
    }
    source
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.find(start).unwrap_or_else(|| panic!("no {start}")) + start.len();
    let len = text[from..].find(end).unwrap_or_else(|| panic!("no {end}"));
    &text[from..from + len]
}

/// A type of C, with or without a name behind it, in one spelling for both languages.
fn c_type(declaration: &str) -> String {
    let stars = declaration.matches('*').count();
    let words = declaration.replace('*', " ");
    let base = words
        .split_whitespace()
        .find(|&word| word != "const" && word != "struct");
    let base = match base.unwrap() {
        "char" | "uint8_t" if stars > 0 => "byte",
        "uint8_t" => "u8",
        "uint32_t" => "u32",
        "int32_t" => "i32",
        "size_t" => "usize",
        "double" => "f64",
        other => other.strip_prefix("nbffi_").unwrap_or(other),
    };
    let array = declaration.find('[').map_or("", |at| &declaration[at..]);
    format!("{}{base}{array}", "*".repeat(stars))
}

fn rust_type(text: &str) -> String {
    let mut base = text.trim();
    let mut stars = 0;
    while let Some(rest) = base.strip_prefix("*mut ").or(base.strip_prefix("*const ")) {
        base = rest;
        stars += 1;
    }
    if let Some((item, count)) = base.strip_prefix('[').and_then(|it| it.split_once(';')) {
        let count = count.trim().trim_end_matches(']');
        let count = count.replace("Error::ALL.len()", &Error::ALL.len().to_string());
        return format!("{}[{count}]", rust_type(item));
    }
    let base = match base {
        "u8" | "c_char" if stars > 0 => "byte",
        _ => TYPES
            .iter()
            .find(|(_, name)| *name == base)
            .map_or(base, |(name, _)| *name),
    };
    format!("{}{base}", "*".repeat(stars))
}

/// A list of `name: type`.
fn rust_fields(list: &str) -> Vec<(String, String)> {
    let list = list.split(',').filter(|field| !field.trim().is_empty());
    let field = |field: &str| {
        let (name, kind) = field.split_once(':').unwrap();
        (
            name.trim().trim_start_matches("pub ").to_owned(),
            rust_type(kind),
        )
    };
    list.map(field).collect()
}

#[derive(Debug, Default)]
struct Definitions {
    functions: BTreeMap<String, Vec<String>>,
    structures: BTreeMap<String, Vec<(String, String)>>,
}

impl Definitions {
    /// The fields of a structure: `double a, b;`.
    fn structure(&mut self, body: &str, name: &str) {
        let mut fields = Vec::new();
        for line in body.split(';').filter(|line| !line.trim().is_empty()) {
            let kind = line.trim().trim_start_matches("const ");
            let kind = kind.split([' ', '*']).next().unwrap();
            for name in line.trim().trim_start_matches("const ")[kind.len()..].split(',') {
                let field = name
                    .trim()
                    .trim_start_matches('*')
                    .split('[')
                    .next()
                    .unwrap();
                fields.push((field.trim().to_owned(), c_type(&format!("{kind} {name}"))));
            }
        }
        self.structures.insert(name.to_owned(), fields);
    }

    fn function(&mut self, declaration: &str) {
        let (head, arguments) = declaration.split_once('(').unwrap();
        let name = head.rsplit([' ', '*']).next().unwrap();
        let mut types = vec![c_type(head.strip_suffix(name).unwrap())];
        let arguments = arguments.trim_end_matches(')');
        if arguments != "void" {
            types.extend(arguments.split(',').map(c_type));
        }
        self.functions.insert(name.to_owned(), types);
    }

    fn read(&mut self, path: &str) {
        let file = read(path);
        let mut rest = between(&file, "ffi.cdef[[", "]]");
        while let Some(end) = rest.find(';') {
            let statement = rest[..end].trim();
            if statement.starts_with("typedef struct {") {
                let (body, after) = rest.split_once('}').unwrap();
                let (name, after) = after.split_once(';').unwrap();
                self.structure(body.split_once('{').unwrap().1, name.trim());
                rest = after;
                continue;
            }
            if !statement.starts_with("typedef ") {
                let words: Vec<_> = statement.split_whitespace().collect();
                self.function(&words.join(" "));
            }
            rest = &rest[end + 1..];
        }
    }
}

fn definitions() -> Definitions {
    let mut all = Definitions::default();
    all.read("lua/resty/nonblocking_ffi/core/cdefs.lua");
    all.read("lua/resty/nonblocking_ffi/vm/cdefs.lua");
    all
}

#[test]
fn functions_are_declared_as_they_are() {
    let source = rust();
    let mut exports = BTreeMap::new();
    for export in source.split("#[unsafe(no_mangle)]").skip(1) {
        let (head, tail) = export.split_once('(').unwrap();
        let name = head.rsplit(' ').next().unwrap();
        let (arguments, tail) = tail.split_once(')').unwrap();
        let result = tail.split('{').next().unwrap().trim();
        let result = result
            .strip_prefix("->")
            .map_or("void".to_owned(), rust_type);
        let arguments = rust_fields(arguments).into_iter().map(|(_, kind)| kind);
        if name.starts_with("nbffi_") {
            exports.insert(
                name.to_owned(),
                [vec![result], arguments.collect()].concat(),
            );
        }
    }
    assert!(exports.len() > 50, "{exports:?}");
    assert_eq!(definitions().functions, exports);
}

#[test]
fn structures_are_declared_as_they_are() {
    let source = rust();
    let structures = definitions().structures;
    assert!(structures.len() > 10, "{structures:?}");
    for (name, fields) in structures {
        let name = name.strip_prefix("nbffi_").unwrap();
        let (_, rust_name) = TYPES.iter().find(|(c, _)| *c == name).unwrap();
        // A name may be that of several structures, each in a file of its own.
        let found = source.split("#[repr(C)]").skip(1).filter_map(|item| {
            let (head, body) = item.split_once('{')?;
            let is_it = head.trim_end().ends_with(&format!("struct {rust_name}"));
            is_it.then(|| rust_fields(body.split('}').next().unwrap()))
        });
        let found: Vec<_> = found.collect();
        assert!(
            found.contains(&fields),
            "{name}: {fields:?}\nis none of {found:?}"
        );
    }
}

/// The value of `NAME = 1,` or `local NAME = 1`, of `const NAME: u32 = 1 << 30;`.
fn number(text: &str, name: &str) -> i64 {
    let value = text.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words
            .iter()
            .position(|&word| word.trim_end_matches(':') == name)?;
        let equals = words
            .iter()
            .position(|&word| word == "=")
            .filter(|&it| it > at)?;
        Some(words[equals + 1..].concat())
    });
    let value = value.unwrap_or_else(|| panic!("no {name}"));
    let value = value.trim_end_matches([',', ';']);
    let parse = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap_or_else(|_| panic!("{name} is {text}")),
    };
    match value.split_once("<<") {
        Some((value, bits)) => parse(value) << parse(bits),
        None => parse(value),
    }
}

#[test]
fn numbers_are_the_same() {
    let cdefs = read("lua/resty/nonblocking_ffi/core/cdefs.lua");
    let mut expected = BTreeMap::new();
    for error in Error::ALL {
        let mut name = String::new();
        for letter in format!("{error:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        expected.insert(name, i64::from(error.code()));
    }
    let runtime = expected["RUNTIME"];
    expected.insert("ERRORS".into(), Error::ALL.len() as i64);
    for (name, file, rust_name) in [
        ("CHUNK", "src/task/arena.rs", "CHUNK_SLOTS"),
        ("INTERFACE", "crates/ffi/src/lib.rs", "INTERFACE"),
        ("DONE", "crates/ffi/src/calls.rs", "DONE"),
        ("HELD", "crates/ffi/src/calls.rs", "HELD"),
    ] {
        expected.insert(name.into(), number(&read(file), rust_name));
    }
    let table = cdefs.rsplit_once("return {").unwrap().1;
    for line in table
        .lines()
        .map(str::trim)
        .filter(|line| line.contains(" = "))
    {
        let name = line.split(' ').next().unwrap();
        assert_eq!(Some(&number(table, name)), expected.get(name), "{name}");
    }

    let worker = read("lua/resty/nonblocking_ffi/worker.lua");
    assert_eq!(number(&worker, "RUNTIME_ERROR"), runtime);
    let answers = read("crates/lua-vm/src/exports/vm.rs");
    for name in ["UNKNOWN", "IS_LUA"] {
        assert_eq!(number(&worker, name), number(&answers, name), "{name}");
    }
    let regex = read("lua/resty/nonblocking_ffi/vm/regex.lua");
    let options = read("crates/lua-vm/src/regex.rs");
    assert_eq!(number(&regex, "STOPPED"), number(&options, "STOPPED"));
    let flags = read("lua/resty/nonblocking_ffi/languages/resty_ffi.lua");
    assert!(flags.contains("local GLOBAL, FRESH, CONFIGURED = 1, 2, 4"));
    let ours = read("crates/ffi/src/resty_ffi.rs");
    assert_eq!(
        ["GLOBAL", "FRESH", "CONFIGURED"].map(|name| number(&ours, name)),
        [1, 2, 4]
    );
    let log = read("lua/resty/nonblocking_ffi/vm/log.lua");
    let levels = read("plugin/src/sys.rs");
    for name in ["NOTICE", "DEBUG"] {
        let level = number(&levels, &format!("NBFFI_LOG_{name}"));
        assert_eq!(number(&log, name), level, "{name}");
    }
}

/// The modules of this library that a file requires, by the names of their locals.
fn requires(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let Some((before, module)) = line.split_once("require").filter(|_| {
            let code = line.trim_start();
            !code.starts_with("--")
        }) else {
            continue;
        };
        let module = module.trim_start_matches([' ', '(']);
        let Some(module) = module
            .strip_prefix('"')
            .and_then(|it| it.strip_prefix(PREFIX))
        else {
            continue;
        };
        let module = module.split('"').next().unwrap();
        let local = before
            .trim()
            .strip_prefix("local ")
            .and_then(|it| it.strip_suffix(" ="));
        let local = local.map_or(format!("(line {number})"), str::to_owned);
        all.insert(local, module.to_owned());
    }
    all
}

/// All modules, by their names without the prefix.
fn modules() -> BTreeMap<String, String> {
    let name = |path: String| {
        let name = path
            .strip_prefix(LUA)
            .unwrap()
            .trim_matches('/')
            .replace('/', ".");
        name.strip_suffix(".lua").unwrap().to_owned()
    };
    files(LUA, ".lua")
        .into_iter()
        .map(|(path, text)| (name(path), text))
        .collect()
}

#[test]
fn modules_know_only_those_below() {
    let modules = modules();
    assert!(modules.len() > 40);
    let mut known: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (name, text) in &modules {
        let required = requires(text).into_values().collect::<BTreeSet<_>>();
        for module in &required {
            assert!(modules.contains_key(module), "{name} requires {module}");
            let outside = name.starts_with("core.") && !module.starts_with("core.");
            assert!(!outside, "{name} requires {module}");
        }
        known.insert(name.as_str(), required);
    }
    for leaf in ["core.base", "core.cdefs", "core.options"] {
        assert_eq!(known[leaf], BTreeSet::new(), "{leaf} is a leaf");
    }
    // What requires nothing that is left is taken away, until nothing is.
    while !known.is_empty() {
        let names: BTreeSet<_> = known.keys().map(|name| name.to_string()).collect();
        let before = known.len();
        known.retain(|_, required| required.iter().any(|module| names.contains(module)));
        assert!(known.len() < before, "these require each other: {names:?}");
    }
}

#[test]
fn nobody_writes_into_the_table_of_another_module() {
    for (name, text) in modules() {
        let mut foreign: BTreeSet<_> = requires(&text).into_keys().collect();
        // Fields of these tables: `local texts = base.texts`.
        for line in text.lines() {
            let local = line
                .strip_prefix("local ")
                .and_then(|it| it.split_once(" = "));
            if let Some((local, value)) = local
                && value
                    .split_once('.')
                    .is_some_and(|(table, _)| foreign.contains(table))
            {
                foreign.insert(local.to_owned());
            }
        }
        for line in text.lines().map(str::trim_start) {
            let code = line.strip_prefix("function ").unwrap_or(line);
            let Some(at) = code.find(['.', ':', '[']) else {
                continue;
            };
            let writes = line.starts_with("function ") || code[at..].contains(" = ");
            let is_local = code.starts_with("local ") || code.starts_with("--");
            assert!(
                is_local || !writes || !foreign.contains(&code[..at]),
                "{name} writes into another module's table: {line}"
            );
        }
    }
}
