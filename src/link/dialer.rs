//! The client's end: finds the server's addresses, tries them side by side, and says Hello.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectError, Connection, Runtime, TokenMemoryCache, TokioRuntime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::control::{ControlRecv, ControlSend};
use super::error::{EndCause, LinkEnd, LinkError};
use super::handle::{End, Link, Live};
use super::identity::Identity;
use super::own::{Own, Sockets};
use super::path::{BESIDE, Fallback, dial_path};
use super::race::{Attempt, by_turns, race};
use super::socket::{self, MakeSocket};
use super::streams::LinkRecv;
use super::{LinkSettings, tls, transport};
use crate::names::Pin;
use crate::wire::{Control, Hello};

/// How long UDP may stay silent until the WebSocket is opened beside it, and again how long a
/// handshake that has begun over UDP may take until it is helped.
const SILENCE: Duration = Duration::from_millis(1500);

/// Keys trusted at once: current and next, and room for a slip.
const PINS: usize = 4;

/// Makes links. Each gets a socket of its own, so that nothing of a failed one lingers.
pub struct Dialer {
    identity: Identity,
    settings: LinkSettings,
    /// What servers gave us to prove our address with, next time.
    tokens: Arc<TokenMemoryCache>,
    sockets: Sockets,
    runtime: Arc<dyn Runtime>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("pin", &self.identity.pin())
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer for the device of `identity`.
    pub fn new(identity: &Identity, settings: &LinkSettings) -> Result<Self, LinkError> {
        let sockets: MakeSocket = Arc::new(socket::bind_any);
        Self::from(sockets, Arc::new(TokioRuntime), identity, settings)
    }

    pub(super) fn from(
        sockets: MakeSocket,
        runtime: Arc<dyn Runtime>,
        identity: &Identity,
        settings: &LinkSettings,
    ) -> Result<Self, LinkError> {
        // A key that TLS cannot use shows now, not at three in the morning.
        tls::client(identity, &[])?;
        Ok(Self {
            identity: identity.clone(),
            settings: settings.clone(),
            tokens: Arc::default(),
            sockets: Sockets(sockets),
            runtime,
        })
    }

    /// A link to the server at `address` (`host:port`) that holds a key of `pins` (the current one
    /// first), its control stream open and `hello` sent; ten seconds in all. The server's answer is
    /// the caller's to wait for.
    pub async fn dial(
        &self,
        address: &str,
        pins: &[Pin],
        hello: Hello,
    ) -> Result<(Link, ControlSend, ControlRecv), LinkError> {
        self.dial_with(address, pins, hello, None).await
    }

    /// The same; where UDP stays silent, through the WebSocket of `fallback`, opened beside it.
    pub async fn dial_with(
        &self,
        address: &str,
        pins: &[Pin],
        hello: Hello,
        fallback: Option<&Fallback>,
    ) -> Result<(Link, ControlSend, ControlRecv), LinkError> {
        let connected = self.connect_with(address, pins, fallback).await?;
        connected.greet(hello).await
    }

    /// The first half of [`dial`](Self::dial): the handshake. It proves that the network works, and
    /// the server makes nothing of it until it is greeted, within the same ten seconds.
    pub async fn connect(&self, address: &str, pins: &[Pin]) -> Result<Connected, LinkError> {
        self.connect_with(address, pins, None).await
    }

    /// The first half of [`dial_with`](Self::dial_with).
    pub async fn connect_with(
        &self,
        address: &str,
        pins: &[Pin],
        fallback: Option<&Fallback>,
    ) -> Result<Connected, LinkError> {
        let deadline = Instant::now() + transport::GREETING;
        let own = self.own(address)?;
        let door = Door {
            address,
            pins: &pins[..pins.len().min(PINS)],
            own: &own,
        };
        let connection = match fallback {
            None => timeout_at(deadline, self.over_udp(&door))
                .await
                .unwrap_or_else(|_| Err(door.unreachable()))?,
            Some(fallback) => self.either_way(&door, fallback, deadline).await?,
        };
        // In this order: what is heard is named by where the link is.
        own.paths().settle(connection.remote_address());
        own.expect(connection.remote_address());
        let end = End::Client(Arc::clone(own.paths()));
        Ok(Connected {
            live: Arc::new(Live::new(connection, Some(own), end)?),
            settings: self.settings.clone(),
            address: address.to_owned(),
            deadline,
        })
    }

