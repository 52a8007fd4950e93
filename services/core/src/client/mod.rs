//! What a client decides: where to look next, when to wait, when to plan anew, and what a download says of speed.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`climb`] | which source is asked next for one thing of one build |
//! | [`speed`] | which downloads count as a mirror's speed, and who comes first by it |

pub mod climb;
pub mod speed;
