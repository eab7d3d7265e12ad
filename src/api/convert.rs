//! Spec -> policy, status <-> model: the one place where the two shapes meet.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::{
    cluster::{Breaker as BreakerSpec, Full, GreenplumCluster, Healing, Mode},
    condition::seconds,
    labels,
    recovery::{FailureStatus, InstanceStatus, Phase as ApiPhase, RecoveryType, SegmentRecovery},
};
use model::{
    Breaker, Content, Dbid, Failure, FailureClass, HealingMode, Phase, Policy, Recovery, RecoveryInstance, Repair, Step, Targets, Timeline,
    error::cut,
};

/// Longest text that a status quotes of a Job or a supervisor.
const LONGEST: usize = 1024;

/// What the user allows.
pub fn policy(healing: &Healing) -> Policy {
    Policy {
        mode: match healing.mode {
            Mode::Automatic => HealingMode::Automatic,
            Mode::Observe => HealingMode::Observe,
        },
        paused: healing.paused,
        grace: SignedDuration::try_from(std::time::Duration::from(healing.grace_period)).unwrap_or(SignedDuration::MAX),
        full_allowed: healing.full == Full::Allow,
        max_rate: healing.max_rate.and_then(|rate| u64::try_from(rate).ok()),
        breaker: breaker(&healing.breaker),
        ..Policy::default()
    }
}

/// Within its bounds, whatever an older schema let in: what is looked back over is kept no longer.
fn breaker(spec: &BreakerSpec) -> Breaker {
    let within = SignedDuration::try_from(std::time::Duration::from(spec.within)).unwrap_or(Breaker::LONGEST);
    Breaker { repairs: u32::try_from(spec.repairs).unwrap_or_default().max(2), within: within.min(Breaker::LONGEST) }
}

/// A recovery as the planner reads it; the Jobs are added by whoever looked at them.
pub fn recovery(object: &SegmentRecovery) -> Recovery {
    let status = object.status.as_ref();
    let origin = object.metadata.labels.as_ref().and_then(|all| all.get(labels::ORIGIN));
    // Its Jobs are named without a dbid, so it can only ever be one with one instance.
    let single = object.spec.targets.dbids.as_ref().is_some_and(|dbids| dbids.len() == 1);
    Recovery {
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        owner: owner(object),
        automatic: single && origin.is_some_and(|origin| origin == labels::AUTOMATIC),
        targets: targets(object),
        wanted: match object.spec.type_ {
            RecoveryType::Auto => None,
            RecoveryType::Incremental => Some(Repair::Incremental),
            RecoveryType::Full => Some(Repair::Full),
        },
        phase: status.map_or(Phase::Pending, |status| status.phase.into()),
        deleting: object.metadata.deletion_timestamp.is_some(),
        follows: object.metadata.annotations.as_ref().and_then(|all| all.get(labels::FOLLOWS)).cloned(),
        ended: status.and_then(|status| status.ended_at.as_ref()).map(|at| at.0),
        instances: status.map_or_else(BTreeMap::new, |status| status.instances.iter().map(instance).collect()),
    }
}

/// uid of the cluster's object to which it belongs, where that made it.
fn owner(object: &SegmentRecovery) -> Option<String> {
    let all = object.metadata.owner_references.iter().flatten();
    let of_cluster = |owner: &&OwnerReference| owner.kind == "GreenplumCluster" && owner.controller == Some(true);
    all.into_iter().find(of_cluster).map(|owner| owner.uid.clone())
}

/// What of a recovery that could be parsed this version does not understand: where it stands is not known, so it is left alone.
pub fn unknown(object: &SegmentRecovery) -> Option<String> {
    let status = object.status.as_ref()?;
    let instance = status.instances.iter().find(|one| one.phase == ApiPhase::Other);
    let of_instance = || instance.map(|one| format!("the phase of its dbid {} is a word of another version", one.dbid));
    (status.phase == ApiPhase::Other).then(|| "its phase is a word of another version".to_owned()).or_else(of_instance)
}

