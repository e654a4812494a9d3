//! TLS of links: both ends show a self-signed certificate and are judged by its key alone. No CA, no
//! expiry, no names; and no way to skip the checks that are left: the signature, and on the client the pin.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, PeerMisbehaved,
    SignatureScheme,
};

use super::error::LinkError;
use super::identity::Identity;
use crate::names::Pin;
use crate::wire::ALPN;

/// What identities are made of (see [`Identity`]). Nothing else is verified: a stranger's 16,384-bit
/// RSA key must not cost us more than our own peers do.
const SCHEMES: [SignatureScheme; 2] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

/// SHA-256 of a certificate's public key.
pub(super) fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let mut pin = [0; 32];
    pin.copy_from_slice(digest(&SHA256, &spki).as_ref());
    Ok(Pin(pin))
}

/// The key the peer of an established connection has proved to hold.
pub(super) fn peer_pin(connection: &quinn::Connection) -> Option<Pin> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    pin_of(chain.first()?).ok()
}

/// Whether the handshake agreed on our protocol.
pub(super) fn speaks_wormkey(connection: &quinn::Connection) -> bool {
    connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .is_some_and(|data| data.protocol.as_deref() == Some(ALPN))
}

/// The server's side: asks every client for a certificate, and takes any key it can prove.
pub(super) fn server(identity: &Identity) -> Result<QuicServerConfig, LinkError> {
    let provider = provider();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(LinkError::TlsSetup)?
        .with_client_cert_verifier(Arc::new(AnyKey(Signatures(provider))))
        .with_single_cert(vec![identity.certificate()], identity.private_key())
        .map_err(LinkError::TlsSetup)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // No resumption: a link is made rarely, and what authenticates it must be looked at each time.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    QuicServerConfig::try_from(config).map_err(|_| LinkError::no_quic_suite())
}

/// The client's side: takes a server that holds a key of `pins`. The second part tells afterwards
/// which key was refused.
pub(super) fn client(
    identity: &Identity,
    pins: &[Pin],
) -> Result<(QuicClientConfig, Arc<RefusedKey>), LinkError> {
    let (config, refused) = client_settings(identity, pins)?;
    let config = QuicClientConfig::try_from(config).map_err(|_| LinkError::no_quic_suite())?;
    Ok((config, refused))
}

pub(super) fn client_settings(
    identity: &Identity,
    pins: &[Pin],
) -> Result<(rustls::ClientConfig, Arc<RefusedKey>), LinkError> {
    let provider = provider();
    let refused = Arc::new(RefusedKey::default());
    let verifier = PinnedKey {
        pins: pins.to_vec(),
        refused: Arc::clone(&refused),
        signatures: Signatures(Arc::clone(&provider)),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(LinkError::TlsSetup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .map_err(LinkError::TlsSetup)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    // The name is not checked, so it need not be told to everyone on the way either.
    config.enable_sni = false;
    Ok((config, refused))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The key that a [`client`] configuration has turned down, if any.
#[derive(Debug, Default)]
pub(super) struct RefusedKey(Mutex<Option<Pin>>);

impl RefusedKey {
    pub(super) fn get(&self) -> Option<Pin> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pin: Pin) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

/// Checks that the peer holds the key of the certificate it shows.
#[derive(Debug)]
struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !SCHEMES.contains(&signed.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

/// TLS 1.2 is never offered, so this is never asked.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

/// Any client that proves to hold some key. Whether that key may do anything is looked up afterwards.
#[derive(Debug)]
struct AnyKey(Signatures);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        pin_of(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// The server whose key is one of these.
#[derive(Debug)]
struct PinnedKey {
    pins: Vec<Pin>,
    refused: Arc<RefusedKey>,
    signatures: Signatures,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = pin_of(end_entity)?;
        let known = self
            .pins
            .iter()
            .any(|pin| verify_slices_are_equal(&pin.0, &got.0).is_ok());
        if known {
            return Ok(ServerCertVerified::assertion());
        }
        self.refused.set(got);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
