//! Which mirrors are tried when a client chooses one, and which of them it is.
//!
//! As DynamicMirrorDecisions has it: of three, the two that are thought the best and a random one of the rest, so
//! that what is thought can turn out wrong.

/// Mirrors that are thought the best and are tried at a time.
const BEST: usize = 2;
/// Speeds that differ by less than this factor may as well be equal: a probe is small.
const CLOSE: f64 = 1.5;

/// What trying a mirror showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tried {
    /// It answers, this fast: bytes a second.
    Speed(f64),
    /// It answers; how fast it is cannot be told.
    Answers,
    /// It is no choice.
    Failed,
}

/// Places of those to try next in a list of `count`, from near to far: the first two after the `passed` first ones,
/// and one of the rest by chance.
pub fn to_try(count: usize, passed: &[usize], random: u64) -> Vec<usize> {
    let left: Vec<usize> = (0..count).filter(|place| !passed.contains(place)).collect();
    let (best, rest) = left.split_at(left.len().min(BEST));
    let mut chosen = best.to_vec();
    if let Ok(count) = u64::try_from(rest.len())
        && count > 0
        && let Ok(place) = usize::try_from(random % count)
    {
        chosen.push(rest[place]);
    }
    chosen
}

/// The one to take, of those that were tried: the nearest that is about as fast as the fastest, else the first that
/// answers. `tried`: in the order of the list. None when all failed.
pub fn best(tried: &[(usize, Tried)]) -> Option<usize> {
    let speed = |tried: &Tried| match tried {
        Tried::Speed(speed) => Some(*speed),
        Tried::Answers | Tried::Failed => None,
    };
    let speeds = tried.iter().filter_map(|(_, tried)| speed(tried));
    let fastest = speeds.fold(0.0, f64::max);
    let fast =
        |(_, tried): &&(usize, Tried)| speed(tried).is_some_and(|speed| speed * CLOSE >= fastest);
    let answers = |(_, tried): &&(usize, Tried)| *tried == Tried::Answers;
    let found = tried
        .iter()
        .find(fast)
        .or_else(|| tried.iter().find(answers));
    found.map(|(place, _)| *place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_best_and_one_by_chance() {
        assert_eq!(to_try(10, &[], 0), [0, 1, 2]);
        assert_eq!(to_try(10, &[], 15), [0, 1, 9]);
        assert_eq!(to_try(3, &[], 7), [0, 1, 2]);
        assert_eq!(to_try(2, &[], 7), [0, 1]);
        assert_eq!(to_try(10, &[0, 1, 9], 0), [2, 3, 4], "the next three");
        assert_eq!(to_try(3, &[0, 1, 2], 0), [0_usize; 0]);
        assert_eq!(to_try(0, &[], 1), [0_usize; 0]);
    }

    #[test]
    fn the_fastest_is_taken_and_of_equals_the_nearest() {
        let (near, far) = (Tried::Speed(1.0e6), Tried::Speed(1.4e6));
        assert_eq!(best(&[(0, near), (7, far)]), Some(0), "as good as equal");
        assert_eq!(best(&[(0, near), (7, Tried::Speed(9.0e6))]), Some(7));
        assert_eq!(
            best(&[(0, Tried::Failed), (1, Tried::Answers), (2, near)]),
            Some(2)
        );
        assert_eq!(best(&[(0, Tried::Failed), (1, Tried::Answers)]), Some(1));
        assert_eq!(best(&[(0, Tried::Failed)]), None);
        assert_eq!(best(&[]), None);
    }
}
