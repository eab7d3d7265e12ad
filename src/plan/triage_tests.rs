use super::*;
use crate::{names, plan};
use model::{
    Changed, Dbid, Failure, FailureClass, HealingMode, JobState, JobView, Outcome, Policy, Repair, Source, Standing, Step, World,
    page::{ExitClass, LastExit},
    world::fixtures::{ago, asked, now, running, walsender},
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
        Some(Reason::Refused(refusal) | Reason::Waits { refusal, .. }) => refusal.code().into(),
        Some(Reason::Planned { repair, .. }) => format!("planned {repair}"),
        Some(Reason::Recovering { .. }) => "recovering".into(),
    }
}

/// The recovery of this fault is over, in vain.
fn failed(world: World) -> World {
    let name = names::fault(&world, Dbid(5));
    let mut recovery = asked(&name, &[5], None);
    recovery.phase = model::Phase::Failed;
    world.recovery(recovery)
}

/// Its attempt has just ended in a way that ends the recovery.
fn failing(world: World) -> World {
    let name = names::fault(&world, Dbid(5));
    let failure =
        Failure { class: FailureClass::TargetAheadOfSource, step: Step::ProvingAgain, message: String::new(), evidence: String::new() };
    let outcome = Outcome {
        attempt: String::new(),
        repair: Repair::Full,
        failure: Some(failure),
        bytes: 0,
        seconds: 0,
        note: String::new(),
        changed: None,
        recovery_uid: None,
    };
    world.recovery(running(&name, 5, 0, Repair::Full, model::JobState::Ended(outcome)))
}

#[test]
fn each_state_of_a_pair_has_its_answer() {
    let gone = || Look::Unknown("connection refused".to_owned());
    let held = |p: &mut Page| p.state = InstanceState::Held;
    let starting = |p: &mut Page| (p.state, p.receiving) = (InstanceState::Starting, false);
    let deaf = |p: &mut Page| p.receiving = false;
    for (expected, dbid, world) in [
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"])),
        ("CatchingUp", 5, World::of(&["2:0ppnu", "5:0mmnu"])),
        ("planned Incremental", 5, needs_recovery()),
        ("planned Full", 5, down().page(5, |p| p.state = InstanceState::NeedsFull)),
        ("planned Full", 5, down().page(5, |p| p.state = InstanceState::CopyUnfinished)),
        ("SupervisorSays", 5, down().down_for(5, 3600)), // serves and receives: FTS will mark it up
        ("NotMarkedUp", 5, down().down_for(5, 3600).instance(5, |i| i.unmarked = Some(SECOND * 300))), // it should have
        ("planned Incremental", 5, needs_recovery().instance(5, |i| i.unmarked = Some(SECOND * 300))),
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
        ("WithinGrace", 5, failed(down().down_for(5, 99).page(5, starting).page(5, |p| p.since = ago(99)))), // it replays all the same
        ("RecoveryFailed", 5, failing(needs_recovery())),                   // at once, when it ends
        ("VolumeUnrecognised", 5, World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |p| p.state = InstanceState::VolumeUnrecognised)),
        ("recovering", 5, unproven()), // in sync is not yet proven
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"]).recovery(asked("by-hand", &[5], None))), // refused: it is up
        ("recovering", 5, needs_recovery().recovery(asked("by-hand", &[5], None))), // named in this very look
        ("recovering", 5, needs_recovery().recovery(running("by-hand", 5, 0, Repair::Full, model::JobState::Active))),
    ] {
        assert_eq!(reason(&Policy::default(), &world, dbid), expected, "{:?}", world.catalog);
    }
}

