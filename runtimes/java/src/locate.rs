//! Finding a JVM: the folder of a Java installation that has a `libjvm.so`.
//!
//! In this order: the option `java_home`, which has to be right; the variable
//! `JAVA_HOME`; the folder of the `java` in `PATH`; the folders where packages
//! put Java, newest version first. Note that nginx gives its workers an empty
//! environment: `env JAVA_HOME;` in nginx.conf hands it on.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest Java that will do.
pub const OLDEST: u32 = 17;
/// Used if there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Folders with a Java installation in each of their folders.
const FOLDERS: [&str; 5] = [
    "/usr/lib/jvm",
    "/usr/lib64/jvm",
    "/usr/java",
    "/opt/java",
    "/usr/local",
];
/// In a Java installation.
const LIBRARY: &str = "lib/server/libjvm.so";

/// A Java installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its folder, with symbolic links resolved.
    pub path: PathBuf,
    /// 17 for "17.0.15".
    pub version: u32,
}

impl Home {
    /// Its `libjvm.so`.
    pub fn library(&self) -> PathBuf {
        self.path.join(LIBRARY)
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// The option.
    pub option: Option<PathBuf>,
    /// The variable `JAVA_HOME`.
    pub java_home: Option<OsString>,
    /// The variable `PATH`.
    pub path: Option<OsString>,
    /// Folders of Java installations.
    pub folders: Vec<PathBuf>,
}

impl Places {
    /// Those of this process.
    pub fn of_process(option: Option<PathBuf>) -> Self {
        Self {
            option,
            java_home: std::env::var_os("JAVA_HOME"),
            path: std::env::var_os("PATH"),
            folders: FOLDERS.iter().map(PathBuf::from).collect(),
        }
    }
}

/// The first Java installation that will do.
///
/// # Errors
/// If there is none, with all that was tried and what was wrong with it.
pub fn find(places: &Places) -> Result<Home, String> {
    if let Some(option) = &places.option {
        return examine(option).map_err(|why| format!("java_home: {}: {why}", option.display()));
    }
    let mut tried = Vec::new();
    let mut attempt = |what: &str, path: &Path| match examine(path) {
        Ok(home) => Some(home),
        Err(why) => {
            tried.push(format!("{what}{}: {why}", path.display()));
            None
        }
    };
    let home = from_java_home(places, &mut attempt)
        .or_else(|| from_path(places, &mut attempt))
        .or_else(|| from_folders(places, &mut attempt));
    home.ok_or_else(|| {
        if places.java_home.is_none() {
            tried.insert(
                0,
                "JAVA_HOME: not set (nginx hands it on to workers with \"env JAVA_HOME;\")"
                    .to_owned(),
            );
        }
        format!(
            "no Java {OLDEST} or later was found; tried: {}. Install one (Debian: \
             openjdk-17-jre-headless), or say where it is with java_home",
            tried.join("; ")
        )
    })
}

type Attempt<'a> = &'a mut dyn FnMut(&str, &Path) -> Option<Home>;

fn from_java_home(places: &Places, attempt: Attempt<'_>) -> Option<Home> {
    let home = places
        .java_home
        .as_deref()
        .filter(|home| !home.is_empty())?;
    attempt("JAVA_HOME: ", Path::new(home))
}

fn from_path(places: &Places, attempt: Attempt<'_>) -> Option<Home> {
    let path = places.path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut programs = std::env::split_paths(path).map(|folder| folder.join("java"));
    // Usually a link to a link to <home>/bin/java.
    let program = programs.find_map(|program| fs::canonicalize(program).ok());
    match program.as_deref().and_then(|p| p.parent()?.parent()) {
        Some(home) => attempt("java in PATH: ", home),
        None => {
            attempt("java in PATH: none in ", Path::new(path));
            None
        }
    }
}

fn from_folders(places: &Places, attempt: Attempt<'_>) -> Option<Home> {
    let mut homes = Vec::new();
    for folder in &places.folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.join("bin/java").exists())
            .collect();
        if found.is_empty() {
            attempt("", &folder.join("*"));
        }
        homes.extend(found);
    }
    // By version, not by name; the same each time.
    homes.sort_by_key(|home| (std::cmp::Reverse(version(home)), home.clone()));
    homes.iter().find_map(|home| attempt("", home))
}