    fn own(&self, address: &str) -> Result<Own, LinkError> {
        let idle = self.settings.path_idle();
        let made = Own::new(self.sockets.clone(), &self.runtime, address, idle);
        made.map_err(|source| LinkError::Io {
            doing: "open a UDP socket".to_owned(),
            source,
        })
    }

    /// To the addresses that the name has.
    async fn over_udp(&self, door: &Door<'_>) -> Result<Connection, LinkError> {
        let candidates = resolve(door.address).await?;
        door.own.paths().aim(&candidates);
        self.handshake(door, &candidates).await
    }

    /// Through the WebSocket, once UDP has been silent for long enough or has failed.
    async fn beside_udp(
        &self,
        door: &Door<'_>,
        fallback: &Fallback,
        udp_failed: &Notify,
    ) -> Result<Connection, LinkError> {
        if !fallback.first {
            let silent = async {
                sleep(SILENCE).await;
                if door.own.paths().heard_over_udp() > 0 {
                    sleep(SILENCE).await;
                }
            };
            tokio::select! {
                biased;
                () = udp_failed.notified() => {}
                () = silent => {}
            }
        }
        let (io, info) = dial_path(fallback)
            .await
            .map_err(|source| LinkError::Blocked {
                address: door.address.to_owned(),
                source,
            })?;
        door.own.paths().carry(io, info);
        self.handshake(door, &[BESIDE]).await
    }

    /// Over UDP or through the WebSocket, whichever succeeds first; or the failure that tells most.
    async fn either_way(
        &self,
        door: &Door<'_>,
        fallback: &Fallback,
        deadline: Instant,
    ) -> Result<Connection, LinkError> {
        let udp_failed = Notify::new();
        let udp = async {
            let outcome = timeout_at(deadline, self.over_udp(door)).await;
            udp_failed.notify_one();
            outcome.unwrap_or_else(|_| Err(door.unreachable()))
        };
        let beside = timeout_at(deadline, self.beside_udp(door, fallback, &udp_failed));
        let (mut udp, mut beside) = (pin!(udp), pin!(beside));
        let late = |_| Err(door.unreachable());
        let (first, udp_pending) = tokio::select! {
            biased;
            first = &mut udp => (first, false),
            first = &mut beside => (first.unwrap_or_else(late), true),
        };
        // Somebody who answered and is not the server, or refuses us, is the same on either way.
        let failure = match first {
            Err(error) if telling(&error) < ANSWERED => error,
            decided => return decided,
        };
        let second = if udp_pending {
            udp.await
        } else {
            beside.await.unwrap_or_else(late)
        };
        second.map_err(|error| {
            if telling(&error) >= telling(&failure) {
                error
            } else {
                failure
            }
        })
    }

    /// Asks for the server at all addresses side by side.
    async fn handshake(
        &self,
        door: &Door<'_>,
        candidates: &[SocketAddr],
    ) -> Result<Connection, LinkError> {
        let attempts = candidates
            .iter()
            .map(|peer| self.by_each_key(door, *peer))
            .collect();
        race(attempts, door.unreachable(), telling).await
    }

