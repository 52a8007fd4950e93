//! Checksums as Debian's files state them.

use std::io::{self, Read};

use mirrorlog_core::id::Digest;

const BUFFER_BYTES: usize = 128 * 1024;

/// A digest algorithm of a Release or an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// The name of a Release's field, and of a by-hash folder.
    pub const fn release_field(self) -> &'static str {
        match self {
            Self::Md5 => "MD5Sum",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Hashes all of `input`.
    pub fn hash(self, input: &mut dyn Read) -> io::Result<Vec<u8>> {
        match self {
            Self::Md5 => drain::<md5::Md5>(input),
            Self::Sha1 => drain::<sha1::Sha1>(input),
            Self::Sha256 => drain::<sha2::Sha256>(input),
            Self::Sha512 => drain::<sha2::Sha512>(input),
        }
    }
}

fn drain<H: sha2::Digest>(input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut hash = H::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let filled = input.read(&mut buffer)?;
        if filled == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..filled]);
    }
}

/// One stated digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    pub algorithm: Algorithm,
    pub value: Vec<u8>,
}

impl Sum {
    /// Parses hex of the algorithm's length.
    pub fn parse(algorithm: Algorithm, text: &str) -> Option<Self> {
        let value = hex::decode(text)
            .ok()
            .filter(|value| value.len() == algorithm.bytes())?;
        Some(Self { algorithm, value })
    }
}

/// What somebody says about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    pub size_bytes: u64,
    pub sums: Vec<Sum>,
}

impl Stated {
    /// The SHA-256, if it is stated.
    pub fn sha256(&self) -> Option<Digest> {
        let sum = self
            .sums
            .iter()
            .find(|sum| sum.algorithm == Algorithm::Sha256)?;
        <[u8; 32]>::try_from(sum.value.as_slice())
            .ok()
            .map(Digest::from_bytes)
    }

    /// The sums that only the content itself can prove: SHA-512 always, the old ones when they are all there is.
    pub fn to_be_read(&self) -> impl Iterator<Item = &Sum> {
        let strong = |a| matches!(a, Algorithm::Sha256 | Algorithm::Sha512);
        let has_strong = self.sums.iter().any(|sum| strong(sum.algorithm));
        self.sums.iter().filter(move |sum| match sum.algorithm {
            Algorithm::Sha256 => false,
            Algorithm::Sha512 => true,
            Algorithm::Md5 | Algorithm::Sha1 => !has_strong,
        })
    }
}
