//! Any sequence of events, in any order, with a disk that refuses at times, answers out of order, and a
//! process that dies: what has to hold at every instant holds, and nothing is left behind.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["app", "web", "blog"];

#[derive(Debug, Clone)]
enum Step {
    LinkUp {
        device: usize,
    },
    GhostUp {
        device: usize,
        age: u64,
    },
    LinkDown {
        link: usize,
    },
    Heard {
        link: usize,
    },
    Weighs {
        link: usize,
        bytes: u64,
    },
    Bind {
        link: usize,
        tunnel: u8,
        name: usize,
        expires: u64,
        idle: u64,
    },
    Close {
        link: usize,
        tunnel: u8,
    },
    OperatorCloses {
        tunnel: u8,
    },
    Leave {
        link: usize,
    },
    Revoke {
        device: usize,
    },
    Invite {
        user: usize,
    },
    Enroll {
        secret: usize,
        key: u8,
    },
    Visit {
        name: usize,
    },
    VisitEnds {
        visit: usize,
    },
    Goes {
        visit: usize,
    },
    Advance {
        secs: u64,
    },
    Sleep {
        secs: u64,
    },
    SetWall {
        secs: i64,
    },
    Disk {
        works: bool,
    },
    Acknowledge {
        commit: usize,
    },
    Restart,
    Reload {
        keep_alive: u64,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let any = || 0..8_usize;
    prop_oneof![
        6 => any().prop_map(|device| Step::LinkUp { device }),
        2 => (any(), 1..20_u64).prop_map(|(device, age)| Step::GhostUp { device, age }),
        4 => any().prop_map(|link| Step::LinkDown { link }),
        6 => any().prop_map(|link| Step::Heard { link }),
        4 => (any(), 0..80_u64).prop_map(|(link, bytes)| Step::Weighs { link, bytes }),
        16 => (any(), 0..6_u8, 0..4_usize, 0..3_u64, 0..3_u64).prop_map(
            |(link, tunnel, name, expires, idle)| Step::Bind { link, tunnel, name, expires, idle }
        ),
        5 => (any(), 0..6_u8).prop_map(|(link, tunnel)| Step::Close { link, tunnel }),
        2 => (0..6_u8).prop_map(|tunnel| Step::OperatorCloses { tunnel }),
        1 => any().prop_map(|link| Step::Leave { link }),
        1 => any().prop_map(|device| Step::Revoke { device }),
        2 => (0..3_usize).prop_map(|user| Step::Invite { user }),
        3 => (any(), 0..4_u8).prop_map(|(secret, key)| Step::Enroll { secret, key }),
        14 => (0..3_usize).prop_map(|name| Step::Visit { name }),
        5 => any().prop_map(|visit| Step::VisitEnds { visit }),
        3 => any().prop_map(|visit| Step::Goes { visit }),
        8 => prop_oneof![0..12_u64, 0..400_u64].prop_map(|secs| Step::Advance { secs }),
        3 => prop_oneof![0..12_u64, 0..400_u64].prop_map(|secs| Step::Sleep { secs }),
        2 => (-300..300_i64).prop_map(|secs| Step::SetWall { secs }),
        20 => prop::bool::weighted(0.8).prop_map(|works| Step::Disk { works }),
        20 => any().prop_map(|commit| Step::Acknowledge { commit }),
        1 => Just(Step::Restart),
        1 => (1..10_u64).prop_map(|keep_alive| Step::Reload { keep_alive }),
    ]
}

fn stormy_settings() -> EngineSettings {
    EngineSettings {
        held_visits: 2,
        held_visits_total: 3,
        idle: Some(secs(90)),
        offline_max: secs(120),
        quarantine: secs(150),
        tunnels_per_device: 3,
        dormant: DormantCaps {
            links: 2,
            links_per_user: 1,
            memory: 100,
            memory_per_user: 70,
        },
        ..settings()
    }
}

/// A world in a storm: commits wait in a queue, and their answers in another.
struct Storm {
    world: World,
    answers: Vec<(Ticket, Result<(), Code>)>,
    /// Whether the disk refused anything since the start of the process.
    injured: bool,
    /// Every link since the start of the process, ghosts too.
    links: Vec<LinkId>,
    secrets: Vec<u64>,
    /// Everyone who asked since the start of the process.
    asked: Vec<Requester>,
    waiting: Vec<VisitId>,
}

impl Storm {
    fn new() -> Self {
        let mut world = World::with(stormy_settings());
        let links = [("alice", "pc"), ("alice", "laptop"), ("bob", "pc")]
            .map(|(user, name)| world.connect_as(user, name).link)
            .into();
        world.replies.clear();
        world.store = Store::Waits;
        Self {
            world,
            answers: Vec::new(),
            injured: false,
            links,
            secrets: Vec::new(),
            asked: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::LinkUp { device } => {
                if let Some(device) = self.device(device) {
                    let link = self.world.link_up(device);
                    self.links.push(link);
                }
            }
            Step::GhostUp { device, age } => self.ghost_up(device, age),
            Step::LinkDown { link } => {
                if let Some(link) = pick(&self.links, link) {
                    self.world.link_down(link);
                }
            }
            Step::Heard { link } => {
                if let Some(link) = pick(&self.links, link) {
                    self.world.heard(link);
                }
            }
            Step::Weighs { link, bytes } => {
                if let Some(link) = pick(&self.links, link) {
                    self.world.handle(Event::LinkWeighs { link, bytes });
                }
            }
            Step::Bind {
                link,
                tunnel,
                name,
                expires,
                idle,
            } => self.bind(link, tunnel, name, expires, idle),
            Step::Close { link, tunnel } => {
                if let Some(from) = self.over(link) {
                    self.close(from, tunnel);
                }
            }
            Step::OperatorCloses { tunnel } => {
                let from = self.admin();
                self.close(from, tunnel);
            }
            Step::Leave { link } => {
                if let Some(from) = self.over(link) {
                    self.world.handle(Event::LeaveAsked { from });
                }
            }
            Step::Revoke { device } => {
                if let Some(device) = self.device(device) {
                    let from = self.admin();
                    let what = device.to_string();
                    self.world.handle(Event::RevokeAsked { from, what });
                }
            }
            Step::Invite { user } => {
                let from = self.admin();
                let user = ["alice", "bob", "carol"][user];
                let secret = self.world.invite_asked(from, user, 2, secs(300));
                self.secrets.push(secret);
            }
            Step::Enroll { secret, key } => {
                if let Some(secret) = pick(&self.secrets, secret) {
                    let pin = Pin([key; 32]);
                    let from = self.world.enroll_asked(secret, pin, "new");
                    self.asked.push(from);
                }
            }
            Step::Visit { name } => {
                if let (visit, Ok(Admission::Hold)) = self.world.visit(NAMES[name]) {
                    self.waiting.push(visit);
                }
            }
            Step::VisitEnds { visit } => {
                if let Some(visit) = pick(&self.world.going_on, visit) {
                    self.world.ends(visit);
                }
            }
            Step::Goes { visit } => self.goes(visit),
            Step::Advance { secs: by } => self.world.advance(secs(by)),
            Step::Sleep { secs: by } => self.world.step(secs(by)),
            Step::SetWall { secs } => {
                let wall = self.world.now.wall.as_millis() + secs * 1000;
                self.world.set_wall(WallTime::from_millis(wall));
            }
            Step::Disk { works } => self.disk(works),
            Step::Acknowledge { commit } => self.acknowledge(commit),
            Step::Restart => self.restart(),
            Step::Reload { keep_alive } => {
                let settings = EngineSettings {
                    keep_alive: secs(keep_alive),
                    ..stormy_settings()
                };
                self.world.handle(Event::Reloaded { settings });
            }
        }
        self.check();
    }

