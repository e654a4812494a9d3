//! The listeners on loopback, with TLS for real.

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

struct Secure {
    world: World,
    address: SocketAddr,
    roots: rustls::RootCertStore,
    _dir: tempfile::TempDir,
}

async fn secure() -> Secure {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let key =
        super::super::tls::self_signed(&dir.path().join("edge.pem"), &host("t.example")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert[0].clone()).unwrap();
    let config = super::super::tls::server_config(super::super::tls::CertStore::new(key)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.edge.serve_https(listener, config);
    Secure {
        world,
        address,
        roots,
        _dir: dir,
    }
}

impl Secure {
    async fn visit(&self, name: &str, request: &str) -> String {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap();
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        tls.read_to_end(&mut response).await.unwrap();
        String::from_utf8(response).unwrap()
    }
}

#[tokio::test]
async fn a_visit_over_tls_reaches_the_client() {
    let mut secure = secure().await;
    let mut streams = std::mem::replace(&mut secure.world.streams, mpsc::unbounded_channel().1);
    let request = "GET /x HTTP/1.1\r\nHost: app.t.example\r\nConnection: close\r\n\r\n";
    let (response, stream) = tokio::join!(secure.visit("app.t.example", request), async {
        let stream = streams.recv().await.unwrap();
        assert_eq!(stream.head.peer.ip(), std::net::Ipv4Addr::LOCALHOST);
        stream.answer(200, &[("content-length", "2")], "ok").await;
    });
    let () = stream;
    assert!(response.ends_with("ok"), "{response}");
    let wrong = "GET / HTTP/1.1\r\nHost: other.t.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&secure.visit("app.t.example", wrong).await), 421);
    let bad = "GET / HTTP/1.1\r\nHost: app.t.example\nX: y\r\n\r\n";
    assert_eq!(status(&secure.visit("app.t.example", bad).await), 400);
    assert!(secure.world.tasks.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_connection_over_the_bound_is_closed_and_the_next_is_served() {
    let world = World::with(|s| s.connections_max = 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.edge.serve_http(listener);
    let mut first = TcpStream::connect(address).await.unwrap();
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: app.t.example\r\n\r\n")
        .await
        .unwrap();
    let mut room = [0; 1024];
    assert!(first.read(&mut room).await.unwrap() > 0);
    assert_eq!(world.edge.connections(), 1);
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(second.read(&mut room).await.unwrap(), 0);
    drop(first);
    while world.edge.connections() > 0 {
        tokio::task::yield_now().await;
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    third
        .write_all(b"GET / HTTP/1.1\r\nHost: app.t.example\r\n\r\n")
        .await
        .unwrap();
    assert!(third.read(&mut room).await.unwrap() > 0);
    assert!(world.edge.drain(Duration::from_secs(5)).await);
}
