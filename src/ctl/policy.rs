//! From the flags of a policy to its document, and `set`. Secrets come from files, never from the command
//! line, where everybody on this machine can read them; a password never leaves this process, only its hash.

use std::io::Read as _;

use serde::Serialize;
use serde_json::Value;

use super::error::CtlError;
use super::policy_args::{LifeFlags, PolicyFlags, SetArgs};
use super::text::clean;
use super::{Cli, domains};
use crate::admin::ApiClient;
use crate::admin::types::{LifeChange, PolicyAsk, TunnelJson};
use crate::engine::policy::{
    HeaderWords, LimitWords, POLICY_MAX, Policy, PolicyWords, WebhookKind, webhook_source,
};
use crate::names::Kind;
use crate::secret::{self, Secret, password};

/// Who a made-up password is for.
const GUEST: &str = "guest";
/// The most bytes of a file with a secret.
const SECRET_MAX: u64 = 8 * 1024;

/// What the flags mean.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// The document; none when no flag says anything of it.
    pub(super) policy: Option<Policy>,
    /// The parts that it is about; empty: all.
    pub(super) parts: Vec<&'static str>,
    /// What was made up.
    pub(super) made: Option<Credentials>,
}

/// A user and the password that was made up for them: shown once.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) user: &'static str,
    pub(super) password: Secret<String>,
}

impl Credentials {
    fn new() -> Result<Self, CtlError> {
        let password = Secret::new(password::spelled(random()?));
        Ok(Self {
            user: GUEST,
            password,
        })
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        format!("  log in as {}:{}", self.user, self.password.expose())
    }
}

/// Reads the files that the flags name and puts everything together.
pub(super) fn compile(cli: &Cli, flags: &PolicyFlags) -> Result<Compiled, CtlError> {
    let mut words = words_of(flags);
    let mut made = None;
    for text in &flags.auth {
        let (user, secret) = match auth_of(text)? {
            Some((user, file)) => (user, secret(cli, file)?),
            None if made.is_some() => {
                return Err(CtlError::usage(
                    "--auth without a value is given twice",
                    "one password is made up; give other users as --auth USER:@FILE",
                ));
            }
            None => {
                let new = Credentials::new()?;
                let secret = new.password.clone();
                made = Some(new);
                (GUEST, secret)
            }
        };
        let hash = password::hash(secret.expose(), random()?);
        words.auth.push((user.to_owned(), hash));
    }
    for text in &flags.verify_webhook {
        let (kind, file) = webhook_of(text)?;
        words.webhook.push((kind, secret(cli, file)?));
    }
    if let Some(text) = &flags.policy {
        words.base = Some(whole(cli, text)?);
    }
    if words.is_empty() {
        return Ok(Compiled::default());
    }
    let policy = words.compile().map_err(|err| {
        CtlError::usage(
            err.to_string(),
            "mend what is named; wormkeyctl open --help tells what to write",
        )
    })?;
    let parts = match words.base {
        Some(_) => Vec::new(),
        None => words.parts(),
    };
    Ok(Compiled {
        policy: Some(policy),
        parts,
        made,
    })
}

/// Refuses what only http has before anybody is asked.
pub(super) fn check_kind(kind: Kind, policy: Option<&Policy>) -> Result<(), CtlError> {
    if kind == Kind::Http || !policy.is_some_and(Policy::needs_http) {
        return Ok(());
    }
    Err(CtlError::usage(
        format!("a {kind} tunnel has networks and limits only; it carries bytes, not requests"),
        "leave the other flags out, or write http://host:port",
    ))
}

fn words_of(flags: &PolicyFlags) -> PolicyWords {
    PolicyWords {
        base: None,
        auth: Vec::new(),
        allow: flags.allow.clone(),
        deny: flags.deny.clone(),
        methods: flags.allow_method.clone(),
        allow_paths: flags.allow_path.clone(),
        deny_paths: flags.deny_path.clone(),
        share: flags.share,
        tunnel: LimitWords {
            rate: flags.rate.clone(),
            burst: flags.burst,
            concurrency: flags.concurrency,
            bandwidth: flags.bandwidth.clone(),
        },
        visitor: LimitWords {
            rate: flags.visitor_rate.clone(),
            burst: flags.visitor_burst,
            concurrency: flags.visitor_concurrency,
            bandwidth: flags.visitor_bandwidth.clone(),
        },
        request_headers: HeaderWords {
            set: flags.set_request_header.clone(),
            remove: flags.remove_request_header.clone(),
        },
        response_headers: HeaderWords {
            set: flags.set_response_header.clone(),
            remove: flags.remove_response_header.clone(),
        },
        secure_headers: flags.secure_headers.clone(),
        cors: flags.cors.clone(),
        webhook: Vec::new(),
        cookie_domain: flags.allow_cookie_domain,
        shadow: flags.shadow.clone(),
    }
}

