//! Which files are read, in which order, and what is said when they cannot be.

use super::*;

#[test]
fn later_files_win_key_by_key() {
    let folder = Folder::new(&[
        (
            "server.toml",
            "domain = \"a.example\"\n[tunnels]\nhold = \"1s\"\nidle = \"1h\"\n[listen]\nadvertise = [\"a.example:1\"]",
        ),
        ("server.d/20.toml", "[tunnels]\nhold = \"3s\""),
        (
            "server.d/10.toml",
            "domain = \"b.example\"\n[tunnels]\nhold = \"2s\"\n[listen]\nadvertise = [\"b.example:2\"]",
        ),
        // Not ours: an editor's, a backup, a note.
        ("server.d/.30.toml", "domain = 1"),
        ("server.d/40.toml.bak", "domain = 1"),
        ("server.d/README", "hello"),
        ("client.d/10.toml", "domain = 1"),
    ]);
    let config = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap();
    assert_eq!(config.domain.as_str(), "b.example");
    assert_eq!(config.tunnels.hold.as_secs(), 3);
    assert_eq!(config.tunnels.idle.map(|idle| idle.as_secs()), Some(3600));
    assert_eq!(config.advertise, ["b.example:2"], "lists are replaced");
}

#[test]
fn declared_tunnels_of_all_files_are_joined() {
    let one = |name| format!("[[tunnel]]\nname = \"{name}\"\ntarget = 1\n");
    let folder = Folder::new(&[
        ("client.toml", &one("a")),
        ("client.d/1.toml", &(one("b") + &one("c"))),
        ("client.d/2.toml", &one("d")),
    ]);
    let config = ClientConfig::load(Some(&folder.path("client.toml"))).unwrap();
    let names: Vec<_> = config.tunnels.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[test]
fn problems_are_told_file_by_file() {
    let folder = Folder::new(&[
        ("server.toml", "domain = \"a.example\"\n[listen]\nhttps = 1"),
        ("server.d/x.toml", "[log]\nformat = \"xml\"\nlevels = 1"),
    ]);
    let err = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap_err();
    assert_eq!(
        folder.short(err),
        "server.d/x.toml: 2 problems
  line 2: log.format: \"xml\" is not known; write \"auto\" or \"text\" or \"json\" or \"journald\"
  line 3: log.levels: is no key; did you mean level?
server.toml: 1 problem
  line 3: listen.https: 1 is only a port; write \"[::]:1\""
    );
}

#[test]
fn a_missing_server_file_says_how_to_make_one() {
    let folder = Folder::new(&[]);
    let err = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap_err();
    let text = folder.short(err);
    assert!(text.starts_with("server.toml: 1 problem\n  there is no such file; make one with"));
    assert!(text.contains("domain = \"tunnel.example.com\""), "{text}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_nothing_else() {
    for (text, line) in [
        ("domain = \"a.example\"\nhello\n[nonsense]\n", 2),
        ("domain = \"a.example\n", 1),
        ("[listen]\n\n[listen]\n", 3),
        ("domain = a.example\n", 1),
    ] {
        let told = lines(load_server(text));
        assert!(!told.is_empty());
        for problem in &told {
            assert!(problem.ends_with("; this is not TOML yet"), "{problem}");
        }
        let wanted = format!("line {line}: ");
        assert!(told[0].starts_with(&wanted), "{text:?}: {told:?}");
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let folder = Folder::new(&[("server.toml/inside", "")]);
    let err = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap_err();
    assert!(err.to_string().contains("cannot be read ("), "{err}");
    let folder = Folder::new(&[("server.toml", "domain = \"a.example\""), ("server.d", "")]);
    let err = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap_err();
    assert!(
        folder
            .short(err)
            .starts_with("server.d: 1 problem\n  cannot be read (")
    );
    let folder = Folder::new(&[]);
    std::fs::write(folder.path("server.toml"), b"domain = \"\xff\"").unwrap();
    let err = ServerConfig::load(Some(&folder.path("server.toml"))).unwrap_err();
    assert!(err.to_string().contains("cannot be read ("), "{err}");
}
