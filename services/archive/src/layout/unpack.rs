//! Compressed indexes.

use std::io::{self, BufReader, Read};

use sha2::{Digest as _, Sha256};

use mirrorlog_core::id::Digest;

/// Most bytes that an index may unpack to; stops a small file from filling memory or time.
pub(crate) const UNPACKED_MAX_BYTES: u64 = 4 << 30;
/// Most memory that an xz decoder may take (`xz -9` needs 65 MiB).
const XZ_MEMORY_BYTES: u64 = 256 << 20;

/// How a file is compressed, cheapest to read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Lzma,
    Bzip2,
}

impl Packing {
    const PACKED: [(Self, &'static str); 5] = [
        (Self::Gzip, ".gz"),
        (Self::Zstd, ".zst"),
        (Self::Xz, ".xz"),
        (Self::Lzma, ".lzma"),
        (Self::Bzip2, ".bz2"),
    ];

    /// How a file of this name is packed, and its name without that ending.
    pub(crate) fn of(name: &str) -> (Self, &str) {
        let ending = |(packing, ending): (Self, &str)| Some((packing, name.strip_suffix(ending)?));
        Self::PACKED
            .into_iter()
            .find_map(ending)
            .unwrap_or((Self::Plain, name))
    }

    /// The names that a file may have, unpacked and in each packing.
    pub(crate) fn names(plain: &str) -> impl Iterator<Item = String> {
        let packed = Self::PACKED.into_iter().map(|(_, ending)| ending);
        std::iter::once("")
            .chain(packed)
            .map(move |ending| format!("{plain}{ending}"))
    }

    /// Unpacks `input` while it is read.
    pub(crate) fn unpack(self, input: impl Read + 'static) -> io::Result<Unpacked> {
        let xz = || {
            liblzma::stream::Stream::new_auto_decoder(
                XZ_MEMORY_BYTES,
                liblzma::stream::CONCATENATED,
            )
        };
        let inner: Box<dyn Read> = match self {
            Self::Plain => Box::new(input),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(input))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
            Self::Xz | Self::Lzma => Box::new(liblzma::read::XzDecoder::new_stream(input, xz()?)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(BufReader::new(input))),
        };
        Ok(Unpacked {
            inner,
            hash: Sha256::new(),
            size_bytes: 0,
        })
    }
}

/// Unpacked bytes, counted, hashed and bounded.
pub(crate) struct Unpacked {
    inner: Box<dyn Read>,
    hash: Sha256,
    size_bytes: u64,
}

impl Unpacked {
    /// Bytes and SHA-256 of what was read.
    pub(crate) fn finish(self) -> (u64, Digest) {
        (
            self.size_bytes,
            Digest::from_bytes(self.hash.finalize().into()),
        )
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = self.inner.read(buffer)?;
        self.size_bytes += filled as u64;
        if self.size_bytes > UNPACKED_MAX_BYTES {
            return Err(io::Error::other("it unpacks to more than 4 GiB"));
        }
        self.hash.update(&buffer[..filled]);
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    #[test]
    fn every_packing_is_read() {
        let text = b"Package: x\n".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&text).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        let packed = [
            ("Packages", text.clone()),
            ("Packages.gz", gzip.finish().unwrap()),
            ("Packages.xz", xz.finish().unwrap()),
            ("Packages.bz2", bzip2.finish().unwrap()),
            ("Packages.zst", zstd::encode_all(&text[..], 3).unwrap()),
        ];
        for (name, bytes) in packed {
            let (packing, plain) = Packing::of(name);
            assert_eq!(plain, "Packages");
            let mut unpacked = packing.unpack(io::Cursor::new(bytes)).unwrap();
            let mut read = Vec::new();
            unpacked.read_to_end(&mut read).unwrap();
            assert_eq!(read, text, "{name}");
            assert_eq!(unpacked.finish(), (text.len() as u64, Digest::of(&text)));
        }
    }
}
