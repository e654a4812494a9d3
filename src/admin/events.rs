//! `GET /v1/events`: server-sent events. One task per watcher feeds a short queue, so a watcher that
//! does not read costs its own events and nobody else's.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http_body::Frame;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::types::EventJson;
use super::{ApiError, EventStream};
use crate::codes::Code;
use crate::tasks::Tasks;

/// Half of the connections stay free for calls.
const WATCHERS: usize = super::serve::CONNECTIONS / 2;
/// Events on their way to one watcher; when full, its events wait in the broadcast and the oldest go.
const QUEUE: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many may watch at once.
#[derive(Clone)]
pub(super) struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS)))
    }
}

impl Watchers {
    /// Starts a stream. Without `after` it starts now: what is remembered is for those who resume.
    pub(super) fn stream(
        &self,
        tasks: &Tasks,
        after: Option<u64>,
        subscribe: impl FnOnce() -> (Vec<(u64, EventJson)>, EventStream),
    ) -> Result<Response, ApiError> {
        let permit = self.0.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                Code::LimitReached,
                format!("{WATCHERS} callers watch already"),
            )
        })?;
        let (past, live) = subscribe();
        let past = if after.is_some() { past } else { Vec::new() };
        let (queue, body) = mpsc::channel(QUEUE);
        let pump = Pump {
            queue,
            stop: tasks.stopped(),
            sent: None,
            _permit: permit,
        };
        tasks.spawn("admin-events", pump.run(past, live));
        let mut response = Response::new(Body::new(QueueBody(body)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// What feeds one watcher.
struct Pump {
    queue: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    /// The latest id sent; a live event that was among the remembered ones is not sent twice.
    sent: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

/// The watcher is gone, or told to go.
struct Ended;

impl Pump {
    async fn run(mut self, past: Vec<(u64, EventJson)>, live: EventStream) {
        let _: Result<(), Ended> = self.feed(past, live).await;
    }

    async fn feed(
        &mut self,
        past: Vec<(u64, EventJson)>,
        mut live: EventStream,
    ) -> Result<(), Ended> {
        // The head goes out at once, so that the watcher knows it is subscribed.
        self.send(Bytes::from_static(b": watching\n\n")).await?;
        for (id, event) in past {
            self.event(id, &event).await?;
        }
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Ended),
                () = self.queue.closed() => return Err(Ended),
                received = live.recv() => match received {
                    Ok((id, event)) => self.event(id, &event).await?,
                    // The gap shows in the ids, too; the comment is for people.
                    Err(RecvError::Lagged(missed)) => {
                        self.send(format!(": {missed} events missed\n\n").into()).await?;
                    }
                    Err(RecvError::Closed) => return Err(Ended),
                },
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    self.send(Bytes::from_static(b": still here\n\n")).await?;
                }
            }
        }
    }

    async fn event(&mut self, id: u64, event: &EventJson) -> Result<(), Ended> {
        if self.sent.is_some_and(|sent| id <= sent) {
            return Ok(());
        }
        self.sent = Some(id);
        let name = match event {
            EventJson::Visit(_) => "visit",
            EventJson::Tunnel(_) => "tunnel",
            EventJson::Link(_) => "link",
        };
        // JSON text has no line breaks of its own, so one data line carries it.
        let data = serde_json::to_string(event).map_err(|_| Ended)?;
        self.send(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into())
            .await
    }

    /// Waits while the watcher does not read; when it never does, its connection ends and the queue
    /// with it.
    async fn send(&self, chunk: Bytes) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended),
            sent = self.queue.send(chunk) => sent.map_err(|_| Ended),
        }
    }
}

struct QueueBody(mpsc::Receiver<Bytes>);

impl http_body::Body for QueueBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
