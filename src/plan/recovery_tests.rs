use super::*;
use crate::{
    model::{
        InstanceState, JobView, Look, Policy, World,
        world::fixtures::{ago, asked, now, running},
    },
    plan::plan,
};

fn down() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = InstanceState::NeedsRecovery)
}

fn next(world: &World) -> RecoveryNext {
    plan(&Policy::default(), world, now()).recoveries.remove("r").expect("the recovery is not over")
}

fn only(next: &RecoveryNext) -> &InstanceNext {
    next.instances.values().next().expect("one instance")
}

fn outcome(class: Option<FailureClass>) -> JobState {
    let failure = class.map(|class| Failure { class, step: Step::Copying, message: "it broke".into(), evidence: String::new() });
    JobState::Ended(Outcome {
        attempt: "r-a1".into(),
        repair: Repair::Incremental,
        failure,
        bytes: 1,
        seconds: 1,
        note: String::new(),
        recovery_uid: None,
    })
}

#[test]
fn the_first_attempt_names_everything_that_the_job_needs() {
    let next = next(&down().recovery(asked("r", &[5], None)));
    let job = only(&next).create_job.as_ref().expect("a Job");
    assert_eq!((job.id.as_str(), job.number, job.repair), ("r-d5-a1", 1, Repair::Incremental));
    assert_eq!((job.target.dbid, job.source.dbid, job.content), (Dbid(5), Dbid(2), Content(0)));
    assert_eq!(next.phase, Phase::Running);
}

#[test]
fn what_waiting_can_not_change_is_refused_and_the_rest_waits() {
    let phase = |world: World, dbid| next(&world.recovery(asked("r", &[dbid], Some(Repair::Full)))).phase;
    assert_eq!(phase(World::of(&["2:0ppsu", "5:0mmsu"]), 5), Phase::Refused);
    assert_eq!(phase(World::of(&["2:0ppsu", "5:0mmsu"]), 2), Phase::Refused);
    assert_eq!(phase(down(), 77), Phase::Refused);
    assert_eq!(phase(down().source(0, Look::Unknown("gone".into())), 5), Phase::Pending);
    assert_eq!(phase(down().blind(), 5), Phase::Pending);
}

#[test]
fn paused_healing_does_not_stop_what_a_person_asks_for() {
    let policy = Policy { paused: true, ..Policy::default() };
    let plan = plan(&policy, &down().recovery(asked("r", &[5], None)), now());
    assert!(plan.recoveries["r"].instances[&Dbid(5)].create_job.is_some());
    assert!(plan.new_recoveries.is_empty());
}

#[test]
fn a_job_that_can_not_rewind_is_followed_by_a_full_copy_after_the_back_off() {
    let world = down().recovery(running("r", 5, 0, Repair::Incremental, outcome(Some(FailureClass::CannotRewind))));
    let waits = next(&world);
    assert!(matches!(only(&waits).standing, Standing::BackingOff { .. }));
    assert_eq!(only(&waits).state.repair, Some(Repair::Full));
    let mut later = down();
    let mut recovery = running("r", 5, 0, Repair::Full, JobState::Active);
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.job, state.attempt_ended) = (None, Some(ago(2)));
    later.recoveries.push(recovery);
    let job = only(&next(&later)).create_job.clone().expect("the second attempt");
    assert_eq!((job.number, job.repair), (2, Repair::Full), "full, though the volume alone would say incremental");
}

#[test]
fn what_nobody_classified_stops_and_is_shown() {
    let next = next(&down().recovery(running("r", 5, 0, Repair::Full, outcome(Some(FailureClass::Unclassified)))));
    assert_eq!((next.phase, only(&next).standing.clone()), (Phase::Failed, Standing::Failed));
    assert!(next.message.contains("Unclassified: it broke"), "{}", next.message);
}

#[test]
fn a_done_job_is_not_health_until_it_is_proven() {
    let done = || running("r", 5, 0, Repair::Incremental, outcome(None));
    let unproven = next(&World::of(&["2:0ppnu", "5:0mmnd"]).recovery(done()));
    assert!(matches!(only(&unproven).standing, Standing::Proving(_)));
    assert_eq!(unproven.phase, Phase::Running);
    assert_eq!(next(&World::of(&["2:0ppsu", "5:0mmsu"]).recovery(done())).phase, Phase::Succeeded);
}

#[test]
fn why_no_dispatched_statement_was_answered_is_told_when_all_else_is_proven() {
    let done = |rows: &[&str]| {
        let dispatch = Look::Unknown("no password supplied".into());
        next(&World { dispatch, ..World::of(rows) }.recovery(running("r", 5, 0, Repair::Incremental, outcome(None)))).message
    };
    let told = done(&["2:0ppsu", "5:0mmsu"]);
    assert!(told.contains("[Dispatch]; a statement that the coordinator was to dispatch got no answer: no password supplied"), "{told}");
    assert!(!done(&["2:0ppnu", "5:0mmnd"]).contains("password"), "it is not its turn yet");
}

