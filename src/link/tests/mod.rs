//! Two endpoints on a network in memory, on paused time; and on loopback, where only the real thing will do.

mod asleep;
mod datagrams;
mod handshake;
mod health;
mod hostile;
mod loopback;
mod outages;
mod roaming;
mod sleeping;
mod stalled;
mod streams;
mod watched;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::memory::Network;
use super::socket::MakeSocket;
use super::{ControlRecv, ControlSend, Dialer, Identity, Link, LinkError, LinkSettings, Listener};
use super::{LinkRecv, LinkSend, transport};
use crate::names::{TunnelId, VisitId};
use crate::wire::{BytesHead, Capabilities, Hello, HttpHead, RecvChunks, StreamError, StreamHead};

/// A server on a network of its own.
pub(super) struct World {
    pub(super) network: Network,
    pub(super) settings: LinkSettings,
    pub(super) key: Identity,
    pub(super) address: SocketAddr,
    pub(super) listener: Arc<Listener>,
}

/// Both ends of one link.
struct Ends {
    client: Link,
    client_send: ControlSend,
    client_recv: ControlRecv,
    server: Link,
    server_send: ControlSend,
    server_recv: ControlRecv,
    hello: Hello,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(LinkSettings::default())
    }

    pub(in crate::link) fn with(settings: LinkSettings) -> Self {
        let network = Network::default();
        let key = Identity::ephemeral().unwrap();
        let address = "10.0.0.1:443".parse().unwrap();
        let listener = Listener::on(network.socket(address), &key, &settings).unwrap();
        Self {
            network,
            settings,
            key,
            address,
            listener: Arc::new(listener),
        }
    }

    /// Kills the server and starts it again: same key, same address, no memory.
    fn restart(&mut self) {
        let socket = self.network.socket(self.address);
        self.listener = Arc::new(Listener::on(socket, &self.key, &self.settings).unwrap());
    }

    /// A dialer of a new device.
    pub(super) fn dialer(&self) -> Dialer {
        self.dialer_of(&Identity::ephemeral().unwrap())
    }

    fn dialer_of(&self, identity: &Identity) -> Dialer {
        let network = self.network.clone();
        let sockets: MakeSocket = Arc::new(move |_| Ok(network.client_socket()));
        let runtime = Arc::new(quinn::TokioRuntime);
        Dialer::from(sockets, runtime, identity, &self.settings).unwrap()
    }

    async fn link(&self) -> Ends {
        self.link_by(&self.dialer()).await
    }

    async fn link_by(&self, dialer: &Dialer) -> Ends {
        let (dialled, arrived) = both(self.dial(dialer), self.establish()).await;
        let (client, client_send, client_recv) = dialled.unwrap();
        let (server, server_send, server_recv, hello) = arrived.unwrap();
        Ends {
            client,
            client_send,
            client_recv,
            server,
            server_send,
            server_recv,
            hello,
        }
    }

    async fn dial(&self, dialer: &Dialer) -> Result<(Link, ControlSend, ControlRecv), LinkError> {
        let pins = [self.key.pin()];
        dialer.dial(&self.address.to_string(), &pins, hello()).await
    }

    async fn establish(&self) -> Result<(Link, ControlSend, ControlRecv, Hello), LinkError> {
        let arriving = self.listener.accept().await.unwrap();
        arriving.establish().await
    }

    /// A client that does as it likes: tagged, with a key, and nothing sent yet.
    async fn stranger(&self) -> quinn::Connection {
        self.connect(self.client_config()).await.unwrap()
    }

    fn client_config(&self) -> quinn::ClientConfig {
        let identity = Identity::ephemeral().unwrap();
        let pin = self.key.pin();
        let tokens = Arc::new(quinn::NoneTokenStore);
        let made = transport::client(&identity, &self.settings, pin, &[pin], tokens, None);
        made.unwrap().0
    }

    async fn connect(
        &self,
        config: quinn::ClientConfig,
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        self.connecting(self.network.client_socket(), config).await
    }

    fn connecting(
        &self,
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        config: quinn::ClientConfig,
    ) -> quinn::Connecting {
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            None,
            socket,
            Arc::new(quinn::TokioRuntime),
        );
        let connecting = endpoint.unwrap().connect_with(config, self.address, "test");
        connecting.unwrap()
    }
}

pub(in crate::link) fn hello() -> Hello {
    Hello {
        versions: vec![1],
        capabilities: Capabilities::OURS,
        software: "wormkeyd test".into(),
        device_name: "laptop".into(),
        enrolling: false,
    }
}

pub(in crate::link) fn bytes_head() -> StreamHead {
    StreamHead::Bytes(BytesHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        peer: "192.0.2.1:5000".parse().unwrap(),
        local: "192.0.2.2:20000".parse().unwrap(),
        sni: Some("app.t.example.com".into()),
        shadowed: Vec::new(),
    })
}

fn http_head() -> StreamHead {
    StreamHead::Http(Box::new(HttpHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        method: http::Method::GET,
        scheme: "https".into(),
        authority: "app.t.example.com".into(),
        path: "/".into(),
        fields: http::HeaderMap::new(),
        peer: "192.0.2.1:5000".parse().unwrap(),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 0,
        shadowed: Vec::new(),
    }))
}

pub(in crate::link) async fn recv(stream: &mut LinkRecv) -> Result<Option<Bytes>, StreamError> {
    let mut chunk = [Bytes::new()];
    let count = poll_fn(|cx| stream.poll_recv(cx, &mut chunk)).await?;
    let [chunk] = chunk;
    Ok((count > 0).then_some(chunk))
}

/// All that comes, up to the end.
async fn recv_all(stream: &mut LinkRecv) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(chunk) = recv(stream).await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

pub(in crate::link) async fn send(
    stream: &mut LinkSend,
    bytes: impl Into<Bytes>,
) -> Result<(), StreamError> {
    crate::wire::send_all(stream, &mut [bytes.into()]).await
}

/// Both to their ends. A test that fails must not wait for ever, least of all on paused time.
pub(in crate::link) async fn both<A, B>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
) -> (A, B) {
    timeout(secs(600), async { tokio::join!(a, b) })
        .await
        .expect("an end waits for ever")
}

pub(in crate::link) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
