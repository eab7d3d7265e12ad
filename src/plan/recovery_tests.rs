use super::*;
use crate::plan;
use model::{
    InstanceState, JobView, Look, Policy, Reason, World,
    world::fixtures::{ago, asked, now, running},
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
        changed: None,
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
fn what_waiting_cannot_change_is_refused_and_the_rest_waits() {
    let phase = |world: World, dbid| next(&world.recovery(asked("r", &[dbid], Some(Repair::Full)))).phase;
    assert_eq!(phase(World::of(&["2:0ppsu", "5:0mmsu"]), 5), Phase::Refused);
    assert_eq!(phase(World::of(&["2:0ppsu", "5:0mmsu"]), 2), Phase::Refused);
    assert_eq!(phase(down(), 77), Phase::Refused);
    assert_eq!(phase(down().source(0, Look::Unknown("gone".into())), 5), Phase::Pending);
    assert_eq!(phase(down().blind(), 5), Phase::Pending);
}

/// One look at another cluster's coordinator ended what was under way, and refused for good what was not.
#[test]
fn what_is_not_in_a_catalog_that_may_be_anothers_waits() {
    let rests = || {
        let mut recovery = running("r", 5, 0, Repair::Full, JobState::Active);
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.attempt_ended) = (None, Some(ago(600)));
        recovery
    };
    let foreign = || World::of(&["12:0ppsu", "15:0mmsu"]).page(12, |p| p.cluster = "other".into()).silent(15);
    let lost = || running("r", 5, 0, Repair::Full, JobState::Garbled("its exit code is 255".into()));
    for recovery in [rests(), lost(), asked("r", &[5], None)] {
        let phase = recovery.phase;
        assert_eq!(next(&foreign().recovery(recovery.clone())).phase, phase);
        let ours = next(&World::of(&["2:0ppsu", "6:0mmsu"]).recovery(recovery));
        assert!(ours.phase.is_over(), "its dbid is gone: {ours:?}");
    }
}

#[test]
fn paused_healing_does_not_stop_what_a_person_asks_for() {
    let policy = Policy { paused: true, ..Policy::default() };
    let plan = plan(&policy, &down().recovery(asked("r", &[5], None)), now());
    assert!(plan.recoveries["r"].instances[&Dbid(5)].create_job.is_some());
    assert!(plan.new_recoveries.is_empty());
}

/// Of twenty repairs that one lost node asked for, two ran; a person paused, and one Job after the other was begun all the same.
#[test]
fn paused_healing_begins_no_attempt_of_its_own_and_a_person_goes_before_one_that_rests() {
    let rests = || {
        let mut recovery = running("r", 5, 0, Repair::Incremental, JobState::Active);
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.attempt_ended) = (None, Some(ago(60)));
        Recovery { automatic: true, ..recovery }
    };
    let fresh = Recovery { automatic: true, ..asked("r", &[5], None) };
    let paused = Policy { paused: true, ..Policy::default() };
    let observes = Policy { mode: model::HealingMode::Observe, ..Policy::default() };
    for recovery in [fresh, rests()] {
        for (policy, code) in [(&paused, "Paused"), (&observes, "ObserveOnly")] {
            let plan = plan(policy, &down().recovery(recovery.clone()).recovery(asked("by-hand", &[5], None)), now());
            let Standing::Waiting(refusal) = &only(&plan.recoveries["r"]).standing else { panic!("{plan:?}") };
            assert_eq!((refusal.code(), only(&plan.recoveries["r"]).create_job.is_some()), (code, false));
            assert!(only(&plan.recoveries["by-hand"]).create_job.is_some(), "a person's goes on");
        }
    }
    // Once healing goes on, neither waits for the other for ever.
    let mut by_hand = rests();
    (by_hand.name, by_hand.automatic) = ("by-hand".into(), false);
    let plan = plan(&Policy::default(), &down().recovery(rests()).recovery(by_hand), now());
    let begun: Vec<_> = plan.recoveries.values().filter(|next| only(next).create_job.is_some()).collect();
    assert_eq!(begun.len(), 1, "{plan:?}");
}

