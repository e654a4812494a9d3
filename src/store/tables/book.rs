//! The client's enrolment and its tunnels.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};

use crate::engine::book::{BookRow, BookState, Enrolment, HostMode, ProxyVersion};
use crate::names::{Domain, Hostname, Pin, TunnelId};
use crate::store::columns::{
    bad, list, list_text, millis, pairs_text, parsed, parsed_opt, span_opt, text, time, time_opt,
};
use crate::store::seal::Seal;
use crate::times::WallTime;

pub(in crate::store) fn put_enrolment(conn: &Connection, row: &Enrolment) -> Result<()> {
    let pins: Vec<String> = row.pins.iter().map(text).collect();
    conn.prepare_cached(
        "INSERT INTO enrolment (one, addresses, pins, device_id, user_name, domain, joined_at)
         VALUES (1, $1, $2, $3, $4, $5, $6)
         ON CONFLICT (one) DO UPDATE SET addresses = excluded.addresses, pins = excluded.pins,
             device_id = excluded.device_id, user_name = excluded.user_name,
             domain = excluded.domain, joined_at = excluded.joined_at",
    )?
    .execute(params![
        list_text(&row.addresses),
        list_text(&pins),
        text(row.device),
        row.user,
        row.domain.as_str(),
        row.joined_at.as_millis(),
    ])?;
    Ok(())
}

pub(in crate::store) fn enrolment(conn: &Connection) -> Result<Option<Enrolment>> {
    conn.query_row("SELECT * FROM enrolment", [], |row| {
        let domain: String = row.get("domain")?;
        Ok(Enrolment {
            addresses: list(row, "addresses")?,
            pins: pins(row)?,
            device: parsed(row, "device_id")?,
            user: row.get("user_name")?,
            domain: Hostname::parse(&domain).map_err(|_| bad(row, "domain", &domain))?,
            joined_at: time(row, "joined_at")?,
        })
    })
    .optional()
}

fn pins(row: &Row<'_>) -> Result<Vec<Pin>> {
    list::<String>(row, "pins")?
        .iter()
        .map(|text| text.parse().map_err(|_| bad(row, "pins", text)))
        .collect()
}

/// Leaving gives up the tunnels too.
pub(in crate::store) fn forget_all(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM tunnels", [])?;
    conn.execute("DELETE FROM enrolment", [])?;
    Ok(())
}

pub(in crate::store) fn put_tunnel(conn: &Connection, row: &BookRow, seal: &Seal) -> Result<()> {
    let (host_mode, host_value) = host_columns(&row.host);
    conn.prepare_cached(
        "INSERT INTO tunnels (id, name, slug, url, target, host_mode, host_value, state, expires_at,
             idle_ms, idle_never, hold_ms, declared, labels, public_port, created_at, ended_at,
             yes_expose, proxy_protocol, policy, domains)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
             $18, $19, $20, $21)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, slug = excluded.slug,
             url = excluded.url, target = excluded.target, host_mode = excluded.host_mode,
             host_value = excluded.host_value, state = excluded.state,
             expires_at = excluded.expires_at, idle_ms = excluded.idle_ms,
             idle_never = excluded.idle_never, hold_ms = excluded.hold_ms,
             declared = excluded.declared, labels = excluded.labels,
             public_port = excluded.public_port, created_at = excluded.created_at,
             ended_at = excluded.ended_at, yes_expose = excluded.yes_expose,
             proxy_protocol = excluded.proxy_protocol, policy = excluded.policy,
             domains = excluded.domains",
    )?
    .execute(params![
        text(row.id),
        row.name.as_ref().map(|name| name.as_str()),
        row.slug.as_ref().map(|slug| slug.as_str()),
        row.url,
        text(&row.target),
        host_mode,
        host_value,
        row.state.as_str(),
        row.expires_at.map(WallTime::as_millis),
        row.idle.flatten().map(millis),
        i64::from(row.idle == Some(None)),
        row.hold.map(millis),
        i64::from(row.declared),
        pairs_text(&row.labels),
        row.public_port,
        row.created_at.as_millis(),
        row.ended_at.map(WallTime::as_millis),
        i64::from(row.yes_expose),
        row.proxy_protocol.map(ProxyVersion::as_str),
        seal.text(row.id, &row.policy)?,
        list_text(&row.domains.iter().map(text).collect::<Vec<_>>()),
    ])?;
    Ok(())
}

