//! A policy as people write it: the flags of the command line and the keys of a declared tunnel, which say
//! the same and become the same document here. Pure: files are read and passwords hashed by who calls.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Policy, PolicyError, PolicyProblem, WebhookKind};
use crate::secret::Secret;

/// What was written. What is absent stays as the base has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyWords {
    /// A whole policy, of which the rest replaces parts.
    pub base: Option<Policy>,
    /// Users and the hashes of their passwords.
    pub auth: Vec<(String, String)>,
    /// Networks that may visit.
    pub allow: Vec<String>,
    /// Networks that may not.
    pub deny: Vec<String>,
    /// The only methods.
    pub methods: Vec<String>,
    /// The only paths.
    pub allow_paths: Vec<String>,
    /// Paths that are kept back.
    pub deny_paths: Vec<String>,
    /// Whether every visit needs a share link, or credentials.
    pub share: bool,
    /// Limits of all visits together.
    pub tunnel: LimitWords,
    /// Limits of each visitor address.
    pub visitor: LimitWords,
    /// What to change about requests.
    pub request_headers: HeaderWords,
    /// What to change about responses.
    pub response_headers: HeaderWords,
    /// Security fields; the text is a content security policy, or empty.
    pub secure_headers: Option<String>,
    /// Origins whose scripts may read responses.
    pub cors: Vec<String>,
    /// Who signs requests, and their secrets.
    pub webhook: Vec<(WebhookKind, Secret<String>)>,
    /// Whether the service may set cookies for the domain above.
    pub cookie_domain: bool,
    /// Parts whose refusals are only told: `all`, `networks`…
    pub shadow: Vec<String>,
}

/// Limits, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitWords {
    /// `50/s`
    pub rate: Option<String>,
    /// How many at once; only with a rate.
    pub burst: Option<u32>,
    /// How many go on at once.
    pub concurrency: Option<u32>,
    /// `5MB`
    pub bandwidth: Option<String>,
}

/// Header rules, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderWords {
    /// Names and values.
    pub set: Vec<(String, String)>,
    /// Names.
    pub remove: Vec<String>,
}

impl PolicyWords {
    /// The policy that this means; every problem is named.
    pub fn compile(&self) -> Result<Policy, PolicyError> {
        let mut problems = Vec::new();
        let written = self.written(&mut problems);
        let read = Policy::parse(&Value::Object(written).to_string());
        let policy = match read {
            Ok(policy) if problems.is_empty() => policy,
            Ok(_) => return Err(PolicyError { problems }),
            Err(more) => {
                problems.extend(more.problems);
                return Err(PolicyError { problems });
            }
        };
        match &self.base {
            None => Ok(policy),
            Some(base) => base.replace(&self.parts(), &policy),
        }
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.parts().is_empty()
    }

