//! Many paths in little memory: one buffer of bytes and one of offsets.

/// A set of paths: filled, finished, then asked.
#[derive(Default)]
pub(crate) struct PathSet {
    bytes: Vec<u8>,
    /// Where each path starts; its length is in the two bytes there.
    starts: Vec<u64>,
}

impl PathSet {
    /// Adds a path; one too long for a manifest is left out.
    pub(crate) fn push(&mut self, path: &[u8]) {
        let Ok(length) = u16::try_from(path.len()) else {
            return;
        };
        self.starts.push(self.bytes.len() as u64);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(path);
    }

    /// Sorts; call it once, before [`contains`](Self::contains).
    pub(crate) fn finish(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.starts
            .sort_unstable_by(|a, b| at(&bytes, *a).cmp(at(&bytes, *b)));
        self.starts
            .dedup_by(|a, b| at(&bytes, *a) == at(&bytes, *b));
        self.bytes = bytes;
    }

    /// True when the path was added.
    pub(crate) fn contains(&self, path: &[u8]) -> bool {
        self.starts
            .binary_search_by(|start| at(&self.bytes, *start).cmp(path))
            .is_ok()
    }
}

fn at(bytes: &[u8], start: u64) -> &[u8] {
    let start = start as usize;
    let length = usize::from(u16::from_le_bytes([bytes[start], bytes[start + 1]]));
    &bytes[start + 2..start + 2 + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_added() {
        let mut set = PathSet::default();
        for path in [&b"pool/b"[..], b"pool/a", b"pool/b", b"", b"pool/a/b"] {
            set.push(path);
        }
        set.finish();
        assert_eq!(set.starts.len(), 4);
        assert!(set.contains(b"pool/b") && set.contains(b"") && set.contains(b"pool/a/b"));
        assert!(!set.contains(b"pool") && !set.contains(b"pool/c"));
    }
}
