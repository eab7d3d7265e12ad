use super::*;
use crate::{desk::Desk, plan};
use model::{
    FailureClass, JobState, Missing, Phase, Plan, Policy, Recovery, Repair, Standing, World,
    page::AttemptSeen,
    world::fixtures::{ago, now, running},
};

/// A recovery of dbid 5 whose first attempt is done since so many seconds.
fn done(repair: Repair, changed: Option<bool>, seconds: i64) -> Recovery {
    let mut recovery = running("r", 5, 0, repair, JobState::Active);
    recovery.automatic = true;
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.job, state.changed, state.proving_since) = (None, changed, Some(ago(seconds)));
    recovery
}

fn exit(class: ExitClass, times: u32) -> LastExit {
    LastExit {
        at: ago(3),
        how: "exit 1".into(),
        class,
        evidence: "FATAL:  what it died of".into(),
        after: Some(AttemptSeen { attempt: "r-a1".into(), recovery_uid: Some("uid-of-r".into()) }),
        since: times,
        inside: false,
    }
}

/// A mirror that is down after its repair, and whose postgres ended so.
fn dies(recovery: Recovery, exit: LastExit) -> World {
    // Its state changes with every end of it.
    let world = World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 60).instance(5, |one| one.still = Some(SignedDuration::from_secs(2)));
    world.recovery(recovery).page(5, |page| {
        (page.state, page.serves, page.receiving) = (InstanceState::BackingOff, None, false);
        (page.crashes, page.last_exit) = (exit.since, Some(exit));
    })
}

fn planned(world: &World) -> Plan {
    plan(&Policy::default(), world, now())
}

/// Where the recovery stands: the class of its failure and the rung that it is on.
fn stands(world: &World) -> (Phase, Option<FailureClass>, Option<Repair>) {
    let plan = planned(world);
    let state = &plan.recoveries["r"].instances[&Dbid(5)].state;
    (state.phase, state.failure.as_ref().map(|failure| failure.class), state.repair)
}

/// The same, of a recovery with the name that automatic healing gives it.
fn of_this_fault(mut world: World) -> World {
    let fault = names::fault(&world, Dbid(5));
    world.recoveries[0].name.clone_from(&fault);
    world.page(5, |page| page.last_exit.as_mut().unwrap().after.as_mut().unwrap().attempt = format!("{fault}-a1"))
}

const OUTSIDE: [ExitClass; 4] = [ExitClass::Environment, ExitClass::Configuration, ExitClass::Killed, ExitClass::Unclassified];

/// Half an hour went by with "copied; not proven yet" while a page counted crashes.
#[test]
fn of_what_it_dies_stands_in_the_recovery_and_in_the_cluster_at_once() {
    for class in OUTSIDE {
        let world = dies(done(Repair::Incremental, Some(false), 2), exit(class, 2));
        let plan = planned(&world);
        let said = &plan.recoveries["r"].message;
        for word in ["nothing had to be copied", "ended 2 times since the repair", &format!("{class:?}"), "FATAL:  what it died of"] {
            assert!(said.contains(word), "{class:?} {word}: {said}");
        }
        let told = plan.unwell.iter().find(|one| one.dbid == Dbid(5)).unwrap();
        let model::Reason::Recovering { trouble: Some(trouble), .. } = &told.reason else { panic!("{:?}", told.reason) };
        assert!(trouble.contains("FATAL:  what it died of"), "{trouble}");
        assert_eq!(stands(&world), (Phase::Running, None, Some(Repair::Incremental)));
    }
}

#[test]
fn damage_after_a_repair_is_the_next_rung_at_once() {
    let incremental = |changed| dies(done(Repair::Incremental, changed, 2), exit(ExitClass::DataUnusable, 1));
    for changed in [Some(false), Some(true), None] {
        let expected = (Phase::Running, Some(FailureClass::TargetUnusable), Some(Repair::Full));
        assert_eq!(stands(&incremental(changed)), expected, "{changed:?}");
    }
    let needs_full = incremental(Some(false)).page(5, |page| page.state = InstanceState::NeedsFull);
    assert_eq!(stands(&needs_full).2, Some(Repair::Full), "its supervisor says so, too");
    let full = dies(done(Repair::Full, Some(true), 2), exit(ExitClass::DataUnusable, 1));
    assert_eq!(stands(&full).0, Phase::Failed, "full after full is no answer");
    let never = Policy { full_allowed: false, ..Policy::default() };
    let plan = plan(&never, &incremental(Some(false)), now());
    assert_eq!(plan.recoveries["r"].phase, Phase::Failed, "policy does not let it");
}

