//! Numbers that look drawn and are computed: the same wherever they are.

/// The step of SplitMix64's sequence.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's next number: each bit of the input changes half of the output.
pub(crate) fn mix(bits: u64) -> u64 {
    finish(bits.wrapping_add(STEP))
}

/// Its finalizer alone.
pub(crate) fn finish(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
