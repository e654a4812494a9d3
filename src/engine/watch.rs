//! The client's watch over its link: when is silence an outage, and what is done about it, in which
//! order. Not the doing: the client role moves sockets, opens paths and dials. Not the judge of a link
//! that has ended with a word either: that is [`Backoff`]'s plain business.
//!
//! ```text
//! calm ──hint──────────────────────────────▶ acting ──1.5 s──▶ fallback ──3 s──▶ race
//!   └─silence──▶ probing ──no answer──────────▶ │ ──0.5 s──▶ fallback ──3 s──▶ race
//!                                               │ (kicks again and again, from one socket or the next)
//! calm ◀──────────────── heard ─────────────────┘        race won ▶ kick the old ▶ 2 RTT ▶ take the new
//! ```
//!
//! A watch belongs to one link. Before every other call the caller hands in the link's [`Pulse`], and
//! after it takes all [`Duty`]s; [`Watch::poll_timeout`] says when to come back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Backoff;

/// After a hint: silence until another path is opened beside the first. Networks that change are not at
/// once what they will be; silence that nobody announced has lasted as long when its probe has failed, and
/// then only the fresh socket gets its time.
const FALLBACK_AFTER: Duration = Duration::from_millis(1500);

/// After a hint or an unanswered probe: silence until a new connection is tried.
const RACE_AFTER: Duration = Duration::from_secs(3);

/// The time in which something that waits should have been answered, without its three round trips.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The time a probe is given. QUIC's own probes have failed before.
const PROBE_TIME: Duration = Duration::from_millis(500);

/// The first kicks of an outage. Most end here: a server that was killed is started again within seconds,
/// and tells of it to whoever asks.
const EAGER_KICKS: Duration = Duration::from_millis(250);

/// How long the eager kicks go on.
const EAGER: Duration = Duration::from_secs(10);

/// Kicks early in an outage. Often: when the network comes back without telling, the next kick finds it.
const KICKS: Duration = Duration::from_secs(2);

/// From the first move to a fresh socket to the next: networks take a moment to be what they say they are.
/// Later moves come with every other of the kicks that are not eager.
const MOVE_AGAIN: Duration = Duration::from_millis(1500);

/// Kicks in a long outage, which spare the battery. A hint starts the quick ones again.
const SLOW_KICKS: Duration = Duration::from_secs(10);

/// How long the quick kicks go on.
const QUICK: Duration = Duration::from_secs(300);

/// How often UDP is tried while the link runs over the fallback path, and how long a failed fallback
/// rests. Together with a try and the move it stays below half a minute.
const RETRY: Duration = Duration::from_secs(20);

/// Kicks over the fallback path without an answer until it is given up, for UDP and another one.
const DEAD_END: u32 = 4;

/// The least time the old link has for its last word: two round trips on the spot are no time.
const LAST_WORD: Duration = Duration::from_millis(300);

/// What a link hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When something was last heard, over the present path.
    pub heard: Instant,
    /// Since when an answer is due, if one is.
    pub owed: Option<Instant>,
    /// The round-trip time.
    pub rtt: Duration,
}

/// What the operating system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The way to the server, or the address we have on it, is another one.
    NetworkChanged,
    /// The machine has slept.
    Resumed {
        /// How long.
        slept: Duration,
    },
    /// Somebody set the clock. Nothing to do with the network.
    ClockStepped,
}

/// What became of the fallback path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackNews {
    /// It is open and can be used.
    Up,
    /// It could not be opened, or broke.
    Failed,
}

/// What became of the new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceNews {
    /// Its handshake is done: the network works, and this is how far the server is.
    Won {
        /// Its round-trip time.
        rtt: Duration,
    },
    /// It failed.
    Lost {
        /// Any number, evenly drawn, for the jitter of the next try.
        random: u64,
    },
}

