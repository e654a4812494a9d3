//! What a link holds for its streams, and how a client learns that its link was closed while it slept.

use tokio::time::sleep;

use super::*;
use crate::codes::Code;
use crate::wire::SendChunks as _;

const LINK: u64 = 32 * 1024;

#[tokio::test(start_paused = true)]
async fn a_link_holds_what_was_sent_and_what_nobody_reads() {
    let world = World::new();
    let ends = world.link().await;
    let window = u64::from(world.settings.stream_window);
    let load = || ends.server.load();
    assert_eq!((load().streams, load().bytes), (0, LINK));
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    let (mut tx, mut rx) = opened.unwrap();
    let (_, mut client_tx, mut client_rx) = accepted.unwrap();
    let head = load().bytes - LINK;
    assert!(load().streams == 1 && head < 200, "{:?}", load());
    send(&mut tx, vec![0; 1000]).await.unwrap();
    assert_eq!(load().bytes, LINK + head + 1000);
    // Far more than the window, all of it read: it counts as a window and no more.
    let upload = async {
        for _ in 0..64 {
            send(&mut tx, vec![0; 64 * 1024]).await.unwrap();
        }
        tx.finish();
    };
    let (_, read) = both(upload, recv_all(&mut client_rx)).await;
    assert_eq!(read.unwrap().len(), 1000 + 64 * 64 * 1024);
    assert_eq!(load().bytes, LINK + window);
    // A reader that waits has left nothing; one that does something else may have.
    send(&mut client_tx, "first").await.unwrap();
    assert_eq!(recv(&mut rx).await.unwrap().unwrap(), "first");
    assert_eq!(load().bytes, LINK + 2 * window);
    let waits = timeout(secs(1), recv(&mut rx)).await;
    assert!(waits.is_err());
    assert_eq!(load().bytes, LINK + window);
    drop((tx, rx));
    assert_eq!((load().streams, load().bytes), (0, LINK));
}

#[tokio::test(start_paused = true)]
async fn many_uploads_count_as_the_links_window_at_most() {
    let world = World::new();
    let ends = world.link().await;
    let sending = u64::from(world.settings.send_window);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
        let (mut tx, rx) = opened.unwrap();
        let (_, client_tx, mut client_rx) = accepted.unwrap();
        let upload = async {
            send(&mut tx, vec![0; 1 << 20]).await.unwrap();
            tx.finish();
        };
        both(upload, recv_all(&mut client_rx)).await.1.unwrap();
        streams.push((tx, rx, client_tx, client_rx));
    }
    assert_eq!(ends.server.load().bytes, LINK + sending);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_link_was_closed_while_it_slept_comes_back_by_itself() {
    let world = World::new();
    let dialer = world.dialer();
    let ends = world.link_by(&dialer).await;
    sleep(secs(1)).await;
    world.network.set_down(true);
    sleep(secs(3600)).await;
    ends.server.close(Code::Dormant, Code::Dormant.row().cause);
    sleep(secs(3600)).await;
    world.network.set_down(false);
    // Awake again, it kicks, and the server knows nothing of the link any more.
    ends.client.kick();
    let end = timeout(secs(1), ends.client.closed()).await.unwrap();
    assert!(end.by_peer, "{end}");
    assert!(matches!(end.code, None | Some(Code::Dormant)), "{end}");
    let again = world.link_by(&dialer).await;
    assert_eq!(again.server.pin(), ends.server.pin());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hears_the_close_learns_why() {
    let world = World::new();
    let ends = world.link().await;
    ends.server.close(Code::Dormant, Code::Dormant.row().cause);
    let end = timeout(secs(1), ends.client.closed()).await.unwrap();
    assert_eq!((end.code, end.by_peer), (Some(Code::Dormant), true));
}
