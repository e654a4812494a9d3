//! Thousands of bare links from one process: each a device of its own with its control stream, no tunnels
//! and no state on disk. What a link costs its server is measured with it, beside what its tunnels do.
//!
//! Standard input is the join token, then one word a line: `dial` links all devices (the first time they
//! enrol), `part` ends all links. It prints `dialled MILLIS` or `parted`.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wormkey::codes::Code;
use wormkey::link::enrol::proof;
use wormkey::link::{ControlRecv, ControlSend, Dialer, Identity, Link, LinkSettings};
use wormkey::times::Clock;
use wormkey::wire::token::JoinToken;
use wormkey::wire::{Capabilities, Control, Enroll, Hello, VERSION};

/// Links that are made at the same time.
const AT_ONCE: usize = 32;

/// A server that is asked by thousands keeps each waiting a little.
const WITHIN: Duration = Duration::from_secs(20);

/// The last packets are on their way by then.
const FAREWELL: Duration = Duration::from_millis(500);

/// A link that is up: its control stream is a part of it.
type Up = (Link, ControlSend, ControlRecv);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [count] = words.as_slice() else {
        bail!("usage: links COUNT <<< TOKEN");
    };
    let mut lines = std::io::stdin().lock().lines();
    let token = lines.next().context("no token")??;
    let token = Arc::new(JoinToken::parse(&token)?);
    let devices: Vec<_> = (0..count.parse()?)
        .map(|_| device())
        .collect::<anyhow::Result<_>>()?;
    let mut links: Vec<Up> = Vec::new();
    let mut is_known = false;
    for line in lines {
        match line?.as_str() {
            "dial" => {
                let began = Clock.now().monotonic;
                links = all(&devices, &token, is_known).await?;
                is_known = true;
                let took = Clock.now().monotonic - began;
                say(&format!("dialled {}", took.as_millis()))?;
            }
            "part" => {
                for (link, _, _) in &links {
                    link.close(Code::Done, "");
                }
                tokio::time::sleep(FAREWELL).await;
                links.clear();
                say("parted")?;
            }
            other => bail!("no such word: {other}"),
        }
    }
    Ok(())
}

/// One with a key of its own.
fn device() -> anyhow::Result<Arc<Dialer>> {
    let identity = Identity::ephemeral()?;
    let dialer = Dialer::new(&identity, &LinkSettings::default())?;
    Ok(Arc::new(dialer))
}

/// Links of all devices, a few at a time.
async fn all(
    devices: &[Arc<Dialer>],
    token: &Arc<JoinToken>,
    is_known: bool,
) -> anyhow::Result<Vec<Up>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut dialling = JoinSet::new();
    for device in devices {
        let (device, token, turns) = (Arc::clone(device), Arc::clone(token), Arc::clone(&turns));
        dialling.spawn(async move {
            let _turn = turns.acquire().await?;
            let new = (!is_known).then_some(&*token);
            tokio::time::timeout(WITHIN, one(&device, &token, new))
                .await
                .context("no link in time")?
        });
    }
    let mut links = Vec::with_capacity(devices.len());
    while let Some(link) = dialling.join_next().await {
        links.push(link??);
    }
    Ok(links)
}

/// One link, from its first packet to the server's Welcome.
async fn one(device: &Dialer, token: &JoinToken, new: Option<&JoinToken>) -> anyhow::Result<Up> {
    let hello = Hello {
        versions: vec![VERSION],
        capabilities: Capabilities::OURS,
        software: "bench".to_owned(),
        device_name: "bench".to_owned(),
        enrolling: new.is_some(),
    };
    let address = token.addresses.first().context("an address")?;
    let (link, mut tx, mut rx) = device.dial(address, &token.pins, hello).await?;
    if let Some(token) = new {
        let secret = *token.secret.expose();
        tx.push(&Control::Enroll(Enroll {
            secret,
            proof: proof(&secret, &link.exporter()?),
            device_name: "bench".to_owned(),
        }));
    }
    tx.sent().await?;
    loop {
        match rx.recv().await?.context("the control stream ended")? {
            Control::Welcome(_) => return Ok((link, tx, rx)),
            Control::Enrolled(_) => {}
            other => bail!("not welcome: {other:?}"),
        }
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
