//! The HTTP side of the path: a WebSocket handshake (RFC 6455) with our subprotocol. Pure; who runs
//! HTTP on either end is not asked here.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use data_encoding::BASE64;
use http::header::{
    CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::{CONNECT, SUBPROTOCOL};

/// RFC 6455's constant.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: &str = "13";
const KEY: usize = 16;

/// Why a request on `/connect` does not open a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUpgrade {
    /// Only GET opens a WebSocket.
    #[error("not a GET")]
    Method,
    /// No upgrade to a WebSocket of the one version there is.
    #[error("not an upgrade to a WebSocket")]
    NotWebSocket,
    /// No key, or not one.
    #[error("no WebSocket key")]
    Key,
    /// A WebSocket for something else.
    #[error("the subprotocol {SUBPROTOCOL} is not offered")]
    Subprotocol,
}

impl BadUpgrade {
    /// What to answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotWebSocket => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }
}

/// The answer, 101, to a request that opens a path. Once it is out, the upgraded connection goes to
/// [`Listener::attach_path`](crate::link::Listener::attach_path).
pub fn accept<B>(request: &Request<B>) -> Result<Response<()>, BadUpgrade> {
    if request.method() != Method::GET {
        return Err(BadUpgrade::Method);
    }
    let headers = request.headers();
    let upgrade = request.version() == Version::HTTP_11
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &UPGRADE, "websocket")
        && only(headers, &SEC_WEBSOCKET_VERSION)
            .is_some_and(|v| v.as_bytes() == VERSION.as_bytes());
    if !upgrade {
        return Err(BadUpgrade::NotWebSocket);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(BadUpgrade::Key)?;
    let decoded = BASE64.decode(key.as_bytes()).map_err(|_| BadUpgrade::Key)?;
    if decoded.len() != KEY {
        return Err(BadUpgrade::Key);
    }
    if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(BadUpgrade::Subprotocol);
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, acceptance(key));
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    Ok(response)
}

/// A client's request to the server of `authority`, without a body.
pub(super) fn request<B: Default>(authority: &str) -> Option<Request<B>> {
    let mut key = [0; KEY];
    rand::fill(&mut key).expect("the system has random numbers");
    Request::get(CONNECT)
        .header(HOST, authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, VERSION)
        .header(SEC_WEBSOCKET_KEY, BASE64.encode(&key))
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(B::default())
        .ok()
}

/// Whether an answer opens the path that was asked for with `key`.
pub(super) fn accepts(status: StatusCode, headers: &HeaderMap, key: &HeaderValue) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &UPGRADE, "websocket")
        && only(headers, &SEC_WEBSOCKET_ACCEPT) == Some(&acceptance(key))
        && only(headers, &SEC_WEBSOCKET_PROTOCOL)
            .is_some_and(|p| p.as_bytes() == SUBPROTOCOL.as_bytes())
}

fn acceptance(key: &HeaderValue) -> HeaderValue {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::from_str(&BASE64.encode(hash.as_ref())).expect("base64 is fit for a header")
}

/// The value of a field that must be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a list of tokens names one, in whatever case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Request<()> {
        request("example.com").unwrap()
    }

    fn key(request: &Request<()>) -> &HeaderValue {
        request.headers().get(SEC_WEBSOCKET_KEY).unwrap()
    }

    #[test]
    fn the_two_ends_agree() {
        let asked = asked();
        let answer = accept(&asked).unwrap();
        assert!(accepts(answer.status(), answer.headers(), key(&asked)));
        let other = self::asked();
        assert!(!accepts(answer.status(), answer.headers(), key(&other)));
        assert!(!accepts(StatusCode::OK, answer.headers(), key(&asked)));
        let mut plain = answer.headers().clone();
        plain.remove(SEC_WEBSOCKET_PROTOCOL);
        assert!(!accepts(answer.status(), &plain, key(&asked)));
    }

    #[test]
    fn the_acceptance_is_that_of_the_standard() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(acceptance(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn other_requests_are_told_what_they_lack() {
        let check = |change: fn(&mut Request<()>), expected| {
            let mut request = asked();
            change(&mut request);
            assert_eq!(accept(&request).map(|_| ()), Err(expected), "{request:?}");
        };
        check(|r| *r.method_mut() = Method::POST, BadUpgrade::Method);
        check(
            |r| *r.version_mut() = Version::HTTP_10,
            BadUpgrade::NotWebSocket,
        );
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_VERSION] {
            let mut request = asked();
            request.headers_mut().remove(name);
            assert_eq!(accept(&request).map(|_| ()), Err(BadUpgrade::NotWebSocket));
        }
        check(
            |r| {
                r.headers_mut().remove(SEC_WEBSOCKET_KEY);
            },
            BadUpgrade::Key,
        );
        check(
            |r| {
                let short = HeaderValue::from_static("AA==");
                r.headers_mut().insert(SEC_WEBSOCKET_KEY, short);
            },
            BadUpgrade::Key,
        );
        check(
            |r| {
                let another = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
                r.headers_mut().append(SEC_WEBSOCKET_KEY, another);
            },
            BadUpgrade::Key,
        );
        check(
            |r| {
                let chat = HeaderValue::from_static("chat");
                r.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chat);
            },
            BadUpgrade::Subprotocol,
        );
    }
}
