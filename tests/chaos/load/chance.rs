//! Choices that a seed repeats.

/// A small generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// A generator of its own for everybody who chooses beside others: none changes what another one gets.
    pub(crate) fn of(seed: u64, name: &str, number: u64) -> Self {
        let mut mixed = Self(seed);
        for byte in name.bytes().chain(number.to_le_bytes()) {
            mixed.0 = mixed.next() ^ u64::from(byte);
        }
        mixed
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below a limit, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One in so many times.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A random moment from now: not a wait for anything.
    pub(crate) fn pause(&mut self, at_least_ms: u64, at_most_ms: u64) {
        let ms = at_least_ms + self.below(at_most_ms - at_least_ms + 1);
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}

/// The seed that was asked for, or another one each time.
pub(crate) fn seed_or_new(seed: Option<u64>) -> u64 {
    seed.unwrap_or_else(|| u64::from(getrandom::u32().unwrap()))
}
