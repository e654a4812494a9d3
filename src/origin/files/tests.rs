//! Visits to a directory, and attempts to get out of it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::super::tests::{Whole, World, get, loopback, post, tunnel_to, with};
use super::super::{OriginPolicy, OriginTunnel};
use crate::engine::book::HostMode;
use crate::wire::{HttpHead, StreamCode};

struct Site {
    world: World,
    tunnel: Arc<OriginTunnel>,
    /// Holds `www`, which is served, and `outside`, which is not.
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut OriginPolicy, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let www = dir.path().join("www");
        std::fs::create_dir_all(www.join("sub")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret.txt"), "secret").unwrap();
        std::fs::write(www.join("hello.txt"), "0123456789").unwrap();
        std::fs::write(www.join("sub/page.html"), "<p>page").unwrap();
        let mut policy = loopback();
        policy.files = vec![www.clone()];
        change(&mut policy, dir.path());
        Self {
            world: World::with(policy),
            tunnel: tunnel_to(&format!("file:{}", www.display()), HostMode::Auto),
            dir,
        }
    }

    fn www(&self, name: &str) -> PathBuf {
        self.dir.path().join("www").join(name)
    }

    async fn ask(&self, head: HttpHead) -> Whole {
        self.world.visit(&self.tunnel, head).whole().await.unwrap()
    }

    async fn get(&self, path: &str) -> Whole {
        self.ask(get(path)).await
    }
}

fn field<'a>(got: &'a Whole, name: &str) -> &'a str {
    got.head
        .fields
        .get(name)
        .map_or("", |v| v.to_str().unwrap())
}

