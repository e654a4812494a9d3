//! Header fields on the wire: one flat CBOR array of byte strings, name and value in turn, in order.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decoder, Encoder};

/// The most fields of one head; the edge's own limit for visitors is lower.
const FIELDS_MAX: u64 = 512;

/// Names that every visit has and HTTP does not know: each of them would be made anew.
const OURS: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("wormkey-request-id"),
    HeaderName::from_static("wormkey-http-version"),
];

/// About how many bytes these fields take.
pub(super) fn room(fields: &HeaderMap) -> usize {
    // Before each text stands its length.
    let text = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(text).sum()
}

pub(super) fn encode<C, W: Write>(
    fields: &HeaderMap,
    e: &mut Encoder<W>,
    _: &mut C,
) -> Result<(), EncodeError<W::Error>> {
    e.array(2 * fields.len() as u64)?;
    for (name, value) in fields {
        e.bytes(name.as_str().as_bytes())?.bytes(value.as_bytes())?;
    }
    Ok(())
}

pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<HeaderMap, DecodeError> {
    let count = d
        .array()?
        .ok_or_else(|| DecodeError::message("fields of unknown number"))?;
    if count % 2 != 0 || count / 2 > FIELDS_MAX {
        return Err(DecodeError::message(
            "too many fields, or a name without a value",
        ));
    }
    let mut fields = HeaderMap::with_capacity((count / 2) as usize);
    // Copied once, and not a block for each value.
    let begin = d.position();
    let copy = Bytes::copy_from_slice(d.input().get(begin..).unwrap_or_default());
    for _ in 0..count / 2 {
        let name = name(d.bytes()?)?;
        let length = d.bytes()?.len();
        let end = d.position() - begin;
        let value = HeaderValue::from_maybe_shared(copy.slice(end - length..end))
            .map_err(|_| DecodeError::message("no field value"))?;
        fields.append(name, value);
    }
    Ok(fields)
}

fn name(bytes: &[u8]) -> Result<HeaderName, DecodeError> {
    match OURS.iter().find(|name| name.as_str().as_bytes() == bytes) {
        Some(name) => Ok(name.clone()),
        None => HeaderName::from_bytes(bytes).map_err(|_| DecodeError::message("no field name")),
    }
}

pub(super) fn to_vec(fields: &HeaderMap) -> Vec<u8> {
    let mut e = Encoder::new(Vec::with_capacity(8 + room(fields)));
    // Writing to a Vec cannot fail.
    let _ = encode(fields, &mut e, &mut ());
    e.into_writer()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_repetition() {
        let mut fields = HeaderMap::new();
        fields.append("set-cookie", HeaderValue::from_static("a=1"));
        fields.append("x-raw", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        fields.append("set-cookie", HeaderValue::from_static("b=2"));
        let bytes = to_vec(&fields);
        assert_eq!(decode(&mut Decoder::new(&bytes), &mut ()).unwrap(), fields);
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for bad in [
            &b"\x81\x41a"[..],
            b"\x82\x42a b\x41b",
            b"\x82\x41a\x42\r\n",
            b"\x9f\xff",
            b"\x9a\xff\xff\xff\xff",
        ] {
            assert!(decode(&mut Decoder::new(bad), &mut ()).is_err(), "{bad:?}");
        }
    }
}