    fn device(&self, number: usize) -> Option<DeviceId> {
        let devices: Vec<_> = self.world.engine.devices().map(|d| d.row.id).collect();
        pick(&devices, number)
    }

    fn admin(&mut self) -> Requester {
        let from = self.world.admin();
        self.asked.push(from);
        from
    }

    fn over(&mut self, link: usize) -> Option<Requester> {
        let link = pick(&self.links, link)?;
        let request = self.world.number();
        let from = Requester::Link { link, request };
        self.asked.push(from);
        Some(from)
    }

    /// A link of an age that may be older than the live one's, or its very own.
    fn ghost_up(&mut self, device: usize, age: u64) {
        let Some(device) = self.device(device) else {
            return;
        };
        let newest = self.world.numbers;
        let ghost = link(newest.saturating_sub(age));
        // No two devices share a link.
        let elsewhere = |(other, link): (&DeviceId, &LinkId)| *other != device && *link == ghost;
        if self.world.newest.iter().any(elsewhere) || self.links.contains(&ghost) {
            return;
        }
        self.links.push(ghost);
        self.world.link_up_as(device, ghost);
    }

    fn bind(&mut self, link: usize, tunnel: u8, name: usize, expires: u64, idle: u64) {
        let Some(from) = self.over(link) else {
            return;
        };
        let ask = BindAsk {
            tunnel: TunnelId::from_bytes([tunnel; 16]),
            name: NAMES.get(name).map(|name| slug(name)),
            expires_at: (expires > 0).then(|| self.world.now.wall.plus(secs(expires * 70))),
            expires_in: (expires % 2 == 1).then(|| secs(expires * 70)),
            idle: (idle > 0).then(|| Some(secs(idle * 40))),
            ..self.world.ask("app")
        };
        self.world.handle(Event::BindAsked {
            from,
            ask,
            proposals: NAMES.map(slug).to_vec(),
        });
    }

