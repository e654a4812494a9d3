//! Public ports over loopback, with a client at the far end that the tests play themselves.

use std::sync::Weak;

use tokio::net::{TcpStream, UdpSocket};

use super::*;
use crate::wire::memory::{MemoryFlow, flow};
use crate::wire::udp::{Datagrams as _, FlowEnd};
use crate::wire::{BytesHead, RecvChunks as _, SendChunks as _, StreamError, UdpHead, send_all};

const STUCK: Duration = Duration::from_secs(10);

/// Admits everything; hands every stream and every flow to the test.
#[derive(Clone)]
struct Client {
    streams: mpsc::Sender<(BytesHead, MemoryRecv, MemorySend)>,
    flows: mpsc::Sender<(UdpHead, MemoryFlow)>,
    cut: CancellationToken,
    offline: CancellationToken,
    guards: Arc<()>,
}

impl Admit for Client {
    async fn admit(&self, visit: Visit) -> Result<Pass, Refusal> {
        Ok(Pass {
            route: Route {
                visit: visit.id,
                tunnel: visit.label.parse().unwrap(),
                slug: Slug::parse("db").unwrap(),
                link: LinkId(Generation {
                    boot: 1,
                    counter: 1,
                }),
                policy: Arc::default(),
                rule: RuleId::Default,
                shadowed: Vec::new(),
                bandwidth: Bandwidth::UNLIMITED,
            },
            cut: self.cut.clone(),
            offline: self.offline.clone(),
            rates: Rates::default(),
            guard: Box::new(Arc::clone(&self.guards)),
        })
    }

    fn probe(&self, _: VisitId, label: &str) -> Result<Pass, Refusal> {
        Err(Refusal::NoRoute { host: label.into() })
    }
}

impl OpenStream for Client {
    type Tx = MemorySend;
    type Rx = MemoryRecv;

    async fn open(
        &self,
        _: LinkId,
        head: &StreamHead,
    ) -> Result<(MemorySend, MemoryRecv), OpenError> {
        let StreamHead::Bytes(head) = head else {
            panic!("the edge opened {head:?}");
        };
        let (tx, far_rx) = pipe(WINDOW);
        let (far_tx, rx) = pipe(WINDOW);
        let stream = (head.clone(), far_rx, far_tx);
        self.streams.send(stream).await.unwrap();
        Ok((tx, rx))
    }
}

impl OpenFlow for Client {
    type Flow = MemoryFlow;

    async fn open_flow(&self, _: LinkId, head: UdpHead) -> Result<MemoryFlow, OpenError> {
        let (near, far) = flow();
        self.flows.send((head, far)).await.unwrap();
        Ok(near)
    }
}

impl Attach for Client {
    const DOOR: &'static str = "/door";

    type Place = ();

    fn judge(&self, _: &Request<()>, _: SocketAddr) -> Result<(Response<()>, ()), StatusCode> {
        Err(StatusCode::NOT_FOUND)
    }

    async fn attach<I>(&self, _: I, (): ())
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
    }
}

struct Ports {
    edge: Edge<Client>,
    client: Client,
    streams: mpsc::Receiver<(BytesHead, MemoryRecv, MemorySend)>,
    flows: mpsc::Receiver<(UdpHead, MemoryFlow)>,
    tunnel: TunnelId,
    _tasks: Tasks,
}

impl Ports {
    fn with(change: impl FnOnce(&mut EdgeSettings)) -> Self {
        let mut settings = EdgeSettings::new(host("t.example"), 443);
        change(&mut settings);
        let (streams_tx, streams) = mpsc::channel(16);
        let (flows_tx, flows) = mpsc::channel(16);
        let client = Client {
            streams: streams_tx,
            flows: flows_tx,
            cut: CancellationToken::new(),
            offline: CancellationToken::new(),
            guards: Arc::new(()),
        };
        let tasks = Tasks::new();
        Self {
            edge: Edge::new(settings, client.clone(), tasks.clone()),
            client,
            streams,
            flows,
            tunnel: TunnelId::random(),
            _tasks: tasks,
        }
    }

    async fn tcp(&self) -> (Arc<TcpListener>, SocketAddr) {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let closed = CancellationToken::new();
        self.edge
            .serve_tcp(Arc::downgrade(&listener), self.tunnel, closed);
        (listener, address)
    }

    async fn udp(&self) -> (Arc<UdpSocket>, SocketAddr) {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let weak: Weak<UdpSocket> = Arc::downgrade(&socket);
        self.edge
            .serve_udp(weak, self.tunnel, CancellationToken::new());
        (socket, address)
    }