fn targets(object: &SegmentRecovery) -> Targets {
    // The schema bounds both ranges; a number beyond them can name nothing.
    let small = |numbers: &[i32]| numbers.iter().filter_map(|n| i16::try_from(*n).ok()).collect::<Vec<_>>();
    match (&object.spec.targets.dbids, &object.spec.targets.contents) {
        (Some(dbids), _) => Targets::Dbids(small(dbids).into_iter().map(Dbid).collect()),
        (None, Some(contents)) => Targets::Contents(small(contents).into_iter().map(Content).collect()),
        (None, None) => Targets::AllDown,
    }
}

/// One instance, read back from a status.
pub fn instance(status: &InstanceStatus) -> (Dbid, RecoveryInstance) {
    let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    let dbid = |number: i32| Dbid(i16::try_from(number).unwrap_or_default());
    let state = RecoveryInstance {
        content: Content(i16::try_from(status.content).unwrap_or_default()),
        phase: status.phase.into(),
        attempt: u32::try_from(status.attempt).unwrap_or_default(),
        copies: u32::try_from(status.copies).unwrap_or_default(),
        failures: u32::try_from(status.failures).unwrap_or_default(),
        failing_since: at(&status.failing_since),
        repair: status.type_,
        why: status.why.clone(),
        source: status.source_dbid.map(dbid),
        attempt_started: at(&status.attempt_started_at),
        attempt_ended: at(&status.attempt_ended_at),
        changed: status.changed,
        proving_since: at(&status.verifying_since),
        failure: status.failure.as_ref().map(failure),
        job: None,
    };
    (dbid(status.dbid), state)
}

/// One instance, as a status has it; progress and step are added by the report.
pub fn instance_status(dbid: Dbid, state: &RecoveryInstance) -> InstanceStatus {
    let time = |at: Option<Timestamp>| at.map(|at| Time(seconds(at)));
    InstanceStatus {
        dbid: dbid.0.into(),
        content: state.content.0.into(),
        phase: state.phase.into(),
        step: None,
        attempt: i32::try_from(state.attempt).unwrap_or(i32::MAX),
        copies: i32::try_from(state.copies).unwrap_or(i32::MAX),
        failures: i32::try_from(state.failures).unwrap_or(i32::MAX),
        type_: state.repair,
        why: cut(&state.why, LONGEST),
        source_dbid: state.source.map(|source| source.0.into()),
        job: state.job.as_ref().map(|job| job.name.clone()),
        bytes: None,
        total: None,
        percent: None,
        rate: None,
        seconds_left: None,
        attempt_started_at: time(state.attempt_started),
        attempt_ended_at: time(state.attempt_ended),
        failing_since: time(state.failing_since),
        changed: state.changed,
        verifying_since: time(state.proving_since),
        failure: state.failure.as_ref().map(failure_status),
    }
}

/// A class of another version answers nothing here, and of a step of another version it is not known what it left.
pub fn failure(status: &FailureStatus) -> Failure {
    Failure {
        class: status.class.known().copied().unwrap_or(FailureClass::Unclassified),
        step: status.step.known().copied().unwrap_or(Step::Releasing),
        message: status.message.clone(),
        evidence: status.evidence.clone(),
    }
}

fn failure_status(failure: &Failure) -> FailureStatus {
    let (message, evidence) = (cut(&failure.message, LONGEST), cut(&failure.evidence, LONGEST));
    FailureStatus { class: failure.class.into(), step: failure.step.into(), message, evidence }
}

/// The highest timeline on which a coordinator was seen.
pub fn coordinator_timeline(cluster: &GreenplumCluster) -> Option<Timeline> {
    let kept = cluster.status.as_ref()?.coordinator_timeline?;
    Some(Timeline(u32::try_from(kept).unwrap_or(u32::MAX)))
}

/// Since when instances have not been well, as the cluster's status remembers.
pub fn unwell_since(cluster: &GreenplumCluster) -> BTreeMap<Dbid, Timestamp> {
    let listed = cluster.status.iter().flat_map(|status| &status.instances);
    listed.filter_map(|one| Some((Dbid(i16::try_from(one.dbid).ok()?), one.since.0))).collect()
}

