use std::net::IpAddr;
use std::time::Duration;

use ::http::Method;
use proptest::prelude::*;

use super::share::{Purpose, ShareRow, claimed, proves, token};
use super::*;
use crate::names::{DeviceId, ShareId, TunnelId};
use crate::times::WallTime;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn policy(text: &str) -> Policy {
    Policy::parse(&text.replace("HASH", HASH)).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn problems(text: &str) -> Vec<String> {
    let error = Policy::parse(&text.replace("HASH", HASH)).expect_err(text);
    error.problems.iter().map(|p| p.at.clone()).collect()
}

fn facts<'a>(ip: &str, method: &'a Method, path: &'a str) -> Facts<'a> {
    Facts {
        suspended: false,
        peer: ip.parse().unwrap(),
        http: Some(HttpFacts {
            method,
            path,
            login: Login::None,
            share: None,
        }),
        over: &[],
    }
}

#[test]
fn an_empty_policy_allows_all_and_has_one_text() {
    let empty = policy("{}");
    assert!(empty.is_empty());
    assert_eq!(empty.to_text(), "{}");
    let decision = decide(&empty, &facts("192.0.2.1", &Method::DELETE, "/../x"));
    assert_eq!(
        (decision.verdict, decision.rule),
        (Verdict::Pass, RuleId::Default)
    );
}

#[test]
fn equal_policies_have_equal_texts() {
    let one = policy(
        r#"{"deny":["10.1.2.3/8","::ffff:192.0.2.0/120"],"allow":["2001:DB8::/32","192.0.2.7"],
            "methods":["PUT","GET","GET"],"limits":{"visitor":{},"tunnel":{"rate":"50/s burst 50"}},
            "shadow":["paths","networks","auth","limits","methods","webhook"],"share":"allowed"}"#,
    );
    let text = r#"{"allow":["192.0.2.7/32","2001:db8::/32"],"deny":["10.0.0.0/8","192.0.2.0/24"],"methods":["GET","PUT"],"share":"allowed","limits":{"tunnel":{"rate":"50/s"}},"shadow":["all"]}"#;
    assert_eq!(one.to_text(), text);
    assert_eq!(policy(text), one);
    assert_eq!(serde_json::to_string(&one).unwrap(), text);
}

#[test]
fn a_full_policy_survives_its_text() {
    let full = policy(
        r#"{"auth":[{"user":"bob","hash":"HASH"},{"user":"al","hash":"HASH"}],
            "allow_paths":["/a/**/"],"deny_paths":["/a/*.bak"],"share":"required",
            "limits":{"visitor":{"rate":"10/m burst 3","concurrency":4,"bandwidth":5000}},
            "request_headers":{"set":{"X-A":"b"},"remove":["Cookie"]},
            "response_headers":{"remove":["server"]},
            "secure_headers":{"csp":"default-src 'self'"},
            "cors":{"origins":["https://app.example.com"],"credentials":true,"max_age":600},
            "webhook":[{"kind":"github","secret":"old"},{"kind":"stripe","secret":"new"}],"cookie_domain":true}"#,
    );
    assert_eq!(policy(&full.to_text()), full);
    assert!(
        !format!("{full:?}").contains("AAAA"),
        "hashes are not for logs"
    );
    let csp = full.secure_headers().unwrap().fields().pop().unwrap().1;
    assert_eq!(csp, "default-src 'self'; frame-ancestors 'self'");
}

#[test]
fn every_problem_is_named() {
    assert_eq!(
        problems(
            r#"{"auth":[{"user":"a:b","hash":"HASH"}],"deny":["10.0.0.0/8","x","::ffff:0:0/90"],
                "methods":["get","A B","CONNECT"],"deny_paths":["admin","/a%2f","/a/../b","/a**"],
                "share":"maybe","limits":{"tunnel":{"rate":"0/s"}},
                "request_headers":{"set":{"host":"x","a b":"c"},"remove":["content-length"]},
                "cors":{"origins":["*"],"credentials":true},"shadow":["x"]}"#
        ),
        [
            "auth[0]",
            "share",
            "deny[1]",
            "deny[2]",
            "methods[0]",
            "methods[1]",
            "methods[2]",
            "deny_paths[0]",
            "deny_paths[1]",
            "deny_paths[2]",
            "deny_paths[3]",
            "limits.tunnel.rate",
            "request_headers.set.a b",
            "request_headers.set.host",
            "request_headers.remove[0]",
            "cors.credentials",
            "shadow[0]",
        ]
    );
    for text in [
        "",
        "[]",
        "null",
        r#"{"unknown":1}"#,
        r#"{"limits":{"tunnel":{"x":1}}}"#,
        r#"{"deny":[],"deny":[]}"#,
        r#"{"limits":{"tunnel":{"concurrency":0}}}"#,
    ] {
        assert_eq!(problems(text), ["text"], "{text}");
    }
    let long = format!(r#"{{"deny":["{}"]}}"#, "x".repeat(POLICY_MAX));
    assert_eq!(problems(&long), ["text"]);
}