    fn close(&mut self, from: Requester, tunnel: u8) {
        let tunnel = TunnelId::from_bytes([tunnel; 16]);
        self.world.close_asked(from, tunnel);
    }

    fn goes(&mut self, visit: usize) {
        let Some(visit) = pick(&self.waiting, visit) else {
            return;
        };
        self.waiting.retain(|other| *other != visit);
        self.world.going_on.retain(|other| *other != visit);
        self.world.handle(Event::VisitGone { visit });
    }

    /// The disk tries the next commit; its answer is on its way.
    fn disk(&mut self, works: bool) {
        if !works {
            self.world.store = Store::Fails(Code::DiskFull);
        }
        let answer = self.world.try_next();
        self.world.store = Store::Waits;
        self.injured |= answer.is_some() && !works;
        if let Some((_, Err(Code::Storage))) = answer {
            assert!(self.injured, "asked a healthy disk for the impossible");
        }
        self.answers.extend(answer);
    }

    fn acknowledge(&mut self, commit: usize) {
        if !self.answers.is_empty() {
            let (ticket, result) = self.answers.remove(commit % self.answers.len());
            self.world.handle(Event::Committed { ticket, result });
        }
    }

    fn restart(&mut self) {
        self.answers.clear();
        self.links.clear();
        self.asked.clear();
        self.waiting.clear();
        self.injured = false;
        self.world.restart();
    }

    /// Held visits are exactly those that wait and were not released.
    fn check(&mut self) {
        let released = &self.world.released;
        self.waiting.retain(|visit| !released.contains_key(visit));
        assert_eq!(self.world.engine.counts().held, self.waiting.len());
    }

    fn finish(mut self) {
        while !self.answers.is_empty() {
            self.acknowledge(0);
        }
        self.world.commits();
        self.world.advance(secs(10));
        for from in &self.asked {
            assert!(self.world.replies.contains_key(from), "{from:?} waits");
        }
        for link in self.links {
            self.world.link_down(link);
        }
        self.world.finish();
    }
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    // The latest first: most of what happens concerns what is new.
    let index = number.checked_rem(from.len())?;
    from.iter().rev().nth(index).copied()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_storm_gives_a_name_two_owners_or_leaves_anything_behind(
        steps in prop::collection::vec(steps(), 1..150)
    ) {
        let mut storm = Storm::new();
        for step in &steps {
            storm.take(step);
        }
        storm.finish();
    }
}
