//! Why a link could not be made, how one ended, and why a stream could not be had.

use std::fmt;
use std::io;

use quinn::{ConnectionError, TransportErrorCode};

use super::path::PathError;
use crate::codes::Code;
use crate::names::Pin;
use crate::wire::WireError;

/// TLS's `no_application_protocol` alert.
const ALERT_NO_ALPN: u8 = 120;
/// What QUIC says when an endpoint takes no connection of this kind.
const CONNECTION_REFUSED: u64 = 0x2;
/// A close reason is for people, and the peer wrote it: one short line of it is kept.
const DETAIL_MAX: usize = 200;

/// Why there is no link, or why its control stream failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is no `host:port`, or its name has no address.
    #[error("{address} does not resolve")]
    Dns {
        /// As given.
        address: String,
        /// The resolver's reason.
        #[source]
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("no answer from {address}")]
    Unreachable {
        /// As given.
        address: String,
    },
    /// Nothing answered over UDP, and the WebSocket path could not be had either.
    #[error("no answer from {address} over UDP, and no WebSocket path")]
    Blocked {
        /// As given.
        address: String,
        /// Why there is no WebSocket path.
        #[source]
        source: PathError,
    },
    /// Whoever answered does not hold a key that we trust.
    #[error("the server's key is {}, not the one trusted", shown(*got))]
    WrongPin {
        /// The keys trusted.
        expected: Vec<Pin>,
        /// The key shown; `None` when the server did not even know ours, so it showed none.
        got: Option<Pin>,
    },
    /// The peer closed the link with one of our codes.
    #[error("refused by the peer: {code} ({detail})")]
    Refused {
        /// Which.
        code: Code,
        /// The peer's words.
        detail: String,
    },
    /// The peer speaks none of our protocol versions.
    #[error("the peer does not speak wormkey/1")]
    AlpnMismatch,
    /// The peer speaks another QUIC version.
    #[error("the peer does not speak QUIC version 1")]
    VersionMismatch,
    /// The peer broke the tunnel protocol; the link is closed.
    #[error("the peer broke the protocol")]
    Protocol(#[from] WireError),
    /// The peer was too slow.
    #[error("no {what} in time")]
    Late {
        /// What did not come.
        what: &'static str,
    },
    /// The TLS handshake failed for another reason.
    #[error("TLS handshake failed: {detail}")]
    Tls {
        /// The reason, as QUIC tells it.
        detail: String,
    },
    /// Our own TLS settings do not hold.
    #[error("cannot set up TLS")]
    TlsSetup(#[source] rustls::Error),
    /// The socket cannot be had.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The link is gone.
    #[error("link lost: {0}")]
    Lost(LinkEnd),
}

fn shown(pin: Option<Pin>) -> String {
    pin.map_or_else(|| "another".to_owned(), |pin| pin.to_string())
}

impl LinkError {
    /// The row of the one table for this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Dns { .. } | Self::Unreachable { .. } | Self::Blocked { .. } => {
                Code::ServerUnreachable
            }
            Self::WrongPin { .. } => Code::WrongPin,
            Self::Refused { code, .. } => *code,
            Self::AlpnMismatch | Self::VersionMismatch => Code::VersionMismatch,
            Self::Protocol(_) => Code::Protocol,
            Self::Late { .. } => Code::TimedOut,
            Self::Tls { .. } | Self::TlsSetup(_) | Self::Io { .. } => Code::Internal,
            Self::Lost(end) => end.code.unwrap_or(Code::ServerUnreachable),
        }
    }

    pub(super) fn no_quic_suite() -> Self {
        Self::TlsSetup(rustls::Error::General(
            "the provider lacks TLS_AES_128_GCM_SHA256".to_owned(),
        ))
    }
}

/// What an end means to whoever wanted to go on.
impl From<LinkEnd> for LinkError {
    fn from(end: LinkEnd) -> Self {
        match (end.cause, end.code) {
            (EndCause::Closed, Some(code)) if end.by_peer => Self::Refused {
                code,
                detail: end.detail,
            },
            (EndCause::AlpnMismatch, _) => Self::AlpnMismatch,
            (EndCause::VersionMismatch, _) => Self::VersionMismatch,
            (EndCause::Tls, _) => Self::Tls { detail: end.detail },
            _ => Self::Lost(end),
        }
    }
}

/// How a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    /// The code it was closed with, when one of the two ends closed it with one of ours.
    pub code: Option<Code>,
    /// Whether the peer ended it.
    pub by_peer: bool,
    /// For the log: one line, however hostile the peer.
    pub detail: String,
    /// What kind of end it was.
    pub cause: EndCause,
}