#[test]
fn hashes_that_cost_too_much_are_refused() {
    for bad in [
        "plain",
        "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMg$AAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQxMg$AAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=19456,t=99,p=1$c29tZXNhbHQxMg$AAAAAAAAAAAAAAAAAAAAAAAA",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMg$AAAAAAAAAAAAAAAAAAAAAAAA$x",
    ] {
        assert!(PasswordHash::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn networks_are_judged_whatever_way_they_are_written() {
    let rules = policy(r#"{"allow":["10.0.0.0/8","2001:db8::/32"],"deny":["10.9.0.0/16"]}"#);
    for (ip, rule) in [
        ("10.1.2.3", "default"),
        ("::ffff:10.1.2.3", "default"),
        ("10.9.0.1", "deny 10.9.0.0/16"),
        ("::ffff:10.9.0.1", "deny 10.9.0.0/16"),
        ("192.0.2.1", "allow"),
        ("2001:db8::1", "default"),
        ("2001:db9::1", "allow"),
        ("::10.1.2.3", "allow"),
    ] {
        let decision = decide(&rules, &facts(ip, &Method::GET, "/"));
        assert_eq!(decision.rule.to_string(), rule, "{ip}");
    }
}

#[test]
fn what_could_be_a_denied_path_is_denied() {
    let rules = policy(r#"{"deny_paths":["/admin/**","/*.bak","/x/secret"]}"#);
    for path in [
        "/admin",
        "/admin/",
        "/admin/x?y",
        "/ADMIN/x",
        "/%61dmin",
        "/%2561dmin",
        "//admin",
        "/./admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/a/..%2fadmin",
        "/a/%252e%252e/admin",
        "/a/..;/admin",
        "/admin;x=1/y",
        "/a\\..\\admin",
        "/a/..%5cadmin",
        "/admin%00.png",
        "/admin%2f",
        "/%c0%ae%c0%ae/admin",
        "/%u0061dmin",
        "/admin./",
        "/admin%20",
        "/;a/admin",
        "/a//..//admin",
        "/a.bak",
        "/%2ebak",
        "/x/y/../secret",
        "/x//secret",
        "/x/secret/",
        "/admin#x",
    ] {
        let decision = decide(&rules, &facts("192.0.2.1", &Method::GET, path));
        assert_eq!(decision.verdict, Verdict::Denied, "{path}");
    }
    for path in [
        "/",
        "/administrator",
        "/a/admin",
        "/a/b.bak",
        "/x/secrets",
        "/?/admin",
        "/a/%2Fb",
        "/@scope%2fname",
        "/a;b",
        "/adm%20in",
        "/%zz",
    ] {
        let decision = decide(&rules, &facts("192.0.2.1", &Method::GET, path));
        assert_eq!(decision.verdict, Verdict::Pass, "{path}");
    }
    let endless = format!("/a%2f{}", "b".repeat(4000));
    let decision = decide(&rules, &facts("192.0.2.1", &Method::GET, &endless));
    assert_eq!(decision.verdict, Verdict::Denied, "too many readings");
}

#[test]
fn only_what_is_allowed_in_every_reading_is_allowed() {
    let rules = policy(r#"{"allow_paths":["/public/**","/api/*/info","/"]}"#);
    for (path, passes) in [
        ("/", true),
        ("/public", true),
        ("/public/a/b", true),
        ("/public/a%20b", true),
        ("/api/7/info", true),
        ("/api//info", false),
        ("/api/7/8/info", false),
        ("/private", false),
        ("/Public", false),
        ("/public/../private", false),
        ("/public/%2e%2e/private", false),
        ("/public/..;/private", false),
        ("/public\\..\\..\\private", false),
    ] {
        let decision = decide(&rules, &facts("192.0.2.1", &Method::GET, path));
        assert_eq!(decision.verdict == Verdict::Pass, passes, "{path}");
    }
}

/// A tricky path of 2 KB with many readings, all of which go deep into patterns of this form.
fn deep_path() -> String {
    let tricks = "/%2525252e;a//x\\..";
    format!("{}{tricks}", "/a".repeat((2048 - tricks.len()) / 2))
}

fn steps_of(rules: &Policy, path: &str) -> (Verdict, usize) {
    let mut left = 16 * STEPS_MAX;
    let asked = facts("192.0.2.1", &Method::GET, path);
    let decision = decide_within(rules, &asked, &mut left);
    (decision.verdict, 16 * STEPS_MAX - left)
}

#[test]
fn one_request_had_half_a_billion_steps_compared_by_rules_about_paths() {
    let stars = format!("/**{}/*b", "/**/*a".repeat(40));
    let late = format!("/**{}/b", "/a".repeat(120));
    let paths = [
        deep_path(),
        "/a".repeat(4096),
        format!("/{}", "a".repeat(8191)),
    ];
    for (form, end, is_spent) in [(stars, "", false), (late, "/**", true)] {
        let hostile: Vec<String> = (0..60).map(|n| format!("{form}{n}{end}")).collect();
        let rules = policy(&serde_json::json!({ "deny_paths": hostile }).to_string());
        for path in &paths {
            let (_, steps) = steps_of(&rules, path);
            assert!(steps <= STEPS_MAX, "{steps}");
        }
        let (verdict, steps) = steps_of(&rules, &paths[0]);
        assert_eq!(
            verdict == Verdict::Denied,
            is_spent,
            "what cannot be said is refused"
        );
        assert_eq!(steps == STEPS_MAX, is_spent, "{steps}");
        let rules = policy(&serde_json::json!({ "allow_paths": hostile }).to_string());
        let (verdict, steps) = steps_of(&rules, &paths[0]);
        assert_eq!(verdict, Verdict::Denied);
        assert!(steps <= STEPS_MAX, "{steps}");
    }
    let stars = format!("/{}*c*b", "*a".repeat(100));
    let rules = policy(&serde_json::json!({"deny_paths": [stars]}).to_string());
    let (verdict, steps) = steps_of(&rules, &format!("/{}b", "a".repeat(8190)));
    assert_eq!(verdict, Verdict::Pass);
    assert!(
        steps < 64 * 1024,
        "a star that found its place is not moved: {steps}"
    );
}

#[test]
fn honest_rules_at_their_limits_stay_far_below_the_bound() {
    let forms = ["/admin/N/**", "/**/*.bakN", "/**/.gitN/**", "/api/*/N/info"];
    let many = (0..128).map(|n| forms[n % 4].replace('N', &n.to_string()));
    let many: Vec<String> = many.collect();
    let rules = policy(&serde_json::json!({ "deny_paths": many }).to_string());
    let long = format!("/wiki{}", "/segment".repeat(1000));
    let tricky = format!("/wiki{}/%41%42;v=1/a.b..", "/Caf%C3%A9".repeat(12));
    for path in [long, tricky] {
        let (verdict, steps) = steps_of(&rules, &path);
        assert_eq!(verdict, Verdict::Pass);
        assert!(steps < STEPS_MAX, "{steps}: {path}");
    }
}

#[test]
fn visits_over_a_limit_were_asked_about_their_paths_first() {
    let rules = policy(r#"{"deny_paths":["/no"]}"#);
    let over = [Over {
        rule: RuleId::Concurrency(Scope::Tunnel, 1),
        retry_in: Duration::from_secs(1),
        own: true,
    }];
    let asked = Facts {
        over: &over,
        ..facts("192.0.2.1", &Method::GET, "/no")
    };
    let mut steps = STEPS_MAX;
    let decision = decide_within(&rules, &asked, &mut steps);
    assert!(matches!(decision.verdict, Verdict::Limited { .. }));
    assert_eq!(steps, STEPS_MAX, "nothing was compared");
}

#[test]
fn the_first_refusal_stands_in_the_documented_order() {
    let rules = policy(
        r#"{"auth":[{"user":"bob","hash":"HASH"}],"deny":["192.0.2.0/24"],"methods":["GET"],
            "deny_paths":["/no"],"share":"allowed"}"#,
    );
    let over = [Over {
        rule: RuleId::Concurrency(Scope::Tunnel, 1),
        retry_in: Duration::from_secs(1),
        own: true,
    }];
    let (put, get) = (Method::PUT, Method::GET);
    let mut asked = Facts {
        suspended: true,
        over: &over,
        ..facts("192.0.2.1", &put, "/no")
    };
    let mut verdict = |change: &dyn Fn(&mut Facts<'_>)| {
        change(&mut asked);
        decide(&rules, &asked).rule.to_string()
    };
    assert_eq!(verdict(&|_| {}), "suspended");
    assert_eq!(verdict(&|f| f.suspended = false), "deny 192.0.2.0/24");
    assert_eq!(
        verdict(&|f| f.peer = IpAddr::from([203, 0, 113, 1])),
        "method PUT"
    );
    let path = facts("203.0.113.1", &get, "/no");
    assert_eq!(decide(&rules, &path).rule.to_string(), "deny-path /no");
    let full = Facts {
        over: &over,
        ..path
    };
    assert_eq!(
        decide(&rules, &full).rule.to_string(),
        over[0].rule.to_string()
    );
    let mut who = facts("203.0.113.1", &get, "/");
    assert_eq!(decide(&rules, &who).verdict, Verdict::Unauthorized);
    for (login, wanted) in [
        (Login::Unchecked, Verdict::Verify),
        (Login::Wrong, Verdict::Unauthorized),
        (Login::Right { user: "bob" }, Verdict::Pass),
    ] {
        who.http.as_mut().unwrap().login = login;
        assert_eq!(decide(&rules, &who).verdict, wanted, "{login:?}");
    }
}

#[test]
fn a_shadow_tells_and_lets_pass() {
    let rules = policy(r#"{"deny":["192.0.2.0/24"],"methods":["GET"],"shadow":["networks"]}"#);
    let decision = decide(&rules, &facts("192.0.2.1", &Method::GET, "/"));
    assert_eq!(decision.verdict, Verdict::Pass);
    assert_eq!(
        decision.shadowed,
        [RuleId::Deny("192.0.2.0/24".parse().unwrap())]
    );
    let decision = decide(&rules, &facts("192.0.2.1", &Method::PUT, "/"));
    assert_eq!(decision.verdict, Verdict::MethodNotAllowed);
    // The operator's limits and suspension are no shadows.
    let rules = policy(r#"{"shadow":["all"]}"#);
    for (own, verdict) in [(true, true), (false, false)] {
        let over = [Over {
            rule: RuleId::Concurrency(Scope::User, 1),
            retry_in: Duration::from_secs(1),
            own,
        }];
        let asked = Facts {
            over: &over,
            ..facts("192.0.2.1", &Method::GET, "/")
        };
        assert_eq!(decide(&rules, &asked).verdict == Verdict::Pass, verdict);
    }
}

#[test]
fn a_shadow_tells_of_wrong_credentials_and_not_of_right_ones() {
    let rules = policy(
        r#"{"auth":[{"user":"bob","hash":"HASH"}],"limits":{"tunnel":{"rate":"1/s"}},"shadow":["auth"]}"#,
    );
    let mut who = facts("192.0.2.1", &Method::GET, "/");
    for (login, verdict, told) in [
        (Login::Right { user: "bob" }, Verdict::Pass, &[][..]),
        (Login::Wrong, Verdict::Pass, &[RuleId::Auth]),
        (Login::None, Verdict::Pass, &[RuleId::Auth]),
        // Nobody knows yet.
        (Login::Unchecked, Verdict::Verify, &[]),
    ] {
        who.http.as_mut().unwrap().login = login;
        let decision = decide(&rules, &who);
        assert_eq!(
            (decision.verdict, &decision.shadowed[..]),
            (verdict, told),
            "{login:?}"
        );
    }
    // What is refused anyway is not worth a check.
    let over = [Over {
        rule: RuleId::Concurrency(Scope::Tunnel, 1),
        retry_in: Duration::from_secs(1),
        own: true,
    }];
    let asked = Facts { over: &over, ..who };
    let refused = decide(&rules, &asked).verdict;
    assert!(matches!(refused, Verdict::Limited { .. }), "{refused:?}");
}

#[test]
fn set_replaces_the_parts_it_names() {
    let old = policy(r#"{"deny":["10.0.0.0/8"],"methods":["GET"]}"#);
    let new = policy(r#"{"deny":["192.0.2.0/24"],"allow":["203.0.113.0/24"]}"#);
    let both = old.replace(&["deny"], &new).unwrap();
    assert_eq!(
        both,
        policy(r#"{"deny":["192.0.2.0/24"],"methods":["GET"]}"#)
    );
    let without = old.replace(&["methods"], &new).unwrap();
    assert_eq!(without, policy(r#"{"deny":["10.0.0.0/8"]}"#));
    let limited =
        policy(r#"{"limits":{"tunnel":{"rate":"5/s","concurrency":2},"visitor":{"rate":"1/s"}}}"#);
    let faster = policy(r#"{"limits":{"tunnel":{"rate":"9/s"}}}"#);
    let changed = ["limits.tunnel.rate", "limits.visitor", "cors"];
    assert_eq!(
        limited.replace(&changed, &faster).unwrap(),
        policy(r#"{"limits":{"tunnel":{"rate":"9/s","concurrency":2}}}"#)
    );
    let begun = old.replace(&["limits.tunnel.rate"], &faster).unwrap();
    assert_eq!(begun.tunnel_limit(), faster.tunnel_limit());
    assert!(old.replace(&["authh"], &new).is_err(), "a slip is told");
}

#[test]
fn what_is_shown_has_no_secrets() {
    let full = policy(
        r#"{"auth":[{"user":"bob","hash":"HASH"}],"methods":["GET"],
            "webhook":[{"kind":"github","secret":"s3cret"}]}"#,
    );
    assert_eq!(
        full.shown(),
        serde_json::json!({
            "auth": [{"user": "bob", "hash": "[redacted]"}], "methods": ["GET"],
            "webhook": [{"kind": "github", "secret": "[redacted]"}],
        })
    );
}

fn any_path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", "admin", "..", ".", "", "%2e%2e", "%2f", ";", "\\", "x;y", "%61dmin", "*",
    ]);
    prop::collection::vec(piece, 0..6).prop_map(|pieces| format!("/{}", pieces.join("/")))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let some =
        |list: &[&'static str]| prop::sample::subsequence(list.to_vec(), 0..=list.len().min(2));
    let paths = || some(&["/a/**", "/admin/**", "/*/b", "/b", "/**"]);
    (
        some(&["10.0.0.0/8", "192.0.2.1"]),
        some(&["10.1.0.0/16", "203.0.113.0/24"]),
        some(&["GET", "PUT"]),
        paths(),
        paths(),
        prop::sample::select(vec![None, Some("allowed"), Some("required")]),
        any::<bool>(),
    )
        .prop_map(
            |(allow, deny, methods, allow_paths, deny_paths, share, auth)| {
                let mut map = serde_json::json!({
                    "allow": allow, "deny": deny, "methods": methods,
                    "allow_paths": allow_paths, "deny_paths": deny_paths,
                });
                if let Some(share) = share {
                    map["share"] = share.into();
                }
                if auth {
                    map["auth"] = serde_json::json!([{"user": "bob", "hash": HASH}]);
                }
                Policy::parse(&map.to_string()).unwrap()
            },
        )
}

proptest! {
    #[test]
    fn a_share_link_never_widens_what_the_tunnel_allows(
        policy in any_policy(),
        path in any_path(),
        put in any::<bool>(),
        ip in prop::sample::select(vec!["10.0.0.1", "10.1.0.1", "192.0.2.1", "203.0.113.1"]),
        methods in prop::sample::subsequence(vec!["GET", "PUT"], 0..=2),
        paths in prop::sample::subsequence(vec!["/a/**", "/admin/**", "/**"], 0..=2),
    ) {
        let method = if put { Method::PUT } else { Method::GET };
        let methods: Vec<Method> = methods.iter().map(|m| m.parse().unwrap()).collect();
        let paths: Vec<PathPattern> = paths.iter().map(|p| p.parse().unwrap()).collect();
        let bare = facts(ip, &method, &path);
        let mut shared = bare.clone();
        shared.http.as_mut().unwrap().share = Some(ShareFacts {
            over: false,
            methods: &methods,
            paths: &paths,
        });
        let without = decide(&policy, &bare).verdict;
        let with = decide(&policy, &shared).verdict;
        let known = policy.replace(&["auth", "share"], &Policy::default()).unwrap();
        let as_somebody = decide(&known, &bare).verdict;
        if with == Verdict::Pass {
            // Whoever is known to the tunnel could do the same.
            prop_assert_eq!(&as_somebody, &Verdict::Pass);
            let narrow = (methods.is_empty() || methods.contains(&method))
                && (paths.is_empty() || paths::PathJudge::new(&path, STEPS_MAX).is_allowed(&paths));
            prop_assert!(narrow || without == Verdict::Pass);
        }
        if policy.share() == ShareUse::Off {
            prop_assert_eq!(with, without);
        }
    }

    #[test]
    fn more_rules_never_let_more_in(
        one in any_policy(),
        other in any_policy(),
        path in any_path(),
        ip in prop::sample::select(vec!["10.0.0.1", "10.1.0.1", "192.0.2.1", "203.0.113.1"]),
    ) {
        let method = Method::GET;
        let both = Policy {
            deny: [one.deny.clone(), other.deny.clone()].concat(),
            deny_paths: [one.deny_paths.clone(), other.deny_paths.clone()].concat(),
            ..one.clone()
        };
        let asked = facts(ip, &method, &path);
        if decide(&both, &asked).verdict == Verdict::Pass {
            prop_assert_eq!(decide(&one, &asked).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn no_text_makes_a_policy_panic(text in ".{0,200}", path in ".{0,64}") {
        let _ = Policy::parse(&text);
        let _ = Readings::of(&path);
        let _ = text.parse::<PathPattern>();
        let _ = text.parse::<Cidr>();
    }

    #[test]
    fn policies_survive_their_text(policy in any_policy()) {
        prop_assert_eq!(Policy::parse(&policy.to_text()).unwrap(), policy);
    }
}

fn share_row() -> ShareRow {
    ShareRow {
        id: ShareId::from_bytes([1; 16]),
        tunnel: TunnelId::from_bytes([2; 16]),
        device: DeviceId::from_bytes([3; 16]),
        methods: vec![Method::GET],
        paths: vec!["/a".parse().unwrap()],
        uses_left: Some(1),
        created_at: WallTime::from_millis(0),
        expires_at: WallTime::from_millis(1000),
        revoked_at: None,
    }
}

#[test]
fn a_share_token_proves_its_own_share_and_nothing_else() {
    let (key, row) = ([7; 32], share_row());
    let link = token(&key, Purpose::Link, &row);
    assert_eq!(claimed(&link), Some(row.id));
    assert!(proves(&key, Purpose::Link, &row, &link));
    assert!(
        !proves(&key, Purpose::Cookie, &row, &link),
        "a link is no cookie"
    );
    assert!(!proves(&[8; 32], Purpose::Link, &row, &link));
    let others = [
        ShareRow {
            id: ShareId::from_bytes([9; 16]),
            ..row.clone()
        },
        ShareRow {
            tunnel: TunnelId::from_bytes([9; 16]),
            ..row.clone()
        },
        ShareRow {
            expires_at: WallTime::from_millis(2000),
            ..row.clone()
        },
        ShareRow {
            methods: Vec::new(),
            ..row.clone()
        },
        ShareRow {
            paths: Vec::new(),
            ..row.clone()
        },
    ];
    for other in others {
        assert!(!proves(&key, Purpose::Link, &other, &link), "{other:?}");
    }
    // Uses change while the link is about.
    let used = ShareRow {
        uses_left: Some(0),
        ..row.clone()
    };
    assert!(proves(&key, Purpose::Link, &used, &link));
    for bad in ["", "x", &link[1..], &format!("{link}A"), &"!".repeat(64)] {
        assert!(!proves(&key, Purpose::Link, &row, bad), "{bad}");
    }
    assert!(row.is_over(WallTime::from_millis(1000)), "due is over");
    assert!(!row.is_over(WallTime::from_millis(999)));
}

#[test]
fn what_we_make_of_a_password_is_a_hash_that_a_policy_takes() {
    let kept = crate::secret::password::hash("correct horse", [7; 16]);
    assert!(PasswordHash::new(&kept).is_ok(), "{kept}");
}
