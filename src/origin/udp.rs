//! Visits of datagrams: a socket of its own for each flow, so that the origin tells visitors apart and
//! answers come back to the right one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::dial::{CONNECT_DEADLINE, DialError};
use super::exchange::Failure;
use super::pool::Pool;
use super::splice::SpliceError;
use super::tunnel::{OriginTunnel, VisitReport};
use crate::names::{Kind, Target};
use crate::wire::UdpHead;
use crate::wire::udp::{Datagrams, FlowEnd, PAYLOAD_MAX};

/// Over the opener's own idleness, which ends a flow first when all is well.
const PLAY: u32 = 2;

/// The longest that a flow may be idle, whatever its opener says.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Answers that are read at one go before the visitor's side has its turn.
const BURST: usize = 32;

/// Carries one flow until its opener ends it, or it was idle for long after it should have ended.
pub(super) async fn serve<F: Datagrams>(
    pool: &Pool,
    tunnel: &OriginTunnel,
    head: &UdpHead,
    flow: &mut F,
    report: &mut VisitReport,
) -> Result<(), Failure> {
    let Target::Stream {
        kind: Kind::Udp, ..
    } = &tunnel.target
    else {
        return Err(Failure::Dial(DialError::Unsupported {
            target: tunnel.target.to_string(),
        }));
    };
    let by = Instant::now() + CONNECT_DEADLINE;
    let addresses = pool.dialler().addresses(&tunnel.target, by).await?;
    let mut origin = Origin::connect(&tunnel.target, addresses.into()).await?;
    let idle = match head.idle_ms {
        0 => IDLE_MAX,
        ms => (Duration::from_millis(ms) * PLAY).min(IDLE_MAX),
    };
    let mut room = vec![0; PAYLOAD_MAX + 1];
    loop {
        tokio::select! {
            biased;
            payload = poll_fn(|cx| flow.poll_recv(cx)) => match payload {
                Ok(payload) => {
                    report.bytes_in += payload.len() as u64;
                    origin.send(payload).await?;
                }
                Err(FlowEnd::Ended) => return Ok(()),
                Err(FlowEnd::Stream(error)) => return Err(Failure::Splice(SpliceError::Visitor(error))),
            },
            ready = origin.socket.ready(Interest::READABLE | Interest::ERROR) => {
                ready.map_err(|error| origin.failed(error))?;
                origin.look_for_errors().await?;
                report.bytes_out += origin.answers(&mut room, flow).await?;
            }
            () = tokio::time::sleep(idle) => return Ok(()),
        }
    }
}

/// The socket of one flow.
struct Origin {
    at: String,
    socket: UdpSocket,
    /// Addresses that were not tried; a bare port has two.
    others: VecDeque<SocketAddr>,
    /// What was sent last, for the next address.
    last: Bytes,
    answered: bool,
}

impl Origin {
    async fn connect(
        target: &Target,
        mut addresses: VecDeque<SocketAddr>,
    ) -> Result<Self, Failure> {
        let at = target.to_string();
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        while let Some(address) = addresses.pop_front() {
            match connected(address).await {
                Ok(socket) => {
                    return Ok(Self {
                        at,
                        socket,
                        others: addresses,
                        last: Bytes::new(),
                        answered: false,
                    });
                }
                Err(error) => failed = error,
            }
        }
        Err(Failure::Dial(DialError::NothingListens {
            at,
            source: failed,
        }))
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::Dial(DialError::NothingListens {
            at: self.at.clone(),
            source,
        })
    }

    /// What came back as an error only: that nobody is there does not count as something to read.
    async fn look_for_errors(&mut self) -> Result<(), Failure> {
        let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // Tells the runtime that this was seen, or it would be told for ever.
        let _ = self.socket.try_io(Interest::ERROR, seen);
        match self.socket.take_error() {
            Ok(Some(error)) => self.refused(error).await,
            _ => Ok(()),
        }
    }

    /// Hands a few answers to the visitor; how many bytes.
    async fn answers<F: Datagrams>(
        &mut self,
        room: &mut [u8],
        flow: &mut F,
    ) -> Result<u64, Failure> {
        let mut bytes = 0;
        for _ in 0..BURST {
            match self.socket.try_recv(room) {
                Ok(count) => {
                    self.answered = true;
                    bytes += count as u64;
                    flow.send(Bytes::copy_from_slice(&room[..count]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.refused(error).await?;
                    break;
                }
            }
        }
        Ok(bytes)
    }

    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        self.last = payload;
        match self.socket.try_send(&self.last) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused(error).await
            }
            // Too large for the origin's network, or no room now: lost, as datagrams are.
            _ => Ok(()),
        }
    }

    /// Nobody is there. One who has answered before may be restarting; else another address may be the
    /// right one.
    async fn refused(&mut self, error: io::Error) -> Result<(), Failure> {
        if self.answered {
            return Ok(());
        }
        while let Some(address) = self.others.pop_front() {
            if let Ok(socket) = connected(address).await {
                self.socket = socket;
                let _ = self.socket.try_send(&self.last);
                return Ok(());
            }
        }
        Err(self.failed(error))
    }
}

async fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    // The runtime has to hear of its room first, or the first datagram would be taken for one too many.
    socket.writable().await?;
    Ok(socket)
}
