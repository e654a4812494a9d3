use std::sync::{Arc, Mutex};

use tracing::{debug, info, info_span, warn};
use tracing_subscriber::layer::SubscriberExt as _;

use super::line::LONGEST;
use super::*;

/// What is logged meanwhile, as one text.
fn logged(style: Style, level: &str, work: impl FnOnce()) -> String {
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = written.clone();
    let layer = LogLayer::new(
        style,
        Box::new(move |line| sink.lock().unwrap().extend_from_slice(line)),
    );
    let subscriber = tracing_subscriber::registry()
        .with(filter(level).unwrap())
        .with(layer);
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(std::mem::take(&mut *written.lock().unwrap())).unwrap()
}

const PLAIN: Style = Style::Text { ansi: false };

fn journal_style() -> Style {
    Style::Journal {
        identifier: "wormkeyd".into(),
    }
}

/// Without the time in front.
fn text(work: impl FnOnce()) -> String {
    let logged = logged(PLAIN, "trace", work);
    let (time, rest) = logged.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.len() == 24, "{time}");
    rest.to_owned()
}

#[test]
fn a_line_has_its_level_place_message_and_facts() {
    let line = text(|| info!(link = %"1.2", tunnels = 3, up = true, name = "a b", "link up"));
    assert_eq!(
        line,
        " INFO wormkey::telemetry::tests: link up link=1.2 tunnels=3 up=true name=\"a b\"\n"
    );
}

#[test]
fn what_a_stranger_sends_stays_one_line() {
    let evil =
        "a\r\n2023-11-14T22:13:20.000Z ERROR wormkey: fake\u{1b}[31m\u{7f}\u{9b}\u{2028}\u{202e}\0";
    for style in [PLAIN, Style::Json] {
        let lines = logged(style, "trace", || {
            info!(host = %evil, path = evil, agent = ?evil, "visit {evil}");
        });
        assert_eq!(lines.matches('\n').count(), 1, "{lines:?}");
        let body = lines.trim_end_matches('\n');
        assert!(body.chars().all(|c| !c.is_control()), "{lines:?}");
        assert!(!body.contains(['\u{2028}', '\u{202e}']), "{lines:?}");
    }
    let entry = logged(journal_style(), "trace", || {
        info!(host = %"a\nPRIORITY=0\n_UID=0", "visit\nPRIORITY=0");
    });
    let names: Vec<_> = entry
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    assert_eq!(
        names,
        [
            "PRIORITY",
            "SYSLOG_IDENTIFIER",
            "TARGET",
            "MESSAGE",
            "WORMKEY_HOST"
        ]
    );
}

#[test]
fn a_value_cannot_pose_as_another_field() {
    let told = |host: &str| text(|| info!(%host, "visit"));
    let place = " INFO wormkey::telemetry::tests: visit host=";
    for (host, wanted) in [
        ("app", "app"),
        ("app level=error", "\"app level=error\""),
        ("x=y", "\"x=y\""),
        ("", "\"\""),
        ("\"a\" b=\"c\"", "\"\\\"a\\\" b=\\\"c\\\"\""),
        ("\"fine as it is\"", "\"fine as it is\""),
        ("\"open\\\"", "\"\\\"open\\\\\"\""),
    ] {
        assert_eq!(told(host), format!("{place}{wanted}\n"), "{host}");
    }
}

#[test]
fn long_values_are_cut() {
    // At the border, one beyond, and far beyond; letters of one and three bytes, and escapes.
    for (unit, bytes) in [("a", 1), ("€", 3), ("\n", 2)] {
        let fitting = LONGEST / bytes;
        for (count, cut) in [(fitting, false), (fitting + 1, true), (1_000_000, true)] {
            let value = unit.repeat(count);
            let line = logged(Style::Json, "trace", || info!(%value, "{value}"));
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            for text in [&json["fields"]["value"], &json["message"]] {
                let text = text.as_str().unwrap();
                assert_eq!(text.ends_with('…'), cut, "{unit:?} x {count}");
                let kept = text.trim_end_matches('…').len();
                assert_eq!(kept, fitting * bytes, "{unit:?} x {count}");
            }
        }
    }
}

