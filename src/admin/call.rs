//! The caller's side: one connection per call over the Unix socket, with a deadline. Not the command
//! line: what a failure means to a person is `ctl`'s to say.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::ApiError;
use super::respond::Problem;
use super::types::EventJson;
use crate::codes::Code;
use crate::tasks::Tasks;

const DEADLINE: Duration = Duration::from_secs(30);
/// An answer is a page at most; more is no daemon of ours.
const ANSWER_MAX: usize = 64 << 20;
/// One line of an event stream.
const LINE_MAX: usize = 1 << 20;
/// The daemon sends a comment every 15 seconds; three missing ones are silence.
const SILENCE: Duration = Duration::from_secs(45);
/// What stays as it is in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No socket, or nothing behind it.
    #[error("wormkeyd does not answer on {socket}")]
    DaemonUnreachable {
        /// The socket.
        socket: PathBuf,
        /// Whether there is a file of that name.
        stale: bool,
    },
    /// The socket is there, and its mode keeps the caller out.
    #[error("you may not use {socket}")]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
        /// The group whose members may; none when the socket itself cannot be seen.
        group: Option<String>,
    },
    /// The connection ended, or the answer was none.
    #[error("the daemon's answer on {socket} was cut off")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        #[source]
        err: io::Error,
    },
    /// The answer came whole and is not what was asked for.
    #[error("the daemon's answer on {socket} does not read")]
    Unread {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        #[source]
        err: serde_json::Error,
    },
    /// The deadline passed.
    #[error("no answer on {socket} after {}", crate::times::show_duration(*.after))]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The daemon refused.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl CallError {
    /// The table's row of this failure; gives the exit code.
    pub const fn code(&self) -> Code {
        match self {
            Self::DaemonUnreachable { .. } | Self::Broken { .. } | Self::Unread { .. } => {
                Code::DaemonUnreachable
            }
            Self::NotPermitted { .. } => Code::Forbidden,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::Api(err) => err.code,
        }
    }
}

/// Speaks to a daemon. Cheap to make and to clone; nothing is connected between calls.
#[derive(Debug, Clone)]
pub struct ApiClient {
    socket: PathBuf,
    deadline: Duration,
    tasks: Tasks,
}

