//! QUIC links: endpoints, TLS identity, dialling, and streams that carry [`wire`](crate::wire). All
//! that the project knows of quinn is in here and in `edge::h3`, which speaks HTTP/3 on connections that
//! this room accepts and the server role hands over. Not decisions: a [`Link`] has proved a key, and what
//! that key may do is for the engine and the roles.
//!
//! | | |
//! |---|---|
//! | [`Identity`] | a long-lived key and what is derived from it |
//! | [`Listener`] → [`Arriving`] → [`Link`] | the server's end |
//! | [`Knocking`] | a visitor, whose QUIC comes to the same port |
//! | [`Dialer`] → [`Connected`] → [`Link`] | the client's end |
//! | [`ControlSend`], [`ControlRecv`] | the control stream |
//! | [`LinkSend`], [`LinkRecv`] | the two halves of a visit's stream |
//! | [`LinkFlow`], [`Link::carry_datagrams`] | a visitor's datagrams, and who hands them out |
//! | [`Link::rebind`], [`Link::kick`], [`Link::pulse`] | roaming: another socket, past CUBIC; what is heard |
//! | [`senses::Senses`] | what the system tells a client: another network, a sleep that is over |
//! | [`path`] | the way round blocked UDP |
//! | [`outside`], [`buffers`] | for doctors: the HTTPS port as strangers see it; what the kernel grants a UDP socket |
//!
//! When to roam is decided by [`watch`](crate::engine::watch); the client role joins the three.

mod cid;
mod control;
mod datagrams;
mod dialer;
mod ear;
pub mod enrol;
mod error;
mod handle;
mod heads;
mod identity;
mod kick;
mod listener;
mod load;
#[cfg(test)]
mod memory;
mod onlooker;
pub mod outside;
mod own;
pub mod path;
mod race;
pub mod senses;
mod socket;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod visitors;

pub use control::{ControlRecv, ControlSend};
pub use datagrams::LinkFlow;
pub use dialer::{Connected, Dialer};
pub use error::{AcceptFailure, EndCause, LinkEnd, LinkError, OpenFailure};
pub use handle::{Link, LinkStats};
pub use identity::{Identity, IdentityError};
pub use listener::{Arriving, Listener};
pub use load::LinkLoad;
pub use socket::{Buffers, buffers, open as open_socket};
pub use streams::{LinkRecv, LinkSend};
pub use transport::LinkSettings;
pub use visitors::Knocking;
