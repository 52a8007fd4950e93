//! Names as somebody chooses them who wants out of a folder. Tests of several crates take it in with `#[path]`: a crate
//! for it would have to come before all of them.
#![allow(dead_code, clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

/// Names of one test, over all its layers.
pub(crate) const NAMES: u32 = 100_000;

/// Names where each makes folders and files: some, and [`NAMES`] with `MIRRORLOG_NAMES=all`.
pub(crate) fn names_on_disk() -> u32 {
    match std::env::var("MIRRORLOG_NAMES").is_ok_and(|how| how == "all") {
        true => NAMES,
        false => NAMES / 5,
    }
}

/// Names that are in every tree, and in every folder around it.
pub(crate) const PLAIN: [&str; 8] = ["a", "b", "pool", "poo", "pool.", "dists", "x.deb", "secret"];

/// Names that are not what they look like.
const ODD: [&[u8]; 34] = [
    b"..",
    b"..",
    b"..",
    b".",
    b"",
    b"@",
    b"@new",
    b"@old",
    b"@x",
    b"%2e%2e",
    b"%2f",
    b"..%2f",
    b"%00",
    b"%252e",
    b"..\\",
    b"..;",
    b".. ",
    b"...",
    b"~",
    b"~root",
    b"-rf",
    b"$(id)",
    b"`id`",
    b";id",
    b"a\0b",
    b"\0",
    b"a\nb",
    b"\n",
    b"\x1b[2J",
    b"\xff\xfe",
    b"\xc0\xae\xc0\xae",
    "\u{ff0e}\u{ff0e}".as_bytes(),
    b".mirrorlog-export",
    b"a/..",
];

/// Numbers that are the same in every run (xorshift64).
pub(crate) struct Hostile(pub(crate) u64);

impl Hostile {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub(crate) fn plain(&mut self) -> &'static [u8] {
        PLAIN[self.below(PLAIN.len())].as_bytes()
    }

    fn component(&mut self) -> Vec<u8> {
        match self.below(16) {
            0..=8 => self.plain().to_vec(),
            9..=13 => ODD[self.below(ODD.len())].to_vec(),
            14 => vec![b'n'; 250 + self.below(12)],
            _random => (0..1 + self.below(4))
                .map(|_| self.below(256) as u8)
                .collect(),
        }
    }

    /// A path, most of them bad in one place or more.
    pub(crate) fn path(&mut self) -> Vec<u8> {
        let depth = match self.below(10_000) {
            0 => 200 + self.below(2000),
            _usual => 1 + self.below(5),
        };
        let all_plain = self.below(4) == 0;
        let part = |names: &mut Self| match all_plain {
            true => names.plain().to_vec(),
            false => names.component(),
        };
        let mut path = (0..depth)
            .map(|_| part(self))
            .collect::<Vec<_>>()
            .join(&b'/');
        match self.below(24) {
            0 => path.insert(0, b'/'),
            1 => path.push(b'/'),
            _neither => {}
        }
        path
    }

    /// What a symlink says: out, back in, round in circles, through other symlinks.
    pub(crate) fn target(&mut self) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = vec![b"..".to_vec(); self.below(4)];
        for _ in 0..self.below(4) {
            let up = self.below(4) == 0;
            parts.push(if up {
                b"..".to_vec()
            } else {
                self.plain().to_vec()
            });
        }
        match self.below(12) {
            0 => self.path(),
            1 => [b"/".to_vec(), parts.join(&b'/')].concat(),
            2 => b"/etc/passwd".to_vec(),
            _relative => parts.join(&b'/'),
        }
    }

    /// A path in a URL, encoded once, twice, half or wrongly.
    pub(crate) fn url(&mut self, prefixes: &[&str]) -> String {
        let mut url = prefixes[self.below(prefixes.len())].to_owned();
        for byte in self.path() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~/@".contains(&byte);
            match self.below(if plain { 12 } else { 3 }) {
                0 => write!(url, "%{byte:02X}").unwrap(),
                1 => write!(url, "%{byte:02x}").unwrap(),
                2 => write!(url, "%25{byte:02x}").unwrap(),
                _as_it_is => url.push(char::from(byte)),
            }
        }
        match self.below(40) {
            0 => url.push('%'),
            1 => url.push_str("%zz"),
            2 => url.push_str("?../../secret"),
            _nothing => {}
        }
        url
    }
}

/// Whether a path is plainly below a folder, told without what is tested.
pub(crate) fn is_below(path: &[u8]) -> bool {
    let parts: Vec<_> = Path::new(OsStr::from_bytes(path)).components().collect();
    let plain = |part: &Component<'_>| matches!(part, Component::Normal(name) if name.len() <= 255);
    let again: Vec<&[u8]> = parts
        .iter()
        .map(|part| part.as_os_str().as_bytes())
        .collect();
    parts.iter().all(plain)
        && !path.is_empty()
        && again.join(&b'/') == path
        && path.len() <= 4096
        && !path.iter().any(|byte| b"\0\n".contains(byte))
        && path[0] != b'@'
}
