//! Tests that stand outside the library: its layers, and the real programs.

mod layers;
