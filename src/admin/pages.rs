//! Pages of the lists that are answered whole when no page is asked for.

use std::fmt::Display;
use std::str::FromStr;

use super::ApiError;
use super::ask::{PageParams, page_size, usage};

/// Some rows, by the time they were made, and the cursor of the next page; all of them when neither a cursor nor a
/// limit is given. `id` is a row's, whose text is the cursor.
pub(super) fn page_of<T, K>(
    mut rows: Vec<T>,
    asked: &PageParams,
    id: impl Fn(&T) -> K,
) -> Result<(Vec<T>, Option<String>), ApiError>
where
    K: Ord + Display + FromStr,
{
    if asked.cursor.is_none() && asked.limit.is_none() {
        return Ok((rows, None));
    }
    rows.sort_by_key(&id);
    if let Some(cursor) = &asked.cursor {
        let bad = |_| usage("the cursor is not one; use a page's `next`");
        let after: K = cursor.parse().map_err(bad)?;
        rows.retain(|row| id(row) > after);
    }
    let limit = usize::try_from(page_size(asked.limit)?).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| id(row).to_string());
    Ok((rows, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(cursor: Option<&str>, limit: Option<u32>) -> (Vec<u32>, Option<String>) {
        let cursor = cursor.map(str::to_owned);
        page_of(vec![3, 1, 2], &PageParams { cursor, limit }, |n| *n).unwrap()
    }

    #[test]
    fn a_list_is_whole_unless_a_page_of_it_is_asked_for() {
        assert_eq!(page(None, None), (vec![3, 1, 2], None));
        assert_eq!(page(None, Some(2)), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(page(Some("2"), Some(2)), (vec![3], None));
        assert_eq!(page(Some("1"), None), (vec![2, 3], None));
        assert_eq!(page(None, Some(3)), (vec![1, 2, 3], None));
    }

    #[test]
    fn a_cursor_that_is_none_and_a_page_of_nothing_are_refused() {
        for (cursor, limit) in [(Some("x"), None), (None, Some(0))] {
            let cursor = cursor.map(str::to_owned);
            assert!(page_of(vec![1], &PageParams { cursor, limit }, |n| *n).is_err());
        }
    }
}
