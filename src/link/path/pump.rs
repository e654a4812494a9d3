//! Moves datagrams between a WebSocket and the two queues around it, until one of them ends. The same
//! for both ends; what they differ in is said by [`Inward`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::codec::{self, BadMessage};
use super::outbox::Outbox;
use super::recognise::Recognise;

/// What is still queued when a session is told to stop gets this long to leave.
const PARTING: Duration = Duration::from_secs(1);

/// A datagram that came in, and the address QUIC shall see it come from.
pub(super) type Arrived = (SocketAddr, Bytes);

/// Why a session ended. In every case only the path is gone, never a link.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The peer, or something on the way, closed it.
    #[error("closed by the peer")]
    Closed,
    /// We did: it is not needed any more, or the process ends.
    #[error("closed here")]
    Stopped,
    /// Nothing came for too long.
    #[error("idle")]
    Idle,
    /// It did not show in time that it is a link's.
    #[error("nothing of a link came")]
    Unproved,
    /// What came is not ours.
    #[error("not our packets")]
    Hostile(#[from] BadMessage),
    /// The connection or its framing broke.
    #[error("the WebSocket broke")]
    Broken(#[source] Box<Error>),
    /// The endpoint behind it is gone.
    #[error("the endpoint is gone")]
    Gone,
}

/// Where datagrams go that come in.
pub(super) struct Inward {
    pub(super) inbox: mpsc::Sender<Arrived>,
    pub(super) from: SocketAddr,
    pub(super) idle: Duration,
    pub(super) doubt: Option<Doubt>,
}

/// What a session may do before it has shown that it is a link's.
pub(super) struct Doubt {
    pub(super) recognise: Arc<Recognise>,
    pub(super) bytes: usize,
    pub(super) until: Instant,
}

/// Our framing on an upgraded connection.
pub(super) async fn websocket<I>(io: I, role: Role) -> WebSocketStream<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(codec::MESSAGE_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * codec::MESSAGE_MAX)
        .max_message_size(Some(codec::MESSAGE_MAX))
        .max_frame_size(Some(codec::MESSAGE_MAX));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// Runs a session to its end.
pub(super) async fn pump<I>(
    io: WebSocketStream<I>,
    outbox: &Outbox,
    inward: Inward,
    stop: &CancellationToken,
) -> SessionEnd
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (mut tx, mut rx) = io.split();
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => SessionEnd::Stopped,
        end = outward(&mut tx, outbox) => end,
        end = inward.run(&mut rx) => end,
    };
    outbox.close();
    if matches!(end, SessionEnd::Stopped) {
        let parting = async {
            outward(&mut tx, outbox).await;
            let _ = tx.close().await;
            // What the peer still had under way; it ends with its own close.
            while let Some(Ok(_)) = rx.next().await {}
        };
        let _ = timeout(PARTING, parting).await;
    }
    end
}

/// Ends once the outbox is closed and empty.
async fn outward<S>(tx: &mut S, outbox: &Outbox) -> SessionEnd
where
    S: Sink<Message, Error = Error> + Unpin,
{
    while let Some(message) = outbox.next().await {
        if let Err(error) = tx.send(Message::Binary(message)).await {
            return ended(error);
        }
    }
    SessionEnd::Stopped
}

impl Inward {
    async fn run<S>(mut self, rx: &mut S) -> SessionEnd
    where
        S: Stream<Item = Result<Message, Error>> + Unpin,
    {
        loop {
            let (deadline, late) = match &self.doubt {
                Some(doubt) => (doubt.until, SessionEnd::Unproved),
                None => (Instant::now() + self.idle, SessionEnd::Idle),
            };
            let message = match timeout_at(deadline, rx.next()).await {
                Err(_) => return late,
                Ok(None) => return SessionEnd::Closed,
                Ok(Some(Err(error))) => return ended(error),
                Ok(Some(Ok(message))) => message,
            };
            if let Err(end) = self.take(message).await {
                return end;
            }
            // A peer that never pauses must not keep a worker to itself.
            tokio::task::consume_budget().await;
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), SessionEnd> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) => return Err(BadMessage::Text.into()),
            Message::Close(_) => return Err(SessionEnd::Closed),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                return self.doubt.as_mut().map_or(Ok(()), |doubt| doubt.charge(1));
            }
        };
        for datagram in codec::datagrams(bytes) {
            let datagram = datagram?;
            if let Some(doubt) = &mut self.doubt {
                if doubt.recognise.is_ours(&datagram) {
                    self.doubt = None;
                } else {
                    doubt.charge(datagram.len())?;
                }
            }
            // Waits while the endpoint is behind, and TCP makes the peer wait: sessions come in by
            // turns, so one that floods delays itself.
            let sent = self.inbox.send((self.from, datagram)).await;
            sent.map_err(|_| SessionEnd::Gone)?;
        }
        Ok(())
    }
}

impl Doubt {
    fn charge(&mut self, bytes: usize) -> Result<(), SessionEnd> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(SessionEnd::Unproved)?;
        Ok(())
    }
}

fn ended(error: Error) -> SessionEnd {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => SessionEnd::Closed,
        other => SessionEnd::Broken(Box::new(other)),
    }
}
