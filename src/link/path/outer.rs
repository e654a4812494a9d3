//! The outer TLS of a WebSocket path: any certificate will do, because the link inside is pinned; but
//! whether it was a good one is found out and told.

use std::io;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::issuer::issuer_of;
use crate::link::onlooker;

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
    onlooker::connect(io, host, roots, |shown, _, verified, _| Verdict {
        verified,
        issuer: issuer_of(shown),
    })
    .await
}