/// What the client has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Ask for an answer from the present socket: `Link::kick`.
    Probe,
    /// Move the link to a fresh UDP socket and kick it: `Link::rebind`.
    RebindAndKick,
    /// Open the fallback path, beside what there is; tell with [`Watch::handle_fallback`].
    OpenFallback,
    /// Move the link to the open fallback path, and kick it.
    UseFallback,
    /// Close the fallback path, or stop opening it. The link is on UDP.
    CloseFallback,
    /// Dial a new connection beside the link, up to its handshake: a Hello would take the device's
    /// tunnels. Tell with [`Watch::handle_race`].
    Race,
    /// The network works: kick the old link once more, from a fresh socket of its present path.
    KickOld,
    /// Say Hello on the new connection: once it is welcomed it is the link, the old one is closed and
    /// this watch is over. If it is not, tell with [`Watch::handle_not_taken`].
    TakeNew,
    /// The old link lives: stop dialling, or close what was dialled.
    DropNew,
    /// See whether UDP reaches the server, without moving the link; tell with [`Watch::handle_udp`].
    TryUdp,
    /// Move the link to a fresh UDP socket and kick it; the fallback path stays open for now.
    BackToUdp,
}

/// What the watch has to know beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchSettings {
    /// The interval of keep-alives.
    pub keep_alive: Duration,
    /// Whether there is a fallback path at all.
    pub fallback: bool,
}

/// The watch over one link. See the module.
#[derive(Debug, Clone)]
pub struct Watch {
    settings: WatchSettings,
    pulse: Pulse,
    /// A visit or a request waits on the link since then.
    waiting: Option<Instant>,
    /// The caller was here last; in calm times it comes once per keep-alive.
    looked: Instant,
    alarm: Option<Alarm>,
    way: Way,
    race: Race,
    backoff: Backoff,
    /// The old link has ended; nothing is to be heard of it any more.
    gone: bool,
    duties: VecDeque<Duty>,
}

/// Silence that is being dealt with.
#[derive(Debug, Clone, Copy)]
struct Alarm {
    /// Whatever is heard after this ends the alarm.
    since: Instant,
    /// When kicks began; `None` while the first probe is out.
    acting: Option<Instant>,
    /// The end of the first probe's time, or the next kick.
    next: Instant,
    kicks: u32,
    /// The next kick from then on comes from a fresh socket.
    move_at: Option<Instant>,
    fallback_at: Option<Instant>,
    race_at: Option<Instant>,
}

/// How the link runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Over UDP.
    Udp,
    /// Over UDP, and the fallback path is being opened.
    Opening,
    /// Over the fallback path; UDP is tried then, or being tried.
    Fallback(Option<Instant>),
    /// Over UDP again, with the fallback path at hand until something is heard.
    Returning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Race {
    Idle,
    Running,
    /// Won, and the old link has until then to say something.
    Won(Instant),
    /// The new connection is being taken, or was.
    Over,
}

impl Watch {
    /// The watch over a link that came up now, over UDP.
    pub fn new(now: Instant, settings: WatchSettings) -> Self {
        Self {
            settings,
            pulse: Pulse {
                heard: now,
                owed: None,
                rtt: Duration::ZERO,
            },
            waiting: None,
            looked: now,
            alarm: None,
            way: Way::Udp,
            race: Race::Idle,
            backoff: Backoff::new(),
            gone: false,
            duties: VecDeque::new(),
        }
    }

    /// The watch over a link that came up over the fallback path, because UDP did not work.
    pub fn on_fallback(now: Instant, settings: WatchSettings) -> Self {
        let mut watch = Self::new(now, settings);
        watch.way = Way::Fallback(Some(now + RETRY));
        watch
    }

    /// What the link hears now. To be handed in before everything else.
    pub fn handle_pulse(&mut self, now: Instant, pulse: Pulse) {
        self.pulse = pulse;
        self.looked = now;
        if self.waiting.is_some_and(|since| pulse.heard > since) {
            self.waiting = None;
        }
        if self.alarm.is_some_and(|alarm| pulse.heard > alarm.since) && !self.gone {
            self.all_clear();
        }
    }

