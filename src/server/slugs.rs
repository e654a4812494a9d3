//! Fresh names for tunnels that ask for none: `quiet-lime-82`. The engine takes the first free one.

use crate::names::Slug;

const PROPOSALS: usize = 8;

/// A few random names, all of them valid slugs.
pub(super) fn propose() -> Vec<Slug> {
    std::iter::repeat_with(|| petname::petname(2, "-"))
        .take(4 * PROPOSALS)
        .flatten()
        .filter(|pair| pair.len() <= 24)
        .filter_map(|pair| Slug::parse(&format!("{pair}-{}", number())).ok())
        .take(PROPOSALS)
        .collect()
}

/// 10 to 99, from the system's random numbers.
fn number() -> u8 {
    let mut byte = [0u8; 2];
    // Failing here only makes names less varied; they are no secret.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    10 + (u16::from_be_bytes(byte) % 90) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_valid_and_differ() {
        let names: std::collections::BTreeSet<_> = (0..20).flat_map(|_| propose()).collect();
        assert!(names.len() > 100, "{}", names.len());
        assert!(names.iter().all(|n| !n.is_reserved()));
    }
}
