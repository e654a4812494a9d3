//! A visitor: real TLS with a CA of the test's own, HTTP/1.1 and HTTP/2 by hyper's client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A CA and a wildcard leaf for the tunnel domain, as files.
pub(crate) struct Ca {
    der: CertificateDer<'static>,
    leaf: PathBuf,
    key: PathBuf,
}

impl Ca {
    pub(crate) fn new(dir: &Path, domain: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let own = ["app.example.org", "*.wide.example.org"].map(str::to_owned);
        let names = [vec![domain.to_owned(), format!("*.{domain}")], own.to_vec()].concat();
        let leaf = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let this = Self {
            der: ca_cert.der().clone(),
            leaf: dir.join("leaf.pem"),
            key: dir.join("leaf.key"),
        };
        std::fs::write(&this.leaf, leaf.pem()).unwrap();
        std::fs::write(&this.key, key.serialize_pem()).unwrap();
        this
    }

    /// For an origin that has the leaf.
    pub(crate) fn server_config(&self) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_file_iter(&self.leaf).unwrap();
        let chain = chain.map(|cert| cert.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }

    pub(crate) fn leaf_file(&self) -> &Path {
        &self.leaf
    }

    pub(crate) fn key_file(&self) -> &Path {
        &self.key
    }
}

/// What came back, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `wormkey-error` of an answer that is ours.
    pub(crate) fn error(&self) -> &str {
        self.fields
            .get("wormkey-error")
            .map_or("", |v| v.to_str().unwrap())
    }
}

/// Somebody who visits one name.
#[derive(Clone)]
pub(crate) struct Visitor {
    addr: SocketAddr,
    host: String,
    roots: Arc<rustls::RootCertStore>,
}

impl Visitor {
    pub(crate) fn new(ca: &Ca, addr: SocketAddr, host: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der.clone()).unwrap();
        Self {
            addr,
            host: host.to_owned(),
            roots: Arc::new(roots),
        }
    }

    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.addr.port())
    }

    /// A TLS connection with this ALPN.
    pub(crate) async fn connect(&self, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    }

    /// One request over HTTP/1.1, on a connection of its own; the answer with its body still arriving.
    pub(crate) async fn send1(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let tls = self.connect("http/1.1").await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection.with_upgrades());
        request
            .headers_mut()
            .entry("host")
            .or_insert(self.authority().parse().unwrap());
        sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())
    }

    /// One request over HTTP/2.
    pub(crate) async fn send2(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let tls = self.connect("h2").await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let uri = format!("https://{}{}", self.authority(), request.uri());
        *request.uri_mut() = uri.parse().unwrap();
        sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())
    }

    /// GET over HTTP/1.1, whole.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        whole(self.send1(get(path)).await.unwrap()).await.unwrap()
    }

    /// GET over HTTP/2, whole.
    pub(crate) async fn get2(&self, path: &str) -> Answer {
        whole(self.send2(get(path)).await.unwrap()).await.unwrap()
    }

    /// GET, also when the connection cannot be made or breaks.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Answer, String> {
        let work = async { whole(self.send1(get(path)).await?).await };
        tokio::time::timeout(Duration::from_secs(20), work)
            .await
            .map_err(|e| e.to_string())?
    }
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(body.into())).unwrap()
}

/// Reads an answer to its end; an abort is an error.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Answer, String> {
    let (head, body) = response.into_parts();
    let collected = body
        .collect()
        .await
        .map_err(|e| format!("body broke off: {e}"))?;
    Ok(Answer {
        status: head.status,
        fields: head.headers,
        body: collected.to_bytes(),
    })
}
