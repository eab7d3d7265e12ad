use super::*;
use crate::plan;
use model::{
    InstanceState, JobState, Plan, Reason, Recovery, Step, World,
    page::{AttemptSeen, ExitClass, LastExit},
    world::fixtures::{ago, asked, now, running},
};

const DAY: i64 = 86_400;

/// A mirror that asks for a rewind, for a minute now.
fn down() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 60).page(5, |p| p.state = InstanceState::NeedsRecovery)
}

fn failure(class: FailureClass) -> Failure {
    Failure { class, step: Step::Proving, message: "somebody copies".into(), evidence: String::new() }
}

/// A recovery of dbid 5 from dbid 2 that is over since so many seconds.
fn over(name: &str, phase: Phase, seconds: i64, change: impl FnOnce(&mut RecoveryInstance)) -> Recovery {
    let mut recovery = running(name, 5, 0, Repair::Incremental, JobState::Active);
    (recovery.automatic, recovery.phase, recovery.ended) = (true, phase, Some(ago(seconds)));
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.phase, state.job, state.source, state.copies) = (phase, None, Some(Dbid(2)), 1);
    change(state);
    recovery
}

fn of_this_fault(number: u32) -> String {
    names::recovery(&names::fault(&down(), Dbid(5)), number)
}

fn failed(number: u32, class: FailureClass, seconds: i64) -> Recovery {
    over(&of_this_fault(number), Phase::Failed, seconds, |state| {
        state.failure = Some(failure(class));
        state.attempt_ended = Some(ago(seconds));
    })
}

/// What is planned for dbid 5: name, repair and what it follows, or why nothing is.
fn planned(policy: &Policy, world: &World) -> Result<(String, Repair, Option<String>), Refusal> {
    let Plan { new_recoveries, unwell, .. } = plan(policy, world, now());
    match new_recoveries.into_iter().next() {
        Some(new) => Ok((new.name, new.repair, new.follows)),
        None => match unwell.into_iter().find(|one| one.dbid == Dbid(5)).unwrap().reason {
            Reason::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        },
    }
}

fn code(world: &World) -> String {
    planned(&Policy::default(), world).map_or_else(|refusal| refusal.code().to_owned(), |(name, ..)| name)
}

/// It stood until a person deleted the object, though the network was back after five minutes.
#[test]
fn what_ended_for_a_cause_that_passes_is_taken_up_again_by_itself_at_a_bounded_rate() {
    let rests = down().recovery(failed(1, FailureClass::SourceBusy, 60));
    let Err(Refusal::TakenUpAgain { recovery, why, until }) = planned(&Policy::default(), &rests) else { panic!("{}", code(&rests)) };
    assert_eq!((recovery, until), (of_this_fault(1), ago(60 - 3600)));
    assert!(why.contains("SourceBusy: somebody copies"), "{why}");
    let rested = down().recovery(failed(1, FailureClass::SourceBusy, 3600));
    let first = Some(of_this_fault(1));
    assert_eq!(planned(&Policy::default(), &rested), Ok((of_this_fault(2), Repair::Incremental, first)));
    let twice = rested.recovery(failed(2, FailureClass::ConnectionLost, 4000));
    assert_eq!(code(&twice), of_this_fault(3), "a restarted operator finds its own and numbers on");
    for clock in [DAY, -DAY] {
        assert_eq!(
            code(&down().recovery(failed(1, FailureClass::SourceBusy, clock))),
            of_this_fault(2),
            "a step of {clock} s delays nothing"
        );
    }
}

