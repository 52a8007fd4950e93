//! Upper bounds on everything that comes from outside.
//!
//! Each limit says which attack or accident it stops.

/// Longest path in a manifest, in bytes (Linux' `PATH_MAX`); stops names no file system can hold.
pub const PATH_MAX_BYTES: usize = 4096;
/// Longest path component, in bytes (Linux' `NAME_MAX`).
pub const NAME_MAX_BYTES: usize = 255;
/// Longest symlink target, in bytes.
pub const TARGET_MAX_BYTES: usize = 4095;
/// Symlinks followed while one path is resolved; stops loops (Linux follows 40).
pub const SYMLINK_HOPS_MAX: usize = 16;
/// Folders above a path that are looked at for symlinks; stops a path of two thousand names from costing as many
/// look-ups.
pub const LINK_FOLDERS_MAX: usize = 128;
/// Longest channel, mirror or pool id, in bytes (a DNS label).
pub const ID_MAX_BYTES: usize = 63;
/// Longest mount, in bytes.
pub const MOUNT_MAX_BYTES: usize = 255;

/// Largest manifest page, in bytes of canonical encoding; bounds what one digest can make a reader load.
pub const PAGE_MAX_BYTES: usize = 64 * 1024;
/// Most items in one page.
pub const PAGE_MAX_ITEMS: usize = 512;
/// Fewest items before a border is looked for (the last page of a level may have fewer).
pub const PAGE_MIN_ITEMS: usize = 32;
/// Mean distance of natural borders past the minimum, in items; a power of two.
pub const PAGE_MEAN_ITEMS: u64 = 128;
/// Deepest manifest: with two items a page this is already 2^24 pages; stops endless descent.
pub const MANIFEST_MAX_LEVELS: u8 = 24;
/// Most entries in a manifest: ordinals are `u32`.
pub const MANIFEST_MAX_ENTRIES: u64 = u32::MAX as u64;
/// Largest file, in bytes (8 EiB - 1, what `off_t` holds).
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// Largest delta that rides inside an event, in bytes of encoding; larger ones are blobs.
pub const INLINE_DELTA_MAX_BYTES: usize = 64 * 1024;
/// Largest event on the log, in bytes; stops one message from filling a consumer's memory.
pub const EVENT_MAX_BYTES: usize = 256 * 1024;
/// Largest signed statement, in bytes.
pub const STATEMENT_MAX_BYTES: usize = 128 * 1024;
/// Largest report, in bytes (NATS' default `max_payload` is 1 MiB).
pub const REPORT_MAX_BYTES: usize = 768 * 1024;
/// Most notices in a snapshot.
pub const NOTICES_MAX: usize = 64;
/// Longest notice or reason, in bytes.
pub const TEXT_MAX_BYTES: usize = 1024;
/// Most retractions of one channel.
pub const RETRACTIONS_MAX: usize = 4096;
/// Most builds in one report.
pub const REPORT_BUILDS_MAX: usize = 64;
/// Most outcomes of orders in one report.
pub const REPORT_ORDERS_MAX: usize = 64;
/// Builds that one order may ask a mirror to fetch; stops reports from growing past [`REPORT_BUILDS_MAX`].
pub const BACKFILL_BUILDS_MAX: usize = 32;

/// Largest word of a mirror to its peers, in bytes; stops one of them from filling the others' memory.
pub const PEER_NOTICE_MAX_BYTES: usize = 128 * 1024;
/// Most builds that a mirror tells its peers of.
pub const PEER_BUILDS_MAX: usize = 1024;
/// Longest `host:port`, in bytes: a DNS name and a port.
pub const PEER_ADDRESS_MAX_BYTES: usize = 260;

/// Most names and globs of a view; bounds what a report makes readers match each path with.
pub const VIEW_NAMES_MAX: usize = 64;
/// Most bytes of all of them.
pub const VIEW_MAX_BYTES: usize = 4 * 1024;

/// Most signatures looked at under one statement; stops a file of a million wrong ones from costing a million checks.
pub const SIGNATURES_MAX: usize = 64;
/// Highest threshold: half of [`SIGNATURES_MAX`], so that the signatures of an old set of keys and of a new one, which
/// a change of keys needs, always fit under one root document.
pub const THRESHOLD_MAX: u32 = 32;
/// Most keys of a role.
pub const ROLE_KEYS_MAX: usize = 64;
/// Most mirrors in a roster.
pub const ROSTER_MAX: usize = 10_000;
/// Most keys of a mirror: its old one and its new one. With this, a full roster still fits [`ROOT_MAX_BYTES`].
pub const MIRROR_KEYS_MAX: usize = 2;
/// Largest root document without its signatures, in bytes.
pub const ROOT_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Clock skew tolerated between two honest machines, in milliseconds.
pub const CLOCK_SKEW_MS: i64 = 10 * 60 * 1000;
