//! Which digests were seen, in memory that does not grow with the archive.

use std::collections::HashSet;

use mirrorlog_core::id::Digest;

/// Bits for each digest that is expected: with four of them set, one in 80,000 is taken for seen that was not.
const BITS_EACH: u64 = 64;
/// 8 MiB, for a million digests at that rate; one in 5,000 at two millions, one in 20 at ten.
const BITS_MAX: u64 = 64 << 20;
const BITS_MIN: u64 = 64 << 10;

/// A Bloom filter: what was inserted is always found; a little of what was not is found too.
///
/// Digests of SHA-256 are even, so parts of them serve as their hashes.
#[derive(Debug)]
pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// For about `digests` of them.
    pub fn new(digests: u64) -> Self {
        let bits = digests.saturating_mul(BITS_EACH);
        let bits = bits.clamp(BITS_MIN, BITS_MAX).next_power_of_two();
        let words = vec![0; (bits / 64) as usize];
        Self { words }
    }

    /// True when it was certainly not there before.
    pub fn insert(&mut self, digest: &Digest) -> bool {
        let mut new = false;
        for place in places(digest) {
            let (word, bit) = self.bit(place);
            new |= self.words[word] & bit == 0;
            self.words[word] |= bit;
        }
        new
    }

    /// False when it was certainly not inserted.
    pub fn contains(&self, digest: &Digest) -> bool {
        places(digest).into_iter().all(|place| {
            let (word, bit) = self.bit(place);
            self.words[word] & bit != 0
        })
    }

    fn bit(&self, place: u32) -> (usize, u64) {
        // A power of two of words: the low bits of the place are even.
        let word = (place as usize >> 6) & (self.words.len() - 1);
        (word, 1 << (place & 63))
    }
}

fn places(digest: &Digest) -> [u32; 4] {
    let bytes = digest.as_bytes();
    std::array::from_fn(|n| {
        let mut place = [0; 4];
        place.copy_from_slice(&bytes[4 * n..4 * n + 4]);
        u32::from_le_bytes(place)
    })
}

/// Contents that were named before, of a build of any size in 8 MiB: the first ones exactly, of further ones a few are
/// taken for named that were not. Whoever asks must come back for those.
#[derive(Debug)]
pub struct Named {
    exact: usize,
    entries: u64,
    first: HashSet<Digest>,
    /// All of them, once they are too many.
    all: Option<Filter>,
}

impl Named {
    /// Tells the first `exact` of about `entries` apart exactly.
    pub fn new(exact: usize, entries: u64) -> Self {
        Self {
            exact,
            entries,
            first: HashSet::new(),
            all: None,
        }
    }

    /// True when it is named for the first time.
    pub fn insert(&mut self, digest: &Digest) -> bool {
        if let Some(all) = &mut self.all {
            return all.insert(digest);
        }
        let new = self.first.insert(*digest);
        if self.first.len() > self.exact {
            let all = self.all.insert(Filter::new(self.entries));
            for digest in std::mem::take(&mut self.first) {
                all.insert(&digest);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(from: u32, count: u32) -> impl Iterator<Item = Digest> {
        (from..from + count).map(|n| Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn what_was_inserted_is_found_and_hardly_anything_else() {
        let mut filter = Filter::new(20_000);
        let new = digests(0, 20_000).filter(|digest| filter.insert(digest));
        assert!(new.count() >= 19_990);
        assert!(digests(0, 20_000).all(|digest| filter.contains(&digest)));
        assert!(!digests(0, 20_000).any(|digest| filter.insert(&digest)));
        let found = digests(20_000, 20_000).filter(|digest| filter.contains(digest));
        assert!(found.count() < 20);
    }

    #[test]
    fn each_content_is_named_once() {
        let mut named = Named::new(1000, 20_000);
        assert!(digests(0, 1001).all(|digest| named.insert(&digest)));
        assert!(named.all.is_some());
        let new = digests(0, 20_000).filter(|digest| named.insert(digest));
        assert!((18_990..=18_999).contains(&new.count()));
        assert!(!digests(0, 20_000).any(|digest| named.insert(&digest)));
    }

    #[test]
    fn its_memory_has_an_end() {
        assert_eq!(Filter::new(u64::MAX).words.len() * 8, 8 << 20);
    }
}
