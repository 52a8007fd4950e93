//! What reads bytes of others, each as one function of bytes.
//!
//! A function here hands hostile bytes to a decoder. It panics when the decoder does, and when something that was
//! accepted is not what it must be: within its limits, and the same after it was written and read again. What is
//! refused is fine.
//!
//! `fuzz/` looks for inputs that make a function panic; `tests/corpus.rs` plays those that were kept. README.md says how.
#![allow(clippy::unwrap_used, clippy::expect_used)] // they are assertions

mod apt;
mod asked;
mod configs;
mod debian;
mod dns;
mod ids;
mod manifest;
mod openbsd;
mod sources;
mod views;
mod web;
mod wired;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Longest input that is worth trying, in bytes.
    pub max_bytes: usize,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
}

macro_rules! decoders {
    ($($group:ident in $module:ident: $($name:ident $max_bytes:literal),*;)*) => {
        $(
            #[doc = concat!("Those of the fuzz target `", stringify!($module), "`.")]
            pub const $group: &[Decoder] = &[$(Decoder {
                name: stringify!($name),
                max_bytes: $max_bytes,
                run: $module::$name,
            }),*];
        )*
        /// All of them, by the name of their fuzz target. One for all would be slow: after each input libFuzzer looks
        /// at all code that the target could reach.
        pub const TARGETS: &[(&str, &[Decoder])] = &[$((stringify!($module), $group)),*];
    };
}

decoders! {
    IDS in ids: ids 512;
    MANIFEST in manifest: page 4096, manifest 2048, path 4096;
    VIEWS in views: view 512;
    WIRED in wired: statement 1024, snapshot 1024, head 512, retraction 512, report 2048, verdict 512, order 512,
        root 2048, signed_root 4096, signed 1024, event 2048, delta 1024, peer_notice 512, order_request 512, kv 128,
        feedback_message 256, directory_state 1024, mirror_state 1024, signify_public 512, signify_secret 512,
        signify_signature 512, signify_embedded 1024;
    OPENBSD in openbsd: checksums 1024, listed_names 1024, packing_list 1024, package_name 256, spec 512,
        package_file 2048;
    DEBIAN in debian: release 2048, inrelease 2048, packages 1024, sources 1024, packed_index 1024, relation 256;
    WEB in web: url_path 512, conditions 512, feedback_body 1024, directory_answers 1024, directory_query 512,
        forwarded 512;
    ASKED in asked: consumer_question 1024;
    DNS in dns: dns 512;
    APT in apt: apt_message 1024, apt_uri 512;
    SOURCES in sources: apt_sources 1024, apt_list 1024, installurl 512;
    CONFIGS in configs: config_archive 2048, config_mirror 2048, config_consistency 2048, config_directory 2048,
        config_environment 1024;
}

/// All of them.
pub fn decoders() -> impl Iterator<Item = &'static Decoder> {
    TARGETS.iter().flat_map(|(_, decoders)| *decoders)
}

/// The decoder of that name, and the name of its fuzz target.
pub fn find(name: &str) -> Option<(&'static str, &'static Decoder)> {
    TARGETS.iter().find_map(|(target, decoders)| {
        let found = decoders.iter().find(|decoder| decoder.name == name);
        found.map(|decoder| (*target, decoder))
    })
}

/// The one of a target's decoders that `MIRRORLOG_FUZZ` names.
pub fn chosen(decoders: &'static [Decoder]) -> &'static Decoder {
    let name = std::env::var("MIRRORLOG_FUZZ").unwrap_or_default();
    let chosen = decoders.iter().find(|decoder| decoder.name == name);
    chosen.unwrap_or_else(|| panic!("MIRRORLOG_FUZZ={name:?} names no decoder of this target"))
}

/// Cuts the input where `separator` first stands; all of it and nothing when it does not.
fn cut(data: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == separator) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}
