//! What people and devices do in the world: they enrol, link up, open and close tunnels, and visit.

use super::*;

impl World {
    pub(super) fn admin(&mut self) -> Requester {
        let call = self.number();
        Requester::Admin { call, uid: 1000 }
    }

    pub(super) fn over(&mut self, client: &Client) -> Requester {
        let (link, request) = (client.link, self.number());
        Requester::Link { link, request }
    }

    /// The answer to something that has been asked.
    pub(super) fn reply(&mut self, to: Requester) -> Outcome {
        self.replies.remove(&to).expect("it was answered")
    }

    /// Asks for a join token; returns the number of its secret.
    pub(super) fn invite_asked(
        &mut self,
        from: Requester,
        user: &str,
        uses: u32,
        valid: Duration,
    ) -> u64 {
        let secret = self.number();
        let (user_id, id) = (self.number(), self.number());
        self.handle(Event::InviteAsked {
            from,
            user: user.into(),
            user_id: UserId::from_bytes(bytes(user_id)),
            id: InviteId::from_bytes(bytes(id)),
            secret_hash: hash(secret),
            uses,
            expires_at: self.now.wall.plus(valid),
        });
        secret
    }

    pub(super) fn invites(&mut self, user: &str, uses: u32) -> u64 {
        let from = self.admin();
        let secret = self.invite_asked(from, user, uses, 8 * HOUR);
        assert!(matches!(self.reply(from), Ok(Answer::Invited { .. })));
        secret
    }

    /// A newcomer shows a token and a key.
    pub(super) fn enroll_asked(&mut self, secret: u64, pin: Pin, name: &str) -> Requester {
        let (counter, id) = (self.number(), self.number());
        let from = Requester::Link {
            link: link(counter),
            request: 0,
        };
        self.handle(Event::EnrollAsked {
            from,
            peer: peer(),
            secret_hash: hash(secret),
            pin,
            name: name.into(),
            id: DeviceId::from_bytes(bytes(id)),
        });
        from
    }

    pub(super) fn enrolls(&mut self, secret: u64, pin: Pin, name: &str) -> Outcome {
        let from = self.enroll_asked(secret, pin, name);
        self.reply(from)
    }

    pub(super) fn new_pin(&mut self) -> Pin {
        Pin(hash(self.number()))
    }

    /// A device of that name, of a user of that name, with a link.
    pub(super) fn connect(&mut self, name: &str) -> Client {
        self.connect_as(name, name)
    }

    pub(super) fn connect_as(&mut self, user: &str, name: &str) -> Client {
        let secret = self.invites(user, 1);
        let pin = self.new_pin();
        let Ok(Answer::Enrolled { device, .. }) = self.enrolls(secret, pin, name) else {
            panic!("{name} was not enrolled");
        };
        let link = self.link_up(device);
        Client { device, link, pin }
    }

    pub(super) fn link_up(&mut self, device: DeviceId) -> LinkId {
        let link = link(self.number());
        self.link_up_as(device, link);
        link
    }

    pub(super) fn link_up_as(&mut self, device: DeviceId, link: LinkId) {
        self.up.insert(link);
        let newest = self.newest.entry(device).or_insert(link);
        *newest = link.max(*newest);
        self.handle(Event::LinkUp {
            link,
            device,
            peer: peer(),
        });
    }

    pub(super) fn link_down(&mut self, link: LinkId) {
        self.handle(Event::LinkDown { link });
        self.up.remove(&link);
    }

    pub(super) fn heard(&mut self, link: LinkId) {
        self.handle(Event::LinkHeard { link });
    }

    /// Time passes while clients keep their links alive.
    pub(super) fn live_for(&mut self, by: Duration, clients: &[Client]) {
        let end = self.now.monotonic + by;
        while self.now.monotonic < end {
            let left = end.saturating_duration_since(self.now.monotonic);
            self.advance(secs(10).min(left));
            for client in clients {
                self.heard(client.link);
            }
        }
    }

    pub(super) fn ask(&mut self, name: &str) -> BindAsk {
        BindAsk {
            tunnel: TunnelId::from_bytes(bytes(self.number())),
            name: Some(slug(name)),
            kind: Kind::Http,
            expires_at: None,
            expires_in: None,
            idle: None,
            hold: None,
            declared: false,
            labels: Vec::new(),
            public_port: None,
            policy: policy::Policy::default(),
            domains: None,
        }
    }