    /// The parts of the document that the words themselves say something of, without the base.
    pub fn parts(&self) -> Vec<&'static str> {
        let limit = |limit: &LimitWords| {
            [
                limit.rate.is_some() || limit.burst.is_some(),
                limit.concurrency.is_some(),
                limit.bandwidth.is_some(),
            ]
        };
        let (tunnel, visitor) = (limit(&self.tunnel), limit(&self.visitor));
        let said = [
            ("auth", !self.auth.is_empty()),
            ("allow", !self.allow.is_empty()),
            ("deny", !self.deny.is_empty()),
            ("methods", !self.methods.is_empty()),
            ("allow_paths", !self.allow_paths.is_empty()),
            ("deny_paths", !self.deny_paths.is_empty()),
            ("share", self.share),
            ("limits.tunnel.rate", tunnel[0]),
            ("limits.tunnel.concurrency", tunnel[1]),
            ("limits.tunnel.bandwidth", tunnel[2]),
            ("limits.visitor.rate", visitor[0]),
            ("limits.visitor.concurrency", visitor[1]),
            ("limits.visitor.bandwidth", visitor[2]),
            ("request_headers.set", !self.request_headers.set.is_empty()),
            (
                "request_headers.remove",
                !self.request_headers.remove.is_empty(),
            ),
            (
                "response_headers.set",
                !self.response_headers.set.is_empty(),
            ),
            (
                "response_headers.remove",
                !self.response_headers.remove.is_empty(),
            ),
            ("secure_headers", self.secure_headers.is_some()),
            ("cors", !self.cors.is_empty()),
            ("webhook", !self.webhook.is_empty()),
            ("cookie_domain", self.cookie_domain),
            ("shadow", !self.shadow.is_empty()),
        ];
        let said = said.into_iter().filter(|(_, said)| *said);
        said.map(|(part, _)| part).collect()
    }

    fn written(&self, problems: &mut Vec<PolicyProblem>) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |part: &str, said: bool, value: Value| {
            if said {
                map.insert(part.to_owned(), value);
            }
        };
        for (part, list) in [
            ("allow", &self.allow),
            ("deny", &self.deny),
            ("methods", &self.methods),
            ("allow_paths", &self.allow_paths),
            ("deny_paths", &self.deny_paths),
            ("shadow", &self.shadow),
        ] {
            put(part, !list.is_empty(), json!(list));
        }
        let user = |(user, hash): &(String, String)| json!({"user": user, "hash": hash});
        let users: Vec<Value> = self.auth.iter().map(user).collect();
        put("auth", !users.is_empty(), users.into());
        put("share", self.share, "required".into());
        put("cookie_domain", self.cookie_domain, true.into());
        put("cors", !self.cors.is_empty(), json!({"origins": self.cors}));
        if let Some(csp) = &self.secure_headers {
            let fields = match csp.trim() {
                "" => json!({}),
                csp => json!({"csp": csp}),
            };
            put("secure_headers", true, fields);
        }
        let signer = |(kind, secret): &(WebhookKind, Secret<String>)| json!({"kind": kind.as_str(), "secret": secret.expose()});
        let signers: Vec<Value> = self.webhook.iter().map(signer).collect();
        put("webhook", !signers.is_empty(), signers.into());
        let limits = json!({
            "tunnel": self.tunnel.written("limits.tunnel", problems),
            "visitor": self.visitor.written("limits.visitor", problems),
        });
        put("limits", true, limits);
        for (part, rules) in [
            ("request_headers", &self.request_headers),
            ("response_headers", &self.response_headers),
        ] {
            put(part, true, rules.written(part, problems));
        }
        map
    }
}

impl LimitWords {
    fn written(&self, at: &str, problems: &mut Vec<PolicyProblem>) -> Value {
        let mut object = |part: &str, what: String| {
            let at = format!("{at}.{part}");
            problems.push(PolicyProblem { at, what });
        };
        let mut map = Map::new();
        match (&self.rate, self.burst) {
            (Some(rate), Some(burst)) => {
                map.insert("rate".into(), format!("{rate} burst {burst}").into());
            }
            (Some(rate), None) => {
                map.insert("rate".into(), rate.as_str().into());
            }
            (None, Some(_)) => object("burst", "belongs to a rate; give that, too".into()),
            (None, None) => {}
        }
        match self.concurrency {
            Some(0) => object(
                "concurrency",
                "0 would let nobody in; write 1 or more".into(),
            ),
            Some(most) => {
                map.insert("concurrency".into(), most.into());
            }
            None => {}
        }
        match self
            .bandwidth
            .as_deref()
            .map(|text| (text, bandwidth(text)))
        {
            Some((_, Some(bytes))) => {
                map.insert("bandwidth".into(), bytes.into());
            }
            Some((text, None)) => object(
                "bandwidth",
                format!("{text:?} is no bandwidth; write bytes a second, such as 500KB or 5MiB"),
            ),
            None => {}
        }
        Value::Object(map)
    }
}

impl HeaderWords {
    fn written(&self, at: &str, problems: &mut Vec<PolicyProblem>) -> Value {
        let mut set = BTreeMap::new();
        for (name, value) in &self.set {
            if set.insert(name, value).is_some() {
                let at = format!("{at}.set.{name}");
                let what = "it stands there twice".to_owned();
                problems.push(PolicyProblem { at, what });
            }
        }
        json!({"set": set, "remove": self.remove})
    }
}

/// Bytes a second: `500KB`, `5MiB`, `1MB/s`, or bare bytes; at least a KiB, since less carries no answer.
fn bandwidth(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1000),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    let number = number.trim_end();
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (1024..=1 << 40).contains(&bytes).then_some(bytes)
}

