//! `--watch`: visits as they end, until a signal or the tunnel's own end. A daemon that restarts is
//! waited for, since its tunnels outlive it.

use std::time::Duration;

use serde_json::json;

use super::Cli;
use super::error::CtlError;
use super::io::Signals;
use super::text;
use crate::admin::types::{EventJson, LinkJson, TunnelJson};
use crate::admin::{ApiClient, CallError, EventReader};
use crate::codes::Code;

/// Between two tries to reach a daemon that is away.
const AGAIN: Duration = Duration::from_secs(1);

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A signal came; the tunnel lives.
    Signal,
    /// The tunnel is over by itself.
    Over,
}

pub(super) async fn until_signal(
    cli: &mut Cli,
    tunnel: &TunnelJson,
    events: EventReader,
    signals: &mut Signals,
) -> Result<End, CtlError> {
    let mut watch = Watch::new(cli, tunnel, events);
    loop {
        let seen = tokio::select! {
            biased;
            _ = signals.next() => return Ok(End::Signal),
            seen = watch.next() => seen,
        };
        match seen {
            Seen::Event(event) => {
                if watch.show(cli, &event)? {
                    return Ok(End::Over);
                }
            }
            Seen::Away => cli.hint("the daemon is away; waiting for it"),
            Seen::Back => cli.hint("the daemon is back"),
            Seen::Gone => {
                cli.hint("the tunnel is over");
                return Ok(End::Over);
            }
        }
    }
}

/// Ends the tunnel and says so; one that is over already is as good. `watched` = events were printed, so
/// with `--json` its end is one, too.
pub(super) async fn close(
    cli: &mut Cli,
    tunnel: &TunnelJson,
    watched: bool,
) -> Result<(), CtlError> {
    let path = ApiClient::path("/v1/tunnels/", &tunnel.id.to_string());
    match cli.api.delete::<TunnelJson>(&path).await {
        Ok(_) if cli.json && !watched => Ok(()),
        Ok(closed) if cli.json => {
            cli.document(&json!({"event": "tunnel", "id": closed.id, "slug": closed.slug, "state": closed.state}))
        }
        Ok(closed) => {
            cli.hint(&format!("closed {}", name(&closed)));
            Ok(())
        }
        Err(CallError::Api(err)) if is_over(err.code) => Ok(()),
        Err(err) => Err(cli.failed(err)),
    }
}

const fn is_over(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound | Code::NoSuchTunnel | Code::TunnelClosed | Code::TunnelExpired
    )
}

fn name(tunnel: &TunnelJson) -> String {
    tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string())
}

/// What a watcher notices.
pub(super) enum Seen {
    Event(Box<EventJson>),
    /// The stream broke off.
    Away,
    /// It goes on.
    Back,
    /// It goes on, and the tunnel is no more.
    Gone,
}

/// One tunnel's part of the event stream.
pub(super) struct Watch {
    api: ApiClient,
    id: String,
    slug: Option<String>,
    link: String,
    /// None while the daemon is away.
    events: Option<EventReader>,
    last: Option<u64>,
}

impl Watch {
    pub(super) fn new(cli: &Cli, tunnel: &TunnelJson, events: EventReader) -> Self {
        Self {
            api: cli.api.clone(),
            id: tunnel.id.to_string(),
            slug: tunnel.slug.clone(),
            link: "up".to_owned(),
            events: Some(events),
            last: None,
        }
    }

    /// Cancel safe: what is under way when it is dropped is begun again.
    pub(super) async fn next(&mut self) -> Seen {
        if let Some(events) = &mut self.events {
            if let Ok(Some((id, event))) = events.next().await {
                self.last = Some(id);
                return Seen::Event(Box::new(event));
            }
            self.events = None;
            return Seen::Away;
        }
        loop {
            tokio::time::sleep(AGAIN).await;
            let Ok(events) = self.api.events(self.last).await else {
                continue;
            };
            let path = ApiClient::path("/v1/tunnels/", &self.id);
            match self.api.get::<TunnelJson>(&path).await {
                Ok(tunnel) if is_ended(&tunnel) => return Seen::Gone,
                Err(CallError::Api(err)) if is_over(err.code) => return Seen::Gone,
                Err(_) => {}
                Ok(_) => {
                    self.events = Some(events);
                    return Seen::Back;
                }
            }
        }
    }

    /// Prints what concerns the tunnel; true when it is over.
    pub(super) fn show(&mut self, cli: &mut Cli, event: &EventJson) -> Result<bool, CtlError> {
        match event {
            EventJson::Visit(visit) if Some(&visit.slug) == self.slug.as_ref() => {
                if cli.json {
                    cli.document(event)?;
                } else {
                    let line = text::visit(visit, &cli.times(), cli.style);
                    cli.line(&line)?;
                }
                Ok(false)
            }
            EventJson::Tunnel(tunnel) if tunnel.id.to_string() == self.id => {
                self.slug.clone_from(&tunnel.slug);
                if cli.json {
                    cli.document(event)?;
                } else if is_ended(tunnel) {
                    cli.hint(&format!("{} is {}", name(tunnel), tunnel.state));
                }
                Ok(is_ended(tunnel))
            }
            EventJson::Link(link) => {
                self.show_link(cli, link)?;
                Ok(false)
            }
            EventJson::Visit(_) | EventJson::Tunnel(_) => Ok(false),
        }
    }

    fn show_link(&mut self, cli: &mut Cli, link: &LinkJson) -> Result<(), CtlError> {
        if cli.json {
            return cli.document(&EventJson::Link(link.clone()));
        }
        let was_up = self.link == "up";
        let is_up = link.state == "up";
        self.link.clone_from(&link.state);
        if was_up && !is_up {
            let why = link.last_error.as_deref().unwrap_or("no word from it");
            cli.hint(&format!(
                "the server is away ({why}); visits wait, then get 502"
            ));
        } else if !was_up && is_up {
            cli.hint("the server is back");
        }
        Ok(())
    }
}

fn is_ended(tunnel: &TunnelJson) -> bool {
    matches!(&*tunnel.state, "closed" | "expired" | "closing")
}
