use std::time::Duration;

use super::{Gone, Shell, ended};
use crate::admin::checks::CheckJson;
use crate::admin::testing::{Daemon, NOW, tunnel};
use crate::admin::types::{LinkJson, PacketsJson};
use crate::ctl::text::{Style, Times, about, clean, table};
use crate::times::WallTime;

#[tokio::test]
async fn open_says_what_where_until_when_and_how_to_close_in_three_lines() {
    let daemon = Daemon::client();
    daemon.fake.state().expires_at = Some(NOW.plus(Duration::from_millis(1_799_900)));
    let first = Shell::to(&daemon).run("open 3000 --expires 30m").await;
    let lines = "https://quiet-lime-82.t.example.com\n  \
                 → http://localhost:3000, until 22:43 (in 30m)\n  \
                 close it with: wormkeyctl close quiet-lime-82\n";
    assert_eq!(first, ended(0, lines, ""));
    let again = Shell::to(&daemon).run("open 3000 --expires 30m").await;
    assert_eq!(again, ended(0, lines, "this tunnel was open already\n"));

    daemon.fake.state().expires_at = None;
    daemon.fake.state().warnings = vec!["nothing listens on localhost:4000 yet".to_owned()];
    let other = Shell::to(&daemon).run("open 4000 --name blog").await;
    let lines = "https://blog.t.example.com\n  \
                 → http://localhost:4000, until you close it, or 1d without a visit\n  \
                 close it with: wormkeyctl close blog\n";
    assert_eq!(
        other,
        ended(0, lines, "warning: nothing listens on localhost:4000 yet\n")
    );
    daemon.stop().await;
}

#[tokio::test]
async fn list_show_and_close_read_well() {
    let daemon = Daemon::client();
    let empty = Shell::to(&daemon).run("list").await;
    assert_eq!(
        empty,
        ended(0, "", "no tunnels; open one with: wormkeyctl open 3000\n")
    );
    let mut blog = tunnel(1, "blog");
    blog.expires_at = Some(NOW.plus(Duration::from_secs(1800)));
    let mut shop = tunnel(2, "a-longer-name");
    shop.state = "offline".to_owned();
    shop.ends_next.at = Some(NOW.plus(Duration::from_secs(3 * 86_400)));
    shop.ends_next.why = Some("offline".to_owned());
    shop.host_in_use = Some("rewrite".to_owned());
    shop.labels.insert("team".to_owned(), "web".to_owned());
    let mut waiting = tunnel(3, "x");
    (waiting.slug, waiting.url) = (None, None);
    let mut over = tunnel(4, "over");
    over.state = "expired".to_owned();
    over.ended_at = Some(WallTime::from_millis(NOW.as_millis() - 7_200_000));
    daemon.fake.state().tunnels = vec![blog, shop, waiting, over];
    let list = Shell::to(&daemon).run("list").await;
    let expected = "\
NAME                                  TARGET                 STATE    ENDS            URL
blog                                  http://localhost:3000  open     22:43 (in 30m)  https://blog.t.example.com
a-longer-name                         http://localhost:3000  offline  after 1d idle   https://a-longer-name.t.example.com
tun_00000000000000000000000000000003  http://localhost:3000  open     after 1d idle   -
";
    assert_eq!(list, ended(0, expected, ""));
    let all = Shell::to(&daemon).run("list --all").await;
    assert!(all.out.contains("expired  20:13 (2h ago)"), "{}", all.out);

    let shown = Shell::to(&daemon).run("show a-longer-name").await;
    let expected = "\
a-longer-name
  address    https://a-longer-name.t.example.com
  leads to   http://localhost:3000
  kind       http
  state      offline
  ends       after 1d idle
  ends next  2023-11-17 22:13 (in 3d), because its client stays away
  opened     22:13 (0s ago)
  idle       closes after 1d without a visit
  hold       visits wait 10s while the device is away
  host       auto (now: rewrite)
  visits     0 now, 0 since the daemon started
  labels     team=web
  id         tun_00000000000000000000000000000002
";
    assert_eq!(shown, ended(0, expected, ""));

    let closed = Shell::to(&daemon).run("close blog").await;
    assert_eq!(closed, ended(0, "closed blog\n", ""));
    let missing = Shell::to(&daemon).run("close nobody").await;
    assert_eq!((missing.exit, &*missing.out), (5, ""));
    let rest = Shell::to(&daemon).run("close --all").await;
    let said = "closed a-longer-name\nclosed tun_00000000000000000000000000000003\n";
    assert_eq!(rest, ended(0, said, ""));
    let none = Shell::to(&daemon).run("close --all").await;
    assert_eq!(none, ended(0, "", "no tunnels to close\n"));
    daemon.stop().await;
}

