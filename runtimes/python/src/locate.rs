//! Which libpython, and which executable Python is to believe it is.
//!
//! In this order, and the first that works is taken:
//!
//! 1. the option `python`: an interpreter, the folder that it is installed in, or
//!    a libpython;
//! 2. the option `venv`: the interpreter that the environment was made with;
//! 3. `python3` in PATH;
//! 4. what the dynamic linker finds by name, the newest first;
//! 5. folders where Python is often installed.
//!
//! With one of the options, the others are not tried: to run something else
//! than what was asked for would be found out late. Every place that was looked
//! at goes into the error.
//!
//! The executable matters as Python finds its library, and the virtual
//! environment, by it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::{LibPython, NEWEST_MINOR, OLDEST_MINOR};
use crate::probe::{self, Answer};

/// Where Python is often installed, beyond what the dynamic linker knows.
const PREFIXES: [&str; 4] = ["/usr/local", "/opt/python", "/opt/conda", "/usr"];
/// What PATH is where there is none: nginx removes it from its environment.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The library, open.
    pub library: LibPython,
    /// The executable, if there is one.
    pub program: Option<PathBuf>,
}

/// What is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The option `python`.
    pub python: Option<PathBuf>,
    /// The option `venv`.
    pub venv: Option<PathBuf>,
}

/// A library to try.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    library: PathBuf,
    program: Option<PathBuf>,
}

/// Opens the first libpython that works.
///
/// # Errors
///
/// A text of several lines: what was tried, and what was wrong with it.
pub fn find(wanted: &Wanted) -> Result<Found, String> {
    let mut search = Search::default();
    match search.run(wanted) {
        Some(found) => Ok(found),
        None => Err(search.report()),
    }
}

/// The libraries that the options of a further runtime name, in a process that
/// has one already; none if it has no such options.
///
/// # Errors
///
/// As [`find`], if the options lead to nothing.
pub fn named(wanted: &Wanted) -> Result<Vec<PathBuf>, String> {
    let mut search = Search::default();
    let candidates = match (&wanted.python, &wanted.venv) {
        (Some(python), _) => search.of_option(python),
        (None, Some(venv)) => search.of_venv(venv),
        (None, None) => return Ok(Vec::new()),
    };
    let mut named = Vec::new();
    for Candidate { library, .. } in candidates {
        match library.canonicalize() {
            Ok(real) => named.push(real),
            Err(error) => search.note(&library, error),
        }
    }
    if named.is_empty() {
        return Err(search.report());
    }
    Ok(named)
}

#[derive(Debug, Default)]
struct Search {
    tried: Vec<String>,
}

impl Search {
    fn run(&mut self, wanted: &Wanted) -> Option<Found> {
        let program = wanted.venv.as_deref().and_then(executable_of_venv);
        let candidates = if let Some(python) = &wanted.python {
            self.of_option(python)
        } else if let Some(venv) = &wanted.venv {
            self.of_venv(venv)
        } else {
            return self.run_default();
        };
        let mut found = self.first(candidates)?;
        // The environment's own executable leads to its packages.
        found.program = program.or(found.program);
        Some(found)
    }

    fn run_default(&mut self) -> Option<Found> {
        let programs = in_path(Path::new("python3"));
        if programs.is_empty() {
            let path = search_path();
            self.tried.push(format!("python3: is not in PATH ({path})"));
        }
        for program in programs {
            let candidates = self.of_interpreter(&program);
            if let Some(found) = self.first(candidates) {
                return Some(found);
            }
        }
        let names = (OLDEST_MINOR..=NEWEST_MINOR).rev().map(|minor| Candidate {
            library: format!("libpython3.{minor}.so.1.0").into(),
            program: None,
        });
        if let Some(found) = self.first(names.collect()) {
            return Some(found);
        }
        for prefix in PREFIXES.map(Path::new) {
            let candidates = self.of_prefix(prefix, None);
            if let Some(found) = self.first(candidates) {
                return Some(found);
            }
        }
        None
    }

