//! Who may visit an imported tunnel, as far as the keys of a `[[tunnel]]` can say what the other tool's file says.
//! A rule that they cannot say is refused, for the draft to keep its tunnel back. Secrets go into files, and never
//! into what is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::tree::Node;
use crate::engine::policy::{AuthUser, HeaderWords, PolicyWords, WebhookKind};
use crate::secret::Secret;

/// More would never be read.
const SECRET_MAX: usize = 1024;
/// What the keys of a tunnel take.
const COUNT_MAX: u32 = 1_000_000;

/// What was carried over of a tunnel's guards.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    words: PolicyWords,
    passwords: Vec<(String, Secret<String>)>,
    webhook: Option<(WebhookKind, Secret<String>)>,
}

/// Whose header fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// A secret, and the name of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretFile {
    pub(super) name: String,
    /// For people: `the password of ada`.
    pub(super) what: String,
    pub(super) secret: Secret<String>,
}

/// Keys of a `[[tunnel]]` and their values.
pub(super) type Keys = BTreeMap<&'static str, toml::Value>;

impl Rules {
    /// Users with their passwords, each written `ada:correct horse`.
    pub(super) fn pairs(&mut self, node: &Node) -> bool {
        let pair = |item: &'_ Node| {
            let (user, password) = item.text()?.split_once(':')?;
            Some((user.to_owned(), password.to_owned()))
        };
        let pairs: Option<Vec<_>> = node.items().iter().map(pair).collect();
        pairs.is_some_and(|pairs| self.passwords(pairs))
    }

    /// Users with their passwords. A second set of them would be asked for besides, which no key says.
    pub(super) fn passwords(&mut self, pairs: Vec<(String, String)>) -> bool {
        let users: BTreeSet<&String> = pairs.iter().map(|(user, _)| user).collect();
        let fits = |(user, password): &(String, String)| {
            AuthUser::check_name(user).is_ok() && is_secret(password)
        };
        let good = self.passwords.is_empty()
            && !pairs.is_empty()
            && users.len() == pairs.len()
            && pairs.iter().all(fits);
        if good {
            let secret = |(user, password)| (user, Secret::new(password));
            self.passwords = pairs.into_iter().map(secret).collect();
        }
        good
    }

    /// The only networks. A second list would narrow the first, and one list cannot say that.
    pub(super) fn allow(&mut self, node: &Node) -> bool {
        self.once(node, |words| &mut words.allow)
    }

    /// The only paths, as patterns.
    pub(super) fn allow_paths(&mut self, patterns: Vec<String>) -> bool {
        if !self.words.allow_paths.is_empty() {
            return false;
        }
        self.words.allow_paths = patterns;
        self.holds()
    }

    /// Networks that are kept out, besides others.
    pub(super) fn deny(&mut self, node: &Node) -> bool {
        let Some(texts) = texts(node) else {
            return false;
        };
        self.words.deny.extend(texts);
        self.holds()
    }

    /// How many visits in how long each visitor, or all of them, may make at once.
    pub(super) fn rate(&mut self, each: bool, most: u32, per: char) -> bool {
        let limit = if each {
            &mut self.words.visitor
        } else {
            &mut self.words.tunnel
        };
        if limit.rate.is_some() || !(1..=COUNT_MAX).contains(&most) {
            return false;
        }
        limit.rate = Some(format!("{most}/{per}"));
        limit.burst = Some(most);
        self.holds()
    }

    /// The most bytes a second.
    pub(super) fn bandwidth(&mut self, text: String) -> bool {
        self.words.tunnel.bandwidth = Some(text);
        let holds = self.holds();
        if !holds {
            self.words.tunnel.bandwidth = None;
        }
        holds
    }

    /// Who signs requests, and the secret.
    pub(super) fn webhook(&mut self, kind: &str, secret: &str) -> bool {
        let known = WebhookKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind);
        let (None, Some(kind)) = (&self.webhook, known) else {
            return false;
        };
        let webhook = (kind, Secret::new(secret.to_owned()));
        let words = PolicyWords {
            webhook: vec![webhook.clone()],
            ..PolicyWords::default()
        };
        self.webhook = Some(webhook);
        words.compile().is_ok()
    }

    /// A header field to set; one that cannot be is left out.
    pub(super) fn set(&mut self, side: Side, name: &str, value: &str) -> bool {
        let pair = (name.trim().to_owned(), value.trim().to_owned());
        self.headers(side).set.push(pair);
        let holds = self.holds();
        if !holds {
            self.headers(side).set.pop();
        }
        holds
    }

    /// A header field to take out; one that cannot be stays.
    pub(super) fn remove(&mut self, side: Side, name: &str) -> bool {
        self.headers(side).remove.push(name.trim().to_owned());
        let holds = self.holds();
        if !holds {
            self.headers(side).remove.pop();
        }
        holds
    }

    fn headers(&mut self, side: Side) -> &mut HeaderWords {
        match side {
            Side::Request => &mut self.words.request_headers,
            Side::Response => &mut self.words.response_headers,
        }
    }

    fn once(&mut self, node: &Node, part: impl Fn(&mut PolicyWords) -> &mut Vec<String>) -> bool {
        let part = part(&mut self.words);
        let (true, Some(texts)) = (part.is_empty(), texts(node)) else {
            return false;
        };
        *part = texts;
        self.holds()
    }

    fn holds(&self) -> bool {
        self.words.compile().is_ok()
    }

    /// Drops what cannot be asked of bytes. What was a guard of it, for people.
    pub(super) fn for_bytes(&mut self) -> Vec<&'static str> {
        let mut lost = Vec::new();
        if !std::mem::take(&mut self.passwords).is_empty() {
            lost.push("a password");
        }
        if self.webhook.take().is_some() {
            lost.push("a signature");
        }
        if !std::mem::take(&mut self.words.allow_paths).is_empty() {
            lost.push("paths");
        }
        self.words.request_headers = HeaderWords::default();
        self.words.response_headers = HeaderWords::default();
        lost
    }

    /// Whether header fields would be set or taken out.
    pub(super) fn has_headers(&self) -> bool {
        [&self.words.request_headers, &self.words.response_headers]
            .iter()
            .any(|rules| !rules.set.is_empty() || !rules.remove.is_empty())
    }

    /// The keys of that tunnel, whose secrets are in files in `folder`.
    pub(super) fn keys(self, tunnel: &str, folder: &Path) -> (Keys, Vec<SecretFile>) {
        let (mut keys, mut files) = (Keys::new(), Vec::new());
        let mut file = |what: String, secret| {
            let name = format!("{tunnel}-{}", files.len() + 1);
            let at = folder.join(&name).display().to_string();
            files.push(SecretFile { name, what, secret });
            at
        };
        let auth: Vec<String> = self
            .passwords
            .into_iter()
            .map(|(user, secret)| {
                let at = file(format!("the password of {user}"), secret);
                format!("{user}:@{at}")
            })
            .collect();
        if let Some((kind, secret)) = self.webhook {
            let at = file(format!("the secret of {}", kind.as_str()), secret);
            keys.insert("verify_webhook", format!("{}:@{at}", kind.as_str()).into());
        }
        let words = self.words;
        let limits = [
            ("rate", words.tunnel.rate),
            ("bandwidth", words.tunnel.bandwidth),
            ("visitor_rate", words.visitor.rate),
        ];
        for (key, text) in limits {
            keys.extend(text.map(|text| (key, text.into())));
        }
        for (key, burst) in [
            ("burst", words.tunnel.burst),
            ("visitor_burst", words.visitor.burst),
        ] {
            keys.extend(burst.map(|burst| (key, i64::from(burst).into())));
        }
        for (key, list) in [
            ("auth", auth),
            ("allow", words.allow),
            ("deny", words.deny),
            ("allow_paths", words.allow_paths),
            ("remove_request_headers", words.request_headers.remove),
            ("remove_response_headers", words.response_headers.remove),
        ] {
            if !list.is_empty() {
                keys.insert(key, list.into());
            }
        }
        for (key, pairs) in [
            ("set_request_headers", words.request_headers.set),
            ("set_response_headers", words.response_headers.set),
        ] {
            if !pairs.is_empty() {
                let pairs = pairs.into_iter().map(|(name, value)| (name, value.into()));
                keys.insert(key, toml::Value::Table(pairs.collect()));
            }
        }
        (keys, files)
    }
}

/// One line that a file can hold.
fn is_secret(text: &str) -> bool {
    (1..=SECRET_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// All of a list's texts; None when there are none, or when one is something else.
fn texts(node: &Node) -> Option<Vec<String>> {
    let text = |item: &Node| item.text().map(str::to_owned);
    let texts: Vec<String> = node.items().iter().map(text).collect::<Option<_>>()?;
    (!texts.is_empty()).then_some(texts)
}
