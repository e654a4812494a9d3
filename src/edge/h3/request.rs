//! One request of HTTP/3, from the first byte of its stream to the last of its answer. What it means is
//! `serve`'s, as for every version.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::body::{H3Body, Signals};
use super::codes::{Code, Trouble};
use super::frames::{DATA, Frames, HEADERS, Piece, put_varint};
use super::line::Line;
use super::{head, qpack};
use crate::edge::body::EdgeBody;
use crate::edge::connection::{Busy, Conn, H2_HEADER_LIST};
use crate::edge::incoming::RequestBody;
use crate::edge::{Admit, Attach, OpenStream, serve};
use crate::http::HeadError;
use crate::http::limits::{FIELDS_MAX, HEAD_TIMEOUT, RATE_MIN, RATE_WINDOW};
use crate::times::Clock;
use crate::wire::RecvChunks;

/// Pseudo-headers beside the fields of a head.
const PSEUDO: usize = 4;

/// A head and the end of its stream may come in two packets. What has no body as a rule is waited for this
/// long, so that it goes on as what it is.
const END_WITHIN: Duration = Duration::from_millis(20);

/// How long the last bytes of an answer may take to arrive: what QUIC holds of it, at 32 KiB a second.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// The sending half: reset, unless it is finished. Left alone, quinn would finish it, and half an answer
/// would look like a whole one.
struct Outgoing {
    send: SendStream,
    is_done: bool,
}

impl Outgoing {
    fn reset(&mut self, code: Code) {
        self.is_done = true;
        // A stream that is over needs no word.
        let _ = self.send.reset(code.wire());
    }

    async fn section<'a>(
        &mut self,
        lines: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), Trouble> {
        let block = qpack::encode(lines).freeze();
        self.judged(HEADERS, block).await
    }

    /// A frame that nothing else judges: taken at the minimum rate, or the answer is given up.
    async fn judged(&mut self, kind: u64, payload: Bytes) -> Result<(), Trouble> {
        let within = RATE_WINDOW + Duration::from_secs(payload.len() as u64 / RATE_MIN);
        let written = timeout(within, self.frame(kind, payload)).await;
        written.unwrap_or(Err(Trouble::Stream(Code::REQUEST_CANCELLED)))
    }

    async fn frame(&mut self, kind: u64, payload: Bytes) -> Result<(), Trouble> {
        let mut start = BytesMut::with_capacity(16);
        put_varint(&mut start, kind);
        put_varint(&mut start, payload.len() as u64);
        let written = self
            .send
            .write_all_chunks(&mut [start.freeze(), payload])
            .await;
        written.map_err(|_| Trouble::Gone)
    }

    fn finish(&mut self) {
        self.is_done = true;
        let _ = self.send.finish();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_done {
            self.reset(Code::INTERNAL);
        }
    }
}

/// Serves one request to its end.
pub(super) async fn run<S: Admit + Attach + OpenStream>(
    conn: Arc<Conn<S>>,
    line: Arc<Line>,
    (send, recv): (SendStream, RecvStream),
) {
    let stop = conn.edge.connections.stopped();
    let stopped = pin!(asked_to_stop(send.stopped()));
    let signals = Signals::default();
    let mut out = Outgoing {
        send,
        is_done: false,
    };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ended::Reset(Code::REQUEST_CANCELLED),
        // Before the answer: one to a malformed message must not go out.
        () = signals.malformed.cancelled() => Ended::Reset(Code::MESSAGE),
        _ = stopped => Ended::Cancelled,
        ended = exchange(&conn, &line, &mut out, recv, &signals) => ended,
    };
    match ended {
        Ended::Whole(_busy) => {
            out.finish();
            let arrived = out.send.stopped();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // Whatever it says: the answer is over.
                _ = timeout(ARRIVES_WITHIN, arrived) => {}
            }
        }
        Ended::Reset(code) => out.reset(code),
        Ended::Cancelled => {
            out.reset(Code::REQUEST_CANCELLED);
            line.charge_reset();
        }
        Ended::Fatal(code) => line.fail(code),
    }
}

/// How a request ends.
enum Ended {
    /// Its answer is out, and QUIC has it; the connection is busy until it has arrived.
    Whole(Busy),
    /// Its stream, for this reason.
    Reset(Code),
    /// The visitor wants no answer any more.
    Cancelled,
    /// With its connection.
    Fatal(Code),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Connection(code) => Self::Fatal(code),
            Trouble::Stream(code) => Self::Reset(code),
            Trouble::TooLarge => Self::Reset(Code::EXCESSIVE_LOAD),
            Trouble::Gone => Self::Cancelled,
        }
    }
}

/// Waits until the visitor says that it wants no answer.
async fn asked_to_stop<E>(stopped: impl Future<Output = Result<Option<VarInt>, E>>) {
    match stopped.await {
        Ok(Some(_)) | Err(_) => {}
        Ok(None) => std::future::pending().await,
    }
}

