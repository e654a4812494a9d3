//! `[[tunnel]]` entries of client.toml: opened at start, changed and closed with the file.

use std::sync::Arc;

use tracing::{info, warn};

use crate::config::DeclaredTunnel;
use crate::engine::book::{BookRow, BookState};
use crate::engine::policy::Policy;
use crate::names::TunnelId;
use crate::times::Clock;

use super::Client;
use super::declared_policy::{policy_aside, with_policy};

/// What has to happen to make one entry true.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is as it should be.
    Nothing,
    /// Its time was over; the entry must change before it opens again.
    Expired,
    /// Only this side changes: where it leads, how the Host header reaches it.
    Repoint,
    /// The server's side changes too: the old one closes, a new one opens under the same name.
    Reopen,
    /// There is none yet.
    Open,
    /// A tunnel opened by hand has the name.
    Taken,
}

impl Client {
    /// Makes the tunnels be as declared. Gives a sentence for each change.
    pub(super) async fn declare(self: &Arc<Self>, wanted: &[DeclaredTunnel]) -> Vec<String> {
        let mut notes = Vec::new();
        self.problems
            .lock()
            .expect("nothing panics while it holds the problems")
            .clear();
        let gone = |r: &BookRow| {
            r.declared
                && r.state.is_live()
                && !wanted.iter().any(|w| r.name.as_ref() == Some(&w.name))
        };
        for row in self.book.rows().into_iter().filter(gone) {
            notes.push(format!(
                "{} closes: its entry is gone",
                super::name_of(&row)
            ));
            self.end_declared(row.id).await;
        }
        for entry in wanted {
            if let Some(note) = self.declare_one(entry).await {
                info!(tunnel = %entry.name, note, "declared tunnel");
                notes.push(note);
            }
        }
        notes
    }

    async fn declare_one(self: &Arc<Self>, entry: &DeclaredTunnel) -> Option<String> {
        let there = self.book.find(entry.name.as_str());
        let name = &entry.name;
        let had = there.as_ref().map(|row| Arc::clone(&row.policy));
        let policy = match policy_aside(&entry.policy, had).await {
            Ok(policy) => policy,
            // Without its policy it would be open to everybody.
            Err(err) => {
                let problem = format!("tunnel {name}: {err}; nothing of it changes");
                self.note_problem(problem.clone());
                return Some(problem);
            }
        };
        let step = step(entry, there.as_ref());
        let changed = match &there {
            Some(row) if matches!(step, Step::Nothing | Step::Repoint) => {
                self.put_declared_policy(row, &policy).await
            }
            _ => None,
        };
        match step {
            Step::Nothing => {
                let row = self.book.row(there?.id)?;
                match row.domains == entry.domains {
                    true => changed,
                    false => Some(self.redirect(row, entry).await),
                }
            }
            Step::Expired => Some(format!(
                "{name} has expired; change its entry to open it again"
            )),
            Step::Taken => {
                let problem =
                    format!("tunnel {name}: one opened by hand has this name; close it first");
                self.note_problem(problem.clone());
                Some(problem)
            }
            Step::Repoint => {
                let row = BookRow {
                    target: entry.target.clone(),
                    host: entry.host.clone(),
                    yes_expose: entry.yes_expose,
                    proxy_protocol: entry.proxy_protocol,
                    ..self.book.row(there?.id)?
                };
                let other_domains = row.domains != entry.domains;
                let row = BookRow {
                    domains: entry.domains.clone(),
                    ..row
                };
                self.put_declared(row, other_domains).await;
                Some(format!("{name} leads to {} now", entry.target))
            }
            Step::Reopen => {
                self.end_declared(there?.id).await;
                self.put_declared(with_policy(row_of(entry), policy), true)
                    .await;
                Some(format!("{name} opens anew: its settings changed"))
            }
            Step::Open => {
                self.put_declared(with_policy(row_of(entry), policy), true)
                    .await;
                Some(format!("{name} opens, to {}", entry.target))
            }
        }
    }

    /// Makes a tunnel that is there let through what its entry says.
    async fn put_declared_policy(
        self: &Arc<Self>,
        row: &BookRow,
        policy: &Policy,
    ) -> Option<String> {
        if *row.policy == *policy {
            self.want_nothing(row.id);
            return None;
        }
        if row.state == BookState::Opening {
            // The server hears it when it hears of the tunnel.
            let fresh = with_policy(row.clone(), policy.clone());
            if let Err(err) = self.book.put(fresh).await {
                warn!(tunnel = %row.id, %err, "declared policy not stored");
            }
        }
        self.want_policy(row.id, policy.clone());
        Some(format!("{} has a new policy", super::name_of(row)))
    }

    /// Makes other domains lead to a tunnel: the server hears of all of them whenever it hears of the tunnel.
    async fn redirect(self: &Arc<Self>, row: BookRow, entry: &DeclaredTunnel) -> String {
        let row = BookRow {
            domains: entry.domains.clone(),
            ..row
        };
        if let Err(err) = self.book.put(row.clone()).await {
            warn!(tunnel = %row.id, %err, "declared domains not stored");
        }
        self.tell_server(row.id);
        format!("{} has other domains", entry.name)
    }