/// Recoveries that wait for their turn, or for their next attempt, stopped mirrors that had come back meanwhile.
#[test]
fn an_attempt_of_automatic_healing_stops_no_mirror_that_streams_or_replays_by_itself() {
    let minutes = SignedDuration::from_mins;
    let down = || World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 3600).page(5, |p| p.since = ago(3600));
    let replays = |still| {
        let starting = down().page(5, |p| (p.state, p.receiving) = (InstanceState::Starting, false));
        starting.instance(5, move |i| i.still = Some(minutes(still)))
    };
    let deaf = down().page(5, |p| p.receiving = false);
    let mut again = running("r", 5, 0, Repair::Full, JobState::Active);
    let state = again.instances.get_mut(&Dbid(5)).unwrap();
    (state.job, state.attempt_ended) = (None, Some(ago(600)));
    for recovery in [asked("r", &[5], None), again] {
        for (world, code) in [
            (down(), "SupervisorSays"),
            (replays(1), "WithinGrace"),
            (replays(11), "begun"),
            (deaf.clone(), "begun"),
            (down().page(5, |p| p.state = InstanceState::NeedsRecovery), "begun"),
        ] {
            let told = |automatic| match &only(&next(&world.clone().recovery(Recovery { automatic, ..recovery.clone() }))).standing {
                Standing::Waiting(refusal) => refusal.code(),
                Standing::Attempting => "begun",
                other => panic!("{other:?}"),
            };
            assert_eq!((told(true), told(false)), (code, "begun"), "a person's is not kept back");
        }
    }
}

#[test]
fn a_job_that_cannot_rewind_is_followed_by_a_full_copy_after_the_back_off() {
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
fn from_where_a_mirror_streams_that_is_not_known_to_be_it_is_told() {
    let meshed = World::of(&["2:0ppsu", "5:0mmsu"]).source_with(0, |source| source.walsenders[0].client = Some("127.0.0.6".into()));
    let told = next(&meshed.recovery(running("r", 5, 0, Repair::Incremental, outcome(None)))).message;
    assert!(told.contains("streams to it; its primary streams to 127.0.0.6, which is not its pod's address"), "{told}");
}

#[test]
fn why_no_dispatched_statement_was_answered_is_told_when_all_else_is_proven() {
    let done = |rows: &[&str]| {
        let dispatch = Look::Unknown("no password supplied".into());
        next(&World { dispatch, ..World::of(rows) }.recovery(running("r", 5, 0, Repair::Incremental, outcome(None)))).message
    };
    let told = done(&["2:0ppsu", "5:0mmsu"]);
    assert!(
        told.contains("by its content; a statement that the coordinator was to dispatch got no answer: no password supplied"),
        "{told}"
    );
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
            changed: None,
            recovery_uid: Some("uid-of-r".into()),
        });
    });
    assert_eq!(next(&told).phase, Phase::Succeeded);
    // One that was deleted and made again gives its attempts the same names.
    for others in [None, Some("uid-of-an-older-one".to_owned())] {
        let told = told.clone().page(5, |p| p.result.as_mut().unwrap().recovery_uid = others);
        assert!(matches!(only(&next(&told)).standing, Standing::BackingOff { .. }));
    }
}

