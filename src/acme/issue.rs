//! One certificate from one CA, from the account to the chain: order, proofs, request, download. Not when
//! or how often: that is the keeper's, by `plan`.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::challenges::{ChallengeError, Challenges, Showing};
use super::dns::{Dns, DnsError, Placed};
use super::folder::{Folder, FolderError, Pair, PairError};
use super::http::{Carrier, HttpError, Wish, client_config};
use super::plan::{Blame, Failure, Proof, Window, proof};
use super::x509::Facts;
use crate::names::Hostname;
use crate::times::WallTime;

/// For the proofs of one order, hooks and waits and the CA's looking included.
const PROVE_WITHIN: Duration = Duration::from_secs(1200);
/// For the CA to look, and to sign.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CertName {
    pub(super) host: Hostname,
    pub(super) is_wildcard: bool,
}

impl std::fmt::Display for CertName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let star = if self.is_wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.host)
    }
}

/// What every order needs.
pub(super) struct Issuer {
    pub(super) cas: Vec<String>,
    pub(super) root: Option<PathBuf>,
    pub(super) email: Option<String>,
    pub(super) folder: Folder,
    pub(super) challenges: Arc<Challenges>,
    pub(super) dns: Option<Dns>,
    /// How long others take to learn of a record.
    pub(super) dns_wait: Duration,
    pub(super) stop: CancellationToken,
}