    fn note(&mut self, place: &Path, what: impl std::fmt::Display) {
        let line = format!("{}: {what}", place.display());
        if !self.tried.contains(&line) {
            self.tried.push(line);
        }
    }

    fn first(&mut self, candidates: Vec<Candidate>) -> Option<Found> {
        for candidate in candidates {
            match LibPython::open(&candidate.library) {
                Ok(library) => {
                    let program = candidate.program.or_else(|| executable_beside(&library));
                    return Some(Found { library, program });
                }
                Err(error) => self.note(&candidate.library, error),
            }
        }
        None
    }

    fn of_option(&mut self, python: &Path) -> Vec<Candidate> {
        if names_library(python) {
            return vec![Candidate {
                library: python.to_owned(),
                program: None,
            }];
        }
        if python.is_dir() {
            let program = python.join("bin/python3");
            if program.exists() {
                return self.of_interpreter(&program);
            }
            return self.of_prefix(python, None);
        }
        // A name without a slash is one to be found in PATH.
        let program = if python.components().count() > 1 || python.exists() {
            Some(python.to_owned())
        } else {
            in_path(python).into_iter().next()
        };
        match program {
            Some(program) => self.of_interpreter(&program),
            None => {
                self.note(python, format!("is not in PATH ({})", search_path()));
                Vec::new()
            }
        }
    }

    fn of_venv(&mut self, venv: &Path) -> Vec<Candidate> {
        let file = venv.join("pyvenv.cfg");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // An environment of conda is a Python of its own.
            Err(_) if venv.join("bin/python3").exists() => return self.of_option(venv),
            Err(error) => {
                self.note(&file, error);
                return Vec::new();
            }
        };
        let Some(home) = value_of(&text, "home").map(PathBuf::from) else {
            self.note(&file, "has no line \"home = ...\"");
            return Vec::new();
        };
        let version = value_of(&text, "version").or_else(|| value_of(&text, "version_info"));
        let version = version.map(two_numbers);
        let names = [
            version.as_ref().map(|version| format!("python{version}")),
            Some("python3".to_owned()),
        ];
        for name in names.into_iter().flatten() {
            let program = home.join(name);
            if program.exists() {
                return self.of_interpreter_of(&program, version);
            }
        }
        self.note(&home, "has no python3");
        Vec::new()
    }

    fn of_interpreter(&mut self, program: &Path) -> Vec<Candidate> {
        self.of_interpreter_of(program, None)
    }

    /// The libraries that an interpreter may belong to: as its path says, or as
    /// it says itself.
    fn of_interpreter_of(&mut self, program: &Path, version: Option<String>) -> Vec<Candidate> {
        let real = match program.canonicalize() {
            Ok(real) => real,
            Err(error) => {
                self.note(program, error);
                return Vec::new();
            }
        };
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        let of_name = name.strip_prefix("python").filter(|v| v.contains('.'));
        let version = version.or_else(|| of_name.map(two_numbers));
        let prefix = real.parent().and_then(Path::parent);
        if let (Some(version), Some(prefix)) = (version, prefix) {
            let mut candidates = self.of_prefix(prefix, Some(&version));
            if !candidates.is_empty() {
                for candidate in &mut candidates {
                    candidate.program = Some(program.to_owned());
                }
                return candidates;
            }
        }
        match probe::interpreter(program) {
            Ok(answer) => self.of_answer(program, answer),
            Err(error) => {
                self.note(program, error);
                Vec::new()
            }
        }
    }

    fn of_answer(&mut self, program: &Path, answer: Answer) -> Vec<Candidate> {
        if !answer.shared {
            let version = &answer.version;
            self.note(
                program,
                format!("Python {version} was built without a shared library (--enable-shared)"),
            );
        }
        let mut candidates = Vec::new();
        for library in answer.candidates {
            if library.exists() {
                candidates.push(Candidate {
                    library,
                    program: Some(answer.executable.clone()),
                });
            } else {
                self.note(&library, "no such file");
            }
        }
        if candidates.is_empty() {
            // Debian's own interpreter is linked statically; its libpython is a
            // package of its own, in the same prefix.
            candidates = self.of_prefix(&answer.prefix, Some(&answer.version));
        }
        candidates
    }

    /// The libraries of one version, or of any, in the folders of a prefix.
    fn of_prefix(&mut self, prefix: &Path, version: Option<&str>) -> Vec<Candidate> {
        let multiarch = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
        let versions: Vec<String> = match version {
            Some(version) => vec![version.to_owned()],
            None => (OLDEST_MINOR..=NEWEST_MINOR)
                .rev()
                .map(|m| format!("3.{m}"))
                .collect(),
        };
        let folders = ["lib", &multiarch, "lib64"].map(|folder| prefix.join(folder));
        let mut candidates = Vec::new();
        for version in &versions {
            for folder in &folders {
                let names = ["so.1.0", "so"].map(|end| format!("libpython{version}.{end}"));
                let files = names.map(|name| folder.join(name));
                let found = files.into_iter().find(|file| file.exists());
                candidates.extend(found.map(|library| Candidate {
                    library,
                    program: None,
                }));
            }
        }
        if candidates.is_empty() {
            let version = version.unwrap_or("3.*");
            for folder in &folders {
                self.note(folder, format!("no libpython{version}.so"));
            }
        }
        candidates
    }

    fn report(&self) -> String {
        let lines: Vec<String> = self
            .tried
            .iter()
            .map(|line| format!("\n  {line}"))
            .collect();
        format!(
            "cannot find a libpython (CPython 3.{OLDEST_MINOR} or later, built with \
             --enable-shared; Debian: package libpython3-dev); the options python and venv \
             say where one is; tried:{}",
            lines.concat()
        )
    }
}

