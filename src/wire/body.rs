//! HTTP bodies over a stream: the pumps that edge and origin share. Neither knows HTTP/1 or 2 here.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame as BodyFrame};

use super::{
    DATA_MAX, Frame, FrameDecoder, RecvChunks, ResponseHead, SendChunks, StreamCode, StreamError,
    WireError, data_header, encode_frame, fields, send_all,
};

/// How many chunks move at once. Many per write is what makes bulk fast (measured: a factor of two).
const BATCH: usize = 32;

/// How many while a head is waited for, which is nearly always the first of them: who waits carries the room.
const HEAD_BATCH: usize = 2;

/// Why a body did not arrive or leave whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The stream was given up.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The peer broke the wire.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The body's source failed: the visitor or the origin broke off.
    #[error("the body's source broke off")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A body arriving in a stream. An end that is no end of a frame, and a reset, are errors: an aborted
/// body is never delivered as a complete one.
#[derive(Debug)]
pub struct WireBody<R> {
    stream: R,
    decoder: FrameDecoder,
    state: BodyState,
}

#[derive(Debug, PartialEq, Eq)]
enum BodyState {
    Data,
    /// Trailers came; only the end may follow.
    Trailed,
    Ended,
}

impl<R: RecvChunks> WireBody<R> {
    /// The body that follows what `decoder` has read from `stream`.
    pub fn new(stream: R, decoder: FrameDecoder) -> Self {
        Self {
            stream,
            decoder,
            state: BodyState::Data,
        }
    }

    /// Tells the sender why no more of it is wanted.
    pub fn stop(&mut self, code: StreamCode) {
        if self.state != BodyState::Ended {
            self.stream.stop(code);
            self.state = BodyState::Ended;
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        loop {
            if self.state == BodyState::Ended {
                return Poll::Ready(None);
            }
            match self.decoder.next_frame()? {
                Some(Frame::Data(_)) if self.state == BodyState::Trailed => {
                    return Poll::Ready(Some(Err(WireError::OutOfPlace {
                        what: "a DATA frame",
                    }
                    .into())));
                }
                Some(Frame::Data(bytes)) => return Poll::Ready(Some(Ok(BodyFrame::data(bytes)))),
                Some(Frame::Trailers(cbor)) if self.state == BodyState::Data => {
                    self.state = BodyState::Trailed;
                    let trailers = fields::decode(&mut minicbor::Decoder::new(&cbor), &mut ())
                        .map_err(|e| WireError::malformed("trailers", e))?;
                    return Poll::Ready(Some(Ok(BodyFrame::trailers(trailers))));
                }
                Some(_) => {
                    return Poll::Ready(Some(Err(WireError::OutOfPlace {
                        what: "a head or trailers",
                    }
                    .into())));
                }
                None => {}
            }
            let mut chunks = [const { Bytes::new() }; BATCH];
            let count = ready!(self.stream.poll_recv(cx, &mut chunks))?;
            if count == 0 {
                self.state = BodyState::Ended;
                if !self.decoder.at_border() {
                    return Poll::Ready(Some(Err(WireError::Truncated { what: "a frame" }.into())));
                }
                return Poll::Ready(None);
            }
            for chunk in chunks.into_iter().take(count) {
                self.decoder.push(chunk);
            }
        }
    }
}

impl<R: RecvChunks> Body for WireBody<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let polled = self.poll_next(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.state = BodyState::Ended;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.state == BodyState::Ended
    }
}

/// Sends a response head; what follows is DATA, or raw bytes after a 101.
pub async fn send_response_head<S: SendChunks>(
    stream: &mut S,
    head: &ResponseHead,
) -> Result<(), StreamError> {
    send_all(stream, &mut [head.to_frame()]).await
}

/// Sends an interim head (1xx other than 101).
pub async fn send_interim<S: SendChunks>(
    stream: &mut S,
    head: &ResponseHead,
) -> Result<(), StreamError> {
    debug_assert!(
        head.status.is_informational() && head.status != 101,
        "a final head goes by send_response_head"
    );
    send_response_head(stream, head).await
}

/// Reads the next response head, interim or final.
pub async fn read_response_head<R: RecvChunks>(
    stream: &mut R,
    decoder: &mut FrameDecoder,
) -> Result<ResponseHead, BodyError> {
    loop {
        match decoder.next_frame()? {
            Some(Frame::Head(cbor)) => return Ok(ResponseHead::from_bytes(&cbor)?),
            Some(_) => {
                return Err(WireError::OutOfPlace {
                    what: "a body before its head",
                }
                .into());
            }
            None => {}
        }
        let mut chunks = [const { Bytes::new() }; HEAD_BATCH];
        let count = poll_fn(|cx| stream.poll_recv(cx, &mut chunks)).await?;
        if count == 0 {
            return Err(WireError::Truncated {
                what: "a response without a head",
            }
            .into());
        }
        for chunk in chunks.into_iter().take(count) {
            decoder.push(chunk);
        }
    }
}

/// Sends a whole body and its trailers and finishes the stream; notices when the peer wants no more.
/// Gives the number of body bytes sent.
///
/// On an error the stream is left as it is: the caller resets it with the code that fits, and an
/// aborted body is never taken for a complete one.
pub async fn send_body<S, B>(stream: &mut S, body: B) -> Result<u64, BodyError>
where
    S: SendChunks,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    send_behind(stream, Batch::default(), body).await
}

