//! Each tunnel's two ends: its origin, and its public name.

use crate::admin::checks::{CheckJson, ProbeJson};
use crate::engine::book::{BookRow, BookState};
use crate::names::Kind;
use crate::origin::Finding;

use super::super::{Client, name_of};
use super::{Look, Patient, few_at_once, in_time};

/// The most origins that one doctor looks at.
const ORIGINS: usize = 32;
/// The most tunnels that one doctor asks for through their names.
const PROBES: usize = 8;

impl Client {
    pub(super) async fn tunnels(&self, patient: &Patient) -> Vec<CheckJson> {
        let live: Vec<&BookRow> = patient.rows.iter().filter(|r| r.state.is_live()).collect();
        let is_asked =
            |row: &&&BookRow| row.state == BookState::Open && row.target.kind() == Kind::Http;
        let asked: Vec<&BookRow> = live.iter().filter(is_asked).copied().collect();
        let origins = live.iter().take(ORIGINS);
        let origins = origins.map(|row| -> Look<'_> { Box::pin(self.origin(row)) });
        let probes = asked.iter().take(PROBES);
        let probes = probes.map(|row| -> Look<'_> { Box::pin(self.public_name(row)) });
        let (mut origins, mut probes) = tokio::join!(
            in_time("origin", few_at_once(origins.collect())),
            in_time("probe", few_at_once(probes.collect())),
        );
        origins.extend(left_out("origin", live.len(), ORIGINS));
        if patient.link.is_some() {
            probes.extend(left_out("probe", asked.len(), PROBES));
        }
        [origins, probes].concat()
    }

    async fn origin(&self, row: &BookRow) -> Option<CheckJson> {
        let live = self.book.live(row.id)?;
        if row.target.kind() == Kind::Udp {
            return None;
        }
        let finding = self.origins.look(&live.origin).await;
        Some(origin(&finding, &row.target.to_string()).of(name_of(row)))
    }

    async fn public_name(&self, row: &BookRow) -> Option<CheckJson> {
        let found = self.probe(row.id).await?;
        Some(probe(&found).of(name_of(row)))
    }
}

/// Nobody should take silence for health.
fn left_out(name: &str, count: usize, most: usize) -> Option<CheckJson> {
    (count > most).then(|| {
        let what = format!("looked at {most} of {count} tunnels");
        CheckJson::ok(name, what)
    })
}

fn origin(finding: &Finding, target: &str) -> CheckJson {
    let start = format!("start the service at {target}, or close the tunnel");
    match finding {
        Finding::Answers { status } if *status >= 500 => CheckJson::warn(
            "origin",
            format!("{target} answers with an error ({status})"),
            "look at the log of the service",
        ),
        Finding::Answers { status } => {
            CheckJson::ok("origin", format!("{target} answers ({status})"))
        }
        Finding::Accepts { .. } => CheckJson::ok("origin", finding.to_string()),
        Finding::NothingListens { .. } => {
            CheckJson::fail("origin", format!("nothing listens at {target}"), start)
        }
        Finding::NotHttp { .. } => CheckJson::warn(
            "origin",
            finding.to_string(),
            "fine for gRPC; else check the target, perhaps https:// is missing",
        ),
        Finding::NotAllowed(_) => CheckJson::fail(
            "origin",
            finding.to_string(),
            "list it under [origins] in client.toml, then `wormkeyctl reload`",
        ),
        Finding::Unreachable(_) => CheckJson::fail("origin", finding.to_string(), start),
        Finding::Silent { .. } => CheckJson::warn(
            "origin",
            finding.to_string(),
            "look at the service: it takes connections and does not answer",
        ),
    }
}

fn probe(found: &ProbeJson) -> CheckJson {
    let what = found.detail.clone();
    let fix = match found.cause.as_deref() {
        Some("name") => "add a DNS record for the tunnels: a wildcard that leads to the server",
        Some("connection") => {
            "open the server's HTTPS port for TCP: its firewall, and the router in front of it"
        }
        Some("tls") => {
            "check that the port is wormkeyd's own and that nothing in front of it ends TLS"
        }
        Some("proof") => {
            "let the wildcard of the tunnel domain lead to this server, and to nothing in front of it that answers itself"
        }
        _ => {
            "`wormkeyctl show` tells what became of the tunnel; if it is open, run the doctor again"
        }
    };
    match found.state.as_str() {
        "works" => CheckJson::ok("probe", what),
        "broken" => CheckJson::fail("probe", what, fix),
        _ => CheckJson::warn(
            "probe",
            what,
            "try the address from another network, such as a phone's",
        ),
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::admin::checks::CheckState;
    use crate::times::WallTime;

    #[test]
    fn what_cannot_be_seen_from_here_is_no_failure() {
        for (state, cause, wanted) in [
            ("works", None, CheckState::Ok),
            ("works", Some("certificate"), CheckState::Ok),
            ("unchecked", Some("connection"), CheckState::Warn),
            ("broken", Some("proof"), CheckState::Fail),
        ] {
            let found = ProbeJson {
                state: state.to_owned(),
                at: WallTime::from_millis(0),
                cause: cause.map(str::to_owned),
                detail: "as found".to_owned(),
            };
            let check = probe(&found);
            assert_eq!(check.state, wanted, "{state} {cause:?}");
            assert_eq!(check.fix.is_some(), wanted != CheckState::Ok);
        }
    }

    #[test]
    fn an_origin_that_is_not_there_fails_and_one_that_errs_warns() {
        let state = |finding: Finding| origin(&finding, "http://localhost:3000").state;
        assert_eq!(state(Finding::Answers { status: 404 }), CheckState::Ok);
        assert_eq!(state(Finding::Answers { status: 503 }), CheckState::Warn);
        let what = String::new();
        assert_eq!(state(Finding::NothingListens { what }), CheckState::Fail);
    }
}
