//! Webhook signatures: who signs, with which secret, and whether a request is signed. Pure: fields, body and
//! time are handed in. Not what reads the body or remembers what was delivered: the edge does.
//!
//! | kind | fields | signed |
//! |---|---|---|
//! | github | `X-Hub-Signature-256: sha256=<hex>` | the body |
//! | stripe | `Stripe-Signature: t=<seconds>,v1=<hex>` | `<seconds>.<body>` |
//! | slack | `X-Slack-Signature: v0=<hex>`, `X-Slack-Request-Timestamp` | `v0:<seconds>:<body>` |
//! | standard-webhooks | `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64>` | `<id>.<seconds>.<body>` |
//!
//! All are HMAC-SHA-256 over the very bytes that were sent.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use aws_lc_rs::{constant_time, hmac};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};

use crate::secret::Secret;
use crate::times::WallTime;

/// How far the time in a signature may be from ours, before or after.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// The most bytes of a secret.
const SECRET_MAX: usize = 1024;

/// Who signs requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookKind {
    /// GitHub.
    Github,
    /// Stripe.
    Stripe,
    /// Slack.
    Slack,
    /// Whoever keeps to Standard Webhooks.
    StandardWebhooks,
}

impl WebhookKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Github,
        Self::Stripe,
        Self::Slack,
        Self::StandardWebhooks,
    ];

    /// The text in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Slack => "slack",
            Self::StandardWebhooks => "standard-webhooks",
        }
    }
}

/// Somebody who signs requests, and the secret they share with the tunnel's owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    kind: WebhookKind,
    secret: Secret<String>,
}

/// Why a secret is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretError {
    #[error("1 to 1024 bytes, without control characters")]
    Text,
    #[error("a standard-webhooks secret is whsec_ and base64")]
    Base64,
}

impl Webhook {
    pub(super) fn new(kind: WebhookKind, secret: String) -> Result<Self, SecretError> {
        if !(1..=SECRET_MAX).contains(&secret.len()) || secret.contains(char::is_control) {
            return Err(SecretError::Text);
        }
        if kind == WebhookKind::StandardWebhooks && decoded(&secret).is_none() {
            return Err(SecretError::Base64);
        }
        let secret = Secret::new(secret);
        Ok(Self { kind, secret })
    }

    /// Who signs.
    pub const fn kind(&self) -> WebhookKind {
        self.kind
    }

    /// What they sign with.
    pub const fn secret(&self) -> &Secret<String> {
        &self.secret
    }

    fn key(&self) -> hmac::Key {
        let text = self.secret.expose();
        let bytes = match self.kind {
            WebhookKind::StandardWebhooks => decoded(text),
            WebhookKind::Github | WebhookKind::Stripe | WebhookKind::Slack => None,
        };
        let bytes = bytes.as_deref().unwrap_or(text.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, bytes)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

fn decoded(secret: &str) -> Option<Vec<u8>> {
    let text = secret.strip_prefix("whsec_").unwrap_or(secret);
    base64(text.as_bytes()).filter(|bytes| !bytes.is_empty())
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64
        .decode(text)
        .or_else(|_| BASE64_NOPAD.decode(text))
        .ok()
}

/// Why a request is taken for unsigned. The later ones came further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Unsigned {
    /// None of the fields is there.
    #[error("it carries no signature")]
    Absent,
    /// The fields are there, and not as they should be; or one stands there twice.
    #[error("its signature cannot be read")]
    Malformed,
    /// The time that was signed is not about now.
    #[error("its signature is more than 5m old, or ahead of the clock")]
    Stale,
    /// No signature fits the body.
    #[error("its signature is wrong")]
    Wrong,
    /// The very same request was delivered already.
    #[error("it was delivered already")]
    Replayed,
}

/// What a request's fields claim: signatures that are compared once the body is there.
pub struct Claims(Vec<Claim>);

struct Claim {
    key: hmac::Key,
    /// What is signed before the body.
    prefix: Vec<u8>,
    signatures: Vec<Vec<u8>>,
    until: Option<WallTime>,
}

/// A signature that was found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof {
    /// The one MAC of this request.
    pub mac: [u8; 32],
    /// When it will be too old, where the time is signed: until then the same again is a replay.
    pub until: Option<WallTime>,
}

impl Claims {
    /// Reads the fields of a request, for every one who may have signed it. One claim is enough to go on.
    pub fn read(webhooks: &[Webhook], fields: &HeaderMap, now: WallTime) -> Result<Self, Unsigned> {
        let (mut all, mut best) = (Vec::new(), Unsigned::Absent);
        for webhook in webhooks {
            match claim(webhook, fields, now) {
                Ok(claim) => all.push(claim),
                Err(why) => best = best.max(why),
            }
        }
        match all.is_empty() {
            true => Err(best),
            false => Ok(Self(all)),
        }
    }