/// `libpython3.11.so.1.0` and the like.
fn names_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".so") || name.contains(".so.")
}

fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    match path.as_str() {
        "" => DEFAULT_PATH.to_owned(),
        _ => path,
    }
}

fn in_path(name: &Path) -> Vec<PathBuf> {
    let path = search_path();
    let folders = path.split(':').filter(|folder| !folder.is_empty());
    let programs = folders.map(|folder| Path::new(folder).join(name));
    programs.filter(|program| program.is_file()).collect()
}

/// The executable of a virtual environment.
pub fn executable_of_venv(venv: &Path) -> Option<PathBuf> {
    let programs = ["bin/python3", "bin/python"].map(|name| venv.join(name));
    programs.into_iter().find(|program| program.exists())
}

/// The version that a virtual environment was made with, as `3.11`.
pub fn version_of_venv(venv: &Path) -> Option<String> {
    let text = fs::read_to_string(venv.join("pyvenv.cfg")).ok()?;
    let version = value_of(&text, "version").or_else(|| value_of(&text, "version_info"))?;
    Some(two_numbers(version))
}

/// The interpreter that is installed together with a library.
fn executable_beside(library: &LibPython) -> Option<PathBuf> {
    let name = format!("bin/python3.{}", library.minor);
    let folders = library.path.ancestors().skip(2).take(2);
    let mut programs = folders.map(|folder| folder.join(&name));
    programs.find(|program| program.is_file())
}

