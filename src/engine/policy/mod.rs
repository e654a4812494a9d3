//! What a tunnel lets through: one typed document, kept with the tunnel, and one pure function that decides
//! by it. An empty policy allows everything. Not who counts (`limits`), not what checks passwords or changes
//! header fields (the server role and the edge): they find here what they go by.
//!
//! | file | what it is |
//! |---|---|
//! | `document` | the JSON text, and the way from it to types that cannot be wrong |
//! | `auth`, `cidr`, `paths`, `headers` | those types |
//! | `decide` | [`decide`]: suspended → networks → methods → limits → paths → auth and share |
//! | `rule` | the rule that decided |
//! | `share` | links that let somebody in for a while |
//! | `webhook` | signatures of requests, and whether they hold |
//! | `words` | what people write instead of the document: flags and keys |

mod auth;
mod cidr;
mod decide;
mod document;
mod headers;
mod paths;
mod rule;
pub mod share;
#[cfg(test)]
mod tests;
mod webhook;
mod words;

use std::collections::BTreeSet;

use ::http::Method;

pub use auth::{AuthError, AuthUser, PasswordHash};
pub use cidr::{Cidr, CidrError};
pub use decide::{
    Decision, Facts, HttpFacts, Login, Over, ShareFacts, Verdict, decide, decide_within,
};
pub use document::{PolicyError, PolicyProblem};
pub use headers::{Cors, HeaderRules, SecureHeaders};
pub use paths::{PathPattern, PatternError, Readings, STEPS_MAX};
pub use rule::{Part, RuleId, Scope};
pub use webhook::{Claims, Proof, TOLERANCE, Unsigned, Webhook, WebhookKind};
pub use words::{HeaderWords, LimitWords, PolicyWords, webhook_source};

use super::limits::Limit;

/// The most bytes of a policy's text.
pub const POLICY_MAX: usize = 16 * 1024;

/// What a tunnel lets through. Made from its text by [`Policy::parse`], which checks all of it; lists are
/// sorted where their order means nothing, so equal policies have equal texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pub(super) auth: Vec<AuthUser>,
    pub(super) allow: Vec<Cidr>,
    pub(super) deny: Vec<Cidr>,
    pub(super) methods: Vec<Method>,
    pub(super) allow_paths: Vec<PathPattern>,
    pub(super) deny_paths: Vec<PathPattern>,
    pub(super) share: ShareUse,
    pub(super) tunnel: Limit,
    pub(super) visitor: Limit,
    pub(super) request_headers: HeaderRules,
    pub(super) response_headers: HeaderRules,
    pub(super) secure_headers: Option<SecureHeaders>,
    pub(super) cors: Option<Cors>,
    pub(super) webhook: Vec<Webhook>,
    pub(super) cookie_domain: bool,
    pub(super) shadow: BTreeSet<Part>,
}

/// What share links are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareUse {
    /// Nothing: none are made, and none are looked at.
    #[default]
    Off,
    /// They stand for credentials, where those are asked for.
    Allowed,
    /// Every visit needs one, or credentials.
    Required,
}

impl Policy {
    /// Reads and checks a text; all problems at once.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        document::parse(text)
    }

    /// The one text of this policy.
    pub fn to_text(&self) -> String {
        document::text(self)
    }

    /// The text as it is kept: each secret that signs is what `seal` makes of it.
    pub fn to_kept_text<E>(
        &self,
        seal: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<String, E> {
        document::text_with(self, seal)
    }

    /// The policy of a text that was kept; `open` takes back what `seal` did, or finds that it cannot.
    pub fn parse_kept(
        text: &str,
        open: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, PolicyError> {
        document::parse_with(text, open)
    }

    /// The document as it may be shown: what stands for a password or signs is not in it.
    pub fn shown(&self) -> serde_json::Value {
        document::shown(self)
    }

    /// Whether it allows and leaves everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Who may log in; empty: nobody has to.
    pub fn users(&self) -> &[AuthUser] {
        &self.auth
    }

    /// The user of a name.
    pub fn user(&self, name: &str) -> Option<&AuthUser> {
        self.auth.iter().find(|user| user.name() == name)
    }

    /// Whether a visit over HTTP needs credentials or a share link.
    pub fn asks_who(&self) -> bool {
        !self.auth.is_empty() || self.share == ShareUse::Required
    }

    /// Whether it names anything that only visits over HTTP have.
    pub fn needs_http(&self) -> bool {
        let rest = Self {
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            tunnel: self.tunnel,
            visitor: self.visitor,
            shadow: self.shadow.clone(),
            ..Self::default()
        };
        *self != rest
    }

    /// Whether only named networks pass.
    pub fn allows_only_some(&self) -> bool {
        !self.allow.is_empty()
    }

    /// Whether only few can pass: the networks named leave most of the world out.
    pub fn allows_only_few(&self) -> bool {
        self.allows_only_some() && !cidr::are_most(&self.allow)
    }

    /// What share links are good for.
    pub const fn share(&self) -> ShareUse {
        self.share
    }

    /// The methods that pass; empty: all.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Limits of all visits together.
    pub const fn tunnel_limit(&self) -> Limit {
        self.tunnel
    }

    /// Limits of each visitor address.
    pub const fn visitor_limit(&self) -> Limit {
        self.visitor
    }

    /// What to change about requests.
    pub const fn request_headers(&self) -> &HeaderRules {
        &self.request_headers
    }

    /// What to change about responses.
    pub const fn response_headers(&self) -> &HeaderRules {
        &self.response_headers
    }

    /// Security fields to add to responses.
    pub const fn secure_headers(&self) -> Option<&SecureHeaders> {
        self.secure_headers.as_ref()
    }

    /// Whose scripts may read responses.
    pub const fn cors(&self) -> Option<&Cors> {
        self.cors.as_ref()
    }

    /// Who signs requests; every request carries a signature of one of them. Empty: nobody has to.
    pub fn webhooks(&self) -> &[Webhook] {
        &self.webhook
    }

    /// Whether a visitor over HTTP whom nobody knows is refused. A shadow keeps nobody out.
    pub fn keeps_strangers_out(&self) -> bool {
        let signed = !self.webhook.is_empty() && !self.is_shadow(Part::Webhook);
        signed || (self.asks_who() && !self.is_shadow(Part::Auth))
    }

    /// Whether origins may set cookies for the tunnel domain and above.
    pub const fn cookie_domain(&self) -> bool {
        self.cookie_domain
    }

    /// Whether refusals of a part are only told, not done.
    pub fn is_shadow(&self, part: Part) -> bool {
        self.shadow.contains(&part)
    }

    /// A copy without the parts whose names are given, as the document calls them (`auth`, `allow`,
    /// `limits`, `limits.tunnel.rate`…), and with those of another policy instead: what `set` does.
    pub fn replace(&self, parts: &[&str], with: &Self) -> Result<Self, PolicyError> {
        document::replace(self, parts, with)
    }
}