/// What is wanted.
pub(super) struct Wanted {
    pub(super) names: Vec<CertName>,
    /// How they can be proven, in our order.
    pub(super) proofs: Vec<Proof>,
    pub(super) ca: usize,
    /// How often all CAs have failed already.
    pub(super) rounds: u32,
    /// The certificate that this one follows.
    pub(super) replaces: Option<Facts>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error(transparent)]
    Http(#[from] HttpError),
    // Its causes are in its text already.
    #[error("{step}: {}", problem(.error))]
    Acme {
        step: &'static str,
        error: instant_acme::Error,
    },
    #[error("the CA could not see the proof ({proof}) for {name}: {why}")]
    Unproven {
        name: String,
        proof: &'static str,
        why: String,
    },
    #[error("the order failed and the CA does not say why")]
    Invalid,
    #[error("the CA asks for {offered} for {name}, which cannot be given here")]
    NoProof { name: String, offered: String },
    #[error("making the record for {name}")]
    Dns {
        name: String,
        #[source]
        source: DnsError,
    },
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    #[error("making the request")]
    Request(#[from] rcgen::Error),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the CA's answer is no certificate for us")]
    Pair(#[from] PairError),
    #[error("the proofs took longer than {} minutes", PROVE_WITHIN.as_secs() / 60)]
    Late,
    #[error("the daemon stops")]
    Stopped,
}

/// A CA's own words without the crate's wrapping.
fn problem(error: &instant_acme::Error) -> String {
    match error {
        instant_acme::Error::Api(problem) => said(problem),
        other => chain(other),
    }
}

fn said(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    let detail = problem.detail.as_deref().unwrap_or("no reason given");
    let parts = problem
        .subproblems
        .iter()
        .filter_map(|part| part.detail.as_deref());
    let mut text = format!("{detail} ({kind})");
    for part in parts {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

/// An error with its causes, as one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

impl IssueError {
    fn at(step: &'static str) -> impl Fn(instant_acme::Error) -> Self {
        move |error| Self::Acme { step, error }
    }

    /// The kind of a CA's refusal: `rateLimited`.
    fn kind(&self) -> Option<&str> {
        match self {
            Self::Acme {
                error: instant_acme::Error::Api(problem),
                ..
            } => problem.r#type.as_deref()?.rsplit(':').next(),
            _ => None,
        }
    }

    /// Whose fault it was.
    pub(super) fn blame(&self) -> Blame {
        use instant_acme::Error as E;
        match self {
            Self::Http(HttpError::Root { .. }) => Blame::Ours,
            Self::Http(_) => Blame::Unreachable,
            Self::Acme { error, .. } => match error {
                E::Api(problem) if problem.status.is_some_and(|status| status >= 500) => {
                    Blame::Unreachable
                }
                // A nonce that was not taken is a slip of the CA's.
                E::Api(_) if self.kind() == Some("badNonce") => Blame::Unreachable,
                // What is not ACME's JSON comes from something in between.
                E::Other(_) | E::Json(_) | E::Timeout(_) | E::Http(_) => Blame::Unreachable,
                _ => Blame::Refused,
            },
            Self::Unproven { .. } | Self::Invalid | Self::NoProof { .. } | Self::Pair(_) => {
                Blame::Refused
            }
            Self::Dns { .. }
            | Self::Challenge(_)
            | Self::Request(_)
            | Self::Folder(_)
            | Self::Late
            | Self::Stopped => Blame::Ours,
        }
    }
}

/// What a CA says about a certificate's renewal.
pub(super) struct Suggestion {
    pub(super) window: Window,
    /// When to ask again.
    pub(super) again: Duration,
}

impl Issuer {
    /// Gets a certificate, and puts it on disk.
    pub(super) async fn issue(
        &self,
        id: &str,
        wanted: &Wanted,
    ) -> Result<Pair, (IssueError, Failure)> {
        let wish = Wish::default();
        self.try_issue(id, wanted, &wish).await.map_err(|error| {
            let failure = Failure {
                blame: error.blame(),
                retry_after: wish.get(),
            };
            (error, failure)
        })
    }

    /// Asks when the CA wishes a certificate to be renewed; none when it has no wishes.
    pub(super) async fn suggestion(
        &self,
        ca: usize,
        facts: &Facts,
    ) -> Result<Option<Suggestion>, IssueError> {
        let Some(id) = facts.ari_id() else {
            return Ok(None);
        };
        let account = self.account(&self.cas[ca], &Wish::default()).await?;
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let at = |seconds: i64| WallTime::from_millis(seconds.saturating_mul(1000));
                let window = Window {
                    start: at(info.suggested_window.start.unix_timestamp()),
                    end: at(info.suggested_window.end.unix_timestamp()),
                };
                Ok(Some(Suggestion { window, again }))
            }
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(IssueError::at("asking for the renewal window")(error)),
        }
    }

    async fn try_issue(&self, id: &str, wanted: &Wanted, wish: &Wish) -> Result<Pair, IssueError> {
        let mut order = self.unless_stopped(self.begin(wanted, wish)).await?;
        self.prove(&mut order, wanted).await?;
        self.unless_stopped(self.finish(order, id, wanted)).await
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, IssueError>>,
    ) -> Result<T, IssueError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(IssueError::Stopped),
            done = work => done,
        }
    }

    async fn begin(&self, wanted: &Wanted, wish: &Wish) -> Result<Order, IssueError> {
        let ca = &self.cas[wanted.ca];
        let account = self.account(ca, wish).await?;
        match self.order(&account, wanted).await {
            // A CA that was set up anew; accounts cost nothing.
            Err(error) if error.kind() == Some("accountDoesNotExist") => {
                self.folder.put_account_aside(ca)?;
                let account = self.account(ca, wish).await?;
                self.order(&account, wanted).await
            }
            order => order,
        }
    }

    async fn finish(
        &self,
        mut order: Order,
        id: &str,
        wanted: &Wanted,
    ) -> Result<Pair, IssueError> {
        let key = rcgen::KeyPair::generate()?;
        let names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        let step = IssueError::at("asking for the certificate");
        order.finalize_csr(request.der()).await.map_err(&step)?;
        let chain = order.poll_certificate(&POLL).await.map_err(&step)?;
        let pem = format!("{}\n{}", chain.trim_end(), key.serialize_pem());
        let pair = Pair::from_pem(&pem)?;
        let (folder, id) = (self.folder.clone(), id.to_owned());
        blocking(move || folder.keep_certificate(&id, &pem)).await?;
        Ok(pair)
    }

    /// Our account with a CA, made at first use.
    async fn account(&self, ca: &str, wish: &Wish) -> Result<Account, IssueError> {
        let root = self.root.clone();
        let tls = blocking(move || client_config(root.as_deref())).await?;
        let carrier = Carrier {
            tls,
            wish: wish.clone(),
        };
        let builder = Account::builder_with_http(Box::new(carrier));
        if let Some(known) = self.folder.account(ca)? {
            let step = IssueError::at("asking the CA what it offers");
            return builder.from_credentials(known).await.map_err(step);
        }
        let contact = self.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let made = builder.create(&new, ca.to_owned(), None).await;
        let (account, credentials) = made.map_err(IssueError::at("making an account"))?;
        let (folder, ca) = (self.folder.clone(), ca.to_owned());
        blocking(move || folder.keep_account(&ca, &credentials)).await?;
        Ok(account)
    }

    async fn order(&self, account: &Account, wanted: &Wanted) -> Result<Order, IssueError> {
        let identifiers: Vec<Identifier> = (wanted.names.iter())
            .map(|name| Identifier::Dns(name.to_string()))
            .collect();
        let step = IssueError::at("making an order");
        let Some(replaced) = wanted.replaces.as_ref().and_then(Facts::ari_id) else {
            let order = account.new_order(&NewOrder::new(&identifiers)).await;
            return order.map_err(step);
        };
        let following = NewOrder::new(&identifiers).replaces(replaced);
        match account.new_order(&following).await.map_err(&step) {
            // Told apart from what a CA thinks of the order itself: it may not know the old one, have it
            // replaced already, or know of no such thing.
            Err(error)
                if error.blame() == Blame::Refused
                    && !matches!(error.kind(), Some("rateLimited" | "accountDoesNotExist")) =>
            {
                debug!(%error, "order not taken as a renewal, asking anew");
                let order = account.new_order(&NewOrder::new(&identifiers)).await;
                order.map_err(step)
            }
            order => order,
        }
    }

    /// Proves every name; whatever stood for it is taken away again.
    async fn prove(&self, order: &mut Order, wanted: &Wanted) -> Result<(), IssueError> {
        let mut shown = Shown::default();
        let proven = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(IssueError::Stopped),
            proven = timeout(PROVE_WITHIN, self.show_and_wait(order, wanted, &mut shown)) => {
                proven.unwrap_or(Err(IssueError::Late))
            }
        };
        if let Some(dns) = &self.dns {
            shown.clear_away(dns).await;
        }
        proven
    }

    async fn show_and_wait(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        shown: &mut Shown,
    ) -> Result<(), IssueError> {
        self.show(order, wanted, shown).await?;
        if self.dns.as_ref().is_some_and(Dns::spreads) && !shown.placed.is_empty() {
            tokio::time::sleep(self.dns_wait).await;
        }
        let step = IssueError::at("telling the CA to look");
        let mut proofs = shown.proofs.iter();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(&step)?;
            let Some(Some(proof)) = proofs.next() else {
                continue;
            };
            if let Some(mut challenge) = authorization.challenge(kind_of(*proof)) {
                challenge.set_ready().await.map_err(&step)?;
            }
        }
        match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) | Err(instant_acme::Error::Api(_)) => Err(why_invalid(order).await),
            Err(error) => Err(IssueError::at("waiting for the CA to look")(error)),
        }
    }

    /// Puts up what the CA will look for.
    async fn show(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        shown: &mut Shown,
    ) -> Result<(), IssueError> {
        let step = IssueError::at("asking what to prove");
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(&step)?;
            if authorization.status == AuthorizationStatus::Valid {
                shown.proofs.push(None);
                continue;
            }
            let name = authorization.identifier().to_string();
            let host = name.strip_prefix("*.").unwrap_or(&name);
            let offered: Vec<Proof> = authorization
                .challenges
                .iter()
                .filter_map(|challenge| proof_of(&challenge.r#type))
                .collect();
            let proof = proof(&wanted.proofs, &offered, wanted.rounds);
            let (Some(proof), Ok(host)) = (proof, Hostname::parse(host)) else {
                let names: Vec<_> = offered.iter().map(|proof| proof.name()).collect();
                return Err(IssueError::NoProof {
                    name,
                    offered: names.join(" or "),
                });
            };
            let challenge = authorization.challenge(kind_of(proof));
            let challenge = challenge.expect("it was among those offered");
            let key = challenge.key_authorization();
            shown.proofs.push(Some(proof));
            match proof {
                Proof::Http => {
                    let text = self
                        .challenges
                        .show_text(&host, &challenge.token, key.as_str());
                    shown.showing.push(text);
                }
                Proof::TlsAlpn => {
                    let digest = key.digest();
                    let shows = self.challenges.show_certificate(&host, digest.as_ref())?;
                    shown.showing.push(shows);
                }
                Proof::Dns => {
                    let dns = self.dns.as_ref().ok_or_else(|| IssueError::NoProof {
                        name: name.clone(),
                        offered: proof.name().to_owned(),
                    })?;
                    let placed = dns.record(&host, &key.dns_value());
                    let made = shown.place(dns, &name, placed).await;
                    made.map_err(|source| IssueError::Dns { name, source })?;
                }
            }
        }
        Ok(())
    }
}

