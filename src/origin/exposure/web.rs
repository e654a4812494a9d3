//! What is asked of an origin that speaks HTTP, and how a danger shows in the answer. Pure: an answer in,
//! yes or no out. Judged by content, since a single-page app answers 200 to every path.
//!
//! To add a probe, add a row: where to ask, what it would be, and what only such a thing answers.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::danger::{self, Danger};

/// An answer as far as it was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    /// Up to 64 KiB; what is no UTF-8 in it is replaced.
    pub(super) text: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The start page. What it says counts wherever else it is said, too.
    Start,
    /// A path that nobody has; it shows how the origin answers to anything, and its error pages.
    Unknown,
    /// This path. What is said of an unknown path as well is no evidence.
    Path(&'static str),
}

/// One row of the table.
pub(super) struct Probe {
    pub(super) ask: Ask,
    pub(super) danger: &'static Danger,
    pub(super) shows: fn(&Answer) -> bool,
}

const fn probe(ask: Ask, danger: &'static Danger, shows: fn(&Answer) -> bool) -> Probe {
    Probe { ask, danger, shows }
}

use Ask::{Path, Start, Unknown};

/// All that is looked for, in the order of asking: what is cheap for any server first.
#[rustfmt::skip]
pub(super) static PROBES: &[Probe] = &[
    probe(Start, &danger::LISTING, is_listing),
    probe(Start, &danger::ELASTICSEARCH_OPEN, |a| a.json_has(&["\"cluster_name\":", "\"lucene_version\":"])),
    probe(Start, &danger::MONGODB, |a| a.text.contains("trying to access MongoDB over HTTP")),
    probe(Start, &danger::PHPINFO, is_phpinfo),
    probe(Start, &danger::EDITOR_OPEN, |a| a.has(&["id=\"vscode-workbench-web-configuration\""])),
    probe(Start, &danger::TERMINAL_OPEN, |a| a.is_ok() && a.title().is_some_and(|t| t.starts_with("ttyd - "))),
    probe(Unknown, &danger::DJANGO_DEBUG, |a| a.text.contains("<code>DEBUG = True</code>") && a.text.contains("Django")),
    probe(Unknown, &danger::RAILS_CONSOLE, |a| a.text.contains("/__web_console") && a.text.contains("data-session-id")),
    probe(Path("/.git/HEAD"), &danger::GIT, is_git_head),
    probe(Path("/.env"), &danger::ENV_FILE, |a| a.is_ok() && !a.is_html() && is_env(&a.text)),
    probe(Path("/version"), &danger::DOCKER_API, |a| a.json_has(&["\"ApiVersion\":", "\"MinAPIVersion\":"])),
    probe(Path("/version"), &danger::ETCD_OPEN, |a| a.json_has(&["\"etcdserver\":", "\"etcdcluster\":"])),
    probe(Path("/api/status"), &danger::JUPYTER_OPEN, |a| a.json_has(&["\"kernels\":", "\"connections\":", "\"last_activity\":", "\"started\":"])),
    probe(Path("/console"), &danger::WERKZEUG_CONSOLE, |a| a.has(&["EVALEX = true", "erkzeug"])),
    probe(Path("/json/version"), &danger::NODE_INSPECTOR, |a| a.json_has(&["\"Browser\":", "\"Protocol-Version\":"])),
    probe(Path("/debug/pprof/"), &danger::PPROF, |a| a.has(&["/debug/pprof/", "goroutine?debug="])),
    probe(Path("/actuator"), &danger::SPRING_ACTUATOR, |a| a.json_has(&["\"_links\":{", "/actuator"]) && (a.json_has(&["\"env\":{"]) || a.json_has(&["\"heapdump\":{"]))),
    probe(Path("/actuator/env"), &danger::SPRING_ACTUATOR, |a| a.json_has(&["\"propertySources\":["])),
    probe(Path("/phpinfo.php"), &danger::PHPINFO, is_phpinfo),
    probe(Path("/info.php"), &danger::PHPINFO, is_phpinfo),
    probe(Path("/_ignition/health-check"), &danger::IGNITION, |a| a.json_has(&["\"can_execute_commands\":true"])),
    probe(Path("/_profiler/empty/search/results?limit=10"), &danger::SYMFONY_PROFILER, |a| a.has(&["Symfony Profiler", "sf-"])),
    probe(Path("/_all_dbs"), &danger::COUCHDB_OPEN, |a| a.json_has(&["["]) && a.field("server").starts_with("CouchDB")),
    probe(Path("/?query=SELECT%201"), &danger::CLICKHOUSE_OPEN, |a| a.is_ok() && a.text.trim() == "1" && !a.field("x-clickhouse-query-id").is_empty()),
    probe(Path("/v1/agent/self"), &danger::CONSUL_OPEN, |a| a.json_has(&["\"Config\":{", "\"Datacenter\":", "\"NodeName\":"])),
    probe(Path("/v1/agent/self"), &danger::NOMAD_OPEN, |a| a.json_has(&["\"config\":{", "\"member\":{", "\"nomad\":"])),
    probe(Path("/api/v1/namespaces?limit=1"), &danger::KUBERNETES_OPEN, |a| a.json_has(&["\"kind\":\"NamespaceList\""])),
    probe(Path("/pods"), &danger::KUBELET_OPEN, |a| a.json_has(&["\"kind\":\"PodList\"", "\"items\":"])),
    probe(Path("/api/overview"), &danger::RABBITMQ_OPEN, |a| a.json_has(&["\"rabbitmq_version\":", "\"management_version\":"])),
    probe(Path("/script"), &danger::JENKINS_SCRIPT, |a| a.title().is_some_and(|t| t.contains("jenkins")) && a.has(&["Groovy", "name=\"script\""])),
];