/// Sends a response head and the body behind it, as [`send_body`] does. What of the body is there already
/// goes out together with the head, which waits for nothing else.
pub async fn send_answer<S, B>(
    stream: &mut S,
    head: &ResponseHead,
    body: B,
) -> Result<u64, BodyError>
where
    S: SendChunks,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    send_behind(stream, Batch::of_head(head), body).await
}

async fn send_behind<S, B>(stream: &mut S, mut batch: Batch, mut body: B) -> Result<u64, BodyError>
where
    S: SendChunks,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut watch_stop = true;
    loop {
        let filled = poll_fn(|cx| fill(cx, stream, &mut body, &mut batch, &mut watch_stop)).await;
        // Also when the body broke: what came before it may still be of use.
        send_all(stream, &mut batch.chunks).await?;
        batch.chunks.clear();
        if filled? {
            stream.finish();
            return Ok(batch.body_bytes);
        }
    }
}

/// Gathers frames while they are ready; `true` at the body's end.
fn fill<S, B>(
    cx: &mut Context<'_>,
    stream: &mut S,
    body: &mut B,
    batch: &mut Batch,
    watch_stop: &mut bool,
) -> Poll<Result<bool, BodyError>>
where
    S: SendChunks,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    while batch.chunks.len() < 2 * BATCH {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => batch.push(frame),
            Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(BodyError::Source(e.into()))),
            Poll::Ready(None) => return Poll::Ready(Ok(true)),
            Poll::Pending if !batch.chunks.is_empty() => return Poll::Ready(Ok(false)),
            Poll::Pending => {
                // Only an idle body needs to ask: a busy one learns of a stop by its next write.
                if *watch_stop && let Poll::Ready(stopped) = stream.poll_stopped(cx) {
                    *watch_stop = false;
                    if let Some(error) = stopped {
                        return Poll::Ready(Err(error.into()));
                    }
                }
                return Poll::Pending;
            }
        }
    }
    Poll::Ready(Ok(false))
}

/// What goes out in one write, and how many body bytes went out so far.
#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    body_bytes: u64,
}

impl Batch {
    fn of_head(head: &ResponseHead) -> Self {
        let mut chunks = Vec::with_capacity(4);
        chunks.push(head.to_frame());
        Self {
            chunks,
            body_bytes: 0,
        }
    }

    fn push(&mut self, frame: BodyFrame<Bytes>) {
        match frame.into_data() {
            Ok(mut data) => {
                self.body_bytes += data.len() as u64;
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(DATA_MAX));
                    self.chunks.push(data_header(piece.len()));
                    self.chunks.push(piece);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.chunks.push(trailers_frame(&trailers));
                }
            }
        }
    }
}

fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    encode_frame(&Frame::Trailers(fields::to_vec(trailers).into()))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;
    use crate::wire::memory::{MemoryRecv, pipe};

    fn body(rx: MemoryRecv) -> WireBody<MemoryRecv> {
        WireBody::new(rx, FrameDecoder::new())
    }

    #[tokio::test]
    async fn a_body_and_its_trailers_arrive_whole_through_a_small_window() {
        let (mut tx, rx) = pipe(1000);
        let sent = Bytes::from(vec![5u8; DATA_MAX + 17]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let source = Full::new(sent.clone()).with_trailers({
            let trailers = trailers.clone();
            Box::pin(async move { Some(Ok(trailers)) })
        });
        let (count, got) = tokio::join!(send_body(&mut tx, source), body(rx).collect());
        let got = got.unwrap();
        assert_eq!(count.unwrap(), sent.len() as u64);
        assert_eq!(got.trailers(), Some(&trailers));
        assert_eq!(got.to_bytes(), sent);
    }

    #[tokio::test]
    async fn a_source_that_breaks_off_is_no_complete_body() {
        let (mut tx, rx) = pipe(1000);
        let frames = [
            Ok(BodyFrame::data(Bytes::from_static(b"half"))),
            Err(std::io::Error::other("cut")),
        ];
        let source = StreamBody::new(futures(frames));
        assert!(matches!(
            send_body(&mut tx, source).await,
            Err(BodyError::Source(_))
        ));
        tx.reset(StreamCode::OriginError);
        let error = body(rx).collect().await.map(|_| ()).unwrap_err();
        assert!(
            matches!(
                error,
                BodyError::Stream(StreamError::Reset(StreamCode::OriginError))
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_no_complete_body() {
        let (mut tx, rx) = pipe(1000);
        send_all(
            &mut tx,
            &mut [data_header(10), Bytes::from_static(b"five5")],
        )
        .await
        .unwrap();
        tx.finish();
        let error = body(rx).collect().await.map(|_| ()).unwrap_err();
        assert!(
            matches!(error, BodyError::Wire(WireError::Truncated { .. })),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_an_idle_sender() {
        let (mut tx, rx) = pipe(1000);
        let idle = StreamBody::new(Never);
        let mut reader = body(rx);
        let (sent, ()) = tokio::join!(send_body(&mut tx, idle), async {
            reader.stop(StreamCode::Cancelled)
        });
        assert!(matches!(
            sent,
            Err(BodyError::Stream(StreamError::Reset(StreamCode::Cancelled)))
        ));
    }

    type Item = Result<BodyFrame<Bytes>, std::io::Error>;

    struct Listed(std::vec::IntoIter<Item>);
    struct Never;

    fn futures<const N: usize>(items: [Item; N]) -> Listed {
        Listed(Vec::from(items).into_iter())
    }

    impl futures_core::Stream for Listed {
        type Item = Item;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Item>> {
            Poll::Ready(self.0.next())
        }
    }

    impl futures_core::Stream for Never {
        type Item = Item;
        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Item>> {
            Poll::Pending
        }
    }
}
