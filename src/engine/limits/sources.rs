//! What is limited per source always, whatever tunnels ask for: failed joins, handshakes, hosts nobody
//! has, wrong passwords, API calls.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Per, Rate, Table, Visitor};

/// Sources of each kind that are told apart.
const TRACKED: usize = 4096;

/// What a source does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// A join token that does not work.
    FailedJoin,
    /// A handshake of a link or a visitor.
    Handshake,
    /// A visit to a name that nothing answers.
    UnknownHost,
    /// A password that is not known to be right.
    Password,
    /// A call of the admin API.
    ApiCall,
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Someone on the network.
    Address(Visitor),
    /// A person of this machine.
    Uid(u32),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self::Address(ip.into())
    }
}

/// How often a source may do each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRates {
    /// Join tokens that do not work.
    pub failed_joins: Rate,
    /// Handshakes of links and visitors.
    pub handshakes: Rate,
    /// Visits to names that nothing answers.
    pub unknown_hosts: Rate,
    /// Passwords that are not known to be right.
    pub passwords: Rate,
    /// Calls of the admin API.
    pub api_calls: Rate,
}

impl Default for SourceRates {
    fn default() -> Self {
        Self {
            failed_joins: Rate::new(10, Per::Minute).burst(10),
            // A whole office may come back from one address after an outage.
            handshakes: Rate::new(200, Per::Second).burst(2000),
            unknown_hosts: Rate::new(10, Per::Second).burst(100),
            passwords: Rate::new(10, Per::Minute).burst(10),
            api_calls: Rate::new(200, Per::Second).burst(1000),
        }
    }
}

impl SourceRates {
    /// The rate of an act.
    pub const fn of(&self, act: Act) -> Rate {
        match act {
            Act::FailedJoin => self.failed_joins,
            Act::Handshake => self.handshakes,
            Act::UnknownHost => self.unknown_hosts,
            Act::Password => self.passwords,
            Act::ApiCall => self.api_calls,
        }
    }
}

/// How much each source did of what lately.
#[derive(Debug)]
pub struct Sources {
    tables: [Table<Source>; 5],
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            tables: std::array::from_fn(|_| Table::new(TRACKED)),
        }
    }
}

impl Sources {
    /// Whether the source may do it once more; else in how long. Counts nothing.
    pub fn check(
        &mut self,
        now: Instant,
        rates: &SourceRates,
        act: Act,
        source: Source,
    ) -> Result<(), Duration> {
        let table = &mut self.tables[act as usize];
        table.tidy(now, source);
        table.look(source).bucket.peek(now, rates.of(act))
    }

    /// Counts that the source did it.
    pub fn count(&mut self, now: Instant, rates: &SourceRates, act: Act, source: Source) {
        let table = &mut self.tables[act as usize];
        table.tidy(now, source);
        let seat = table.seat(source);
        if let Some(meter) = table.meter(seat) {
            meter.bucket.count(now, rates.of(act));
        }
    }

    /// Both: counts it if it may be done.
    pub fn take(
        &mut self,
        now: Instant,
        rates: &SourceRates,
        act: Act,
        source: Source,
    ) -> Result<(), Duration> {
        self.check(now, rates, act, source)?;
        self.count(now, rates, act, source);
        Ok(())
    }

    /// What was counted turned out to be no offence.
    pub fn give_back(&mut self, now: Instant, rates: &SourceRates, act: Act, source: Source) {
        let table = &mut self.tables[act as usize];
        let seat = table.seat(source);
        if let Some(meter) = table.meter(seat) {
            meter.bucket.give_back(now, rates.of(act));
        }
    }
}
