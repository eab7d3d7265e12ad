//! Recoveries with their Jobs, as the planner reads them.

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;

use super::jobs::{self, Asked, JobSeen};
use api::{SegmentRecovery, convert};
use model::{Dbid, Phase, Recovery, RecoveryInstance};
use plan::names;

/// One recovery as the planner reads it, and its Jobs by instance for the report.
#[derive(Clone, Debug)]
pub struct RecoverySeen {
    pub recovery: Recovery,
    pub jobs: BTreeMap<Dbid, JobSeen>,
}

/// Joins a recovery with what is seen of its Jobs.
pub fn join(object: &SegmentRecovery, jobs: &[Job], pods: &[Pod]) -> RecoverySeen {
    let mut recovery = convert::recovery(object);
    let (jobs, others): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| owned_by(job, object));
    let pods: Vec<Pod> = pods.iter().filter(|pod| !others.iter().any(|job| is_of(pod, job))).cloned().collect();
    let mut seen = BTreeMap::new();
    if !recovery.phase.is_over() {
        let mut instances = std::mem::take(&mut recovery.instances);
        for (dbid, state) in instances.iter_mut().filter(|(_, state)| !state.phase.is_over()) {
            adopt(&recovery, *dbid, state, &jobs);
            if let Some(job) = job(&recovery, *dbid, state, &jobs, &pods) {
                state.job = Some(job.view.clone());
                seen.insert(*dbid, job);
            }
        }
        recovery.instances = instances;
    }
    RecoverySeen { recovery, jobs: seen }
}

/// Jobs of a deleted namesake are on their way out and mean nothing.
fn owned_by(job: &Job, object: &SegmentRecovery) -> bool {
    job.owner_references().iter().any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref())
}

fn is_of(pod: &Pod, job: &Job) -> bool {
    pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
}

/// A Job of an attempt that the status does not know yet: an operator made it and died before it could write so.
fn adopt(recovery: &Recovery, dbid: Dbid, state: &mut RecoveryInstance, jobs: &[&Job]) {
    let Some((number, job)) = jobs::newest(jobs, &recovery.name, dbid).filter(|(number, _)| *number > state.attempt) else { return };
    tracing::info!(recovery = %recovery.name, %dbid, job = %job.name_any(), "a Job is found that the status does not know yet");
    let told = jobs::told(job);
    state.attempt = number;
    state.phase = Phase::Running;
    state.repair = told.as_ref().map(|told| told.repair).or(state.repair);
    state.source = told.map(|told| told.source.dbid).or(state.source);
    state.attempt_started = job.metadata.creation_timestamp.as_ref().map(|at| at.0);
    state.attempt_ended = None;
    state.proving_since = None;
}

/// The Job of the newest attempt, unless there is none to look for: before the first attempt, between two, and
/// when all that is left is the proof.
fn job(recovery: &Recovery, dbid: Dbid, state: &RecoveryInstance, jobs: &[&Job], pods: &[Pod]) -> Option<JobSeen> {
    if state.attempt == 0 || state.attempt_ended.is_some() || state.proving_since.is_some() {
        return None;
    }
    let name = names::job(recovery, dbid, state.attempt);
    let job = jobs::newest(jobs, &recovery.name, dbid).filter(|(number, _)| *number == state.attempt).map(|(_, job)| job);
    let asked = Asked { name: &name, recovery: &recovery.name, uid: &recovery.uid, dbid, number: state.attempt };
    Some(jobs::seen(&asked, job, pods))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixtures::{job, job_pod};
    use api::fixtures;
    use model::{JobState, Repair};
    use serde_json::json;

    fn begun(attempt: i32, change: impl FnOnce(&mut serde_json::Value)) -> SegmentRecovery {
        let mut instance = json!({"dbid": 5, "content": 0, "phase": "Running", "attempt": attempt, "type": "Incremental"});
        change(&mut instance);
        let mut object = fixtures::recovery("r", &[5]);
        object.status = serde_json::from_value(json!({"phase": "Running", "instances": [instance]})).unwrap();
        object
    }

    fn state(seen: &RecoverySeen) -> &RecoveryInstance {
        &seen.recovery.instances[&Dbid(5)]
    }

    #[test]
    fn a_running_attempt_has_its_job() {
        let seen = join(&begun(1, |_| ()), &[job("r", 5, 1, |_| ())], &[job_pod("r", 5, 1, |_| ())]);
        assert_eq!(state(&seen).job.as_ref().unwrap().state, JobState::Active);
        assert_eq!(seen.jobs[&Dbid(5)].running_pod.as_deref(), Some("r-d5-a1-x"));
    }

    #[test]
    fn a_vanished_job_is_lost_and_not_forgotten() {
        assert!(matches!(state(&join(&begun(1, |_| ()), &[], &[])).job.as_ref().unwrap().state, JobState::Lost(_)));
    }

    #[test]
    fn between_attempts_and_while_proving_there_is_no_job() {
        let jobs = [job("r", 5, 1, |_| ())];
        let ended = begun(1, |i| i["attemptEndedAt"] = json!("2027-01-15T08:00:00Z"));
        assert_eq!(state(&join(&ended, &jobs, &[])).job, None);
        let proving = begun(1, |i| i["verifyingSince"] = json!("2027-01-15T08:00:00Z"));
        assert_eq!(state(&join(&proving, &jobs, &[])).job, None);
    }

    #[test]
    fn a_job_that_the_status_does_not_know_is_adopted() {
        let ended = begun(1, |i| i["attemptEndedAt"] = json!("2027-01-15T07:59:00Z"));
        let told = json!({"id": "r-d5-a2", "cluster": "demo", "recovery": "r", "number": 2, "repair": "Full", "content": 0,
            "target": {"dbid": 5, "hostname": "", "address": "", "port": 1, "dataDirectory": ""},
            "source": {"dbid": 2, "hostname": "", "address": "", "port": 1, "dataDirectory": ""}});
        let second = job("r", 5, 2, |job| {
            job["spec"] = json!({"template": {"spec": {"containers": [
                {"name": "recover", "env": [{"name": "GPHEAL_ATTEMPT", "value": told.to_string()}]}]}}});
        });
        let seen = join(&ended, &[job("r", 5, 1, |_| ()), second], &[]);
        let state = state(&seen);
        assert_eq!((state.attempt, state.repair, state.source), (2, Some(Repair::Full), Some(Dbid(2))));
        assert_eq!(state.job.as_ref().unwrap().state, JobState::Active);
        assert!(state.attempt_ended.is_none());
    }

    #[test]
    fn neither_job_nor_pod_of_a_deleted_recovery_of_the_same_name_is_adopted() {
        let old = job("r", 5, 1, |job| job["metadata"]["ownerReferences"][0]["uid"] = json!("uid-of-the-one-before"));
        let pod = job_pod("r", 5, 1, |pod| {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "r-d5-a1", "uid": "uid-r-d5-a1", "controller": true}]);
        });
        let fresh = begun(0, |_| ());
        assert_eq!(state(&join(&fresh, std::slice::from_ref(&old), std::slice::from_ref(&pod))).attempt, 0);
        let lost = join(&begun(1, |_| ()), &[old], &[pod]);
        assert!(matches!(state(&lost).job.as_ref().unwrap().state, JobState::Lost(_)), "{lost:?}");
    }

    #[test]
    fn what_is_over_is_not_looked_at_again() {
        let mut object = begun(1, |i| i["phase"] = json!("Succeeded"));
        object.status.as_mut().unwrap().phase = api::recovery::Phase::Succeeded;
        assert!(join(&object, &[], &[]).jobs.is_empty());
    }
}
