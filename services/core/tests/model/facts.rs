//! Small names for what all models speak of.

use mirrorlog_core::id::{Build, Digest};
use mirrorlog_core::time::Timestamp;

/// The models' moment: time stands still, and every rule about time is asked at its end (see each model's policy).
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

/// A build by its number.
pub(crate) fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

/// A digest that nothing else has.
pub(crate) fn digest(kind: u8, who: u8, number: u64) -> Digest {
    let mut bytes = [0; 32];
    (bytes[0], bytes[1]) = (kind, who);
    bytes[2..10].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(bytes)
}

/// A set of builds 1 to 8.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Builds(u8);

impl Builds {
    const fn bit(build: Build) -> u8 {
        1 << ((build.get() - 1) & 7)
    }

    pub(crate) const fn has(self, build: Build) -> bool {
        self.0 & Self::bit(build) != 0
    }

    pub(crate) fn add(&mut self, build: Build) {
        self.0 |= Self::bit(build);
    }

    pub(crate) fn drop(&mut self, build: Build) {
        self.0 &= !Self::bit(build);
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Build> {
        (1..=8).map(build).filter(move |one| self.has(*one))
    }
}

impl FromIterator<Build> for Builds {
    fn from_iter<T: IntoIterator<Item = Build>>(builds: T) -> Self {
        let mut all = Self::default();
        builds.into_iter().for_each(|one| all.add(one));
        all
    }
}

impl std::fmt::Debug for Builds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
