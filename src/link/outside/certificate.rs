//! What is to be thought of a certificate that visitors see. Everybody passes; the verdict is told.

use std::io;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use crate::link::onlooker;
use crate::link::path::issuer::{self, SEQUENCE};
use crate::times::WallTime;

/// A certificate as it was shown to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Who issued it, as far as it says; the word of a stranger unless it is vouched for.
    pub issuer: Option<String>,
    /// Whether it says of itself that it is its own issuer.
    pub self_signed: bool,
    /// Until when it is good.
    pub until: Option<WallTime>,
    /// What this machine thinks of it.
    pub trust: Trust,
}

/// Whether visitors would be warned of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// An authority that this machine knows vouches for it.
    Vouched,
    /// Nobody known does: self-signed, or somebody's own authority.
    Unvouched,
    /// It is for other names.
    WrongName,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// TLS as `host`.
pub(super) async fn handshake<I>(io: I, host: &str) -> io::Result<(TlsStream<I>, Certificate)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    onlooker::connect(io, host, &[], |shown, name, vouched, now| {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = WallTime::from_millis(now.saturating_mul(1000));
        read(shown, name, vouched, now)
    })
    .await
}

/// What a certificate says, and what is wrong with it first of all.
pub(super) fn read(
    der: &CertificateDer<'_>,
    name: &ServerName<'_>,
    vouched: bool,
    now: WallTime,
) -> Certificate {
    let parts = parts(der);
    let (from, until) = parts.as_ref().map_or((None, None), |parts| parts.validity);
    let is_for_name = ParsedCertificate::try_from(der)
        .is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok());
    let trust = if vouched {
        Trust::Vouched
    } else if !is_for_name {
        Trust::WrongName
    } else if until.is_some_and(|until| until <= now) {
        Trust::Expired
    } else if from.is_some_and(|from| from > now) {
        Trust::NotYet
    } else {
        Trust::Unvouched
    };
    Certificate {
        issuer: issuer::issuer_of(der),
        self_signed: parts.is_some_and(|parts| parts.issuer == parts.subject),
        until,
        trust,
    }
}

/// Until when a certificate is good, as it says itself.
pub fn not_after(der: &CertificateDer<'_>) -> Option<WallTime> {
    parts(der)?.validity.1
}

/// What stands in a certificate behind the issuer's name, as far as it is read here.
struct Parts<'a> {
    issuer: &'a [u8],
    validity: (Option<WallTime>, Option<WallTime>),
    subject: &'a [u8],
}

fn parts(certificate: &[u8]) -> Option<Parts<'_>> {
    let (issuer, rest) = issuer::issuer(certificate)?;
    let (validity, rest) = issuer::expect(rest, SEQUENCE)?;
    let (subject, _) = issuer::expect(rest, SEQUENCE)?;
    let (tag, from, after) = issuer::element(validity)?;
    let from = time(tag, from);
    let (tag, until, _) = issuer::element(after)?;
    let until = time(tag, until);
    Some(Parts {
        issuer,
        validity: (from, until),
        subject,
    })
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<WallTime> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_suffix('Z')?;
    let whole = match (tag, digits.len()) {
        (UTC_TIME, 12) if digits.get(..2)? < "50" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let at = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    let at = at.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(WallTime::from_millis(at.as_millisecond()))
}