#[test]
fn a_mirror_that_holds_up_commits_is_told_of_while_fts_believes_in_it() {
    for (expected, dbid, world) in [
        ("MirrorHangs", 5, hanging(World::of(&["2:0ppsu", "5:0mmsu"]))),
        ("MirrorHangs", 5, hanging(World::of(&["2:0ppnu", "5:0mmnu"]))), // it hangs while it catches up
        ("MirrorHangs", 5, World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |p| p.stalled = Some("sits in the kernel".into()))),
        ("MirrorHangs", 5, hanging(World::of(&["2:0ppsu", "5:0mmsu"])).page(5, |p| p.cluster = "other".into())),
        ("MirrorUnreachable", 5, hanging(World::of(&["2:0ppsu", "5:0mmsu"])).silent(5)),
        ("MirrorUnreachable", 5, lost_node(World::of(&["2:0ppsu", "5:0mmsu"]).silent(5))),
        ("well", 5, lost_node(World::of(&["2:0ppsu", "5:0mmsu"]))), // its supervisor answers
        ("well", 5, World::of(&["2:0ppsu", "5:0mmsu"]).silent(5)),  // so was every mirror without a supervisor
        ("well", 5, hanging(World::of(&["2:0ppsu", "5:0mmsu"])).page(2, |p| p.cluster = "other".into())),
        ("recovering", 5, hanging(unproven())),
        ("planned Incremental", 5, hanging(needs_recovery())), // FTS has marked it down: it is repaired
    ] {
        assert_eq!(reason(&Policy::default(), &world, dbid), expected, "{:?}", world.catalog);
    }
}

/// A stopped walsender holds its slot: commits wait, nothing hangs by anybody's look, and the receiver alone knows.
#[test]
fn a_mirror_that_serves_and_receives_nothing_is_told_of_once_that_lasts() {
    let deaf = |seconds| {
        World::of(&["2:0ppsu", "5:0mmsu"])
            .page(5, |p| (p.receiving, p.receiver_error) = (false, Some("the slot is already active".into())))
            .instance(5, move |i| i.deaf = Some(SignedDuration::from_secs(seconds)))
    };
    let asks = |world: &World| plan(&Policy::default(), world, now()).probe.is_some();
    for (expected, world) in [
        ("MirrorNotReceiving", deaf(31)),
        ("well", deaf(29)), // it has just come up
        ("well", deaf(31).page(5, |p| p.receiver_error = None)),
        ("well", deaf(31).page(5, |p| p.receiving = true)),
        ("MirrorHangs", hanging(deaf(31))),
        ("SupervisorSays", deaf(31).page(5, |p| p.state = InstanceState::Starting)),
    ] {
        assert_eq!(reason(&Policy::default(), &world, 5), expected);
    }
    assert!(!asks(&deaf(31)), "FTS calls it up already");
    assert!(deaf(0).restless(), "it is looked at again soon");
}

#[test]
fn a_slow_mirror_is_told_as_that_and_fts_is_not_asked_for_it() {
    let slow = hanging(World::of(&["2:0ppsu", "5:0mmsu"])).page(2, |p| p.mirror_hangs.as_mut().unwrap().slow = true);
    assert_eq!(reason(&Policy::default(), &slow, 5), "MirrorSlow");
    assert!(plan(&Policy::default(), &slow, now()).probe.is_none());
    assert_eq!(reason(&Policy::default(), &slow.silent(5), 5), "MirrorUnreachable", "its supervisor showed it a moment ago, and is gone");
}

