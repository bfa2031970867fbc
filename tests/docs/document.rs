//! Documents and their blocks of code; folders to use them in; running what
//! must succeed.

use std::fs;
use std::process::{Command, Output, Stdio};

use support::root;

/// A block of code, and where it is printed.
#[derive(Debug, Clone)]
pub struct Block {
    /// File and line.
    pub place: String,
    /// The words behind the fence.
    pub kind: String,
    /// The code.
    pub code: String,
}

/// A document by its path in the repository.
pub struct Document {
    /// The path.
    pub name: String,
    /// All of it.
    pub text: String,
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
}

impl Document {
    fn read(name: String) -> Self {
        let text = fs::read_to_string(root().join(&name)).unwrap();
        let blocks = blocks(&name, &text);
        Self { name, text, blocks }
    }

    /// Its blocks of a kind, in order.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(move |block| block.kind == kind)
    }

    /// The text without the blocks.
    pub fn prose(&self) -> String {
        let parts = self.text.split("```").step_by(2);
        parts.collect::<Vec<_>>().join("\n")
    }
}

/// README.md and docs/*.md.
pub fn documents() -> Vec<Document> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.into_iter().map(Document::read).collect()
}

/// One of them.
pub fn document(name: &str) -> Document {
    Document::read(name.to_owned())
}

fn blocks(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(kind), None) => {
                open = Some(Block {
                    place: format!("{name}:{}", number + 1),
                    kind: kind.trim().to_owned(),
                    code: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.code += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block that does not end");
    blocks
}

fn said(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a command that must succeed; returns what it says.
pub fn run(place: &str, command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{place}: {command:?}: {error}"));
    let text = said(&output);
    assert!(output.status.success(), "{place}: {command:?}: {text}");
    text
}

impl Block {
    /// The commands of a block of shell, with continued lines joined.
    pub fn commands(&self) -> Vec<String> {
        let joined = self.code.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }
}
