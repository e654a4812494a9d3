//! DECIDES: which slug leads to which tunnel, over which link, until when; who may have what.
//! No I/O, no clock, no randomness: times, ids and nonces come in as arguments, decisions go out as
//! [`Action`]s, and the server role carries them out. `handle_*` in, `poll_*` out.
//!
//! The heart is one strict chain, **slug → tunnel → live link**, each arrow with at most one end at any
//! instant. A grant takes effect after its commit; a restriction at once, and is acknowledged after its commit.

mod backoff;
pub mod book;
mod event;
mod hostmode;
mod model;
mod refusal;

pub use backoff::Backoff;
pub use event::{
    Action, Admission, Answer, AskError, BindAsk, Event, Requester, Route, Ticket, Visit,
};
pub use hostmode::{HostMind, HostUse};
pub use model::{
    Actor, AuditRow, Change, DeviceRow, EngineSettings, InviteRow, Snapshot, TunnelRow,
    TunnelState, TunnelView, UserRow,
};
pub use refusal::Refusal;
