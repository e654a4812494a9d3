//! The one border where the edge's own answers are made: every way a visit can fail, the code and
//! status for it, and the page or problem+json that says so (RFC 9457). Outsiders read fixed
//! sentences; what really happened is in the log under the same id.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::body::EdgeBody;
use super::credentials::SHARE_COOKIE;
use super::{OpenError, pages};
use crate::codes::Code;
use crate::engine::Refusal;
use crate::http::HeadError;
use crate::http::response::ResponseError;
use crate::names::VisitId;
use crate::wire::{BodyError, RecvChunks, StreamCode, StreamError, WireError};

const ERROR: HeaderName = HeaderName::from_static("wormkey-error");
const REQUEST_ID: HeaderName = HeaderName::from_static("wormkey-request-id");

/// When to try again, where nobody knows better.
const RETRY: Duration = Duration::from_secs(5);

/// Why a visitor gets an answer of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Head(HeadError),
    #[error("the host is not under our domain")]
    UnknownHost,
    #[error("the host is not the one the connection is for")]
    Misdirected,
    #[error("a path that is ours")]
    OurPath,
    #[error("the server's own door does not open: {0}")]
    Door(StatusCode),
    #[error(transparent)]
    Refused(Refusal),
    #[error(transparent)]
    Open(OpenError),
    #[error(transparent)]
    Stream(StreamError),
    #[error(transparent)]
    Wire(WireError),
    #[error("no acceptable answer: {0}")]
    Answer(ResponseError),
    #[error("the origin accepted a websocket without a switch of protocols")]
    NoSwitch,
    #[error("no answer within the time")]
    Timeout,
    #[error("the request's body broke off")]
    BodyBroken,
    #[error("the request's body comes too slowly")]
    BodySlow,
    #[error("the request's body is too large to look for its signature")]
    SignedTooLarge,
    #[error("too many visits are under way")]
    Overloaded,
    #[error("the tunnel ended")]
    Cut,
    #[error("the link has been away for longer than visits wait for it")]
    Away,
    #[error("a panic")]
    Panicked,
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Stream(error) => Self::Stream(error),
            BodyError::Wire(error) => Self::Wire(error),
            BodyError::Source(_) => Self::BodyBroken,
        }
    }
}

/// What a failure looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) code: Code,
    pub(super) status: StatusCode,
    pub(super) retry: Option<Duration>,
}

impl Outside {
    fn of(code: Code) -> Self {
        Self {
            code,
            status: StatusCode::from_u16(code.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            retry: None,
        }
    }

    fn retry(code: Code, after: Duration) -> Self {
        Self {
            retry: Some(after),
            ..Self::of(code)
        }
    }
}

impl Failure {
    /// Whether provably no byte of the visit reached an origin.
    pub(super) fn nothing_was_sent(&self) -> bool {
        match self {
            Self::Open(OpenError::LinkGone) => true,
            Self::Stream(StreamError::Reset(code)) => code.nothing_was_sent(),
            _ => false,
        }
    }