/// Each copy that runs out of room takes hours of two disks: there are as many as policy allows, an hour apart, whatever
/// recoveries they belong to.
#[test]
fn a_copy_that_ran_out_of_room_is_made_again_as_often_as_policy_allows_and_not_for_ever() {
    let ran_out = |number, step, copies, seconds| {
        over(&of_this_fault(number), Phase::Failed, seconds, |state| {
            state.failure = Some(Failure { step, ..failure(FailureClass::NoRoom) });
            (state.attempt_ended, state.copies, state.repair) = (Some(ago(seconds)), copies, Some(Repair::Full));
        })
    };
    assert_eq!(code(&down().recovery(ran_out(1, Step::Copying, 1, 60))), "TakenUpAgain");
    let rested = down().recovery(ran_out(1, Step::Copying, 1, 3600));
    assert_eq!(code(&rested), of_this_fault(2));
    for step in [Step::Copying, Step::Analysing] {
        let mut next = asked(&of_this_fault(2), &[5], None);
        (next.automatic, next.follows) = (true, Some(of_this_fault(1)));
        let world = down().recovery(ran_out(1, step, 7, 3600)).recovery(next);
        let begun = plan(&Policy::default(), &world, now()).recoveries.remove(&of_this_fault(2)).unwrap();
        let state = &begun.instances[&Dbid(5)].state;
        assert_eq!((state.copies, state.repair), (7, Some(Repair::Full)), "it counts on, also after a day without room: {step}");
    }
    assert_eq!(code(&down().recovery(ran_out(1, Step::Copying, 8, DAY))), "RecoveryFailed");
    assert_eq!(code(&down().recovery(ran_out(1, Step::Analysing, 0, DAY))), of_this_fault(2), "nothing was copied");
}

#[test]
fn what_only_a_person_can_judge_stays_until_one_has() {
    for class in FailureClass::ALL.iter().filter(|class| class.answer() == Answer::Stop) {
        assert_eq!(code(&down().recovery(failed(1, *class, 30 * DAY))), "RecoveryFailed", "{class:?}");
    }
    let later = down().recovery(failed(1, FailureClass::SourceBusy, DAY)).recovery(failed(2, FailureClass::LoginRefused, DAY));
    assert_eq!(code(&later), "RecoveryFailed", "the newest one counts");
    let full = over(&of_this_fault(1), Phase::Failed, DAY, |state| {
        (state.failure, state.repair) = (Some(failure(FailureClass::TargetUnusable)), Some(Repair::Full));
    });
    assert_eq!(code(&down().recovery(full)), "RecoveryFailed", "full after full is no answer");
}

#[test]
fn a_full_copy_that_policy_had_forbidden_is_made_once_it_allows_it() {
    let world = down().recovery(failed(1, FailureClass::WalRemoved, DAY));
    assert_eq!(planned(&Policy::default(), &world).unwrap().1, Repair::Full);
    let never = Policy { full_allowed: false, ..Policy::default() };
    assert!(matches!(planned(&never, &world), Err(Refusal::RecoveryFailed { .. })));
}

/// The coordinator's clock was set back, the newest row of the history stayed the same, and a repair that succeeded was
/// called one that failed.
#[test]
fn a_recovery_that_succeeded_is_never_called_one_that_failed() {
    let world = down().recovery(over(&of_this_fault(1), Phase::Succeeded, 7200, |_| ()));
    assert_eq!(planned(&Policy::default(), &world).unwrap(), (of_this_fault(2), Repair::Incremental, Some(of_this_fault(1))));
}

