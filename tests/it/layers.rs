//! The layer rule of `src/lib.rs`, held against every path that the source names. Not a parser of
//! Rust: it knows strings, comments, modules and paths, and macros only by the text they stand in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

mod paths;

use paths::{Found, moved_in, paths_in};

const VALUES: &[&str] = &["codes", "names", "secret", "times"];
const PURE: &[&str] = &["dns", "engine", "http", "wire"];
const ADAPTERS: &[&str] = &["acme", "admin", "edge", "link", "origin", "store"];
const ROLES: &[&str] = &["client", "ctl", "dev", "server"];
const SERVICES: &[&str] = &["tasks", "telemetry"];
/// What every role does around its work; serves roles alone.
const AROUND_ROLES: &[&str] = &["supervise"];
/// Programs whose command line is in the library, so that man pages and tests read it, too.
const PROGRAMS: &[&str] = &["daemon"];

/// Breaches that are meant: file, module it reaches for, why. One that no longer happens fails too.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "daemon/manual.rs",
    "http",
    "the manual tells the limits that the edge keeps to",
)];

/// What a top-level module may import, itself aside; None for one that no rule speaks of.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    let tiers: &[&[&'static str]] = match module {
        _ if VALUES.contains(&module) => &[VALUES],
        _ if PURE.contains(&module) || SERVICES.contains(&module) => &[VALUES],
        _ if ADAPTERS.contains(&module) => &[VALUES, PURE, SERVICES],
        // Its types say what the engine is to do, so it may use the engine's words for that.
        "config" => &[VALUES, &["engine"]],
        _ if AROUND_ROLES.contains(&module) => &[VALUES, SERVICES],
        _ if ROLES.contains(&module) => &[
            VALUES,
            PURE,
            SERVICES,
            ADAPTERS,
            &["config"],
            AROUND_ROLES,
            // A role that leans on another would bring it along wherever it goes; `dev` is both on purpose.
            if module == "dev" {
                &["client", "server"]
            } else {
                &[]
            },
        ],
        _ if PROGRAMS.contains(&module) => &[VALUES, SERVICES, &["config"], ROLES],
        "bin" => &[VALUES, SERVICES, &["config"], ROLES, PROGRAMS],
        _ => return None,
    };
    Some(tiers.concat())
}

fn every_module() -> BTreeSet<&'static str> {
    let tiers = [
        VALUES,
        PURE,
        ADAPTERS,
        ROLES,
        SERVICES,
        AROUND_ROLES,
        PROGRAMS,
        &["config"],
    ];
    tiers.concat().into_iter().collect()
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
fn breaches(
    file: &Path,
    here: &[String],
    text: &str,
    exceptions: &[(&str, &str, &str)],
) -> Vec<String> {
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
    paths_in(text, root, here)
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

/// A file of the library or of a program.
struct Source {
    /// From `src/`.
    file: PathBuf,
    text: String,
    /// Where it stands in the module tree.
    here: Vec<String>,
}

impl Source {
    fn new(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let file = file.into();
        let here = module_of(&file);
        let text = text.into();
        Self { file, text, here }
    }

    fn breaches(&self, exceptions: &[(&str, &str, &str)]) -> Vec<String> {
        breaches(&self.file, &self.here, &self.text, exceptions)
    }

    fn paths(&self) -> Vec<Found> {
        paths_in(&self.text, "crate", &self.here)
    }
}

/// Every Rust file under `src/`.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    let mut folders = vec![source_dir()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push(Source::new(path.strip_prefix(source_dir()).unwrap(), text));
            }
        }
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    follow_path_attributes(&mut files);
    files
}

/// A file that a `#[path]` names stands where the attribute says, not where its own name does.
fn follow_path_attributes(files: &mut [Source]) {
    let moved: BTreeMap<PathBuf, Vec<String>> = files
        .iter()
        .flat_map(|source| {
            let folder = source.file.parent().unwrap_or(Path::new(""));
            moved_in(&source.text, &source.here)
                .into_iter()
                .map(|(path, module)| (folder.join(path), module))
        })
        .collect();
    for source in files.iter_mut() {
        if let Some(module) = moved.get(&source.file) {
            source.here.clone_from(module);
        }
    }
}

/// The modules that `src/lib.rs` declares.
fn declared(lib: &str) -> BTreeSet<&str> {
    lib.lines()
        .filter_map(|line| {
            let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .collect()
}

#[test]
fn imports_point_one_way() {
    let files = sources();
    assert!(files.len() > 20, "saw only {} files", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|source| source.breaches(EXCEPTIONS))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    let paths: usize = files.iter().map(|source| source.paths().len()).sum();
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
        let source = files
            .iter()
            .find(|source| source.file == Path::new(file))
            .unwrap_or_else(|| panic!("{file} is gone: take out its exception"));
        let expected = format!("may not import {module}");
        assert!(
            source
                .breaches(&[])
                .iter()
                .any(|breach| breach.ends_with(&expected)),
            "{file} imports {module} no more ({why})"
        );
    }
}

/// Within a tier the rule leaves the direction open; it still has only one.
#[test]
fn no_two_modules_import_each_other() {
    let mut edges = BTreeSet::new();
    for source in sources() {
        let Some(own) = source.here.first() else {
            continue;
        };
        for found in source.paths() {
            let top = found.path.and_then(|path| path.into_iter().next());
            edges.extend(top.map(|top| (own.clone(), top)));
        }
    }
    let mutual: Vec<_> = edges
        .iter()
        .filter(|(from, to)| from < to && edges.contains(&(to.clone(), from.clone())))
        .collect();
    assert!(mutual.is_empty(), "each imports the other: {mutual:?}");
}

#[test]
fn every_module_has_a_rule_and_stands_in_the_code_map() {
    let lib = fs::read_to_string(source_dir().join("lib.rs")).unwrap();
    let declared = declared(&lib);
    let lawless: Vec<_> = declared.difference(&every_module()).copied().collect();
    assert!(lawless.is_empty(), "no rule speaks of {lawless:?}");
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
        mapped, declared,
        "the code map of lib.rs on the left, its modules on the right"
    );
}

#[test]
fn a_breach_is_seen_in_every_spelling() {
    let check = |file: &str, text: &str, expected: &[&str]| {
        let seen = Source::new(file, text).breaches(&[]);
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
        "origin/pool.rs",
        "use crate::supervise::until_stopped;",
        &["src/origin/pool.rs:1: origin may not import supervise"],
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
        let seen = Source::new(file, text).breaches(&[]);
        assert_eq!(seen, [""; 0], "{file}: {text}");
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

#[test]
fn a_path_attribute_moves_a_file_in_the_tree() {
    let head = "#[cfg(test)]\n#[path = \"head_tests.rs\"]\nmod tests;";
    let tests = "use super::super::super::store::Db;";
    let mut files = [
        Source::new("http/head.rs", head),
        Source::new("http/head_tests.rs", tests),
    ];
    follow_path_attributes(&mut files);
    let [_, tests] = &files;
    assert_eq!(tests.here, ["http", "head", "tests"]);
    let seen = tests.breaches(&[]);
    assert_eq!(
        seen,
        ["src/http/head_tests.rs:1: http may not import store"]
    );
}
