//! What tests/bench asks over QUIC, for which Debian has no tool.
//!
//! | | |
//! |---|---|
//! | `visit HOST PORT CA PATH CONNECTIONS SECONDS` | HTTP/3: GETs over kept-alive connections, one at a time on each; prints `REQUESTS P50 P99`, in milliseconds |
//! | `take` | one end of quinn with nothing around it; prints `PORT CERTIFICATE` |
//! | `give PORT CERTIFICATE SECONDS WAY` | the other: one stream of bytes, `to` it or `from` it; prints `BYTES MILLIS` |

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;
use wormkey::times::Clock;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// As much as is read from a visitor at once, and more than any window waits for.
const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 16;

/// Of a socket; the largest packets of our links, where the path takes such.
const BUFFER: usize = 4 << 20;
const PAYLOAD: u16 = 6500;

const NAME: &str = "bare.test";
const ALPN: &[u8] = b"bare";

/// Which way bytes go, as the client says in its first.
const TO: [u8; 1] = *b"t";
const FROM: [u8; 1] = *b"f";

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
        ["give", port, certificate, seconds, way] => {
            let at = SocketAddr::new(LOOPBACK.ip(), port.parse()?);
            let within = Duration::from_secs(seconds.parse()?);
            give(at, certificate, within, *way == "from").await
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
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
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

/// The server's end of bare QUIC, for as long as the process lives.
async fn take() -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = endpoint(Some(config))?;
    say(&format!(
        "{} {}",
        endpoint.local_addr()?.port(),
        HEXLOWER.encode(&certificate)
    ))?;
    while let Some(arriving) = endpoint.accept().await {
        let connection = arriving.await?;
        let (mut send, mut recv) = connection.accept_bi().await?;
        let mut way = [0];
        recv.read_exact(&mut way).await?;
        match way {
            FROM => fill(&mut send, None).await,
            _ => drain(&mut recv, None).await?,
        };
        connection.closed().await;
    }
    Ok(())
}

/// The client's end, which asks and counts. What is given is counted by who takes it.
async fn give(
    at: SocketAddr,
    certificate: &str,
    within: Duration,
    from: bool,
) -> anyhow::Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(HEXLOWER.decode(certificate.as_bytes())?.into())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let mut endpoint = endpoint(None)?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(at, NAME)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&if from { FROM } else { TO }).await?;
    let began = Clock.now().monotonic;
    let until = Some(began + within);
    let bytes = match from {
        true => drain(&mut recv, until).await?,
        false => fill(&mut send, until).await,
    };
    let took = Clock.now().monotonic - began;
    say(&format!("{bytes} {}", took.as_millis()))?;
    connection.close(0_u8.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// A socket with the buffers that ours has, and packets as large as the path takes, up to what ours take.
fn endpoint(server: Option<quinn::ServerConfig>) -> anyhow::Result<Endpoint> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.bind(&LOOPBACK.into())?;
    let mut config = quinn::EndpointConfig::default();
    config.max_udp_payload_size(PAYLOAD)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(Endpoint::new(config, server, socket.into(), runtime)?)
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut probes = quinn::MtuDiscoveryConfig::default();
    probes.upper_bound(PAYLOAD);
    let mut config = quinn::TransportConfig::default();
    config.mtu_discovery_config(Some(probes));
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Sends until the time is over, or nobody reads any more; how many bytes went in.
async fn fill(send: &mut SendStream, until: Option<std::time::Instant>) -> u64 {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut total = 0;
    while until.is_none_or(|until| Clock.now().monotonic < until) {
        if send.write_chunk(chunk.clone()).await.is_err() {
            break;
        }
        total += CHUNK as u64;
    }
    total
}

/// Reads until the time is over, or the other end has gone; how many bytes came.
async fn drain(recv: &mut RecvStream, until: Option<std::time::Instant>) -> anyhow::Result<u64> {
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    let mut total = 0;
    while until.is_none_or(|until| Clock.now().monotonic < until) {
        let Ok(Some(count)) = recv.read_chunks(&mut chunks).await else {
            break;
        };
        total += chunks[..count]
            .iter()
            .map(|one| one.len() as u64)
            .sum::<u64>();
    }
    Ok(total)
}

fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
