//! Whose verdicts count.

use super::*;

/// What a leader whose lease ended would do harm with.
fn revoked() -> Saying {
    Saying {
        state: VerdictState::Revoked(RevokeReason::Unreachable),
        ..Saying::complete("nz1", 2)
    }
}

/// The word on build 2 of nz1.
fn word(world: &World) -> Option<VerdictState> {
    let id = channel(NOBLE);
    let carried = world.view().channel(&id)?;
    let word = carried.word(world.find("nz1"), build(2))?;
    Some(word.state.clone())
}

fn fenced(found: u64, current: u64) -> [Effect; 1] {
    [Effect::Refused(Refusal::Fenced { found, current })]
}

/// Lease 7 has just spoken.
fn led() -> World {
    let mut world = World::settled();
    world.lease = 7;
    world.complete(2, &["nz2"]);
    world
}

#[test]
fn a_leader_that_was_replaced_is_not_heard() {
    let mut world = led();
    world.lease = 6;
    let revision = world.view().revision();
    assert_eq!(world.say(&revoked()), fenced(6, 7));
    world.now = world.now.plus_ms(59_999);
    assert_eq!(world.say(&revoked()), fenced(6, 7));
    assert_eq!(word(&world), Some(VerdictState::Complete));
    assert_eq!(world.view().revision(), revision);
    world.lease = 8;
    assert_eq!(world.say(&revoked()), []);
    assert_eq!(word(&world), Some(revoked().state));
}

#[test]
fn a_log_made_anew_counts_its_leases_from_one() {
    let mut world = led();
    world.lease = 1;
    world.now = world.now.plus_ms(60_000);
    assert_eq!(world.say(&revoked()), []);
    assert_eq!(word(&world), Some(revoked().state));
    world.lease = 2;
    assert_eq!(world.say(&Saying::complete("nz1", 2)), []);
    world.lease = 1;
    assert_eq!(world.say(&revoked()), fenced(1, 2), "fenced again");
}

#[test]
fn a_leader_whose_clock_is_ahead_keeps_its_successor_out_no_longer() {
    let mut world = led();
    let ahead = world.now.plus_ms(24 * 60 * 60 * 1000);
    let saying = Saying::complete("nz2", 2);
    world.feed(Input::Verdict(verdict(&saying, ahead, 7)));
    world.lease = 1;
    world.now = world.now.plus_ms(60_000);
    assert_eq!(world.say(&revoked()), []);
}

#[test]
fn a_replay_of_old_verdicts_does_not_lower_the_fence() {
    let mut world = led();
    let old = world.now.plus_ms(-120_000);
    world.feed(Input::Verdict(verdict(&Saying::complete("nz2", 2), old, 7)));
    world.lease = 6;
    assert_eq!(world.say(&revoked()), fenced(6, 7));
}

#[test]
fn a_verdict_on_a_mirror_that_is_not_configured_is_refused() {
    let mut world = World::settled();
    let effects = world.say(&Saying::complete("nz9", 2));
    let refusal = Refusal::UnknownMirror(mirror("nz9"));
    assert_eq!(effects, [Effect::Refused(refusal)]);
}
