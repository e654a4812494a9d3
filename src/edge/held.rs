//! What a visit keeps in memory while it waits in the hold: its head, and what is read ahead of its body
//! before anybody asks for that. An upper bound, from the constants that bound the reading. What a
//! connection costs by itself is not counted here; the number of connections bounds that.

use http_body::Body as _;

use super::connection::{H1_BUFFER, H2_STREAM_WINDOW};
use super::incoming::RequestBody;
use super::{guard, hello, udp};
use crate::http::head::Head;

/// What a field costs beside its bytes, and a visit beside its head.
const FIELD: usize = 64;
const VISIT: usize = 2 * 1024;

/// Few datagrams of the internet are larger.
const DATAGRAM: usize = 1500;

/// The most that it keeps.
pub(super) fn bytes(is_multiplexed: bool, head: &Head, body: &RequestBody) -> u64 {
    let ahead = if is_multiplexed {
        ahead_of_stream(head, body)
    } else {
        ahead_of_connection(head)
    };
    (size_of_head(head) as u64).saturating_add(ahead)
}

/// The same for a connection of bytes: what was looked at of its TLS, at most.
pub(super) const fn bytes_of_connection() -> u64 {
    (VISIT + hello::LOOKED_AT) as u64
}

/// The same for a flow: the datagrams that wait for it.
pub(super) const fn bytes_of_flow() -> u64 {
    (VISIT + udp::WAITING * DATAGRAM) as u64
}

fn size_of_head(head: &Head) -> usize {
    let fields = head.fields.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    VISIT + head.path.len() + head.authority.len() + fields.sum::<usize>()
}

/// A window is given back only for what was taken, and of a visit that waits nothing is.
fn ahead_of_stream(head: &Head, body: &RequestBody) -> u64 {
    if body.is_end_stream() {
        return 0;
    }
    let window = u64::from(H2_STREAM_WINDOW);
    let announced = body.size_hint().upper().filter(|_| head.protocol.is_none());
    announced.unwrap_or(window).min(window)
}

/// hyper's buffer, whatever follows the head in it; and behind an upgrade what the guard keeps back.
fn ahead_of_connection(head: &Head) -> u64 {
    let kept_back = match head.protocol {
        Some(_) => guard::HELD_MAX + guard::READ,
        None => 0,
    };
    (H1_BUFFER + kept_back) as u64
}
