//! Finds the paths that a Rust file names from the crate's root or through `super`, wherever they
//! stand: in `use` trees, in expressions and types, in macros, in attributes' strings.

/// One path, or something that would hide paths from this reader.
#[derive(Debug)]
pub(super) struct Found {
    /// Where, counted from 1.
    pub(super) line: usize,
    /// From the crate's root; None when the text names no module (`pub(crate)`).
    pub(super) path: Option<Vec<String>>,
    /// Why it cannot be followed.
    pub(super) problem: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Mark(char),
    /// A string's content.
    Text(String),
}

type Tokens = Vec<(usize, Token)>;

/// Every path of `text`, a file that stands at the module `here`; `root` is what it calls the
/// library's root: `crate`, or `wormkey` in a program.
pub(super) fn paths_in(text: &str, root: &str, here: &[String]) -> Vec<Found> {
    let tokens = tokens_of(text);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        root,
        found: Vec::new(),
    };
    reader.file(here);
    reader.found
}

/// The files that `#[path = "…"] mod name;` names, beside the module each of them is.
pub(super) fn moved_in(text: &str, here: &[String]) -> Vec<(String, Vec<String>)> {
    let tokens = tokens_of(text);
    let mut moved = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let [
            (_, Token::Word(path)),
            (_, Token::Mark('=')),
            (_, Token::Text(file)),
        ] = window
        else {
            continue;
        };
        let mut behind = tokens[at..]
            .iter()
            .skip_while(|(_, token)| *token != Token::Word("mod".to_owned()));
        if let ("path", Some((_, Token::Word(name)))) = (path.as_str(), behind.nth(1)) {
            moved.push((file.clone(), [here, std::slice::from_ref(name)].concat()));
        }
    }
    moved
}

struct Reader<'a> {
    tokens: &'a Tokens,
    at: usize,
    root: &'a str,
    found: Vec<Found>,
}

impl Reader<'_> {
    fn token(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        match self.token(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn is(&self, ahead: usize, mark: char) -> bool {
        self.token(ahead) == Some(&Token::Mark(mark))
    }

    /// Walks the file with the stack of inline modules, because each makes `super` one longer.
    fn file(&mut self, here: &[String]) {
        let mut module = here.to_vec();
        // For each open brace, whether it is a module's.
        let mut braces = Vec::new();
        while let Some(token) = self.token(0) {
            match token {
                Token::Mark('{') => braces.push(false),
                Token::Mark('}') if braces.pop() == Some(true) => {
                    module.pop();
                }
                Token::Word(word) if word == "mod" && self.is(2, '{') => {
                    module.extend(self.word(1).map(str::to_owned));
                    braces.push(true);
                    self.at += 2;
                }
                Token::Word(word) if word == "super" || word == self.root => {
                    self.tree(&module, &[]);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// One path and all its branches; stands behind it afterwards.
    fn tree(&mut self, module: &[String], prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            match self.token(0) {
                Some(Token::Word(word)) => path.push(word.clone()),
                Some(Token::Mark('*')) => path.push("*".to_owned()),
                Some(Token::Mark('{')) => return self.branches(module, &path),
                // A generic argument (`crate::a::<T>`) or the end of a macro's fragment.
                _ => return self.resolve(module, &path, false),
            }
            self.at += 1;
            if self.token(0) != Some(&Token::Colons) {
                let renamed = self.word(0) == Some("as");
                return self.resolve(module, &path, renamed);
            }
            self.at += 1;
        }
    }

    fn branches(&mut self, module: &[String], prefix: &[String]) {
        self.at += 1;
        while let Some(token) = self.token(0) {
            match token {
                Token::Mark('}') => {
                    self.at += 1;
                    return;
                }
                // `as name` after a branch names nothing.
                Token::Word(word) if word == "as" => self.at += 2,
                Token::Word(_) | Token::Mark('{' | '*') => self.tree(module, prefix),
                _ => self.at += 1,
            }
        }
    }

    fn resolve(&mut self, module: &[String], path: &[String], renamed: bool) {
        let mut rest = path;
        let mut base: &[String] = &[];
        if rest.first().is_some_and(|word| word == self.root) {
            rest = &rest[1..];
        } else {
            base = module;
            while rest.first().is_some_and(|word| word == "super") {
                let Some(up) = base.len().checked_sub(1) else {
                    return self.note(None, Some("climbs above the crate"));
                };
                base = &base[..up];
                rest = &rest[1..];
            }
        }
        let whole = match rest {
            [] => renamed,
            [word, ..] => word == "*" || word == "self",
        };
        let full = [base, rest].concat();
        let named = !full.is_empty() && (!rest.is_empty() || renamed);
        if base.is_empty() && whole {
            self.note(Some(Vec::new()), None);
        } else if named {
            self.note(Some(full), None);
        } else {
            self.note(None, None);
        }
    }

    fn note(&mut self, path: Option<Vec<String>>, problem: Option<&'static str>) {
        let behind = self.at.min(self.tokens.len()).saturating_sub(1);
        self.found.push(Found {
            line: self.tokens.get(behind).map_or(1, |(line, _)| *line),
            path,
            problem,
        });
    }
}

/// The text without comments; a string that is itself a path (serde's `with`) is read like code.
fn tokens_of(text: &str) -> Tokens {
    let mut tokens = Tokens::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some((length, content)) = string(rest) {
            if content.starts_with("crate::") || content.starts_with("super::") {
                let inner = tokens_of(content);
                tokens.extend(inner.into_iter().map(|(_, token)| (line, token)));
            }
            (length, Some(Token::Text(content.to_owned())))
        } else if let Some(length) = character(rest) {
            (length, None)
        } else if first == '_' || first.is_alphanumeric() {
            let raw = if rest.starts_with("r#") { 2 } else { 0 };
            let length = rest[raw..]
                .find(|c: char| c != '_' && !c.is_alphanumeric())
                .map_or(rest.len(), |end| end + raw);
            (length, Some(Token::Word(rest[raw..length].to_owned())))
        } else if rest.starts_with("::") {
            (2, Some(Token::Colons))
        } else {
            let seen = !first.is_whitespace();
            (first.len_utf8(), seen.then_some(Token::Mark(first)))
        };
        tokens.extend(token.map(|token| (line, token)));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// How long the comment is; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// A string of any kind (`"` `r"` `r#"` `b"` `br"` `c"`): its length and what stands in it.
fn string(text: &str) -> Option<(usize, &str)> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|t| t.starts_with(['"', '#']))
    })?;
    let body = &text[prefix.len()..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') || (hashes > 0 && !prefix.ends_with('r')) {
        return None;
    }
    let start = prefix.len() + hashes + 1;
    let end = if prefix.ends_with('r') {
        text[start..].find(&format!("\"{}", "#".repeat(hashes)))?
    } else {
        unescaped_quote(&text[start..])?
    };
    Some((start + end + 1 + hashes, &text[start..start + end]))
}

fn unescaped_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// A character literal; None for a lifetime.
fn character(text: &str) -> Option<usize> {
    let quoted = text
        .strip_prefix("b'")
        .or_else(|| text.strip_prefix('\''))?;
    let before = text.len() - quoted.len();
    let first = quoted.chars().next()?;
    if first == '\\' {
        let escaped = 1 + quoted[1..].chars().next()?.len_utf8();
        return Some(before + escaped + quoted[escaped..].find('\'')? + 1);
    }
    let end = first.len_utf8();
    quoted[end..].starts_with('\'').then_some(before + end + 1)
}
