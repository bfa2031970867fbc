//! What `load` was given, as the Lua side writes it: `key:length:value\n` for
//! each field. A key that repeats is a list.

use std::path::PathBuf;

/// The options of one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `com.acme.Echo#call`.
    pub entry: String,
    /// Jars, folders, and `folder/*`.
    pub class_path: Vec<String>,
    /// Arguments of the JVM's command line.
    pub jvm_args: Vec<String>,
    /// Where the JVM is, if that was said.
    pub java_home: Option<PathBuf>,
    /// The user's own.
    pub config: String,
    /// Whether threads are interrupted when nobody waits for what they do.
    pub interrupt: bool,
    /// Whether each task has a virtual thread of its own.
    pub virtual_threads: bool,
}

impl Config {
    /// Reads the fields.
    ///
    /// # Errors
    /// In words, if that is not what the Lua side writes.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut config = Self {
            interrupt: true,
            ..Self::default()
        };
        let mut rest = text;
        while !rest.is_empty() {
            let (key, value);
            (key, value, rest) = field(rest).ok_or_else(|| {
                "config is not a list of fields: load it with runtime = \"java\"".to_owned()
            })?;
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
                _ => return Err(format!("unknown field \"{key}\"")),
            }
        }
        if config.entry.is_empty() {
            return Err("entry is missing".to_owned());
        }
        Ok(config)
    }
}

/// The first field, as key and value, and what is behind it.
fn field(text: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let colon = text.iter().position(|&b| b == b':')?;
    let key = std::str::from_utf8(&text[..colon]).ok()?;
    let text = &text[colon + 1..];
    let colon = text.iter().position(|&b| b == b':')?;
    let length: usize = std::str::from_utf8(&text[..colon]).ok()?.parse().ok()?;
    let text = &text[colon + 1..];
    let value = text.get(..length)?;
    match text.get(length) {
        Some(b'\n') => Some((key, value, &text[length + 1..])),
        _ => None,
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
    fn refuses_what_is_something_else() {
        for text in [
            "hello",
            "entry:5:abc\n",
            "entry:3:abc",
            "entry:x:abc\n",
            ":",
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains("runtime = \"java\""), "{text}: {error}");
        }
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
