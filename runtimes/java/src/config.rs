//! The options of `load`, as the Lua side writes them.

use std::path::PathBuf;

use nonblocking_ffi_runtimes_common::fields::{Fields, unknown};

/// The options of one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `com.acme.Echo#call`.
    pub entry: String,
    /// Jars, folders, and `folder/*`.
    pub class_path: Vec<String>,
    /// Arguments of the JVM's command line.
    pub jvm_args: Vec<String>,
    /// Where the JVM is, if the user says so.
    pub java_home: Option<PathBuf>,
    /// For the user's class.
    pub config: String,
    /// Whether a thread is interrupted when nobody waits for its task.
    pub interrupt: bool,
    /// Whether each task has a virtual thread of its own.
    pub virtual_threads: bool,
}

impl Config {
    /// Reads the fields.
    ///
    /// # Errors
    /// If the Lua side has not written them.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut config = Self {
            interrupt: true,
            ..Self::default()
        };
        for field in Fields::new(text, "java") {
            let (key, value) = field?;
            let value = std::str::from_utf8(value)
                .map_err(|_| format!("{key} is not UTF-8"))?
                .to_owned();
            match key {
                "entry" => config.entry = value,
                "class_path" => config.class_path.push(value),
                "jvm_args" => config.jvm_args.push(value),
                "java_home" => config.java_home = Some(value.into()),
                "config" => config.config = value,
                "interrupt" => config.interrupt = value == "true",
                "virtual_threads" => config.virtual_threads = value == "true",
                _ => return Err(unknown(key)),
            }
        }
        if config.entry.is_empty() {
            return Err("entry is missing".to_owned());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_and_lists() {
        let text = "entry:11:a.Echo#call\nclass_path:2:/a\nclass_path:7:/b:c\n:2\n\
                    config:0:\ninterrupt:5:false\njava_home:4:/jdk\njvm_args:6:-Xmx1g\n";
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.entry, "a.Echo#call");
        assert_eq!(config.class_path, ["/a", "/b:c\n:2"]);
        assert_eq!(config.jvm_args, ["-Xmx1g"]);
        assert_eq!(config.java_home, Some("/jdk".into()));
        assert!(!config.interrupt && !config.virtual_threads);
    }

    #[test]
    fn refuses_anything_else() {
        let error = Config::parse(b"hello").unwrap_err();
        assert!(error.contains("language = \"java\""), "{error}");
        assert_eq!(Config::parse(b"").unwrap_err(), "entry is missing");
        assert_eq!(
            Config::parse(b"entry:1:\xff\n").unwrap_err(),
            "entry is not UTF-8"
        );
        assert_eq!(
            Config::parse(b"tea:1:x\n").unwrap_err(),
            "unknown field \"tea\""
        );
    }
}
