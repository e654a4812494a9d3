//! TLS to somebody whose certificate is looked at and not insisted on: everybody passes who holds the key
//! of what they show, and what is to be thought of it is told. Not how links trust: those are pinned.

use std::fmt::Debug;
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

/// What to make of a certificate, of the name asked for, of whether an authority that this machine knows
/// vouches for both, and of the time.
pub(super) type Look<T> = fn(&CertificateDer<'_>, &ServerName<'_>, bool, UnixTime) -> T;

/// TLS as `host`, speaking HTTP/1.1, and what was made of the certificate. The machine's authorities are
/// known, and `roots`.
pub(super) async fn connect<I, T>(
    io: I,
    host: &str,
    roots: &[CertificateDer<'static>],
    look: Look<T>,
) -> io::Result<(TlsStream<I>, T)>
where
    I: AsyncRead + AsyncWrite + Unpin,
    T: Debug + Send + 'static,
{
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = roots.to_vec();
    let onlooker = {
        let provider = Arc::clone(&provider);
        // Reads and parses the system's trust store: files, and some milliseconds.
        tokio::task::spawn_blocking(move || Onlooker::new(provider, roots, look)).await
    };
    let onlooker = Arc::new(onlooker.map_err(io::Error::other)?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&onlooker) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would show no certificate to look at.
    config.resumption = Resumption::disabled();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await?;
    let seen = onlooker.take();
    let none = || io::Error::other("no certificate was shown");
    Ok((stream, seen.ok_or_else(none)?))
}

#[derive(Debug)]
struct Onlooker<T> {
    provider: Arc<CryptoProvider>,
    /// `None` on a machine without any roots: then nobody is vouched for.
    verifier: Option<Verifier>,
    look: Look<T>,
    seen: Mutex<Option<T>>,
}

impl<T> Onlooker<T> {
    fn new(
        provider: Arc<CryptoProvider>,
        roots: Vec<CertificateDer<'static>>,
        look: Look<T>,
    ) -> Self {
        Self {
            verifier: Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).ok(),
            provider,
            look,
            seen: Mutex::new(None),
        }
    }

    fn take(&self) -> Option<T> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take()
    }
}

impl<T: Debug + Send> ServerCertVerifier for Onlooker<T> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let vouched = self.verifier.as_ref().is_some_and(|verifier| {
            verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .is_ok()
        });
        let made = (self.look)(end_entity, server_name, vouched, now);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
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
