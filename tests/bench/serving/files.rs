//! What is served, and what is asked of it.

use std::path::{Path, PathBuf};

use e2e::{Ask, Http, Tree, noise, sha256};
use reqwest::Method;

use crate::{Case, Peer};

const LARGE: &str = "pool/main/l/large/large_1_amd64.deb";
/// Bytes of one range.
const RANGE_BYTES: usize = 256 * 1024;
/// Of so many small files one is also asked for by its date while things are checked.
const DATED_EVERY: usize = 10;
/// A step through the files that visits all of them, unless their number is a multiple of it.
const STEP: usize = 7919;

/// A tree in a folder of its own below a root.
pub(crate) struct Files {
    tree: Tree,
    below: &'static str,
    small: Vec<File>,
    large: File,
}

struct File {
    path: String,
    size_bytes: usize,
    digest: String,
}

/// Dates of the small files, as a server gives them.
pub(crate) struct Dates(Vec<String>);

impl Files {
    /// Small files of 512 bytes to 20 KiB, most of them small, as packages of a distribution are; and a large one.
    pub(crate) fn write(small: usize, large_bytes: usize, below: &'static str) -> Self {
        let tree = Tree::new();
        let write = |path: String, content: Vec<u8>| {
            tree.write(&format!("{below}/{path}"), &content);
            let digest = sha256(&content);
            let size_bytes = content.len();
            File {
                path,
                size_bytes,
                digest,
            }
        };
        let sizes = |number: usize| (512 << (number % 6)) + number * 37 % 4096;
        let content = |number| noise(number as u64, sizes(number));
        let small = (0..small).map(|number| write(path(number), content(number)));
        let small = small.collect();
        let large = write(LARGE.to_owned(), noise(u64::MAX, large_bytes));
        Self {
            tree,
            below,
            small,
            large,
        }
    }

    /// The folder above the tree.
    pub(crate) fn root(&self) -> &Path {
        self.tree.path()
    }

    /// What is published.
    pub(crate) fn tree(&self) -> PathBuf {
        self.root().join(self.below)
    }

    /// Bytes of all small files, and of the large one.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let small = self.small.iter().map(|file| file.size_bytes).sum();
        (small, self.large.size_bytes)
    }

    /// Sees that a server sends each file as it is, the middle of the large one, and 304 to who has a file.
    pub(crate) fn check(&self, http: &Http, peer: &Peer) -> Dates {
        let url = |file: &File| format!("{}{}/{}", peer.url, peer.prefix, file.path);
        let whole = |file: &File| {
            let answer = http.get(&url(file));
            let name = peer.name;
            assert_eq!(answer.status, 200, "{name}: {}", file.path);
            assert_eq!(sha256(&answer.body), file.digest, "{name}: {}", file.path);
            answer
        };
        let mut dates = Vec::new();
        for (number, file) in self.small.iter().enumerate() {
            let date = whole(file).header("last-modified").to_owned();
            if number % DATED_EVERY == 0 {
                let asked = [("if-modified-since", date.as_str())];
                let answer = http.ask(Method::GET, &url(file), &asked);
                assert_eq!(answer.status, 304, "{}: {}", peer.name, file.path);
            }
            dates.push(date);
        }
        let large = whole(&self.large).body;
        let (first, last) = self.range(self.ranges() / 2);
        let asked = format!("bytes={first}-{last}");
        let answer = http.ask(Method::GET, &url(&self.large), &[("range", &asked)]);
        assert_eq!(answer.status, 206, "{}", peer.name);
        assert!(answer.body == large[first..=last], "{}", peer.name);
        Dates(dates)
    }

    /// What a client asks for in turn, all over the tree.
    pub(crate) fn asks(&self, case: Case, prefix: &str, dates: &Dates) -> Vec<Ask> {
        let ask = |path: &str, header| Ask {
            path: format!("{prefix}/{path}"),
            header,
        };
        let spread = |count: usize| (0..count).map(move |number| number * STEP % count);
        let small = spread(self.small.len());
        match case {
            Case::Small => small.map(|at| ask(&self.small[at].path, None)).collect(),
            Case::Unchanged => {
                let dated = |at: usize| Some(("If-Modified-Since", dates.0[at].clone()));
                small
                    .map(|at| ask(&self.small[at].path, dated(at)))
                    .collect()
            }
            Case::Range => {
                let ranged = |number| {
                    let (first, last) = self.range(number);
                    ask(LARGE, Some(("Range", format!("bytes={first}-{last}"))))
                };
                spread(self.ranges()).map(ranged).collect()
            }
            Case::Large => vec![ask(LARGE, None)],
        }
    }

    /// The large file's path.
    pub(crate) fn large(&self, prefix: &str) -> String {
        format!("{prefix}/{}", self.large.path)
    }

    fn ranges(&self) -> usize {
        (self.large.size_bytes / RANGE_BYTES).max(1)
    }

    /// First and last byte of a range.
    fn range(&self, number: usize) -> (usize, usize) {
        let first = number * RANGE_BYTES;
        (first, (first + RANGE_BYTES).min(self.large.size_bytes) - 1)
    }
}

fn path(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
    format!(
        "pool/main/{letter}/{letter}pkg{}/{letter}pkg_{number}_amd64.deb",
        number / 100
    )
}