macro_rules! same_words {
    ($($word:ident),*) => {
        impl From<Phase> for ApiPhase {
            fn from(phase: Phase) -> Self { match phase { $(Phase::$word => Self::$word),* } }
        }
        impl From<ApiPhase> for Phase {
            fn from(phase: ApiPhase) -> Self {
                match phase {
                    $(ApiPhase::$word => Self::$word,)*
                    // Nobody plans with it (`unknown`); it is not over, as far as is known.
                    ApiPhase::Other => Self::Running,
                }
            }
        }
    };
}
same_words!(Pending, Running, Succeeded, Failed, Refused, Cancelled);

#[cfg(test)]
mod tests {
    use super::*;
    use model::{FailureClass, Step, world::fixtures};

    fn full_state() -> RecoveryInstance {
        RecoveryInstance {
            content: Content(0),
            phase: Phase::Running,
            attempt: 3,
            copies: 1,
            failures: 2,
            failing_since: Some(fixtures::ago(15)),
            repair: Some(Repair::Full),
            why: "attempt 2 ended with WalRemoved".into(),
            source: Some(Dbid(2)),
            attempt_started: Some(fixtures::ago(20)),
            attempt_ended: Some(fixtures::ago(10)),
            changed: Some(false),
            proving_since: Some(fixtures::ago(5)),
            failure: Some(Failure {
                class: FailureClass::WalRemoved,
                step: Step::Copying,
                message: "gone".into(),
                evidence: "requested WAL segment has already been removed".into(),
            }),
            job: None,
        }
    }

    #[test]
    fn an_instance_comes_back_as_it_was_written() {
        let status = instance_status(Dbid(5), &full_state());
        let read: InstanceStatus = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert_eq!(instance(&read), (Dbid(5), full_state()));
    }

    #[test]
    fn an_untouched_instance_comes_back_too() {
        let state = RecoveryInstance::untouched(Content(0));
        assert_eq!(instance(&instance_status(Dbid(5), &state)), (Dbid(5), state));
    }

    #[test]
    fn times_are_cut_to_what_the_api_server_keeps() {
        let precise = Timestamp::from_millisecond(fixtures::NOW * 1000 + 789).unwrap();
        let state = RecoveryInstance { attempt_started: Some(precise), ..full_state() };
        let status = instance_status(Dbid(5), &state);
        let read: InstanceStatus = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert_eq!(read, status, "else a status would differ from itself once it was read back, and be written again and again");
    }

    #[test]
    fn the_policy_is_what_the_spec_says() {
        let standard = policy(&Healing::default());
        assert_eq!(standard, Policy::default());
        let healing: Healing = serde_json::from_value(
            serde_json::json!({"mode": "Observe", "paused": true, "gracePeriod": "1m30s", "full": "Never", "maxRate": 65_536,
                "breaker": {"repairs": 5, "within": "20m"}}),
        )
        .unwrap();
        let policy = policy(&healing);
        assert_eq!((policy.mode, policy.paused, policy.full_allowed), (HealingMode::Observe, true, false));
        assert_eq!((policy.grace.as_secs(), policy.max_rate), (90, Some(65_536)));
        assert_eq!((policy.breaker.repairs, policy.breaker.within.as_mins()), (5, 20));
        let old: Healing = serde_json::from_value(serde_json::json!({"breaker": {"repairs": -1, "within": "300h"}})).unwrap();
        assert_eq!(super::policy(&old).breaker, Breaker { repairs: 2, within: Breaker::LONGEST });
    }

    #[test]
    fn each_kind_of_target_is_read() {
        let read = |targets: serde_json::Value| {
            let spec = serde_json::from_value(serde_json::json!({"clusterRef": {"name": "demo"}, "targets": targets})).unwrap();
            recovery(&SegmentRecovery::new("r", spec)).targets
        };
        assert_eq!(read(serde_json::json!({"dbids": [5, 6]})), Targets::Dbids(vec![Dbid(5), Dbid(6)]));
        assert_eq!(read(serde_json::json!({"contents": [1]})), Targets::Contents(vec![Content(1)]));
        assert_eq!(read(serde_json::json!({"allDown": true})), Targets::AllDown);
    }
}
