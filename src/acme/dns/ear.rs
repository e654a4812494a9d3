//! The sockets of our own name server: bound at the start or, when somebody else has the port, as soon as it is
//! free. Meanwhile everything else of the server works, and the certificates' status says what is in the way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tracing::{debug, info, warn};

use super::super::challenges::Challenges;
use super::responder::{self, Zone};
use crate::tasks::Tasks;

/// The first wait before it is tried again, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The name server cannot be asked by anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "our own name server does not listen on {address} (acme.dns.listen): {why}; ports below 1024 need \
     CAP_NET_BIND_SERVICE, and beside another name server only this machine's own address is free"
)]
pub(in crate::acme) struct Deaf {
    address: SocketAddr,
    why: String,
}

/// Where our name server listens; clones share it.
#[derive(Clone)]
pub(in crate::acme) struct Ear(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    zone: Zone,
    challenges: Arc<Challenges>,
    stand: Mutex<Result<SocketAddr, Deaf>>,
}

impl Ear {
    /// Listens if it can. When it cannot, [`keep_trying`](Self::keep_trying) does later.
    pub(in crate::acme) fn open(
        address: SocketAddr,
        zone: Zone,
        challenges: Arc<Challenges>,
        tasks: &Tasks,
    ) -> Self {
        let ear = Self(Arc::new(Inner {
            address,
            zone,
            challenges,
            stand: Mutex::new(Ok(address)),
        }));
        if let Err(deaf) = ear.listen(tasks) {
            warn!(error = %deaf, "no proofs by dns, trying again");
        }
        ear
    }

    /// Where it listens, or why not.
    pub(in crate::acme) fn stand(&self) -> Result<SocketAddr, Deaf> {
        let stand = &self.0.stand;
        stand.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What shows the proofs.
    pub(in crate::acme) fn challenges(&self) -> &Arc<Challenges> {
        &self.0.challenges
    }

    /// Tries until it listens, then calls `opened`.
    pub(in crate::acme) async fn keep_trying(self, tasks: Tasks, opened: impl FnOnce()) {
        let (mut wait, most) = WAITS;
        let stop = tasks.stopped();
        while self.stand().is_err() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(most);
            match self.listen(&tasks) {
                Ok(()) => {
                    info!(address = %self.0.address, "proofs by dns work now");
                    return opened();
                }
                Err(deaf) => debug!(error = %deaf, retry_in = ?wait, "still no proofs by dns"),
            }
        }
    }

    fn listen(&self, tasks: &Tasks) -> Result<(), Deaf> {
        let Inner {
            address,
            zone,
            challenges,
            stand,
        } = &*self.0;
        let bound = bind(*address).and_then(|sockets| {
            let at = sockets.0.local_addr()?;
            responder::spawn(sockets, zone.clone(), Arc::clone(challenges), tasks);
            Ok(at)
        });
        let bound = bound.map_err(|err| Deaf {
            address: *address,
            why: err.to_string(),
        });
        stand
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&bound);
        bound.map(drop)
    }
}

/// UDP and TCP on one port; IPv4 too when it is `[::]`.
fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    const BACKLOG: i32 = 64;
    let make = |kind, protocol, address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        Ok::<_, std::io::Error>(socket)
    };
    let tcp = make(Type::STREAM, Protocol::TCP, address)?;
    tcp.listen(BACKLOG)?;
    let tcp = TcpListener::from_std(tcp.into())?;
    let udp = make(Type::DGRAM, Protocol::UDP, tcp.local_addr()?)?;
    Ok((UdpSocket::from_std(udp.into())?, tcp))
}
