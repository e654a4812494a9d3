//! Own domains of this client's tunnels: asked of the server, which has the last word, and kept in the book,
//! so that they are asked for again whenever the tunnel is taken back.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::admin::ApiError;
use crate::admin::domains::{DomainJson, DomainsAsk, RecordJson};
use crate::admin::types::TunnelJson;
use crate::codes::Code;
use crate::engine::book::{BookRow, BookState};
use crate::names::Domain;
use crate::times::WallTime;
use crate::wire::{Capabilities, Control, DomainNews, DomainNote, SetDomains};

use super::Client;
use super::open::{ANSWER_WITHIN, answer_within};
use super::requests::Question;

/// How long a link that is being made is waited for.
const LINK_WITHIN: Duration = Duration::from_secs(5);
/// Domains of one tunnel that a server may tell of.
const TOLD: usize = 64;
/// The longest word of a server that is kept or shown.
const TEXT_MAX: usize = 300;

/// Reads domains as people write them.
pub(super) fn read(texts: &[String]) -> Result<Vec<Domain>, ApiError> {
    let read = |text: &String| {
        Domain::parse(text).map_err(|e| ApiError::new(Code::BadDomain, e.to_string()))
    };
    texts.iter().map(read).collect()
}

impl Client {
    /// A server that knows nothing of own domains would open the tunnel without them.
    pub(super) fn needs_domains(&self) -> Result<(), ApiError> {
        if self.link().is_none() || self.capabilities().has(Capabilities::DOMAINS) {
            return Ok(());
        }
        Err(ApiError::new(
            Code::VersionMismatch,
            "the server is too old for domains of one's own; upgrade it",
        ))
    }

    /// Adds domains to a tunnel, and takes others away.
    pub(super) async fn set_domains(
        self: Arc<Self>,
        key: String,
        ask: DomainsAsk,
    ) -> Result<TunnelJson, ApiError> {
        let (add, remove) = (read(&ask.add)?, read(&ask.remove)?);
        let row = self.living(&key).await?;
        if let Some(unknown) = remove.iter().find(|domain| !row.domains.contains(domain)) {
            let detail = format!("{} has no domain {unknown}", super::name_of(&row));
            return Err(ApiError::new(Code::NotFound, detail));
        }
        let kept = row.domains.iter().filter(|domain| !remove.contains(domain));
        let wish = kept.cloned().chain(add).collect();
        let row = self.put_domains(row, wish).await?;
        Ok(self.book.json(&row, self.link_up()))
    }

    /// The tunnel as it is when the server knows that these domains, and no others, shall lead to it.
    pub(super) async fn put_domains(
        &self,
        row: BookRow,
        wish: Vec<Domain>,
    ) -> Result<BookRow, ApiError> {
        self.link_within(LINK_WITHIN).await?;
        self.needs_domains()?;
        let wish = each_once(wish);
        let (request, answer) = self.requests.ask(Question::Set(row.id));
        let message = Control::SetDomains(SetDomains {
            request,
            tunnel: row.id,
            domains: wish.iter().map(ToString::to_string).collect(),
        });
        let answer = self.ask(request, message, answer)?;
        let set = answer_within(answer, ANSWER_WITHIN, "changing the domains").await?;
        let row = BookRow {
            domains: wish,
            ..set.unwrap_or(row)
        };
        self.book.put(row.clone()).await?;
        Ok(self.book.row(row.id).unwrap_or(row))
    }

    /// The server says how the domains of a tunnel stand.
    pub(super) fn domain_news(&self, mut news: DomainNews) {
        let Some(row) = self.book.row(news.tunnel) else {
            return debug!(tunnel = %news.tunnel, "news of a tunnel that is not here");
        };
        news.domains.truncate(TOLD);
        news.proof = printable(&news.proof);
        self.book.hear_domains(news);
        if row.state == BookState::Open {
            self.tell_tunnel(&row);
        }
    }
}

/// The domains of a tunnel for people, as far as the server has told of them.
pub(super) fn shown(row: &BookRow, news: Option<&DomainNews>) -> Vec<DomainJson> {
    let shown = row.domains.iter().map(|domain| {
        let text = domain.to_string();
        let note = news.and_then(|news| news.domains.iter().find(|note| note.domain == text));
        let record = news.map(|news| RecordJson::txt(domain.challenge(), news.proof.clone()));
        match (note, news) {
            (Some(note), _) => of_note(note, record),
            (None, Some(_)) => DomainJson {
                why: Some("the server does not give it to this tunnel".to_owned()),
                ..unknown(text, "refused", record)
            },
            (None, None) => unknown(text, "unknown", None),
        }
    });
    shown.collect()
}

fn of_note(note: &DomainNote, record: Option<RecordJson>) -> DomainJson {
    DomainJson {
        since: Some(WallTime::from_millis(note.since)),
        missing_since: note.missing_since.map(WallTime::from_millis),
        checked_at: note.looked_at.map(WallTime::from_millis),
        why: note.said.as_deref().map(printable),
        certificate: note.certificate.as_deref().map(printable),
        ..unknown(note.domain.clone(), &printable(&note.state), record)
    }
}

fn unknown(domain: String, state: &str, record: Option<RecordJson>) -> DomainJson {
    DomainJson {
        domain,
        state: state.to_owned(),
        since: None,
        missing_since: None,
        checked_at: None,
        record,
        why: None,
        certificate: None,
    }
}

fn printable(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(TEXT_MAX).collect()
}

fn each_once(domains: Vec<Domain>) -> Vec<Domain> {
    let mut once: Vec<Domain> = Vec::with_capacity(domains.len());
    for domain in domains {
        if !once.contains(&domain) {
            once.push(domain);
        }
    }
    once
}
