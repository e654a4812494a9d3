//! The files in `config-examples/` are true.

use super::*;
use crate::config::Key;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples")
}

#[test]
fn every_example_loads() {
    let (mut servers, mut clients) = (0, 0);
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("server") {
            ServerConfig::load(Some(&path)).unwrap_or_else(|err| panic!("{err}"));
            servers += 1;
        } else {
            assert!(name.starts_with("client"), "{name} is of neither role");
            ClientConfig::load(Some(&path)).unwrap_or_else(|err| panic!("{err}"));
            clients += 1;
        }
    }
    assert_eq!((servers, clients), (10, 7), "new examples are counted here");
}

/// An example with the `#` taken away from every line that shows a default (`#key = …`).
fn with_defaults_written_out(name: &str) -> String {
    let text = std::fs::read_to_string(examples().join(name)).unwrap();
    let setting = |line: &&str| {
        let key = line
            .strip_prefix('#')
            .and_then(|rest| rest.split_once(" = "));
        key.is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let shown = text.lines().filter(setting).count();
    assert!(shown > 5, "{name} shows {shown} defaults");
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if setting(&line) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_defaults_that_the_examples_show_are_the_defaults() {
    let server = load_server(&with_defaults_written_out("server.toml")).unwrap();
    let bare = load_server("domain = \"tunnel.example.com\"").unwrap();
    assert_eq!(server, bare);
    let client = load_client(&with_defaults_written_out("client.toml")).unwrap();
    assert_eq!(client, load_client("").unwrap());
}

#[test]
fn the_examples_show_every_key() {
    for (name, keys) in [
        ("server.toml", ServerConfig::keys()),
        ("client.toml", ClientConfig::keys()),
    ] {
        let text = std::fs::read_to_string(examples().join(name)).unwrap();
        assert!(keys.len() > 10, "{keys:?}");
        for key in keys {
            let (section, word) = key.split_once('.').unwrap_or(("", &key));
            let below = match text.split_once(&format!("[{section}]")) {
                Some((_, below)) => below,
                None => &text,
            };
            let shown = |line: &str| {
                line.trim_start_matches(['#', ' '])
                    .starts_with(&format!("{word} = "))
            };
            assert!(below.lines().any(shown), "{name} does not show {key}");
        }
    }
}

#[test]
fn keys_are_listed_once_each() {
    let keys = ServerConfig::keys();
    for key in [
        "domain",
        "listen.https",
        "tls.cert",
        "log.level",
        "link.keep_alive",
    ] {
        assert_eq!(
            keys.iter().filter(|k| *k == key).count(),
            1,
            "{key}: {keys:?}"
        );
    }
    assert!(!keys.contains(&"listen".to_owned()));
    let keys = ClientConfig::keys();
    for key in ["origins.allow", "tunnel.name", "tunnel.labels"] {
        assert!(keys.contains(&key.to_owned()), "{key}: {keys:?}");
    }
}

/// A file in which every key has the default that the manual tells of.
fn with_defaults_of(manual: &[Key], table: &str) -> String {
    let mut text = String::new();
    for key in manual {
        let (section, word) = key.name.split_once('.').unwrap_or(("", key.name));
        if let Some(default) = key
            .default
            .filter(|_| (section == "tunnel") == (table == "tunnel"))
        {
            let name = if section.is_empty() || table == "tunnel" {
                word
            } else {
                key.name
            };
            text.push_str(&format!("{name} = {default}\n"));
        }
    }
    assert!(text.lines().count() > 2, "{text}");
    text
}

#[test]
fn the_defaults_that_the_manual_tells_of_are_the_defaults() {
    let domain = "domain = \"tunnel.example.com\"\n";
    let server = format!("{domain}{}", with_defaults_of(ServerConfig::MANUAL, ""));
    assert_eq!(load_server(&server).unwrap(), load_server(domain).unwrap());
    let entry = "[[tunnel]]\nname = \"blog\"\ntarget = \"3000\"\n";
    let client = format!(
        "{}{entry}{}",
        with_defaults_of(ClientConfig::MANUAL, ""),
        with_defaults_of(ClientConfig::MANUAL, "tunnel")
    );
    assert_eq!(load_client(&client).unwrap(), load_client(entry).unwrap());
}