/// A node that loses power in the second after the Job has written its outcome: the pod says nothing that can be believed, and the
/// supervisor, which shows the outcome, is not up yet.
#[test]
fn an_attempt_is_not_given_up_before_its_volume_could_be_asked() {
    let ends = [JobState::Lost("its pod is gone".into()), JobState::Garbled("its exit code is 255".into())];
    for state in ends {
        let world = || down().recovery(running("r", 5, 0, Repair::Incremental, state.clone()));
        let silent = |for_s: Option<i64>| {
            let look = next(&world().silent(5).instance(5, |i| i.silent = for_s.map(SignedDuration::from_secs)));
            let one = only(&look);
            assert_eq!((one.state.attempt, one.create_job.as_ref()), (1, None));
            (one.standing.clone(), one.state.attempt_ended.is_some())
        };
        for moment in [None, Some(0), Some(299)] {
            let (told, ended) = silent(moment);
            assert!(matches!(told, Standing::Waiting(Refusal::SupervisorSilent { .. })) && !ended, "{told:?}");
        }
        assert!(silent(Some(300)).1, "then it is judged by what is known");
        let blind = next(&world().blind());
        assert!(matches!(&only(&blind).standing, Standing::Waiting(Refusal::CatalogUnread { .. })), "{blind:?}");
        assert!(only(&blind).state.attempt_ended.is_none() && blind.message.contains("waits ("), "{}", blind.message);
        assert!(only(&next(&world())).state.attempt_ended.is_some(), "its supervisor answers, and knows nothing");
    }
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
    let trouble = plan.unwell.iter().find(|one| one.dbid == Dbid(7)).map(|one| match &one.reason {
        Reason::Recovering { trouble, .. } => trouble.clone().unwrap_or_default(),
        Reason::Refused(_) | Reason::Waits { .. } | Reason::Planned { .. } => String::new(),
    });
    assert!(trouble.is_some_and(|told| told.starts_with("it waits (JobBudget): 2 Jobs are running already")), "the cluster says so, too");
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
            changed: None,
            recovery_uid: None,
        };
        let mut recovery = running("r", 5, 0, Repair::Full, JobState::Ended(ended));
        recovery.instances.get_mut(&Dbid(5)).unwrap().copies = Policy::default().max_attempts;
        next(&World::of(rows).recovery(recovery))
    };
    assert_eq!(last(&["2:0ppsu", "5:0mmsu"], Step::Proving).phase, Phase::Succeeded);
    assert!(matches!(only(&last(&["2:0ppnu", "5:0mmnu"], Step::Proving)).standing, Standing::Proving(_)), "up and not in sync yet");
    assert_eq!(last(&["2:0ppnu", "5:0mmnd"], Step::Proving).phase, Phase::Failed, "it is down");
    assert_eq!(last(&["2:0ppsu", "5:0mmsu"], Step::Releasing).phase, Phase::Failed, "found unsound by the proof itself");
}

#[test]
fn a_job_learns_what_its_sources_history_is_and_whose_attempt_it_is() {
    let followed =
        |number| model::Incarnation { number, nonce: format!("n{number}"), timeline: model::Timeline(1), began: model::Lsn(0x1000) };
    let world = down().page(2, |p| (p.incarnations, p.followed) = (vec![followed(2)], vec![followed(1)]));
    let job = |recovery: Recovery| only(&next(&world.clone().recovery(recovery))).create_job.clone().unwrap();
    let auto = job(asked("r", &[5], None));
    assert_eq!((auto.source_incarnations, auto.source_followed), (vec![followed(2)], vec![followed(1)]));
    assert_eq!((auto.recovery_uid.as_deref(), auto.waives_history), (Some("uid-of-r"), false));
    assert!(job(asked("r", &[5], Some(Repair::Full))).waives_history, "a person names it");
    let by_content = Recovery { targets: Targets::Contents(vec![Content(0)]), ..asked("r", &[], Some(Repair::Full)) };
    assert!(!job(by_content).waives_history, "the content is named, not the instance");
    assert!(!job(Recovery { automatic: true, ..asked("r", &[5], Some(Repair::Full)) }).waives_history);
}

/// Evictions and busy sources burnt the eight attempts of a recovery within minutes.
#[test]
fn an_attempt_that_never_began_to_copy_is_not_counted() {
    let lost = |change: fn(&mut JobView)| {
        let mut recovery = running("r", 5, 0, Repair::Full, JobState::Lost("its pod was evicted".into()));
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.attempt, state.failures, state.failing_since) = (40, 39, Some(ago(7200)));
        change(state.job.as_mut().unwrap());
        next(&down().recovery(recovery))
    };
    let evicted = lost(|_| ());
    let state = &only(&evicted).state;
    assert_eq!((state.copies, state.failures, state.failing_since), (0, 40, Some(ago(7200))));
    assert!(matches!(only(&evicted).standing, Standing::BackingOff { until } if until == ago(-300)));
    assert!(evicted.message.contains("40 attempts have not begun to copy since"), "{}", evicted.message);
    for copied in [lost(|job| job.begun = true), lost(|job| job.step = Some(Step::Copying))] {
        assert_eq!((only(&copied).state.copies, only(&copied).state.failures), (1, 0));
    }
    let mut marked = down().page(5, |p| p.copy = true);
    marked.recoveries.push(running("r", 5, 0, Repair::Full, JobState::Lost("gone".into())));
    assert_eq!(only(&next(&marked)).state.copies, 1, "by the mark on its volume");
}

