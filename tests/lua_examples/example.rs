//! An example's nginx.conf, taken apart and given to the harness, which brings
//! what all tests have: ports, folders, and a strict look at how it ends.

use std::fs;

use crate::raw::{self, Answer};
use support::builder::Builder;
use support::folder::{Folder, copy};
use support::{Nginx, root};

/// Directives of `http` that the harness has itself.
const OF_THE_HARNESS: [&str; 3] = ["access_log ", "lua_package_path ", "lua_package_cpath "];

/// Where Debian's Lua modules are.
pub const DEBIAN_PATH: &str = "/usr/share/lua/5.1/?.lua";

/// Where those in C are.
pub fn debian_cpath() -> String {
    format!("/usr/lib/{}-linux-gnu/lua/5.1/?.so", std::env::consts::ARCH)
}

/// An example whose files were copied, so that a test may change them.
pub struct Example {
    /// The copy.
    pub folder: Folder,
    builder: Builder,
}

/// An example that runs.
pub struct Site {
    /// Its nginx. Stops before its files go.
    pub nginx: Nginx,
    /// Where it listens.
    pub port: u16,
    /// Its files.
    pub folder: Folder,
}

impl Site {
    /// GET, with the headers of a browser.
    pub fn get(&self, target: &str) -> Answer {
        raw::get(self.port, target)
    }
}

impl Example {
    /// The example of a name, with its configuration as it is but for
    /// `replaced`, pairs of texts that are in it and what is to be there
    /// instead.
    pub fn new(name: &str, replaced: &[(&str, &str)]) -> Self {
        let source = root().join("examples").join(name);
        let folder = Folder::new();
        copy(&source, &folder);
        let mut conf = fs::read_to_string(source.join("nginx.conf")).unwrap();
        for (old, new) in replaced {
            assert!(conf.contains(old), "{name}: no {old}");
            conf = conf.replace(old, new);
        }

        let (_, http, _) = cut(&conf, "http").expect("http");
        let (init, http) = take(&http, "init_by_lua_block");
        let (init_worker, http) = take(&http, "init_worker_by_lua_block");
        // The first server is the example's; others are its backends.
        let (server, http) = take(&http, "server");
        // Behind all others Debian's places: an OpenResty does not look there by
        // itself, and LuaSocket is in them.
        let path = format!(
            "package.path = '{}/?.lua;' .. package.path .. ';{}'\n\
             package.cpath = package.cpath .. ';{}'\n",
            folder.display(),
            DEBIAN_PATH,
            debian_cpath(),
        );
        let builder = Nginx::builder()
            // On a busy machine, nicer threads would not get to run in time.
            .setup("nice = 0")
            .http(&without(&http, &OF_THE_HARNESS))
            .init(&(path + &init))
            .init_worker(&init_worker)
            .server(&without(&server, &["listen "]))
            .location("/port", "ngx.print(ngx.var.server_port)");
        Self { folder, builder }
    }

    /// Changes a file of the copy: `old` is in it, and becomes `new`.
    pub fn edit(self, file: &str, old: &str, new: &str) -> Self {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file}: no {old}");
        fs::write(path, text.replace(old, new)).unwrap();
        self
    }

    /// Adds to the configuration.
    pub fn with(self, more: impl FnOnce(Builder) -> Builder) -> Self {
        Self {
            folder: self.folder,
            builder: more(self.builder),
        }
    }

    /// Starts nginx.
    pub fn start(self) -> Site {
        let nginx = self.builder.start();
        let port = nginx.text("/port").parse().unwrap();
        Site {
            nginx,
            port,
            folder: self.folder,
        }
    }
}

fn without(text: &str, directives: &[&str]) -> String {
    let kept = |line: &&str| {
        !directives
            .iter()
            .any(|start| line.trim_start().starts_with(start))
    };
    let lines: Vec<&str> = text.lines().filter(kept).collect();
    lines.join("\n") + "\n"
}

/// The first block `head { ... }` that begins a line: what is before it, in it,
/// and behind it. Lua's braces have to match.
fn cut(text: &str, head: &str) -> Option<(String, String, String)> {
    let opening = format!("{head} {{");
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.trim() == opening {
            let inside = start + line.len();
            let mut depth = 1;
            for (at, character) in text[inside..].char_indices() {
                depth += match character {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                if depth == 0 {
                    let end = inside + at;
                    let part = |range: &str| range.to_owned();
                    return Some((
                        part(&text[..start]),
                        part(&text[inside..end]),
                        part(&text[end + 1..]),
                    ));
                }
            }
        }
        start += line.len();
    }
    None
}

/// What is in a block, and the text without the block.
fn take(text: &str, head: &str) -> (String, String) {
    let (before, inside, behind) = cut(text, head).unwrap_or_else(|| panic!("no {head}"));
    (inside, before + &behind)
}