/// Each look of FTS finds it up: only its supervisor sees that it does not stay so.
#[test]
fn what_crashes_again_and_again_and_is_up_for_fts_is_told_of() {
    let ends = |world: World, dbid, times, ago_s| {
        world.page(dbid, move |p| {
            let (how, class, evidence) = ("signal 6".into(), ExitClass::Unclassified, String::new());
            let exit = LastExit { at: ago(ago_s), how, class, evidence, after: None, since: times, inside: true };
            (p.restarts, p.last_exit) = (times, Some(exit));
        })
    };
    let well = || World::of(&["2:0ppsu", "5:0mmsu"]);
    let catching_up = || World::of(&["2:0ppnu", "5:0mmnu"]);
    let gone = |world: World| world.source(0, Look::Unknown("connection refused".into()));
    let starting = |world: World, dbid| world.page(dbid, |p| p.state = InstanceState::Starting);
    for (expected, dbid, world) in [
        ("CrashLooping", 5, ends(well(), 5, 5, 10)),
        ("CrashLooping", 5, starting(ends(well(), 5, 5, 10), 5)),
        ("SupervisorSays", 5, starting(ends(well(), 5, 4, 10), 5)),
        ("well", 5, ends(well(), 5, 4, 10)),
        ("well", 5, ends(well(), 5, 5, 90)), // it has served for a minute since
        ("MirrorHangs", 5, hanging(ends(well(), 5, 5, 10))),
        ("CrashLooping", 5, ends(catching_up(), 5, 5, 10)),
        ("SupervisorSays", 5, starting(ends(catching_up(), 5, 4, 10), 5)),
        ("VolumeUnrecognised", 5, catching_up().page(5, |p| p.state = InstanceState::VolumeUnrecognised)),
        ("CatchingUp", 5, ends(catching_up(), 5, 4, 10)),
        ("CrashLooping", 2, ends(well(), 2, 5, 10)),
        ("CrashLooping", 2, gone(ends(well(), 2, 5, 10))),
        ("DoubleFault", 2, gone(ends(World::of(&["2:0ppnu", "5:0mmnd"]), 2, 5, 10))),
    ] {
        assert_eq!(reason(&Policy::default(), &world, dbid), expected, "{dbid}");
    }
    let told = starting(ends(well(), 5, 1, 10), 5);
    let one = plan(&Policy::default(), &told, now()).unwell.remove(0);
    assert!(one.reason.refusal().unwrap().to_string().contains("signal 6"), "{:?}", one.reason);
    assert!(plan(&Policy::default(), &ends(well(), 5, 5, 10), now()).probe.is_none(), "that it receives is no news");
}

/// Its postgres has ended so often, and did last so long ago by the clock of its node.
fn ended(world: World, dbid: i16, state: InstanceState, times: u32, at: i64) -> World {
    world.page(dbid, |p| {
        let exit = serde_json::json!({"at": ago(at), "how": "signal 6", "class": "Unclassified", "inside": true});
        (p.state, p.since, p.receiving) = (state, ago(at - 1), p.receiving && state == InstanceState::Serving);
        (p.restarts, p.last_exit) = (times, serde_json::from_value(exit).unwrap());
    })
}

const OFFSETS: [i64; 5] = [0, 61, -61, 86_400, -86_400];
const SECOND: SignedDuration = SignedDuration::from_secs(1);

fn changed(ago: i64) -> impl Fn(&mut Instance) {
    move |one| (one.ended, one.still) = (Some(Changed::Ago(SECOND * i32::try_from(ago).unwrap())), Some(SECOND))
}

fn not_for(looked: i64) -> impl Fn(&mut Instance) {
    move |one| (one.ended, one.still) = (Some(Changed::NotFor(SECOND * i32::try_from(looked).unwrap())), Some(SECOND))
}

/// A node's clock that was off by a minute made each of its ends one of long ago, or one to come: a mirror that ended every other
/// second was a start that is waited for, for ever.
#[test]
fn no_clock_of_a_node_makes_a_mirror_that_ends_again_and_again_one_that_is_coming() {
    let down = |state, offset| ended(World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 3600), 5, state, 5000, 2 - offset);
    for offset in OFFSETS {
        for state in [InstanceState::Starting, InstanceState::BackingOff] {
            let told = |change: &dyn Fn(&mut Instance)| reason(&Policy::default(), &down(state, offset).instance(5, change), 5);
            assert_eq!(told(&changed(1)), "planned Incremental", "{state:?} {offset:+}");
            assert_eq!(told(&changed(59)), "planned Incremental", "{state:?} {offset:+}");
        }
        let replays =
            |change: &dyn Fn(&mut Instance)| reason(&Policy::default(), &down(InstanceState::Starting, offset).instance(5, change), 5);
        assert_eq!(replays(&changed(60)), "WithinGrace", "{offset:+}: it replays since");
        assert_eq!(replays(&not_for(60)), "WithinGrace", "{offset:+}: and has for as long as this operator looks");
    }
}

