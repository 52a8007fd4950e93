#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const MESSAGE: &[u8] = b"root document 2";

fn key(number: u8, seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([number; 8]), &[seed; 32])
}

fn keys(seeds: &[u8], threshold: u32) -> TrustedKeys {
    let keys = seeds.iter().map(|&seed| key(seed, seed).public());
    TrustedKeys::with_threshold(keys, Threshold::new(threshold).unwrap())
}

fn sign(seeds: &[u8]) -> Vec<Signature> {
    seeds
        .iter()
        .map(|&seed| key(seed, seed).sign(MESSAGE))
        .collect()
}

#[test]
fn a_threshold_is_neither_none_nor_endless() {
    assert_eq!(Threshold::new(0), None);
    assert_eq!(Threshold::new(THRESHOLD_MAX + 1), None);
    assert_eq!(Threshold::new(THRESHOLD_MAX).unwrap().get(), THRESHOLD_MAX);
    assert!(Threshold::ONE.is_met_by(1) && !Threshold::ONE.is_met_by(0));
}

#[test]
fn one_key_that_signs_twice_is_one_key() {
    let trusted = keys(&[1, 2, 3], 2);
    let error = trusted.verify_all(MESSAGE, &sign(&[1, 1, 1])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 of its keys must sign, 1 (0101010101010101) did: \
         get 1 more of 0202020202020202, 0303030303030303"
    );
    trusted.verify_all(MESSAGE, &sign(&[1, 1, 3])).unwrap();
}

#[test]
fn one_key_under_two_numbers_is_one_key() {
    let aliases = [key(1, 1), key(2, 1), key(3, 3)];
    let two = Threshold::new(2).unwrap();
    let trusted = TrustedKeys::with_threshold(aliases.iter().map(SecretKey::public), two);
    let signed = |of: &[usize]| -> Vec<Signature> {
        of.iter().map(|&at| aliases[at].sign(MESSAGE)).collect()
    };
    assert!(trusted.verify_all(MESSAGE, &signed(&[0, 1])).is_err());
    assert_eq!(
        trusted.tally(MESSAGE, &signed(&[0, 1])).unwrap().missing(),
        1
    );
    trusted.verify_all(MESSAGE, &signed(&[0, 1, 2])).unwrap();
}

#[test]
fn wrong_signatures_neither_count_nor_spoil() {
    let trusted = keys(&[1, 2, 3], 2);
    let mut signatures = sign(&[1, 9]);
    signatures.push(key(2, 9).sign(MESSAGE));
    signatures.push(key(3, 3).sign(b"another message"));
    let tally = trusted.tally(MESSAGE, &signatures).unwrap();
    let number = |seed| KeyNumber([seed; 8]);
    assert_eq!(tally.signed, [number(1)].into());
    assert_eq!(
        tally.refused,
        [
            SignatureError::UnknownKey(number(9)),
            SignatureError::Mismatch(number(2)),
            SignatureError::Mismatch(number(3)),
        ]
    );
    assert!(trusted.verify_all(MESSAGE, &signatures).is_err());
    signatures.extend(sign(&[2]));
    trusted.verify_all(MESSAGE, &signatures).unwrap();
}

#[test]
fn a_flood_of_signatures_is_not_looked_at() {
    let found = SIGNATURES_MAX + 1;
    let flood = vec![key(1, 1).sign(MESSAGE); found];
    assert_eq!(
        keys(&[1], 1).verify_all(MESSAGE, &flood),
        Err(ThresholdError::TooMany { found })
    );
}

#[test]
fn one_signature_never_passes_for_many() {
    let signature = key(1, 1).sign(MESSAGE);
    keys(&[1, 2], 1).verify(MESSAGE, &signature).unwrap();
    let two = Threshold::new(2).unwrap();
    assert_eq!(
        keys(&[1, 2], 2).verify(MESSAGE, &signature),
        Err(SignatureError::Alone(two))
    );
    assert!(TrustedKeys::default().verify(MESSAGE, &signature).is_err());
    assert!(TrustedKeys::default().verify_all(MESSAGE, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order, repetition and noise: what decides is how many of the listed keys have signed.
    #[test]
    fn distinct_listed_keys_decide(
        threshold in 1..5_u32, signers in proptest::collection::vec(0..8_u8, 0..12),
    ) {
        let trusted = keys(&[0, 1, 2, 3, 4], threshold);
        let distinct: BTreeSet<u8> = signers.iter().copied().filter(|seed| *seed < 5).collect();
        let accepted = trusted.verify_all(MESSAGE, &sign(&signers)).is_ok();
        prop_assert_eq!(accepted, distinct.len() >= threshold as usize);
    }
}
