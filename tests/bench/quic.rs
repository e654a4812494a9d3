//! What tests/bench asks over QUIC, for which Debian has no tool.
//!
//! | | |
//! |---|---|
//! | `visit HOST PORT CA PATH CONNECTIONS SECONDS` | HTTP/3: GETs over kept-alive connections, one at a time on each; prints `REQUESTS P50 P99`, in milliseconds |
//! | `take` | one end of a link with nothing around it; prints `PORT PIN` |
//! | `give PORT PIN SECONDS WAY` | the other: one stream of bytes, `to` it or `from` it; prints `BYTES MILLIS` |

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinSet;
use wormkey::codes::Code;
use wormkey::link::{Dialer, Identity, Link, LinkRecv, LinkSend, LinkSettings, Listener};
use wormkey::names::{Pin, TunnelId, VisitId};
use wormkey::times::Clock;
use wormkey::wire::{
    BytesHead, Capabilities, Hello, RecvChunks as _, SendChunks as _, StreamHead, VERSION, send_all,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// As much as is read from a visitor at once, and more than any window waits for.
const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 16;

/// Larger than any answer that is asked for.
const ANSWER_MAX: usize = 1 << 20;

/// HEADERS with a section of the static table only, whose first line is `:status: 200`.
const HEADERS: u8 = 0x01;
const STATUS_200: u8 = 0xc0 | 25;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["visit", host, port, ca, path, connections, seconds] => {
            let at = SocketAddr::new(LOOPBACK.ip(), port.parse()?);
            let visitor = Visitor::new(at, host, path, ca)?;
            let until = Clock.now().monotonic + Duration::from_secs(seconds.parse()?);
            visitor.visit(connections.parse()?, until).await
        }
        ["take"] => take().await,
        ["give", port, pin, seconds, way] => {
            let at = SocketAddr::new(LOOPBACK.ip(), port.parse()?);
            let pin = pin.parse().ok().context("no pin")?;
            let within = Duration::from_secs(seconds.parse()?);
            give(at, pin, within, *way == "from").await
        }
        _ => bail!("usage: quic visit|take|give …"),
    }
}

/// Who asks over HTTP/3.
struct Visitor {
    endpoint: Endpoint,
    at: SocketAddr,
    host: String,
    request: Bytes,
}

impl Visitor {
    fn new(at: SocketAddr, host: &str, path: &str, ca: &str) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut endpoint = Endpoint::client(LOOPBACK)?;
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(tls)?,
        )));
        let authority = format!("{host}:{}", at.port());
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", &authority),
            (":path", path),
        ];
        Ok(Self {
            endpoint,
            at,
            host: host.to_owned(),
            request: headers(&fields)?,
        })
    }

    async fn visit(self, connections: usize, until: std::time::Instant) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let mut visiting = JoinSet::new();
        for _ in 0..connections {
            let this = Arc::clone(&this);
            visiting.spawn(async move { this.ask_on(until).await });
        }
        let mut took = Vec::new();
        while let Some(one) = visiting.join_next().await {
            took.extend(one??);
        }
        ensure!(!took.is_empty(), "no answer at all");
        took.sort_unstable();
        let at = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1000.0;
        say(&format!("{} {:.3} {:.3}", took.len(), at(50), at(99)))
    }

    /// One connection, one request after the other; how long each took.
    async fn ask_on(&self, until: std::time::Instant) -> anyhow::Result<Vec<Duration>> {
        let connection = self.endpoint.connect(self.at, &self.host)?.await?;
        let mut control = connection.open_uni().await?;
        // A control stream, and settings of which none is named.
        control.write_all(&[0, 4, 0]).await?;
        let mut took = Vec::new();
        let mut now = Clock.now().monotonic;
        while now < until {
            self.ask(&connection).await?;
            let then = Clock.now().monotonic;
            took.push(then - now);
            now = then;
        }
        Ok(took)
    }

    async fn ask(&self, connection: &Connection) -> anyhow::Result<()> {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_chunk(self.request.clone()).await?;
        send.finish()?;
        let answer = recv.read_to_end(ANSWER_MAX).await?;
        // The kind, a length of one or two bytes, two bytes of prefix.
        let section = match answer.get(1) {
            Some(length) if length >> 6 == 0 => answer.get(2..),
            _ => answer.get(3..),
        };
        let is_good = answer.first() == Some(&HEADERS)
            && section.is_some_and(|section| section.get(2) == Some(&STATUS_200));
        ensure!(
            is_good,
            "not a 200: {:02x?}",
            &answer[..answer.len().min(64)]
        );
        Ok(())
    }
}

