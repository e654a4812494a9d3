//! Another tool's file as a tree in which everything knows its line. YAML, JSON and TOML look the same from
//! here on, and every scalar is a text. Knows no tool.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, StrInput};
use toml::de::{DeTable, DeValue};

use super::ImportError;

/// Deeper than any of these files goes.
const DEPTH_MAX: usize = 32;
/// Aliases of aliases grow without end.
const NODES_MAX: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What a file can say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Table(Vec<Field>),
    List(Vec<Node>),
    Text(String),
    Nothing,
}

/// One entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Node {
    /// The entries of a table; none for anything else.
    pub(super) fn fields(&self) -> &[Field] {
        match &self.value {
            Value::Table(fields) => fields,
            _ => &[],
        }
    }

    /// The items of a list; a lone value counts as a list of one.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Nothing => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The entry of that name.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let field = self.fields().iter().find(|field| field.key == key);
        field.map(|field| &field.node)
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether a switch is on.
    pub(super) fn is_true(&self) -> bool {
        self.text() == Some("true")
    }

    /// Whether it says nothing: absent, empty, or a switch that is off.
    pub(super) fn is_idle(&self) -> bool {
        match &self.value {
            Value::Nothing => true,
            Value::Text(text) => text.is_empty() || text == "false",
            Value::List(items) => items.is_empty(),
            Value::Table(fields) => fields.iter().all(|field| field.node.is_idle()),
        }
    }
}

/// Reads YAML, and JSON, which is YAML too.
pub(super) fn yaml(text: &str) -> Result<Node, ImportError> {
    let mut loader = Loader {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut document = None;
    loop {
        match loader.next()? {
            (Event::StreamEnd, line) => {
                let empty = Node {
                    line,
                    value: Value::Nothing,
                };
                return Ok(document.unwrap_or(empty));
            }
            (Event::DocumentStart(_), line) => {
                if document.is_some() {
                    return Err(syntax("YAML", line, "a second document begins here"));
                }
                let (event, line) = loader.next()?;
                document = Some(loader.node(event, line, 0)?);
            }
            _ => {}
        }
    }
}

struct Loader<'t> {
    events: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Loader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), ImportError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(err)) => Err(syntax("YAML", err.marker().line(), err.info())),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Node, ImportError> {
        self.count(1, line)?;
        if depth > DEPTH_MAX {
            return Err(syntax("YAML", line, "this is nested too deep"));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, line),
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == saphyr_parser::ScalarStyle::Plain;
                let nothing = plain && matches!(&*text, "" | "~" | "null");
                let value = if nothing {
                    Value::Nothing
                } else {
                    Value::Text(text.into_owned())
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.table(depth)?, anchor),
            _ => (Value::Nothing, 0),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), ImportError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(syntax(
                "YAML",
                line,
                "this is more than any such file holds",
            ));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node, ImportError> {
        let Some(meant) = self.anchors.get(&anchor).cloned() else {
            return Err(syntax("YAML", line, "this alias stands for nothing"));
        };
        self.count(size(&meant), line)?;
        Ok(meant)
    }

    fn list(&mut self, depth: usize) -> Result<Value, ImportError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, ImportError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, line, depth + 1)?;
            let Some(key) = key.text().map(str::to_owned) else {
                return Err(syntax("YAML", line, "a key is a word"));
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if key == "<<" {
                merged.extend(node.items().iter().flat_map(|from| from.fields().to_vec()));
            } else if fields.iter().any(|field| field.key == key) {
                let what = format!("{key:?} stands there twice");
                return Err(syntax("YAML", line, &what));
            } else {
                fields.push(Field { key, line, node });
            }
        }
        for field in merged {
            if fields.iter().all(|own| own.key != field.key) {
                fields.push(field);
            }
        }
        Ok(Value::Table(fields))
    }
}

fn size(node: &Node) -> usize {
    let below: usize = match &node.value {
        Value::Table(fields) => fields.iter().map(|field| size(&field.node)).sum(),
        Value::List(items) => items.iter().map(size).sum(),
        _ => 0,
    };
    below + 1
}

/// Reads TOML.
pub(super) fn toml(text: &str) -> Result<Node, ImportError> {
    let lines = Lines(text);
    let table = DeTable::parse(text).map_err(|err| {
        let line = err.span().map_or(1, |span| lines.of(span.start));
        syntax("TOML", line, err.message().trim_end())
    })?;
    Ok(lines.node(1, DeValue::Table(table.into_inner())))
}

struct Lines<'t>(&'t str);

impl Lines<'_> {
    fn of(&self, offset: usize) -> usize {
        let before = &self.0.as_bytes()[..offset.min(self.0.len())];
        1 + before.iter().filter(|b| **b == b'\n').count()
    }

    fn node(&self, line: usize, value: DeValue<'_>) -> Node {
        let value = match value {
            DeValue::Table(table) => {
                let field = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
                    let line = self.of(key.span().start);
                    let key: std::borrow::Cow<'_, str> = key.into_inner();
                    Field {
                        key: key.into_owned(),
                        line,
                        node: self.node(line, value.into_inner()),
                    }
                };
                let mut fields: Vec<Field> = table.into_iter().map(field).collect();
                fields.sort_by_key(|field| field.line);
                Value::Table(fields)
            }
            DeValue::Array(array) => {
                let item = |value: toml::Spanned<DeValue<'_>>| {
                    self.node(self.of(value.span().start), value.into_inner())
                };
                Value::List(array.into_iter().map(item).collect())
            }
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => Value::Text(number.as_str().to_owned()),
            DeValue::Float(number) => Value::Text(number.as_str().to_owned()),
            DeValue::Boolean(switch) => Value::Text(switch.to_string()),
            DeValue::Datetime(at) => Value::Text(at.to_string()),
        };
        Node { line, value }
    }
}

fn syntax(format: &'static str, line: usize, what: &str) -> ImportError {
    ImportError::Syntax {
        format,
        line,
        what: what.to_owned(),
    }
}