    /// The engine has all its visits back.
    async fn is_empty(&self) {
        let gone = async {
            // The client and its clone in the edge have one each.
            while Arc::strong_count(&self.client.guards) > 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(gone).await;
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(STUCK, what)
        .await
        .expect("it comes in time")
}

async fn recv(rx: &mut MemoryRecv) -> Result<Bytes, StreamError> {
    let mut chunk = [Bytes::new()];
    soon(std::future::poll_fn(|cx| rx.poll_recv(cx, &mut chunk))).await?;
    let [chunk] = chunk;
    Ok(chunk)
}

async fn ends_with(tcp: &mut TcpStream) -> Result<Vec<u8>, std::io::ErrorKind> {
    let mut all = Vec::new();
    let read = soon(tcp.read_to_end(&mut all)).await;
    read.map(|_| all).map_err(|e| e.kind())
}

#[tokio::test]
async fn ends_and_resets_go_through_as_what_they_are() {
    let mut ports = Ports::with(|_| {});
    let (_listener, address) = ports.tcp().await;
    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (head, mut rx, mut tx) = soon(ports.streams.recv()).await.unwrap();
    assert_eq!((head.tunnel, head.local), (ports.tunnel, address));
    assert_eq!(head.peer, visitor.local_addr().unwrap());
    visitor.write_all(b"ask").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(recv(&mut rx).await.unwrap(), "ask");
    assert_eq!(recv(&mut rx).await.unwrap(), "");
    send_all(&mut tx, &mut ["tell".into()]).await.unwrap();
    tx.finish();
    assert_eq!(ends_with(&mut visitor).await.unwrap(), b"tell");

    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (_, _rx, mut tx) = soon(ports.streams.recv()).await.unwrap();
    tx.reset(StreamCode::OriginError);
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(ends_with(&mut visitor).await, reset);

    let visitor = TcpStream::connect(address).await.unwrap();
    let (_, mut rx, _tx) = soon(ports.streams.recv()).await.unwrap();
    visitor.set_zero_linger().unwrap();
    drop(visitor);
    let cancelled = Err(StreamError::Reset(StreamCode::Cancelled));
    assert_eq!(recv(&mut rx).await, cancelled);
    ports.is_empty().await;
}

#[tokio::test]
async fn what_the_origin_sent_before_it_broke_off_comes_before_the_reset() {
    let mut ports = Ports::with(|_| {});
    let (_listener, address) = ports.tcp().await;
    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (_, mut rx, mut tx) = soon(ports.streams.recv()).await.unwrap();
    send_all(&mut tx, &mut ["early ".into()]).await.unwrap();
    // The news may overtake what it is about.
    rx.stop(StreamCode::BrokeAfter(10));
    let mut early = [0; 6];
    soon(visitor.read_exact(&mut early)).await.unwrap();
    send_all(&mut tx, &mut ["late".into()]).await.unwrap();
    let mut late = [0; 4];
    soon(visitor.read_exact(&mut late)).await.unwrap();
    assert_eq!((&early, &late), (b"early ", b"late"));
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(ends_with(&mut visitor).await, reset);
    ports.is_empty().await;
}

#[tokio::test]
async fn a_visitor_who_resets_is_heard_while_the_client_takes_nothing() {
    let mut ports = Ports::with(|_| {});
    let (_listener, address) = ports.tcp().await;
    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (_, mut rx, _tx) = soon(ports.streams.recv()).await.unwrap();
    let fill = async { while visitor.write_all(&[1; 65_536]).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_millis(300), fill).await;
    visitor.set_zero_linger().unwrap();
    drop(visitor);
    ports.is_empty().await;
    let reset = async {
        loop {
            if let Err(error) = recv(&mut rx).await {
                return error;
            }
        }
    };
    assert_eq!(soon(reset).await, StreamError::Reset(StreamCode::Cancelled));
}

#[tokio::test]
async fn connections_are_bounded_idle_ones_are_cut_and_so_are_all_when_the_tunnel_ends() {
    let mut ports = Ports::with(|settings| {
        settings.raw_connections = 1;
        settings.raw_idle = Duration::from_millis(400);
    });
    let (_listener, address) = ports.tcp().await;
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    let mut first = TcpStream::connect(address).await.unwrap();
    let _stream = soon(ports.streams.recv()).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(ends_with(&mut second).await, reset, "one is the most");
    assert_eq!(ends_with(&mut first).await, reset, "nothing came");
    ports.is_empty().await;
    let mut third = TcpStream::connect(address).await.unwrap();
    let (_, mut rx, _tx) = soon(ports.streams.recv()).await.unwrap();
    ports.client.cut.cancel();
    assert_eq!(ends_with(&mut third).await, reset);
    let ended = Err(StreamError::Reset(StreamCode::TunnelEnded));
    assert_eq!(recv(&mut rx).await, ended);
    ports.is_empty().await;
}

#[tokio::test]
async fn a_connection_that_was_silent_for_an_hour_goes_on_where_it_was() {
    let mut ports = Ports::with(|_| {});
    let idle = ports.edge.inner.settings.load().raw_idle;
    assert!(
        idle > Duration::from_secs(3600),
        "an hour is not idle: {idle:?}"
    );
    let (_listener, address) = ports.tcp().await;
    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (_, mut rx, mut tx) = soon(ports.streams.recv()).await.unwrap();
    visitor.write_all(b"before").await.unwrap();
    assert_eq!(recv(&mut rx).await.unwrap(), "before");
    // From here on time jumps when nothing else can happen.
    tokio::time::pause();
    for turn in 0..3 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        // Either way, so that the silence of one alone is none.
        if turn % 2 == 0 {
            visitor.write_all(b"after").await.unwrap();
            assert_eq!(recv(&mut rx).await.unwrap(), "after");
        } else {
            send_all(&mut tx, &mut ["answer".into()]).await.unwrap();
            let mut answer = [0; 6];
            soon(visitor.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
    }
    // At the limit it ends, and not much later.
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let ended = visitor.read_to_end(&mut rest).await.map_err(|e| e.kind());
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
    let took = began.elapsed();
    assert!((idle..idle + idle / 8).contains(&took), "{took:?}");
    tokio::time::resume();
    ports.is_empty().await;
}

#[tokio::test]
async fn an_unanswered_visit_is_given_up_with_the_link_and_an_answered_one_is_not() {
    let mut ports = Ports::with(|_| {});
    let (_listener, address) = ports.tcp().await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let _silent = soon(ports.streams.recv()).await.unwrap();
    let mut talker = TcpStream::connect(address).await.unwrap();
    let (_, _rx, mut tx) = soon(ports.streams.recv()).await.unwrap();
    send_all(&mut tx, &mut ["hi".into()]).await.unwrap();
    soon(talker.read_u16()).await.unwrap();
    ports.client.offline.cancel();
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(ends_with(&mut silent).await, reset);
    send_all(&mut tx, &mut ["still here".into()]).await.unwrap();
    tx.finish();
    talker.shutdown().await.unwrap();
    assert_eq!(ends_with(&mut talker).await.unwrap(), b"still here");
}

async fn visitor_of(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    socket
}

async fn next(flow: &mut MemoryFlow) -> Result<Bytes, FlowEnd> {
    soon(std::future::poll_fn(|cx| flow.poll_recv(cx))).await
}

#[tokio::test]
async fn each_address_has_a_flow_that_ends_when_it_falls_silent() {
    let mut ports = Ports::with(|settings| settings.udp_idle = Duration::from_millis(300));
    let (_socket, address) = ports.udp().await;
    let (a, b) = (visitor_of(address).await, visitor_of(address).await);
    a.send(b"from a").await.unwrap();
    let (head, mut of_a) = soon(ports.flows.recv()).await.unwrap();
    assert_eq!((head.peer, head.idle_ms), (a.local_addr().unwrap(), 300));
    b.send(b"from b").await.unwrap();
    let (_, mut of_b) = soon(ports.flows.recv()).await.unwrap();
    assert_eq!(next(&mut of_a).await.unwrap(), "from a");
    assert_eq!(next(&mut of_b).await.unwrap(), "from b");
    of_b.send("to b".into());
    let mut room = [0; 16];
    let count = soon(b.recv(&mut room)).await.unwrap();
    assert_eq!(&room[..count], b"to b");
    assert_eq!(next(&mut of_a).await, Err(FlowEnd::Ended));
    assert_eq!(next(&mut of_b).await, Err(FlowEnd::Ended));
    ports.is_empty().await;
    // And comes again as a new one.
    a.send(b"again").await.unwrap();
    let (_, mut of_a) = soon(ports.flows.recv()).await.unwrap();
    assert_eq!(next(&mut of_a).await.unwrap(), "again");
}

#[tokio::test]
async fn flows_of_one_host_are_bounded_and_a_refused_one_does_not_ask_again_at_once() {
    let mut ports = Ports::with(|settings| settings.udp_flows = 4);
    let (_socket, address) = ports.udp().await;
    let mut flows = Vec::new();
    for _ in 0..2 {
        let visitor = visitor_of(address).await;
        visitor.send(b"x").await.unwrap();
        flows.push((visitor, soon(ports.flows.recv()).await.unwrap().1));
    }
    let third = visitor_of(address).await;
    third.send(b"x").await.unwrap();
    let none = tokio::time::timeout(Duration::from_millis(200), ports.flows.recv()).await;
    assert!(none.is_err(), "half of the flows are one host's");
    let (first, mut refused) = flows.remove(0);
    refused.fail(StreamCode::OriginUnreachable);
    drop(refused);
    first.send(b"y").await.unwrap();
    first.send(b"z").await.unwrap();
    let none = tokio::time::timeout(Duration::from_millis(200), ports.flows.recv()).await;
    assert!(none.is_err(), "what is refused is left alone for a while");
}
