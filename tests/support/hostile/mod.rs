//! Hostile names, and whoever swaps files for symlinks: for tests of the crates that take it in by its path.

pub(crate) mod around;
pub(crate) mod names;