    async fn put_declared(self: &Arc<Self>, row: BookRow, bind: bool) {
        if let Err(err) = self.book.put(row.clone()).await {
            return warn!(tunnel = %row.id, %err, "declared tunnel not stored");
        }
        let (client, looked_at) = (Arc::clone(self), row.clone());
        // Aside: at boot the resolver may be slow to say that it is not there, and a start waits for nobody.
        self.tasks.spawn("declared target", async move {
            if let Err(e) = client.origins.check(&looked_at.target).await {
                client.note_problem(format!("tunnel {}: {e}", super::name_of(&looked_at)));
            } else if let Some(live) = client.book.live(looked_at.id) {
                // What is found stands in the tunnel's state; an origin that is away is looked at later.
                let _ = live.guard.admit(&client.origins, &live.origin).await;
            }
        });
        if bind {
            self.tell_server(row.id);
        }
    }

    async fn end_declared(&self, id: TunnelId) {
        if let Err(err) = self
            .book
            .end(id, BookState::Closing, Clock.now().wall)
            .await
        {
            warn!(tunnel = %id, %err, "closing not stored");
        }
        // While the server is away this is remembered and done on return.
        self.tell_server(id);
    }
}

fn row_of(entry: &DeclaredTunnel) -> BookRow {
    let now = Clock.now().wall;
    BookRow {
        id: TunnelId::random(),
        name: Some(entry.name.clone()),
        slug: None,
        url: None,
        target: entry.target.clone(),
        host: entry.host.clone(),
        state: BookState::Opening,
        expires_at: entry.expires.map(|d| now.plus(d)),
        idle: Some(entry.idle),
        hold: entry.hold,
        declared: true,
        labels: entry.labels.clone(),
        public_port: entry.public_port,
        yes_expose: entry.yes_expose,
        proxy_protocol: entry.proxy_protocol,
        policy: Arc::default(),
        domains: entry.domains.clone(),
        created_at: now,
        ended_at: None,
    }
}

fn step(entry: &DeclaredTunnel, there: Option<&BookRow>) -> Step {
    let Some(row) = there else { return Step::Open };
    let asked = row.expires_at.map(|at| at.since(row.created_at));
    // The server may have rounded nothing, but the row's creation moved to the server's clock: a minute's play.
    let same_expiry = match (asked, entry.expires) {
        (None, None) => true,
        (Some(a), Some(b)) => a.abs_diff(b).as_secs() < 60,
        _ => false,
    };
    let same_terms = row.idle == Some(entry.idle)
        && row.hold == entry.hold
        && row.labels == entry.labels
        // One that was not asked for was given.
        && entry.public_port.is_none_or(|port| row.public_port == Some(port))
        && row.kind() == entry.target.kind()
        && same_expiry;
    match row.state {
        BookState::Expired if row.declared && same_terms => Step::Expired,
        BookState::Expired | BookState::Closed | BookState::Closing => Step::Open,
        BookState::Opening | BookState::Open if !row.declared => Step::Taken,
        _ if !same_terms => Step::Reopen,
        _ if row.target != entry.target
            || row.host != entry.host
            || row.yes_expose != entry.yes_expose
            || row.proxy_protocol != entry.proxy_protocol =>
        {
            Step::Repoint
        }
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::book::HostMode;
    use crate::names::Slug;

    fn entry() -> DeclaredTunnel {
        DeclaredTunnel {
            name: Slug::parse("blog").unwrap(),
            target: "3000".parse().unwrap(),
            expires: Some(Duration::from_secs(3600)),
            idle: None,
            hold: None,
            host: HostMode::Auto,
            labels: Vec::new(),
            public_port: None,
            yes_expose: false,
            proxy_protocol: None,
            policy: crate::config::DeclaredPolicy::default(),
            domains: Vec::new(),
        }
    }

    #[test]
    fn an_entry_that_did_not_change_changes_nothing() {
        let mut row = row_of(&entry());
        assert_eq!(step(&entry(), Some(&row)), Step::Nothing);
        row.state = BookState::Open;
        assert_eq!(step(&entry(), Some(&row)), Step::Nothing);
    }

    #[test]
    fn what_changed_decides_how_much_happens() {
        let row = BookRow {
            state: BookState::Open,
            ..row_of(&entry())
        };
        let check = |change: fn(&mut DeclaredTunnel), want: Step| {
            let mut entry = entry();
            change(&mut entry);
            assert_eq!(step(&entry, Some(&row)), want);
        };
        check(|e| e.target = "4000".parse().unwrap(), Step::Repoint);
        check(|e| e.host = HostMode::Keep, Step::Repoint);
        check(|e| e.yes_expose = true, Step::Repoint);
        check(|e| e.expires = None, Step::Reopen);
        check(|e| e.idle = Some(Duration::from_secs(60)), Step::Reopen);
        assert_eq!(step(&entry(), None), Step::Open);
    }

    #[test]
    fn an_expired_entry_stays_expired_and_a_closed_one_opens_again() {
        let expired = BookRow {
            state: BookState::Expired,
            ..row_of(&entry())
        };
        assert_eq!(step(&entry(), Some(&expired)), Step::Expired);
        let closed = BookRow {
            state: BookState::Closed,
            ..row_of(&entry())
        };
        assert_eq!(step(&entry(), Some(&closed)), Step::Open);
    }

    #[test]
    fn a_tunnel_opened_by_hand_is_not_taken_over() {
        let by_hand = BookRow {
            declared: false,
            state: BookState::Open,
            ..row_of(&entry())
        };
        assert_eq!(step(&entry(), Some(&by_hand)), Step::Taken);
    }
}
