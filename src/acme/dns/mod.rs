//! Three ways to put a TXT record where a CA looks for it: the operator's own program, a signed update of
//! the zone, or a small name server of ours that the name is delegated to. Which one is the operator's.

pub(super) mod ear;
pub(super) mod hook;
pub(super) mod responder;
pub(super) mod tsig;
pub(super) mod update;

use std::path::PathBuf;
use std::time::Duration;

use self::ear::{Deaf, Ear};
use self::hook::HookError;
use self::update::{Change, UpdateError, Updater};
use super::challenges::Showing;
pub(super) use crate::dns::Name;
use crate::names::Hostname;

/// The label in front of every name that is proven by DNS.
pub(super) const LABEL: &str = "_acme-challenge";

/// How records are made.
pub(super) enum Dns {
    Hook(PathBuf),
    Update(Box<Updater>),
    Responder(Ear),
}

/// Why a record was not made or taken away.
#[derive(Debug, thiserror::Error)]
pub(super) enum DnsError {
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error(transparent)]
    Responder(#[from] Deaf),
}

/// A record that stands, or may; it is to be taken away with [`Dns::remove`].
#[derive(Debug)]
pub(super) struct Placed {
    host: Hostname,
    value: String,
    _showing: Option<Showing>,
}

impl Dns {
    /// The record that proves `host`, or the wildcard below it. It is to be remembered before it is made:
    /// when that fails, or is cut short, it may stand nevertheless.
    pub(super) fn record(&self, host: &Hostname, value: &str) -> Placed {
        let showing = match self {
            Self::Responder(ear) => Some(ear.challenges().show_record(value)),
            Self::Hook(_) | Self::Update(_) => None,
        };
        Placed {
            host: host.clone(),
            value: value.to_owned(),
            _showing: showing,
        }
    }

    /// Makes it.
    pub(super) async fn place(&self, placed: &Placed) -> Result<(), DnsError> {
        self.change(placed, "present", Change::Add).await
    }

    /// Takes it away.
    pub(super) async fn remove(&self, placed: Placed) -> Result<(), DnsError> {
        self.change(&placed, "cleanup", Change::Remove).await
    }

    async fn change(&self, placed: &Placed, verb: &str, change: Change) -> Result<(), DnsError> {
        let (host, value) = (&placed.host, &placed.value);
        match self {
            Self::Hook(hook) => {
                let name = format!("{LABEL}.{host}");
                hook::call(hook, verb, &name, value).await?;
            }
            Self::Update(updater) => {
                let name = Name::new(&[LABEL], Some(host));
                updater.change(change, &name, value).await?;
            }
            Self::Responder(ear) => match change {
                Change::Add => drop(ear.stand()?),
                Change::Remove => {}
            },
        }
        Ok(())
    }

    /// Whether others have to learn of the record before the CA can see it.
    pub(super) const fn spreads(&self) -> bool {
        !matches!(self, Self::Responder(_))
    }

    /// The longest that a proof may wait for others to learn.
    pub(super) const WAIT_MAX: Duration = Duration::from_secs(600);
}
