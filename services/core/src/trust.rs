//! Who is trusted for what: the root document, how it changes, and which version may follow which.
//!
//! The rules are those of TUF's root role (specification 1.0, section 5.3). A person pins one version; from there on each
//! version is accepted only when a threshold of the root keys of the version before, and of its own, have signed it.
//! Whoever holds fewer root keys than the threshold can neither make a version nor hold one up.

pub mod amend;
pub mod chain;
pub mod root;

#[cfg(test)]
mod tests;

pub use amend::Amendment;
pub use chain::{RootError, Trusted};
pub use root::{Role, RoleKeys, Root, RootFault, RootParts, RootVersion};
