//! Own domains for people: how they stand, which record to place; and their part of `set`.

use super::Cli;
use super::error::CtlError;
use super::text::{Times, clean, clean_short};
use crate::admin::ApiClient;
use crate::admin::domains::{DomainJson, DomainsAsk};
use crate::admin::types::TunnelJson;

/// Lines of `open` and `show`: each domain, and the record to place where it is not seen.
pub(super) fn lines(domains: &[DomainJson], times: &Times) -> Vec<String> {
    let lines = domains.iter().flat_map(|domain| {
        let stands = format!("{}: {}", clean(&domain.domain), stands(domain, times));
        let is_well = domain.state == "proven" && domain.missing_since.is_none();
        let record = domain.record.as_ref().filter(|_| !is_well);
        let record = record.map(|record| {
            let (name, kind) = (clean(&record.name), clean(&record.kind));
            format!("  {name} {kind} \"{}\"", clean(&record.value))
        });
        std::iter::once(stands).chain(record)
    });
    lines.collect()
}

fn stands(domain: &DomainJson, times: &Times) -> String {
    let since = domain.since.map(|at| times.near(at)).unwrap_or_default();
    let mut text = match (domain.state.as_str(), domain.missing_since) {
        ("proven", None) => format!("leads here since {since}"),
        ("proven", Some(at)) => format!(
            "leads here, but its record is gone since {}; place it again",
            times.near(at)
        ),
        ("pending", _) => "leads here once this record is there".to_owned(),
        ("lost", _) => format!("leads nowhere since {since}; place its record again"),
        ("unknown", _) => "the server has not told of it yet".to_owned(),
        (other, _) => clean_short(other),
    };
    if let Some(why) = &domain.why {
        text.push_str(&format!(" ({})", clean_short(why)));
    }
    if let Some(certificate) = &domain.certificate {
        text.push_str(&format!("; certificate: {}", clean_short(certificate)));
    }
    text
}

/// For the last column of `list`.
pub(super) fn beside(url: &str, domains: &[DomainJson]) -> String {
    let shown = domains.iter().map(|domain| match domain.state.as_str() {
        "proven" => domain.domain.clone(),
        state => format!("{} ({state})", domain.domain),
    });
    let all: Vec<String> = std::iter::once(url.to_owned()).chain(shown).collect();
    all.join(", ")
}

/// Adds domains and takes others away; the tunnel as it is then.
pub(super) async fn set(
    cli: &mut Cli,
    tunnel: &str,
    add: Vec<String>,
    remove: Vec<String>,
) -> Result<TunnelJson, CtlError> {
    let path = format!("{}/domains", ApiClient::path("/v1/tunnels/", tunnel));
    let ask = DomainsAsk { add, remove };
    let set = cli.api.patch(&path, &ask).await;
    set.map_err(|err| cli.failed(err))
}
