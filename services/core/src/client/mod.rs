//! What a client decides: where to look next, when to wait, when to plan anew, and what a download says of speed.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`choice`] | which mirrors are tried when one is chosen, and which it is |
//! | [`climb`] | which source is asked next for one thing of one build |
//! | [`speed`] | which downloads count as a mirror's speed, and who comes first by it |
//! | [`sources`] | what a package manager is told of the chosen one |

pub mod choice;
pub mod climb;
pub mod sources;
pub mod speed;