    /// Compares them with what the body comes to.
    pub fn prove(&self, body: &[u8]) -> Result<Proof, Unsigned> {
        for claim in &self.0 {
            let mut context = hmac::Context::with_key(&claim.key);
            context.update(&claim.prefix);
            context.update(body);
            let tag = context.sign();
            let fits =
                |said: &Vec<u8>| constant_time::verify_slices_are_equal(tag.as_ref(), said).is_ok();
            if claim.signatures.iter().any(fits) {
                let mac = tag.as_ref().try_into().expect("SHA-256 gives 32 bytes");
                let until = claim.until;
                return Ok(Proof { mac, until });
            }
        }
        Err(Unsigned::Wrong)
    }
}

fn claim(webhook: &Webhook, fields: &HeaderMap, now: WallTime) -> Result<Claim, Unsigned> {
    let (prefix, signatures, until) = match webhook.kind {
        WebhookKind::Github => {
            let said = one(fields, "x-hub-signature-256")?;
            let hex = said.strip_prefix("sha256=").ok_or(Unsigned::Malformed)?;
            (Vec::new(), hexes([hex]), None)
        }
        WebhookKind::Stripe => stripe(one(fields, "stripe-signature")?, now)?,
        WebhookKind::Slack => {
            let said = one(fields, "x-slack-signature")?;
            let time = one(fields, "x-slack-request-timestamp")?;
            let hex = said.strip_prefix("v0=").ok_or(Unsigned::Malformed)?;
            let until = fresh(time, now)?;
            (format!("v0:{time}:").into(), hexes([hex]), Some(until))
        }
        WebhookKind::StandardWebhooks => {
            let said = one(fields, "webhook-signature")?;
            let (id, time) = (
                one(fields, "webhook-id")?,
                one(fields, "webhook-timestamp")?,
            );
            let until = fresh(time, now)?;
            // Others, such as v1a, are signed with a key that is not shared.
            let ours = said.split(' ').filter_map(|one| one.strip_prefix("v1,"));
            let signatures = ours.filter_map(|text| base64(text.as_bytes())).collect();
            (format!("{id}.{time}.").into(), signatures, Some(until))
        }
    };
    if signatures.is_empty() {
        return Err(Unsigned::Malformed);
    }
    let key = webhook.key();
    Ok(Claim {
        key,
        prefix,
        signatures,
        until,
    })
}

/// What is signed before the body, the signatures, and until when they hold.
type Read = (Vec<u8>, Vec<Vec<u8>>, Option<WallTime>);

/// `t=…,v1=…`, with any number of `v1` and of what is not for us.
fn stripe(said: &str, now: WallTime) -> Result<Read, Unsigned> {
    let pairs = said
        .split(',')
        .filter_map(|pair| pair.trim().split_once('='));
    let (mut times, mut signatures) = (Vec::new(), Vec::new());
    for (name, value) in pairs {
        match name {
            "t" => times.push(value),
            "v1" => signatures.push(value),
            _ => {}
        }
    }
    let [time] = times[..] else {
        return Err(Unsigned::Malformed);
    };
    let until = fresh(time, now)?;
    Ok((format!("{time}.").into(), hexes(signatures), Some(until)))
}

/// The one value of a field. Which of two was signed nobody can tell.
fn one<'f>(fields: &'f HeaderMap, name: &str) -> Result<&'f str, Unsigned> {
    let mut all = fields.get_all(name).iter();
    let first = all.next().ok_or(Unsigned::Absent)?;
    let text = HeaderValue::to_str(first).map_err(|_| Unsigned::Malformed)?;
    match all.next() {
        None => Ok(text),
        Some(_) => Err(Unsigned::Malformed),
    }
}

/// Whether a time in unix seconds is about now, and until when it will be.
fn fresh(seconds: &str, now: WallTime) -> Result<WallTime, Unsigned> {
    let digits = seconds.bytes().all(|b| b.is_ascii_digit());
    let number = seconds.parse::<i64>().ok().filter(|_| digits);
    let millis = number.and_then(|number| number.checked_mul(1000));
    let said = WallTime::from_millis(millis.ok_or(Unsigned::Malformed)?);
    match now.since(said).max(said.since(now)) <= TOLERANCE {
        true => Ok(said.plus(TOLERANCE)),
        false => Err(Unsigned::Stale),
    }
}

fn hexes<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<Vec<u8>> {
    let decode = |text: &str| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    texts.into_iter().filter_map(decode).collect()
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
