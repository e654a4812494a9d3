//! Origins that speak HTTP/2: gRPC in clear, anything over TLS.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::*;

type Trailed = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible> + Send>>;

/// Echoes the body, tells what it was asked in fields, and ends with trailers, as gRPC does.
async fn echo(request: Request<Incoming>) -> Result<Response<Trailed>, Infallible> {
    let told = format!(
        "{:?} {} {}",
        request.version(),
        request.method(),
        request.uri()
    );
    let te = request.headers().get("te").cloned();
    let body = request.into_body();
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("wormkey-forged", "1".parse().unwrap());
    let body = Full::new(bytes).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Box::pin(body) as Trailed);
    response
        .headers_mut()
        .insert("x-asked", told.parse().unwrap());
    if let Some(te) = te {
        response.headers_mut().insert("x-te", te);
    }
    Ok(response)
}

async fn serve_http2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), service_fn(echo))
        .await;
}

fn grpc(path: &str) -> HttpHead {
    let mut head = with(post(path, None), "content-type", "application/grpc+proto");
    head = with(head, "te", "trailers");
    head.version = 20;
    head
}

#[tokio::test]
async fn grpc_reaches_a_plain_origin_in_http2_with_its_trailers() {
    let origin = Server::new(|stream, _| serve_http2(stream)).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for _ in 0..3 {
        let mut visit = world.visit(&tunnel, grpc("/pkg.Service/Call"));
        visit.send("message").await;
        visit.finish();
        let got = visit.whole().await.unwrap();
        assert_eq!(got.text(), "message");
        assert_eq!(
            got.head.fields["x-asked"],
            format!("HTTP/2.0 POST http://{PUBLIC}/pkg.Service/Call")
        );
        assert_eq!(got.head.fields["x-te"], "trailers");
        let trailers = got.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(!trailers.contains_key("wormkey-forged"));
    }
    assert_eq!(origin.connections(), 1, "the connection is shared");
}

