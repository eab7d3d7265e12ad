//! The status of one recovery: its next state with what its Jobs say, as people read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observe::jobs::JobSeen;
use api::{
    SegmentRecovery, SegmentRecoveryStatus,
    condition::{self, Wanted, seconds},
    convert,
    recovery::InstanceStatus,
};
use model::{Dbid, InstanceNext, JobState, Phase, RecoveryNext, Refusal, Standing};

/// Longest message: it may quote what anybody says, of each of its instances.
const LONGEST: usize = 4096;

/// The new status of `object`.
pub fn status(object: &SegmentRecovery, next: &RecoveryNext, jobs: &BTreeMap<Dbid, JobSeen>, now: Timestamp) -> SegmentRecoveryStatus {
    let old = object.status.clone().unwrap_or_default();
    let one = |(dbid, next): (&Dbid, &InstanceNext)| {
        let before = old.instances.iter().find(|one| one.dbid == i32::from(dbid.0));
        instance(*dbid, next, before, jobs.get(dbid))
    };
    let instances: Vec<_> = next.instances.iter().map(one).collect();
    let over = next.phase.is_over();
    let begun = instances.iter().filter_map(|one| one.attempt_started_at.clone()).min();
    let message = message(next, jobs);
    SegmentRecoveryStatus {
        observed_generation: object.metadata.generation,
        conditions: condition::merge(&old.conditions, &conditions(next.phase, &message, stalls(next)), object.metadata.generation, now),
        phase: next.phase.into(),
        message,
        type_: type_of(&instances),
        percent: if next.phase == Phase::Succeeded { Some(100) } else { percent(&instances) },
        time_left: if over { None } else { instances.iter().filter_map(|one| one.seconds_left).max().map(duration) },
        started_at: old.started_at.or(begun),
        ended_at: if over { old.ended_at.or_else(|| Some(Time(seconds(now)))) } else { None },
        instances,
    }
}

fn instance(dbid: Dbid, next: &InstanceNext, before: Option<&InstanceStatus>, job: Option<&JobSeen>) -> InstanceStatus {
    let mut status = convert::instance_status(dbid, &next.state);
    keep_words(&mut status, before);
    let same_attempt = before.filter(|before| before.attempt == status.attempt);
    status.job = next.create_job.as_ref().map(|attempt| attempt.id.clone()).or(status.job).or_else(|| same_attempt?.job.clone());
    status.step = step(next, job);
    match &next.standing {
        Standing::Attempting | Standing::Stuck(_) => progress(&mut status, same_attempt, job),
        Standing::Proving(_) | Standing::Healed => copied(&mut status, same_attempt, job),
        Standing::Over => keep(&mut status, same_attempt),
        Standing::Waiting(_) | Standing::Refused(_) | Standing::BackingOff { .. } | Standing::Failed => {
            keep_bytes(&mut status, same_attempt);
        }
    }
    status
}

/// A failure of an attempt of another version stands as that version wrote it.
fn keep_words(status: &mut InstanceStatus, before: Option<&InstanceStatus>) {
    let (Some(now), Some(was)) = (&status.failure, before.and_then(|before| before.failure.as_ref())) else { return };
    if convert::failure(now) == convert::failure(was) {
        status.failure = Some(was.clone());
    }
}

fn step(next: &InstanceNext, job: Option<&JobSeen>) -> Option<String> {
    match &next.standing {
        Standing::Waiting(_) => Some("Waiting".into()),
        Standing::BackingOff { .. } => Some("BackingOff".into()),
        Standing::Attempting => Some(job.and_then(|job| job.view.step).map_or_else(|| "Scheduling".into(), |step| step.to_string())),
        Standing::Stuck(_) => Some("Stuck".into()),
        Standing::Proving(_) => Some("Verifying".into()),
        Standing::Refused(_) | Standing::Healed | Standing::Failed | Standing::Over => None,
    }
}

/// What the Job says now, else what it last said.
fn progress(status: &mut InstanceStatus, before: Option<&InstanceStatus>, job: Option<&JobSeen>) {
    match job.and_then(|job| job.view.progress.as_ref()) {
        Some(progress) => {
            status.bytes = Some(number(progress.bytes));
            status.total = progress.total.map(number);
            status.percent = progress.percent();
            status.rate = Some(number(progress.rate));
            status.seconds_left = progress.seconds_left.map(number);
        }
        None => keep(status, before),
    }
}

