//! Where the files of a Debian archive are.

use super::{FILES_PER_SUITE, Random};

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Bytes that a package takes in an index, compressed.
const ENTRY_XZ_BYTES: u64 = 140;
const ENTRY_GZ_BYTES: u64 = 185;
const RELEASE_BYTES: u64 = 40_000;
const SIGNATURE_BYTES: u64 = 1_200;
/// Packages of an index: of a suite, and of what is published for it after its release.
const SUITE_PACKAGES: u64 = FILES_PER_SUITE as u64 / 4;
const UPDATES_PACKAGES: u64 = SUITE_PACKAGES / 20;
/// In which a source begins, as often as in Debian, about: libraries have folders of their own.
const SYLLABLES: [&str; 16] = [
    "ba", "co", "de", "fi", "gno", "ha", "ka", "lu", "mo", "ne", "py", "ra", "so", "te", "vi", "xo",
];

/// One file of the pool.
#[derive(Clone, Debug)]
pub(super) struct PoolFile {
    /// `pool/main/libb/libbaco/libbaco-dev_1.4-`
    stem: String,
    /// `_amd64.deb`
    tail: &'static str,
    pub(super) revision: u32,
    pub(super) weight: f64,
    pub(super) bytes: u64,
}

impl PoolFile {
    pub(super) fn path(&self) -> String {
        let Self {
            stem,
            revision,
            tail,
            ..
        } = self;
        format!("{stem}{revision}{tail}")
    }
}

/// One file below `dists`, or beside it.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// A release of the distribution, and its updates.
#[derive(Clone, Debug)]
pub(super) struct Suite(usize);

impl Suite {
    /// The indexes that never change again, and those of the updates.
    pub(super) fn indexes(&self) -> impl Iterator<Item = Index> + use<> {
        let name = format!("release{}", self.0);
        indexes(&name, SUITE_PACKAGES).chain(self.updates())
    }

    /// The indexes that an upload changes.
    pub(super) fn updates(&self) -> impl Iterator<Item = Index> + use<> {
        indexes(&format!("release{}-updates", self.0), UPDATES_PACKAGES)
    }
}

pub(super) fn suites(count: usize) -> Vec<Suite> {
    (1..=count).map(Suite).collect()
}

/// The archive's trace, new with each upload.
pub(super) fn trace() -> Index {
    Index {
        path: "project/trace/master".to_owned(),
        bytes: 300,
    }
}

fn indexes(suite: &str, packages: u64) -> impl Iterator<Item = Index> + use<> {
    let mut all = Vec::new();
    for architecture in ARCHITECTURES {
        for (suffix, entry_bytes) in [("gz", ENTRY_GZ_BYTES), ("xz", ENTRY_XZ_BYTES)] {
            all.push(Index {
                path: format!("dists/{suite}/main/binary-{architecture}/Packages.{suffix}"),
                bytes: packages * entry_bytes,
            });
        }
    }
    for (name, bytes) in [
        ("Release", RELEASE_BYTES),
        ("InRelease", RELEASE_BYTES + SIGNATURE_BYTES),
    ] {
        all.push(Index {
            path: format!("dists/{suite}/{name}"),
            bytes,
        });
    }
    all.into_iter()
}

/// Files of many sources: each has its three source files and packages for one or all architectures.
pub(super) fn pool(files: usize, random: &mut Random) -> Vec<PoolFile> {
    let mut pool = Vec::with_capacity(files);
    let mut source = 0;
    while pool.len() < files {
        source += 1;
        let name = source_name(source, random);
        let letter = if name.starts_with("lib") {
            &name[..4]
        } else {
            &name[..1]
        };
        let folder = format!("pool/main/{letter}/{name}");
        let version = format!("{}.{}", random.below(10), random.below(30));
        let mut file = |package: &str, separator: &str, tail, random: &mut Random| {
            pool.push(PoolFile {
                stem: format!("{folder}/{package}_{version}{separator}"),
                tail,
                revision: 1,
                weight: random.weight(),
                bytes: 0,
            });
        };
        file(&name, "-", ".dsc", random);
        file(&name, "-", ".debian.tar.xz", random);
        file(&name, ".", ".orig.tar.xz", random);
        for package in 0..=random.below(4) {
            let package = match package {
                0 => name.clone(),
                1 => format!("{name}-doc"),
                number => format!("{name}-part{number}"),
            };
            if package.ends_with("-doc") {
                file(&package, "-", "_all.deb", random);
                continue;
            }
            file(&package, "-", "_amd64.deb", random);
            file(&package, "-", "_arm64.deb", random);
        }
    }
    pool.truncate(files);
    pool
}

/// Of a few syllables and the number, so that none comes twice.
fn source_name(number: usize, random: &mut Random) -> String {
    let prefix = if random.below(4) == 0 { "lib" } else { "" };
    let mut syllable = || SYLLABLES[random.below(SYLLABLES.len())];
    let (first, second) = (syllable(), syllable());
    format!("{prefix}{first}{second}{number}")
}