/// What happened, the policy, the world, and the repair that follows which recovery.
type Case = (&'static str, Policy, World, Repair, Option<String>);

#[test]
fn a_pair_that_falls_back_goes_on_at_the_old_ones_rung() {
    let first = of_this_fault(1);
    let healed = |seconds, change: fn(&mut RecoveryInstance)| over("before", Phase::Succeeded, seconds, change);
    let never = Policy { full_allowed: false, ..Policy::default() };
    let auto = Policy::default();
    let follows = Some("before".to_owned());
    let cases: Vec<Case> = vec![
        ("it fell at once", auto.clone(), down().recovery(healed(90, |_| ())), Repair::Incremental, follows.clone()),
        ("after a full copy", auto.clone(), down().recovery(healed(90, |s| s.repair = Some(Repair::Full))), Repair::Full, follows.clone()),
        (
            "after one that did nothing",
            auto.clone(),
            down().recovery(healed(660, |s| s.changed = Some(false))),
            Repair::Full,
            follows.clone(),
        ),
        ("later than that", auto.clone(), down().recovery(healed(661, |_| ())), Repair::Incremental, None),
        ("policy allows no full copy", never, down().recovery(healed(90, |_| ())), Repair::Incremental, follows.clone()),
        ("it was never seen well in between", auto.clone(), down().recovery(healed(30, |_| ())), Repair::Incremental, follows.clone()),
        ("healed from the other side", auto.clone(), down().recovery(healed(90, |s| s.source = Some(Dbid(9)))), Repair::Incremental, None),
        (
            "it was promoted in between",
            auto.clone(),
            down().page(5, |p| p.shape = Shape::Primary).recovery(healed(90, |_| ())),
            Repair::Incremental,
            None,
        ),
        (
            "the other side was repaired since",
            auto.clone(),
            down().recovery(healed(90, |_| ())).recovery({
                let mut other = running("other", 2, 0, Repair::Incremental, JobState::Active);
                (other.phase, other.ended) = (Phase::Succeeded, Some(ago(80)));
                other
            }),
            Repair::Incremental,
            None,
        ),
        ("that one failed", auto, down().recovery(over("before", Phase::Failed, 90, |_| ())), Repair::Incremental, None),
    ];
    for (what, policy, world, repair, follows) in cases {
        assert_eq!(planned(&policy, &world), Ok((first.clone(), repair, follows)), "{what}");
    }
}

/// A mirror that is killed for memory, or that its primary lets in no more, falls within minutes of its repair: a full copy ends
/// there, too, after all its bytes.
#[test]
fn a_pair_that_falls_back_is_copied_in_full_for_damage_alone() {
    let fallen = |state, class: Option<ExitClass>, repair: Repair, error: Option<&str>| {
        let before = over("before", Phase::Succeeded, 90, |one| (one.repair, one.attempt) = (Some(repair), 1));
        let after = AttemptSeen { attempt: names::job(&before, Dbid(5), 1), recovery_uid: Some(before.uid.clone()) };
        let world = down().page(5, |page| {
            (page.state, page.receiver_error, page.receiving) = (state, error.map(str::to_owned), false);
            page.last_exit = class.map(|class| LastExit {
                at: ago(20),
                how: "exit 1".into(),
                class,
                evidence: String::new(),
                after: Some(after),
                since: 4,
                inside: false,
            });
        });
        planned(&Policy::default(), &world.recovery(before)).map(|(_, repair, _)| repair)
    };
    for state in [InstanceState::BackingOff, InstanceState::NotAnswering, InstanceState::Serving] {
        for class in [Some(ExitClass::Killed), Some(ExitClass::Unclassified), Some(ExitClass::Environment), None] {
            for repair in [Repair::Incremental, Repair::Full] {
                let next = fallen(state, class, repair, Some("no pg_hba.conf entry"));
                assert!(!matches!(next, Ok(Repair::Full)), "{state:?} {class:?} after {repair}: {next:?}");
            }
        }
        let damaged = fallen(state, Some(ExitClass::DataUnusable), Repair::Incremental, None);
        assert_eq!(damaged, Ok(Repair::Full), "{state:?}");
    }
}

#[test]
fn copies_of_a_pair_that_falls_back_count_on_and_end() {
    let begun = |copies| {
        let before = over("before", Phase::Succeeded, 90, |state| state.copies = copies);
        let mut next = asked(&of_this_fault(1), &[5], None);
        (next.automatic, next.follows) = (true, Some("before".into()));
        let name = next.name.clone();
        plan(&Policy::default(), &down().recovery(before).recovery(next), now()).recoveries.remove(&name).unwrap()
    };
    let next = begun(3);
    let one = &next.instances[&Dbid(5)];
    assert_eq!((one.state.copies, one.create_job.as_ref().map(|job| job.repair)), (3, Some(Repair::Incremental)));
    assert!(one.state.why.contains("goes on with SegmentRecovery before"), "{}", one.state.why);
    let often = down().recovery(over("before", Phase::Succeeded, 90, |state| state.copies = 8));
    assert_eq!(planned(&Policy::default(), &often), Err(Refusal::FallsBack { recovery: "before".into(), copies: 8 }));
}

/// Its name answered 409, it was taken for made, and the next look came 100 ms later, for ever.
#[test]
fn a_recovery_that_cannot_be_read_has_its_name_and_is_not_made_again() {
    for number in [1, 2] {
        let mut world = down();
        world.unreadable = vec!["somebody-elses".into(), of_this_fault(number)];
        assert_eq!(planned(&Policy::default(), &world), Err(Refusal::RecoveryUnreadable { recovery: of_this_fault(number) }));
    }
}