    /// The system says that something has changed: act first, listen then.
    pub fn handle_hint(&mut self, now: Instant, hint: Hint) {
        if self.is_over() || hint == Hint::ClockStepped {
            return;
        }
        self.backoff.reset();
        if self.gone {
            // Nothing to move; but a wait for the next dial began on another network.
            if let Some(alarm) = &mut self.alarm {
                alarm.race_at = Some(now);
            }
            return;
        }
        let before = self.alarm;
        self.act(now);
        // Hint upon hint must not put off what the first one started; nor does a late one wait for what
        // was put off on another network.
        if let (Some(before), Some(alarm)) = (before, &mut self.alarm)
            && before.acting.is_some()
        {
            let sooner = |before: Option<Instant>, fresh| before.into_iter().chain(fresh).min();
            alarm.fallback_at = sooner(before.fallback_at, alarm.fallback_at);
            alarm.race_at = sooner(before.race_at, alarm.race_at);
        }
    }

    /// A visit or a request waits for the link from now on. For who knows more of that than the link: the
    /// client role relies on [`Pulse::owed`].
    pub fn handle_waiting(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }

    /// The fallback path came up, or went.
    pub fn handle_fallback(&mut self, now: Instant, news: FallbackNews) {
        match (news, self.way) {
            _ if self.is_over() => {}
            (FallbackNews::Up, Way::Opening) => self.use_fallback(now),
            (FallbackNews::Up, Way::Fallback(_) | Way::Returning) => {}
            (FallbackNews::Up, Way::Udp) => self.duties.push_back(Duty::CloseFallback),
            (FallbackNews::Failed, Way::Udp) => {}
            (FallbackNews::Failed, Way::Opening) => {
                self.way = Way::Udp;
                if let Some(alarm) = &mut self.alarm {
                    alarm.fallback_at = Some(now + RETRY);
                }
            }
            // The link is on UDP already, and the alarm goes on.
            (FallbackNews::Failed, Way::Returning) => self.way = Way::Udp,
            (FallbackNews::Failed, Way::Fallback(_)) => {
                self.way = Way::Udp;
                self.act(now);
            }
        }
    }

    /// The new connection is up, or failed. Of one that was dropped nothing more need be told, and
    /// nothing may be once another has been asked for.
    pub fn handle_race(&mut self, now: Instant, news: RaceNews) {
        match (news, self.race) {
            (RaceNews::Won { .. }, Race::Running) if self.gone => self.take_new(),
            (RaceNews::Won { rtt }, Race::Running) => {
                self.race = Race::Won(now + LAST_WORD.max(2 * rtt));
                self.duties.push_back(Duty::KickOld);
            }
            // It crossed the word that it is not needed.
            (RaceNews::Won { .. }, Race::Idle) => self.duties.push_back(Duty::DropNew),
            (RaceNews::Lost { random }, Race::Running) => self.race_again(now, random),
            // It was won, and then the new connection broke before it was taken.
            (RaceNews::Lost { random }, Race::Won(_)) => self.race_again(now, random),
            (RaceNews::Lost { .. }, Race::Idle) | (_, Race::Over) | (_, Race::Won(_)) => {}
        }
    }

    /// The new connection was taken and came to nothing: the server did not welcome it. The old link is
    /// what there is, and the next try waits; `random` draws how long.
    pub fn handle_not_taken(&mut self, now: Instant, random: u64) {
        if self.race != Race::Over {
            return;
        }
        self.looked = now;
        self.alarm = Some(Alarm::acting(now, self.first_kick()));
        self.race_again(now, random);
    }

    /// UDP reaches the server, or does not.
    pub fn handle_udp(&mut self, now: Instant, works: bool) {
        if self.way != Way::Fallback(None) || self.is_over() {
            return;
        }
        if works && self.alarm.is_none() {
            self.alarm = Some(Alarm::acting(now, self.first_kick()));
            self.way = Way::Returning;
            self.duties.push_back(Duty::BackToUdp);
        } else {
            self.way = Way::Fallback(Some(now + RETRY));
        }
    }

