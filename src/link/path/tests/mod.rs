//! Real sockets on loopback: a server with UDP and, on the same port, TLS and HTTP; a client whose
//! UDP can be cut; and a proxy that can be stalled.

mod dialing;
mod hostile;
mod moving;
mod proxies;

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{CONNECT, Fallback, SessionEnd, accept, probe};
use crate::link::socket::{Family, MakeSocket};
use crate::link::tests::{both, bytes_head, hello, recv, secs, send};
use crate::link::{
    ControlRecv, ControlSend, Dialer, Identity, Link, LinkError, LinkRecv, LinkSend, LinkSettings,
    Listener, socket,
};
use crate::names::Pin as KeyPin;
use crate::tasks::Tasks;

/// UDP that can be cut, both ways, or starved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switch(Arc<Cuts>);

#[derive(Debug, Default)]
struct Cuts {
    blocked: AtomicBool,
    starved: AtomicBool,
}

impl Switch {
    fn block(&self) {
        self.0.blocked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unblock(&self) {
        self.0.blocked.store(false, Ordering::Relaxed);
        self.0.starved.store(false, Ordering::Relaxed);
    }

    /// The question whether UDP works passes, and its answer; no packet of a link does.
    pub(crate) fn starve(&self) {
        self.0.starved.store(true, Ordering::Relaxed);
    }

    fn blocked(&self) -> bool {
        self.0.blocked.load(Ordering::Relaxed)
    }

    fn lets_out(&self, packet: &[u8]) -> bool {
        let starved = self.0.starved.load(Ordering::Relaxed);
        !self.blocked() && (!starved || probe::is_question(packet))
    }

    fn socket(&self) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Cut {
            inner: socket::bind_any(Family::Either).unwrap(),
            switch: self.clone(),
        })
    }
}

#[derive(Debug)]
struct Cut {
    inner: Arc<dyn AsyncUdpSocket>,
    switch: Switch,
}

impl AsyncUdpSocket for Cut {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self.switch.lets_out(transmit.contents) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received
            && self.switch.blocked()
        {
            meta[..count].iter_mut().for_each(|meta| meta.len = 0);
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// A server, with all its parts.
pub(crate) struct Office {
    key: Identity,
    listener: Arc<Listener>,
    /// `localhost:port`, for UDP and TCP alike.
    pub(crate) address: String,
    authority: CertificateDer<'static>,
    /// How sessions ended.
    ends: mpsc::Receiver<SessionEnd>,
    /// Cuts the WebSockets that are there.
    pub(crate) cut: watch::Sender<()>,
    tasks: Tasks,
}

impl Drop for Office {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Office {
    pub(crate) async fn open() -> Self {
        let key = Identity::ephemeral().unwrap();
        let settings = LinkSettings::default();
        let (tcp, listener) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // Somebody else may have that port for UDP.
            if let Ok(listener) = Listener::bind(tcp.local_addr().unwrap(), &key, &settings) {
                break (tcp, Arc::new(listener));
            }
        };
        let address = format!("localhost:{}", listener.local_addr().port());
        let (authority, acceptor) = certificates();
        let (ended, ends) = mpsc::channel(16);
        let (cut, cuts) = watch::channel(());
        let tasks = Tasks::new();
        let https = Https {
            listener: Arc::clone(&listener),
            acceptor,
            ended,
            cuts,
            tasks: tasks.clone(),
        };
        let stop = tasks.stopped();
        tasks.spawn("https", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = https.serve(tcp) => {}
            }
        });
        Self {
            key,
            listener,
            address,
            authority,
            ends,
            cut,
            tasks,
        }
    }

    pub(crate) fn fallback(&self) -> Fallback {
        Fallback {
            roots: vec![self.authority.clone()],
            ..Fallback::to(&self.address)
        }
    }

    /// Both ends of a link that `dialer` makes, over whatever works.
    pub(crate) async fn link(&self, dialer: &Dialer, fallback: Option<&Fallback>) -> Ends {
        let pins = [self.key.pin()];
        let (dialled, arrived) = both(
            dialer.dial_with(&self.address, &pins, hello(), fallback),
            async {
                loop {
                    let arriving = self.listener.accept().await.unwrap();
                    // Of two attempts side by side, one is given up.
                    if let Ok(arrived) = arriving.establish().await {
                        return arrived;
                    }
                }
            },
        )
        .await;
        let (client, cs, cr) = dialled.unwrap();
        let (server, ss, sr, _) = arrived;
        Ends {
            client,
            server,
            _control: (cs, cr, ss, sr),
        }
    }