    /// The one table from what happened to what visitors see.
    pub(super) fn answer(&self) -> Outside {
        match self {
            Self::Head(error) => Outside {
                status: error.status(),
                ..Outside::of(error.code())
            },
            Self::UnknownHost => Outside::of(Code::NoSuchTunnel),
            Self::Misdirected => Outside::of(Code::Misdirected),
            Self::OurPath => Outside::of(Code::NotFound),
            Self::Door(StatusCode::METHOD_NOT_ALLOWED) => Outside::of(Code::MethodNotAllowed),
            Self::Door(StatusCode::SERVICE_UNAVAILABLE) => Outside::retry(Code::Overloaded, RETRY),
            Self::Door(status) => Outside {
                status: *status,
                ..Outside::of(Code::BadRequest)
            },
            Self::Refused(refusal) => outside_of(refusal),
            Self::Open(OpenError::LinkGone) => Outside::retry(Code::TunnelOffline, RETRY),
            Self::Open(OpenError::NoStream) => Outside::retry(Code::Overloaded, RETRY),
            Self::Stream(StreamError::LinkLost) => Outside::retry(Code::TunnelOffline, RETRY),
            Self::Stream(StreamError::Reset(code)) => given_up(*code),
            Self::Wire(_) | Self::Answer(_) | Self::NoSwitch => Outside::of(Code::OriginError),
            Self::Timeout => Outside::of(Code::OriginTimeout),
            Self::BodyBroken => Outside::of(Code::BadRequest),
            Self::BodySlow => Outside::of(Code::RequestTimeout),
            Self::SignedTooLarge => Outside::of(Code::TooLarge),
            Self::Overloaded => Outside::retry(Code::Overloaded, RETRY),
            Self::Cut => Outside::of(Code::TunnelClosed),
            Self::Away => Outside::retry(Code::TunnelOffline, RETRY),
            Self::Panicked => Outside::of(Code::Internal),
        }
    }
}

/// What a refusal of the engine's looks like from outside.
pub(super) fn outside_of(refusal: &Refusal) -> Outside {
    match refusal {
        Refusal::NoRoute { .. } => Outside::of(Code::NoSuchTunnel),
        Refusal::Closed { .. } => Outside::of(Code::TunnelClosed),
        Refusal::Expired { .. } => Outside::of(Code::TunnelExpired),
        Refusal::Offline { retry_in, .. } => Outside::retry(Code::TunnelOffline, *retry_in),
        Refusal::HoldFull { .. } => Outside::retry(Code::Overloaded, RETRY),
        Refusal::Probed { retry_in, .. } => Outside::retry(Code::RateLimited, *retry_in),
        Refusal::Draining => Outside::retry(Code::Draining, RETRY),
        Refusal::Suspended { .. } => Outside::of(Code::Suspended),
        Refusal::Denied { .. } => Outside::of(Code::Forbidden),
        Refusal::MethodNotAllowed { .. } => Outside::of(Code::MethodNotAllowed),
        Refusal::Unauthorized { .. } => Outside::of(Code::Unauthorized),
        Refusal::ShareOver { .. } => Outside::of(Code::ShareOver),
        Refusal::Unsigned { .. } => Outside::of(Code::BadSignature),
        Refusal::Limited { retry_in, .. } => Outside::retry(Code::RateLimited, *retry_in),
    }
}

/// The client gave the stream up before a response head.
fn given_up(code: StreamCode) -> Outside {
    match code {
        StreamCode::OriginUnreachable | StreamCode::UnknownTunnel | StreamCode::NotAllowed => {
            Outside::of(Code::OriginUnreachable)
        }
        StreamCode::OriginError
        | StreamCode::Cancelled
        | StreamCode::Protocol
        | StreamCode::Internal
        | StreamCode::BrokeAfter(_)
        | StreamCode::Unknown(_) => Outside::of(Code::OriginError),
        StreamCode::OriginTimeout => Outside::of(Code::OriginTimeout),
        StreamCode::Exposed => Outside::of(Code::ExposedOrigin),
        StreamCode::Unsupported => Outside::of(Code::NotImplemented),
        StreamCode::Overloaded | StreamCode::TooSlow => Outside::retry(Code::Overloaded, RETRY),
        StreamCode::TunnelEnded => Outside::of(Code::TunnelClosed),
    }
}

/// What a request says about the answer it can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    takes_html: bool,
    is_get: bool,
    is_head: bool,
}

impl Asker {
    pub(super) fn of(parts: &Parts) -> Self {
        let takes_html = parts
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(takes_html);
        Self {
            takes_html,
            is_get: parts.method == Method::GET,
            is_head: parts.method == Method::HEAD,
        }
    }
}

/// Whether one range of `Accept` asks for HTML by name; `*/*` is what programs send.
fn takes_html(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let named = parts.next().is_some_and(|media| {
        media.eq_ignore_ascii_case("text/html")
            || media.eq_ignore_ascii_case("application/xhtml+xml")
    });
    named
        && !parts.any(|p| {
            p.strip_prefix("q=")
                .is_some_and(|q| q.trim_end_matches(['0', '.']).is_empty())
        })
}

/// Whether what follows the request has no meaning, or nobody will wait for it.
const fn ends_connection(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Head(_) | Failure::BodyBroken | Failure::BodySlow
    )
}