#[tokio::test]
async fn an_unjoined_client_says_how_to_join_and_is_no_error() {
    let daemon = Daemon::client();
    let status = Shell::to(&daemon).run("status").await;
    let expected = "\
daemon   wormkeyd 0.1.0, pid 4711, running for 2h 5m
joined   not yet
tunnels  0
get a join token with `wormkeyctl server invite` on the server, then here:
  wormkeyctl join wkj_…
";
    assert_eq!(status, ended(0, expected, ""));
    daemon.fake.state().joined = true;
    let status = Shell::to(&daemon).run("status").await;
    let expected = "\
daemon   wormkeyd 0.1.0, pid 4711, running for 2h 5m
joined   t.example.com, a device of alice
link     up, t.example.com:443, for 1m 30s, round trip 12.3 ms
tunnels  0
device   dev_01010101010101010101010101010101
";
    assert_eq!(status, ended(0, expected, ""));
    daemon.stop().await;
}

#[tokio::test]
async fn more_links_than_a_page_holds_are_a_command_away() {
    let daemon = Daemon::server();
    let page = Shell::to(&daemon).run("server links --limit 1").await;
    assert_eq!(page.out.lines().count(), 2);
    assert_eq!(page.err, "more with: wormkeyctl server links --after 1.1\n");
    let wrong = Shell::to(&daemon).run("server links --after one").await;
    assert_eq!(wrong.exit, 2, "{}", wrong.err);
    daemon.stop().await;
}

#[tokio::test]
async fn a_link_shows_its_path_its_losses_and_its_troubles() {
    let daemon = Daemon::client();
    daemon.fake.state().joined = true;
    daemon.fake.state().link = Some(LinkJson {
        state: "up".to_owned(),
        path: Some("websocket".to_owned()),
        unverified_issuer: Some("CN=Firewall".to_owned()),
        moves: Some(3),
        longest_stall_ms: Some(1250.0),
        packets: Some(PacketsJson {
            sent: 1000,
            lost: 15,
        }),
        last_error: Some("timed out here".to_owned()),
        ..LinkJson::default()
    });
    let status = Shell::to(&daemon).run("status").await;
    let expected = "\
daemon      wormkeyd 0.1.0, pid 4711, running for 2h 5m
joined      t.example.com, a device of alice
link        up
path        websocket, its certificate issued by CN=Firewall
packets     1000 sent, 15 lost (1.5%)
moved       3 times to another socket
stalled     1s at most
last error  timed out here
tunnels     0
device      dev_01010101010101010101010101010101
";
    assert_eq!(status, ended(0, expected, ""));
    daemon.stop().await;
}

#[tokio::test]
async fn a_drain_tells_what_is_left_and_stays_until_the_daemon_has_ended() {
    for (line, json) in [
        ("server drain --grace 5s", false),
        ("--json server drain", true),
    ] {
        let daemon = Daemon::server();
        let mut calls = daemon.fake.calls.subscribe();
        let drained = Shell::to(&daemon).run(line);
        let ends = async {
            while !calls.recv().await.unwrap().starts_with("drain") {}
            daemon.stop().await;
        };
        let (drained, ()) = tokio::join!(drained, ends);
        assert_eq!(drained.exit, 0);
        assert_eq!(drained.err, "draining: 4 visits left\n");
        let said = if json {
            "{\"finished\":true,\"visits\":4}\n"
        } else {
            "drained: all visits came to their end, and the daemon has ended\n"
        };
        assert_eq!(drained.out, said);
    }
}

#[tokio::test]
async fn a_drain_is_not_for_the_other_daemon() {
    let daemon = Daemon::server();
    let mut calls = daemon.fake.calls.subscribe();
    let refused = Shell::to(&daemon).run("drain").await;
    assert_eq!(refused.exit, 2, "{}", refused.err);
    assert_eq!(calls.try_recv().unwrap(), "status");
    assert!(calls.try_recv().is_err(), "nothing else is asked");
    daemon.stop().await;
}