/// It costs one more end to be seen, a minute at most: what has left its ends behind and replays is not stopped for a restart of ours.
#[test]
fn an_operator_that_has_just_begun_tells_what_may_fall_and_repairs_what_it_has_seen_to() {
    let down = |offset: i64| {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 3600);
        ended(world, 5, InstanceState::Starting, 5000, 2 - offset).instance(5, not_for(4))
    };
    let up = |offset: i64, looked| {
        ended(World::of(&["2:0ppsu", "5:0mmsu"]), 5, InstanceState::Serving, 5000, 2 - offset).instance(5, not_for(looked))
    };
    for offset in OFFSETS {
        let shows = (2 - offset).abs() < 60;
        let expected = if shows { "planned Incremental" } else { "WithinGrace" };
        assert_eq!(reason(&Policy::default(), &down(offset), 5), expected, "{offset:+}");
        assert_eq!(reason(&Policy::default(), &up(offset, 4), 5), "CrashLooping", "{offset:+}");
        assert_eq!(reason(&Policy::default(), &up(offset, 60), 5), "well", "{offset:+}");
    }
}

#[test]
fn no_clock_of_a_node_hides_that_what_is_up_for_fts_ends_again_and_again() {
    let well = || World::of(&["2:0ppsu", "5:0mmsu"]);
    for offset in OFFSETS {
        for dbid in [2, 5] {
            for state in [InstanceState::Serving, InstanceState::Starting, InstanceState::BackingOff] {
                let told = |ago| reason(&Policy::default(), &ended(well(), dbid, state, 5, 2 - offset).instance(dbid, changed(ago)), dbid);
                assert_eq!(told(1), "CrashLooping", "{dbid} {state:?} {offset:+}");
                let calm = if state == InstanceState::Serving { "well" } else { "SupervisorSays" };
                assert_eq!(told(60), calm, "{dbid} {state:?} {offset:+}");
            }
        }
    }
}

/// Its supervisor counts those in a row alone, and had forgotten each end before the next one.
#[test]
fn what_ends_every_minute_or_two_and_serves_in_between_is_told_of() {
    let slowly = |times, ago| {
        ended(World::of(&["2:0ppsu", "5:0mmsu"]), 5, InstanceState::Serving, 0, 2).instance(5, move |one| {
            changed(ago)(one);
            one.ends_lately = times;
        })
    };
    for (expected, times, ago) in
        [("CrashLooping", 5, 1), ("CrashLooping", 5, 70), ("CrashLooping", 5, 359), ("well", 5, 360), ("well", 4, 1), ("well", 0, 1)]
    {
        assert_eq!(reason(&Policy::default(), &slowly(times, ago), 5), expected, "{times} {ago}");
    }
    let one = plan(&Policy::default(), &slowly(7, 70), now()).unwell.remove(0);
    let told = one.reason.refusal().unwrap().to_string();
    assert!(told.contains("7 times within half an hour, though it serves in between, last at"), "{told}");
}

/// The least right that is documented sees no positions on 6: then nobody sees a mirror hang.
#[test]
fn what_cannot_be_watched_is_told_and_silence_counts_there() {
    let blind = |world: World| world.page(2, |p| p.mirror_unwatched = Some("this login sees nothing".into()));
    let silent = |seconds| {
        let world = World::of(&["2:0ppsu", "5:0mmsu"]).silent(5);
        world.instance(5, move |i| i.silent = Some(SignedDuration::from_secs(seconds)))
    };
    let unwatched = |world: &World| {
        let plan = plan(&Policy::default(), world, now());
        plan.unwatched.iter().map(|one| (one.dbid, one.reason.refusal().unwrap().code())).collect::<Vec<_>>()
    };
    assert_eq!(unwatched(&blind(World::of(&["2:0ppsu", "5:0mmsu"]))), [(Dbid(2), "MirrorUnwatched")]);
    assert_eq!(unwatched(&World::of(&["2:0ppsu", "5:0mmsu"])), []);
    assert_eq!(reason(&Policy::default(), &blind(World::of(&["2:0ppsu", "5:0mmsu"])), 5), "well", "it is no fault of the mirror");
    assert_eq!(reason(&Policy::default(), &blind(silent(15)), 5), "MirrorUnreachable");
    assert_eq!(reason(&Policy::default(), &blind(silent(14)), 5), "well", "it is being made again");
    assert_eq!(reason(&Policy::default(), &silent(600), 5), "well", "its primary would tell");
    assert!(blind(silent(0)).restless() && !silent(0).restless());
}

