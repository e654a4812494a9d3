//! The outer TLS of a WebSocket path: any certificate will do, because the link inside is pinned; but
//! whether it was a good one is found out and told.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::issuer::issuer_of;

/// What the outer TLS turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) verified: bool,
    pub(super) issuer: Option<String>,
}

/// TLS as `host`, with the platform's roots and `roots`.
pub(super) async fn connect<I>(
    io: I,
    host: &str,
    roots: &[CertificateDer<'static>],
) -> io::Result<(TlsStream<I>, Verdict)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = roots.to_vec();
    let judge = {
        let provider = Arc::clone(&provider);
        // Reads and parses the system's trust store: files, and some milliseconds.
        tokio::task::spawn_blocking(move || Judge::new(provider, roots)).await
    };
    let judge = Arc::new(judge.map_err(io::Error::other)?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&judge) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would show no certificate to judge.
    config.resumption = Resumption::disabled();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await?;
    let verdict = judge.verdict();
    Ok((stream, verdict))
}

/// Lets everybody pass who holds the key of what they show, and notes whether they should have.
#[derive(Debug)]
struct Judge {
    provider: Arc<CryptoProvider>,
    /// `None` on a machine without any roots: then nobody is verified.
    verifier: Option<Verifier>,
    verdict: Mutex<Verdict>,
}

impl Judge {
    fn new(provider: Arc<CryptoProvider>, roots: Vec<CertificateDer<'static>>) -> Self {
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).ok();
        Self {
            provider,
            verifier,
            verdict: Mutex::default(),
        }
    }

    fn verdict(&self) -> Verdict {
        let verdict = self.verdict.lock();
        verdict.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.as_ref().is_some_and(|verifier| {
            verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .is_ok()
        });
        let issuer = issuer_of(end_entity);
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        *verdict = Verdict { verified, issuer };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