impl ApiClient {
    /// For the daemon behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            deadline: DEADLINE,
            tasks: Tasks::new(),
        }
    }

    /// The same with another deadline for each call; 30 s if never set.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// Where it calls.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A path with a variable last segment: `/v1/tunnels/` and a slug.
    pub fn path(base: &str, key: &str) -> String {
        format!("{base}{}", utf8_percent_encode(key, SEGMENT))
    }

    /// `GET`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let answer = self.call(Method::GET, path, Bytes::new()).await?;
        self.read(&answer.1)
    }

    /// `POST` of a JSON body; also tells the status (201 = new, 200 = there already).
    pub async fn post<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        ask: &A,
    ) -> Result<(StatusCode, T), CallError> {
        self.ask(Method::POST, path, ask).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        ask: &A,
    ) -> Result<T, CallError> {
        Ok(self.ask(Method::PATCH, path, ask).await?.1)
    }

    async fn ask<A: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        ask: &A,
    ) -> Result<(StatusCode, T), CallError> {
        let body = serde_json::to_vec(ask).map_err(|err| self.broken(err.into()))?;
        let (status, bytes) = self.call(method, path, body.into()).await?;
        Ok((status, self.read(&bytes)?))
    }

    /// `GET` of what is no JSON, piece by piece; how many bytes there were. The deadline is for the head
    /// and for each piece.
    pub async fn download(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, CallError> {
        let request = Request::get(path).body(Full::default());
        let request = request.map_err(|err| self.broken(io::Error::other(err)))?;
        let exchange = async {
            let (response, connection) = self.send(request).await?;
            if response.status().is_success() {
                Ok((response, connection))
            } else {
                Err(self.problem(response).await)
            }
        };
        let (response, _connection) = self.in_time(exchange).await?;
        let (mut body, mut size) = (response.into_body(), 0);
        loop {
            let next = async { Ok(body.frame().await) };
            let Some(frame) = self.in_time(next).await? else {
                return Ok(size);
            };
            let frame = frame.map_err(|err| self.broken(io::Error::other(err)))?;
            if let Ok(data) = frame.into_data() {
                size += data.len() as u64;
                take(&data).map_err(|err| self.broken(err))?;
            }
        }
    }

    /// `DELETE`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let answer = self.call(Method::DELETE, path, Bytes::new()).await?;
        self.read(&answer.1)
    }

    /// `PUT` of a JSON body.
    pub async fn put<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        ask: &A,
    ) -> Result<T, CallError> {
        Ok(self.ask(Method::PUT, path, ask).await?.1)
    }

    /// Subscribes to events: after an id as far as they are remembered, or from now on.
    pub async fn events(&self, after: Option<u64>) -> Result<EventReader, CallError> {
        let mut request = Request::get("/v1/events").header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let request = request
            .body(Full::default())
            .map_err(|err| self.broken(io::Error::other(err)))?;
        let exchange = async {
            let (response, connection) = self.send(request).await?;
            if response.status().is_success() {
                Ok((response, connection))
            } else {
                Err(self.problem(response).await)
            }
        };
        let (response, connection) = self.in_time(exchange).await?;
        Ok(EventReader {
            socket: self.socket.clone(),
            body: response.into_body(),
            buffer: BytesMut::new(),
            _connection: connection,
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|err| self.broken(io::Error::other(err)))?;
        let exchange = async {
            let (response, _connection) = self.send(request).await?;
            let status = response.status();
            if status.is_success() {
                Ok((status, self.collect(response).await?))
            } else {
                Err(self.problem(response).await)
            }
        };
        self.in_time(exchange).await
    }

    async fn in_time<T>(
        &self,
        exchange: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::time::timeout(self.deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(CallError::TimedOut {
                    socket: self.socket.clone(),
                    after: self.deadline,
                })
            })
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), CallError> {
        request
            .headers_mut()
            .insert(HOST, http::HeaderValue::from_static("localhost"));
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|err| self.unconnected(err))?;
        let broken = |err: hyper::Error| self.broken(io::Error::other(err));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // What goes wrong on the connection shows in the answer.
        let connection = self.tasks.spawn("admin-caller", async move {
            let _ = connection.await;
        });
        let connection = AbortOnDropHandle::new(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, CallError> {
        match Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
        {
            Ok(body) => Ok(body.to_bytes()),
            Err(err) => Err(self.broken(io::Error::other(err))),
        }
    }

    async fn problem(&self, response: Response<Incoming>) -> CallError {
        let status = response.status();
        match self.collect(response).await {
            Ok(bytes) => serde_json::from_slice::<Problem>(&bytes).map_or_else(
                |_| self.broken(io::Error::other(format!("status {status}"))),
                |problem| CallError::Api(problem.into()),
            ),
            Err(err) => err,
        }
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CallError> {
        serde_json::from_slice(bytes).map_err(|err| CallError::Unread {
            socket: self.socket.clone(),
            err,
        })
    }

    fn broken(&self, err: io::Error) -> CallError {
        CallError::Broken {
            socket: self.socket.clone(),
            err,
        }
    }

    fn unconnected(&self, err: io::Error) -> CallError {
        let socket = self.socket.clone();
        match err.kind() {
            io::ErrorKind::NotFound => CallError::DaemonUnreachable {
                socket,
                stale: false,
            },
            io::ErrorKind::ConnectionRefused => CallError::DaemonUnreachable {
                socket,
                stale: true,
            },
            io::ErrorKind::PermissionDenied => CallError::NotPermitted {
                group: group_of(&socket),
                socket,
            },
            _ => CallError::Broken { socket, err },
        }
    }
}

/// The group of a socket; when its directory is closed to us, the directory's.
fn group_of(socket: &Path) -> Option<String> {
    let found = std::fs::metadata(socket)
        .or_else(|err| socket.parent().map_or(Err(err), std::fs::metadata))
        .ok()?;
    let group = nix::unistd::Group::from_gid(found.gid().into()).ok()??;
    Some(group.name)
}

/// Reads an event stream.
#[derive(Debug)]
pub struct EventReader {
    socket: PathBuf,
    body: Incoming,
    buffer: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl EventReader {
    /// The next event with its number; none when the daemon ended the stream. Events of kinds that this
    /// caller does not know are skipped. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<(u64, EventJson)>, CallError> {
        loop {
            while let Some(block) = self.take_block() {
                if let Some(event) = parse_block(&block) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > LINE_MAX {
                return Err(self.broken(io::Error::other("an event is too long")));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame())
                .await
                .map_err(|_| CallError::TimedOut {
                    socket: self.socket.clone(),
                    after: SILENCE,
                })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(err)) => return Err(self.broken(io::Error::other(err))),
            }
        }
    }

    /// Blocks end at an empty line.
    fn take_block(&mut self) -> Option<BytesMut> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = self.buffer.split_to(end);
        self.buffer.advance(2);
        Some(block)
    }

    fn broken(&self, err: io::Error) -> CallError {
        CallError::Broken {
            socket: self.socket.clone(),
            err,
        }
    }
}

/// The fields of one block; comments have none.
fn parse_block(block: &[u8]) -> Option<(u64, EventJson)> {
    let text = std::str::from_utf8(block).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.strip_prefix(' ').unwrap_or(value))
    };
    let id = field("id")?.parse().ok()?;
    let event = serde_json::from_str(field("data")?).ok()?;
    Some((id, event))
}
