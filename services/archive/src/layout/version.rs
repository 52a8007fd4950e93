//! Order of Debian versions (deb-version(7)): `[epoch:]upstream[-revision]`.

use std::cmp::Ordering;

/// Compares two versions as dpkg does.
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((epoch_a, rest_a), (epoch_b, rest_b)) = (epoch(a), epoch(b));
    let ((upstream_a, revision_a), (upstream_b, revision_b)) = (revision(rest_a), revision(rest_b));
    epoch_a
        .cmp(&epoch_b)
        .then_with(|| part(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| part(revision_a.as_bytes(), revision_b.as_bytes()))
}

fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.trim().parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

fn revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Runs of other characters and of digits in turn.
fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (x, y) = (weight(a.first()), weight(b.first()));
            if x != y {
                return x.cmp(&y);
            }
            if x == 0 {
                break; // both at a digit or at the end
            }
            (a, b) = (&a[1..], &b[1..]);
        }
        let (digits_a, rest_a) = digits(a);
        let (digits_b, rest_b) = digits(b);
        let order = digits_a
            .len()
            .cmp(&digits_b.len())
            .then_with(|| digits_a.cmp(digits_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// `~` before the end, then letters, then all else.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(b) if b.is_ascii_digit() => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    }
}

/// The digits in front, without leading zeros, and what follows.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ascending = [
            "1.0~~",
            "1.0~~a",
            "1.0~rc1",
            "1.0",
            "1.0-0ubuntu1~1",
            "1.0-0ubuntu1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0a-1",
            "1.0.1",
            "1.9",
            "1.10",
            "1.010.1",
            "2",
            "1:0.1",
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (bt, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), at.cmp(&bt), "{a} and {b}");
            }
        }
        assert_eq!(compare("1.0", "0:1.00"), Ordering::Equal);
        assert_eq!(compare("1.0-0", "1.0"), Ordering::Equal);
    }
}
