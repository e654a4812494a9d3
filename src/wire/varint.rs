//! QUIC's variable-length integers (RFC 9000 section 16): 1, 2, 4 or 8 bytes, length in the top two bits.

use bytes::BufMut;

/// The largest value.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Appends a varint in its shortest form. Values over [`VARINT_MAX`] do not occur: lengths are bounded far below.
pub fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value.min(VARINT_MAX) | 0xc000_0000_0000_0000),
    }
}

/// Reads a varint from the front: its value and its length in bytes; `None` when more bytes are needed.
pub fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest
        .iter()
        .fold(u64::from(first & 0x3f), |v, b| v << 8 | u64::from(*b));
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive_at_every_border() {
        for value in [
            0,
            0x3f,
            0x40,
            0x3fff,
            0x4000,
            0x3fff_ffff,
            0x4000_0000,
            VARINT_MAX,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(get_varint(&out), Some((value, out.len())));
            assert_eq!(get_varint(&out[..out.len() - 1]), None);
        }
        // RFC 9000 appendix A.1.
        assert_eq!(get_varint(&[0x7b, 0xbd]), Some((15_293, 2)));
    }
}
