//! The flags that say who may visit a tunnel and what it lets through: `open`, `run` and `set` share them.

use clap::Args as ClapArgs;
use clap_complete::ArgValueCandidates as Candidates;

use super::complete;

/// What a tunnel lets through.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Who may visit")]
pub struct PolicyFlags {
    /// Ask visitors for a password (HTTP Basic): of this user, the first line of the file; without a
    /// value one is made up and printed, this once. May be given several times
    #[arg(
        long,
        value_name = "USER:@FILE",
        num_args = 0..=1,
        default_missing_value = "",
        action = clap::ArgAction::Append
    )]
    pub auth: Vec<String>,
    /// Only visitors with a share link come in, or with a password where --auth asks for one
    #[arg(long)]
    pub share: bool,
    /// Only this network may visit; may be given several times
    #[arg(long, value_name = "CIDR")]
    pub allow: Vec<String>,
    /// This network may not visit, whatever is allowed; may be given several times
    #[arg(long, value_name = "CIDR")]
    pub deny: Vec<String>,
    /// Only this method passes; may be given several times
    #[arg(long, value_name = "METHOD")]
    pub allow_method: Vec<String>,
    /// Only this path passes: * is one segment, /** all below; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub allow_path: Vec<String>,
    /// This path does not pass, however it is written; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub deny_path: Vec<String>,
    /// The most visits of all visitors together, such as 50/s, 100/m or 10/h
    #[arg(long, value_name = "N/s")]
    pub rate: Option<String>,
    /// How many of them at once; one second's worth if absent, at least 1
    #[arg(long, value_name = "N", requires = "rate")]
    pub burst: Option<u32>,
    /// The most visits that go on at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: Option<u32>,
    /// The most bytes a second each way, such as 500KB or 5MiB
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// The same as --rate for each visitor address; IPv6 by /64
    #[arg(long, value_name = "N/s")]
    pub visitor_rate: Option<String>,
    /// The same as --burst for each visitor address
    #[arg(long, value_name = "N", requires = "visitor_rate")]
    pub visitor_burst: Option<u32>,
    /// The same as --concurrency for each visitor address
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub visitor_concurrency: Option<u32>,
    /// The same as --bandwidth for each visitor address
    #[arg(long, value_name = "SIZE")]
    pub visitor_bandwidth: Option<String>,
    /// Set a field of requests; may be given several times
    #[arg(long, value_name = "NAME:VALUE", value_parser = field)]
    pub set_request_header: Vec<(String, String)>,
    /// Take a field out of requests; may be given several times
    #[arg(long, value_name = "NAME")]
    pub remove_request_header: Vec<String>,
    /// Set a field of responses; may be given several times
    #[arg(long, value_name = "NAME:VALUE", value_parser = field)]
    pub set_response_header: Vec<(String, String)>,
    /// Take a field out of responses; may be given several times
    #[arg(long, value_name = "NAME")]
    pub remove_response_header: Vec<String>,
    /// Tell browsers to be careful: HSTS, nosniff, frame-ancestors, a referrer policy, and a content
    /// security policy of your choice
    #[arg(
        long,
        value_name = "CSP",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub secure_headers: Option<String>,
    /// Scripts of this origin may read responses, or of *; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// Only requests pass that github, stripe, slack or standard-webhooks signed with the secret in the
    /// first line of the file; the server checks it before the service sees anything. May be given
    /// several times: one that fits is enough, so secrets can be changed without a gap
    #[arg(long, value_name = "KIND:@FILE")]
    pub verify_webhook: Vec<String>,
    /// Let the service set cookies for the domain of all tunnels
    #[arg(long)]
    pub allow_cookie_domain: bool,
    /// Only tell what would be refused, in logs and in the server's log, and let it pass: all, or some of
    /// networks, methods, paths, auth, webhook, limits
    #[arg(
        long,
        value_name = "PARTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        value_delimiter = ','
    )]
    pub shadow: Vec<String>,
    /// All of it as one JSON document; the other flags replace parts of it
    #[arg(long, value_name = "@FILE")]
    pub policy: Option<String>,
}

