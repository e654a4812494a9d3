//! How values stand in columns: ids as text, times and durations in milliseconds, lists as JSON.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::Type;

use crate::times::WallTime;

type SqlResult<T> = rusqlite::Result<T>;

/// What stands in a column and cannot: the database is damaged.
#[derive(Debug, thiserror::Error)]
#[error("column {column} holds {text:?}")]
pub(super) struct BadColumn {
    column: String,
    text: String,
}

/// The error of a column whose text makes no sense.
pub(super) fn bad(row: &Row<'_>, column: &str, text: &str) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or(usize::MAX);
    let text = text.chars().take(64).collect();
    let column = column.to_owned();
    rusqlite::Error::FromSqlConversionFailure(
        index,
        Type::Text,
        Box::new(BadColumn { column, text }),
    )
}

/// A value written with `to_string`.
pub(super) fn parsed<T: FromStr>(row: &Row<'_>, column: &str) -> SqlResult<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| bad(row, column, &text))
}

/// The same, absent as NULL.
pub(super) fn parsed_opt<T: FromStr>(row: &Row<'_>, column: &str) -> SqlResult<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| bad(row, column, &text)))
        .transpose()
}

/// An id and the like as text.
pub(super) fn text(value: impl Display) -> String {
    value.to_string()
}

/// An instant.
pub(super) fn time(row: &Row<'_>, column: &str) -> SqlResult<WallTime> {
    row.get(column).map(WallTime::from_millis)
}

/// The same, absent as NULL.
pub(super) fn time_opt(row: &Row<'_>, column: &str) -> SqlResult<Option<WallTime>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(WallTime::from_millis))
}

/// A duration in milliseconds.
pub(super) fn span(row: &Row<'_>, column: &str) -> SqlResult<Duration> {
    span_opt(row, column)?.ok_or_else(|| bad(row, column, "NULL"))
}

/// The same, absent as NULL.
pub(super) fn span_opt(row: &Row<'_>, column: &str) -> SqlResult<Option<Duration>> {
    let millis: Option<i64> = row.get(column)?;
    millis
        .map(|millis| {
            u64::try_from(millis)
                .map(Duration::from_millis)
                .map_err(|_| bad(row, column, &millis.to_string()))
        })
        .transpose()
}

/// Milliseconds of a duration; no column holds more than SQLite's largest integer.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Label pairs, in their order.
pub(super) fn pairs_text(pairs: &[(String, String)]) -> String {
    list_text(pairs)
}

/// A list as JSON.
pub(super) fn list_text<T: serde::Serialize>(list: &[T]) -> String {
    serde_json::to_string(list).expect("texts always serialise")
}

/// A list from JSON.
pub(super) fn list<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> SqlResult<Vec<T>> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| bad(row, column, &text))
}