/// `user:@FILE`, or nothing. What else stands there may be a password: it is not repeated.
fn auth_of(text: &str) -> Result<Option<(&str, &str)>, CtlError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.split_once(':') {
        Some((user, file)) if file.len() > 1 && file.starts_with('@') => {
            Ok(Some((user, &file[1..])))
        }
        Some(_) => Err(CtlError::usage(
            "--auth takes no password: everybody on this machine can read the command line",
            "write the password to a file that only you may read, and give --auth USER:@FILE",
        )),
        None => Err(CtlError::usage(
            format!("--auth {text:?} names no file"),
            "give --auth USER:@FILE; or --auth alone, after the target, and a password is made up",
        )),
    }
}

fn webhook_of(text: &str) -> Result<(WebhookKind, &str), CtlError> {
    webhook_source(text).ok_or_else(|| {
        CtlError::usage(
            "--verify-webhook takes who signs and a file with the secret",
            "give github:@FILE, stripe:@FILE, slack:@FILE or standard-webhooks:@FILE",
        )
    })
}

/// The first line of a file.
fn secret(cli: &Cli, path: &str) -> Result<Secret<String>, CtlError> {
    let file = cli.io.current_dir.join(path);
    let text = secret::file::read(&file, SECRET_MAX).map_err(|err| CtlError::Read {
        what: path.to_owned(),
        err,
    })?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(CtlError::usage(
            format!("{path} has no first line"),
            "write the secret to it, as one line",
        ));
    }
    Ok(Secret::new(line.to_owned()))
}

fn whole(cli: &Cli, text: &str) -> Result<Policy, CtlError> {
    let Some(path) = text.strip_prefix('@') else {
        return Err(CtlError::usage(
            "--policy takes a file",
            "give --policy @FILE",
        ));
    };
    let most = u64::try_from(POLICY_MAX).unwrap_or(u64::MAX);
    Policy::parse(&read(cli, path, most + 1)?).map_err(|err| {
        CtlError::usage(
            format!("{path}: {err}"),
            "mend what is named; wormkeyctl open … --print-policy shows what one looks like",
        )
    })
}

fn read(cli: &Cli, path: &str, most: u64) -> Result<String, CtlError> {
    let failed = |err| CtlError::Read {
        what: path.to_owned(),
        err,
    };
    let file = std::fs::File::open(cli.io.current_dir.join(path)).map_err(failed)?;
    let mut text = String::new();
    file.take(most).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn random<const N: usize>() -> Result<[u8; N], CtlError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| CtlError::System(std::io::Error::other("it gave no random numbers")))?;
    Ok(bytes)
}

/// A tunnel's document with what was made up for it.
pub(super) fn document(tunnel: &TunnelJson, made: Option<&Credentials>) -> Result<Value, CtlError> {
    let broken = |err: serde_json::Error| CtlError::Output(err.into());
    let mut document = serde_json::to_value(tunnel).map_err(broken)?;
    if let Some(made) = made {
        #[derive(Serialize)]
        struct Shown<'a> {
            user: &'a str,
            password: &'a str,
        }
        let shown = Shown {
            user: made.user,
            password: made.password.expose(),
        };
        document["credentials"] = serde_json::to_value(shown).map_err(broken)?;
    }
    Ok(document)
}

