//! Limits and edges of answers that the exchanges do not reach.

use super::*;
use crate::engine::book::HostMode;
use crate::engine::{HostMind, HostUse};

fn naming() -> Naming {
    let mind = HostMind::new(HostMode::Keep);
    Naming::new(
        &mind,
        HostUse::Keep,
        &"3000".parse().unwrap(),
        "https",
        "app.t.example.com",
    )
}

fn parts(status: u16, pairs: &[(&'static str, &str)]) -> response::Parts {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in pairs {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response.into_parts().0
}

#[test]
fn what_fits_is_what_the_wire_takes() {
    for (length, expected) in [(60_000, true), (65_400, true), (65_600, false)] {
        let value = "y".repeat(length);
        let head = final_head(parts(200, &[("x", &value)]), &naming(), false);
        assert_eq!(head.is_ok(), expected, "{length}");
        if let Ok(head) = head {
            assert!(head.to_bytes().len() <= HEAD_MAX);
        }
    }
    let mut many = parts(200, &[]);
    for i in 0..FIELDS_MAX {
        many.headers.append("x", i.into());
    }
    assert!(final_head(many.clone(), &naming(), false).is_ok());
    many.headers.append("x", 0.into());
    assert_eq!(
        final_head(many, &naming(), false),
        Err(BadResponse::TooLarge)
    );
}

#[test]
fn a_connection_may_not_nominate_the_length_away() {
    let head = final_head(
        parts(
            200,
            &[("connection", "content-length"), ("content-length", "2")],
        ),
        &naming(),
        false,
    );
    assert_eq!(head.unwrap().fields["content-length"], "2");
}

#[test]
fn interim_heads_are_cleaned_and_a_101_is_none() {
    let mut fields = HeaderMap::new();
    fields.insert("link", "</a>".parse().unwrap());
    fields.insert("wormkey-error", "x".parse().unwrap());
    fields.insert("content-length", "5".parse().unwrap());
    let head = interim_head(StatusCode::EARLY_HINTS, &fields).unwrap();
    assert_eq!(head.fields.len(), 1);
    assert_eq!(interim_head(StatusCode::SWITCHING_PROTOCOLS, &fields), None);
    assert_eq!(interim_head(StatusCode::OK, &fields), None);
}

#[test]
fn the_key_of_the_standard_has_the_answer_of_the_standard() {
    assert_eq!(
        accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
}
