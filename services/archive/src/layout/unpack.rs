//! Compressed indexes.

use std::io::{self, BufReader, Read};

use sha2::{Digest as _, Sha256};

use mirrorlog_core::id::Digest;

/// Most bytes that an index may unpack to; stops a small file from filling memory or time.
pub(crate) const UNPACKED_MAX_BYTES: u64 = 4 << 30;
/// Most memory that an xz decoder may take (`xz -9` needs 65 MiB).
const XZ_MEMORY_BYTES: u64 = 256 << 20;

/// Largest window of a zstd decoder, as a power of two in bytes (`zstd --ultra -22` needs 128 MiB): a frame may ask for 3 TiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a file is compressed, cheapest to read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
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
    pub fn of(name: &str) -> (Self, &str) {
        let ending = |(packing, ending): (Self, &str)| Some((packing, name.strip_suffix(ending)?));
        Self::PACKED
            .into_iter()
            .find_map(ending)
            .unwrap_or((Self::Plain, name))
    }

    /// The names that a file may have, unpacked and in each packing.
    pub fn names(plain: &str) -> impl Iterator<Item = String> {
        let packed = Self::PACKED.into_iter().map(|(_, ending)| ending);
        std::iter::once("")
            .chain(packed)
            .map(move |ending| format!("{plain}{ending}"))
    }

    /// Unpacks `input` while it is read.
    pub fn unpack(self, input: impl Read + 'static) -> io::Result<Unpacked> {
        let xz = || {
            liblzma::stream::Stream::new_auto_decoder(
                XZ_MEMORY_BYTES,
                liblzma::stream::CONCATENATED,
            )
        };
        let zstd = |input| {
            let mut decoder = zstd::stream::read::Decoder::new(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            io::Result::Ok(decoder)
        };
        let inner: Box<dyn Read> = match self {
            Self::Plain => Box::new(input),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(input))),
            Self::Zstd => Box::new(zstd(input)?),
            Self::Xz | Self::Lzma => Box::new(liblzma::read::XzDecoder::new_stream(input, xz()?)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(BufReader::new(input))),
        };
        Ok(Unpacked {
            inner,
            hash: Sha256::new(),
            size_bytes: 0,
            max_bytes: UNPACKED_MAX_BYTES,
        })
    }
}

/// Unpacked bytes, counted, hashed and bounded.
pub struct Unpacked {
    inner: Box<dyn Read>,
    hash: Sha256,
    size_bytes: u64,
    max_bytes: u64,
}

impl Unpacked {
    /// Bytes and SHA-256 of what was read.
    pub fn finish(self) -> (u64, Digest) {
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
        if self.size_bytes > self.max_bytes {
            let max_bytes = self.max_bytes;
            return Err(io::Error::other(format!(
                "it unpacks to more than {max_bytes} bytes"
            )));
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

    /// Zeros, packed as tightly as the format can.
    fn bombs(zeros: &[u8]) -> [(Packing, Vec<u8>); 4] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(zeros).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(zeros).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(zeros).unwrap();
        [
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Xz, xz.finish().unwrap()),
            (Packing::Bzip2, bzip2.finish().unwrap()),
            (Packing::Zstd, zstd::encode_all(zeros, 19).unwrap()),
        ]
    }

    #[test]
    fn attack_a_bomb_ends_at_the_bound_in_every_packing() {
        const MAX_BYTES: u64 = 1 << 20;
        let zeros = vec![0; 16 << 20];
        for (packing, bomb) in bombs(&zeros) {
            assert!(bomb.len() < 64 << 10, "{packing:?} {}", bomb.len());
            let mut unpacked = packing.unpack(io::Cursor::new(bomb)).unwrap();
            unpacked.max_bytes = MAX_BYTES;
            let (mut came, mut buffer) = (0, vec![0; 64 << 10]);
            let error = loop {
                match unpacked.read(&mut buffer) {
                    Ok(0) => panic!("{packing:?} is read to its end"),
                    Ok(read) => came += read as u64,
                    Err(error) => break error,
                }
            };
            assert!(came <= MAX_BYTES, "{packing:?}");
            assert!(
                error.to_string().contains("more than 1048576 bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn attack_a_decoder_that_asks_for_much_memory_gets_none() {
        // An xz file whose dictionary is 1.5 GiB, of a few bytes: only its header says so.
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(64 << 10);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let check = liblzma::stream::Check::None;
        let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
        let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        xz.write_all(b"Package: x\n").unwrap();
        let mut xz = xz.finish().unwrap();
        // Block header: size, flags, filter 0x21, one byte of properties: the dictionary (xz format, 5.3.1); CRC32 last.
        assert_eq!(xz[14..16], [0x21, 1]);
        xz[16] = 37;
        let header = xz[12..20].to_vec();
        let mut crc = flate2::Crc::new();
        crc.update(&header);
        xz[20..24].copy_from_slice(&crc.sum().to_le_bytes());
        let mut unpacked = Packing::Xz.unpack(io::Cursor::new(xz)).unwrap();
        let error = unpacked.read(&mut [0; 64]).unwrap_err();
        assert!(error.to_string().contains("mem"), "{error}");

        // A zstd frame with a window of 1 GiB (RFC 8878, 3.1.1.1.2): exponent 20, mantissa 0; one raw block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 9, 0, 0, b'x'];
        let mut unpacked = Packing::Zstd
            .unpack(io::Cursor::new(frame.to_vec()))
            .unwrap();
        assert!(unpacked.read(&mut [0; 64]).is_err());
        // The same with 128 MiB is read.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 9, 0, 0, b'x'];
        let mut unpacked = Packing::Zstd
            .unpack(io::Cursor::new(frame.to_vec()))
            .unwrap();
        let mut text = String::new();
        unpacked.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

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
