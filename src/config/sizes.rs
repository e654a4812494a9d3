//! Sizes of memory as they are written, and the tables that consist of them. Pure.

use super::DormantConfig;
use super::file::Node;
use super::section::{Fix, Section};
use super::values::{count, text};

const KIB: u64 = 1 << 10;
const UNITS: [(&str, u64); 3] = [("GiB", KIB << 20), ("MiB", KIB << 10), ("KiB", KIB)];

/// `64MiB`: a whole number and a unit; at least `least` bytes.
pub(super) fn size(least: u64) -> impl Fn(&Node) -> Result<u64, Fix> {
    move |node| {
        if let Node::Integer(number) = node {
            return Err(format!("{number} has no unit; write \"{number}MiB\""));
        }
        let text = text(node)?;
        let read = parse(text.trim());
        let bytes = read.ok_or_else(|| format!("{text:?} is no size; write it like \"64MiB\""))?;
        if bytes < least {
            return Err(format!("{text:?} is too small; write \"{}\"", show(least)));
        }
        Ok(bytes)
    }
}

fn parse(text: &str) -> Option<u64> {
    let with_unit = |(unit, bytes): &(&str, u64)| {
        let number = text.strip_suffix(unit)?.trim_end();
        number.parse::<u64>().ok()?.checked_mul(*bytes)
    };
    UNITS.iter().find_map(with_unit)
}

/// As it would be written.
pub(super) fn show(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{}KiB", bytes.div_ceil(KIB)),
    }
}

/// A bound of one and the bound of all, the second of which has to leave room for the first.
pub(super) fn memory_pair(
    section: &mut Section<'_>,
    keys: (&'static str, &'static str),
    least: u64,
    defaults: (u64, u64),
) -> (u64, u64) {
    let one = section.get(keys.0, size(least)).unwrap_or(defaults.0);
    let all = section.get(keys.1, size(least));
    if all.is_some_and(|all| all < one) {
        let what = format!("is below {}; write \"{}\" or more", keys.0, show(one));
        section.object(keys.1, what);
    }
    (one, all.unwrap_or(defaults.1.max(one)))
}

/// `[dormant]`.
pub(super) fn dormant(mut section: Section<'_>) -> DormantConfig {
    const MANY: usize = 1_000_000;
    /// What a link holds that carries nothing, and some.
    const LEAST: u64 = 64 * KIB;
    let default = DormantConfig::default();
    let links_per_user = section
        .get("links_per_user", count(1, MANY))
        .unwrap_or(default.links_per_user);
    let links = section.get("links", count(1, MANY));
    if links.is_some_and(|links| links < links_per_user) {
        let what = format!("is below links_per_user; write {links_per_user} or more");
        section.object("links", what);
    }
    let (memory_per_user, memory) = memory_pair(
        &mut section,
        ("memory_per_user", "memory"),
        LEAST,
        (default.memory_per_user, default.memory),
    );
    section.finish();
    DormantConfig {
        links: links.unwrap_or(default.links.max(links_per_user)),
        links_per_user,
        memory,
        memory_per_user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_shown() {
        for (text, bytes) in [("64KiB", 64 * KIB), ("1MiB", KIB * KIB), ("3GiB", 3 << 30)] {
            assert_eq!(parse(text), Some(bytes));
            assert_eq!(show(bytes), text);
        }
        for wrong in ["", "64", "64MB", "-1MiB", "1.5GiB", "MiB", "99999999999GiB"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
