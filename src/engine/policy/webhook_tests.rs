//! Signatures as the senders' own documentation has them, and every way in which they do not hold.

use proptest::prelude::*;

use super::*;

/// A request that somebody published: what it was signed with, its fields and its body.
struct Known {
    webhook: Webhook,
    fields: Vec<(&'static str, &'static str)>,
    body: &'static str,
    /// In seconds.
    at: i64,
}

fn webhook(kind: WebhookKind, secret: &str) -> Webhook {
    Webhook::new(kind, secret.to_owned()).unwrap()
}

fn github() -> Known {
    Known {
        webhook: webhook(WebhookKind::Github, "It's a Secret to Everybody"),
        fields: vec![(
            "x-hub-signature-256",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        )],
        body: "Hello, World!",
        at: 1_700_000_000,
    }
}

fn slack() -> Known {
    Known {
        webhook: webhook(WebhookKind::Slack, "8f742231b10e8888abcd99yyyzzz85a5"),
        fields: vec![
            (
                "x-slack-signature",
                "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
            ),
            ("x-slack-request-timestamp", "1531420618"),
        ],
        body: "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
        at: 1_531_420_618,
    }
}

fn standard() -> Known {
    Known {
        webhook: webhook(
            WebhookKind::StandardWebhooks,
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
        ),
        fields: vec![
            ("webhook-id", "msg_loFOjxBNrRLzqYUf"),
            ("webhook-timestamp", "1731705121"),
            (
                "webhook-signature",
                "v1a,bm90IG91cnM= v1,AAAA v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
            ),
        ],
        body: r#"{"event_type":"ping","data":{"success":true}}"#,
        at: 1_731_705_121,
    }
}

/// Made with another implementation of HMAC; Stripe publishes the form and no example with its secret.
fn stripe() -> Known {
    Known {
        webhook: webhook(WebhookKind::Stripe, "whsec_test_secret"),
        fields: vec![(
            "stripe-signature",
            "t=1492774577, v1=00, v0=799c4ba7, v1=799c4ba7bb339f3c8601adfd112f0e477c930a268be1243d341abb8286501c2f",
        )],
        body: r#"{"id":"evt_1"}"#,
        at: 1_492_774_577,
    }
}

fn all() -> [Known; 4] {
    [github(), slack(), standard(), stripe()]
}

impl Known {
    fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn now(&self, later: i64) -> WallTime {
        WallTime::from_millis(self.at * 1000 + later)
    }

    fn judged_by(&self, webhooks: &[Webhook], later: i64, body: &str) -> Result<Proof, Unsigned> {
        let claims = Claims::read(webhooks, &self.map(), self.now(later))?;
        claims.prove(body.as_bytes())
    }

    fn judged(&self, later: i64, body: &str) -> Result<Proof, Unsigned> {
        self.judged_by(std::slice::from_ref(&self.webhook), later, body)
    }
}

#[test]
fn what_the_senders_publish_is_found_right() {
    for known in all() {
        let proof = known.judged(0, known.body);
        assert!(proof.is_ok(), "{:?}: {proof:?}", known.webhook.kind());
    }
}

#[test]
fn another_body_another_secret_or_another_kind_is_wrong() {
    for known in all() {
        let kind = known.webhook.kind();
        for body in ["", "x", &format!("{} ", known.body)] {
            assert_eq!(known.judged(0, body), Err(Unsigned::Wrong), "{kind:?}");
        }
        let other = webhook(kind, "whsec_AAAA");
        let judged = known.judged_by(&[other], 0, known.body);
        assert_eq!(judged, Err(Unsigned::Wrong), "{kind:?}");
        for other in WebhookKind::ALL.into_iter().filter(|other| *other != kind) {
            let other = webhook(other, "whsec_AAAA");
            let judged = known.judged_by(&[other], 0, known.body);
            assert_eq!(judged, Err(Unsigned::Absent), "{kind:?}");
        }
    }
}

#[test]
fn one_of_several_secrets_and_kinds_is_enough() {
    for known in all() {
        let (kind, right) = (known.webhook.kind(), known.webhook.clone());
        let mut several = vec![webhook(kind, "whsec_AAAA")];
        several.extend(WebhookKind::ALL.map(|kind| webhook(kind, "whsec_BBBB")));
        let judged = known.judged_by(&several, 0, known.body);
        assert_eq!(judged, Err(Unsigned::Wrong), "{kind:?}");
        several.push(right);
        assert!(known.judged_by(&several, 0, known.body).is_ok(), "{kind:?}");
    }
}

