//! The numbers of a link: windows, limits, timers, and the endpoint's own keys. Each says why.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use quinn::{
    ClientConfig, ConnectionId, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};

use super::cid::{self, OwnCids};
use super::error::LinkError;
use super::identity::Identity;
use super::kick::Kickable;
use super::path::PathLimits;
use super::socket::PAYLOAD_MAX;
use super::tls::{self, RefusedKey};
use crate::names::Pin;

/// A handshake, its control stream and its Hello together.
pub(super) const GREETING: Duration = Duration::from_secs(10);

/// The streams a client may open before the server knows it: the control stream.
const UNKNOWN_CLIENT: u32 = 1;

/// Room in the connection's window for the control stream and what else the peer opens by itself.
const OWN_STREAMS: u64 = 8;

/// Datagrams that wait to be sent on one link.
const DATAGRAMS_OUT: usize = 256 * 1024;

/// Datagrams that wait for the link's reader, which wakes for each: what one pass over the socket brings,
/// a few times over. The server's is small, because a peer that nobody knows yet can fill it.
const SERVER_DATAGRAMS_IN: usize = 128 * 1024;
const CLIENT_DATAGRAMS_IN: usize = 512 * 1024;

/// What both ends of a link agree on or live with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Silence after which the client sends something. Below the 30 s after which NATs forget, and
    /// short, because the server reckons a client away after three of them.
    pub keep_alive: Duration,
    /// Silence after which QUIC gives up. Long: a laptop sleeps over a weekend, and liveness is not
    /// QUIC's to judge here. The smaller of both ends' counts.
    pub idle_timeout: Duration,
    /// Visits at once: the streams that the client allows and the server opens at most. QUIC keeps
    /// about 80 bytes for each on the allowing side, used or not: 40 KiB, and only in the client.
    pub streams: u32,
    /// Bytes of one stream that may wait unread: what a stalled reader costs. At 20 ms this gives a
    /// stream 200 Mbit/s.
    pub stream_window: u32,
    /// Bytes of one link sent and not yet acknowledged: what a peer that acknowledges nothing costs
    /// us. At 100 ms this gives a link 640 Mbit/s.
    pub send_window: u32,
    /// Which server of a cluster made a connection id; for a later load balancer to read.
    pub node: u8,
    /// Handshakes in progress above which an address must first prove that it receives (Retry).
    /// Spoofed packets pin at most so many half-open connections, for ten seconds.
    pub handshakes_unproved: usize,
    /// Handshakes in progress above which further ones are left unanswered; clients ask again by
    /// themselves within the second. A thousand returning clients fit.
    pub handshakes: usize,
    /// What WebSocket paths may cost the server.
    pub paths: PathLimits,
}

impl LinkSettings {
    /// Silence after which a WebSocket is given up: never what a link's own keep-alives leave between them.
    pub(super) fn path_idle(&self) -> Duration {
        self.paths.idle.max(3 * self.keep_alive)
    }
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(72 * 3600),
            streams: 512,
            stream_window: 512 * 1024,
            send_window: 8 * 1024 * 1024,
            node: 0,
            handshakes_unproved: 64,
            handshakes: 1024,
            paths: PathLimits::default(),
        }
    }
}

/// Payloads up to this size, which is quinn's own choice, pass nearly everywhere.
const PAYLOAD_USUAL: u16 = 1452;

/// What the two ends share. Datagrams, GSO and MTU discovery: quinn's own ways, but for what stands here.
/// `payload` is what the first step of the way takes; QUIC probes whether the rest does.
fn shared(settings: &LinkSettings, payload: Option<u16>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // The flow-control rule: every stream may fill its own window and the connection's still has
    // room, so no set of stalled readers ever holds up the others.
    let window = (u64::from(settings.streams) + OWN_STREAMS) * u64::from(settings.stream_window);
    transport
        .stream_receive_window(settings.stream_window.into())
        .receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX))
        .send_window(settings.send_window.into())
        .max_idle_timeout(Some(idle(settings.idle_timeout)))
        // Every stream of ours has two directions.
        .max_concurrent_uni_streams(0u32.into())
        // Of udp tunnels. What waits to be sent: a burst of the largest payloads; of more, the oldest go.
        .datagram_send_buffer_size(DATAGRAMS_OUT)
        // Handshake bytes that arrive out of order. Ours are under 3 KiB, a post-quantum hello included.
        .crypto_buffer_size(8 * 1024)
        // CUBIC, which is quinn's own choice, and a way past it after an outage.
        .congestion_controller_factory(Arc::new(Kickable::default()));
    if let Some(payload) = payload.filter(|payload| *payload > PAYLOAD_USUAL) {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(payload);
        transport.mtu_discovery_config(Some(discovery));
    }
    transport
}

