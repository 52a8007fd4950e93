//! Packages and Sources: which files an index names.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use super::checksum::{Algorithm, Stated, Sum};
use super::release::listed_line;

/// Longest line of an index; stops one line from filling memory.
const LINE_MAX_BYTES: u64 = 16 << 20;
/// Most bytes that are kept of one paragraph; stops one of many lines from filling memory.
const PARAGRAPH_MAX_BYTES: usize = 16 << 20;

/// What an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Of binary packages.
    Packages,
    /// Of source packages.
    Sources,
}

impl IndexKind {
    /// The kind of an index by its name without compression, such as `main/binary-amd64/Packages`.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit('/').next() {
            Some("Packages") => Some(Self::Packages),
            Some("Sources") => Some(Self::Sources),
            Some(_) | None => None,
        }
    }
}

/// A file that an index names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Relative to the archive's top, without `./` and doubled slashes.
    pub path: Vec<u8>,
    /// What the index says of it.
    pub stated: Stated,
}

/// One paragraph: the fields that were asked for, with their continuation lines.
pub(crate) type Paragraph = Vec<(String, String)>;

/// Reads an index to its end, handing over each file it names.
///
/// # Errors
/// `InvalidData` with the line when it is no index; else what reading or `each` gives.
pub fn read_index(
    kind: IndexKind,
    input: &mut dyn Read,
    mut each: impl FnMut(Named) -> io::Result<()>,
) -> io::Result<()> {
    let wanted: &[&str] = match kind {
        IndexKind::Packages => &["filename", "size", "sha256", "sha512", "sha1", "md5sum"],
        IndexKind::Sources => &[
            "directory",
            "files",
            "checksums-sha1",
            "checksums-sha256",
            "checksums-sha512",
        ],
    };
    paragraphs(input, wanted, |line, paragraph| match kind {
        IndexKind::Packages => each(package(line, paragraph)?),
        IndexKind::Sources => sources(line, paragraph)?
            .into_iter()
            .try_for_each(&mut each),
    })
}

/// Reads deb822 paragraphs, keeping only fields in `wanted` (lower case).
pub(crate) fn paragraphs(
    input: &mut dyn Read,
    wanted: &[&str],
    mut each: impl FnMut(u64, &Paragraph) -> io::Result<()>,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let mut paragraph = Paragraph::new();
    let mut any = false;
    let mut keeping = false;
    let mut kept_bytes = 0;
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let length = input
            .by_ref()
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line)?;
        number += 1;
        if length as u64 == LINE_MAX_BYTES {
            return Err(wrong(number, "is too long"));
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if any {
                each(number, &paragraph)?;
            }
            (any, keeping, kept_bytes) = (false, false, 0);
            paragraph.clear();
            if length == 0 {
                return Ok(());
            }
        } else if text[0] == b' ' || text[0] == b'\t' {
            if keeping && let Some((_, value)) = paragraph.last_mut() {
                let more = String::from_utf8_lossy(text);
                kept_bytes += more.len() + 1;
                value.push('\n');
                value.push_str(&more);
            }
        } else {
            any = true;
            let colon = text
                .iter()
                .position(|&b| b == b':')
                .ok_or_else(|| wrong(number, "is no field"))?;
            let name = wanted
                .iter()
                .find(|name| name.as_bytes().eq_ignore_ascii_case(&text[..colon]));
            keeping = name.is_some();
            if let Some(name) = name {
                let value = String::from_utf8_lossy(text[colon + 1..].trim_ascii()).into_owned();
                kept_bytes += name.len() + value.len();
                paragraph.push(((*name).to_owned(), value));
            }
        }
        if kept_bytes > PARAGRAPH_MAX_BYTES {
            return Err(wrong(number, "makes its paragraph too long"));
        }
    }
}

fn package(line: u64, paragraph: &Paragraph) -> io::Result<Named> {
    let mut named = Named::default();
    let mut sized = false;
    for (field, value) in paragraph {
        let algorithm = match field.as_str() {
            "filename" => {
                named.path = plain(value.as_bytes());
                continue;
            }
            "size" => {
                named.stated.size_bytes = value
                    .parse()
                    .map_err(|_| wrong(line, "ends a package whose Size is no number"))?;
                sized = true;
                continue;
            }
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "sha1" => Algorithm::Sha1,
            _md5sum => Algorithm::Md5,
        };
        let sum = Sum::parse(algorithm, value)
            .ok_or_else(|| wrong(line, "ends a package with a malformed digest"))?;
        named.stated.sums.push(sum);
    }
    if named.path.is_empty() || !sized || named.stated.sums.is_empty() {
        return Err(wrong(
            line,
            "ends a package without Filename, Size and digest",
        ));
    }
    Ok(named)
}

