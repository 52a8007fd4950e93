//! Which mirror of a pool brings which blob across the pool's border.
//!
//! Rendezvous hashing: every mirror weighs every peer against a blob, and the heaviest brings it. All come to the same
//! answer without asking each other; a peer that leaves gives its share to all others in equal parts, and moves nothing
//! else.

use crate::id::{Digest, MirrorId};
use crate::mix::mix;

/// A mirror's place among its peers: the same wherever it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// The place of a mirror.
    pub fn of(mirror: &MirrorId) -> Self {
        let digest = Digest::of(format!("mirrorlog peer {mirror}").as_bytes());
        Self(first_word(&digest))
    }

    /// What it weighs for a blob. Of the mirrors that want a blob, the heaviest brings it.
    pub fn weight(self, blob: &Digest) -> u64 {
        mix(self.0 ^ first_word(blob))
    }
}

fn first_word(digest: &Digest) -> u64 {
    let bytes = digest.as_bytes();
    bytes[..8]
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn places(count: usize) -> Vec<Place> {
        let ids = (1..=count).map(|number| MirrorId::new(&format!("nz{number}")).unwrap());
        ids.map(|id| Place::of(&id)).collect()
    }

    fn heaviest(places: &[Place], blob: &Digest) -> usize {
        let weighed = places.iter().map(|place| place.weight(blob));
        weighed
            .enumerate()
            .max_by_key(|(_, weight)| *weight)
            .unwrap()
            .0
    }

    #[test]
    fn shares_are_even_and_only_those_of_the_gone_move() {
        let (all, blobs) = (places(10), 0..20_000_u32);
        let blobs: Vec<Digest> = blobs.map(|n| Digest::of(&n.to_le_bytes())).collect();
        let mut shares = [0_u32; 10];
        let mut inherited = [0_u32; 9];
        for blob in &blobs {
            let brings = heaviest(&all, blob);
            shares[brings] += 1;
            let left = heaviest(&all[..9], blob);
            if brings == 9 {
                inherited[left] += 1;
            } else {
                assert_eq!(left, brings, "what others bring stays theirs");
            }
        }
        assert!(
            shares.iter().all(|share| (1_800..2_200).contains(share)),
            "{shares:?}"
        );
        assert!(
            inherited.iter().all(|share| (150..300).contains(share)),
            "{inherited:?}"
        );
    }

    #[test]
    fn every_release_weighs_the_same() {
        let blob = Digest::of(b"a blob");
        assert_eq!(places(1)[0].weight(&blob), 7_293_931_159_157_403_799);
    }
}