fn idle(timeout: Duration) -> IdleTimeout {
    IdleTimeout::try_from(timeout).unwrap_or_else(|_| VarInt::MAX.into())
}

fn client_transport(settings: &LinkSettings, payload: Option<u16>) -> TransportConfig {
    let mut transport = shared(settings, payload);
    transport
        .datagram_receive_buffer_size(Some(CLIENT_DATAGRAMS_IN))
        .max_concurrent_bidi_streams(settings.streams.into())
        // The client's alone: it is the one behind a NAT, and one side keeps both alive.
        .keep_alive_interval(Some(settings.keep_alive));
    transport
}

fn server_transport(settings: &LinkSettings, payload: Option<u16>) -> TransportConfig {
    let mut transport = shared(settings, payload);
    transport
        .datagram_receive_buffer_size(Some(SERVER_DATAGRAMS_IN))
        .max_concurrent_bidi_streams(UNKNOWN_CLIENT.into());
    transport
}

/// The server's configuration of links.
pub(super) fn server(
    identity: &Identity,
    settings: &LinkSettings,
) -> Result<ServerConfig, LinkError> {
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wormkey address tokens")
        .extract(&identity.derive("address tokens"));
    let mut config = ServerConfig::new(Arc::new(tls::server(identity)?), Arc::new(token_key));
    config
        .transport_config(Arc::new(server_transport(settings, None)))
        // Attempts that wait for us to look at them; we look at once, so few ever do. Above it new
        // ones are dropped, which is what a flood deserves and a client's retransmission survives.
        .max_incoming(settings.handshakes)
        // More packets of an attempt nobody has looked at yet: a client sends two or three.
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(4 * 1024 * 1024);
    Ok(config)
}

/// The same for a client towards which the first step takes so much; unchanged where that is nothing more.
pub(super) fn server_for(
    config: &Arc<ServerConfig>,
    settings: &LinkSettings,
    payload: Option<u16>,
) -> Arc<ServerConfig> {
    if payload.is_none_or(|payload| payload <= PAYLOAD_USUAL) {
        return Arc::clone(config);
    }
    let mut config = ServerConfig::clone(config);
    config.transport_config(Arc::new(server_transport(settings, payload)));
    Arc::new(config)
}

/// A client's endpoint, for a way whose first step takes so much.
pub(super) fn client_endpoint(payload: Option<u16>) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    if payload.is_some_and(|payload| payload > PAYLOAD_USUAL) {
        take_large_payloads(&mut config);
    }
    config
}

fn take_large_payloads(config: &mut EndpointConfig) {
    config
        .max_udp_payload_size(PAYLOAD_MAX)
        .expect("it is within what QUIC allows");
}

/// What makes and recognises the server's own connection ids.
pub(super) fn own_cids(identity: &Identity, settings: &LinkSettings) -> OwnCids {
    OwnCids::new(settings.node, &identity.derive("connection ids"))
}

/// The server's endpoint. Its keys come from the identity, so a restarted server recognises packets
/// for the process before it and tells their senders, instead of staying silent.
pub(super) fn server_endpoint(identity: &Identity, settings: &LinkSettings) -> EndpointConfig {
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &identity.derive("stateless reset"));
    let cids = own_cids(identity, settings);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config
        .cid_generator(move || Box::new(cids.clone()))
        // Resets go only to connection ids of our own make, so they cannot be drawn by junk; a
        // thousand clients that come back at once should all be told within their keep-alive.
        .min_reset_interval(Duration::from_millis(1));
    take_large_payloads(&mut config);
    config
}

/// A client's configuration for one attempt: tagged for the server of `tag`, taking any of `pins`;
/// `payload` is what the first step there takes.
pub(super) fn client(
    identity: &Identity,
    settings: &LinkSettings,
    tag: Pin,
    pins: &[Pin],
    tokens: Arc<dyn quinn::TokenStore>,
    payload: Option<u16>,
) -> Result<(ClientConfig, Arc<RefusedKey>), LinkError> {
    let (tls, refused) = tls::client(identity, pins)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config
        .transport_config(Arc::new(client_transport(settings, payload)))
        .token_store(tokens)
        .initial_dst_cid_provider(Arc::new(move || -> ConnectionId { cid::first_cid(&tag) }));
    Ok((config, refused))
}