/// Its acting primary's supervisor says that the mirror hangs.
fn hanging(world: World) -> World {
    world.page(2, |page| page.mirror_hangs = Some(a_hang(false)))
}

fn a_hang(ended: bool) -> model::page::MirrorHang {
    model::page::MirrorHang { since: ago(6), detail: "it has acknowledged nothing".into(), ended, slow: false }
}

fn lost_node(world: World) -> World {
    world.instance(5, |one| one.node_lost = Some("its node n2 is not ready".into()))
}

/// Copied, and no statement was dispatched to it yet.
fn unproven() -> World {
    let mut recovery = running("by-hand", 5, 0, Repair::Full, model::JobState::Active);
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

/// It was repaired for nothing, again and again: the copy could not be started either.
#[test]
fn what_no_copy_mends_is_told_and_not_copied() {
    let dies = |class, crashes| {
        let exit = serde_json::json!({"at": ago(5), "how": "exit status: 1", "class": class, "evidence": "FATAL:  x"});
        let exit = serde_json::from_value(exit).unwrap();
        down().down_for(5, 60).page(5, move |p| {
            (p.state, p.receiving, p.crashes, p.last_exit) = (InstanceState::BackingOff, false, crashes, Some(exit));
        })
    };
    let asked = |class, crashes| reason(&Policy::default(), &dies(class, crashes), 5);
    assert_eq!(asked(ExitClass::Environment, 3), "DoesNotStart");
    assert_eq!(asked(ExitClass::Configuration, 1), "DoesNotStart");
    for class in [ExitClass::DataUnusable, ExitClass::TimelineDiverged, ExitClass::Killed, ExitClass::Unclassified] {
        assert_ne!(asked(class, 3), "DoesNotStart", "{class:?}");
    }
    assert_ne!(asked(ExitClass::Environment, 0), "DoesNotStart", "it has served since");
    let starting = |crashes, still| {
        let quiet = Some(SignedDuration::from_secs(still));
        dies(ExitClass::Environment, crashes)
            .down_for(5, 3600)
            .instance(5, |i| i.still = quiet)
            .page(5, |p| p.state = InstanceState::Starting)
    };
    assert_eq!(reason(&Policy::default(), &starting(5, 1), 5), "DoesNotStart", "between two ends");
    assert_eq!(reason(&Policy::default(), &starting(1, 1), 5), "WithinGrace", "it may come up");
    assert_eq!(reason(&Policy::default(), &starting(1, 3600), 5), "planned Incremental", "nothing moves any more, and it has not ended");
    let stale = dies(ExitClass::Environment, 3).page(5, |p| p.state = InstanceState::NeedsRecovery);
    assert_eq!(reason(&Policy::default(), &stale, 5), reason(&Policy::default(), &needs_recovery(), 5), "it asks for a repair");
}

#[test]
fn fts_is_asked_to_look_when_a_container_died_or_a_mirror_is_back() {
    let asks = |world: &World| plan(&Policy::default(), world, now()).probe.is_some();
    assert!(!asks(&World::of(&["2:0ppsu", "5:0mmsu"])));
    assert!(asks(&World::of(&["2:0ppsu", "5:0mmsu"]).page(2, |p| p.state = InstanceState::StayingDown)));
    assert!(asks(&World::of(&["2:0ppnu", "5:0mmnu"]).page(5, |p| p.state = InstanceState::BackingOff)));
    let ended = |yes: bool| hanging(World::of(&["2:0ppsu", "5:0mmsu"])).page(2, |p| p.mirror_hangs.as_mut().unwrap().ended = yes);
    assert!(asks(&ended(true)) && !asks(&ended(false)), "FTS believes a walsender for as long as there is one");
    let replaced = World::of(&["2:0mpsu", "5:0pmsu"]).page(2, |p| p.mirror_hangs = Some(a_hang(true)));
    assert!(!asks(&replaced), "what it said of its mirror, it said as a primary");
    assert!(asks(&down()), "it receives and is still marked down");
    let deaf = || needs_recovery().page(5, |p| p.receiving = false);
    assert!(!asks(&deaf()));
    let streams = |source: &mut Source| source.walsenders = vec![walsender(5)];
    assert!(asks(&deaf().source_with(0, streams)), "its primary streams to it, and its page does not say so yet");
}

/// A node's clock that is ahead kept its repair waiting until the operator's had caught up; one of a coordinator, or a step of
/// the operator's own, must not do so either.
#[test]
fn no_step_of_a_clock_delays_a_repair_beyond_its_patience_or_renames_it() {
    const DAY: i64 = 86_400;
    let policy = Policy::default();
    let deaf = |world: World| world.page(5, |p| p.receiving = false);
    let seen = |still: i64| move |i: &mut Instance| i.still = Some(SignedDuration::from_secs(still));
    let name = |world: &World| plan(&policy, world, now()).new_recoveries.first().map(|new| new.name.clone());
    let usual = name(&deaf(down().down_for(5, 31))).unwrap();
    for step in [DAY, -DAY] {
        let node = deaf(down().down_for(5, 31)).page(5, |p| p.since = ago(step + 40));
        assert_eq!(name(&node), Some(usual.clone()), "node {step}");
        assert_eq!(name(&node.instance(5, seen(31))), Some(usual.clone()), "node {step}, watched");
        let coordinator = deaf(down().down_for(5, 31)).instance(5, |i| i.promoted_at = Some(ago(step)));
        assert_eq!(name(&coordinator), Some(usual.clone()), "coordinator {step}");
    }
    let forward = deaf(down().down_for(5, DAY + 5));
    assert_eq!(name(&forward), Some(usual.clone()), "the operator's was set forward: early at worst");
    let back = deaf(down().down_for(5, -DAY));
    let told = plan(&policy, &back, now());
    assert!(told.new_recoveries.is_empty());
    let mirror = told.unwell.iter().find(|one| one.dbid == Dbid(5)).unwrap();
    assert_eq!(mirror.reason, Reason::Refused(Refusal::WithinGrace { seconds_left: 30 }), "no longer than the patience");
    assert_eq!(mirror.since, now(), "from here on it counts by the new clock");
    assert_eq!(name(&deaf(down().down_for(5, 30))), Some(usual), "and so ends");
    let young = deaf(down().down_for(5, 600)).page(5, |p| p.since = ago(-DAY)).instance(5, seen(4));
    assert_eq!(reason(&policy, &young, 5), "WithinGrace", "a node's clock ahead is no way around the grace either");
}

/// A mirror that replayed for ten minutes was stopped by a repair, found to need no rewind, and began again.
#[test]
fn a_replay_that_goes_on_is_not_stopped_by_a_repair() {
    let starting = |still: i64| {
        let world = down().down_for(5, 7200).page(5, |p| {
            (p.state, p.receiving, p.since) = (InstanceState::Starting, false, ago(7200));
        });
        world.instance(5, |i| i.still = Some(SignedDuration::from_secs(still)))
    };
    assert_eq!(reason(&Policy::default(), &starting(2), 5), "WithinGrace");
    assert_eq!(reason(&Policy::default(), &starting(599), 5), "WithinGrace");
    assert_eq!(reason(&Policy::default(), &starting(601), 5), "planned Incremental");
}

#[test]
fn a_primary_that_was_replaced_is_told_as_such() {
    let world = World::of(&["2:0ppnu", "5:0mmnd"]).source(0, Look::Unknown("refused".into()));
    let world = world.page(2, |p| (p.state, p.detail) = (InstanceState::Replaced, "dbid 5 took its place".into()));
    let plan = plan(&Policy::default(), &world, now());
    let primary = plan.unwell.iter().find(|one| one.dbid == Dbid(2)).unwrap();
    assert!(matches!(&primary.reason, Reason::Refused(refusal @ Refusal::SupervisorSays { .. }) if refusal.needs_a_person()));
    assert!(plan.new_recoveries.is_empty());
}

#[test]
fn an_attempt_that_makes_no_progress_is_a_reason_and_not_only_a_recovery_at_work() {
    let mut recovery = running("by-hand", 5, 0, Repair::Full, model::JobState::Active);
    recovery.instances.get_mut(&Dbid(5)).unwrap().job.as_mut().unwrap().stuck = Some("node n2 is not ready".into());
    assert_eq!(reason(&Policy::default(), &needs_recovery().recovery(recovery), 5), "AttemptStuck");
}

/// One that is deleted in the foreground stays for as long as its Job's pod does, which may be on a node that is lost: nobody moves it
/// on, and what it waits for is told all the same, also of those that wait behind it.
#[test]
fn what_holds_up_a_recovery_that_is_being_deleted_is_told() {
    let recovery = |deleting, change: fn(&mut JobView)| {
        let mut recovery = running("by-hand", 5, 0, Repair::Full, JobState::Active);
        recovery.deleting = deleting;
        change(recovery.instances.get_mut(&Dbid(5)).unwrap().job.as_mut().unwrap());
        recovery
    };
    let stuck = |job: &mut JobView| job.stuck = Some("its node n2 is not ready".into());
    let refused = |job: &mut JobView| job.refused = Some("exceeded quota".into());
    let ended = |job: &mut JobView| job.state = JobState::Lost("it is gone".into());
    let later = "by-hand-2";
    for (expected, recovery) in [
        ("AttemptStuck", recovery(false, stuck)),
        ("AttemptStuck", recovery(true, stuck)),
        ("PodRefused", recovery(true, refused)),
        ("JobNotEnded", recovery(true, |_| {})),
        ("AlreadyRecovering", recovery(true, ended)),
    ] {
        let world = needs_recovery().down_for(5, 7 * 86_400).recovery(recovery.clone());
        assert_eq!(reason(&Policy::default(), &world, 5), expected, "{recovery:?}");
        let lost = world.clone().silent(5);
        let hidden = if expected == "AlreadyRecovering" { "SupervisorSilent" } else { expected };
        assert_eq!(reason(&Policy::default(), &lost, 5), hidden, "its own node is the same");
        let plan = plan(&Policy::default(), &world.recovery(asked(later, &[5], None)), now());
        let waits = match &plan.recoveries[later].instances[&Dbid(5)].standing {
            Standing::Waiting(refusal) => refusal.code(),
            other => panic!("{other:?}"),
        };
        let behind = if recovery.deleting { expected } else { "AlreadyRecovering" };
        assert_eq!(waits, behind, "{recovery:?}");
        assert!(
            plan.new_recoveries.is_empty()
                && plan.recoveries.values().flat_map(|one| one.instances.values()).all(|one| one.create_job.is_none())
        );
    }
}

/// Whatever it is, its state has always just changed, so that a grace that counts from its last change was never over.
#[test]
fn a_mirror_that_ends_again_and_again_is_not_taken_for_one_that_is_coming() {
    let falls = |crashes, restarts, fell, ended| {
        World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, fell).instance(5, |i| i.still = Some(SignedDuration::from_secs(1))).page(5, |p| {
            (p.state, p.receiving, p.since) = (InstanceState::Starting, false, ago(1));
            let exit = serde_json::json!({"at": ago(ended), "how": "signal 6", "class": "Killed"});
            (p.crashes, p.restarts, p.last_exit) = (crashes, restarts, serde_json::from_value(exit).unwrap());
        })
    };
    assert_eq!(reason(&Policy::default(), &falls(0, 0, 3600, 2), 5), "WithinGrace");
    assert_eq!(reason(&Policy::default(), &falls(9, 9, 3600, 90), 5), "WithinGrace", "it replays since");
    assert_eq!(reason(&Policy::default(), &falls(2, 2, 3600, 2), 5), "WithinGrace");
    assert_eq!(reason(&Policy::default(), &falls(0, 5, 29, 2), 5), "WithinGrace");
    for (crashes, restarts) in [(0, 5), (5, 0), (2, 3)] {
        assert_eq!(reason(&Policy::default(), &falls(crashes, restarts, 31, 2), 5), "planned Incremental", "{crashes} {restarts}");
    }
}
