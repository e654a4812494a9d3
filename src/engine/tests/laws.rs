//! What has to hold in the world at every instant, and that nothing is left when all is over.

use super::*;

impl World {
    pub(super) fn check(&self) {
        let mut owners = HashMap::new();
        for view in self.engine.tunnels() {
            let row = &view.row;
            if row.state == TunnelState::Open {
                let other = owners.insert(row.slug.clone(), row.id);
                assert_eq!(other, None, "{} has two owners", row.slug);
                if let Some(socket) = self.sockets.get(&row.id) {
                    assert_eq!(Some(socket.1), row.public_port, "another port");
                }
                assert!(self.disk.is_open(row.id), "{} is not on disk", row.id);
            }
            if let Some(link) = view.link {
                assert_eq!(self.newest.get(&row.device), Some(&link), "a ghost");
                assert_eq!(view.held, 0, "held with a live link");
            }
        }
        for (domain, _) in self.engine.domains_served() {
            let tunnel = self.engine.domain_tunnel(domain);
            let proven =
                |row: &&domains::DomainRow| row.domain == *domain && row.proven_at.is_some();
            let on_disk = self
                .disk
                .domains()
                .iter()
                .find(proven)
                .map(|row| row.tunnel);
            assert_eq!(tunnel, on_disk, "{domain} leads elsewhere on disk");
        }
        let counts = self.engine.counts();
        assert_eq!(counts.visits, self.going_on.len());
        let waiting: usize = self.engine.tunnels().map(|view| view.held).sum();
        assert_eq!(counts.held, waiting);
        let caps = &self.engine.settings().dormant;
        assert!(counts.dormant <= caps.links, "too many links sleep");
        assert!(counts.dormant_bytes <= caps.memory, "and hold too much");
        assert_eq!(self.engine.stays.len(), counts.visits + counts.held);
        for (id, tunnel) in self.engine.tunnels.iter() {
            let of_it = |visit| {
                self.engine
                    .stays
                    .get(&visit)
                    .is_some_and(|s| s.tunnel == *id)
            };
            assert!(tunnel.inside.by(None).all(of_it));
            assert!(tunnel.inside.len() >= tunnel.visits + tunnel.held.len());
        }
    }

    pub(super) fn check_route(&self, route: &Route) {
        let row = self.disk.tunnel(route.tunnel).expect("it is on disk");
        assert_eq!(row.slug, route.slug);
        assert_eq!(row.state, TunnelState::Open, "on disk it is over");
        assert_eq!(self.newest.get(&row.device), Some(&route.link), "a ghost");
        assert!(self.up.contains(&route.link), "a dead link");
        assert!(
            !self.cut_visits.contains(&route.tunnel),
            "visited after its end"
        );
        assert!(
            row.expires_at
                .is_none_or(|at| at > self.latest_wall[&route.tunnel]),
            "visited after its expiry"
        );
        let revoked = self.disk.device(row.device).and_then(|d| d.revoked_at);
        assert_eq!(revoked, None, "a revoked device");
    }

    /// Acknowledged is durable.
    pub(super) fn check_reply(&mut self, to: Requester, outcome: &Outcome) {
        match outcome {
            Ok(Answer::Bound(view)) => {
                let row = self.disk.tunnel(view.row.id).expect("it is on disk");
                assert_eq!((&row.slug, row.device), (&view.row.slug, view.row.device));
                assert_eq!(row.state, TunnelState::Open);
                // An id that the engine has forgotten may be used anew.
                self.cut_visits.remove(&view.row.id);
                let since = self.latest_wall.entry(view.row.id);
                since.or_insert(self.now.wall);
            }
            Ok(Answer::Closed) => {
                let tunnel = self.closing[&to];
                assert!(!self.disk.is_open(tunnel), "acknowledged, not on disk");
            }
            Ok(Answer::Enrolled { device, .. }) => assert!(self.disk.device(*device).is_some()),
            _ => {}
        }
    }

    /// Ends everything, lets all quarantines pass, and looks for what was left behind.
    pub(super) fn finish(mut self) {
        self.commits();
        let open: Vec<TunnelId> = self.open_tunnels();
        for tunnel in open {
            assert_eq!(self.operator_closes(tunnel), Ok(Answer::Closed));
        }
        for visit in self.going_on.clone() {
            self.ends(visit);
        }
        let links: Vec<LinkId> = self.newest.values().copied().collect();
        for link in links {
            self.link_down(link);
        }
        self.step(self.engine.settings().quarantine + 30 * DAY);
        self.wake();
        assert!(self.sockets.is_empty(), "sockets without a tunnel");
        assert_eq!(self.engine.leftovers(), Vec::<&str>::new());
        assert_eq!(self.engine.poll_timeout(self.now), None);
    }

    pub(super) fn open_tunnels(&self) -> Vec<TunnelId> {
        let open = |view: &TunnelView| view.row.state == TunnelState::Open;
        self.engine
            .tunnels()
            .filter(open)
            .map(|view| view.row.id)
            .collect()
    }
}

impl Engine {
    /// The names of everything that is not empty, of what should be once all is over.
    fn leftovers(&self) -> Vec<&'static str> {
        let devices = self.devices.values();
        let empty = [
            ("links", self.links.is_empty()),
            ("visits", self.visits.is_empty()),
            ("held", self.held.is_empty()),
            ("sleepers", self.sleepers.is_empty()),
            ("tunnels", self.tunnels.is_empty()),
            ("names", self.names.is_empty()),
            ("former", self.former.is_empty()),
            ("ports", self.ports.is_empty()),
            ("former ports", self.former_ports.is_empty()),
            ("seeking", self.seeking.is_empty()),
            ("ended", self.ended.is_empty()),
            (
                "invites",
                self.invites.is_empty() && self.secrets.is_empty(),
            ),
            ("domains", self.domains.is_empty()),
            ("shares", self.shares.is_empty()),
            ("pending", self.pending.is_empty()),
            ("opening", self.opening.is_empty()),
            ("enrolling", self.enrolling.is_empty()),
            ("founding", self.founding.is_empty()),
            ("restrictions", self.restrictions.is_empty()),
            ("dirty", self.dirty.is_empty()),
            ("actions", self.actions.is_empty()),
            ("timers", self.timers.len() == 0),
            (
                "devices",
                devices
                    .clone()
                    .all(|d| d.link.is_none() && d.tunnels.is_empty() && d.opening == 0),
            ),
        ];
        let left = empty.into_iter().filter(|(_, empty)| !empty);
        left.map(|(name, _)| name).collect()
    }
}