#[tokio::test]
async fn files_are_served_with_their_type_and_version() {
    let site = Site::new();
    let got = site.get("/hello.txt?x").await;
    assert_eq!((got.status(), got.text()), (200, "0123456789"));
    assert_eq!(field(&got, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(field(&got, "content-length"), "10");
    assert_eq!(field(&got, "accept-ranges"), "bytes");
    assert_eq!(got.report.bytes_out, 10);
    let etag = field(&got, "etag").to_owned();
    let known = site
        .ask(with(get("/hello.txt"), "if-none-match", &etag))
        .await;
    assert_eq!(
        (known.status(), known.text(), field(&known, "etag")),
        (304, "", &*etag)
    );
    let date = field(&got, "last-modified").to_owned();
    let known = site
        .ask(with(get("/hello.txt"), "if-modified-since", &date))
        .await;
    assert_eq!(known.status(), 304);
    let mut head = get("/hello.txt");
    head.method = http::Method::HEAD;
    let got = site.ask(head).await;
    assert_eq!((got.text(), field(&got, "content-length")), ("", "10"));
}

#[tokio::test]
async fn ranges_are_parts() {
    let site = Site::new();
    for (range, status, text, shown) in [
        ("bytes=0-3", 206, "0123", "bytes 0-3/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        (
            "bytes=10-",
            416,
            "416 Range Not Satisfiable\n",
            "bytes */10",
        ),
        ("bytes=0-1,2-3", 200, "0123456789", ""),
    ] {
        let got = site.ask(with(get("/hello.txt"), "range", range)).await;
        assert_eq!(
            (got.status(), got.text(), field(&got, "content-range")),
            (status, text, shown),
            "{range}"
        );
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let site = Site::new();
    let mut visit = site.world.visit(&site.tunnel, post("/hello.txt", Some(4)));
    visit.send("body").await;
    visit.finish();
    let got = visit.whole().await.unwrap();
    assert_eq!((got.status(), field(&got, "allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn a_directory_is_its_index_or_a_listing_behind_its_slash() {
    let site = Site::new();
    let got = site.get("/sub?q=1").await;
    assert_eq!((got.status(), field(&got, "location")), (302, "/sub/?q=1"));
    let got = site.get("//sub").await;
    assert_eq!(field(&got, "location"), "/sub/");
    std::fs::write(site.www("<img src=x onerror=y>"), "").unwrap();
    std::fs::write(site.www(".hidden"), "").unwrap();
    let listing = site.get("/").await;
    assert_eq!(listing.status(), 200);
    assert_eq!(field(&listing, "content-type"), "text/html; charset=utf-8");
    assert!(listing.text().contains("./hello%2Etxt") || listing.text().contains("./hello.txt"));
    assert!(listing.text().contains("sub/"));
    assert!(!listing.text().contains("<img"), "{}", listing.text());
    assert!(!listing.text().contains("hidden"), "{}", listing.text());
    std::fs::write(site.www("index.html"), "home").unwrap();
    assert_eq!(site.get("/").await.text(), "home");
    assert_eq!(site.get("/sub/page.html/").await.status(), 404);
}

#[tokio::test]
async fn there_is_no_way_out() {
    let site = Site::new();
    let outside = site.dir.path().join("outside");
    symlink(&outside, site.www("out")).unwrap();
    symlink(outside.join("secret.txt"), site.www("out.txt")).unwrap();
    symlink("../outside/secret.txt", site.www("relative.txt")).unwrap();
    symlink("/proc/self/environ", site.www("environ")).unwrap();
    symlink("/proc/self/root", site.www("root")).unwrap();
    symlink(&outside, site.www("sub/index.html")).unwrap();
    for path in [
        "/../outside/secret.txt",
        "/%2e%2e/outside/secret.txt",
        "/..%2foutside%2fsecret.txt",
        "/sub/../../outside/secret.txt",
        "/..\\outside\\secret.txt",
        "/%252e%252e/outside/secret.txt",
        "/out/secret.txt",
        "/out/",
        "/out",
        "/out.txt",
        "/relative.txt",
        "/environ",
        "/root/etc/passwd",
        "//etc/passwd",
        "/hello.txt%00.html",
        "/%c0%ae%c0%ae/outside/secret.txt",
    ] {
        let got = site.get(path).await;
        assert!(
            [400, 404].contains(&got.status()),
            "{path}: {}",
            got.status()
        );
        assert!(!got.text().contains("secret"), "{path}");
    }
    let listing = site.get("/").await;
    for name in ["out", "relative", "environ", "root"] {
        assert!(
            !listing.text().contains(&format!(">{name}")),
            "{name}: {}",
            listing.text()
        );
    }
    // A link that leads outside is no index either.
    assert!(site.get("/sub/").await.text().contains("page.html"));
}

#[tokio::test]
async fn links_that_stay_inside_lead_where_they_say() {
    let site = Site::new();
    symlink("hello.txt", site.www("relative.txt")).unwrap();
    symlink(
        site.www("hello.txt").canonicalize().unwrap(),
        site.www("absolute.txt"),
    )
    .unwrap();
    symlink(site.www("sub"), site.www("dir")).unwrap();
    for path in ["/relative.txt", "/absolute.txt"] {
        assert_eq!(site.get(path).await.text(), "0123456789", "{path}");
    }
    assert_eq!(site.get("/dir/page.html").await.text(), "<p>page");
}

#[tokio::test]
async fn what_is_hidden_special_or_ours_is_not_there() {
    let site = Site::with(|policy, dir| {
        std::fs::create_dir(dir.join("www/state")).unwrap();
        std::fs::write(dir.join("www/state/client.key"), "secret").unwrap();
        std::fs::write(dir.join("www/client.toml"), "secret").unwrap();
        std::fs::hard_link(dir.join("www/client.toml"), dir.join("www/other.toml")).unwrap();
        policy.own_paths = vec![dir.join("www/state"), dir.join("www/client.toml")];
    });
    std::fs::create_dir(site.www(".git")).unwrap();
    std::fs::write(site.www(".git/config"), "secret").unwrap();
    std::fs::write(site.www(".env"), "secret").unwrap();
    symlink(".env", site.www("env")).unwrap();
    nix::unistd::mkfifo(&site.www("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(site.www("socket")).unwrap();
    for path in [
        "/.env",
        "/%2eenv",
        "/env",
        "/.git/config",
        "/.git/",
        "/pipe",
        "/socket",
        "/state/client.key",
        "/state/",
        "/state",
        "/client.toml",
        "/other.toml",
    ] {
        let got = site.get(path).await;
        assert_eq!(got.status(), 404, "{path}");
    }
    let listing = site.get("/").await;
    for name in ["pipe", "socket", "state", "client", "other", "env"] {
        assert!(
            !listing.text().contains(&format!(">{name}")),
            "{name}: {}",
            listing.text()
        );
    }
}

#[tokio::test]
async fn a_directory_that_is_not_allowed_is_not_served_by_any_name() {
    let site = Site::new();
    symlink(site.dir.path().join("outside"), site.www("link")).unwrap();
    for name in ["outside", "www/link", "www/../outside", "none", "."] {
        let target = format!("file:{}", site.dir.path().join(name).display());
        let tunnel = tunnel_to(&target, HostMode::Auto);
        let code = site
            .world
            .visit(&tunnel, get("/secret.txt"))
            .refusal()
            .await;
        assert_eq!(code, StreamCode::NotAllowed, "{name}");
        assert!(
            site.world.origins.check(&tunnel.target).await.is_err(),
            "{name}"
        );
    }
    let gone = tunnel_to(
        &format!("file:{}", site.www("none").display()),
        HostMode::Auto,
    );
    assert_eq!(
        site.world.visit(&gone, get("/")).refusal().await,
        StreamCode::OriginUnreachable
    );
    let inside = tunnel_to(
        &format!("file:{}", site.www("sub").display()),
        HostMode::Auto,
    );
    let got = site.world.get(&inside, "/page.html").await.unwrap();
    assert_eq!(got.text(), "<p>page");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_served_is_no_complete_one() {
    let site = Site::new();
    let path = site.www("big");
    std::fs::write(&path, vec![b'x'; 4 << 20]).unwrap();
    let mut visit = site
        .world
        .visit_through(&site.tunnel, get("/big"), 64 * 1024);
    visit.head().await.unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let (body, report) = visit.rest().await;
    assert!(body.is_err());
    assert_eq!(report.error, Some(StreamCode::OriginError));
}
