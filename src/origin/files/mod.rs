//! `file:` targets: a static file server with no way out of its directory. Not a web server for the
//! world: no compression, no rules, no writing.

mod answer;
mod beneath;
mod listing;
mod path;
mod range;

#[cfg(test)]
mod tests;

use std::io::SeekFrom;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use tokio::io::AsyncSeekExt as _;
use tokio_util::io::poll_read_buf;

use super::dial::{DialError, blocking};
use super::exchange::{Failure, take_end};
use super::policy::OriginPolicy;
use super::tunnel::VisitReport;
use crate::wire::{
    BodyError, HttpHead, RecvChunks, SendChunks, StreamCode, send_body, send_response_head,
};
use answer::{Answer, Content};
use beneath::{Found, find};

/// How much of a file is held at once.
const CHUNK: usize = 64 * 1024;

/// Serves one visit from a directory.
pub(super) async fn serve<S: SendChunks, R: RecvChunks>(
    policy: Arc<OriginPolicy>,
    dir: &Path,
    head: &HttpHead,
    tx: &mut S,
    mut rx: R,
    report: &mut VisitReport,
) -> Result<(), Failure> {
    let answer = answer_to(policy, dir, head).await?;
    let status = answer.head.status;
    report.status = Some(status.as_u16());
    send_response_head(tx, &answer.head)
        .await
        .map_err(Failure::Visitor)?;
    let content = if head.method == Method::HEAD {
        Content::None
    } else {
        answer.content
    };
    let sent = match content {
        Content::None => send_body(tx, Full::new(Bytes::new())).await,
        Content::Text(text) => send_body(tx, Full::new(text)).await,
        Content::File { file, from, length } => {
            send_body(tx, FileBody::open(file, from, length).await?).await
        }
    };
    report.bytes_out = sent.map_err(|error| match error {
        BodyError::Stream(error) => Failure::Visitor(error),
        BodyError::Source(error) => Failure::Broken(error),
        BodyError::Wire(error) => Failure::Broken(error.into()),
    })?;
    if head.has_body {
        rx.stop(StreamCode::Cancelled);
    } else {
        take_end(rx);
    }
    Ok(())
}

async fn answer_to(
    policy: Arc<OriginPolicy>,
    dir: &Path,
    head: &HttpHead,
) -> Result<Answer, DialError> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Ok(Answer::method_not_allowed());
    }
    let Some(wanted) = path::Wanted::parse(&head.path) else {
        return Ok(Answer::plain(StatusCode::BAD_REQUEST));
    };
    let (dir, relative) = (dir.to_owned(), wanted.clone());
    let found = blocking(move || find(&policy, &dir, &relative)).await?;
    Ok(match found {
        Found::File(file) => answer::file(file, head),
        Found::Listing(entries) => Answer::html(listing::page(&wanted, &entries)),
        Found::Directory => Answer::redirect(&wanted.with_slash(&head.path)),
        Found::Nothing => Answer::plain(StatusCode::NOT_FOUND),
        Found::Forbidden => Answer::plain(StatusCode::FORBIDDEN),
    })
}

/// A piece of a file, read as it is asked for.
struct FileBody {
    file: tokio::fs::File,
    left: u64,
    buffer: BytesMut,
}

impl FileBody {
    async fn open(file: std::fs::File, from: u64, length: u64) -> Result<Self, Failure> {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK);
        if from > 0 {
            let sought = file.seek(SeekFrom::Start(from)).await;
            sought.map_err(|error| Failure::Broken(error.into()))?;
        }
        Ok(Self {
            file,
            left: length,
            buffer: BytesMut::new(),
        })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        this.buffer.reserve(CHUNK);
        let count = ready!(poll_read_buf(
            Pin::new(&mut this.file),
            cx,
            &mut this.buffer
        ))?;
        if count == 0 {
            // Cut while it was served: the length in the head was a promise.
            return Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into())));
        }
        let take = usize::try_from(this.left).unwrap_or(usize::MAX).min(count);
        let mut data = this.buffer.split().freeze();
        data.truncate(take);
        this.left -= take as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
