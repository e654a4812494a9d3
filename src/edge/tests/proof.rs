//! What an authority sees when it looks.

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::tls;
use super::*;

const PATH: &str = "/.well-known/acme-challenge/token";

struct One;

impl ShowProofs for One {
    fn text(&self, asked: &Hostname, path: &str) -> Option<String> {
        (*asked == host("own.example") && path == PATH).then(|| "token.thumb".to_owned())
    }
}

async fn ask(address: SocketAddr, method: &str, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_running_proof_is_told_and_the_rest_is_what_it_was() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.edge.serve_http(listener);
    let before = ask(address, "GET", "own.example", PATH).await;
    assert_eq!(status(&before), 404, "{before}");
    world.edge.show_proofs(Arc::new(One));
    let told = ask(address, "GET", "own.example", PATH).await;
    assert_eq!(status(&told), 200);
    assert!(told.ends_with("\r\n\r\ntoken.thumb"), "{told}");
    let head = ask(address, "HEAD", "own.example", PATH).await;
    assert!(head.contains("content-length: 11"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let other = format!("{PATH}2");
    for (method, host, path, expected) in [
        ("GET", "own.example", &*other, 404),
        ("GET", "app.t.example", PATH, 308),
        ("POST", "own.example", PATH, 404),
    ] {
        let answer = ask(address, method, host, path).await;
        assert_eq!(status(&answer), expected, "{method} {host}{path}");
    }
    assert!(world.tasks.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn no_http_follows_a_look_over_tls() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let key = tls::self_signed(&dir.path().join("edge.pem"), &host("t.example")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert[0].clone()).unwrap();
    let config = tls::server_config(tls::CertStore::new(key)).unwrap();
    let mut config = rustls::ServerConfig::clone(&config);
    config.alpn_protocols.push(tls::ALPN_ACME.to_vec());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.edge.serve_https(listener, Arc::new(config));

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN_ACME.to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("app.t.example").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    // It may be closed before or after this is on its way; no answer comes in either case.
    let _ = tls
        .write_all(b"GET / HTTP/1.1\r\nHost: app.t.example\r\n\r\n")
        .await;
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    assert!(world.tasks.shutdown(Duration::from_secs(5)).await);
}
