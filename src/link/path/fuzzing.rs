//! What only the fuzz targets under `tests/fuzz` reach from outside. No contract.

use bytes::Bytes;

use super::BadMessage;

/// The datagrams of a WebSocket message.
pub fn datagrams(message: Bytes) -> Vec<Result<Bytes, BadMessage>> {
    super::codec::datagrams(message).collect()
}
