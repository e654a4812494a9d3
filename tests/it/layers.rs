//! The layer rule of `src/lib.rs`, held against every path that the source names. Not a parser of
//! Rust: it knows strings, comments, modules and paths, and macros only by the text they stand in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod paths;

use paths::{Found, paths_in};

const VALUES: &[&str] = &["codes", "names", "secret", "times"];
const PURE: &[&str] = &["engine", "http", "wire"];
const ADAPTERS: &[&str] = &["admin", "edge", "link", "origin", "store"];
const ROLES: &[&str] = &["client", "ctl", "dev", "server"];
const SERVICES: &[&str] = &["tasks", "telemetry"];

/// Breaches that are meant: file, module it reaches for, why. One that no longer happens fails too.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// What a top-level module may import, itself aside; None for one that no rule speaks of.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    let tiers: &[&[&'static str]] = match module {
        _ if VALUES.contains(&module) => &[VALUES],
        _ if PURE.contains(&module) || SERVICES.contains(&module) => &[VALUES],
        _ if ADAPTERS.contains(&module) => &[VALUES, PURE, SERVICES],
        // Its types say what the engine is to do, so it may use the engine's words for that.
        "config" => &[VALUES, &["engine"]],
        // Both daemons in one process: the one role that is made of roles.
        "dev" => &[VALUES, PURE, SERVICES, ADAPTERS, &["config"], ROLES],
        _ if ROLES.contains(&module) => &[VALUES, PURE, SERVICES, ADAPTERS, &["config"]],
        "bin" => &[VALUES, SERVICES, &["config"], ROLES],
        _ => return None,
    };
    Some(tiers.concat())
}

fn every_module() -> BTreeSet<&'static str> {
    [VALUES, PURE, ADAPTERS, ROLES, SERVICES, &["config"]]
        .concat()
        .into_iter()
        .collect()
}

