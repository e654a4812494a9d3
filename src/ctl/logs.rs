//! `logs`: the visits that the client remembers, and with `-f` those that end from now on, until a signal.
//! A daemon that restarts is waited for.

use std::time::Duration;

use serde_json::json;

use super::Cli;
use super::args::LogsArgs;
use super::error::CtlError;
use super::io::Signals;
use super::text;
use crate::admin::types::{EventJson, TunnelJson, VisitJson, VisitPage};
use crate::admin::{ApiClient, EventReader};

/// Between two tries to reach a daemon that is away.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn logs(cli: &mut Cli, args: LogsArgs) -> Result<(), CtlError> {
    let mut signals = match args.follow {
        true => Some(Signals::listen(&mut cli.io).map_err(CtlError::System)?),
        false => None,
    };
    let slug = match &args.tunnel {
        Some(key) => Some(slug_of(cli, key).await?),
        None => None,
    };
    let mut path = format!("/v1/visits?limit={}", args.limit.unwrap_or(100));
    if let Some(slug) = &slug {
        path.push_str(&format!("&tunnel={slug}"));
    }
    let page: VisitPage = cli.api.get(&path).await.map_err(|err| cli.failed(err))?;
    let show = Show { slug };
    let Some(signals) = &mut signals else {
        if cli.json {
            return cli.document(&json!({ "visits": page.visits }));
        }
        if page.visits.is_empty() {
            cli.hint("no visit yet, or none that is remembered; see those to come with -f");
        }
        return page
            .visits
            .iter()
            .try_for_each(|visit| show.visit(cli, visit));
    };
    for visit in page.visits {
        show.event(cli, EventJson::Visit(visit))?;
    }
    let mut events = Follow {
        api: cli.api.clone(),
        last: page.last,
        reader: None,
        away: false,
    };
    loop {
        let seen = tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            seen = events.next() => seen,
        };
        match seen {
            Seen::Event(event) => show.event(cli, *event)?,
            Seen::Away => cli.hint("the daemon is away; waiting for it"),
            Seen::Back => cli.hint("the daemon is back"),
        }
    }
}

/// Visits carry the name only.
async fn slug_of(cli: &Cli, key: &str) -> Result<String, CtlError> {
    let path = ApiClient::path("/v1/tunnels/", key);
    let found: TunnelJson = cli.api.get(&path).await.map_err(|err| cli.failed(err))?;
    Ok(found.slug.unwrap_or_else(|| key.to_owned()))
}

/// Which visits are shown, and how.
struct Show {
    slug: Option<String>,
}

impl Show {
    fn event(&self, cli: &mut Cli, event: EventJson) -> Result<(), CtlError> {
        match &event {
            EventJson::Visit(visit) if self.wants(visit) => match cli.json {
                true => cli.document(&event),
                false => self.visit(cli, visit),
            },
            EventJson::Visit(_) | EventJson::Tunnel(_) | EventJson::Link(_) => Ok(()),
        }
    }

    fn wants(&self, visit: &VisitJson) -> bool {
        self.slug.as_ref().is_none_or(|slug| *slug == visit.slug)
    }

    /// With its tunnel's name, unless that was asked for.
    fn visit(&self, cli: &mut Cli, visit: &VisitJson) -> Result<(), CtlError> {
        let line = text::visit(visit, &cli.times(), cli.style);
        match self.slug {
            Some(_) => cli.line(&line),
            None => cli.line(&format!("{}  {line}", text::clean_short(&visit.slug))),
        }
    }
}

/// What a follower notices.
enum Seen {
    Event(Box<EventJson>),
    Away,
    Back,
}

/// The events after the last that was seen.
struct Follow {
    api: ApiClient,
    last: u64,
    reader: Option<EventReader>,
    away: bool,
}

impl Follow {
    /// Cancel safe: what is under way when it is dropped is begun again.
    async fn next(&mut self) -> Seen {
        loop {
            if let Some(reader) = &mut self.reader {
                if let Ok(Some((id, event))) = reader.next().await {
                    self.last = id;
                    return Seen::Event(Box::new(event));
                }
                self.reader = None;
            } else if let Ok(reader) = self.api.events(Some(self.last)).await {
                self.reader = Some(reader);
                if std::mem::take(&mut self.away) {
                    return Seen::Back;
                }
                continue;
            }
            if !std::mem::replace(&mut self.away, true) {
                return Seen::Away;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