/// Its copy is whole, whatever the last line of its log said: that of a small one was read before there was anything in it.
fn copied(status: &mut InstanceStatus, before: Option<&InstanceStatus>, job: Option<&JobSeen>) {
    keep_bytes(status, before);
    if let Some(JobState::Ended(outcome)) = job.map(|job| &job.view.state) {
        status.bytes = Some(number(outcome.bytes));
    }
    status.percent = Some(100);
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn keep_bytes(status: &mut InstanceStatus, before: Option<&InstanceStatus>) {
    keep(status, before);
    status.rate = None;
    status.seconds_left = None;
}

fn keep(status: &mut InstanceStatus, before: Option<&InstanceStatus>) {
    let Some(before) = before else { return };
    status.bytes = before.bytes;
    status.total = before.total;
    status.percent = before.percent;
    status.rate = before.rate;
    status.seconds_left = before.seconds_left;
}

fn type_of(instances: &[InstanceStatus]) -> Option<String> {
    let mut types: Vec<_> = instances.iter().filter_map(|one| one.type_).collect();
    types.sort_unstable();
    types.dedup();
    match types[..] {
        [] => None,
        [one] => Some(one.as_str().to_owned()),
        _ => Some("Mixed".into()),
    }
}

/// By bytes, as far as totals are known; an instance that is done counts as whole.
fn percent(instances: &[InstanceStatus]) -> Option<i32> {
    let known: Vec<_> = instances.iter().filter_map(|one| Some((one.bytes?, one.total.filter(|total| *total > 0)?))).collect();
    let (bytes, total) = known.iter().fold((0_i64, 0_i64), |(b, t), (bytes, total)| (b.saturating_add(*bytes), t.saturating_add(*total)));
    match total {
        0 => instances.iter().filter_map(|one| one.percent).min(),
        total => i32::try_from((i128::from(bytes) * 100 / i128::from(total)).clamp(0, 100)).ok(),
    }
}

/// `2m10s`, as Kubernetes writes durations.
pub fn duration(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn message(next: &RecoveryNext, jobs: &BTreeMap<Dbid, JobSeen>) -> String {
    let waits = |(dbid, job): (&Dbid, &JobSeen)| {
        let why = job.view.stuck.as_ref().or(job.waits.as_ref()).filter(|why| !next.message.contains(why.as_str()))?;
        Some(format!("; dbid {dbid}: Job {}: {why}", job.view.name))
    };
    let works = |(dbid, job): (&Dbid, &JobSeen)| Some(format!("; dbid {dbid}: {}", job.view.progress.as_ref()?.work()?));
    let attempting = |dbid: &Dbid| next.instances.get(dbid).is_some_and(|one| one.standing == Standing::Attempting);
    let waits: String = jobs.iter().filter(|(dbid, _)| attempting(dbid)).filter_map(waits).collect();
    let works: String = jobs.iter().filter(|(dbid, _)| attempting(dbid)).filter_map(works).collect();
    crate::error::cut(&format!("{}{waits}{works}", next.message), LONGEST)
}

/// What a person has to do before it goes on, with any of its instances.
fn stalls(next: &RecoveryNext) -> Option<&Refusal> {
    next.instances.values().filter_map(|one| one.standing.waits_for()).find(|refusal| refusal.needs_a_person())
}

fn conditions(phase: Phase, message: &str, stalls: Option<&Refusal>) -> [Wanted; 3] {
    let reason = phase.as_str();
    let stalled = stalls.is_some() || matches!(phase, Phase::Failed | Phase::Refused | Phase::Cancelled);
    [
        Wanted::new("Ready", Some(phase == Phase::Succeeded), reason, message),
        Wanted::new("Reconciling", Some(!phase.is_over()), reason, if phase.is_over() { "it is over" } else { "it is not over" }),
        Wanted::new(
            "Stalled",
            Some(stalled),
            stalls.map_or(reason, Refusal::code),
            if stalled { message } else { "it goes on, or has succeeded" },
        ),
    ]
}

/// Whether `new` says more than progress: such a change is written at once.
pub fn matters(old: Option<&SegmentRecoveryStatus>, new: &SegmentRecoveryStatus) -> bool {
    old.map(without_progress) != Some(without_progress(new))
}

fn without_progress(status: &SegmentRecoveryStatus) -> SegmentRecoveryStatus {
    let mut bare = status.clone();
    bare.message.clear();
    bare.percent = None;
    bare.time_left = None;
    bare.conditions.iter_mut().for_each(|condition| condition.message.clear());
    for one in &mut bare.instances {
        keep(one, Some(&InstanceStatus { bytes: None, total: None, percent: None, rate: None, seconds_left: None, ..one.clone() }));
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::jobs::{PodStage, Said};
    use api::fixtures;
    use model::{Content, JobView, Progress, RecoveryInstance, Repair, Step, world::fixtures as worlds};

    fn next(standing: Standing, phase: Phase) -> RecoveryNext {
        let mut running = worlds::running("mend", 5, 0, Repair::Full, JobState::Active);
        let state: RecoveryInstance = running.instances.remove(&Dbid(5)).unwrap();
        let instance = InstanceNext {
            state: RecoveryInstance { phase, content: Content(0), ..state },
            standing,
            create_job: None,
            end_job: None,
            note: None,
        };
        RecoveryNext { phase, instances: BTreeMap::from([(Dbid(5), instance)]), message: "dbid 5: attempt 1 (Full)".into() }
    }

    fn job(bytes: u64) -> BTreeMap<Dbid, JobSeen> {
        let progress = Progress {
            step: Step::Copying,
            bytes,
            total: Some(200),
            rate: 10,
            seconds_left: Some((200 - bytes) / 10),
            read: None,
            written: None,
            moves: None,
        };
        let view = JobView { step: Some(Step::Copying), progress: Some(progress), ..JobView::new("mend-a1", JobState::Active) };
        let seen = JobSeen { view, waits: None, running_pod: None, pod: PodStage::Begun, node: None, object: None, said: Said::default() };
        BTreeMap::from([(Dbid(5), seen)])
    }

    fn after(object: &SegmentRecovery, next: &RecoveryNext, jobs: &BTreeMap<Dbid, JobSeen>) -> SegmentRecovery {
        let status = status(object, next, jobs, worlds::now());
        SegmentRecovery { status: Some(status), ..object.clone() }
    }

    #[test]
    fn progress_is_shown_and_outlives_the_job() {
        let object = fixtures::recovery("mend", &[5]);
        let copying = after(&object, &next(Standing::Attempting, Phase::Running), &job(50));
        let told = copying.status.clone().unwrap();
        assert_eq!((told.percent, told.time_left.as_deref(), told.type_.as_deref()), (Some(25), Some("15s"), Some("Full")));
        assert_eq!(told.instances[0].step.as_deref(), Some("Copying"));
        let proving = after(&copying, &next(Standing::Proving(vec![]), Phase::Running), &BTreeMap::new());
        let told = proving.status.clone().unwrap();
        assert_eq!((told.instances[0].percent, told.instances[0].step.as_deref(), told.time_left), (Some(100), Some("Verifying"), None));
        assert_eq!(told.instances[0].job.as_deref(), Some("mend-a1"));
        let healed = after(&proving, &next(Standing::Healed, Phase::Succeeded), &BTreeMap::new()).status.unwrap();
        assert_eq!((healed.percent, healed.ended_at), (Some(100), Some(Time(worlds::now()))));
        assert!(condition::holds(&healed.conditions, "Ready") && !condition::holds(&healed.conditions, "Reconciling"));
    }

    #[test]
    fn every_condition_says_something_whatever_it_is() {
        for phase in [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed, Phase::Refused, Phase::Cancelled] {
            for one in conditions(phase, "dbid 5: in sync", None) {
                assert!(!one.message.is_empty(), "{}={:?} of {phase:?}", one.kind, one.holds);
            }
        }
    }

    #[test]
    fn a_recovery_that_waits_for_a_person_is_stalled_and_one_that_waits_for_its_turn_is_not() {
        let stalled = |standing: Standing| {
            let status = status(&fixtures::recovery("mend", &[5]), &next(standing, Phase::Running), &BTreeMap::new(), worlds::now());
            let one = status.conditions.into_iter().find(|one| one.type_ == "Stalled").unwrap();
            (one.status, one.reason)
        };
        let said = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
        let full = Refusal::FullNotAllowed { why: "it is damaged".into() };
        assert_eq!(stalled(Standing::Waiting(full)), said("True", "FullNotAllowed"));
        let stuck = Refusal::AttemptStuck { job: "mend-a1".into(), why: "no heartbeat".into() };
        assert_eq!(stalled(Standing::Stuck(stuck)), said("True", "AttemptStuck"));
        assert_eq!(stalled(Standing::Waiting(Refusal::JobBudget { max: 2 })), said("False", "Running"));
        assert_eq!(stalled(Standing::Attempting), said("False", "Running"));
    }

    #[test]
    fn what_was_copied_in_all_is_what_the_job_said_at_its_end() {
        let copying = after(&fixtures::recovery("mend", &[5]), &next(Standing::Attempting, Phase::Running), &job(0));
        assert_eq!(copying.status.as_ref().unwrap().instances[0].bytes, Some(0));
        let mut ended = job(0);
        let outcome = serde_json::json!({"attempt": "mend-a1", "repair": "Full", "bytes": 200});
        ended.get_mut(&Dbid(5)).unwrap().view.state = JobState::Ended(serde_json::from_value(outcome).unwrap());
        let proving = after(&copying, &next(Standing::Proving(vec![]), Phase::Running), &ended);
        let healed = after(&proving, &next(Standing::Healed, Phase::Succeeded), &BTreeMap::new()).status.unwrap();
        assert_eq!((healed.instances[0].bytes, healed.instances[0].percent), (Some(200), Some(100)));
    }

    #[test]
    fn only_progress_does_not_matter() {
        let object = fixtures::recovery("mend", &[5]);
        let copying = next(Standing::Attempting, Phase::Running);
        let first = after(&object, &copying, &job(50));
        let further = status(&first, &copying, &job(60), worlds::now());
        assert_ne!(first.status.as_ref(), Some(&further));
        assert!(!matters(first.status.as_ref(), &further));
        let ended = status(&first, &next(Standing::Proving(vec![]), Phase::Running), &BTreeMap::new(), worlds::now());
        assert!(matters(first.status.as_ref(), &ended) && matters(None, &further));
    }

    #[test]
    fn the_same_look_twice_is_the_same_status() {
        let first = after(&fixtures::recovery("mend", &[5]), &next(Standing::Healed, Phase::Succeeded), &BTreeMap::new());
        let later = worlds::now() + jiff::SignedDuration::from_secs(60);
        assert_eq!(Some(status(&first, &next(Standing::Over, Phase::Succeeded), &BTreeMap::new(), later)), first.status);
    }

    #[test]
    fn a_pod_that_does_not_start_is_told() {
        let mut jobs = job(0);
        jobs.get_mut(&Dbid(5)).unwrap().waits = Some("0/3 nodes are available".into());
        let status = status(&fixtures::recovery("mend", &[5]), &next(Standing::Attempting, Phase::Running), &jobs, worlds::now());
        assert_eq!(status.message, "dbid 5: attempt 1 (Full); dbid 5: Job mend-a1: 0/3 nodes are available");
    }

    #[test]
    fn an_attempt_that_does_not_go_on_says_why_once() {
        let mut jobs = job(50);
        let seen = jobs.get_mut(&Dbid(5)).unwrap();
        (seen.view.stuck, seen.waits) = (Some("its node n2 is not ready".into()), Some("its pod starts".into()));
        let message = |next: &RecoveryNext| status(&fixtures::recovery("mend", &[5]), next, &jobs, worlds::now()).message;
        let mut attempting = next(Standing::Attempting, Phase::Running);
        assert_eq!(message(&attempting), "dbid 5: attempt 1 (Full); dbid 5: Job mend-a1: its node n2 is not ready");
        attempting.message = "dbid 5: Job mend-a1 makes no progress: its node n2 is not ready".into();
        assert_eq!(message(&attempting), attempting.message);
    }

    /// What an operator of another version wrote of an attempt stands, word for word, as long as that attempt's failure does.
    #[test]
    fn words_of_another_version_survive_a_write() {
        let mut object = fixtures::recovery("mend", &[5]);
        let failure = serde_json::json!({"class": "Newer", "step": "Pondering", "message": "of another version"});
        let one = serde_json::json!({"dbid": 5, "content": 0, "phase": "Running", "attempt": 1, "failure": failure});
        object.status = serde_json::from_value(serde_json::json!({"phase": "Running", "instances": [one]})).unwrap();
        let mut waiting = next(Standing::BackingOff { until: worlds::now() }, Phase::Running);
        waiting.instances.get_mut(&Dbid(5)).unwrap().state = convert::recovery(&object).instances.remove(&Dbid(5)).unwrap();
        let written = serde_json::to_value(status(&object, &waiting, &BTreeMap::new(), worlds::now())).unwrap();
        assert_eq!(written["instances"][0]["failure"], failure);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([5, 130, 3723].map(duration), ["5s", "2m10s", "1h2m3s"]);
    }
}
