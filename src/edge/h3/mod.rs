//! HTTP/3 for visitors, on a QUIC connection that somebody else has accepted. Small and our own: no
//! dynamic table, no push, no extended CONNECT, and every limit held before anything is kept. What a
//! request means is `serve`'s, as for every version.
//!
//! A visitor may move to another network and goes on with what is under way. Whatever is judged by its
//! address is judged by the one that the handshake has proved, for as long as the connection lives, and
//! that is what origins are told: QUIC says where the last packet came from before it knows that somebody
//! receives there, and anybody can write that. Nobody gains by moving; who moves to where it would not be
//! let in keeps what it came with.
//!
//! ```text
//! mod      a connection: its streams, idleness, the goodbye
//! control  streams of one direction: settings, and QPACK's two
//! request  one request and its answer
//! frames   the frames of a request stream ─▶ body, as hyper's is
//! qpack    field sections (huffman, fixed: its tables) ─▶ head, a request
//! ```

mod body;
mod codes;
mod control;
mod fixed;
mod frames;
pub(super) mod fuzzing;
mod head;
mod huffman;
mod line;
mod qpack;
mod request;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::server::ResolvesServerCert;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::codes::Code;
use self::control::Seen;
use self::line::Line;
use super::connection::{Conn, Facts, H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, H2_STREAMS, idle};
use super::tls::TlsError;
use super::{Admit, Attach, Inner, OpenStream};
use crate::http::Scheme;
use crate::http::limits::HANDSHAKE_TIMEOUT;
use crate::names::Hostname;
use crate::tasks::Tasks;

pub(super) use self::body::H3Body;
pub(super) use self::codes::Trouble;

/// ALPN of HTTP/3.
pub const ALPN_H3: &[u8] = b"h3";

/// Streams of one direction: three that HTTP/3 has, and some that only try us.
const UNI_STREAMS: u32 = 8;

/// Bytes of one connection sent and not acknowledged: what a visitor that acknowledges nothing costs us.
/// At 100 ms this is 160 Mbit/s.
const SEND_WINDOW: u64 = 2 << 20;

/// A visitor from whom nothing comes for this long is gone.
const SILENCE: Duration = Duration::from_secs(45);

/// It is asked for a sign of life this often; idleness is judged by requests, not by QUIC.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Browsers may remember for a day that there is HTTP/3.
const REMEMBERED: u32 = 86_400;

/// How long a goodbye has to arrive where nothing is under way.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What QUIC needs to know of visitors: TLS without a certificate request and without early data, `h3`
/// alone, certificates from `resolver`; and how much of everything.
pub fn quic(
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<(Arc<QuicServerConfig>, Arc<TransportConfig>), TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_H3.to_vec()];
    let crypto = QuicServerConfig::try_from(config)
        .map_err(|_| TlsError::Setup(rustls::Error::General("no suite for quic".into())))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(H2_STREAMS.into())
        .max_concurrent_uni_streams(UNI_STREAMS.into())
        .stream_receive_window(H2_STREAM_WINDOW.into())
        .receive_window(H2_CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(
            IdleTimeout::try_from(SILENCE).unwrap_or_else(|_| VarInt::MAX.into()),
        ))
        .keep_alive_interval(Some(SIGN_OF_LIFE));
    Ok((Arc::new(crypto), Arc::new(transport)))
}

/// Tells visitors of the other versions that there is HTTP/3 on the same port, unless a proxy brings them:
/// on its port there is what the proxy has.
pub(super) fn advertise<S, B>(conn: &Conn<S>, response: &mut Response<B>) {
    let settings = conn.edge.settings.load();
    let facts = &conn.facts;
    let is_over = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let is_direct = !facts.is_behind && !settings.front.trusts(facts.peer.ip());
    if !settings.http3 || facts.scheme != Scheme::Https || !is_direct || is_over {
        return;
    }
    let port = settings.public_https_port;
    let value = HeaderValue::try_from(format!("h3=\":{port}\"; ma={REMEMBERED}"))
        .expect("a number is visible ASCII");
    response.headers_mut().insert(header::ALT_SVC, value);
}

/// Serves a connection in a task of its own.
pub(super) fn spawn<S: Admit + Attach + OpenStream>(
    edge: &Arc<Inner<S>>,
    quic: quinn::Connection,
    peer: SocketAddr,
) {
    let Some(session) = Session::new(edge, quic, canonical(peer)) else {
        return;
    };
    edge.connections
        .spawn("edge-h3", async move { session.run().await });
}

/// A visitor's connection.
struct Session<S> {
    line: Arc<Line>,
    conn: Arc<Conn<S>>,
    seen: Arc<Seen>,
    /// Requests from this stream on were not taken.
    next: u64,
}