#[test]
fn an_end_that_lies_ahead_delays_no_longer_than_the_back_off() {
    let mut recovery = running("r", 5, 0, Repair::Full, JobState::Active);
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.job, state.attempt_ended, state.failures) = (None, Some(ago(-86_400)), 1);
    let waits = next(&down().recovery(recovery));
    assert_eq!(only(&waits).standing, Standing::BackingOff { until: ago(-2) });
    assert_eq!(only(&waits).state.attempt_ended, Some(now()), "from here on it counts by the new clock");
}

fn stuck(change: impl FnOnce(&mut JobView)) -> Recovery {
    let mut recovery = running("r", 5, 0, Repair::Full, JobState::Active);
    let job = recovery.instances.get_mut(&Dbid(5)).unwrap().job.as_mut().unwrap();
    job.stuck = Some("node n2 is not ready".into());
    change(job);
    recovery
}

#[test]
fn a_job_that_makes_no_progress_is_ended_where_no_half_copy_can_be_left() {
    let ends = |change: fn(&mut JobView)| only(&next(&down().recovery(stuck(change)))).end_job.clone();
    assert_eq!(ends(|_| ()).as_deref(), Some("it has not begun to copy: node n2 is not ready"));
    assert_eq!(ends(|job| job.begun = true), None, "its copy may go on");
    assert_eq!(ends(|job| (job.begun, job.node_gone) = (true, true)).as_deref(), Some("its node is gone: node n2 is not ready"));
    let told = next(&down().recovery(stuck(|job| job.begun = true)));
    assert!(told.message.contains("is stuck (AttemptStuck): Job r-a1 makes no progress: node n2 is not ready"), "{}", told.message);
    assert!(only(&told).create_job.is_none());
}

/// Two attempts on a lost node, and no other content of the cluster was repaired until a person came.
#[test]
fn a_job_that_makes_no_progress_takes_nothing_from_the_budget() {
    let rows = ["2:0ppnu", "3:1ppnu", "5:0mmnd", "6:1mmnd"];
    let world = World::of(&rows).page(6, |p| p.state = InstanceState::NeedsRecovery).recovery(asked("s", &[6], None));
    let policy = Policy { max_jobs: 1, ..Policy::default() };
    let begins = |recovery: Recovery| {
        plan(&policy, &world.clone().recovery(recovery), now()).recoveries["s"].instances[&Dbid(6)].create_job.is_some()
    };
    assert!(begins(stuck(|job| job.begun = true)));
    assert!(!begins(running("r", 5, 0, Repair::Full, JobState::Active)));
}

/// What a quota, a limit range or a policy says of a pod that is never made.
fn pod_refused(state: JobState, change: impl FnOnce(&mut JobView)) -> Recovery {
    let mut recovery = running("r", 5, 0, Repair::Full, state);
    let job = recovery.instances.get_mut(&Dbid(5)).unwrap().job.as_mut().unwrap();
    job.refused = Some("pods \"r-a1-x\" is forbidden: exceeded quota: small".into());
    change(job);
    recovery
}

#[test]
fn who_refuses_the_pod_of_a_job_is_told_before_the_job_is_ended_and_while_the_next_one_waits() {
    let words = "the pod of Job r-a1 is not made: pods \"r-a1-x\" is forbidden: exceeded quota: small";
    let told = |world: World| {
        let plan = plan(&Policy::default(), &world, now());
        let unwell = plan.unwell.iter().find(|one| one.dbid == Dbid(5)).unwrap();
        let reason = match &unwell.reason {
            Reason::Refused(refusal) | Reason::Waits { refusal, .. } => format!("{}: {refusal}", refusal.code()),
            Reason::Recovering { trouble, .. } => format!("Recovering: {}", trouble.clone().unwrap_or_default()),
            Reason::Planned { .. } => "Planned".into(),
        };
        (plan.recoveries["r"].clone(), reason)
    };
    let (next, reason) = told(down().recovery(pod_refused(JobState::Active, |_| ())));
    assert_eq!((only(&next).end_job.as_ref(), reason), (None, format!("PodRefused: {words}")), "while its controller tries");
    assert!(next.message.contains(&format!("is stuck (PodRefused): {words}; lifted by itself")), "{}", next.message);
    let late = |job: &mut JobView| job.stuck = Some("its pod is not made: exceeded quota: small".into());
    let (next, reason) = told(down().recovery(pod_refused(JobState::Active, late)));
    assert!(only(&next).end_job.is_some() && reason.starts_with("PodRefused"), "another Job may ask for less: {reason}");
    let (next, reason) = told(down().page(5, |page| page.copy = true).recovery(pod_refused(JobState::Lost("gone".into()), |_| ())));
    let state = &only(&next).state;
    assert_eq!((state.failure.as_ref().unwrap().class, state.copies, state.failures), (FailureClass::PodRefused, 0, 1));
    assert!(
        next.message.contains(words) && next.message.contains("; lifted by itself, once the namespace lets the pod be"),
        "{}",
        next.message
    );
    assert!(reason.starts_with("Recovering: next attempt at ") && reason.contains(words), "{reason}");
}

