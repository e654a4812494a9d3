//! Many clients in one process, each with a state of its own: what a server sees when a thousand
//! links return. Not a client of its own making: it starts the same role as `wormkeyd client`.
//!
//! Standard input is the join token. Prints `open N URL` once per client, and `up N MILLIS` (of the
//! wall clock) whenever a link comes up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::{Semaphore, broadcast};
use wormkey::admin::types::{EventJson, JoinAsk, OpenAsk};
use wormkey::admin::{Caller, ClientBackend as _, CommonBackend as _, EventStream};
use wormkey::client::Running;
use wormkey::config::ClientConfig;
use wormkey::tasks::Tasks;
use wormkey::times::Clock;

/// Clients that start, enrol and open at the same time.
const AT_ONCE: usize = 8;

const ME: Caller = Caller { uid: 0, pid: None };

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [folder, count, target] = words.as_slice() else {
        bail!("usage: fleet FOLDER COUNT TARGET <TOKEN");
    };
    allow_many_files()?;
    let mut token = String::new();
    std::io::stdin().read_line(&mut token)?;
    let (tasks, turns) = (Tasks::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for number in 0..count.parse()? {
        let part = Part {
            number,
            folder: Path::new(folder).join(number.to_string()),
            token: token.trim().to_owned(),
            target: target.clone(),
        };
        let turns = Arc::clone(&turns);
        tasks.spawn("client", async move {
            let Err(err) = part.run(&turns).await else {
                return;
            };
            let _ = say(&format!("failed {number} {err:#}"));
        });
    }
    tasks.stopped().cancelled().await;
    Ok(())
}

/// A client has a dozen open files.
fn allow_many_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

struct Part {
    number: usize,
    folder: PathBuf,
    token: String,
    target: String,
}

impl Part {
    /// Enrols, opens a tunnel, then tells of its link for ever.
    async fn run(self, turns: &Semaphore) -> anyhow::Result<()> {
        let turn = turns.acquire().await?;
        let running = Running::start(self.config()?, None, Vec::new()).await?;
        let (_, events) = running.backend.events(None);
        let join = JoinAsk {
            token: self.token.clone(),
            replace: false,
        };
        running.backend.join(ME, join).await?;
        let ask = OpenAsk {
            target: self.target.clone(),
            // A thousand looks at one small origin would be the load that is measured.
            yes_expose: true,
            ..OpenAsk::default()
        };
        let (tunnel, _) = running.backend.open(ME, ask).await?;
        let url = tunnel.url.context("an open tunnel has an address")?;
        say(&format!("open {} {url}", self.number))?;
        drop(turn);
        self.tell(events).await
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let folder = self.folder.display();
        let file = self.folder.join("client.toml");
        std::fs::create_dir_all(&self.folder)?;
        let text = format!(
            "[state]\ndir = \"{folder}/state\"\n[admin]\nsocket = \"{folder}/client.sock\"\n"
        );
        std::fs::write(&file, text)?;
        Ok(ClientConfig::load(Some(&file))?)
    }

    async fn tell(&self, mut events: EventStream) -> anyhow::Result<()> {
        loop {
            match events.recv().await {
                Ok((_, EventJson::Link(link))) if link.state == "up" => {
                    let now = Clock.now().wall.as_millis();
                    say(&format!("up {} {now}", self.number))?;
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