/// Makes the answer. A head that was refused ends its connection: what follows it has no meaning.
pub(super) fn respond<R: RecvChunks>(
    failure: &Failure,
    id: VisitId,
    asker: Asker,
    is_http1: bool,
) -> Response<EdgeBody<R>> {
    let outside = failure.answer();
    let mut response = Response::new(());
    *response.status_mut() = outside.status;
    let headers = response.headers_mut();
    headers.insert(ERROR, HeaderValue::from_static(outside.code.as_str()));
    headers.insert(REQUEST_ID, text(&id.to_string()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Some(after) = outside.retry {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if outside.status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 asks for it; what the origin allows is not ours to know.
        let allowed = match failure {
            Failure::Door(_) => "GET",
            Failure::Refused(Refusal::MethodNotAllowed { allowed, .. }) => allowed,
            _ => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        };
        headers.insert(header::ALLOW, text(allowed));
    }
    if let Failure::Refused(Refusal::Unauthorized { realm }) = failure {
        let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        headers.insert(header::WWW_AUTHENTICATE, text(&challenge));
    }
    if let Failure::Refused(Refusal::Unsigned { tunnel, .. }) = failure {
        // RFC 9110 asks for a challenge; no sender of webhooks reads it.
        let challenge = format!("Webhook-Signature realm=\"{tunnel}\"");
        headers.insert(header::WWW_AUTHENTICATE, text(&challenge));
    }
    if let Failure::Refused(Refusal::ShareOver { .. }) = failure {
        // It would stand in the way of the credentials that may be asked for instead.
        let gone = format!("{SHARE_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
        headers.insert(header::SET_COOKIE, text(&gone));
    }
    if outside.status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110 asks for this too.
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if is_http1 && ends_connection(failure) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let body = if asker.takes_html {
        let page = pages::page(&outside, id, asker.is_get);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(header::CONTENT_SECURITY_POLICY, text(&page.policy));
        headers.insert(
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        );
        page.html
    } else {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        pages::problem(&outside, id)
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let body = if asker.is_head {
        Bytes::new()
    } else {
        body.into()
    };
    response.map(|()| EdgeBody::own(body))
}

/// At least one: "now" would bring everybody back at once.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    let rounded = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    rounded.max(1)
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids, names, methods and policies are visible ASCII")
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::engine::policy::{RuleId, Unsigned};
    use crate::names::Slug;

    #[test]
    fn failures_have_the_documented_codes() {
        let slug = || Slug::parse("app").unwrap();
        let retry_in = Duration::from_millis(1500);
        let reset = |code| Failure::Stream(StreamError::Reset(code));
        for (failure, status, code) in [
            (Failure::Head(HeadError::BareLf), 400, "bad_request"),
            (
                Failure::Head(HeadError::MethodRefused),
                405,
                "method_not_allowed",
            ),
            (Failure::Head(HeadError::Timeout), 408, "request_timeout"),
            (Failure::Head(HeadError::TargetTooLong), 414, "too_large"),
            (Failure::Head(HeadError::HeadTooLarge), 431, "too_large"),
            (Failure::Head(HeadError::Protocol), 501, "not_implemented"),
            (Failure::Head(HeadError::HostForeign), 404, "no_such_tunnel"),
            (Failure::UnknownHost, 404, "no_such_tunnel"),
            (Failure::Misdirected, 421, "misdirected"),
            (
                Failure::Refused(Refusal::Closed { tunnel: slug() }),
                410,
                "tunnel_closed",
            ),
            (
                Failure::Refused(Refusal::Expired { tunnel: slug() }),
                410,
                "tunnel_expired",
            ),
            (
                Failure::Refused(Refusal::Offline {
                    tunnel: slug(),
                    retry_in,
                }),
                502,
                "tunnel_offline",
            ),
            (
                Failure::Refused(Refusal::HoldFull { tunnel: slug() }),
                503,
                "overloaded",
            ),
            (Failure::Refused(Refusal::Draining), 503, "draining"),
            (
                Failure::Refused(Refusal::Suspended { tunnel: slug() }),
                403,
                "suspended",
            ),
            (
                Failure::Refused(Refusal::Denied {
                    rule: RuleId::Allow,
                }),
                403,
                "forbidden",
            ),
            (
                Failure::Refused(Refusal::MethodNotAllowed {
                    rule: RuleId::Method(Method::PUT),
                    allowed: "GET".into(),
                }),
                405,
                "method_not_allowed",
            ),
            (
                Failure::Refused(Refusal::Unauthorized { realm: slug() }),
                401,
                "unauthorized",
            ),
            (
                Failure::Refused(Refusal::ShareOver { tunnel: slug() }),
                410,
                "share_over",
            ),
            (
                Failure::Refused(Refusal::Unsigned {
                    tunnel: slug(),
                    why: Unsigned::Wrong,
                }),
                401,
                "bad_signature",
            ),
            (Failure::SignedTooLarge, 413, "too_large"),
            (
                Failure::Refused(Refusal::Limited {
                    rule: RuleId::Auth,
                    retry_in,
                }),
                429,
                "rate_limited",
            ),
            (Failure::Open(OpenError::LinkGone), 502, "tunnel_offline"),
            (Failure::Open(OpenError::NoStream), 503, "overloaded"),
            (
                Failure::Stream(StreamError::LinkLost),
                502,
                "tunnel_offline",
            ),
            (
                reset(StreamCode::OriginUnreachable),
                502,
                "origin_unreachable",
            ),
            (reset(StreamCode::NotAllowed), 502, "origin_unreachable"),
            (reset(StreamCode::Exposed), 403, "exposed_origin"),
            (reset(StreamCode::OriginError), 502, "origin_error"),
            (reset(StreamCode::OriginTimeout), 504, "origin_timeout"),
            (Failure::Timeout, 504, "origin_timeout"),
            (Failure::Panicked, 500, "internal"),
        ] {
            let outside = failure.answer();
            assert_eq!(
                (outside.status.as_u16(), outside.code.as_str()),
                (status, code),
                "{failure}"
            );
            assert_eq!(
                outside.retry.is_some(),
                status == 503 || status == 429 || code == "tunnel_offline",
                "{failure}"
            );
        }
        assert_eq!(whole_seconds(retry_in), 2);
        assert_eq!(whole_seconds(Duration::ZERO), 1);
    }

    #[test]
    fn only_who_names_html_gets_a_page() {
        for html in ["text/html", "a/b, TEXT/HTML;q=0.9", "application/xhtml+xml"] {
            assert!(html.split(',').any(takes_html), "{html}");
        }
        for other in [
            "*/*",
            "application/json",
            "text/html;q=0",
            "text/html; q=0.0",
            "text/htmlx",
            "",
        ] {
            assert!(!other.split(',').any(takes_html), "{other}");
        }
    }
}
