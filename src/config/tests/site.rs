//! `[site]` of `server.toml`.

use super::*;
use crate::config::SiteConfig;

fn site(rest: &str) -> Result<SiteConfig, String> {
    load_server(&format!("domain = \"t.example.com\"\n[site]\n{rest}\n")).map(|config| config.site)
}

#[test]
fn what_is_said_to_the_world_is_taken() {
    assert_eq!(site(""), Ok(SiteConfig::default()));
    let written = "redirect = \"https://example.com:8443/about?x=1\"\nmay_index = true\ninterstitial = true\n\
         contacts = [\"mailto:abuse@example.com\", \"https://example.com/report\"]";
    let expected = SiteConfig {
        redirect: Some("https://example.com:8443/about?x=1".to_owned()),
        contacts: vec![
            "mailto:abuse@example.com".to_owned(),
            "https://example.com/report".to_owned(),
        ],
        may_index: true,
        interstitial: true,
    };
    assert_eq!(site(written), Ok(expected));
}

#[test]
fn only_what_a_browser_may_follow_is_said() {
    for bad in [
        "example.com",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://a b.example/",
        "https://example.com/\\n",
        "https://example.com/ü",
        "https://example.com:x/",
        "https://user@example.com/",
    ] {
        assert_eq!(
            lines(site(&format!("redirect = \"{bad}\""))).len(),
            1,
            "{bad}"
        );
    }
    for (bad, fix) in [
        (
            "abuse@example.com",
            "\"abuse@example.com\" is no URI; write \"mailto:abuse@example.com\"",
        ),
        (
            "javascript:alert(1)",
            "\"javascript:alert(1)\" is no contact; write \"mailto:abuse@example.com\" or \"https://…\"",
        ),
        (
            "mailto:me",
            "\"mailto:me\" is no contact; write \"mailto:abuse@example.com\" or \"https://…\"",
        ),
    ] {
        let found = lines(site(&format!("contacts = [\"{bad}\"]")));
        assert_eq!(found, [format!("line 3: site.contacts: {fix}")]);
    }
}