/// Where a file stands in the module tree: `edge/serve.rs` is `edge::serve`, `lib.rs` the root.
fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// What is wrong with one file, one sentence each.
fn breaches(file: &Path, text: &str, exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let here = module_of(file);
    let own = here.first().map_or("lib", String::as_str);
    let shown = file.display();
    let Some(may) = allowed(own).or_else(|| (own == "lib").then(Vec::new)) else {
        return vec![format!("src/{shown}: no rule speaks of module {own}")];
    };
    let known = every_module();
    let judge = |found: &Found| -> Option<String> {
        let at = format!("src/{shown}:{}", found.line);
        let top = match found.path.as_deref()? {
            [] => return Some(format!("{at}: takes in the whole crate")),
            [top, ..] => top.as_str(),
        };
        let meant = exceptions
            .iter()
            .any(|(f, module, _)| Path::new(f) == file && *module == top);
        if top == own || may.contains(&top) || meant {
            None
        } else if known.contains(top) {
            Some(format!("{at}: {own} may not import {top}"))
        } else {
            Some(format!("{at}: no rule speaks of module {top}"))
        }
    };
    let root = if own == "bin" { "wormkey" } else { "crate" };
    paths_in(text, root, &here)
        .iter()
        .filter_map(|found| match found.problem {
            Some(problem) => Some(format!("src/{shown}:{}: {problem}", found.line)),
            None => judge(found),
        })
        .collect()
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file under `src/`, with its path from there.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![source_dir()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(source_dir()).unwrap().to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The modules that `src/lib.rs` declares.
fn declared(lib: &str) -> BTreeSet<&str> {
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect()
}

#[test]
fn imports_point_one_way() {
    let files = sources();
    assert!(files.len() > 20, "saw only {} files", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|(file, text)| breaches(file, text, EXCEPTIONS))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    let paths: usize = files
        .iter()
        .map(|(file, text)| paths_in(text, "crate", &module_of(file)).len())
        .sum();
    assert!(
        paths > 50,
        "found only {paths} paths in {} files",
        files.len()
    );
}

#[test]
fn an_exception_that_no_longer_happens_is_taken_out() {
    let files = sources();
    for (file, module, why) in EXCEPTIONS {
        let text = &files
            .iter()
            .find(|(path, _)| path == Path::new(file))
            .unwrap_or_else(|| panic!("{file} is gone: take out its exception"))
            .1;
        assert!(
            breaches(Path::new(file), text, &[])
                .iter()
                .any(|breach| breach.ends_with(&format!("may not import {module}"))),
            "{file} imports {module} no more ({why})"
        );
    }
}

#[test]
fn the_modules_the_rules_and_the_code_map_are_the_same() {
    let lib = fs::read_to_string(source_dir().join("lib.rs")).unwrap();
    let rules = every_module();
    assert_eq!(
        declared(&lib),
        rules,
        "lib.rs on the left, the rules on the right"
    );
    let map: Vec<&str> = lib
        .lines()
        .filter(|line| line.starts_with("//! | ["))
        .collect();
    let mapped: BTreeSet<&str> = map
        .iter()
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(
        mapped, rules,
        "the code map of lib.rs on the left, the rules on the right"
    );
}

#[test]
fn a_breach_is_seen_in_every_spelling() {
    let check = |file: &str, text: &str, expected: &[&str]| {
        let seen = breaches(Path::new(file), text, &[]);
        assert_eq!(seen, expected, "{file}: {text}");
    };
    let edge = "src/edge/mod.rs:1: edge may not import store";
    check("edge/mod.rs", "use crate::store::Db;", &[edge]);
    check("edge/mod.rs", "pub(crate) use crate::store as s;", &[edge]);
    check(
        "edge/mod.rs",
        "use crate::{names::Slug, store::{Db, Row}};",
        &[edge, edge],
    );
    check(
        "edge/mod.rs",
        "use {crate::names::Slug, crate::store::*};",
        &[edge],
    );
    check("edge/mod.rs", "use super::store::Db;", &[edge]);
    check(
        "edge/mod.rs",
        "use super::{super::store, engine::Visit};",
        &["src/edge/mod.rs:1: climbs above the crate"],
    );
    check(
        "edge/mod.rs",
        "fn f() { let x = crate::store::open(); }",
        &[edge],
    );
    check(
        "edge/mod.rs",
        "fn f(x: &dyn crate :: store :: Db) {}",
        &[edge],
    );
    check(
        "edge/mod.rs",
        "#[serde(with = \"crate::store::millis\")]",
        &[edge],
    );
    check(
        "edge/mod.rs",
        "macro_rules! m { () => { $crate::store::f() } }",
        &[edge],
    );
    check("edge/mod.rs", "use crate::r#store::Db;", &[edge]);
    check(
        "edge/mod.rs",
        "use crate::*;",
        &["src/edge/mod.rs:1: takes in the whole crate"],
    );
    check(
        "edge/mod.rs",
        "use crate as all;",
        &["src/edge/mod.rs:1: takes in the whole crate"],
    );
    check(
        "edge/mod.rs",
        "use crate::shop::Db;",
        &["src/edge/mod.rs:1: no rule speaks of module shop"],
    );
    check(
        "edge/mod.rs",
        "\n#[path = \"elsewhere.rs\"]\nmod a;",
        &["src/edge/mod.rs:2: a #[path] hides where the module stands"],
    );
    check(
        "shop/mod.rs",
        "",
        &["src/shop/mod.rs: no rule speaks of module shop"],
    );
    check(
        "edge/serve.rs",
        "\n\nuse super::super::store::Db;",
        &["src/edge/serve.rs:3: edge may not import store"],
    );
    check(
        "edge/serve.rs",
        "mod tests {\n use super::super::super::store::Db;\n}",
        &["src/edge/serve.rs:2: edge may not import store"],
    );
    check(
        "edge/serve.rs",
        "mod a { fn f() { { } } } use super::super::store::Db;",
        &["src/edge/serve.rs:1: edge may not import store"],
    );
    check(
        "edge/serve.rs",
        "mod a { mod b { use super::super::super::engine::E; } }",
        &[],
    );
    check(
        "engine/mod.rs",
        "use crate::config::ServerConfig;",
        &["src/engine/mod.rs:1: engine may not import config"],
    );
    check(
        "engine/mod.rs",
        "use crate::tasks::Tasks;",
        &["src/engine/mod.rs:1: engine may not import tasks"],
    );
    check(
        "names.rs",
        "use crate::engine::Visit;",
        &["src/names.rs:1: names may not import engine"],
    );
    check(
        "server/mod.rs",
        "use crate::client::run;",
        &["src/server/mod.rs:1: server may not import client"],
    );
    check(
        "bin/wormkeyd.rs",
        "use wormkey::{server, store::Db};",
        &["src/bin/wormkeyd.rs:1: bin may not import store"],
    );
}

#[test]
fn what_only_looks_like_a_breach_passes() {
    let check = |file: &str, text: &str| {
        assert_eq!(
            breaches(Path::new(file), text, &[]),
            [""; 0],
            "{file}: {text}"
        );
    };
    check("edge/mod.rs", "use crate::engine::{self, Visit};");
    check(
        "edge/mod.rs",
        "use super::{engine::Visit, names, wire::RecvChunks as R};",
    );
    check("edge/mod.rs", "use crate::edge::serve::{self, *};");
    check(
        "edge/mod.rs",
        "// use crate::store::Db;\n/* crate::store /* crate::store */ */",
    );
    check(
        "edge/mod.rs",
        "//! [`crate::store`]\n/// like crate::store\nfn f() {}",
    );
    check(
        "edge/mod.rs",
        "const A: &str = r#\"see \"crate::store\" \"#;",
    );
    check("edge/mod.rs", "const A: &str = \"see crate::store\\\" \";");
    check(
        "edge/mod.rs",
        "const A: [char; 2] = ['\"', '\\''];\nfn f<'a>(x: &'a str) {}",
    );
    check("edge/mod.rs", "pub(crate) fn f() {} pub(super) fn g() {}");
    check("edge/mod.rs", "pub(in crate::edge) fn f() {}");
    check("edge/serve.rs", "use super::store::Db;");
    check("wire/head.rs", "use http::HeaderMap; use self::store::x;");
    check("dev/mod.rs", "use crate::{client, server, config};");
    check("ctl/mod.rs", "use crate::admin::types::TunnelJson;");
    check(
        "bin/wormkeyd.rs",
        "use wormkey::{config, server}; use crate::args;",
    );
    check("lib.rs", "pub mod store;");
}

#[test]
fn a_file_is_the_module_it_stands_for() {
    let check = |file: &str, expected: &[&str]| {
        assert_eq!(module_of(Path::new(file)), expected, "{file}");
    };
    check("lib.rs", &[]);
    check("names.rs", &["names"]);
    check("names/slug.rs", &["names", "slug"]);
    check("edge/mod.rs", &["edge"]);
    check("edge/serve/tests.rs", &["edge", "serve", "tests"]);
    check("bin/wormkeyd.rs", &["bin", "wormkeyd"]);
}
