//! How much of what: token buckets, counters of what goes on, and the tables that keep one for each
//! address in bounded memory. Not who is asked for what: the numbers come from a tunnel's policy and from the
//! operator's settings.

mod rate;
mod settings;
mod sources;
mod table;
#[cfg(test)]
mod tests;

pub use rate::{Bucket, Per, Rate, RateError};
pub use settings::{Ceiling, Ceilings, Limit, LimitSettings};
pub use sources::{Act, Source, SourceRates, Sources};
pub use table::{Meter, Seat, Table, Visitor};