#[tokio::test]
async fn joining_reads_the_token_from_the_line_a_file_or_standard_input() {
    use crate::names::Pin;
    use crate::secret::Secret;
    use crate::wire::token::JoinToken;
    let token = JoinToken {
        addresses: vec!["t.example.com:443".to_owned()],
        pins: vec![Pin([7; 32])],
        secret: Secret::new([9; 32]),
    };
    let token = token.to_text();
    let token = token.expose();
    let daemon = Daemon::client();
    let file = daemon.dir.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let said = ended(
        0,
        "joined t.example.com as a device of alice\n",
        "open a tunnel with: wormkeyctl open 3000\n",
    );
    for line in [format!("join {token}"), format!("join @{}", file.display())] {
        assert_eq!(Shell::to(&daemon).run(&line).await, said, "{line}");
    }
    let piped = Shell::to(&daemon).typing(&format!("  {token} \nmore\n"));
    assert_eq!(piped.run("join -").await, said);
    let mut calls = daemon.fake.calls.subscribe();
    for wrong in ["wkj_nonsense", "hello", &token[..token.len() - 1]] {
        let ended = Shell::to(&daemon).run(&format!("join {wrong}")).await;
        assert_eq!(ended.exit, 4, "{wrong}");
        assert!(ended.err.contains("join token"), "{}", ended.err);
    }
    assert!(calls.try_recv().is_err(), "a damaged token asks nobody");
    assert_eq!(
        Shell::to(&daemon)
            .run(&format!("join --replace {token}"))
            .await
            .exit,
        0
    );
    assert_eq!(calls.try_recv().unwrap(), "join true");
    let left = Shell::to(&daemon).run("leave --forget-key").await;
    assert_eq!(
        left.out,
        "left the server; this device has no tunnels any more\n"
    );
    assert_eq!(calls.try_recv().unwrap(), "leave true");
    daemon.stop().await;
}

