//! TOML as written: files read, merged in order, every value with its file and line. Knows no key.
//!
//! A tree rather than serde's structs, because serde stops at the first problem and all are wanted.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    pub(super) line: Option<usize>,
}

/// A table's content.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A value and where its key stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) node: Node,
}

/// What TOML can say, as far as a key of ours can take it.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Table(Entries),
    List(Vec<Entry>),
    Text(String),
    Integer(i64),
    Switch(bool),
    Other(&'static str),
}

impl Node {
    /// What it is, for people.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Switch(_) => "true or false",
            Self::Other(what) => what,
        }
    }
}

/// A role's files, merged.
#[derive(Debug)]
pub(super) struct Document {
    /// The main file, for what is missing everywhere.
    pub(super) place: Place,
    pub(super) entries: Entries,
}

impl Document {
    /// Reads `path`, then `<role>.d/*.toml` beside it in name order. None when `path` is not there;
    /// that is for the caller to judge.
    pub(super) fn read(path: &Path, role: &str) -> Result<(Self, bool), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut entries = Entries::new();
        let place = Place {
            file: path.into(),
            line: None,
        };
        let main = read_file(path, &mut problems);
        let found = main.is_some();
        entries.extend(main.unwrap_or_default());
        for addition in additions(path, role, &mut problems) {
            let over = read_file(&addition, &mut problems);
            merge(&mut entries, over.unwrap_or_default(), true);
        }
        if problems.is_empty() {
            Ok((Self { place, entries }, found))
        } else {
            Err(problems)
        }
    }
}

fn unreadable(path: &Path, err: &std::io::Error) -> Problem {
    Problem {
        file: path.to_owned(),
        line: None,
        key: String::new(),
        what: format!("cannot be read ({err}); mend its mode or owner"),
    }
}

/// The files of `<role>.d`, in name order.
fn additions(path: &Path, role: &str, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let dir = path.with_file_name(format!("{role}.d"));
    let listed = match std::fs::read_dir(&dir) {
        Ok(listed) => listed.collect::<Result<Vec<_>, _>>(),
        Err(err) if err.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(err) => Err(err),
    };
    let mut files: Vec<_> = match listed {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(err) => {
            problems.push(unreadable(&dir, &err));
            return Vec::new();
        }
    };
    // Editors leave hidden files behind; a packager's `*.toml` is never one.
    files.retain(|file| {
        file.extension().is_some_and(|ext| ext == "toml")
            && !(file.file_name()).is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    files.sort();
    files
}

/// None when it is not there or not readable as TOML; the latter is noted.
fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Option<Entries> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return None,
        Err(err) => {
            problems.push(unreadable(path, &err));
            return None;
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    let lines = Lines {
        file: path.into(),
        text: &text,
    };
    problems.extend(errors.iter().map(|err| Problem {
        file: path.to_owned(),
        line: err.span().and_then(|span| lines.place(span.start).line),
        key: String::new(),
        what: format!("{}; this is not TOML yet", err.message().trim_end()),
    }));
    Some(lines.table(table.into_inner()))
}

/// Later wins; tables merge key by key; `[[tunnel]]` at the top is appended.
fn merge(base: &mut Entries, over: Entries, top: bool) {
    for (key, entry) in over {
        let Some(there) = base.get_mut(&key) else {
            base.insert(key, entry);
            continue;
        };
        match (&mut there.node, entry.node) {
            (Node::Table(base), Node::Table(over)) => merge(base, over, false),
            (Node::List(base), Node::List(over)) if top && key == "tunnel" => base.extend(over),
            (_, node) => {
                *there = Entry {
                    place: entry.place,
                    node,
                }
            }
        }
    }
}

struct Lines<'a> {
    file: Arc<Path>,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Place {
            file: self.file.clone(),
            line: Some(1 + before.iter().filter(|b| **b == b'\n').count()),
        }
    }

    fn table(&self, table: DeTable<'_>) -> Entries {
        table
            .into_iter()
            .map(|(key, value)| {
                let place = self.place(key.span().start);
                let node = self.node(value.into_inner());
                (key.into_inner().into_owned(), Entry { place, node })
            })
            .collect()
    }

    fn item(&self, value: Spanned<DeValue<'_>>) -> Entry {
        Entry {
            place: self.place(value.span().start),
            node: self.node(value.into_inner()),
        }
    }

    fn node(&self, value: DeValue<'_>) -> Node {
        match value {
            DeValue::Table(table) => Node::Table(self.table(table)),
            DeValue::Array(array) => {
                Node::List(array.into_iter().map(|value| self.item(value)).collect())
            }
            DeValue::String(text) => Node::Text(text.into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Node::Other("too large a number"), Node::Integer),
            DeValue::Float(_) => Node::Other("a number with a point"),
            DeValue::Boolean(switch) => Node::Switch(switch),
            DeValue::Datetime(_) => Node::Other("a date"),
        }
    }
}