#[test]
fn json_keeps_types_and_its_own_keys() {
    let line = logged(Style::Json, "info", || {
        warn!(level = "mine", count = 3, ratio = 0.5, ok = false, err = %"x: y", "it \"broke\"");
    });
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["level"], "warn");
    assert_eq!(json["target"], "wormkey::telemetry::tests");
    assert_eq!(json["message"], "it \"broke\"");
    assert_eq!(
        json["fields"],
        serde_json::json!({"level": "mine", "count": 3, "ratio": 0.5, "ok": false, "err": "x: y"})
    );
}

#[test]
fn spans_add_their_facts_and_the_nearest_wins() {
    let line = text(|| {
        let outer = info_span!("link", link = 1, device = "d");
        let _outer = outer.enter();
        let inner = info_span!("visit", link = 2, late = tracing::field::Empty);
        inner.record("late", "l\n");
        let _inner = inner.enter();
        info!(own = 3, "here");
    });
    assert_eq!(
        line,
        " INFO wormkey::telemetry::tests: here own=3 link=2 late=l\\n device=d\n"
    );
}

#[test]
fn the_journal_gets_fields_and_a_message_that_tells_all() {
    let entry = logged(journal_style(), "info", || {
        warn!(link = %"1.2", "r#type" = 1, "link lost");
    });
    assert_eq!(
        entry,
        "PRIORITY=4\nSYSLOG_IDENTIFIER=wormkeyd\nTARGET=wormkey::telemetry::tests\n\
         MESSAGE=link lost link=1.2 r#type=1\nWORMKEY_LINK=1.2\nWORMKEY_R_TYPE=1\n"
    );
    assert_eq!(
        message_of(entry.as_bytes()),
        b"link lost link=1.2 r#type=1\n"
    );
}

#[test]
fn colours_frame_the_line_and_nothing_else() {
    let line = logged(Style::Text { ansi: true }, "info", || {
        info!(host = %"\u{1b}[2J", "visit");
    });
    assert!(line.contains("\u{1b}[32m INFO\u{1b}[0m"), "{line:?}");
    assert!(line.ends_with("visit host=\\u{1b}[2J\n"), "{line:?}");
}

#[test]
fn a_level_is_for_our_own_lines() {
    let lines = logged(PLAIN, "debug", || {
        debug!("ours");
        tracing::trace!("too much");
        debug!(target: "h2::frame", "theirs");
        warn!(target: "h2::frame", "their warning");
    });
    let said: Vec<_> = lines
        .lines()
        .map(|l| l.rsplit(": ").next().unwrap())
        .collect();
    assert_eq!(said, ["ours", "their warning"]);
    let lines = logged(PLAIN, "info,h2=debug", || {
        debug!("ours");
        debug!(target: "h2::frame", "theirs");
    });
    assert!(
        lines.contains("theirs") && !lines.contains("ours"),
        "{lines}"
    );
    assert_eq!(logged(PLAIN, "off", || warn!("hush")), "");
    let lines = logged(PLAIN, "", || info!("the default"));
    assert!(lines.contains("the default"));
}

#[test]
fn a_filter_that_is_none_is_told() {
    for (level, wanted) in [
        ("loud", "\"loud\" is no log level; use error, warn,"),
        ("info,wormkey", "\"wormkey\" is no log level;"),
        ("wormkey=loud", "\"wormkey=loud\" is no log filter"),
    ] {
        let err = filter(level).unwrap_err();
        assert!(err.to_string().starts_with(wanted), "{err}");
    }
}

#[test]
fn logging_is_set_up_once() {
    // The only test that touches the process's own set-up.
    assert!(init(Format::Text, "off").is_ok());
    assert!(matches!(
        init(Format::Json, "off"),
        Err(TelemetryError::Twice)
    ));
    assert!(matches!(
        init(Format::Text, "loud"),
        Err(TelemetryError::Level { .. })
    ));
}
