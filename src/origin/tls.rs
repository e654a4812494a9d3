//! TLS to `https://` origins: certificates as the platform trusts them, or any at all for a target that
//! was written `https+insecure://`. Not the link's TLS, which knows no certificate authority.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::blocking;
use super::socket::Socket;

/// Why the client cannot reach origins at all.
#[derive(Debug, thiserror::Error)]
pub enum OriginSetupError {
    /// rustls refuses its own provider.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Settings for TLS to origins.
#[derive(Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    insecure: Pair,
    /// Made at the first `https://` dial: loading the trust store takes a while, most clients never
    /// need it, and one without a trust store must still serve its plain origins.
    trusted: OnceCell<Result<Pair, rustls::Error>>,
}

/// The same settings with and without HTTP/2: an upgrade needs HTTP/1.1.
#[derive(Debug)]
struct Pair {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new() -> Result<Self, OriginSetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let anyone = Arc::new(Anyone(Arc::clone(&provider)));
        Ok(Self {
            insecure: pair(&provider, anyone).map_err(OriginSetupError::Tls)?,
            provider,
            trusted: OnceCell::new(),
        })
    }

    /// Agrees on TLS; the caller bounds the time.
    pub(super) async fn connect(
        &self,
        host: &str,
        verify: bool,
        http1_only: bool,
        socket: Socket,
    ) -> io::Result<TlsStream<Socket>> {
        let pair = if verify {
            let provider = Arc::clone(&self.provider);
            let load = move || {
                let verifier = Verifier::new(Arc::clone(&provider))?;
                pair(&provider, Arc::new(verifier))
            };
            let trusted = self.trusted.get_or_init(|| blocking(load)).await;
            trusted.as_ref().map_err(|e| io::Error::other(e.clone()))?
        } else {
            &self.insecure
        };
        let config = if http1_only { &pair.http1 } else { &pair.any };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(config))
            .connect(name, socket)
            .await
    }
}

fn pair(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Pair, rustls::Error> {
    let mut http1 = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut any = http1.clone();
    any.alpn_protocols.insert(0, b"h2".to_vec());
    Ok(Pair {
        any: Arc::new(any),
        http1: Arc::new(http1),
    })
}

/// Accepts any certificate; the handshake must still be signed with its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
