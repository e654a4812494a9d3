//! What only the fuzz targets under `tests/fuzz` reach from outside. No contract.

use super::{head, qpack};
use crate::http::limits::{FIELDS_MAX, HEAD_MAX};

/// What a field section of HTTP/3 is as a request. What is read, is written so that it reads the same.
pub fn h3_request(block: &[u8]) -> String {
    let (lines, bytes) = (FIELDS_MAX + 4, HEAD_MAX);
    let decoded = match qpack::decode(block, lines, bytes) {
        Ok(decoded) => decoded,
        Err(problem) => return format!("{problem:?}"),
    };
    let again = qpack::encode(decoded.iter().map(|(name, value)| (&name[..], &value[..])));
    assert_eq!(qpack::decode(&again, lines, bytes), Ok(decoded.clone()));
    match head::request(decoded) {
        Ok((parts, length)) => format!("{} {}", parts.method, length.is_some()),
        Err(malformed) => malformed.to_string(),
    }
}
