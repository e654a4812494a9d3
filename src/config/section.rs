//! Takes keys out of a table one by one, so that what is left over is unknown; collects problems
//! instead of stopping at the first.

use std::cell::RefCell;

use super::file::{Document, Entries, Entry, Node, Place};
use super::problem::{ConfigError, Problem};

/// What is wrong with a value and what to write instead.
pub(super) type Fix = String;

/// Collects problems and the keys that were asked for.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Problem>>,
    keys: RefCell<Vec<String>>,
}

impl Findings {
    /// The value, if nothing was wrong anywhere.
    pub(super) fn settle<T>(&self, value: Option<T>) -> Result<T, ConfigError> {
        let problems = self.problems.take();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError::new(problems)),
        }
    }

    /// Every key that was asked for, dotted.
    pub(super) fn keys(&self) -> Vec<String> {
        self.keys.take()
    }

    fn add(&self, place: &Place, key: String, what: Fix) {
        self.problems.borrow_mut().push(Problem {
            file: place.file.to_path_buf(),
            line: place.line,
            key,
            what,
        });
    }
}

/// One table of the configuration.
pub(super) struct Section<'f> {
    findings: &'f Findings,
    name: &'static str,
    place: Place,
    left: Entries,
    known: Vec<&'static str>,
    places: Vec<(&'static str, Place)>,
}

impl<'f> Section<'f> {
    /// The top of a document.
    pub(super) fn top(document: Document, findings: &'f Findings) -> Self {
        Self::new(findings, "", document.place, document.entries)
    }

    fn new(findings: &'f Findings, name: &'static str, place: Place, left: Entries) -> Self {
        Self {
            findings,
            name,
            place,
            left,
            known: Vec::new(),
            places: Vec::new(),
        }
    }

    /// A table below this one; an absent one is empty.
    pub(super) fn section(&mut self, name: &'static str) -> Self {
        let (place, entries) = match self.take(name) {
            None => (self.place.clone(), Entries::new()),
            Some(Entry {
                place,
                node: Node::Table(entries),
            }) => (place, entries),
            Some(Entry { place, node }) => {
                let what = format!("is {}; write it as a table, [{name}]", node.what());
                self.findings.add(&place, name.to_owned(), what);
                (place, Entries::new())
            }
        };
        Self::new(self.findings, name, place, entries)
    }

    /// A table below this one, with its whole dotted name.
    pub(super) fn below(&mut self, name: &'static str, dotted: &'static str) -> Self {
        let mut below = self.section(name);
        below.name = dotted;
        below
    }

    /// The tables of a `[[name]]`.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Self> {
        let Some(entry) = self.take(name) else {
            return Vec::new();
        };
        let items = match entry.node {
            Node::List(items) => items,
            _ => vec![Entry {
                node: Node::Other("not a list of tables"),
                ..entry
            }],
        };
        let mut sections = Vec::new();
        for Entry { place, node } in items {
            match node {
                Node::Table(entries) => {
                    sections.push(Self::new(self.findings, name, place, entries));
                }
                node => {
                    let what = format!("is {}; write each one as [[{name}]]", node.what());
                    self.findings.add(&place, name.to_owned(), what);
                }
            }
        }
        sections
    }

    /// The pairs of a table whose keys are the writer's own.
    pub(super) fn pairs(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some(entry) = self.take(key) else {
            return Vec::new();
        };
        let Node::Table(entries) = entry.node else {
            let what = format!("is {}; write {{ team = \"web\" }}", entry.node.what());
            self.object(key, what);
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, entry) in entries {
            match entry.node {
                Node::Text(value) => pairs.push((name, value)),
                node => {
                    let what = format!("is {}; write it in quotes", node.what());
                    let key = format!("{}.{name}", self.dotted(key));
                    self.findings.add(&entry.place, key, what);
                }
            }
        }
        pairs
    }

    /// A value; None when it is absent or wrong, and the latter is noted.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node) -> Result<T, Fix>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        self.read(key, &entry, read)
    }

    /// A value that must be there.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&Node) -> Result<T, Fix>,
    ) -> Option<T> {
        match self.take(key) {
            Some(entry) => self.read(key, &entry, read),
            None => {
                self.object(key, format!("is missing; write {key} = {example}"));
                None
            }
        }
    }

    /// A list; each wrong item is a problem of its own.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&Node) -> Result<T, Fix>,
    ) -> Option<Vec<T>> {
        let entry = self.take(key)?;
        let Node::List(items) = entry.node else {
            let what = format!("is {}; write a list, [{example}]", entry.node.what());
            self.object(key, what);
            return None;
        };
        let read = items.iter().map(|item| self.read(key, item, &read));
        // All of them are looked at before the first bad one spoils the list.
        let read: Vec<Option<T>> = read.collect();
        read.into_iter().collect()
    }

    /// Notes a problem of a key of this table.
    pub(super) fn object(&self, key: &'static str, what: impl Into<Fix>) {
        let place = self.place_of(key);
        self.findings.add(place, self.dotted(key), what.into());
    }

    /// Where a key stands; the table's own place when it is absent.
    pub(super) fn place_of(&self, key: &str) -> &Place {
        self.places
            .iter()
            .find(|(name, _)| *name == key)
            .map_or(&self.place, |(_, place)| place)
    }

    /// Whether a key was written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.places.iter().any(|(name, _)| *name == key)
    }

    /// Notes what nobody asked for.
    pub(super) fn finish(self) {
        for (key, entry) in &self.left {
            let what = match closest(key, &self.known) {
                Some(known) => format!("is no key; did you mean {known}?"),
                None => format!("is no key; here stand {}", self.known.join(", ")),
            };
            self.findings.add(&entry.place, self.dotted(key), what);
        }
        let keys = self.known.iter().map(|key| self.dotted(key));
        self.findings.keys.borrow_mut().extend(keys);
    }

    fn read<T>(
        &self,
        key: &str,
        entry: &Entry,
        read: impl FnOnce(&Node) -> Result<T, Fix>,
    ) -> Option<T> {
        read(&entry.node)
            .map_err(|what| self.findings.add(&entry.place, self.dotted(key), what))
            .ok()
    }

    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.known.push(key);
        let entry = self.left.remove(key)?;
        self.places.push((key, entry.place.clone()));
        Some(entry)
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

/// The known key that was probably meant.
fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let near = |known: &&'static str| {
        let distance = distance(&key, known);
        (distance <= 1 + known.len() / 4).then_some((distance, *known))
    };
    known.iter().filter_map(near).min().map(|(_, known)| known)
}

/// How many letters must be put in, left out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
