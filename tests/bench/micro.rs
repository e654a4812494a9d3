//! The few functions that every request passes, one by one: heads, framing, admission.
//!
//! `cargo bench --bench micro` times them. `micro count NAME TIMES` does one of them so often and says
//! nothing: `tests/bench/count` runs that under callgrind, where noise cannot reach.

use std::hint::black_box;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use wormkey::engine::domains::DomainSettings;
use wormkey::engine::limits::{Limit, LimitSettings};
use wormkey::engine::policy::Policy;
use wormkey::engine::{
    Action, Admission, BindAsk, DeviceRow, DormantCaps, Engine, EngineSettings, Event, HttpAsk,
    Requester, Snapshot, TunnelRow, TunnelState, UserRow, Visit,
};
use wormkey::http::{Scheme, head, raw::HeadScanner};
use wormkey::names::{
    DeviceId, Generation, Hostname, Kind, LinkId, Pin, Slug, TunnelId, UserId, VisitId,
};
use wormkey::times::{Clock, Now, WallTime};
use wormkey::wire::{
    FrameDecoder, HttpHead, StreamHead, data_header, decode_stream_head, encode_stream_head,
};

/// Timed in so many runs, of which the middle one counts.
const RUNS: usize = 21;
const RUN_LASTS: Duration = Duration::from_millis(20);

/// What a browser says for a page.
const HEAD: &str = "GET /articles/2026/11/a-longer-path?page=2&sort=new HTTP/1.1\r\n\
    host: quiet-lime-1.t.example.com\r\n\
    user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    accept-language: en-GB,en;q=0.5\r\n\
    accept-encoding: gzip, deflate, br, zstd\r\n\
    cookie: session=0198c0de0198c0de0198c0de0198c0de; theme=dark\r\n\
    upgrade-insecure-requests: 1\r\n\
    sec-fetch-dest: document\r\n\
    sec-fetch-mode: navigate\r\n\
    sec-fetch-site: same-origin\r\n\
    priority: u=0, i\r\n\r\n";

/// Chunks of a body, as they come from a TLS record.
const CHUNKS: usize = 64;
const CHUNK: usize = 16 * 1024;

type Job = Box<dyn FnMut() -> anyhow::Result<()>>;

/// Prepares one.
type Make = fn() -> anyhow::Result<Job>;

/// All of them, by name.
const JOBS: [(&str, Make); 6] = [
    ("raw-head", raw_head),
    ("check-head", check_head),
    ("wire-head", wire_head),
    ("wire-frames", wire_frames),
    ("admit-1", || admit(1)),
    ("admit-10000", || admit(10_000)),
];

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count", name, times] => count(name, times.parse()?),
        ["list"] => JOBS.iter().try_for_each(|(name, _)| say(name)),
        // `cargo test --benches` and `cargo bench` each add words of their own.
        ["--test"] => JOBS.iter().try_for_each(|(name, _)| count(name, 1)),
        _ => JOBS.iter().try_for_each(|(name, make)| time(name, *make)),
    }
}

fn count(name: &str, times: u64) -> anyhow::Result<()> {
    let Some((_, make)) = JOBS.iter().find(|job| job.0 == name) else {
        bail!("there is no {name}");
    };
    let mut job = make()?;
    (0..times).try_for_each(|_| job())
}

fn time(name: &str, make: Make) -> anyhow::Result<()> {
    let mut job = make()?;
    let mut each = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let (began, mut times) = (Clock.now().monotonic, 0_u32);
        let took = loop {
            job()?;
            times += 1;
            let took = Clock.now().monotonic.duration_since(began);
            if took > RUN_LASTS {
                break took;
            }
        };
        each.push(took.as_nanos() / u128::from(times));
    }
    each.sort_unstable();
    let (least, middle) = (each[0], each[RUNS / 2]);
    say(&format!("{name:<12} {middle:>9} ns  (least {least})"))
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

// --- heads ----------------------------------------------------------------------------------------

fn raw_head() -> anyhow::Result<Job> {
    Ok(Box::new(|| {
        let mut scanner = HeadScanner::new(Scheme::Https);
        let head = scanner.feed(black_box(HEAD.as_bytes()))?;
        black_box(head.context("the head is whole")?);
        Ok(())
    }))
}

/// The head's fields as hyper hands them over.
fn fields() -> anyhow::Result<HeaderMap> {
    let lines = HEAD.lines().skip(1).take_while(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(": ").context("a field")?;
            Ok((name.parse()?, value.parse()?))
        })
        .collect::<anyhow::Result<Vec<(http::HeaderName, http::HeaderValue)>>>()
        .map(HeaderMap::from_iter)
}

fn path() -> &'static str {
    HEAD.split(' ').nth(1).unwrap_or("/")
}

fn check_head() -> anyhow::Result<Job> {
    let mut request = Request::builder().uri(path()).body(())?;
    *request.headers_mut() = fields()?;
    let (parts, ()) = request.into_parts();
    Ok(Box::new(move || {
        black_box(head::check(black_box(parts.clone()), None, Scheme::Https)?);
        Ok(())
    }))
}

fn wire_head() -> anyhow::Result<Job> {
    let head = StreamHead::Http(Box::new(HttpHead {
        tunnel: TunnelId::from_bytes([1; 16]),
        visit: VisitId::from_bytes([2; 16]),
        method: Method::GET,
        scheme: "https".to_owned(),
        authority: "quiet-lime-1.t.example.com".to_owned(),
        path: path().to_owned(),
        fields: fields()?,
        peer: peer(),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 60_000,
        shadowed: Vec::new(),
    }));
    Ok(Box::new(move || {
        let bytes = encode_stream_head(black_box(&head));
        let decoded = decode_stream_head(black_box(&bytes))?;
        black_box(decoded.context("the head is whole")?);
        Ok(())
    }))
}

