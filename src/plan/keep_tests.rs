use proptest::prelude::*;

use super::*;
use crate::{names, plan};
use model::{
    Failure, FailureClass, InstanceState, JobState, Phase, Policy, Repair, Step, World,
    world::{
        AtWork,
        fixtures::{ago, asked, now, running},
    },
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn down() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 60).page(5, |p| p.state = InstanceState::NeedsRecovery)
}

/// A recovery of dbid 5 by automatic healing, over since so long.
fn over(name: &str, seconds: i64) -> Recovery {
    let mut recovery = running(name, 5, 0, Repair::Incremental, JobState::Active);
    (recovery.automatic, recovery.owner) = (true, Some("uid".into()));
    (recovery.phase, recovery.ended) = (Phase::Succeeded, Some(ago(seconds)));
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.phase, state.job) = (Phase::Succeeded, None);
    recovery
}

/// `count` of them, the oldest first and so old, with an hour between two.
fn chain(world: World, count: i64, oldest: i64) -> World {
    (0..count).fold(world, |world, n| world.recovery(over(&format!("demo-d5-{n:08x}"), oldest - n * HOUR)))
}

fn removed(world: &World) -> Vec<String> {
    plan(&Policy::default(), world, now()).removals.into_iter().map(|removal| removal.recovery).collect()
}

/// The numbers of [`chain`].
fn numbers(world: &World) -> Vec<i64> {
    removed(world).iter().map(|name| i64::from_str_radix(name.rsplit('-').next().unwrap(), 16).unwrap()).collect()
}

#[test]
fn old_recoveries_of_our_own_are_removed_and_the_newest_stay() {
    assert_eq!(numbers(&chain(down(), 5, 100 * DAY)), [0; 0], "the newest are kept for ever");
    assert_eq!(numbers(&chain(down(), 7, 100 * DAY)), [0, 1]);
    assert_eq!(numbers(&chain(down(), 12, 7 * DAY + 2 * HOUR)), [0, 1, 2], "the rest for a week");
    assert_eq!(numbers(&chain(down(), 22, 3 * DAY)), [0, 1], "and many of them for a day");
    assert_eq!(numbers(&chain(down(), 22, DAY)), [0; 0]);
    assert_eq!(numbers(&chain(down(), 100, 100 * DAY)), (0..10).collect::<Vec<_>>(), "the oldest first, and some at once");
}

#[test]
fn what_the_plan_looks_back_at_is_younger_than_what_is_removed() {
    let policy = Policy::default();
    assert!(SHORT > policy.watched_for.max(policy.again_after).max(policy.retry_for));
}

/// What may have been made by somebody else, still counts, or is not known.
#[test]
fn nothing_else_is_removed() {
    let old = |change: fn(&mut Recovery)| {
        let mut recovery = over("old", 100 * DAY);
        change(&mut recovery);
        chain(down().recovery(recovery), 5, DAY)
    };
    assert_eq!(removed(&old(|_| ())), ["old"]);
    for change in [
        (|r| r.automatic = false) as fn(&mut Recovery), // a person's, or of a repository from which it would come again
        |r| r.owner = None,
        |r| r.owner = Some("uid-of-a-cluster-that-was-deleted".into()),
        |r| r.deleting = true,
        |r| r.ended = None,
        |r| r.ended = Some(ago(-HOUR)), // a clock was set back
        |r| r.phase = Phase::Running,
        |r| r.name = names::recovery(&names::fault(&down(), Dbid(5)), 3), // it stands for the fault that there is
    ] {
        assert_eq!(removed(&old(change)), [""; 0]);
    }
    let fine = || old(|_| ());
    let work = AtWork { job: "old-a1".into(), dbid: Dbid(5), recovery: "old".into() };
    assert_eq!(removed(&World { at_work: Look::Seen(vec![work]), ..fine() }), [""; 0], "its Job would go with it");
    assert_eq!(removed(&World { at_work: Look::Unknown("not looked for".into()), ..fine() }), [""; 0]);
    assert_eq!(removed(&fine().blind()), [""; 0]);
    assert_eq!(removed(&fine().recovery(Recovery { follows: Some("old".into()), ..asked("live", &[5], None) })), [""; 0]);
    for quiet in [Policy { paused: true, ..Policy::default() }, Policy { mode: HealingMode::Observe, ..Policy::default() }] {
        assert_eq!(plan(&quiet, &fine(), now()).removals, []);
    }
}

/// Each old enough, and of the fault that there is or of another one.
fn any_past() -> impl Strategy<Value = Recovery> {
    let phases = prop::sample::select(vec![Phase::Succeeded, Phase::Failed, Phase::Refused, Phase::Cancelled]);
    let classes = prop::sample::select(vec![FailureClass::SourceBusy, FailureClass::CannotRewind, FailureClass::LoginRefused]);
    (0..40_i64, phases, classes, prop::option::of(1..40_u32), 0..9_u32, any::<bool>()).prop_map(
        |(days, phase, class, of_this, copies, by_hand)| {
            let fault = names::fault(&down(), Dbid(5));
            let name = of_this.map_or_else(|| format!("demo-d5-{days:08x}"), |number| names::recovery(&fault, number));
            let mut recovery = over(&name, days * DAY);
            (recovery.phase, recovery.automatic) = (phase, !by_hand);
            let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
            (state.phase, state.copies, state.source) = (phase, copies, Some(Dbid(2)));
            let failure = Failure { class, step: Step::Proving, message: String::new(), evidence: String::new() };
            state.failure = (phase == Phase::Failed).then_some(failure);
            recovery
        },
    )
}

proptest! {
    /// Whatever came before: what is planned without the recoveries that are removed is what is planned with them.
    #[test]
    fn what_is_removed_decides_nothing(mut past in prop::collection::vec(any_past(), 0..60)) {
        past.sort_by_key(|recovery| recovery.ended);
        let mut seen = HashSet::new();
        past.retain(|recovery| seen.insert(recovery.name.clone()));
        let world = past.into_iter().fold(down(), World::recovery);
        let before = plan(&Policy::default(), &world, now());
        let mut tidied = world.clone();
        tidied.recoveries.retain(|recovery| !before.removals.iter().any(|removal| removal.recovery == recovery.name));
        prop_assert_eq!(world.recoveries.len() - tidied.recoveries.len(), before.removals.len());
        prop_assert!(world.recoveries.iter().all(|r| r.automatic || tidied.recoveries.iter().any(|kept| kept.name == r.name)));
        let after = plan(&Policy::default(), &tidied, now());
        prop_assert_eq!(Plan { removals: vec![], ..before }, Plan { removals: vec![], ..after });
    }
}