/// `set`.
#[derive(Debug, ClapArgs)]
pub struct SetArgs {
    /// Its name or id
    #[arg(value_name = "SLUG", value_parser = super::args::tunnel_key, add = Candidates::new(complete::tunnels))]
    pub tunnel: String,
    /// A domain of your own that shall lead to it, too; may be given several times
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = super::args::domain)]
    pub domains: Vec<String>,
    /// A domain of your own that shall not lead to it any more; may be given several times
    #[arg(long = "remove-domain", value_name = "DOMAIN", value_parser = super::args::domain)]
    pub remove_domains: Vec<String>,
    /// How long it lives.
    #[command(flatten)]
    pub life: LifeFlags,
    /// What to put in force.
    #[command(flatten)]
    pub policy: PolicyFlags,
    /// What to take away.
    #[command(flatten)]
    pub without: WithoutFlags,
}

/// What `set` changes beside the rules.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct LifeFlags {
    /// Let it live this long from now on, such as 30m or 8h, or never end
    #[arg(long, value_name = "DURATION", value_parser = super::args::lasting_or_never)]
    pub expires: Option<String>,
    /// Close it after this long without a visit, counted from now, or never
    #[arg(long, value_name = "DURATION", value_parser = super::args::lasting_or_never)]
    pub idle: Option<String>,
    /// Let visits wait this long while this machine is away
    #[arg(long, value_name = "DURATION", value_parser = super::args::duration)]
    pub hold: Option<String>,
    /// Give it this label, and take those away that are not given; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::args::label)]
    pub labels: Vec<(String, String)>,
    /// Take all labels away
    #[arg(long, conflicts_with = "labels")]
    pub no_labels: bool,
}

/// What `set` takes away.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "What to take away")]
pub struct WithoutFlags {
    /// Ask for no password
    #[arg(long, conflicts_with = "auth")]
    pub no_auth: bool,
    /// Ask for no share link
    #[arg(long, conflicts_with = "share")]
    pub no_share: bool,
    /// Let every network visit that is not denied
    #[arg(long, conflicts_with = "allow")]
    pub no_allow: bool,
    /// Deny no network
    #[arg(long, conflicts_with = "deny")]
    pub no_deny: bool,
    /// Let every method pass
    #[arg(long, conflicts_with = "allow_method")]
    pub no_allow_method: bool,
    /// Let every path pass that is not denied
    #[arg(long, conflicts_with = "allow_path")]
    pub no_allow_path: bool,
    /// Deny no path
    #[arg(long, conflicts_with = "deny_path")]
    pub no_deny_path: bool,
    /// Take every limit away, but for the server's own
    #[arg(long)]
    pub no_limits: bool,
    /// Change no field of requests and responses
    #[arg(long)]
    pub no_headers: bool,
    /// Add no security fields
    #[arg(long, conflicts_with = "secure_headers")]
    pub no_secure_headers: bool,
    /// Let no other origin's scripts read responses
    #[arg(long, conflicts_with = "cors")]
    pub no_cors: bool,
    /// Ask for no signature
    #[arg(long, conflicts_with = "verify_webhook")]
    pub no_verify_webhook: bool,
    /// Let the service set no cookies for the domain of all tunnels
    #[arg(long, conflicts_with = "allow_cookie_domain")]
    pub no_allow_cookie_domain: bool,
    /// Refuse again, rather than only tell
    #[arg(long, conflicts_with = "shadow")]
    pub no_shadow: bool,
    /// Take everything away: the tunnel is open to everybody
    #[arg(long, conflicts_with = "policy")]
    pub no_policy: bool,
}

impl WithoutFlags {
    /// The parts of the policy that are taken away.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        let parts: [(bool, &[&'static str]); 14] = [
            (self.no_auth, &["auth"]),
            (self.no_share, &["share"]),
            (self.no_allow, &["allow"]),
            (self.no_deny, &["deny"]),
            (self.no_allow_method, &["methods"]),
            (self.no_allow_path, &["allow_paths"]),
            (self.no_deny_path, &["deny_paths"]),
            (self.no_limits, &["limits"]),
            (self.no_headers, &["request_headers", "response_headers"]),
            (self.no_secure_headers, &["secure_headers"]),
            (self.no_cors, &["cors"]),
            (self.no_verify_webhook, &["webhook"]),
            (self.no_allow_cookie_domain, &["cookie_domain"]),
            (self.no_shadow, &["shadow"]),
        ];
        let gone = parts.iter().filter(|(gone, _)| *gone);
        gone.flat_map(|(_, parts)| parts.iter().copied()).collect()
    }
}

/// `Name: value`.
fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("a field is name:value, such as X-Team:web".to_owned()),
    }
}