/// The installation in a folder, or what is wrong with it.
fn examine(folder: &Path) -> Result<Home, String> {
    let path = fs::canonicalize(folder).map_err(|_| "there is none".to_owned())?;
    let home = Home {
        version: version(&path).unwrap_or(0),
        path,
    };
    if home.version != 0 && home.version < OLDEST {
        return Err(format!("Java {}, {OLDEST} is needed", home.version));
    }
    if !home.library().exists() {
        return Err(format!("no {LIBRARY} in it"));
    }
    Ok(home)
}

/// The version in the file `release` of an installation; 8 for "1.8.0_401".
fn version(home: &Path) -> Option<u32> {
    let text = fs::read_to_string(home.join("release")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("JAVA_VERSION=\""))?;
    let line = line.strip_prefix("1.").unwrap_or(line);
    let end = line.find(|c: char| !c.is_ascii_digit())?;
    line[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder with made-up Java installations, which goes away with it.
    struct Machine(PathBuf);

    impl Machine {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nbffi-java-locate-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }

        fn install(&self, name: &str, version: &str) -> PathBuf {
            let home = self.0.join("jvm").join(name);
            fs::create_dir_all(home.join("bin")).unwrap();
            fs::create_dir_all(home.join("lib/server")).unwrap();
            fs::write(home.join("bin/java"), "").unwrap();
            fs::write(home.join(LIBRARY), "").unwrap();
            fs::write(
                home.join("release"),
                format!("IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"{version}\"\n"),
            )
            .unwrap();
            home
        }

        fn places(&self) -> Places {
            Places {
                option: None,
                java_home: None,
                path: Some(self.0.join("bin").into()),
                folders: vec![self.0.join("jvm")],
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_newest_of_a_folder_whatever_its_name() {
        let machine = Machine::new();
        machine.install("java-9-old", "9.0.4");
        machine.install("aaa", "17.0.15");
        let newest = machine.install("zulu", "21.0.3");
        let home = find(&machine.places()).unwrap();
        assert_eq!((home.path, home.version), (newest, 21));
    }

    #[test]
    fn java_home_first_then_path() {
        let machine = Machine::new();
        let a = machine.install("a", "17");
        fs::write(a.join("release"), "JAVA_VERSION=\"17.0.1\"\n").unwrap();
        let b = machine.install("b", "18.0.2");
        machine.install("c", "21.0.3");
        let mut places = machine.places();
        fs::create_dir(machine.0.join("bin")).unwrap();
        symlink(b.join("bin/java"), machine.0.join("bin/java")).unwrap();
        assert_eq!(find(&places).unwrap().path, b);
        places.java_home = Some(a.clone().into());
        assert_eq!(find(&places).unwrap().path, a);
        // One that is no good is passed over, an option never.
        places.java_home = Some("/nowhere".into());
        assert_eq!(find(&places).unwrap().path, b);
        places.option = Some(a.clone());
        assert_eq!(find(&places).unwrap().path, a);
        places.option = Some("/nowhere".into());
        assert_eq!(
            find(&places).unwrap_err(),
            "java_home: /nowhere: there is none"
        );
    }

    #[test]
    fn all_that_was_tried_is_listed() {
        let machine = Machine::new();
        machine.install("eight", "1.8.0_401");
        let bare = machine.install("bare", "17.0.1");
        fs::remove_file(bare.join(LIBRARY)).unwrap();
        let mut places = machine.places();
        places.folders.push(machine.0.join("none"));
        let error = find(&places).unwrap_err();
        let here = machine.0.display();
        for part in [
            "JAVA_HOME: not set".to_owned(),
            format!("java in PATH: none in {here}/bin"),
            format!("{here}/jvm/eight: Java 8, 17 is needed"),
            format!("{here}/jvm/bare: no lib/server/libjvm.so in it"),
            format!("{here}/none/*: there is none"),
        ] {
            assert!(error.contains(&part), "{part}: {error}");
        }
        places.java_home = Some(machine.0.join("jvm/eight").into());
        let error = find(&places).unwrap_err();
        assert!(error.contains("JAVA_HOME: "), "{error}");
        assert!(!error.contains("not set"), "{error}");
    }
}
