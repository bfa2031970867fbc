//! Compiles the Java half, for the shared object to carry it: the API in `api/`
//! and its own classes in `runtime/`.
//!
//! Without a JDK the crate still builds, so that the workspace does; the shared
//! object then carries nothing and says so when it is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The classes are for this version of Java and later ones.
const RELEASE: u32 = 17;

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    for name in ["JAVAC", "JAVA_HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "api/src/main/java", "runtime"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let classes = match javac() {
        Some(javac) => compile(&javac, &out.join("classes")),
        None => {
            println!(
                "cargo:warning=no JDK {RELEASE} or later (Debian: openjdk-17-jdk-headless): the Java runtime is built without its Java half, and will not load"
            );
            // Does not exist, so that cargo asks again the next time.
            println!("cargo:rerun-if-changed=no-javac");
            BTreeMap::new()
        }
    };
    fs::write(out.join("classes.rs"), table(&classes)).expect("OUT_DIR is writable");
}

/// A compiler that is new enough.
fn javac() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    found.extend(env::var_os("JAVAC").map(PathBuf::from));
    found.extend(env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/javac")));
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).map(|folder| folder.join("javac")));
    if let Ok(homes) = fs::read_dir("/usr/lib/jvm") {
        let mut homes: Vec<PathBuf> = homes.flatten().map(|home| home.path()).collect();
        homes.sort();
        found.extend(homes.into_iter().map(|home| home.join("bin/javac")));
    }
    found
        .into_iter()
        .find(|javac| version(javac) >= Some(RELEASE))
}

/// 17 for "javac 17.0.15".
fn version(javac: &Path) -> Option<u32> {
    let output = Command::new(javac).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let number = text.strip_prefix("javac ")?;
    let end = number.find(|c: char| !c.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

/// Compiles all sources. Returns the class files by the names of their classes.
fn compile(javac: &Path, into: &Path) -> BTreeMap<String, PathBuf> {
    let _ = fs::remove_dir_all(into);
    let mut sources = Vec::new();
    for folder in ["api/src/main/java", "runtime"] {
        collect(Path::new(folder), "java", &mut sources);
    }
    let output = Command::new(javac)
        .args(["--release", &RELEASE.to_string(), "-proc:none", "-g"])
        // Without what has to be linked at run time, which takes a third of the
        // time that a first load does.
        .arg("-XDstringConcat=inline")
        .args(["-encoding", "UTF-8", "-Xlint:all", "-d"])
        .arg(into)
        .args(&sources)
        .output()
        .expect("javac runs, as it has said its version");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{said}", javac.display());
    for line in said.lines() {
        println!("cargo:warning={line}");
    }
    let mut files = Vec::new();
    collect(into, "class", &mut files);
    let name = |file: &Path| {
        let path = file.strip_prefix(into).expect("it was found there");
        path.with_extension("").to_string_lossy().into_owned()
    };
    files.into_iter().map(|file| (name(&file), file)).collect()
}

fn collect(folder: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, extension, into);
        } else if path.extension() == Some(OsStr::new(extension)) {
            into.push(path);
        }
    }
    into.sort();
}

/// Rust code with all classes, those that others extend before these: that is
/// the order in which a JVM takes them.
fn table(classes: &BTreeMap<String, PathBuf>) -> String {
    fn add(
        name: &String,
        classes: &BTreeMap<String, PathBuf>,
        done: &mut BTreeSet<String>,
        text: &mut String,
    ) {
        let Some(path) = classes.get(name).filter(|_| !done.contains(name)) else {
            return;
        };
        done.insert(name.clone());
        let bytes = fs::read(path).expect("javac has written it");
        for parent in parents(&bytes).expect("javac writes class files") {
            add(&parent, classes, done, text);
        }
        let path = path.to_string_lossy();
        writeln!(text, "    (jni_str!({name:?}), include_bytes!({path:?})),").expect("a string");
    }
    let mut text = String::from("&[\n");
    let mut done = BTreeSet::new();
    for name in classes.keys() {
        add(name, classes, &mut done, &mut text);
    }
    text + "]\n"
}

/// The superclass and the interfaces of a class file (JVM specification, 4.1).
fn parents(bytes: &[u8]) -> Option<Vec<String>> {
    let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (mut texts, mut names) = (BTreeMap::new(), BTreeMap::new());
    let count = half(8)?;
    let (mut index, mut at) = (1, 10);
    while index < count {
        let mut slots = 1;
        let size = match bytes.get(at)? {
            1 => {
                let length = usize::from(half(at + 1)?);
                let text = bytes.get(at + 3..at + 3 + length)?;
                texts.insert(index, String::from_utf8_lossy(text).into_owned());
                3 + length
            }
            3 | 4 | 9..=12 | 17 | 18 => 5,
            5 | 6 => {
                slots = 2;
                9
            }
            7 => {
                names.insert(index, half(at + 1)?);
                3
            }
            8 | 16 | 19 | 20 => 3,
            15 => 4,
            _ => return None,
        };
        index += slots;
        at += size;
    }
    // Behind the constants: flags, the class itself, its superclass, interfaces.
    let mut parents = Vec::new();
    let interfaces = usize::from(half(at + 6)?);
    for at in std::iter::once(at + 4).chain((0..interfaces).map(|i| at + 8 + 2 * i)) {
        parents.push(texts.get(names.get(&half(at)?)?)?.clone());
    }
    Some(parents)
}
