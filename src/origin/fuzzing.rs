//! What only the fuzz targets under `tests/fuzz` reach from outside. No contract.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::engine::book::ProxyVersion;
use crate::wire::proxy;

/// The PROXY header before a connection.
pub fn proxy_header(version: ProxyVersion, from: SocketAddr, to: SocketAddr) -> Bytes {
    match version {
        ProxyVersion::V1 => proxy::v1(from, to),
        ProxyVersion::V2 => proxy::v2(from, to),
    }
}