#[test]
fn what_a_copy_does_not_mend_or_nobody_knows_never_leads_to_a_second_one() {
    for class in OUTSIDE {
        for repair in [Repair::Incremental, Repair::Full] {
            let after = |seconds, times| dies(done(repair, Some(repair == Repair::Full), seconds), exit(class, times));
            let waits = (Phase::Running, None, Some(repair));
            assert_eq!(stands(&after(599, 50)), waits, "{class:?}: it may pass yet");
            assert_eq!(stands(&after(86_400, 2)), waits, "{class:?}: the clock was set forward");
            let over = after(601, 3);
            assert_eq!(stands(&over), (Phase::Failed, Some(FailureClass::MirrorDies), Some(repair)), "{class:?}");
            let plan = planned(&over);
            assert!(plan.recoveries["r"].message.contains("FATAL:  what it died of"), "{}", plan.recoveries["r"].message);
            assert!(plan.recoveries["r"].instances[&Dbid(5)].create_job.is_none());
            assert!(planned(&of_this_fault(over)).new_recoveries.is_empty(), "{class:?}: nor to another recovery");
        }
    }
}

#[test]
fn a_history_that_a_repair_left_as_it_was_is_not_repaired_so_again() {
    let diverged = |changed| {
        let world = dies(done(Repair::Incremental, changed, 2), exit(ExitClass::TimelineDiverged, 1));
        world.page(5, |page| page.state = InstanceState::NeedsRecovery)
    };
    let class = |changed| (stands(&diverged(changed)).1.unwrap(), stands(&diverged(changed)).2.unwrap());
    assert_eq!(class(Some(false)), (FailureClass::CannotRewind, Repair::Full));
    assert_eq!(class(Some(true)), (FailureClass::WorldMoved, Repair::Incremental));
    assert_eq!(class(None), (FailureClass::WorldMoved, Repair::Incremental), "of a Job that does not say");
    let ahead = diverged(Some(false)).page(5, |page| page.last_exit = None);
    assert_eq!(stands(&ahead).1, Some(FailureClass::WorldMoved), "it has what its primary lacks");
}

/// What it died of before the repair says nothing of what the repair left.
#[test]
fn only_ends_since_this_very_attempt_count() {
    let old = |change: fn(&mut LastExit)| {
        let mut exit = exit(ExitClass::DataUnusable, 9);
        change(&mut exit);
        dies(done(Repair::Incremental, Some(true), 601), exit)
    };
    for change in [
        (|exit| exit.after = None) as fn(&mut LastExit), // a supervisor that does not tell
        |exit| exit.after.as_mut().unwrap().attempt = "r-a2".into(),
        |exit| exit.after.as_mut().unwrap().recovery_uid = Some("uid-of-a-namesake".into()),
    ] {
        let world = old(change);
        assert_eq!(stands(&world), (Phase::Running, None, Some(Repair::Incremental)));
        assert!(planned(&world).recoveries["r"].message.contains("counts 9 crashes"), "it is shown all the same");
    }
    let receives = old(|_| ()).page(5, |page| page.receiving = true);
    assert_eq!(stands(&receives).0, Phase::Running, "it came up in the end");
}

#[test]
fn a_process_that_dies_in_a_living_postmaster_is_told_and_is_damage_when_it_does_so_twice() {
    let inside = |times, class| dies(done(Repair::Incremental, Some(false), 2), LastExit { inside: true, ..exit(class, times) });
    assert_eq!(stands(&inside(1, ExitClass::DataUnusable)).1, None, "it tries again by itself");
    assert_eq!(stands(&inside(2, ExitClass::DataUnusable)).2, Some(Repair::Full));
    let said = planned(&inside(1, ExitClass::Unclassified)).recoveries["r"].message.clone();
    assert!(said.contains("within a postmaster that lives"), "{said}");
}

#[test]
fn a_mirror_that_never_receives_is_told_with_its_receivers_words() {
    let deaf = |seconds| {
        let still = SignedDuration::from_secs(seconds);
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).recovery(done(Repair::Full, Some(true), seconds));
        world.instance(5, |one| one.still = Some(still)).page(5, |page| {
            (page.receiving, page.receiver_error) = (false, Some("highest timeline 1 of the primary is behind".into()));
        })
    };
    let plan = planned(&deaf(5));
    let Standing::Proving(missing) = &plan.recoveries["r"].instances[&Dbid(5)].standing else { panic!() };
    assert!(missing.contains(&Missing::Receiving));
    assert!(plan.recoveries["r"].message.contains("its WAL receiver says: highest timeline 1"), "{}", plan.recoveries["r"].message);
    let over = planned(&deaf(1900));
    assert_eq!(over.recoveries["r"].phase, Phase::Failed);
    assert!(over.recoveries["r"].message.contains("highest timeline 1 of the primary"), "{}", over.recoveries["r"].message);
}

#[test]
fn what_a_page_says_is_told_once() {
    let world = dies(done(Repair::Full, None, 2), exit(ExitClass::Environment, 1));
    let policy = Policy::default();
    let desk = Desk::new(&policy, &world, now());
    let page = desk.page_at(Dbid(5)).unwrap();
    assert!(told(page).ends_with("FATAL:  what it died of"), "{}", told(page));
    let page = Page { detail: "1 crashes in a row; last: exit 1 Environment FATAL:  what it died of".into(), ..page.clone() };
    assert_eq!(told(&page).matches("what it died of").count(), 1);
}
