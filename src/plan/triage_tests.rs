use super::*;
use crate::{
    model::{
        Failure, FailureClass, Outcome, Policy, Repair, Source, Step, World,
        world::fixtures::{ago, asked, now, running, walsender},
    },
    plan::plan,
};

fn down() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"])
}

fn needs_recovery() -> World {
    down().down_for(5, 3).page(5, |p| p.state = InstanceState::NeedsRecovery)
}

fn reason(policy: &Policy, world: &World, dbid: i16) -> String {
    let plan = plan(policy, world, now());
    match plan.unwell.iter().find(|u| u.dbid == Dbid(dbid)).map(|u| &u.reason) {
        None => "well".into(),
        Some(Reason::Refused(refusal)) => refusal.code().into(),
        Some(Reason::Planned { repair, .. }) => format!("planned {repair}"),
        Some(Reason::Recovering { .. }) => "recovering".into(),
    }
}

#[test]
fn each_state_of_a_pair_has_its_answer() {
    let gone = || Look::Unknown("connection refused".to_owned());
    let held = |p: &mut Page| p.state = InstanceState::Held;
    let starting = |p: &mut Page| (p.state, p.receiving) = (InstanceState::Starting, false);
    let deaf = |p: &mut Page| p.receiving = false;
    let failed = |world: World| {
        let name = names::recovery(&world, Dbid(5));
        let mut recovery = asked(&name, &[5], None);
        recovery.phase = crate::model::Phase::Failed;
        world.recovery(recovery)
    };
    let failing = |world: World| {
        let name = names::recovery(&world, Dbid(5));
        let failure =
            Failure { class: FailureClass::TargetAheadOfSource, step: Step::ProvingAgain, message: String::new(), evidence: String::new() };
        let outcome = Outcome {
            attempt: String::new(),
            repair: Repair::Full,
            failure: Some(failure),
            bytes: 0,
            seconds: 0,
            note: String::new(),
            recovery_uid: None,
        };
        world.recovery(running(&name, 5, 0, Repair::Full, crate::model::JobState::Ended(outcome)))
    };
    for (expected, dbid, world) in [
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"])),
        ("CatchingUp", 5, World::of(&["2:0ppnu", "5:0mmnu"])),
        ("planned Incremental", 5, needs_recovery()),
        ("planned Full", 5, down().page(5, |p| p.state = InstanceState::NeedsFull)),
        ("planned Full", 5, down().page(5, |p| p.state = InstanceState::CopyUnfinished)),
        ("SupervisorSays", 5, down().down_for(5, 3600)), // serves and receives: FTS will mark it up
        ("planned Incremental", 5, down().down_for(5, 31).page(5, deaf)),
        ("WithinGrace", 5, down().down_for(5, 29).page(5, deaf)),
        ("WithinGrace", 5, down().down_for(5, 99).page(5, starting).page(5, |p| p.since = ago(99))),
        ("WithinGrace", 5, down().down_for(5, 99).page(5, deaf).page(5, |p| p.since = ago(5))),
        ("planned Incremental", 5, down().down_for(5, 99).page(5, held).page(5, deaf)),
        ("NothingSelected", 2, World::of(&["2:0ppsu", "5:0mmsu"]).without_pod(2).without_pod(5).source(0, gone())),
        ("NothingSelected", 5, down().down_for(5, 99).without_pod(2).without_pod(5).source(0, gone())),
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |p| (p.state, p.cluster) = (InstanceState::NotAnswering, "other".into()))),
        ("SupervisorSilent", 5, down().down_for(5, 99).silent(5)),
        ("DoubleFault", 5, needs_recovery().source(0, gone())),
        ("DoubleFault", 2, needs_recovery().source(0, gone())),
        ("ActingPrimaryNotAnswering", 2, World::of(&["2:0ppsu", "5:0mmsu"]).source(0, gone())),
        ("PrimaryDataMissing", 2, down().page(2, |p| p.state = InstanceState::PrimaryDataMissing)),
        ("PeerSuspect", 2, down().source_with(0, |s| s.in_recovery = true)),
        ("SupervisorSays", 2, World::of(&["2:0ppsu", "5:0mmsu"]).page(2, starting)),
        ("CatalogInvalid", 2, World::of(&["2:0ppsu", "5:0pmsu"])),
        ("RecoveryFailed", 5, failed(needs_recovery())),
        ("RecoveryFailed", 5, failed(down().down_for(5, 3).page(5, deaf))), // no grace for what was tried
        ("RecoveryFailed", 5, failing(needs_recovery())),                   // at once, when it ends
        ("VolumeUnrecognised", 5, World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |p| p.state = InstanceState::VolumeUnrecognised)),
        ("recovering", 5, unproven()), // in sync is not yet proven
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"]).recovery(asked("by-hand", &[5], None))), // refused: it is up
        ("recovering", 5, needs_recovery().recovery(asked("by-hand", &[5], None))), // named in this very look
        ("recovering", 5, needs_recovery().recovery(running("by-hand", 5, 0, Repair::Full, crate::model::JobState::Active))),
    ] {
        assert_eq!(reason(&Policy::default(), &world, dbid), expected, "{:?}", world.catalog);
    }
}

/// Copied, and no statement was dispatched to it yet.
fn unproven() -> World {
    let mut recovery = running("by-hand", 5, 0, Repair::Full, crate::model::JobState::Active);
    let instance = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (instance.job, instance.proving_since) = (None, Some(ago(3)));
    let dispatch = Look::Unknown("asked just now".into());
    World { dispatch, ..World::of(&["2:0ppsu", "5:0mmsu"]) }.recovery(recovery)
}

#[test]
fn policy_stands_in_the_way_last_and_says_what_it_would_do() {
    let paused = Policy { paused: true, ..Policy::default() };
    let observe = Policy { mode: HealingMode::Observe, ..Policy::default() };
    let never = Policy { full_allowed: false, ..Policy::default() };
    let empty = down().page(5, |p| p.state = InstanceState::NeedsFull);
    assert_eq!(reason(&paused, &needs_recovery(), 5), "Paused");
    assert_eq!(reason(&observe, &needs_recovery(), 5), "ObserveOnly");
    assert_eq!(reason(&never, &empty, 5), "FullNotAllowed");
    assert_eq!(reason(&paused, &needs_recovery().source(0, Look::Unknown("gone".into())), 5), "DoubleFault");
}

#[test]
fn fts_is_asked_to_look_when_a_container_died_or_a_mirror_is_back() {
    let asks = |world: &World| plan(&Policy::default(), world, now()).probe.is_some();
    assert!(!asks(&World::of(&["2:0ppsu", "5:0mmsu"])));
    assert!(asks(&World::of(&["2:0ppsu", "5:0mmsu"]).page(2, |p| p.state = InstanceState::StayingDown)));
    assert!(asks(&down()), "it receives and is still marked down");
    let deaf = || needs_recovery().page(5, |p| p.receiving = false);
    assert!(!asks(&deaf()));
    let streams = |source: &mut Source| source.walsenders = vec![walsender(5)];
    assert!(asks(&deaf().source_with(0, streams)), "its primary streams to it, and its page does not say so yet");
}