/// Each path once, in the table's order.
pub(super) fn paths() -> Vec<&'static str> {
    let mut paths = Vec::new();
    for probe in PROBES {
        if let Path(path) = probe.ask
            && !paths.contains(&path)
        {
            paths.push(path);
        }
    }
    paths
}

/// What an answer gives away. `unknown` is how the origin answers to a path that nobody has.
pub(super) fn judge(ask: Ask, answer: &Answer, unknown: Option<&Answer>) -> Vec<&'static Danger> {
    let said_anyway =
        |probe: &Probe| matches!(ask, Path(_)) && unknown.is_some_and(|u| (probe.shows)(u));
    PROBES
        .iter()
        .filter(|probe| probe.ask == ask && (probe.shows)(answer) && !said_anyway(probe))
        .map(|probe| probe.danger)
        .collect()
}

impl Answer {
    fn is_ok(&self) -> bool {
        self.status == 200
    }

    fn field(&self, name: &str) -> &str {
        let value = self.fields.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn is_html(&self) -> bool {
        self.field(CONTENT_TYPE.as_str()).contains("html")
            || self.text.trim_start().starts_with('<')
    }

    fn has(&self, parts: &[&str]) -> bool {
        self.is_ok() && parts.iter().all(|part| self.text.contains(part))
    }

    /// Whether it begins as JSON does and has these parts, blanks aside. Not parsed: a long answer is cut.
    fn json_has(&self, parts: &[&str]) -> bool {
        if !self.is_ok() || !self.text.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let dense: String = self.text.chars().filter(|c| !c.is_whitespace()).collect();
        parts.iter().all(|part| dense.contains(part))
    }

    /// The page's title in lower case.
    fn title(&self) -> Option<String> {
        element(&self.text.to_ascii_lowercase(), "title")
    }
}

/// The text of the first element of that name; `page` is in lower case.
fn element(page: &str, name: &str) -> Option<String> {
    let from = page.find(&format!("<{name}"))?;
    let inside = &page[from..];
    let inside = &inside[inside.find('>')? + 1..];
    let end = inside.find(&format!("</{name}"))?;
    Some(inside[..end].trim().to_owned())
}

/// What web servers write over a folder: the words in the title, and in the heading or with links beneath.
/// A page that only speaks of it has them elsewhere.
fn is_listing(answer: &Answer) -> bool {
    if !answer.is_ok() || !answer.is_html() {
        return false;
    }
    let page = answer.text.to_ascii_lowercase();
    let begins = |text: Option<String>| {
        text.is_some_and(|text| {
            [
                "index of /",
                "directory listing for /",
                "listing directory /",
            ]
            .iter()
            .any(|words| text.starts_with(words))
        })
    };
    // `serve` names the folder and lists it under an id of its own.
    let of_serve = page.contains("<ul id=\"files\">");
    of_serve
        || begins(element(&page, "title"))
            && begins(element(&page, "h1"))
            && (page.contains("<pre") || page.contains("<ul") || page.contains("<table"))
}

fn is_phpinfo(answer: &Answer) -> bool {
    let titled = |t: String| t.contains("phpinfo()") || t.ends_with("phpinfo");
    answer.title().is_some_and(titled) && answer.has(&["PHP Version", "<table"])
}

/// `ref: refs/heads/main`, or a commit.
fn is_git_head(answer: &Answer) -> bool {
    let text = answer.text.trim();
    let is_commit =
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    answer.is_ok() && (is_commit || text.starts_with("ref: refs/") && text.lines().count() == 1)
}

/// Lines of `NAME=value`; comments and blank lines aside, most of them.
pub(super) fn is_env(text: &str) -> bool {
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let settings = lines.iter().filter(|line| is_setting(line)).count();
    settings > 0 && settings * 2 > lines.len()
}

fn is_setting(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').is_some_and(|(name, _)| {
        let name = name.trim_end();
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}