#[tokio::test]
async fn the_operators_commands_read_well() {
    let daemon = Daemon::server();
    let invite = Shell::to(&daemon)
        .run("server invite --user bob --uses 3")
        .await;
    let beside = "it works for 3 devices, until 2023-11-15 06:13 (in 8h), and is not shown again\n\
                  on the machine that shall join: wormkeyctl join TOKEN\n";
    assert_eq!(invite, ended(0, "wkj_secret\n", beside));
    for (line, expected) in [
        (
            "server users",
            "NAME   STATE      DEVICES  TUNNELS  SINCE  ID\n\
             alice  suspended  1        2        22:13  usr_02020202020202020202020202020202\n",
        ),
        (
            "server devices",
            "NAME    USER   LINK  TUNNELS  FROM            SINCE  ID\n\
             laptop  alice  up    2        192.0.2.7:4433  22:13  dev_01010101010101010101010101010101\n",
        ),
        ("server revoke laptop", "revoked laptop\n"),
        (
            "server reload",
            "reloaded\n  [listen] https needs a restart\n",
        ),
        (
            "server audit --after 2",
            "SEQ  AT                        WHO    WHAT           SUBJECT  DETAIL\n\
             3    2023-11-14T22:13:20.000Z  uid 0  invite.create  inv_1    user alice\n",
        ),
        (
            "server status",
            "daemon   wormkeyd 0.1.0, pid 4711, running for 2h 5m\n\
             domain   t.example.com\n\
             listens  https [::]:443\n\
             tls      self-signed\n\
             pin      ab\n\
             links    2, 1 of them dormant and holding 96 KiB\n\
             tunnels  3\n\
             visits   4 now, 0 waiting, 99 since the daemon started\n\n\
             DEVICE  USER   LINK        PATH       FROM            RTT      LOSS  MOVES  STALL  VISITS  SINCE  GENERATION  LAST ERROR\n\
             laptop  alice  up          udp        192.0.2.7:4433  12.3 ms  0.1%  2      0 ms   4       20:08  1.1         -\n\
             desk    alice  dormant 1h  websocket  192.0.2.7:4433  12.3 ms  0.1%  2      1m     0       20:08  1.2         timed out here\n",
        ),
        (
            "server links --after 1.1 --limit 1",
            "DEVICE  USER   LINK        PATH       FROM            RTT      LOSS  MOVES  STALL  VISITS  SINCE  GENERATION  LAST ERROR\n\
             desk    alice  dormant 1h  websocket  192.0.2.7:4433  12.3 ms  0.1%  2      1m     0       20:08  1.2         timed out here\n",
        ),
    ] {
        assert_eq!(
            Shell::to(&daemon).run(line).await,
            ended(0, expected, ""),
            "{line}"
        );
    }
    let mut app = tunnel(1, "app");
    (app.target, app.user) = (None, Some("alice".to_owned()));
    daemon.fake.state().tunnels = vec![app];
    let list = Shell::to(&daemon).run("server tunnels").await;
    assert!(list.out.starts_with("NAME  USER   STATE"), "{}", list.out);
    assert_eq!(
        Shell::to(&daemon).run("server close app").await.out,
        "closed app\n"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn colours_are_for_terminals_whose_owner_wants_them() {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    for (terminal, env, coloured) in [
        (true, vec![], true),
        (false, vec![], false),
        (true, vec![("NO_COLOR", "1")], false),
        (true, vec![("NO_COLOR", "")], true),
        (true, vec![("TERM", "dumb")], false),
    ] {
        let mut shell = Shell::to(&daemon).with_env(&env);
        shell.io.out_is_terminal = terminal;
        let list = shell.run("list").await;
        assert_eq!(list.out.contains('\x1b'), coloured, "{terminal} {env:?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_qr_code_stands_beside_the_result() {
    let daemon = Daemon::client();
    let plain = Shell::to(&daemon).run("open 3000 --qr").await;
    assert_eq!(plain.out.lines().count(), 3);
    assert!(
        plain.err.lines().count() > 10 && plain.err.contains('█'),
        "{}",
        plain.err
    );
    let as_json = Shell::to(&daemon).run("open 3000 --qr --json").await;
    assert_eq!(as_json.out.lines().count(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_error() {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let mut shell = Shell::to(&daemon);
    shell.io.out = Box::new(Gone);
    assert_eq!(shell.run("list").await, ended(0, "", ""));
    daemon.stop().await;
}

#[tokio::test]
async fn what_strangers_wrote_cannot_steer_the_terminal() {
    assert_eq!(
        clean("a\x1b[2Jb\r\nc\u{202e}d"),
        "a\\u{1b}[2Jb\\r\\nc\\u{202e}d"
    );
    assert_eq!(clean("grün → ok"), "grün → ok");
    let daemon = Daemon::client();
    let mut app = tunnel(1, "app");
    app.labels
        .insert("x".to_owned(), "\x1b]0;owned\x07".to_owned());
    app.warnings = vec!["\x1b[31m".to_owned()];
    daemon.fake.state().tunnels = vec![app];
    let shown = Shell::to(&daemon).run("show app").await;
    assert!(
        !shown.out.contains('\x1b') && !shown.err.contains('\x1b'),
        "{shown:?}"
    );
    daemon.stop().await;
}

#[test]
fn times_are_the_persons_own() {
    let berlin = jiff::tz::TimeZone::fixed(jiff::tz::offset(1));
    let times = Times {
        now: NOW,
        zone: berlin,
    };
    assert_eq!(
        times.near(NOW.plus(Duration::from_secs(60))),
        "23:14 (in 1m)"
    );
    // Past midnight there, not yet in UTC.
    assert_eq!(
        times.near(NOW.plus(Duration::from_secs(3600))),
        "2023-11-15 00:13 (in 1h)"
    );
    assert_eq!(times.second(NOW), "23:13:20");
    for (millis, text) in [
        (0, "0s"),
        (400, "0s"),
        (29_600, "30s"),
        (119_900, "2m"),
        (1_799_900, "30m"),
        (28_799_999, "8h"),
        (604_799_999, "7d"),
        (5_430_000, "1h 31m"),
    ] {
        assert_eq!(about(Duration::from_millis(millis)), text, "{millis}");
    }
}

#[test]
fn tables_align_by_characters_and_cut_what_is_long() {
    let rows = [
        vec!["grün".to_owned(), "1".to_owned()],
        vec!["x".repeat(300), "2".to_owned()],
    ];
    let lines = table(&["NAME", "N"], &rows, Style::new(false));
    let at = |line: &str| line.chars().count();
    assert_eq!(at(&lines[1]), at(&lines[2]));
    assert!(lines[2].contains('…'));
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let daemon = Daemon::client();
    daemon.fake.state().checks = vec![
        CheckJson::ok("server", "192.0.2.7:443 answers"),
        CheckJson::warn("socket_buffers", "they are small", "raise them"),
    ];
    let well = Shell::to(&daemon).run("doctor").await;
    assert_eq!(
        (well.exit, &*well.err),
        (0, "it works; 1 could be better\n")
    );
    let lines: Vec<&str> = well.out.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "ok    server          192.0.2.7:443 answers",
            "warn  socket buffers  they are small",
            "                      → raise them",
        ]
    );
    let down = CheckJson::fail("origin", "nothing listens", "start it").of("app");
    daemon.fake.state().checks.push(down);
    let ill = Shell::to(&daemon).run("doctor").await;
    assert_eq!(ill.exit, 8);
    assert!(
        ill.out.contains("fail  origin app      nothing listens"),
        "{ill:?}"
    );
    assert_eq!(ill.err, "1 to mend, 1 could be better\n");
    daemon.stop().await;
}