/// What kind of end a link had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// One end closed it, with a code.
    Closed,
    /// The peer has no memory of it: it restarted.
    StatelessReset,
    /// Silence for the whole idle timeout.
    TimedOut,
    /// No protocol version in common.
    AlpnMismatch,
    /// No QUIC version in common.
    VersionMismatch,
    /// The peer takes no link with this tag: it does not hold the key expected.
    NotRecognised,
    /// TLS failed otherwise.
    Tls,
    /// One end broke QUIC, or its socket broke.
    Transport,
}

impl LinkEnd {
    /// From QUIC's reason, and ours when we closed it ourselves.
    pub(super) fn of(error: ConnectionError, ours: Option<(Code, String)>) -> Self {
        let detail = one_line(&error.to_string());
        let end = |cause, by_peer, code| Self {
            code,
            by_peer,
            detail: detail.clone(),
            cause,
        };
        match &error {
            ConnectionError::ApplicationClosed(close) => Self {
                code: Some(code_of(close.error_code.into_inner())),
                by_peer: true,
                detail: one_line(&String::from_utf8_lossy(&close.reason)),
                cause: EndCause::Closed,
            },
            ConnectionError::LocallyClosed => {
                let (code, detail) = ours.unzip();
                Self {
                    code,
                    by_peer: false,
                    detail: detail.unwrap_or_else(|| "closed".to_owned()),
                    cause: EndCause::Closed,
                }
            }
            ConnectionError::ConnectionClosed(close) => {
                end(transport_cause(close.error_code), true, None)
            }
            ConnectionError::TransportError(error) => end(transport_cause(error.code), false, None),
            ConnectionError::Reset => end(EndCause::StatelessReset, true, None),
            ConnectionError::TimedOut => end(EndCause::TimedOut, false, None),
            ConnectionError::VersionMismatch => end(EndCause::VersionMismatch, true, None),
            ConnectionError::CidsExhausted => end(EndCause::Transport, false, None),
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.by_peer { "by the peer" } else { "here" };
        match self.code {
            Some(code) => write!(f, "closed {who} with {code} ({})", self.detail),
            None => write!(f, "{} {who}", self.detail),
        }
    }
}

/// The code of a close. Zero is QUIC's own, when the last handle is dropped without a word.
fn code_of(number: u64) -> Code {
    if number == 0 {
        Code::Cancelled
    } else {
        Code::from_wire(number)
    }
}

fn transport_cause(code: TransportErrorCode) -> EndCause {
    let number = u64::from(code);
    if code == TransportErrorCode::crypto(ALERT_NO_ALPN) {
        EndCause::AlpnMismatch
    } else if number == CONNECTION_REFUSED {
        EndCause::NotRecognised
    } else if (0x100..0x200).contains(&number) {
        EndCause::Tls
    } else {
        EndCause::Transport
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_MAX)
        .collect()
}

/// Why no stream could be opened. In every case nothing of the visit reached the peer's ears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// The link is gone.
    #[error("the link is gone")]
    LinkGone,
    /// All its streams are in use and none came free in time.
    #[error("the link has no stream to give")]
    NoStream,
}

/// Why no stream will come any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptFailure {
    /// The link is gone; [`closed`](super::Link::closed) tells why.
    #[error("the link is gone")]
    LinkGone,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_by_peer(code: u32, reason: &'static [u8]) -> LinkEnd {
        let close = quinn::ApplicationClose {
            error_code: code.into(),
            reason: reason.into(),
        };
        LinkEnd::of(ConnectionError::ApplicationClosed(close), None)
    }

    #[test]
    fn every_code_survives_a_close() {
        for code in Code::ALL {
            let end = closed_by_peer(code.row().wire, b"why");
            assert_eq!((end.code, end.by_peer), (Some(*code), true));
            assert_eq!(end.detail, "why");
        }
        assert_eq!(closed_by_peer(0, b"").code, Some(Code::Cancelled));
        assert_eq!(closed_by_peer(99_999, b"").code, Some(Code::Internal));
    }

    #[test]
    fn a_peers_reason_is_one_short_line() {
        let end = closed_by_peer(102, b"a\r\nb\x1b[31m\xff");
        assert_eq!(end.detail, "a  b [31m\u{fffd}");
        assert!(one_line(&"x".repeat(5000)).len() <= DETAIL_MAX);
    }

    #[test]
    fn ends_are_told_apart() {
        let cause = |error| LinkEnd::of(error, None).cause;
        assert_eq!(cause(ConnectionError::Reset), EndCause::StatelessReset);
        assert_eq!(cause(ConnectionError::TimedOut), EndCause::TimedOut);
        assert_eq!(
            cause(ConnectionError::VersionMismatch),
            EndCause::VersionMismatch
        );
        let ours = LinkEnd::of(
            ConnectionError::LocallyClosed,
            Some((Code::Draining, "bye".into())),
        );
        assert_eq!(
            (ours.code, ours.by_peer, ours.to_string()),
            (
                Some(Code::Draining),
                false,
                "closed here with draining (bye)".to_owned()
            )
        );
    }
}