async fn exchange<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
    line: &Arc<Line>,
    out: &mut Outgoing,
    recv: RecvStream,
    signals: &Signals,
) -> Ended {
    let busy = Busy::new(&conn.activity);
    let mut frames = Frames::new(recv, Arc::clone(line));
    let read = match timeout(HEAD_TIMEOUT, read_head(&mut frames)).await {
        Ok(read) => read,
        Err(_) => Err(Trouble::Stream(Code::REQUEST_INCOMPLETE)),
    };
    let (parts, length) = match read {
        Ok(read) => read,
        Err(Trouble::TooLarge) => {
            frames.stop(Code::EXCESSIVE_LOAD);
            line.charge_reset();
            let refusal = serve::refuse(conn, HeadError::HeadTooLarge);
            return answer(conn, out, refusal).await;
        }
        Err(trouble) => {
            frames.stop(Code::MESSAGE);
            if matches!(trouble, Trouble::Stream(_)) {
                line.charge_reset();
            }
            return trouble.into();
        }
    };
    await_end(&mut frames, &parts, length).await;
    let body = H3Body::new(frames, Arc::clone(line), length, signals.clone());
    let request = Request::from_parts(parts, RequestBody::from(body));
    let expects = expects_continue(request.headers());
    let mut answering = pin!(serve::answer(conn, request));
    let response = tokio::select! {
        biased;
        response = answering.as_mut() => response,
        () = signals.wanted.notified(), if expects => {
            if let Err(trouble) = interim(out, StatusCode::CONTINUE).await {
                return trouble.into();
            }
            answering.await
        }
    };
    // From here on its turn says so: who stands still in the middle of an answer is not busy with more.
    drop(busy);
    answer(conn, out, response).await
}

async fn read_head(frames: &mut Frames) -> Result<(Parts, Option<u64>), Trouble> {
    let piece = poll_fn(|cx| frames.poll_piece(cx)).await?;
    let Some(Piece::Section(block)) = piece else {
        return Err(Trouble::Stream(Code::REQUEST_INCOMPLETE));
    };
    let lines = qpack::decode(&block, FIELDS_MAX + PSEUDO, H2_HEADER_LIST as usize);
    let lines = lines.map_err(|problem| match problem {
        qpack::Problem::Malformed => Trouble::Connection(Code::DECOMPRESSION),
        qpack::Problem::TooLarge => Trouble::TooLarge,
    })?;
    head::request(lines).map_err(|_| Trouble::Stream(Code::MESSAGE))
}

/// Waits a moment for the end of a message that should have no body.
async fn await_end(frames: &mut Frames, parts: &Parts, length: Option<u64>) {
    let has_none = matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE
    );
    if length.unwrap_or(0) == 0 && (has_none || length.is_some()) {
        // What comes instead is read as a body, with the trouble it may hold.
        let _ = timeout(END_WITHIN, poll_fn(|cx| frames.poll_more(cx))).await;
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

async fn interim(out: &mut Outgoing, status: StatusCode) -> Result<(), Trouble> {
    out.section([(&b":status"[..], status.as_str().as_bytes())].into_iter())
        .await
}

async fn answer<S, R: RecvChunks>(
    conn: &Conn<S>,
    out: &mut Outgoing,
    response: Response<EdgeBody<R>>,
) -> Ended {
    let (mut parts, body) = response.into_parts();
    date(&mut parts.headers);
    let given_up = body.given_up();
    let mut body = pin!(body);
    let written = tokio::select! {
        biased;
        // The stall board judges, and whoever waits for the visitor does not ask the body.
        () = given_up.cancelled() => Err(Trouble::Stream(Code::REQUEST_CANCELLED)),
        written = write(out, &parts, body.as_mut()) => written,
    };
    match written {
        // Before the body and its turn go.
        Ok(()) => Ended::Whole(Busy::new(&conn.activity)),
        Err(trouble) => trouble.into(),
    }
}

async fn write<R: RecvChunks>(
    out: &mut Outgoing,
    head: &http::response::Parts,
    mut body: Pin<&mut EdgeBody<R>>,
) -> Result<(), Trouble> {
    let first = (&b":status"[..], head.status.as_str().as_bytes());
    out.section(std::iter::once(first).chain(head::lines(&head.headers)))
        .await?;
    let is_own = body.own_size().is_some();
    while let Some(frame) = next_frame(body.as_mut()).await {
        // Half an answer must not look like a whole one.
        let frame = frame.map_err(|_| Trouble::Stream(Code::INTERNAL))?;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) if is_own => out.judged(DATA, data).await?,
            Ok(data) => out.frame(DATA, data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    out.section(head::lines(&trailers)).await?;
                }
            }
        }
    }
    Ok(())
}

async fn next_frame<B: Body>(
    mut body: Pin<&mut B>,
) -> Option<Result<http_body::Frame<B::Data>, B::Error>> {
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// Who answers says when; hyper does it in the other versions.
fn date(headers: &mut HeaderMap) {
    if headers.contains_key(header::DATE) {
        return;
    }
    let millis = u64::try_from(Clock.now().wall.as_millis()).unwrap_or(0);
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    if let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
        headers.insert(header::DATE, value);
    }
}
