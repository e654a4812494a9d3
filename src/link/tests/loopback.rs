//! The same on real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::EndCause;
use super::super::socket::{self, Family};
use super::*;
use crate::wire::SendChunks as _;

#[tokio::test]
async fn a_link_over_ipv4_and_ipv6_carries_a_visit() {
    let settings = LinkSettings::default();
    let key = Identity::ephemeral().unwrap();
    let listener = Listener::bind("[::]:0".parse().unwrap(), &key, &settings).unwrap();
    let port = listener.local_addr().port();
    let dialer = Dialer::new(&Identity::ephemeral().unwrap(), &settings).unwrap();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let address = format!("{host}:{port}");
        let pins = [key.pin()];
        let (dialled, arrived) = both(dialer.dial(&address, &pins, hello()), async {
            listener.accept().await.unwrap().establish().await
        })
        .await;
        let (client, _cs, _cr) = dialled.unwrap();
        let (server, _ss, _sr, _) = arrived.unwrap();
        // As people write it, not as an IPv4-mapped one.
        assert!(server.peer().ip().is_loopback(), "{}", server.peer());
        let (opened, accepted) = both(server.open(&http_head()), client.accept()).await;
        let ((mut tx, _rx), (_, _tx, mut rx)) = (opened.unwrap(), accepted.unwrap());
        let body = vec![9; 1 << 20];
        let (sent, got) = both(
            async {
                send(&mut tx, body.clone()).await.unwrap();
                tx.finish();
            },
            recv_all(&mut rx),
        )
        .await;
        assert_eq!(((), body), (sent, got.unwrap()));
    }
}

/// Waits for what no event tells.
async fn until(true_now: impl Fn() -> bool) {
    let waiting = async {
        while !true_now() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(secs(30), waiting)
        .await
        .expect("it does not come true");
}

#[tokio::test]
async fn a_link_moves_to_fresh_sockets_of_its_family_in_mid_download() {
    let settings = LinkSettings::default();
    let key = Identity::ephemeral().unwrap();
    let pins = [key.pin()];
    let four: MakeSocket = Arc::new(|_| socket::bind_any(Family::V4));
    let either: MakeSocket = Arc::new(socket::bind_any);
    for (listen, sockets) in [("[::]:0", either), ("127.0.0.1:0", four)] {
        let listener = Listener::bind(listen.parse().unwrap(), &key, &settings).unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let identity = Identity::ephemeral().unwrap();
        let dialer = Dialer::from(sockets, runtime, &identity, &settings).unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().port());
        let (dialled, arrived) = both(dialer.dial(&address, &pins, hello()), async {
            listener.accept().await.unwrap().establish().await
        })
        .await;
        let (client, _cs, _cr) = dialled.unwrap();
        let (server, _ss, _sr, _) = arrived.unwrap();
        let (opened, accepted) = both(server.open(&bytes_head()), client.accept()).await;
        let ((mut tx, _rx), (_, _tx, mut rx)) = (opened.unwrap(), accepted.unwrap());
        let count = AtomicUsize::new(0);
        let total = 8 * 1024 * 1024;
        let moving = async {
            let mut ports = vec![server.peer().port()];
            for n in 1..=5 {
                until(|| count.load(Ordering::Relaxed) >= n * total / 6).await;
                client.rebind().unwrap();
                until(|| server.peer().port() != ports[ports.len() - 1]).await;
                ports.push(server.peer().port());
            }
            ports
        };
        let transfer = both(roaming::feed(&mut tx, total), roaming::eat(&mut rx, &count));
        let (ports, ((), eaten)) = both(moving, transfer).await;
        eaten.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), total);
        assert_eq!(ports.len(), 6);
        assert_eq!(client.stats().rebinds, 5);
        assert!(
            client.stats().longest_stall < secs(5),
            "{:?}",
            client.stats()
        );
    }
}

#[tokio::test]
async fn a_server_restarted_on_its_port_tells_its_old_clients() {
    let settings = LinkSettings {
        keep_alive: Duration::from_millis(100),
        ..LinkSettings::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.key");
    let (key, _) = Identity::load_or_create(&path).unwrap();
    let pins = [key.pin()];

    // A runtime of its own, which ends with the last line of its future: nothing that its links
    // would still like to say is sent, as if the process had been killed.
    let (tell, told) = oneshot::channel();
    let (die, death) = oneshot::channel::<()>();
    let server_settings = settings.clone();
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = Listener::bind(any_port(), &key, &server_settings).unwrap();
            tell.send(listener.local_addr()).unwrap();
            let _link = listener.accept().await.unwrap().establish().await.unwrap();
            let _ = death.await;
        });
    });
    let address = told.await.unwrap();
    let dialer = Dialer::new(&Identity::ephemeral().unwrap(), &settings).unwrap();
    let dialled = dialer.dial(&address.to_string(), &pins, hello()).await;
    let (client, _send, _recv) = dialled.unwrap();
    die.send(()).unwrap();
    tokio::task::spawn_blocking(move || process.join().unwrap())
        .await
        .unwrap();

    let key = Identity::load(&path).unwrap();
    let _listener = Listener::bind(address, &key, &settings).unwrap();
    let end = timeout(secs(10), client.closed()).await.unwrap();
    assert_eq!(end.cause, EndCause::StatelessReset);
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}
