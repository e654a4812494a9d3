//! Bandwidth over real bodies: downloads, uploads and upgraded connections take the time they should.

use tokio::time::Instant;

use super::*;

const RATE: u64 = 100_000;
const SIZE: usize = 1_000_000;

fn world() -> World {
    let world = World::new();
    world.change(|shared| shared.bandwidth = std::num::NonZeroU64::new(RATE));
    world
}

/// Ten seconds' worth, give or take 15 %.
fn about_ten(since: Instant) {
    let took = since.elapsed().as_secs_f64();
    assert!((8.5..=11.5).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_download_takes_its_time_and_arrives_whole() {
    let mut world = world();
    let mut visitor = world.visitor();
    visitor.get("/big").await;
    let mut stream = world.stream().await;
    let start = Instant::now();
    let length = SIZE.to_string();
    send_head(&mut stream.response, 200, &[("content-length", &length)]).await;
    let sending = world.tasks.spawn("test-sender", async move {
        let body = [vec![b'x'; SIZE - 3], b"end".to_vec()].concat();
        let body = Full::new(Bytes::from(body));
        send_body(&mut stream.response, body).await.unwrap();
    });
    let got = visitor.until("end").await;
    about_ten(start);
    assert_eq!(got.split_once("\r\n\r\n").unwrap().1.len(), SIZE);
    sending.await.unwrap();
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_download_that_goes_on_hears_of_a_new_rate() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/big").await;
    let mut stream = world.stream().await;
    let length = (SIZE + 6).to_string();
    send_head(&mut stream.response, 200, &[("content-length", &length)]).await;
    let (first, more) = tokio::sync::oneshot::channel::<()>();
    let sending = world.tasks.spawn("test-sender", async move {
        let begin = crate::wire::Frame::Data(Bytes::from("begin;"));
        let begin = crate::wire::encode_frame(&begin);
        crate::wire::send_all(&mut stream.response, &mut [begin])
            .await
            .unwrap();
        more.await.unwrap();
        let body = [vec![b'x'; SIZE - 3], b"end".to_vec()].concat();
        let body = Full::new(Bytes::from(body));
        send_body(&mut stream.response, body).await.unwrap();
    });
    visitor.until("begin;").await;
    world.change(|shared| {
        shared.rates.tell(Bandwidth {
            tunnel: std::num::NonZeroU64::new(RATE),
            ..Bandwidth::UNLIMITED
        });
    });
    let start = Instant::now();
    first.send(()).unwrap();
    visitor.until("end").await;
    about_ten(start);
    sending.await.unwrap();
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_takes_its_time_and_arrives_whole() {
    let mut world = world();
    let visitor = world.visitor();
    let (mut read, mut write) = tokio::io::split(visitor.0);
    let start = Instant::now();
    let sending = world.tasks.spawn("test-sender", async move {
        let head =
            format!("POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: {SIZE}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; SIZE]).await.unwrap();
        write
    });
    let (body, mut response) = world.stream().await.body().await;
    assert_eq!(body.unwrap().len(), SIZE);
    about_ten(start);
    send_head(&mut response, 200, &[("content-length", "2")]).await;
    send_body(&mut response, Full::new(Bytes::from("ok")))
        .await
        .unwrap();
    let mut room = [0; 12];
    read.read_exact(&mut room).await.unwrap();
    assert_eq!(room, *b"HTTP/1.1 200");
    drop(sending.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_takes_its_time_both_ways() {
    let mut world = world();
    let mut visitor = world.visitor();
    visitor
        .send(b"GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 101, &[("upgrade", "websocket")]).await;
    visitor.until("\r\n\r\n").await;
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(visitor.0);
    let up = async {
        write.write_all(&vec![b'x'; SIZE]).await.unwrap();
    };
    let heard = async {
        let mut count = 0;
        while count < SIZE {
            let mut chunks = [const { Bytes::new() }; 8];
            let some = std::future::poll_fn(|cx| stream.request.poll_recv(cx, &mut chunks));
            let some = some.await.unwrap();
            count += chunks[..some].iter().map(Bytes::len).sum::<usize>();
        }
        about_ten(start);
    };
    let said = async {
        for _ in 0..SIZE / 10_000 {
            let mut chunks = [Bytes::from(vec![b'y'; 10_000])];
            crate::wire::send_all(&mut stream.response, &mut chunks)
                .await
                .unwrap();
        }
    };
    let down = async {
        let mut room = vec![0; SIZE];
        read.read_exact(&mut room).await.unwrap();
        about_ten(start);
    };
    tokio::join!(up, heard, said, down);
}
