//! What only the fuzz targets under `tests/fuzz` reach from outside. No contract.

pub use super::h3::fuzzing::h3_request;

/// What the first bytes of TLS look like.
pub fn look(bytes: &[u8]) -> String {
    format!("{:?}", super::hello::look(bytes))
}
