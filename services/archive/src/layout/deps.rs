//! `--deps`.
use super::debian::{Check, Index};
use crate::publish::{Faults, PublishError};
pub(super) fn check(
    _check: &Check<'_>,
    _indexes: &[Index],
    _faults: &mut Faults,
) -> Result<(), PublishError> {
    Ok(())
}