/// `set`: puts the parts that the flags name in force, and takes others away.
pub(super) async fn set(cli: &mut Cli, args: SetArgs) -> Result<(), CtlError> {
    let compiled = compile(cli, &args.policy)?;
    let whole = args.without.no_policy || args.policy.policy.is_some();
    let mut parts = compiled.parts;
    let gone = args.without.parts();
    let moves = !args.domains.is_empty() || !args.remove_domains.is_empty();
    let life = life_of(&args.life);
    let stays = compiled.policy.is_none() && gone.is_empty() && !whole;
    if stays && life.is_empty() {
        if moves {
            let set = domains::set(cli, &args.tunnel, args.domains, args.remove_domains).await?;
            return tell_set(cli, &set, None);
        }
        return Err(CtlError::usage(
            "there is nothing to change",
            "give a flag, such as --auth, --allow 203.0.113.0/24, --no-share, --expires 2h or --domain app.example.org",
        ));
    }
    if whole && !gone.is_empty() {
        return Err(CtlError::usage(
            "a whole policy and single things to take away cannot go together",
            "leave one of them out",
        ));
    }
    if args.without.no_policy && !parts.is_empty() {
        // What the other flags say is all that is left.
        parts = Vec::new();
    }
    let limits = |part: &&str| part.starts_with("limits.");
    if args.without.no_limits && parts.iter().any(limits) {
        // First everything goes, then what is given stands alone.
        parts.retain(|part| !limits(part));
    }
    if args.without.no_headers {
        parts.retain(|part| !part.contains("_headers."));
    }
    parts.extend(gone);
    let ask = PolicyAsk {
        policy: (!stays).then(|| compiled.policy.unwrap_or_default()),
        life,
        parts: parts.into_iter().map(str::to_owned).collect(),
    };
    if moves {
        domains::set(cli, &args.tunnel, args.domains, args.remove_domains).await?;
    }
    let path = ApiClient::path("/v1/tunnels/", &args.tunnel);
    let tunnel: TunnelJson = cli
        .api
        .patch(&path, &ask)
        .await
        .map_err(|err| cli.failed(err))?;
    tell_set(cli, &tunnel, compiled.made.as_ref())
}

fn tell_set(
    cli: &mut Cli,
    tunnel: &TunnelJson,
    made: Option<&Credentials>,
) -> Result<(), CtlError> {
    if cli.json {
        return cli.document(&document(tunnel, made)?);
    }
    let name = tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string());
    cli.line(&format!("changed {}", clean(&name)))?;
    for line in domains::lines(&tunnel.domains, &cli.times()) {
        cli.line(&format!("  {line}"))?;
    }
    tell_made(cli, made)
}

fn life_of(flags: &LifeFlags) -> LifeChange {
    let labels = !flags.labels.is_empty() || flags.no_labels;
    LifeChange {
        expires: flags.expires.clone(),
        idle: flags.idle.clone(),
        hold: flags.hold.clone(),
        labels: labels.then(|| flags.labels.iter().cloned().collect()),
    }
}

/// What was made up, this once.
pub(super) fn tell_made(cli: &mut Cli, made: Option<&Credentials>) -> Result<(), CtlError> {
    let Some(made) = made else {
        return Ok(());
    };
    cli.line(&made.line())?;
    cli.hint("the password is not shown again");
    Ok(())
}

/// What a policy comes to, for people: a line for each thing that is there.
pub(super) fn facts(policy: &Value) -> Vec<(&'static str, String)> {
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut facts = Vec::new();
    let mut tell = |name, words: Vec<String>| {
        if !words.is_empty() {
            facts.push((name, words.join(", ")));
        }
    };
    let users = policy["auth"].as_array().into_iter().flatten();
    let users = users.filter_map(|user| user["user"].as_str());
    tell("log in as", users.map(str::to_owned).collect());
    let share = policy["share"].as_str().map(str::to_owned);
    tell("share links", share.into_iter().collect());
    for (name, part) in [
        ("only from", "allow"),
        ("not from", "deny"),
        ("methods", "methods"),
        ("only paths", "allow_paths"),
        ("not paths", "deny_paths"),
    ] {
        tell(name, texts(&policy[part]));
    }
    tell("limits", limit_words(&policy["limits"]["tunnel"]));
    tell("each visitor", limit_words(&policy["limits"]["visitor"]));
    let others = [
        ("request_headers", "request fields"),
        ("response_headers", "response fields"),
        ("secure_headers", "security fields"),
        ("cors", "cors"),
        ("webhook", "webhook signatures"),
        ("cookie_domain", "cookies of the domain"),
    ];
    let others = others.iter().filter(|(part, _)| !policy[part].is_null());
    tell(
        "rules for",
        others.map(|(_, name)| (*name).to_owned()).collect(),
    );
    tell("only told", texts(&policy["shadow"]));
    facts
}

fn limit_words(limit: &Value) -> Vec<String> {
    let rate = limit["rate"].as_str().map(str::to_owned);
    let most = limit["concurrency"]
        .as_u64()
        .map(|n| format!("{n} at once"));
    let bytes = limit["bandwidth"].as_u64();
    let bytes = bytes.map(|n| format!("{n} bytes a second"));
    rate.into_iter().chain(most).chain(bytes).collect()
}