#[test]
fn the_time_that_is_signed_holds_for_five_minutes_each_way() {
    for known in [slack(), standard(), stripe()] {
        let until = known.now(300_000);
        for (later, right) in [
            (-300_000, true),
            (-300_001, false),
            (0, true),
            (299_999, true),
            (300_000, true),
            (300_001, false),
            (86_400_000, false),
        ] {
            let judged = known.judged(later, known.body);
            match right {
                true => assert_eq!(judged.unwrap().until, Some(until)),
                false => assert_eq!(judged, Err(Unsigned::Stale), "{later}"),
            }
        }
    }
    // GitHub signs no time.
    assert_eq!(
        github()
            .judged(i64::MAX / 2, "Hello, World!")
            .unwrap()
            .until,
        None
    );
}

#[test]
fn fields_that_say_two_things_or_nothing_prove_nothing() {
    for known in all() {
        let webhooks = std::slice::from_ref(&known.webhook);
        let read = |map: &HeaderMap| Claims::read(webhooks, map, known.now(0)).map(|_| ());
        assert_eq!(read(&HeaderMap::new()), Err(Unsigned::Absent));
        for (name, value) in &known.fields {
            let mut without = known.map();
            without.remove(*name);
            assert_eq!(read(&without), Err(Unsigned::Absent), "{name}");
            let mut twice = known.map();
            twice.append(*name, HeaderValue::from_static(value));
            assert_eq!(read(&twice), Err(Unsigned::Malformed), "{name}");
        }
    }
    for (kind, name, value) in [
        (WebhookKind::Github, "x-hub-signature-256", "sha1=00"),
        (WebhookKind::Github, "x-hub-signature-256", "sha256=xyz"),
        (WebhookKind::Github, "x-hub-signature-256", ""),
        (WebhookKind::Stripe, "stripe-signature", "v1=00"),
        (WebhookKind::Stripe, "stripe-signature", "t=0,t=1,v1=00"),
        (WebhookKind::Stripe, "stripe-signature", "t=+0,v1=00"),
        (WebhookKind::Stripe, "stripe-signature", "t=,v1=00"),
        (WebhookKind::Stripe, "stripe-signature", "t=0"),
        (
            WebhookKind::Stripe,
            "stripe-signature",
            "t=99999999999999999999,v1=00",
        ),
        (
            WebhookKind::Stripe,
            "stripe-signature",
            "t=9223372036854775807,v1=00",
        ),
    ] {
        let mut map = HeaderMap::new();
        map.insert(name, HeaderValue::from_static(value));
        let read = Claims::read(&[webhook(kind, "s")], &map, WallTime::from_millis(0));
        assert_eq!(read.map(|_| ()), Err(Unsigned::Malformed), "{value}");
    }
}

#[test]
fn secrets_are_checked_and_not_shown() {
    use WebhookKind::{Github, StandardWebhooks};
    for (kind, secret, right) in [
        (Github, "s", true),
        (Github, "two words, naïve", true),
        (Github, "", false),
        (Github, "a\nb", false),
        (
            StandardWebhooks,
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            true,
        ),
        (StandardWebhooks, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true),
        (StandardWebhooks, "whsec_", false),
        (StandardWebhooks, "whsec_not base64", false),
    ] {
        let made = Webhook::new(kind, secret.to_owned());
        assert_eq!(made.is_ok(), right, "{secret}");
    }
    assert!(Webhook::new(Github, "s".repeat(1024)).is_ok());
    assert!(Webhook::new(Github, "s".repeat(1025)).is_err());
    let shown = format!("{:?}", webhook(Github, "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

proptest! {
    #[test]
    fn no_field_that_a_stranger_sends_panics_or_proves(
        value in "[ -~]{0,80}",
        time in "[0-9]{0,20}",
        body in any::<Vec<u8>>(),
    ) {
        let webhooks = WebhookKind::ALL.map(|kind| webhook(kind, "whsec_AAAA"));
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("x-hub-signature-256", format!("sha256={value}")),
            ("stripe-signature", format!("t={time},v1={value}")),
            ("x-slack-signature", format!("v0={value}")),
            ("x-slack-request-timestamp", time.clone()),
            ("webhook-id", value.clone()),
            ("webhook-timestamp", time.clone()),
            ("webhook-signature", format!("v1,{value}")),
        ] {
            map.insert(name, HeaderValue::try_from(value).unwrap());
        }
        let claims = Claims::read(&webhooks, &map, WallTime::from_millis(0));
        prop_assert!(claims.is_err() || claims.is_ok_and(|claims| claims.prove(&body).is_err()));
    }
}