/// A HEADERS frame of literal lines.
fn headers(fields: &[(&str, &str)]) -> anyhow::Result<Bytes> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        let (name_size, value_size) = (u8::try_from(name.len())?, u8::try_from(value.len())?);
        ensure!(value_size < 127, "a value too long");
        match name_size {
            0..7 => section.push(0x20 | name_size),
            _ => section.extend([0x27, name_size - 7]),
        }
        section.extend_from_slice(name.as_bytes());
        section.push(value_size);
        section.extend_from_slice(value.as_bytes());
    }
    let length = u16::try_from(section.len())? | 0x4000;
    Ok([&[HEADERS][..], &length.to_be_bytes(), &section]
        .concat()
        .into())
}

/// The server's end of a link, for as long as the process lives.
async fn take() -> anyhow::Result<()> {
    let identity = Identity::ephemeral()?;
    let listener = Listener::bind(LOOPBACK, &identity, &LinkSettings::default())?;
    say(&format!(
        "{} {}",
        listener.local_addr().port(),
        identity.pin()
    ))?;
    while let Some(arriving) = listener.accept().await {
        let (link, _tx, mut rx, hello) = arriving.establish().await?;
        let (mut send, mut recv) = link.open(&head()).await?;
        // The name says which way.
        match hello.device_name.as_str() {
            "from" => fill(&mut send, None).await?,
            _ => drain(&mut recv).await?,
        };
        // Until the other end has gone.
        while let Ok(Some(_)) = rx.recv().await {}
    }
    Ok(())
}

/// The client's end, which asks and counts. What is given is counted by who takes it.
async fn give(at: SocketAddr, pin: Pin, within: Duration, from: bool) -> anyhow::Result<()> {
    let dialer = Dialer::new(&Identity::ephemeral()?, &LinkSettings::default())?;
    let hello = Hello {
        versions: vec![VERSION],
        capabilities: Capabilities::OURS,
        software: "bench".to_owned(),
        device_name: if from { "from" } else { "to" }.to_owned(),
        enrolling: false,
    };
    let (link, _tx, _rx) = dialer.dial(&at.to_string(), &[pin], hello).await?;
    let (_, mut send, mut recv) = link.accept().await?;
    let began = Clock.now().monotonic;
    let until = began + within;
    let bytes = match from {
        true => {
            let mut total = 0;
            while Clock.now().monotonic < until {
                total += some(&mut recv).await?;
            }
            total
        }
        false => fill(&mut send, Some(until)).await?,
    };
    let took = Clock.now().monotonic - began;
    say(&format!("{bytes} {}", took.as_millis()))?;
    close(link).await;
    Ok(())
}

async fn close(link: Link) {
    link.close_and_tell(Code::Done, "", Duration::from_secs(1))
        .await;
}

fn head() -> StreamHead {
    StreamHead::Bytes(BytesHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        peer: LOOPBACK,
        local: LOOPBACK,
        sni: None,
        shadowed: Vec::new(),
    })
}

/// Sends until the time is over, or nobody reads any more; how many bytes went in.
async fn fill(send: &mut LinkSend, until: Option<std::time::Instant>) -> anyhow::Result<u64> {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut total = 0;
    while until.is_none_or(|until| Clock.now().monotonic < until) {
        if send_all(send, &mut [chunk.clone()]).await.is_err() {
            break;
        }
        total += CHUNK as u64;
    }
    send.finish();
    Ok(total)
}

async fn drain(recv: &mut LinkRecv) -> anyhow::Result<u64> {
    let mut total = 0;
    while let Ok(count) = some(recv).await {
        if count == 0 {
            break;
        }
        total += count;
    }
    Ok(total)
}

/// What has arrived.
async fn some(recv: &mut LinkRecv) -> anyhow::Result<u64> {
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    let count = poll_fn(|cx| recv.poll_recv(cx, &mut chunks)).await?;
    Ok(chunks[..count].iter().map(|chunk| chunk.len() as u64).sum())
}

fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