/// What was put up for an order.
#[derive(Default)]
struct Shown {
    /// For each authorization, in their order; none for one that is valid already.
    proofs: Vec<Option<Proof>>,
    showing: Vec<Showing>,
    placed: Vec<(String, Placed)>,
}

impl Shown {
    /// Makes a record, remembered whatever comes of it: it may be made and the making be cut short.
    async fn place(&mut self, dns: &Dns, name: &str, placed: Placed) -> Result<(), DnsError> {
        self.placed.push((name.to_owned(), placed));
        let (_, placed) = self.placed.last().expect("it was just put there");
        dns.place(placed).await
    }

    /// Takes the records away.
    async fn clear_away(self, dns: &Dns) {
        for (name, placed) in self.placed {
            if let Err(error) = dns.remove(placed).await {
                warn!(%name, error = %chain(&error), "a proof's record was not taken away");
            }
        }
    }
}

/// What the CA saw instead.
async fn why_invalid(order: &mut Order) -> IssueError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let failed = (authorization.challenges.iter()).find_map(|challenge| {
            let problem = challenge.error.as_ref()?;
            Some((proof_of(&challenge.r#type)?, said(problem)))
        });
        if let Some((proof, why)) = failed {
            return IssueError::Unproven {
                name,
                proof: proof.name(),
                why,
            };
        }
    }
    match order.state().error.clone() {
        Some(problem) => IssueError::at("the CA refused the order")(problem.into()),
        None => IssueError::Invalid,
    }
}

const fn kind_of(proof: Proof) -> ChallengeType {
    match proof {
        Proof::Dns => ChallengeType::Dns01,
        Proof::TlsAlpn => ChallengeType::TlsAlpn01,
        Proof::Http => ChallengeType::Http01,
    }
}

fn proof_of(kind: &ChallengeType) -> Option<Proof> {
    match kind {
        ChallengeType::Dns01 => Some(Proof::Dns),
        ChallengeType::TlsAlpn01 => Some(Proof::TlsAlpn),
        ChallengeType::Http01 => Some(Proof::Http),
        _ => None,
    }
}

/// Work on files, off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_record_whose_making_is_cut_short_is_taken_away_again() {
        let dir = tempfile::tempdir().unwrap();
        let (hook, told) = (dir.path().join("hook"), dir.path().join("told"));
        // It makes the record, and does not come back.
        let text = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n[ $1 = cleanup ] || exec sleep 600\n",
            told.display()
        );
        std::fs::write(&hook, text).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o700)).unwrap();
        let (dns, mut shown) = (Dns::Hook(hook), Shown::default());
        let placed = dns.record(&Hostname::parse("t.example").unwrap(), "abc");
        let lines = || std::fs::read_to_string(&told).unwrap_or_default();
        let made = async {
            while !lines().ends_with('\n') {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            result = shown.place(&dns, "t.example", placed) => panic!("it ended: {result:?}"),
            made = timeout(Duration::from_secs(20), made) => made.expect("the hook runs"),
        }
        shown.clear_away(&dns).await;
        assert_eq!(
            lines(),
            "present _acme-challenge.t.example abc\ncleanup _acme-challenge.t.example abc\n"
        );
    }
}
