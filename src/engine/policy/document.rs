//! The JSON text of a policy, as it is written; and the way from it to a [`Policy`], with every problem
//! named.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::headers::{self, Cors, HeaderRules, SecureHeaders};
use super::{AuthUser, POLICY_MAX, Part, Policy, ShareUse, Webhook, WebhookKind};
use crate::engine::limits::Limit;

/// How many of each a policy may have.
const USERS: usize = 32;
const RULES: usize = 128;
const FIELDS: usize = 32;
const WEBHOOKS: usize = 8;

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// All of it.
    pub problems: Vec<PolicyProblem>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Where: `deny[2]`.
    pub at: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}: {}", self.at, self.what)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    auth: Vec<UserText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny_paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_headers: Option<RulesText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_headers: Option<RulesText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secure_headers: Option<SecureText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<CorsText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    webhook: Vec<WebhookText>,
    #[serde(skip_serializing_if = "is_false")]
    cookie_domain: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shadow: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserText {
    user: String,
    hash: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsText {
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<LimitText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visitor: Option<LimitText>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitText {
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<std::num::NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<std::num::NonZeroU64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RulesText {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    set: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SecureText {
    #[serde(skip_serializing_if = "Option::is_none")]
    hsts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    csp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_ancestors: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrer_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CorsText {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    credentials: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookText {
    kind: String,
    secret: String,
}

impl Serialize for Policy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        written(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let policy = read(Document::deserialize(deserializer)?);
        policy.map_err(serde::de::Error::custom)
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > POLICY_MAX {
        return Err(one("text", format!("it has more than {POLICY_MAX} bytes")));
    }
    // An empty list would be taken for a document without fields.
    if !text.trim_start().starts_with('{') {
        return Err(one("text", "it is no JSON object; write {} for no rules"));
    }
    let document = serde_json::from_str(text).map_err(|e| one("text", e.to_string()))?;
    read(document)
}

fn one(at: &str, what: impl Into<String>) -> PolicyError {
    let (at, what) = (at.to_owned(), what.into());
    PolicyError {
        problems: vec![PolicyProblem { at, what }],
    }
}

pub(super) fn text(policy: &Policy) -> String {
    serde_json::to_string(&written(policy)).expect("texts and numbers always serialise")
}

/// The text with other secrets in the place of those that sign.
pub(super) fn text_with<E>(
    policy: &Policy,
    mut put: impl FnMut(&str) -> Result<String, E>,
) -> Result<String, E> {
    let mut document = written(policy);
    for webhook in &mut document.webhook {
        webhook.secret = put(&webhook.secret)?;
    }
    Ok(serde_json::to_string(&document).expect("texts and numbers always serialise"))
}

/// The policy of such a text.
pub(super) fn parse_with(
    text: &str,
    mut take: impl FnMut(&str) -> Option<String>,
) -> Result<Policy, PolicyError> {
    let read_text = serde_json::from_str::<Document>(text);
    let mut document = read_text.map_err(|e| one("text", e.to_string()))?;
    for webhook in &mut document.webhook {
        let secret = take(&webhook.secret);
        webhook.secret = secret.ok_or_else(|| one("webhook", "a secret cannot be opened"))?;
    }
    read(document)
}

/// What stands where something is that is not shown.
const HIDDEN: &str = "[redacted]";

pub(super) fn shown(policy: &Policy) -> Value {
    let mut document = written(policy);
    for user in &mut document.auth {
        user.hash = HIDDEN.into();
    }
    for webhook in &mut document.webhook {
        webhook.secret = HIDDEN.into();
    }
    serde_json::to_value(document).expect("texts and numbers always serialise")
}

pub(super) fn replace(
    policy: &Policy,
    parts: &[&str],
    with: &Policy,
) -> Result<Policy, PolicyError> {
    let value =
        |policy| serde_json::to_value(written(policy)).expect("texts and numbers always serialise");
    let (mut new, with) = (value(policy), value(with));
    for part in parts {
        // A slip would change nothing without a word.
        if !PARTS.contains(part) {
            let known = PARTS.join(", ");
            return Err(one("parts", format!("{part:?} is none; there are {known}")));
        }
        let path: Vec<&str> = part.split('.').collect();
        let value = path.iter().try_fold(&with, |value, name| value.get(*name));
        put(&mut new, &path, value);
    }
    parse(&new.to_string())
}

/// Puts a value, or none, where a path of names leads.
fn put(at: &mut Value, path: &[&str], value: Option<&Value>) {
    let (Value::Object(map), Some((name, rest))) = (at, path.split_first()) else {
        return;
    };
    match (rest.is_empty(), value) {
        (true, None) => drop(map.remove(*name)),
        (true, Some(value)) => drop(map.insert((*name).to_owned(), value.clone())),
        (false, None) => {
            if let Some(below) = map.get_mut(*name) {
                put(below, rest, None);
            }
        }
        (false, value) => {
            let below = map.entry((*name).to_owned());
            put(
                below.or_insert_with(|| Value::Object(serde_json::Map::new())),
                rest,
                value,
            );
        }
    }
}

/// The names of all parts that `set` can change.
const PARTS: &[&str] = &[
    "auth",
    "allow",
    "deny",
    "methods",
    "allow_paths",
    "deny_paths",
    "share",
    "limits",
    "limits.tunnel",
    "limits.tunnel.rate",
    "limits.tunnel.concurrency",
    "limits.tunnel.bandwidth",
    "limits.visitor",
    "limits.visitor.rate",
    "limits.visitor.concurrency",
    "limits.visitor.bandwidth",
    "request_headers",
    "request_headers.set",
    "request_headers.remove",
    "response_headers",
    "response_headers.set",
    "response_headers.remove",
    "secure_headers",
    "cors",
    "webhook",
    "cookie_domain",
    "shadow",
];

/// Collects problems.
#[derive(Default)]
struct Reader(Vec<PolicyProblem>);

impl Reader {
    fn object(&mut self, at: impl Into<String>, what: impl fmt::Display) {
        let (at, what) = (at.into(), what.to_string());
        self.0.push(PolicyProblem { at, what });
    }

    fn keep<T, E: fmt::Display>(&mut self, at: impl Into<String>, read: Result<T, E>) -> Option<T> {
        read.map_err(|e| self.object(at, e)).ok()
    }

    /// Checks each item of a list, sorts it and takes out what stands there twice.
    fn list<I, T: Ord, E: fmt::Display>(
        &mut self,
        at: &str,
        most: usize,
        items: Vec<I>,
        read: impl Fn(&I) -> Result<T, E>,
    ) -> Vec<T> {
        if items.len() > most {
            self.object(at, format!("at most {most} may stand here"));
            return Vec::new();
        }
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            list.extend(self.keep(format!("{at}[{index}]"), read(item)));
        }
        list.sort_unstable();
        list.dedup();
        list
    }

    fn methods(&mut self, at: &str, items: Vec<String>) -> Vec<Method> {
        let names = self.list(at, FIELDS, items, |text| match Method::from_str(text) {
            // Method names are case-sensitive, and a lower-case one is a slip.
            Ok(_) if text.bytes().any(|b| b.is_ascii_lowercase()) => {
                Err("methods are written in capitals")
            }
            Ok(_) if text == "CONNECT" => Err("CONNECT is never served"),
            Ok(_) if text.len() <= 32 => Ok(text.clone()),
            _ => Err("that is no method"),
        });
        let method = |name: String| Method::from_str(&name).expect("it was read above");
        names.into_iter().map(method).collect()
    }

    fn limit(&mut self, at: &str, text: Option<LimitText>) -> Limit {
        let text = text.unwrap_or_default();
        let rate = text.rate.map(|rate| rate.parse());
        Limit {
            rate: rate.and_then(|rate| self.keep(format!("{at}.rate"), rate)),
            concurrency: text.concurrency,
            bandwidth: text.bandwidth,
        }
    }

    fn rules(&mut self, at: &str, text: Option<RulesText>) -> HeaderRules {
        let text = text.unwrap_or_default();
        let mut rules = HeaderRules::default();
        if text.set.len() > FIELDS {
            self.object(at, format!("at most {FIELDS} fields may be set"));
            return rules;
        }
        for (name, value) in &text.set {
            let at = format!("{at}.set.{name}");
            let name = self.keep(at.clone(), headers::name(name));
            let value = self.keep(at.clone(), headers::value(value));
            if let Some((name, value)) = name.zip(value)
                && rules.set.insert(name, value).is_some()
            {
                self.object(at, "it stands there twice");
            }
        }
        let remove = format!("{at}.remove");
        let removed = self.list(&remove, FIELDS, text.remove, |name| headers::name(name));
        rules.remove = removed.into_iter().collect();
        rules
    }

    fn secure(&mut self, text: SecureText) -> SecureHeaders {
        let mut value = |name: &str, text: Option<String>| {
            let value = headers::value(text.as_deref()?);
            self.keep(format!("secure_headers.{name}"), value)
        };
        SecureHeaders {
            hsts: value("hsts", text.hsts),
            csp: value("csp", text.csp),
            frame_ancestors: value("frame_ancestors", text.frame_ancestors),
            referrer_policy: value("referrer_policy", text.referrer_policy),
        }
    }

    fn cors(&mut self, text: CorsText) -> Cors {
        let origin = |text: &String| match headers::is_origin(text) {
            true => Ok(text.clone()),
            false => Err("that is no origin; write https://app.example.com, or *"),
        };
        let origins = self.list("cors.origins", FIELDS, text.origins, origin);
        if origins.is_empty() {
            self.object("cors.origins", "it names nobody; leave cors out");
        }
        let cors = Cors {
            origins: origins.into_iter().collect(),
            methods: self.methods("cors.methods", text.methods),
            headers: self
                .list("cors.headers", FIELDS, text.headers, |name| {
                    headers::name(name)
                })
                .into_iter()
                .collect(),
            credentials: text.credentials,
            max_age: text.max_age,
        };
        if cors.credentials && cors.is_open() {
            self.object("cors.credentials", "browsers send no cookies to *");
        }
        if cors.max_age.is_some_and(|age| age > 86_400) {
            self.object("cors.max_age", "a day (86400) is the most");
        }
        cors
    }

    /// In their order: the first that fits is the one.
    fn webhooks(&mut self, texts: Vec<WebhookText>) -> Vec<Webhook> {
        if texts.len() > WEBHOOKS {
            self.object("webhook", format!("at most {WEBHOOKS} may stand here"));
            return Vec::new();
        }
        let mut webhooks = Vec::with_capacity(texts.len());
        for (index, text) in texts.into_iter().enumerate() {
            let mut kinds = WebhookKind::ALL.into_iter();
            let Some(kind) = kinds.find(|kind| kind.as_str() == text.kind) else {
                let what = "write github, stripe, slack or standard-webhooks";
                self.object(format!("webhook[{index}].kind"), what);
                continue;
            };
            let webhook = Webhook::new(kind, text.secret);
            let webhook = self.keep(format!("webhook[{index}].secret"), webhook);
            webhooks.extend(webhook.filter(|webhook| !webhooks.contains(webhook)));
        }
        webhooks
    }

    fn shadow(&mut self, items: Vec<String>) -> Vec<Part> {
        if items.iter().any(|item| item == "all") {
            return Part::ALL.to_vec();
        }
        self.list("shadow", Part::ALL.len(), items, |text| {
            let part = Part::ALL.into_iter().find(|part| part.as_str() == text);
            part.ok_or("write all, or some of networks, methods, paths, auth, webhook, limits")
        })
    }
}

fn read(document: Document) -> Result<Policy, PolicyError> {
    let mut reader = Reader::default();
    let user = |text: &UserText| AuthUser::new(&text.user, &text.hash);
    let auth = reader.list("auth", USERS, document.auth, user);
    if auth.windows(2).any(|two| two[0].name() == two[1].name()) {
        reader.object("auth", "a user stands there twice");
    }
    let share = match document.share.as_deref() {
        None => ShareUse::Off,
        Some("allowed") => ShareUse::Allowed,
        Some("required") => ShareUse::Required,
        Some(_) => {
            reader.object("share", "write allowed or required, or leave it out");
            ShareUse::Off
        }
    };
    let limits = document.limits.unwrap_or_default();
    let policy = Policy {
        auth,
        allow: reader.list("allow", RULES, document.allow, |text| text.parse()),
        deny: reader.list("deny", RULES, document.deny, |text| text.parse()),
        methods: reader.methods("methods", document.methods),
        allow_paths: reader.list("allow_paths", RULES, document.allow_paths, |t| t.parse()),
        deny_paths: reader.list("deny_paths", RULES, document.deny_paths, |t| t.parse()),
        share,
        tunnel: reader.limit("limits.tunnel", limits.tunnel),
        visitor: reader.limit("limits.visitor", limits.visitor),
        request_headers: reader.rules("request_headers", document.request_headers),
        response_headers: reader.rules("response_headers", document.response_headers),
        secure_headers: document.secure_headers.map(|text| reader.secure(text)),
        cors: document.cors.map(|text| reader.cors(text)),
        webhook: reader.webhooks(document.webhook),
        cookie_domain: document.cookie_domain,
        shadow: reader.shadow(document.shadow).into_iter().collect(),
    };
    if !reader.0.is_empty() {
        return Err(PolicyError { problems: reader.0 });
    }
    // The same bound for what is written by hand and for what we keep.
    if text(&policy).len() > POLICY_MAX {
        return Err(one("text", format!("it has more than {POLICY_MAX} bytes")));
    }
    Ok(policy)
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn written(policy: &Policy) -> Document {
    let limits = LimitsText {
        tunnel: limit_text(policy.tunnel),
        visitor: limit_text(policy.visitor),
    };
    let limited = limits.tunnel.is_some() || limits.visitor.is_some();
    let mut shadow: Vec<String> = policy
        .shadow
        .iter()
        .map(|part| part.as_str().into())
        .collect();
    if shadow.len() == Part::ALL.len() {
        shadow = vec!["all".into()];
    }
    Document {
        auth: policy.auth.iter().map(user_text).collect(),
        allow: texts(&policy.allow),
        deny: texts(&policy.deny),
        methods: texts(&policy.methods),
        allow_paths: texts(&policy.allow_paths),
        deny_paths: texts(&policy.deny_paths),
        share: match policy.share {
            ShareUse::Off => None,
            ShareUse::Allowed => Some("allowed".into()),
            ShareUse::Required => Some("required".into()),
        },
        limits: limited.then_some(limits),
        request_headers: rules_text(&policy.request_headers),
        response_headers: rules_text(&policy.response_headers),
        secure_headers: policy.secure_headers.as_ref().map(secure_text),
        cors: policy.cors.as_ref().map(cors_text),
        webhook: policy.webhook.iter().map(webhook_text).collect(),
        cookie_domain: policy.cookie_domain,
        shadow,
    }
}

fn user_text(user: &AuthUser) -> UserText {
    UserText {
        user: user.name().into(),
        hash: user.hash().as_str().into(),
    }
}

fn webhook_text(webhook: &Webhook) -> WebhookText {
    WebhookText {
        kind: webhook.kind().as_str().into(),
        secret: webhook.secret().expose().clone(),
    }
}

fn limit_text(limit: Limit) -> Option<LimitText> {
    (!limit.is_none()).then(|| LimitText {
        rate: limit.rate.map(|rate| rate.to_string()),
        concurrency: limit.concurrency,
        bandwidth: limit.bandwidth,
    })
}

fn value_text(value: &::http::HeaderValue) -> String {
    value.to_str().unwrap_or_default().to_owned()
}

fn rules_text(rules: &HeaderRules) -> Option<RulesText> {
    let set = rules.set.iter();
    (!rules.is_empty()).then(|| RulesText {
        set: set.map(|(n, v)| (n.clone(), value_text(v))).collect(),
        remove: rules.remove.iter().cloned().collect(),
    })
}

fn secure_text(secure: &SecureHeaders) -> SecureText {
    let text = |value: &Option<::http::HeaderValue>| value.as_ref().map(value_text);
    SecureText {
        hsts: text(&secure.hsts),
        csp: text(&secure.csp),
        frame_ancestors: text(&secure.frame_ancestors),
        referrer_policy: text(&secure.referrer_policy),
    }
}

fn cors_text(cors: &Cors) -> CorsText {
    CorsText {
        origins: cors.origins.iter().cloned().collect(),
        methods: texts(&cors.methods),
        headers: cors.headers.iter().cloned().collect(),
        credentials: cors.credentials,
        max_age: cors.max_age,
    }
}
