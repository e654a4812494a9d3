//! The built-in origin of `wormkeyd dev` without a target: a small page that shows the visit, so that the
//! address works at once. An ordinary HTTP server on loopback, reached like any other origin.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::names::Target;
use crate::tasks::Tasks;

/// Starts the page; gives where it is.
pub(super) async fn serve(tasks: &Tasks) -> std::io::Result<Target> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let stop = tasks.stopped();
    let owner = tasks.clone();
    tasks.spawn("sample page", async move {
        loop {
            let stream = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match stream {
                Ok((stream, _)) => {
                    drop(owner.spawn("sample visit", connection(stream, stop.clone())))
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(Target::Http {
        host: Some(Ipv4Addr::LOCALHOST.to_string()),
        port,
    })
}

async fn connection(stream: tokio::net::TcpStream, stop: tokio_util::sync::CancellationToken) {
    let service =
        hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = connection => {}
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let fields = request.headers();
    let wants_html = text(fields, header::ACCEPT.as_str()).contains("text/html");
    let facts = [
        ("Method", request.method().to_string()),
        (
            "Address asked for",
            format!("{}{}", text(fields, "host"), request.uri()),
        ),
        ("HTTP version", http_version(fields)),
        ("Your address", text(fields, "x-forwarded-for")),
    ];
    let (kind, body) = if wants_html {
        ("text/html; charset=utf-8", page(&facts, fields))
    } else {
        ("text/plain; charset=utf-8", plain(&facts, fields))
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}

/// The visitor's version, as the edge tells it: what we see ourselves is the last hop.
fn http_version(fields: &HeaderMap) -> String {
    format!("HTTP/{}", text(fields, "wormkey-http-version"))
}

fn text(fields: &HeaderMap, name: &str) -> String {
    fields
        .get(name)
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        .unwrap_or_default()
}

fn plain(facts: &[(&str, String)], fields: &HeaderMap) -> String {
    let mut out = String::from("Your tunnel works. This is the built-in page of wormkeyd dev.\n\n");
    for (name, value) in facts {
        let _ = writeln!(out, "{name}: {value}");
    }
    out.push('\n');
    for (name, value) in fields {
        let _ = writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    out
}

fn page(facts: &[(&str, String)], fields: &HeaderMap) -> String {
    let mut rows = String::new();
    for (name, value) in facts {
        let _ = write!(rows, "<tr><th>{name}</th><td>{}</td></tr>", escape(value));
    }
    let mut heads = String::new();
    for (name, value) in fields {
        let value = escape(&String::from_utf8_lossy(value.as_bytes()));
        let _ = write!(
            heads,
            "<tr><th>{}</th><td>{value}</td></tr>",
            escape(name.as_str())
        );
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>wormkey: your tunnel works</title><style>{STYLE}</style>\
         <main><h1>Your tunnel works.</h1>\
         <p>This page is built into <code>wormkeyd dev</code>. It shows your visit as a service behind the tunnel \
         sees it. Give a target to see your own: <code>wormkeyd dev 3000</code>.</p>\
         <table>{rows}</table><h2>Header fields</h2><table>{heads}</table></main></html>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:light-dark(#f7f7f5,#16181b);color:light-dark(#1c1e21,#e8e6e3)}\
main{max-width:46rem;margin:8vh auto;padding:0 1.25rem}\
h1{font-size:1.75rem;letter-spacing:-.01em}h2{font-size:1.05rem;margin-top:2rem}\
code{background:light-dark(#ecebe7,#24272b);padding:.1em .35em;border-radius:.3em}\
table{width:100%;border-collapse:collapse;background:light-dark(#fff,#1d2024);border-radius:.5rem;overflow:hidden}\
th,td{text-align:left;padding:.45rem .8rem;border-bottom:1px solid light-dark(#ecebe7,#2a2e33);vertical-align:top;word-break:break-word}\
th{font-weight:500;width:12rem;color:light-dark(#5b6068,#9aa0a8)}tr:last-child>*{border-bottom:0}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_visitors_send_is_shown_and_not_obeyed() {
        let mut fields = HeaderMap::new();
        fields.insert("x-evil", "<script>alert(1)</script>".parse().unwrap());
        fields.insert("wormkey-http-version", "2".parse().unwrap());
        let shown = page(&[("HTTP version", http_version(&fields))], &fields);
        assert!(shown.contains("&lt;script&gt;") && !shown.contains("<script>"));
        assert!(shown.contains("HTTP/2"));
    }
}