    async fn refused(&self, dialer: &Dialer, pins: &[KeyPin], fallback: &Fallback) -> LinkError {
        let dialling = dialer.dial_with(&self.address, pins, hello(), Some(fallback));
        tokio::select! {
            dialled = dialling => dialled.map(|_| ()).unwrap_err(),
            _ = self.listener.accept() => panic!("a link arrived"),
        }
    }

    async fn session_end(&mut self) -> SessionEnd {
        let end = timeout(secs(10), self.ends.recv()).await;
        end.expect("a session goes on").unwrap()
    }
}

pub(crate) fn dialer(switch: &Switch) -> Dialer {
    let switch = switch.clone();
    let sockets: MakeSocket = Arc::new(move |_| Ok(switch.socket()));
    let runtime = Arc::new(quinn::TokioRuntime);
    let identity = Identity::ephemeral().unwrap();
    Dialer::from(sockets, runtime, &identity, &LinkSettings::default()).unwrap()
}

/// An authority called "Gatekeepers (Inspection)", and TLS for `localhost` with it.
fn certificates() -> (CertificateDer<'static>, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, "Gatekeepers");
    name.push(DnType::CommonName, "Inspection");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    (authority.der().clone(), acceptor)
}

/// What an edge does with `/connect`.
#[derive(Clone)]
struct Https {
    listener: Arc<Listener>,
    acceptor: TlsAcceptor,
    ended: mpsc::Sender<SessionEnd>,
    cuts: watch::Receiver<()>,
    tasks: Tasks,
}

impl Https {
    async fn serve(self, tcp: TcpListener) {
        loop {
            let (stream, peer) = tcp.accept().await.unwrap();
            let https = self.clone();
            let stop = self.tasks.stopped();
            self.tasks.spawn("https-connection", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = https.connection(stream, peer) => {}
                }
            });
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        let Ok(stream) = self.acceptor.clone().accept(stream).await else {
            return;
        };
        let service = service_fn(|request| {
            let response = self.answer(request, peer);
            async { Ok::<_, std::convert::Infallible>(response) }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Empty<Bytes>> {
        if request.uri().path() != CONNECT {
            return status(StatusCode::NOT_FOUND);
        }
        match accept(&request) {
            Err(bad) => status(bad.status()),
            Ok(response) => {
                let upgrading = hyper::upgrade::on(&mut request);
                let https = self.clone();
                self.tasks.spawn("websocket", async move {
                    let io = TokioIo::new(upgrading.await.unwrap());
                    https.session(io, peer).await;
                });
                response.map(|()| Empty::new())
            }
        }
    }

    async fn session(mut self, io: TokioIo<hyper::upgrade::Upgraded>, peer: SocketAddr) {
        self.cuts.mark_unchanged();
        let stop = self.tasks.stopped();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = self.cuts.changed() => {}
            end = self.listener.attach_path(io, peer) => {
                let _ = self.ended.send(end.unwrap()).await;
            }
        }
    }
}

fn status(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

/// Both ends of a link.
pub(crate) struct Ends {
    pub(crate) client: Link,
    server: Link,
    _control: (ControlSend, ControlRecv, ControlSend, ControlRecv),
}

/// A stream whose other end gives back what comes.
struct Echo {
    tx: LinkSend,
    rx: LinkRecv,
    _tasks: Stopping,
}

struct Stopping(Tasks);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

const TEN_MB: usize = 10_000_000;

impl Ends {
    async fn echo(&self) -> Echo {
        let (opened, accepted) = both(self.server.open(&bytes_head()), self.client.accept()).await;
        let (tx, rx) = opened.unwrap();
        let (_, mut back, mut from) = accepted.unwrap();
        let tasks = Tasks::new();
        let stop = tasks.stopped();
        tasks.spawn("echo", async move {
            let echo = async {
                while let Ok(Some(chunk)) = recv(&mut from).await {
                    if send(&mut back, chunk).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = echo => {}
            }
        });
        Echo {
            tx,
            rx,
            _tasks: Stopping(tasks),
        }
    }
}

impl Echo {
    /// Sends `count` bytes, and sees them come back as they were.
    async fn round(&mut self, count: usize) {
        let body: Vec<u8> = (0..count).map(|at| (at % 251) as u8).collect();
        let sending = send(&mut self.tx, Bytes::from(body.clone()));
        let receiving = async {
            let mut back = Vec::with_capacity(count);
            while back.len() < count {
                back.extend_from_slice(&recv(&mut self.rx).await.unwrap().unwrap());
            }
            back
        };
        let (sent, back) = timeout(secs(60), async { tokio::join!(sending, receiving) })
            .await
            .expect("the echo stands still");
        sent.unwrap();
        assert!(back == body, "the echo differs");
    }
}