    /// Asks one address by the server's current key, and by the next if it does not answer to that. Each address
    /// for itself: one that is silent says nothing of what the others answer to.
    fn by_each_key(&self, door: &Door<'_>, peer: SocketAddr) -> Attempt<Connection, LinkError> {
        let nobody = LinkError::WrongPin {
            expected: door.pins.to_vec(),
            got: None,
        };
        let pins = door.pins.iter();
        let attempts: Vec<_> = pins.map(|tag| self.attempt(door, peer, *tag)).collect();
        Box::pin(async move {
            let mut outcome = Err(nobody);
            for attempt in attempts {
                outcome = attempt.await;
                if !matches!(outcome, Err(LinkError::WrongPin { got: None, .. })) {
                    break;
                }
            }
            outcome
        })
    }

    /// One handshake with one address.
    fn attempt(
        &self,
        door: &Door<'_>,
        peer: SocketAddr,
        tag: Pin,
    ) -> Attempt<Connection, LinkError> {
        let tokens = Arc::clone(&self.tokens) as Arc<dyn quinn::TokenStore>;
        let payload = socket::payload_towards(peer);
        let config = transport::client(
            &self.identity,
            &self.settings,
            tag,
            door.pins,
            tokens,
            payload,
        );
        let endpoint = door.own.endpoint().clone();
        let pins = door.pins.to_vec();
        let address = door.address.to_owned();
        Box::pin(async move {
            let (config, refused) = config?;
            let connecting = endpoint
                .connect_with(config, peer, &server_name(&tag))
                .map_err(|error| cannot_connect(error, address))?;
            connecting.await.map_err(|error| {
                let end = LinkEnd::of(error, None);
                match (refused.get(), end.cause) {
                    (None, EndCause::NotRecognised) => LinkError::WrongPin {
                        expected: pins,
                        got: None,
                    },
                    (None, _) => end.into(),
                    (got, _) => LinkError::WrongPin {
                        expected: pins,
                        got,
                    },
                }
            })
        })
    }
}

/// A connection whose handshake is done and that has not said Hello. Dropped, it is closed, and
/// nothing has happened.
#[derive(Debug)]
pub struct Connected {
    live: Arc<Live>,
    settings: LinkSettings,
    address: String,
    deadline: Instant,
}

impl Connected {
    /// How far the server is.
    pub fn rtt(&self) -> Duration {
        self.live.connection().rtt()
    }

    /// Opens the control stream and says Hello: from here on it is a link.
    pub async fn greet(self, hello: Hello) -> Result<(Link, ControlSend, ControlRecv), LinkError> {
        let (send, recv) = timeout_at(self.deadline, greet(&self.live, hello))
            .await
            .unwrap_or(Err(LinkError::Unreachable {
                address: self.address,
            }))?;
        Ok((Link::new(self.live, &self.settings), send, recv))
    }
}

/// Where a link is being dialled, and from which socket.
struct Door<'a> {
    address: &'a str,
    pins: &'a [Pin],
    own: &'a Own,
}

impl Door<'_> {
    fn unreachable(&self) -> LinkError {
        LinkError::Unreachable {
            address: self.address.to_owned(),
        }
    }
}

/// A name under which address tokens of this server are kept. It is neither sent nor checked.
fn server_name(pin: &Pin) -> String {
    let hex = pin.to_string();
    format!("{}.wormkey.invalid", &hex[..32])
}

/// QUIC would not even try: no IPv6 here, or port 0.
fn cannot_connect(error: ConnectError, address: String) -> LinkError {
    match error {
        ConnectError::InvalidRemoteAddress(_) => LinkError::Unreachable { address },
        other => LinkError::Io {
            doing: "connect".to_owned(),
            source: io::Error::other(other),
        },
    }
}

/// The server's addresses, IPv6 and IPv4 by turns, IPv6 first.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, LinkError> {
    let dns = |source| LinkError::Dns {
        address: address.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(dns)?
        .collect();
    let candidates = by_turns(&found);
    if candidates.is_empty() {
        return Err(dns(io::ErrorKind::NotFound.into()));
    }
    Ok(candidates)
}

/// What tells at least this much was said by somebody.
const ANSWERED: u8 = 2;

