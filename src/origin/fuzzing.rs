//! What only the fuzz targets under `tests/fuzz` reach from outside. No contract.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::engine::book::ProxyVersion;

/// The PROXY header before a connection.
pub fn proxy_header(version: ProxyVersion, from: SocketAddr, to: SocketAddr) -> Bytes {
    super::proxy::header(version, from, to)
}
