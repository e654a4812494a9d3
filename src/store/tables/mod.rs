//! One file per table group: how its rows are written and read.

pub(super) mod audit;
pub(super) mod book;
pub(super) mod domains;
pub(super) mod networks;
pub(super) mod old;
pub(super) mod people;
pub(super) mod shares;
pub(super) mod tunnels;