#[tokio::test]
async fn calls_at_once_share_one_connection() {
    let origin = Server::new(|stream, _| serve_http2(stream)).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    let mut visits: Vec<_> = (0..20).map(|_| world.visit(&tunnel, grpc("/x"))).collect();
    for visit in &mut visits {
        visit.send("m").await;
        visit.finish();
    }
    for visit in visits {
        assert_eq!(visit.whole().await.unwrap().text(), "m");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_origin_without_http2_is_asked_in_http1_and_remembered() {
    let origin = Server::repeating("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for _ in 0..3 {
        let mut head = grpc("/x");
        head.has_body = false;
        let got = world.visit(&tunnel, head).whole().await.unwrap();
        assert_eq!(got.text(), "ok");
    }
    // One try in HTTP/2, one connection in HTTP/1.1 that stays.
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_call_that_is_abandoned_is_reset_at_the_origin() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
    let called = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&called);
    let origin = Server::new(move |stream, _| {
        let (tell, calls) = (Arc::clone(&tell), Arc::clone(&calls));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let tell = tell.lock().unwrap().take();
                calls.fetch_add(1, Ordering::SeqCst);
                async move {
                    let ended = request.into_body().collect().await.map(|_| ());
                    if let Some(tell) = tell {
                        let _ = tell.send(ended.is_err());
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let world = World::new();
    let mut visit = world.visit(&tunnel(&origin), grpc("/x"));
    visit.send("first").await;
    until(|| called.load(Ordering::SeqCst) == 1).await;
    assert_eq!(visit.abandon().await.error, Some(StreamCode::Cancelled));
    assert!(
        timeout(STUCK, told)
            .await
            .expect("the origin hears of it")
            .unwrap()
    );
}

#[tokio::test]
async fn a_visitor_who_expects_a_100_gets_ours_on_http2() {
    let origin = Server::new(|stream, _| serve_http2(stream)).await;
    let mut head = grpc("/x");
    head.expects_continue = true;
    let mut visit = World::new().visit(&tunnel(&origin), head);
    assert_eq!(visit.head().await.unwrap().status, 100);
    visit.send("m").await;
    visit.finish();
    assert_eq!(visit.whole().await.unwrap().text(), "m");
}

/// TLS with a certificate that nobody vouches for.
async fn secure_server(alpn: &'static [&'static [u8]]) -> Server {
    secure_server_behind(alpn, None).await
}

/// The same, where the first connection's answer and the others' handshakes wait at a gate.
async fn secure_server_behind(
    alpn: &'static [&'static [u8]],
    gate: Option<Arc<tokio::sync::Barrier>>,
) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    Server::new(move |stream, index| {
        let (acceptor, gate) = (acceptor.clone(), gate.clone());
        async move {
            if let Some(gate) = gate.as_ref().filter(|_| index > 0) {
                gate.wait().await;
            }
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            if let Some(gate) = gate.filter(|_| index == 0) {
                gate.wait().await;
            }
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return serve_http2(stream).await;
            }
            let mut head = Vec::new();
            while let Ok(byte) = tokio::io::AsyncReadExt::read_u8(&mut stream).await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhttp1";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn tls_speaks_what_alpn_agrees_on() {
    let both = secure_server(&[b"h2", b"http/1.1"]).await;
    let old = secure_server(&[b"http/1.1"]).await;
    let world = World::new();
    for (origin, text, asked) in [
        (&both, "", Some(format!("HTTP/2.0 GET https://{PUBLIC}/x"))),
        (&old, "http1", None),
    ] {
        let target = format!("https+insecure://localhost:{}", origin.addr.port());
        let tunnel = tunnel_to(&target, HostMode::Keep);
        for _ in 0..3 {
            let got = world.get(&tunnel, "/x").await.unwrap();
            assert_eq!(got.text(), text);
            let told = got
                .head
                .fields
                .get("x-asked")
                .map(|v| v.to_str().unwrap().to_owned());
            assert_eq!(told, asked);
        }
        assert_eq!(origin.connections(), 1);
    }
}

#[tokio::test]
async fn visits_at_once_to_a_tls_origin_without_http2_do_not_queue_for_their_connections() {
    const VISITS: usize = 6;
    let gate = Arc::new(tokio::sync::Barrier::new(VISITS));
    let origin = secure_server_behind(&[b"http/1.1"], Some(gate)).await;
    let target = format!("https+insecure://localhost:{}", origin.addr.port());
    let (world, tunnel) = (World::new(), tunnel_to(&target, HostMode::Keep));
    let visits: Vec<_> = (0..VISITS)
        .map(|_| world.visit(&tunnel, get("/x")))
        .collect();
    // The gate opens only to all of them at once.
    for visit in visits {
        assert_eq!(visit.whole().await.unwrap().text(), "http1");
    }
    assert_eq!(origin.connections(), VISITS);
}

#[tokio::test]
async fn an_upgrade_over_tls_asks_for_http1() {
    let both = secure_server(&[b"h2", b"http/1.1"]).await;
    let target = format!("https+insecure://localhost:{}", both.addr.port());
    let mut head = get("/");
    head.protocol = Some("websocket".into());
    let got = World::new()
        .visit(&tunnel_to(&target, HostMode::Keep), head)
        .whole()
        .await
        .unwrap();
    assert_eq!(got.text(), "http1");
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused_unless_told_otherwise() {
    let origin = secure_server(&[b"h2", b"http/1.1"]).await;
    let target = format!("https://localhost:{}", origin.addr.port());
    let code = World::new()
        .visit(&tunnel_to(&target, HostMode::Keep), get("/"))
        .refusal()
        .await;
    assert_eq!(code, StreamCode::OriginUnreachable);
}

#[tokio::test]
async fn an_early_answer_over_http2_stops_the_rest_of_the_upload() {
    let origin = Server::new(|stream, _| async move {
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"enough"))))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    let mut visit = world.visit(&tunnel, grpc("/x"));
    visit.send("first").await;
    assert_eq!(visit.head().await.unwrap().status, 200);
    let stopped = std::future::poll_fn(|cx| visit.up.poll_stopped(cx));
    assert!(timeout(STUCK, stopped).await.unwrap().is_some());
    let (body, report) = visit.rest().await;
    assert_eq!(
        (body.unwrap().to_bytes(), report.error),
        (Bytes::from_static(b"enough"), None)
    );
    // The connection itself is as good as before.
    assert_eq!(world.origins.pool.idle(), 1);
}