#[test]
fn a_lost_job_is_believed_when_its_result_stands_on_the_volume() {
    let lost = || running("r", 5, 0, Repair::Incremental, JobState::Lost("its pod is gone".into()));
    assert!(matches!(only(&next(&down().recovery(lost()))).standing, Standing::BackingOff { .. }));
    let mut told = World::of(&["2:0ppsu", "5:0mmsu"]).recovery(lost());
    told = told.page(5, |p| {
        p.result = Some(Outcome {
            attempt: "r-a1".into(),
            repair: Repair::Incremental,
            failure: None,
            bytes: 0,
            seconds: 0,
            note: String::new(),
            recovery_uid: None,
        });
    });
    assert_eq!(next(&told).phase, Phase::Succeeded);
}

#[test]
fn two_jobs_at_once_and_one_recovery_per_content() {
    let rows = ["2:0ppnu", "3:1ppnu", "4:2ppnu", "5:0mmnd", "6:1mmnd", "7:2mmnd"];
    let asks = |world: World, dbid| world.page(dbid, |p| p.state = InstanceState::NeedsFull);
    let world = [5, 6, 7].into_iter().fold(World::of(&rows), asks);
    let mut all = asked("r", &[], None);
    all.targets = Targets::AllDown;
    let plan = plan(&Policy::default(), &world.recovery(all).recovery(asked("s", &[5], None)), now());
    let jobs = plan.recoveries.values().flat_map(|r| r.instances.values()).filter(|i| i.create_job.is_some()).count();
    assert_eq!(jobs, 2);
    assert_eq!(plan.recoveries["r"].instances[&Dbid(7)].standing, Standing::Waiting(Refusal::JobBudget { max: 2 }));
    assert!(matches!(plan.recoveries["s"].instances[&Dbid(5)].standing, Standing::Waiting(Refusal::AlreadyRecovering { .. })));
}

#[test]
fn a_running_job_is_left_to_run() {
    let next = next(&down().recovery(running("r", 5, 0, Repair::Full, JobState::Active)));
    let state = &only(&next).state;
    assert_eq!(state.job, Some(JobView::new("r-a1", JobState::Active)));
    assert!(only(&next).create_job.is_none());
}

#[test]
fn all_down_with_nothing_down_has_succeeded() {
    let mut all = asked("r", &[], None);
    all.targets = Targets::AllDown;
    let next = next(&World::of(&["2:0ppsu", "5:0mmsu"]).recovery(all));
    assert_eq!((next.phase, next.message.as_str()), (Phase::Succeeded, "nothing was down"));
}

/// Seen on the bed: a target that FTS promoted between two attempts kept its recovery waiting, and its content blocked, for ever.
#[test]
fn a_target_that_came_back_by_itself_ends_its_recovery() {
    let between = |rows: &[&str]| {
        let mut recovery = running("r", 5, 0, Repair::Incremental, JobState::Active);
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.attempt_ended) = (None, Some(ago(60)));
        next(&World::of(rows).recovery(recovery))
    };
    assert_eq!(between(&["2:0mpnd", "5:0pmnu"]).phase, Phase::Succeeded, "promoted: it was in sync");
    assert_eq!(between(&["2:0ppsu", "5:0mmsu"]).phase, Phase::Succeeded, "up and in sync");
    let coming = between(&["2:0ppnu", "5:0mmnu"]);
    assert!(matches!(only(&coming).standing, Standing::Proving(_)), "up and not in sync yet");
    assert!(only(&coming).create_job.is_none());
}

/// Seen on the bed: a Job ended while it gave the volume back, and the last attempt allowed found the mirror up and in sync.
#[test]
fn a_last_attempt_that_finds_its_target_back_is_proven() {
    let last = |rows: &[&str], step| {
        let failure = Failure { class: FailureClass::WorldMoved, step, message: "the row is now another".into(), evidence: String::new() };
        let attempt = "r-a1".to_owned();
        let ended = Outcome {
            attempt,
            repair: Repair::Full,
            failure: Some(failure),
            bytes: 0,
            seconds: 1,
            note: String::new(),
            recovery_uid: None,
        };
        let mut recovery = running("r", 5, 0, Repair::Full, JobState::Ended(ended));
        recovery.instances.get_mut(&Dbid(5)).unwrap().attempt = Policy::default().max_attempts;
        next(&World::of(rows).recovery(recovery))
    };
    assert_eq!(last(&["2:0ppsu", "5:0mmsu"], Step::Proving).phase, Phase::Succeeded);
    assert!(matches!(only(&last(&["2:0ppnu", "5:0mmnu"], Step::Proving)).standing, Standing::Proving(_)), "up and not in sync yet");
    assert_eq!(last(&["2:0ppnu", "5:0mmnd"], Step::Proving).phase, Phase::Failed, "it is down");
    assert_eq!(last(&["2:0ppsu", "5:0mmsu"], Step::Releasing).phase, Phase::Failed, "found unsound by the proof itself");
}