// --- framing --------------------------------------------------------------------------------------

/// Headers are written before chunks; at the other end they are cut apart again.
fn wire_frames() -> anyhow::Result<Job> {
    let chunk = Bytes::from(vec![7; CHUNK]);
    Ok(Box::new(move || {
        let mut decoder = FrameDecoder::new();
        let mut seen = 0;
        for _ in 0..CHUNKS {
            decoder.push(data_header(chunk.len()));
            decoder.push(chunk.clone());
            while let Some(frame) = decoder.next_frame()? {
                black_box(frame);
                seen += 1;
            }
        }
        anyhow::ensure!(seen == CHUNKS, "{seen} frames");
        Ok(())
    }))
}

// --- admission ------------------------------------------------------------------------------------

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4433))
}

/// A visit to one of so many tunnels, in and out.
fn admit(tunnels: u64) -> anyhow::Result<Job> {
    let now = Clock.now();
    let mut engine = engine(now, tunnels)?;
    let label = name(tunnels / 2)?.to_string();
    let mut number = 0_u64;
    Ok(Box::new(move || {
        number += 1;
        let id = VisitId::from_bytes(u128::from(number).to_be_bytes());
        let visit = Visit {
            id,
            kind: Kind::Http,
            label: label.clone(),
            peer: peer(),
            bytes: 1024,
            http: Some(HttpAsk::new(Method::GET, path())),
        };
        let admitted = engine.admit(now, black_box(&visit));
        anyhow::ensure!(matches!(admitted, Ok(Admission::Pass(_))), "{admitted:?}");
        engine.handle(now, Event::VisitEnded { visit: id });
        while let Some(action) = engine.poll_action() {
            black_box(action);
        }
        Ok(())
    }))
}

fn name(number: u64) -> anyhow::Result<Slug> {
    Ok(Slug::parse(&format!("tunnel-{number}"))?)
}

/// All of one device, which has its link and has taken back the one that is visited.
fn engine(now: Now, tunnels: u64) -> anyhow::Result<Engine> {
    let (user, device) = (UserId::from_bytes([3; 16]), DeviceId::from_bytes([4; 16]));
    let rows: Vec<_> = (0..tunnels)
        .map(|number| row(number, user, device, now.wall))
        .collect::<anyhow::Result<_>>()?;
    let visited = rows[rows.len() / 2].clone();
    let snapshot = Snapshot {
        users: vec![UserRow {
            id: user,
            name: "ada".to_owned(),
            created_at: now.wall,
            suspended_at: None,
        }],
        devices: vec![DeviceRow {
            id: device,
            user,
            pin: Pin([5; 32]),
            name: "laptop".to_owned(),
            created_at: now.wall,
            revoked_at: None,
            suspended_at: None,
        }],
        tunnels: rows,
        ..Snapshot::default()
    };
    let mut engine = Engine::new(settings()?, snapshot, now);
    let link = LinkId(Generation {
        boot: 1,
        counter: 1,
    });
    let peer = peer();
    engine.handle(now, Event::LinkUp { link, device, peer });
    engine.handle(now, taken_back(&visited, link));
    while let Some(action) = engine.poll_action() {
        if let Action::Persist { ticket, .. } = action {
            let result = Ok(());
            engine.handle(now, Event::Committed { ticket, result });
        }
    }
    Ok(engine)
}

fn row(
    number: u64,
    user: UserId,
    device: DeviceId,
    created_at: WallTime,
) -> anyhow::Result<TunnelRow> {
    Ok(TunnelRow {
        id: TunnelId::from_bytes(u128::from(number).to_be_bytes()),
        slug: name(number)?,
        device,
        user,
        kind: Kind::Http,
        state: TunnelState::Open,
        expires_at: None,
        idle: None,
        hold: Duration::from_secs(10),
        declared: true,
        labels: Vec::new(),
        public_port: None,
        created_at,
        ended_at: None,
        last_seen_at: None,
        idle_spent: Duration::ZERO,
        away_since: None,
        policy: Arc::default(),
        policy_version: 1,
        suspended_at: None,
    })
}

fn taken_back(row: &TunnelRow, link: LinkId) -> Event {
    Event::BindAsked {
        from: Requester::Link { link, request: 1 },
        ask: BindAsk {
            tunnel: row.id,
            name: Some(row.slug.clone()),
            kind: row.kind,
            expires_at: None,
            expires_in: None,
            idle: Some(None),
            hold: Some(row.hold),
            declared: true,
            labels: Vec::new(),
            public_port: None,
            policy: Policy::default(),
            domains: None,
        },
        proposals: Vec::new(),
    }
}

/// As an operator gets it unasked, but for the limits of a visitor, who is always the same here.
fn settings() -> anyhow::Result<EngineSettings> {
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
    Ok(EngineSettings {
        domain: Hostname::parse("t.example.com")?,
        ports: None,
        public_port: 443,
        hold: minute / 6,
        hold_max: minute,
        domains: DomainSettings::default(),
        held_visits: 256,
        held_visits_total: 4096,
        held_memory: 64 << 20,
        held_memory_per_user: 80 << 20,
        held_memory_total: 320 << 20,
        dormant: DormantCaps {
            links: 4096,
            links_per_user: 256,
            memory: 512 << 20,
            memory_per_user: 64 << 20,
        },
        idle: Some(day),
        idle_max: None,
        offline_max: 7 * day,
        quarantine: 7 * day,
        keep_alive: minute / 12,
        tunnels_per_device: 100_000,
        limits: LimitSettings {
            tunnel: Limit::default(),
            visitor: Limit::default(),
            ..LimitSettings::default()
        },
    })
}