impl<S: Admit + Attach + OpenStream> Session<S> {
    fn new(edge: &Arc<Inner<S>>, quic: quinn::Connection, peer: SocketAddr) -> Option<Self> {
        let Some(slot) = edge.slots.enter(&edge.settings.load().front, peer) else {
            debug!(%peer, "too many connections, closed");
            quic.close(Code::EXCESSIVE_LOAD.wire(), b"");
            return None;
        };
        let asked = quic
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok());
        let sni = asked.and_then(|data| Hostname::parse(data.server_name.as_deref()?).ok());
        let conn = Conn {
            edge: Arc::clone(edge),
            facts: Facts {
                peer,
                scheme: Scheme::Https,
                sni,
                is_multiplexed: true,
                is_behind: false,
                slot: Some(Arc::new(slot)),
            },
            ledger: None,
            activity: Arc::default(),
            abort: CancellationToken::new(),
        };
        Some(Self {
            line: Arc::new(Line::new(quic)),
            conn: Arc::new(conn),
            seen: Arc::default(),
            next: 0,
        })
    }

    async fn run(mut self) {
        let code = match self.begin().await {
            Ok(mut control) => self.serve(&mut control).await,
            Err(code) => code,
        };
        self.line.quic.close(code.wire(), b"");
    }

    /// Our control stream; a visitor that allows none, or no byte on it, is not waited for long.
    async fn begin(&self) -> Result<SendStream, Code> {
        let edge = &self.conn.edge;
        let stop = edge.connections.stopped();
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Code::NO_ERROR),
            // Nothing was taken yet, so nothing is lost.
            () = edge.draining.cancelled() => return Err(Code::NO_ERROR),
            opened = timeout(HANDSHAKE_TIMEOUT, control::open(&self.line)) => opened,
        };
        match opened {
            Ok(opened) => opened.ok_or(Code::NO_ERROR),
            Err(_) => Err(Code::GENERAL_PROTOCOL),
        }
    }

    /// Takes streams until the connection ends or has to; what it is closed with.
    async fn serve(&mut self, control: &mut SendStream) -> Code {
        let edge = Arc::clone(&self.conn.edge);
        let stop = edge.connections.stopped();
        let abort = self.conn.abort.clone();
        let activity = Arc::clone(&self.conn.activity);
        let mut idle = pin!(idle(&activity));
        let quic = self.line.quic.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Code::NO_ERROR,
                () = abort.cancelled() => return Code::EXCESSIVE_LOAD,
                () = edge.draining.cancelled() => break,
                recv = quic.accept_uni() => match recv {
                    Ok(recv) => self.follow(recv),
                    Err(_) => return Code::NO_ERROR,
                },
                streams = quic.accept_bi() => match streams {
                    Ok(streams) => self.request(streams),
                    Err(_) => return Code::NO_ERROR,
                },
                () = idle.as_mut() => break,
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Code::NO_ERROR,
            // Who has no room for it hears it when the connection closes.
            _ = timeout(LAST_WORDS, control::say_goodbye(control, self.next)) => {}
        }
        self.finish(&stop, &abort).await
    }

    /// After the goodbye: what is under way goes on, what is new is turned away.
    async fn finish(&mut self, stop: &CancellationToken, abort: &CancellationToken) -> Code {
        let quic = self.line.quic.clone();
        while self.conn.activity.is_busy() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Code::NO_ERROR,
                () = abort.cancelled() => return Code::EXCESSIVE_LOAD,
                recv = quic.accept_uni() => match recv {
                    Ok(recv) => self.follow(recv),
                    Err(_) => return Code::NO_ERROR,
                },
                streams = quic.accept_bi() => match streams {
                    Ok((mut send, mut recv)) => {
                        // Streams that ended meanwhile need no word.
                        let _ = send.reset(Code::REQUEST_REJECTED.wire());
                        let _ = recv.stop(Code::REQUEST_REJECTED.wire());
                    }
                    Err(_) => return Code::NO_ERROR,
                },
                // Nothing rings when the last request ends.
                () = tokio::time::sleep(LAST_WORDS) => {}
            }
        }
        tokio::time::sleep(LAST_WORDS).await;
        Code::NO_ERROR
    }

    fn follow(&self, recv: RecvStream) {
        let (line, seen) = (Arc::clone(&self.line), Arc::clone(&self.seen));
        self.group()
            .spawn("edge-h3-uni", control::follow(recv, line, seen));
    }

    fn request(&mut self, streams: (SendStream, RecvStream)) {
        self.next = streams.0.id().index() * 4 + 4;
        let (conn, line) = (Arc::clone(&self.conn), Arc::clone(&self.line));
        // A task of its own: a panic in one costs one stream.
        self.group()
            .spawn("edge-h3-request", request::run(conn, line, streams));
    }

    fn group(&self) -> &Tasks {
        &self.conn.edge.connections
    }
}

/// Origins know IPv4 visitors by their IPv4 address, whatever the socket is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