pub(in crate::store) fn forget_tunnel(conn: &Connection, id: TunnelId) -> Result<()> {
    conn.execute("DELETE FROM tunnels WHERE id = $1", [text(id)])?;
    Ok(())
}

/// All that live or are still to be told about, and those that were over after `ended_since`.
pub(in crate::store) fn tunnels(
    conn: &Connection,
    ended_since: WallTime,
    seal: &Seal,
) -> Result<Vec<BookRow>> {
    conn.prepare(
        "SELECT * FROM tunnels WHERE state IN ('opening', 'open', 'closing')
             OR COALESCE(ended_at, created_at) >= $1 ORDER BY id",
    )?
    .query_map([ended_since.as_millis()], |row| read(row, seal))?
    .collect()
}

fn read(row: &Row<'_>, seal: &Seal) -> Result<BookRow> {
    let id = parsed(row, "id")?;
    Ok(BookRow {
        id,
        name: parsed_opt(row, "name")?,
        slug: parsed_opt(row, "slug")?,
        url: row.get("url")?,
        target: parsed(row, "target")?,
        host: host(row)?,
        state: state(row)?,
        expires_at: time_opt(row, "expires_at")?,
        idle: idle(row)?,
        hold: span_opt(row, "hold_ms")?,
        declared: row.get("declared")?,
        labels: list(row, "labels")?,
        public_port: row.get("public_port")?,
        proxy_protocol: proxy_protocol(row)?,
        policy: Arc::new(seal.policy(id, row)?),
        domains: domains(row)?,
        created_at: time(row, "created_at")?,
        ended_at: time_opt(row, "ended_at")?,
        yes_expose: row.get("yes_expose")?,
    })
}

fn domains(row: &Row<'_>) -> Result<Vec<Domain>> {
    let texts: Vec<String> = list(row, "domains")?;
    let read = |text: String| text.parse().map_err(|_| bad(row, "domains", &text));
    texts.into_iter().map(read).collect()
}

fn proxy_protocol(row: &Row<'_>) -> Result<Option<ProxyVersion>> {
    let text: Option<String> = row.get("proxy_protocol")?;
    text.map(|text| text.parse().map_err(|()| bad(row, "proxy_protocol", &text)))
        .transpose()
}

fn idle(row: &Row<'_>) -> Result<Option<Option<Duration>>> {
    if row.get("idle_never")? {
        return Ok(Some(None));
    }
    Ok(span_opt(row, "idle_ms")?.map(Some))
}

fn host_columns(host: &HostMode) -> (&'static str, Option<&str>) {
    match host {
        HostMode::Auto => ("auto", None),
        HostMode::Keep => ("keep", None),
        HostMode::Rewrite => ("rewrite", None),
        HostMode::Fixed(value) => ("fixed", Some(value)),
    }
}

fn host(row: &Row<'_>) -> Result<HostMode> {
    let mode: String = row.get("host_mode")?;
    match mode.as_str() {
        "auto" => Ok(HostMode::Auto),
        "keep" => Ok(HostMode::Keep),
        "rewrite" => Ok(HostMode::Rewrite),
        "fixed" => row.get("host_value").map(HostMode::Fixed),
        other => Err(bad(row, "host_mode", other)),
    }
}

fn state(row: &Row<'_>) -> Result<BookState> {
    let text: String = row.get("state")?;
    [
        BookState::Opening,
        BookState::Open,
        BookState::Closing,
        BookState::Closed,
        BookState::Expired,
    ]
    .into_iter()
    .find(|state| state.as_str() == text)
    .ok_or_else(|| bad(row, "state", &text))
}
