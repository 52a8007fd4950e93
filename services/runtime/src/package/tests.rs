#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::*;

const LIST: &[u8] = b"@name vim-9.1.0-no_x11\n@depend a/b:b-*:b-1.0\nbin/vim\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A tar, not ended.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.get_ref().clone()
}

/// As pkg_create does it: one member for the packing list, one for the rest.
fn package(list: &[u8]) -> Vec<u8> {
    let mut rest = tar(&[("+DESC", b"an editor"), ("bin/vim", &[7; 5000])]);
    rest.extend([0; 1024]);
    [gzip(&tar(&[("+CONTENTS", list)])), gzip(&rest)].concat()
}

fn read(bytes: &[u8]) -> Result<PackingList, PackageError> {
    read_packing_list(bytes)
}

#[test]
fn the_packing_list_is_the_first_file() {
    let list = read(&package(LIST)).unwrap();
    assert_eq!(list.name.as_str(), "vim-9.1.0-no_x11");
    assert_eq!(list.depends[0].to_string(), "a/b:b-*:b-1.0");
    let in_one = [tar(&[("./+CONTENTS", LIST), ("x", b"x")]), vec![0; 1024]].concat();
    assert_eq!(read(&gzip(&in_one)).unwrap(), list);
    // Members may end anywhere.
    let split: Vec<u8> = in_one.chunks(100).flat_map(gzip).collect();
    assert_eq!(read(&split).unwrap(), list);
}

#[test]
fn what_follows_is_not_read() {
    let good = package(LIST);
    let end = gzip(&tar(&[("+CONTENTS", LIST)])).len();
    let mut bytes = good[..end].to_vec();
    bytes.extend([0xff; 100_000]);
    struct Counted<'a>(&'a [u8], usize);
    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let taken = self.0.read(buffer)?;
            self.1 += taken;
            Ok(taken)
        }
    }
    let mut input = Counted(&bytes, 0);
    read_packing_list(&mut input).unwrap();
    assert!(
        input.1 <= end.max(BUFFER_BYTES),
        "{} bytes were read",
        input.1
    );
}

#[test]
fn a_signed_package_has_a_comment_of_any_length() {
    for length in [0, 100, 65_535, 300_000] {
        let comment = vec![b'x'; length];
        let mut gzip = GzBuilder::new()
            .extra(b"extra".as_slice())
            .filename("name")
            .comment(comment)
            .write(Vec::new(), Compression::fast());
        gzip.write_all(&tar(&[("+CONTENTS", LIST)])).unwrap();
        let bytes = gzip.finish().unwrap();
        assert_eq!(read(&bytes).unwrap().depends.len(), 1, "{length}");
    }
    // A header checksum, which flate2 does not write.
    let mut bytes = gzip(&tar(&[("+CONTENTS", LIST)]));
    bytes[3] = 2;
    bytes.splice(10..10, [1, 2]);
    assert_eq!(read(&bytes).unwrap().depends.len(), 1);
}

#[test]
fn what_is_no_package_is_told_apart() {
    let list = tar(&[("+CONTENTS", LIST)]);
    assert!(matches!(read(b""), Err(PackageError::NoGzip)));
    assert!(matches!(
        read(b"#!/bin/sh\necho this is a script\n"),
        Err(PackageError::NoGzip)
    ));
    assert!(matches!(read(&PLAIN_HEADER), Err(PackageError::Damaged(_))));
    let endless = [
        &[0x1f, 0x8b, 8, 16, 0, 0, 0, 0, 0, 3],
        &[b'x'; 17 << 20][..],
    ]
    .concat();
    assert!(matches!(read(&endless), Err(PackageError::NoGzip)));
    let none = PackageError::NoContents {
        found: String::new(),
    };
    assert_eq!(
        read(&gzip(&[0; 1024])).unwrap_err().to_string(),
        none.to_string()
    );
    let other = read(&gzip(&tar(&[("share/x", b"x"), ("+CONTENTS", LIST)])));
    assert!(matches!(other, Err(PackageError::NoContents { found }) if found == "share/x"));
    assert!(matches!(
        read(&gzip(b"a text and no tar")),
        Err(PackageError::Damaged(_))
    ));
    assert!(matches!(
        read(&package(b"bin/vim\n")),
        Err(PackageError::List(_))
    ));
    let line = [LIST, &[b'x'; 70 << 10]].concat();
    assert!(matches!(
        read(&package(&line)),
        Err(PackageError::LineTooLong)
    ));
    assert!(matches!(
        read(&gzip(&list[..512 + LIST.len() - 1])),
        Err(PackageError::Damaged(_))
    ));
    // Cut off anywhere, it is the whole list or none.
    let whole = package(LIST);
    let good = read(&whole).unwrap();
    let mut refused = 0;
    for cut in 0..gzip(&list).len() {
        match read(&whole[..cut]) {
            Ok(list) => assert_eq!(list, good, "cut at {cut}"),
            Err(error) => {
                assert_eq!(error.reaction(), Reaction::Park, "cut at {cut}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > LIST.len(), "{refused} were refused");
    let mut header = tar::Header::new_ustar();
    header.set_path("+CONTENTS").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let large = read(&gzip(header.as_bytes()));
    assert!(matches!(large, Err(PackageError::TooLarge { size_bytes }) if size_bytes == 1 << 40));
}

#[test]
fn a_reader_that_fails_is_no_fault_of_the_package() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let whole = package(LIST);
    for cut in [0, 5, 12, 80] {
        let error = read_packing_list((&whole[..cut]).chain(Failing)).unwrap_err();
        assert!(
            matches!(error, PackageError::Read(_)),
            "cut at {cut}: {error}"
        );
        assert_eq!(error.reaction(), Reaction::Retry);
    }
}