/// Takes `github:@FILE` apart.
pub fn webhook_source(text: &str) -> Option<(WebhookKind, &str)> {
    let (kind, file) = text.split_once(":@")?;
    let kind = WebhookKind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind)?;
    (!file.is_empty()).then_some((kind, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_the_document() {
        let words = PolicyWords {
            allow: vec!["10.1.2.3/8".into()],
            methods: vec!["GET".into(), "HEAD".into()],
            share: true,
            tunnel: LimitWords {
                rate: Some("10/m".into()),
                burst: Some(3),
                concurrency: Some(4),
                bandwidth: Some("500KB/s".into()),
            },
            request_headers: HeaderWords {
                set: vec![("X-A".into(), "b".into())],
                remove: vec!["Cookie".into()],
            },
            secure_headers: Some(String::new()),
            cors: vec!["https://app.example.com".into()],
            webhook: vec![(WebhookKind::Github, Secret::new("s3cret".into()))],
            shadow: vec!["all".into()],
            ..PolicyWords::default()
        };
        let text = words.compile().unwrap().to_text();
        assert_eq!(
            text,
            r#"{"allow":["10.0.0.0/8"],"methods":["GET","HEAD"],"share":"required","#.to_owned()
                + r#""limits":{"tunnel":{"rate":"10/m burst 3","concurrency":4,"bandwidth":500000}},"#
                + r#""request_headers":{"set":{"x-a":"b"},"remove":["cookie"]},"secure_headers":{},"#
                + r#""cors":{"origins":["https://app.example.com"]},"#
                + r#""webhook":[{"kind":"github","secret":"s3cret"}],"shadow":["all"]}"#
        );
        assert!(!format!("{words:?}").contains("s3cret"));
    }

    #[test]
    fn words_replace_parts_of_a_base_and_leave_the_rest() {
        let base = r#"{"deny":["10.0.0.0/8"],"limits":{"tunnel":{"rate":"5/s","concurrency":7}}}"#;
        let words = PolicyWords {
            base: Some(Policy::parse(base).unwrap()),
            tunnel: LimitWords {
                rate: Some("9/s".into()),
                ..LimitWords::default()
            },
            methods: vec!["GET".into()],
            ..PolicyWords::default()
        };
        assert_eq!(words.parts(), ["methods", "limits.tunnel.rate"]);
        assert_eq!(
            words.compile().unwrap().to_text(),
            r#"{"deny":["10.0.0.0/8"],"methods":["GET"],"limits":{"tunnel":{"rate":"9/s","concurrency":7}}}"#
        );
        assert!(PolicyWords::default().is_empty());
        assert!(!words.is_empty());
    }

    #[test]
    fn every_problem_of_the_words_is_named() {
        let words = PolicyWords {
            deny: vec!["x".into()],
            visitor: LimitWords {
                burst: Some(3),
                concurrency: Some(0),
                bandwidth: Some("5 furlongs".into()),
                rate: None,
            },
            response_headers: HeaderWords {
                set: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
                remove: vec![],
            },
            ..PolicyWords::default()
        };
        let problems = words.compile().unwrap_err().problems;
        let at: Vec<&str> = problems.iter().map(|p| &*p.at).collect();
        assert_eq!(
            at,
            [
                "limits.visitor.burst",
                "limits.visitor.concurrency",
                "limits.visitor.bandwidth",
                "response_headers.set.a",
                "deny[0]",
            ]
        );
    }

    #[test]
    fn bandwidths_have_units_and_a_floor() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("500KB", Some(500_000)),
            ("5MiB", Some(5 << 20)),
            ("1 MB/s", Some(1_000_000)),
            ("1023", None),
            ("0", None),
            ("-5MB", None),
            ("5mb", None),
            ("5Mbit", None),
            ("99999999999999GB", None),
            ("", None),
        ] {
            assert_eq!(bandwidth(text), bytes, "{text}");
        }
    }

    #[test]
    fn webhook_secrets_come_from_files() {
        assert_eq!(
            webhook_source("github:@/run/s"),
            Some((WebhookKind::Github, "/run/s"))
        );
        for bad in ["github:secret", "github:@", "gitlab:@/x", "github", ""] {
            assert_eq!(webhook_source(bad), None, "{bad}");
        }
    }
}
