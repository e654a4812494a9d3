//! The page's part about the admin API, for scripts that speak it themselves. Not the API: `admin` has that,
//! and a test holds the routes named here against it.

use super::man::{Paragraph, Section};

/// What both daemons answer.
const BOTH: &[(&str, &str)] = &[
    ("GET /v1/status", "how the daemon and its links stand"),
    ("POST /v1/reload", "reads the configuration again"),
    ("GET, POST /v1/drain", "how a drain goes; begins one"),
    (
        "GET, PUT /v1/log-level",
        "what the log says, and for how long",
    ),
    ("GET, POST /v1/doctor", "looks at what tunnels depend on"),
    (
        "GET /v1/events",
        "what happens, as it happens: server-sent events with ids; one that comes back sends the last one as \
         Last-Event-ID and misses nothing that is still remembered",
    ),
    (
        "GET /healthz, /readyz",
        "for monitoring: whether the daemon lives, and whether it serves, part by part; 503 when not",
    ),
    ("GET /metrics", "figures for Prometheus, as text"),
];

/// What only the client answers.
const CLIENT: &[(&str, &str)] = &[
    (
        "GET, POST /v1/tunnels",
        "this client's tunnels, whoever of the machine opened them; opens one",
    ),
    (
        "GET, PATCH, DELETE /v1/tunnels/NAME",
        "one of them, by name or id; changes who may visit; closes it",
    ),
    (
        "GET, POST /v1/tunnels/NAME/shares",
        "its share links; makes one",
    ),
    (
        "PATCH /v1/tunnels/NAME/domains",
        "changes which domains of one's own lead to it",
    ),
    ("DELETE /v1/shares/ID", "takes a share link back"),
    (
        "GET /v1/visits",
        "the last visits that are over, {visits, last}: of one tunnel with ?tunnel=NAME; those to come are events \
         after the id last",
    ),
    ("POST /v1/join", "enrols with a token"),
    ("POST /v1/leave", "gives up the enrolment"),
];

/// What only the server answers.
const SERVER: &[(&str, &str)] = &[
    ("GET /v1/tunnels", "everybody's tunnels"),
    (
        "GET, PATCH, DELETE /v1/tunnels/NAME",
        "one of them; changes who may visit; closes it",
    ),
    ("GET /v1/links", "each link, with its figures"),
    ("GET /v1/users", "who there is"),
    ("GET /v1/devices", "the devices"),
    ("DELETE /v1/devices/ID", "takes a device's enrolment back"),
    ("POST /v1/invites", "makes a join token"),
    (
        "POST /v1/revoke",
        "takes back a device, an invite or a share link",
    ),
    ("POST /v1/suspend", "cuts a user, a device or a tunnel off"),
    ("POST /v1/resume", "lets them in again"),
    ("GET /v1/backup", "the database, as it is now"),
    ("GET /v1/audit", "who changed what"),
];

/// ADMIN API.
pub(super) fn section() -> Section {
    let mut body = vec![
        Paragraph::text(
            "wormkeyctl uses nothing but HTTP on the daemons' Unix sockets, and a script may do the same: curl \
             --unix-socket /run/wormkey/client.sock http://localhost/v1/tunnels. Who calls is known by the \
             socket. Bodies are JSON of at most 1 MiB, answers are what --json prints; a failure has \
             wormkey-errors(7)'s status, and code, detail and fix. Fields are added and never taken away; a \
             field that is not known is refused in what is sent.",
        ),
        Paragraph::text(
            "Lists come in pages, oldest first: ?limit=N is at most 1000 and 100 when absent, and the next page has \
             ?cursor= and what the one before called next, until that is null. /v1/tunnels has those that live, and \
             all with ?all. /v1/audit, newest last, takes its next as ?after=. /v1/visits has one page, the last N. \
             /v1/users, /v1/devices and a tunnel's shares are whole when neither limit nor cursor is given.",
        ),
        Paragraph::text("Both daemons:"),
    ];
    let items = |of: &[(&str, &str)]| -> Vec<Paragraph> {
        of.iter()
            .map(|(route, what)| Paragraph::item(*route, format!("{what}.")))
            .collect()
    };
    body.extend(items(BOTH));
    body.push(Paragraph::text("The client:"));
    body.extend(items(CLIENT));
    body.push(Paragraph::text("The server:"));
    body.extend(items(SERVER));
    Section {
        title: "ADMIN API",
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The `/…` words between quotes, with every `{key}` alike.
    fn paths<'a>(text: &'a str, from: char) -> BTreeSet<String> {
        let words: Vec<&'a str> = text.split(from).collect();
        let paths = words
            .iter()
            .filter(|word| word.starts_with('/') && !word.contains('\n'));
        let alike = |word: &str| -> String {
            let parts = word.trim_end_matches(',').split('/');
            let parts = parts.map(|part| match part {
                "{key}" | "NAME" | "ID" => "*",
                part => part,
            });
            parts.collect::<Vec<_>>().join("/")
        };
        paths.map(|word| alike(word)).collect()
    }

    #[test]
    fn every_route_is_told_and_every_one_told_is_there() {
        let source = [
            include_str!("../admin/routes.rs"),
            include_str!("../admin/health.rs"),
        ];
        let there: BTreeSet<String> = source.iter().flat_map(|text| paths(text, '"')).collect();
        let told = [BOTH, CLIENT, SERVER].concat();
        let told: BTreeSet<String> = told
            .iter()
            .flat_map(|(route, _)| paths(route, ' '))
            .collect();
        assert_eq!(told, there);
    }
}
