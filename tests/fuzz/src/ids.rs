//! Ids, numbers and digests in text.

use std::fmt::Display;
use std::str::FromStr;

use mirrorlog_core::directory::place::Country;
use mirrorlog_core::directory::pool::PoolName;
use mirrorlog_core::id::{Build, ChannelId, Digest, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::limits::{ID_MAX_BYTES, MOUNT_MAX_BYTES};

/// What is read and written again is the same.
fn comes_back<T: FromStr + Display + PartialEq>(text: &str) -> Option<String> {
    let read: T = text.parse().ok()?;
    let written = read.to_string();
    let again = written.parse::<T>().ok().expect("what was written is read");
    assert!(again == read && again.to_string() == written, "{text:?}");
    Some(written)
}

pub(crate) fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let names = [
        comes_back::<ChannelId>(text),
        comes_back::<MirrorId>(text),
        comes_back::<PoolId>(text),
    ];
    for name in names.into_iter().flatten() {
        assert!(name == text && (1..=ID_MAX_BYTES).contains(&name.len()));
        assert!(!name.contains(['/', '.', '\\', '@']), "it is a file's name");
    }
    if let Some(mount) = comes_back::<Mount>(text) {
        assert!(mount == text && mount.len() <= MOUNT_MAX_BYTES);
        assert!(mount.starts_with('/') && !mount.ends_with('/') && !mount.contains("//"));
        assert!(mount.split('/').all(|part| ![".", ".."].contains(&part)));
    }
    if let Some(build) = comes_back::<Build>(text) {
        assert_ne!(build, "0");
    }
    if let Some(digest) = comes_back::<Digest>(text) {
        assert_eq!(digest, text.to_ascii_lowercase());
    }
    comes_back::<Layout>(text);
    comes_back::<Country>(text);
    let labels: Vec<&str> = text.split('.').collect();
    if let Some(pool) = PoolName::parse(&labels) {
        assert_eq!(PoolName::parse(&labels), Some(pool));
    }
}