/// The value of a line `key = value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// `3.11.2` as `3.11`.
fn two_numbers(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            // Relaxed: only to be different.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nbffi-locate-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn program(&self, name: &str, text: &str) -> PathBuf {
            let path = self.file(name, text);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn libraries(candidates: &[Candidate]) -> Vec<&Path> {
        candidates.iter().map(|c| c.library.as_path()).collect()
    }

    #[test]
    fn an_interpreter_leads_to_the_library_in_its_prefix() {
        let folder = Folder::new();
        folder.program("bin/python3.11", "");
        let library = folder.file("lib/libpython3.11.so.1.0", "");
        folder.file("lib/libpython3.12.so.1.0", "");
        let link = folder.0.join("python3");
        symlink(folder.0.join("bin/python3.11"), &link).unwrap();
        let found = Search::default().of_interpreter(&link);
        assert_eq!(libraries(&found), [library.as_path()]);
        assert_eq!(found[0].program.as_deref(), Some(link.as_path()));
    }

    #[test]
    fn an_environment_leads_to_the_interpreter_it_was_made_with() {
        let folder = Folder::new();
        folder.program("base/bin/python3.10", "");
        let library = folder.file("base/lib64/libpython3.10.so", "");
        let home = folder.0.join("base/bin");
        let text = format!("home = {}\nversion = 3.10.4\n", home.display());
        folder.file("venv/pyvenv.cfg", &text);
        let venv = folder.0.join("venv");
        assert_eq!(
            libraries(&Search::default().of_venv(&venv)),
            [library.as_path()]
        );
        assert_eq!(version_of_venv(&venv).as_deref(), Some("3.10"));
        assert_eq!(
            named(&Wanted {
                python: None,
                venv: Some(venv)
            }),
            Ok(vec![library])
        );
        assert_eq!(named(&Wanted::default()), Ok(vec![]));
    }

    #[test]
    fn a_script_is_asked() {
        let folder = Folder::new();
        let library = folder.file("real/lib/libpython3.12.so.1.0", "");
        let root = folder.0.join("real");
        let root = root.display();
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' 3.12 {root}/bin/python3.12 {root} {root}/lib '' \
             libpython3.12.so.1.0 libpython3.12.so 1\n"
        );
        let shim = folder.program("shims/python3", &script);
        let found = Search::default().of_interpreter(&shim);
        assert_eq!(libraries(&found), [library.as_path()]);
        let real = folder.0.join("real/bin/python3.12");
        assert_eq!(found[0].program, Some(real));
    }

    #[test]
    fn the_error_lists_what_was_tried() {
        let folder = Folder::new();
        let no_library = folder.file("libpython3.11.so", "this is no library");
        let said = |python: &Path| {
            let wanted = Wanted {
                python: Some(python.to_owned()),
                venv: None,
            };
            find(&wanted).unwrap_err()
        };
        let text = said(&no_library);
        assert!(text.contains(&*no_library.to_string_lossy()), "{text}");
        assert!(text.contains("the options python and venv"), "{text}");

        let static_one = folder.program(
            "static/bin/python3",
            "#!/bin/sh\nprintf '%s\\n' 3.11 /x/bin/python3 /x /x/lib '' libpython3.11.a \
             libpython3.11.a 0\n",
        );
        let text = said(&static_one);
        assert!(text.contains("without a shared library"), "{text}");
        assert!(text.contains("/x/lib: no libpython3.11.so"), "{text}");

        let text = said(Path::new("no-such-python"));
        assert!(text.contains("no-such-python: is not in PATH"), "{text}");
        let text = said(Path::new("/nonexistent/bin/python3"));
        assert!(text.contains("No such file"), "{text}");
        let text = said(&folder.0);
        assert!(text.contains("no libpython3.*.so"), "{text}");

        let venv = folder.0.join("nothing");
        let text = find(&Wanted {
            python: None,
            venv: Some(venv.clone()),
        })
        .unwrap_err();
        assert!(text.contains("pyvenv.cfg"), "{text}");
        folder.file("nothing/pyvenv.cfg", "home = /nonexistent\n");
        let text = find(&Wanted {
            python: None,
            venv: Some(venv),
        })
        .unwrap_err();
        assert!(text.contains("/nonexistent: has no python3"), "{text}");
    }

    #[test]
    fn libraries_are_told_from_programs() {
        for path in ["/usr/lib/libpython3.11.so.1.0", "libpython3.so"] {
            assert!(names_library(Path::new(path)), "{path}");
        }
        for path in ["/usr/bin/python3.11", "python3", "/opt/some.sofa"] {
            assert!(!names_library(Path::new(path)), "{path}");
        }
    }
}
