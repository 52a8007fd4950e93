//! Archives of any size, the same for the same seed: Debian's layout, sizes spread as Debian's are, and changes as a
//! day's upload makes them.

mod layout;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::tree::noise;
use layout::{Index, PoolFile, Suite};

/// Files of a suite's pool: a larger archive has more suites, not larger ones, so that a change costs the same indexes.
const FILES_PER_SUITE: usize = 50_000;
/// Spread of the logarithms of sizes, about that of Debian's packages.
const SIGMA: f64 = 2.0;
const SIZE_MIN_BYTES: u64 = 64;
/// Files that a source brings with it, about: a change takes neighbours.
const NEIGHBOURS: usize = 8;
/// Of so many changed files of the pool one is written anew under its old name.
const REWRITTEN_OF: usize = 12;
/// File systems allow 65,000 links (ext4).
const LINKS_MAX: usize = 60_000;
/// 2023-11-14, the first day of every archive.
const BEGIN_S: u64 = 1_700_000_000;

/// What an archive is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub files: usize,
    /// Of all files together, about.
    pub bytes: u64,
    /// Distinct contents of the pool: its files become hard links to so many. Each has its own when left out.
    pub contents: Option<usize>,
    pub seed: u64,
}

/// An archive in a folder.
#[derive(Debug)]
pub struct ArchiveTree {
    tree: PathBuf,
    shape: Shape,
    pool: Vec<PoolFile>,
    suites: Vec<Suite>,
    random: Random,
    round: u64,
    bytes: u64,
    _dir: TempDir,
}

/// What a change did.
#[derive(Clone, Debug)]
pub struct Change {
    /// Paths to look at: new, changed and gone.
    pub paths: BTreeSet<String>,
    /// Files with new content.
    pub files: usize,
    /// Bytes of the new content.
    pub payload_bytes: u64,
}

impl Change {
    /// Writes the list for `--changed`.
    pub fn write_list(&self, file: &Path) {
        let mut text: String = self
            .paths
            .iter()
            .flat_map(|path| [path.as_str(), "\n"])
            .collect();
        text.shrink_to_fit();
        std::fs::write(file, text).unwrap();
    }
}

impl ArchiveTree {
    /// Makes the archive in a temporary folder.
    pub fn new(shape: &Shape) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(shape.seed);
        let suites = layout::suites(shape.files.div_ceil(FILES_PER_SUITE));
        let indexes: usize = suites.iter().map(|suite| suite.indexes().count()).sum();
        let in_indexes = indexes + 1;
        assert!(
            shape.files > in_indexes + 10,
            "an archive has at least {} files",
            in_indexes + 10
        );
        let pool = layout::pool(shape.files - in_indexes, &mut random);
        let mut tree = Self {
            tree: dir.path().join("tree"),
            shape: shape.clone(),
            pool,
            suites,
            random,
            round: 0,
            bytes: 0,
            _dir: dir,
        };
        tree.write_first();
        tree
    }

    pub fn path(&self) -> &Path {
        &self.tree
    }

    pub fn files(&self) -> usize {
        self.shape.files
    }

    /// Bytes of all files together, when it was made.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An upload: so many files get new content, the indexes of one suite among them. Most of the others are new
    /// versions that take the place of old ones, some keep their names.
    pub fn change(&mut self, files: usize) -> Change {
        self.round += 1;
        let mut change = Change {
            paths: BTreeSet::new(),
            files: 0,
            payload_bytes: 0,
        };
        let suite = self.random.below(self.suites.len());
        let mut indexes: Vec<Index> = self.suites[suite].updates().collect();
        indexes.push(layout::trace());
        assert!(
            files > indexes.len(),
            "a change has at least {} files",
            indexes.len() + 1
        );
        for index in &indexes {
            self.write_index(index);
            change.paths.insert(index.path.clone());
            change.payload_bytes += index.bytes;
        }
        let mut uploaded = BTreeSet::new();
        while uploaded.len() < files - indexes.len() {
            let first = self.random.below(self.pool.len());
            let left = files - indexes.len() - uploaded.len();
            uploaded.extend((first..self.pool.len()).take(NEIGHBOURS.min(left)));
        }
        for (place, number) in uploaded.into_iter().enumerate() {
            let old = self.pool[number].path();
            std::fs::remove_file(self.tree.join(&old)).unwrap();
            change.paths.insert(old);
            if place % REWRITTEN_OF != 0 {
                self.pool[number].revision += 1;
            }
            let new = self.pool[number].path();
            let bytes = self.pool[number].bytes;
            let seed = self.seed(number as u64);
            self.write(&new, seed, bytes);
            change.paths.insert(new);
            change.payload_bytes += bytes;
        }
        change.files = files;
        change
    }

    fn write_first(&mut self) {
        let mut indexes: Vec<Index> = self.suites.iter().flat_map(Suite::indexes).collect();
        indexes.push(layout::trace());
        let of_indexes: u64 = indexes.iter().map(|index| index.bytes).sum();
        for index in &indexes {
            self.write_index(index);
        }
        let for_pool = self.shape.bytes.saturating_sub(of_indexes);
        let scale = for_pool as f64 / self.pool.iter().map(|file| file.weight).sum::<f64>();
        for file in &mut self.pool {
            file.bytes = ((file.weight * scale) as u64).max(SIZE_MIN_BYTES);
        }
        self.bytes = of_indexes + self.pool.iter().map(|file| file.bytes).sum::<u64>();
        let distinct = self.shape.contents.unwrap_or(self.pool.len());
        let distinct = distinct.max(self.pool.len().div_ceil(LINKS_MAX));
        let mut folders = PathBuf::new();
        for number in 0..self.pool.len() {
            let path = self.pool[number].path();
            if number < distinct {
                self.write(&path, self.seed(number as u64), self.pool[number].bytes);
                continue;
            }
            let file = self.tree.join(&path);
            make_folder(file.parent().unwrap(), &mut folders);
            let first = number % distinct;
            self.pool[number].bytes = self.pool[first].bytes;
            std::fs::hard_link(self.tree.join(self.pool[first].path()), file).unwrap();
        }
    }

    fn write_index(&self, index: &Index) {
        let number = index.path.bytes().fold(u64::MAX / 2, |hash, byte| {
            hash.wrapping_mul(31) ^ u64::from(byte)
        });
        self.write(&index.path, self.seed(number), index.bytes);
    }

    /// Of a content: another one in each round.
    fn seed(&self, number: u64) -> u64 {
        let mut random =
            Random(self.shape.seed ^ number.rotate_left(20) ^ self.round.rotate_left(50));
        random.next()
    }

    /// A file's date is the round's, as dates go up with uploads. What was there is not written over: it may be linked.
    fn write(&self, path: &str, seed: u64, bytes: u64) {
        let file = self.tree.join(path);
        make_folder(file.parent().unwrap(), &mut PathBuf::new());
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}"),
        }
        std::fs::write(&file, noise(seed, usize::try_from(bytes).unwrap())).unwrap();
        let date = Duration::from_secs(BEGIN_S + self.round * 3600 + seed % 3600);
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + date).unwrap();
    }
}

/// Makes a folder, unless it was the last one that was made.
fn make_folder(folder: &Path, last: &mut PathBuf) {
    if folder != last {
        std::fs::create_dir_all(folder).unwrap();
        folder.clone_into(last);
    }
}

/// Numbers that are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A size's weight: lognormal (Box-Muller).
    fn weight(&mut self) -> f64 {
        let (radius, angle) = (self.unit(), self.unit());
        let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        (SIGMA * normal).exp()
    }
}
