//! DECIDES: which slug leads to which tunnel, over which link, until when; who may have what.
//! No I/O, no clock, no randomness: times, ids and nonces come in as arguments, decisions go out as
//! [`Action`]s, and the server role carries them out. `handle_*` in, `poll_*` out.
//!
//! The heart is one strict chain, **slug → tunnel → live link**, each arrow with at most one end at any
//! instant. A grant takes effect after its commit; a restriction at once, and is acknowledged after its commit.
//!
//! | file | what it decides |
//! |---|---|
//! | `entry`, `event` | the entrances: every event, every action, every timer, in one list each |
//! | `asks`, `refusal`, `ask_error` | what is asked with, and why it is not done |
//! | `model`, `state`, `views`, `timers` | nothing: the rows, what is known beyond them, what people see, what falls due |
//! | `routes`, `hold` | where a visit goes; which visits wait, and how long |
//! | `links` | which link of a device is the live one, and whether it sleeps |
//! | `dormant` | what links that sleep may cost |
//! | `leases`, `ports` | who gets which name, and which public port |
//! | [`domains`] | whose domain leads where, and when its proof is looked at |
//! | `lifecycle`, `idle`, `ends` | when a tunnel ends, and what that means; what would end it next |
//! | `tunnels` | nothing: holds all of them, found by their ids |
//! | `enrol` | users, join tokens, devices |
//! | `persist` | what waits for the disk, and what is tried again |
//! | [`policy`], [`limits`] | what a tunnel lets through, and how much of it |
//! | `gate`, `stays` | whether a visit may come in; what is counted about those that did |
//! | `setting`, `life`, `sharing`, `suspend` | changes of a policy and of a life, share links, what the operator keeps from everything |
//! | `probe` | nothing: a client's question to itself goes the way of a visit and is none |
//! | `backoff`, `hostmode`, [`book`], [`watch`] | the client's few pure decisions |

mod ask_error;
mod asks;
mod backoff;
pub mod book;
pub mod domains;
mod dormant;
mod ends;
mod enrol;
mod entry;
mod event;
mod gate;
mod hold;
mod hostmode;
mod idle;
mod leases;
mod life;
mod lifecycle;
pub mod limits;
mod links;
mod model;
mod persist;
pub mod policy;
mod ports;
mod probe;
mod refusal;
mod routes;
mod setting;
mod shares;
mod sharing;
mod state;
mod stays;
mod suspend;
#[cfg(test)]
mod tests;
mod timers;
mod tunnels;
mod views;
pub mod watch;

pub use ask_error::AskError;
pub use asks::{Bandwidth, Checked, Credentials, HttpAsk, LifeAsk, SetAsk, ShareAsk, Verification};
pub use backoff::Backoff;
pub use dormant::DormantCaps;
pub use ends::{EndsNext, EndsWhy, Standing};
pub use entry::Engine;
pub use event::{Action, Admission, Answer, BindAsk, Event, Requester, Route, Ticket, Visit};
pub use hostmode::{HostMind, HostUse};
pub use model::{
    Actor, AuditRow, Change, DeviceRow, EngineSettings, InviteRow, Snapshot, TunnelRow,
    TunnelState, TunnelView, UserRow,
};
pub use refusal::Refusal;
pub use views::{Counts, DeviceView, UserView};
