//! A request's body, whichever version it comes in.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::h3::{H3Body, Trouble};

/// What a visitor sends behind its head.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// HTTP/1 and 2.
    Hyper(Incoming),
    /// HTTP/3.
    H3(Box<H3Body>),
}

/// Why it is not whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyBroken {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    H3(#[from] Trouble),
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl From<H3Body> for RequestBody {
    fn from(body: H3Body) -> Self {
        Self::H3(Box::new(body))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::H3(body) => Pin::new(body.as_mut()).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::H3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::H3(body) => body.size_hint(),
        }
    }
}
