//! Tests that stand outside the library: its layers, and the real programs.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers fail like the test itself; clippy only knows functions marked #[test]"
)]

mod layers;