    pub(super) fn bind_asked(&mut self, client: &Client, ask: &BindAsk) -> Requester {
        let from = self.over(client);
        self.handle(Event::BindAsked {
            from,
            ask: ask.clone(),
            proposals: ["quiet-lime-1", "quiet-lime-2"].map(slug).to_vec(),
        });
        from
    }

    pub(super) fn bind(&mut self, client: &Client, ask: &BindAsk) -> Result<TunnelView, AskError> {
        let from = self.bind_asked(client, ask);
        self.reply(from).map(|answer| match answer {
            Answer::Bound(view) => *view,
            other => panic!("{other:?} is no answer to a bind"),
        })
    }

    pub(super) fn opens(&mut self, client: &Client, name: &str) -> TunnelId {
        let ask = self.ask(name);
        self.bind(client, &ask).expect("it was opened").row.id
    }

    pub(super) fn close_asked(&mut self, from: Requester, tunnel: TunnelId) {
        self.closing.insert(from, tunnel);
        self.handle(Event::CloseAsked { from, tunnel });
    }

    pub(super) fn closes(&mut self, client: &Client, tunnel: TunnelId) -> Outcome {
        let from = self.over(client);
        self.close_asked(from, tunnel);
        self.reply(from)
    }

    pub(super) fn operator_closes(&mut self, tunnel: TunnelId) -> Outcome {
        let from = self.admin();
        self.close_asked(from, tunnel);
        self.reply(from)
    }

    pub(super) fn leaves(&mut self, client: &Client) -> Outcome {
        let from = self.over(client);
        self.handle(Event::LeaveAsked { from });
        self.reply(from)
    }

    pub(super) fn revokes(&mut self, what: &str) -> Outcome {
        let from = self.admin();
        self.handle(Event::RevokeAsked {
            from,
            what: what.into(),
        });
        self.reply(from)
    }

    pub(super) fn visit(&mut self, label: &str) -> (VisitId, Result<Admission, Refusal>) {
        let visit = self.visit_to(label);
        self.asks_in(label, visit)
    }

    pub(super) fn visit_of(
        &mut self,
        kind: Kind,
        label: &str,
    ) -> (VisitId, Result<Admission, Refusal>) {
        let http = (kind == Kind::Http).then(|| HttpAsk::new(http::Method::GET, "/"));
        let visit = Visit {
            kind,
            http,
            ..self.visit_to(label)
        };
        self.asks_in(label, visit)
    }

    /// A `GET /` from [`peer`].
    pub(super) fn visit_to(&mut self, label: &str) -> Visit {
        Visit {
            id: VisitId::from_bytes(bytes(self.number())),
            kind: Kind::Http,
            label: label.into(),
            peer: peer(),
            bytes: 0,
            http: Some(HttpAsk::new(http::Method::GET, "/")),
        }
    }

    pub(super) fn asks_in(
        &mut self,
        label: &str,
        visit: Visit,
    ) -> (VisitId, Result<Admission, Refusal>) {
        self.look();
        let admitted = self.engine.admit(self.now, &visit);
        if let Ok(Admission::Pass(route)) = &admitted {
            let by_id = route.tunnel.to_string() == label;
            assert!(by_id || route.slug.as_str() == label);
            assert_eq!(route.visit, visit.id);
            self.check_route(route);
            self.going_on.push(visit.id);
        }
        self.pump();
        (visit.id, admitted)
    }

    pub(super) fn passes(&mut self, label: &str) -> Route {
        match self.visit(label).1 {
            Ok(Admission::Pass(route)) => route,
            other => panic!("{label}: {other:?}"),
        }
    }

    /// A visit that comes and goes.
    pub(super) fn visited(&mut self, label: &str) {
        let visit = self.passes(label).visit;
        self.ends(visit);
    }

    pub(super) fn waits(&mut self, label: &str) -> VisitId {
        match self.visit(label) {
            (visit, Ok(Admission::Hold)) => visit,
            (_, other) => panic!("{label}: {other:?}"),
        }
    }

    pub(super) fn refused(&mut self, label: &str) -> Refusal {
        match self.visit(label).1 {
            Err(refusal) => refusal,
            Ok(other) => panic!("{label}: {other:?}"),
        }
    }

    pub(super) fn ends(&mut self, visit: VisitId) {
        self.going_on.retain(|other| *other != visit);
        self.handle(Event::VisitEnded { visit });
    }

    pub(super) fn release_of(&mut self, visit: VisitId) -> Option<Result<Route, Refusal>> {
        self.released.remove(&visit)
    }
}