/// A full copy that policy forbids was waited for, for ever, by a recovery that was said to go on.
#[test]
fn what_a_recovery_waits_for_is_the_reason_of_its_instance_where_a_person_or_long_time_is_needed() {
    let rests = |seconds| {
        let mut recovery = running("r", 5, 0, Repair::Incremental, JobState::Active);
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.attempt_started, state.attempt_ended) = (None, Some(ago(seconds + 60)), Some(ago(seconds)));
        recovery
    };
    let never = Policy { full_allowed: false, ..Policy::default() };
    let full = || World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = InstanceState::CopyUnfinished);
    let suspect = || down().source_with(0, |source| source.in_recovery = true);
    let starting = || down().source(0, Look::Unknown("starts".into())).page(2, |p| p.state = InstanceState::Starting);
    let paused = Policy { paused: true, ..Policy::default() };
    let automatic = Recovery { automatic: true, ..rests(60) };
    for (policy, world, expected) in [
        (&never, full().recovery(rests(60)), Some("FullNotAllowed")),
        (&never, down().page(5, |p| p.state = InstanceState::VolumeUnrecognised).recovery(rests(60)), Some("VolumeUnrecognised")),
        (
            &never,
            down().instance(5, |i| i.access_mode = Some(("c".into(), Look::Seen("x".into())))).recovery(rests(60)),
            Some("AccessMode"),
        ),
        (&paused, down().recovery(automatic), Some("Paused")),
        (&never, suspect().recovery(rests(60)), None),
        (&never, suspect().recovery(rests(301)), Some("PeerSuspect")),
        (&never, starting().recovery(rests(301)), None), // it only takes its time
    ] {
        let plan = plan(policy, &world.down_for(5, 3600), now());
        let reason = &plan.unwell.iter().find(|one| one.dbid == Dbid(5)).unwrap().reason;
        let told = match reason {
            Reason::Waits { recovery, refusal } => Some((recovery.as_str(), refusal.code())),
            Reason::Recovering { trouble: Some(_), .. } => None,
            Reason::Recovering { .. } | Reason::Refused(_) | Reason::Planned { .. } => panic!("{reason:?}"),
        };
        assert_eq!(told, expected.map(|code| ("r", code)));
    }
}

#[test]
fn a_job_whose_pod_is_refused_takes_nothing_from_the_budget_and_one_that_began_is_no_such_job() {
    let rows = ["2:0ppnu", "3:1ppnu", "5:0mmnd", "6:1mmnd"];
    let world = World::of(&rows).page(6, |p| p.state = InstanceState::NeedsRecovery).recovery(asked("s", &[6], None));
    let policy = Policy { max_jobs: 1, ..Policy::default() };
    let waits = plan(&policy, &world.recovery(pod_refused(JobState::Active, |_| ())), now());
    assert!(waits.recoveries["s"].instances[&Dbid(6)].create_job.is_some());
    let begun = next(&down().recovery(pod_refused(JobState::Lost("gone".into()), |job| job.begun = true)));
    assert_eq!(only(&begun).state.failure.as_ref().unwrap().class, FailureClass::JobLost);
}

#[test]
fn what_stood_in_for_a_point_of_the_proof_is_told() {
    let mut world = World::of(&["2:0ppsu", "5:0mmsu", "3:1ppnu", "6:1mmnd"]).source(1, Look::Unknown("refused".into()));
    world.dispatch = Look::Unknown(model::world::Undispatched::tried("segments are down".into(), vec![]));
    let healed = next(&world.recovery(running("r", 5, 0, Repair::Incremental, outcome(None))));
    assert_eq!(healed.phase, Phase::Succeeded);
    assert!(healed.message.contains("in sync; no dispatched statement was answered, as content 1 does not answer"), "{}", healed.message);
}