fn sources(line: u64, paragraph: &Paragraph) -> io::Result<Vec<Named>> {
    let mut files: Vec<(&str, Stated)> = Vec::new();
    // A paragraph may name as many files as its size allows: none is looked for among all others.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut directory = None;
    for (field, value) in paragraph {
        let algorithm = match field.as_str() {
            "directory" => {
                directory = Some(value);
                continue;
            }
            "checksums-sha256" => Algorithm::Sha256,
            "checksums-sha512" => Algorithm::Sha512,
            "checksums-sha1" => Algorithm::Sha1,
            _files => Algorithm::Md5,
        };
        for row in value.lines().filter(|row| !row.trim().is_empty()) {
            let listed = listed_line(algorithm, row);
            let (sum, size_bytes, name) =
                listed.ok_or_else(|| wrong(line, "ends a source with a malformed list"))?;
            let place = *places.entry(name).or_insert(files.len());
            match files.get_mut(place) {
                Some((_, stated)) if stated.size_bytes != size_bytes => {
                    return Err(wrong(line, "ends a source that states two sizes of a file"));
                }
                Some((_, stated)) => stated.sums.push(sum),
                None => {
                    let sums = vec![sum];
                    files.push((name, Stated { size_bytes, sums }));
                }
            }
        }
    }
    let directory = directory.ok_or_else(|| wrong(line, "ends a source without Directory"))?;
    if files.is_empty() {
        return Err(wrong(line, "ends a source without Files"));
    }
    let path = |name: &str| plain(format!("{directory}/{name}").as_bytes());
    Ok(files
        .into_iter()
        .map(|(name, stated)| Named {
            path: path(name),
            stated,
        })
        .collect())
}

/// A path without `.` components, doubled slashes and slashes at its ends.
fn plain(path: &[u8]) -> Vec<u8> {
    let parts = path
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

fn wrong(line: u64, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(kind: IndexKind, text: &str) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        read_index(kind, &mut text.as_bytes(), |named| {
            found.push((
                String::from_utf8(named.path).unwrap(),
                named.stated.size_bytes,
            ));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn packages_and_sources() {
        let text = format!(
            "Package: a\nDescription: x\n y\nFilename: ./pool//a.deb\nSize: 3\nSHA256: {EMPTY}\n\n\n\
             Package: b\nFilename: pool/b.deb\nSize: 4\nSHA256: {EMPTY}"
        );
        let found = read(IndexKind::Packages, &text).unwrap();
        assert_eq!(
            found,
            [("pool/a.deb".to_owned(), 3), ("pool/b.deb".to_owned(), 4)]
        );
        let text = format!(
            "Package: s\nDirectory: pool/s\nChecksums-Sha256:\n {EMPTY} 7 s.dsc\n {EMPTY} 9 s.tar.xz\n"
        );
        let found = read(IndexKind::Sources, &text).unwrap();
        assert_eq!(
            found,
            [
                ("pool/s/s.dsc".to_owned(), 7),
                ("pool/s/s.tar.xz".to_owned(), 9)
            ]
        );
        assert_eq!(read(IndexKind::Packages, "").unwrap(), []);
    }

    /// None is looked for among all the others: that took longer by the square of their number.
    #[test]
    fn a_source_may_name_many_files() {
        let rows = 200_000;
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        let list: String = (0..rows).map(|n| format!(" {md5} 1 {n}\n")).collect();
        let text = format!("Package: s\nDirectory: pool\nFiles:\n{list}");
        let found = read(IndexKind::Sources, &text).unwrap();
        assert_eq!(found.len(), rows);
        assert_eq!(found[rows - 1], ("pool/199999".to_owned(), 1));
        let two_sizes = format!("{text} {md5} 2 7\n");
        assert!(read(IndexKind::Sources, &two_sizes).is_err());
    }

    #[test]
    fn a_paragraph_of_many_lines_fills_no_memory() {
        let line = format!(" {}\n", "x".repeat(1 << 20));
        let fields = [
            ("Filename", IndexKind::Packages),
            ("Files", IndexKind::Sources),
        ];
        for (field, kind) in fields {
            let text = format!("{field}: y\n{}", line.repeat(16));
            let error = read(kind, &text).unwrap_err();
            assert_eq!(error.to_string(), "line 17 makes its paragraph too long");
        }
        let other = format!("Description: y\n{}\n", line.repeat(17));
        let error = read(IndexKind::Packages, &other).unwrap_err();
        assert!(error.to_string().contains("without Filename"), "{error}");
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "<html>\n",
            "Package: a\n\n",
            "Package: a\nFilename: x\nSize: y\n\n",
        ] {
            assert_eq!(
                read(IndexKind::Packages, text).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }
}