    /// The old link has ended. A race that runs becomes its successor; else one is run, after a wait
    /// that `random` draws. The client role ends the watch with the link instead, and dials anew.
    pub fn handle_gone(&mut self, now: Instant, random: u64) {
        if self.gone || self.is_over() {
            return;
        }
        self.gone = true;
        self.close_fallback();
        match self.race {
            Race::Won(_) => self.take_new(),
            Race::Running => {}
            Race::Idle | Race::Over => {
                self.alarm = Some(Alarm::acting(now, now + SLOW_KICKS));
                self.race_again(now, random);
            }
        }
    }

    /// Time has come, or the caller just looks.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.looked = now;
        if self.alarm.is_none() && now >= self.patience() {
            self.probe(now);
        }
        if let (None, Way::Fallback(Some(at))) = (self.alarm, self.way)
            && now >= at
        {
            self.way = Way::Fallback(None);
            self.duties.push_back(Duty::TryUdp);
        }
        if let Race::Won(verdict) = self.race {
            if now >= verdict {
                self.take_new();
            }
        } else {
            self.press_on(now);
        }
    }

    /// What is to be done, in this order.
    pub fn poll_duty(&mut self) -> Option<Duty> {
        self.duties.pop_front()
    }

    /// When to come back, if nothing else happens; `None` once the watch is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.race, self.alarm) {
            (Race::Over, _) => None,
            (Race::Won(verdict), _) => Some(verdict),
            (_, Some(alarm)) => Some(self.next_step(alarm)),
            (_, None) => {
                let look = self.looked + self.settings.keep_alive;
                let try_udp = match self.way {
                    Way::Fallback(at) => at,
                    _ => None,
                };
                let times = [Some(self.patience()), Some(look), try_udp];
                times.into_iter().flatten().min()
            }
        }
    }

    /// Since when silence is being dealt with.
    pub fn silent_since(&self) -> Option<Instant> {
        self.alarm.map(|_| self.pulse.heard)
    }

    /// Whether the link runs over the fallback path.
    pub fn is_on_fallback(&self) -> bool {
        matches!(self.way, Way::Fallback(_))
    }

    /// Whether the new connection is being taken, or was: this watch with its link is over, unless
    /// [`Watch::handle_not_taken`] takes it up again.
    pub fn is_over(&self) -> bool {
        self.race == Race::Over
    }

    /// When silence is no longer normal.
    fn patience(&self) -> Instant {
        let quiet = self.pulse.heard + self.settings.keep_alive * 5 / 2;
        let answer = ANSWER_TIME + 3 * self.pulse.rtt;
        let waited = [self.waiting, self.pulse.owed].into_iter().flatten();
        waited.map(|since| since + answer).fold(quiet, Instant::min)
    }

    fn next_step(&self, alarm: Alarm) -> Instant {
        let fallback = alarm.fallback_at.filter(|_| self.wants_fallback());
        let race = alarm.race_at.filter(|_| self.race == Race::Idle);
        let kick = (!self.gone).then_some(alarm.next);
        let steps = [kick, fallback, race].into_iter().flatten();
        // A dial ends by itself; until then there may be nothing else to wait for.
        steps.min().unwrap_or(self.looked + SLOW_KICKS)
    }

    fn wants_fallback(&self) -> bool {
        let way = matches!(self.way, Way::Udp | Way::Returning);
        self.settings.fallback && way && !self.gone
    }

    fn first_kick(&self) -> Instant {
        self.looked + PROBE_TIME.max(3 * self.pulse.rtt)
    }

    fn probe(&mut self, now: Instant) {
        self.looked = now;
        self.alarm = Some(Alarm {
            since: now,
            acting: None,
            next: self.first_kick(),
            kicks: 0,
            move_at: None,
            fallback_at: None,
            race_at: None,
        });
        self.duties.push_back(Duty::Probe);
    }

    /// Moves to a fresh socket, and starts the clocks of all that follows.
    fn act(&mut self, now: Instant) {
        self.close_fallback();
        self.looked = now;
        self.alarm = Some(Alarm::acting(now, self.first_kick()));
        self.duties.push_back(Duty::RebindAndKick);
    }

    /// The next steps of an outage.
    fn press_on(&mut self, now: Instant) {
        let Some(alarm) = self.alarm else {
            return;
        };
        if alarm.acting.is_none() {
            if now >= alarm.next {
                self.act(now);
                let soon = self.first_kick();
                if let Some(at) = self.alarm.as_mut().and_then(|a| a.fallback_at.as_mut()) {
                    *at = soon.min(*at);
                }
            }
            return;
        }
        if alarm.fallback_at.is_some_and(|at| now >= at) && self.wants_fallback() {
            if self.way == Way::Returning {
                self.use_fallback(now);
            } else {
                self.way = Way::Opening;
                self.duties.push_back(Duty::OpenFallback);
            }
        }
        if alarm.race_at.is_some_and(|at| now >= at) && self.race == Race::Idle {
            self.race = Race::Running;
            self.duties.push_back(Duty::Race);
        }
        if now >= alarm.next && !self.gone {
            self.kick_again(now);
        }
    }

    /// One more kick: mostly from the socket we have, because an answer may be under way to it, and now and
    /// then from a fresh one, because something on the way may have remembered the old one wrongly.
    fn kick_again(&mut self, now: Instant) {
        let way = self.way;
        let rtt = self.pulse.rtt;
        let Some(alarm) = &mut self.alarm else {
            return;
        };
        if matches!(way, Way::Fallback(_)) && alarm.kicks >= DEAD_END {
            let (acting, race_at) = (alarm.acting, alarm.race_at);
            self.act(now);
            if let Some(alarm) = &mut self.alarm {
                (alarm.acting, alarm.race_at) = (acting, race_at);
            }
            return;
        }
        let may_move = matches!(way, Way::Udp | Way::Opening);
        let fresh = may_move && alarm.move_at.is_some_and(|at| now >= at);
        alarm.kicks = alarm.kicks.saturating_add(1);
        let began = alarm.acting.unwrap_or(now);
        let lasted = now.saturating_duration_since(began);
        let pause = if lasted < QUICK { KICKS } else { SLOW_KICKS };
        if fresh {
            alarm.move_at = Some(now + 2 * pause);
        }
        let eager = lasted < EAGER && !matches!(way, Way::Fallback(_));
        let pause = if eager { EAGER_KICKS } else { pause };
        alarm.next = now + pause.max(3 * rtt);
        self.duties.push_back(if fresh {
            Duty::RebindAndKick
        } else {
            Duty::Probe
        });
    }

    fn use_fallback(&mut self, now: Instant) {
        self.way = Way::Fallback(Some(now + RETRY));
        let kick = now + KICKS.max(3 * self.pulse.rtt);
        if let Some(alarm) = &mut self.alarm {
            alarm.since = now;
            alarm.next = kick;
            alarm.kicks = 1;
        }
        self.duties.push_back(Duty::UseFallback);
    }

    fn close_fallback(&mut self) {
        if self.way != Way::Udp {
            self.way = Way::Udp;
            self.duties.push_back(Duty::CloseFallback);
        }
    }

    fn race_again(&mut self, now: Instant, random: u64) {
        self.race = Race::Idle;
        let wait = self.backoff.next(random);
        if let Some(alarm) = &mut self.alarm {
            alarm.race_at = Some(now + wait);
        }
    }

    fn take_new(&mut self) {
        self.close_fallback();
        self.alarm = None;
        self.race = Race::Over;
        self.duties.push_back(Duty::TakeNew);
    }

    /// Heard: nothing of the outage goes on.
    fn all_clear(&mut self) {
        self.alarm = None;
        self.backoff.reset();
        if matches!(self.race, Race::Running | Race::Won(_)) {
            self.race = Race::Idle;
            self.duties.push_back(Duty::DropNew);
        }
        if matches!(self.way, Way::Opening | Way::Returning) {
            self.close_fallback();
        }
    }
}

impl Alarm {
    fn acting(now: Instant, next: Instant) -> Self {
        Self {
            since: now,
            acting: Some(now),
            next,
            kicks: 0,
            move_at: Some(now + MOVE_AGAIN),
            fallback_at: Some(now + FALLBACK_AFTER),
            race_at: Some(now + RACE_AFTER),
        }
    }
}