/// How much a failure tells: somebody who answered wrongly more than nobody answering.
fn telling(error: &LinkError) -> u8 {
    match error {
        LinkError::WrongPin { got: Some(_), .. } => 5,
        LinkError::Refused { .. } => 4,
        LinkError::WrongPin { got: None, .. } => 3,
        LinkError::AlpnMismatch | LinkError::VersionMismatch | LinkError::Tls { .. } => ANSWERED,
        LinkError::Unreachable { .. } | LinkError::Dns { .. } => 0,
        _ => 1,
    }
}

/// Opens the control stream and says Hello.
async fn greet(live: &Arc<Live>, hello: Hello) -> Result<(ControlSend, ControlRecv), LinkError> {
    let opened = live.connection().open_bi().await;
    let (send, recv) = opened.map_err(|e| LinkError::from(LinkEnd::of(e, None)))?;
    let mut send = ControlSend::new(Arc::clone(live), send, true);
    let recv = ControlRecv::new(Arc::clone(live), LinkRecv::new(recv, None));
    send.send(&Control::Hello(hello)).await?;
    Ok((send, recv))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::link::path::{PathInfo, PathKind};
    use crate::link::tests::World;

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_does_not_hold_up_a_live_one() {
        let world = World::new();
        let dialer = world.dialer();
        let own = dialer.own("example.com:443").unwrap();
        let dead: SocketAddr = "10.9.9.9:443".parse().unwrap();
        let pins = [world.key.pin()];
        let door = Door {
            address: "example.com:443",
            pins: &pins,
            own: &own,
        };
        let start = Instant::now();
        let candidates = [dead, dead, world.address];
        let (connected, _arriving) = tokio::join!(dialer.handshake(&door, &candidates), async {
            let arriving = world.listener.accept().await.unwrap();
            timeout(Duration::from_secs(1), arriving.establish()).await
        });
        let connection = connected.unwrap();
        assert_eq!(connection.remote_address(), world.address);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_silent_does_not_keep_the_next_key_from_another() {
        let world = World::new();
        let dialer = world.dialer();
        let own = dialer.own("example.com:443").unwrap();
        let dead: SocketAddr = "10.9.9.9:443".parse().unwrap();
        let pins = [Identity::ephemeral().unwrap().pin(), world.key.pin()];
        let door = Door {
            address: "example.com:443",
            pins: &pins,
            own: &own,
        };
        let candidates = [dead, world.address];
        let dialling = timeout(Duration::from_secs(2), dialer.handshake(&door, &candidates));
        let (connected, _arriving) = tokio::join!(dialling, async {
            let arriving = timeout(Duration::from_secs(2), world.listener.accept()).await;
            arriving.ok()??.establish().await.ok()
        });
        let connection = connected.expect("it waits for the silent one").unwrap();
        assert_eq!(connection.remote_address(), world.address);
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_outlives_the_pauses_between_rare_keep_alives() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (keep_alive, lives, dead_by) in [(minutes(10), 29, 31), (minutes(0), 0, 2)] {
            let world = World::with(LinkSettings {
                keep_alive,
                ..LinkSettings::default()
            });
            let own = world.dialer().own("example.com:443").unwrap();
            let (near, mut far) = tokio::io::duplex(1024);
            let io = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let info = PathInfo {
                kind: PathKind::WebSocket,
                ..PathInfo::UDP
            };
            let start = Instant::now();
            own.paths().carry(io, info);
            let end = timeout(minutes(120), far.read_u8()).await.unwrap();
            assert!(end.is_err(), "nothing was said");
            let ended = start.elapsed();
            assert!(
                ended > minutes(lives) && ended < minutes(dead_by),
                "{ended:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_host_and_port_does_not_resolve() {
        for bad in ["", "example.com", "127.0.0.1", "127.0.0.1:99999"] {
            let error = resolve(bad).await.unwrap_err();
            assert!(matches!(error, LinkError::Dns { .. }), "{bad}: {error}");
        }
    }
}
