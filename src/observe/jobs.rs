//! Jobs and their pods as what the planner reads: does an attempt run, how did it end, where does it stand.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
};
use kube::ResourceExt;

use crate::{
    api::labels,
    model::{Attempt, Dbid, JobState, JobView, Outcome, Progress},
};

/// The container of a Job that does the work.
pub const CONTAINER: &str = "recover";
/// The variable that carries what the Job is told.
pub const ATTEMPT_VARIABLE: &str = "GPHEAL_ATTEMPT";

/// One attempt's Job, with what only people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    pub view: JobView,
    /// Why its pod does not run yet.
    pub waits: Option<String>,
    /// The pod, while its container runs: whose log tells the progress.
    pub running_pod: Option<String>,
}

fn labelled(labels: &std::collections::BTreeMap<String, String>, recovery: &str, dbid: Dbid) -> Option<u32> {
    let of = |key: &str| labels.get(key).map(String::as_str);
    let ours = of(labels::RECOVERY) == Some(recovery) && of(labels::DBID) == Some(dbid.to_string().as_str());
    of(labels::ATTEMPT).filter(|_| ours)?.parse().ok()
}

/// The newest attempt of an instance that has a Job.
pub fn newest<'a>(jobs: &[&'a Job], recovery: &str, dbid: Dbid) -> Option<(u32, &'a Job)> {
    let ours = jobs.iter().filter_map(|job| Some((labelled(job.labels(), recovery, dbid)?, *job)));
    ours.max_by_key(|(attempt, _)| *attempt)
}

/// What a Job was told.
pub fn told(job: &Job) -> Option<Attempt> {
    let template = job.spec.as_ref()?.template.spec.as_ref()?;
    let env = template.containers.iter().find(|c| c.name == CONTAINER)?.env.as_ref()?;
    serde_json::from_str(env.iter().find(|variable| variable.name == ATTEMPT_VARIABLE)?.value.as_deref()?).ok()
}

/// How attempt `number` stands; its Job may be gone.
pub fn seen(name: &str, job: Option<&Job>, pods: &[Pod], recovery: &str, dbid: Dbid, number: u32) -> JobSeen {
    let ours: Vec<&Pod> = pods.iter().filter(|pod| labelled(pod.labels(), recovery, dbid) == Some(number)).collect();
    let state = state(name, job, &ours);
    let active = state == JobState::Active;
    JobSeen {
        waits: if active { waits(&ours) } else { None },
        running_pod: ours.iter().find(|pod| active && runs(pod)).map(|pod| pod.name_any()),
        view: JobView { name: name.to_owned(), state, step: None, progress: None },
    }
}

fn state(name: &str, job: Option<&Job>, pods: &[&Pod]) -> JobState {
    // What the container said is believed as soon as it ended: by then the volume's lock is free.
    if let Some(outcome) = pods.iter().find_map(|pod| outcome(pod)) {
        return JobState::Ended(outcome);
    }
    // A pod that lives works on, whatever became of its Job.
    if pods.iter().any(|pod| !is_over(pod)) {
        return JobState::Active;
    }
    match job {
        None => JobState::Lost(format!("Job {name} is gone, and its pod left no outcome")),
        Some(job) => match finished(job) {
            None => JobState::Active,
            Some(why) => JobState::Lost(format!("Job {name} ended ({why}), and its pod left no outcome{}", last_words(pods))),
        },
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == CONTAINER)
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

fn outcome(pod: &Pod) -> Option<Outcome> {
    serde_json::from_str(terminated(pod)?.message.as_deref()?).ok()
}

fn runs(pod: &Pod) -> bool {
    container(pod).and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn finished(job: &Job) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))?;
    Some(ended.reason.clone().unwrap_or_else(|| ended.type_.clone()))
}

/// How the container ended, when it left no outcome: killed for memory, an image without our binary.
fn last_words(pods: &[&Pod]) -> String {
    let said = |pod: &&Pod| {
        let end = terminated(pod)?;
        let reason = end.reason.clone().unwrap_or_default();
        Some(format!(": {reason}, exit code {}{}", end.exit_code, end.message.as_ref().map_or(String::new(), |m| format!(", {m}"))))
    };
    pods.iter().find_map(said).unwrap_or_default()
}

fn waits(pods: &[&Pod]) -> Option<String> {
    let Some(pod) = pods.first() else { return Some("its pod is not made yet".into()) };
    if runs(pod) {
        return None;
    }
    let status = pod.status.as_ref();
    let unscheduled = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let unscheduled = unscheduled.filter(|c| c.type_ == "PodScheduled" && c.status == "False").find_map(|c| c.message.clone());
    let containers =
        status.into_iter().flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()));
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.filter(|w| w.reason.as_deref() != Some("PodInitializing"));
    let waiting = waiting
        .map(|w| format!("{}{}", w.reason.clone().unwrap_or_default(), w.message.as_ref().map_or(String::new(), |m| format!(": {m}"))))
        .next();
    unscheduled.or(waiting).or_else(|| Some("its pod starts".into()))
}

/// The newest progress in the last lines of a log.
pub fn progress(log: &str) -> Option<Progress> {
    log.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{FailureClass, Repair, Step},
        observe::fixtures::{job, job_pod},
    };
    use serde_json::{Value, json};

    fn view(job: Option<&Job>, pods: &[Pod]) -> JobSeen {
        seen("r-d5-a2", job, pods, "r", Dbid(5), 2)
    }

    fn ended(message: &str) -> impl FnOnce(&mut Value) {
        let message = message.to_owned();
        move |pod| {
            pod["status"]["phase"] = json!("Failed");
            let end = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": message}});
            pod["status"]["containerStatuses"][0]["state"] = end;
        }
    }

    fn failed(job: &mut Value) {
        job["status"] = json!({"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
    }

    #[test]
    fn the_newest_attempt_of_the_instance_is_found() {
        let jobs = [job("r", 5, 1, |_| ()), job("r", 5, 10, |_| ()), job("r", 6, 11, |_| ()), job("s", 5, 12, |_| ())];
        let jobs: Vec<_> = jobs.iter().collect();
        assert_eq!(newest(&jobs, "r", Dbid(5)).map(|(n, _)| n), Some(10));
        assert_eq!(newest(&jobs, "r", Dbid(7)), None);
    }

    #[test]
    fn a_running_pod_is_active_even_without_its_job() {
        let pods = [job_pod("r", 5, 2, |_| ())];
        let seen = view(None, &pods);
        assert_eq!((seen.view.state, seen.running_pod.as_deref()), (JobState::Active, Some("r-d5-a2-x")));
    }

    #[test]
    fn the_outcome_is_believed_before_the_job_counts_it() {
        let said = json!({"attempt": "r-d5-a2", "repair": "Full", "failure": {"class": "NoRoom", "step": "Proving", "message": "full"}});
        let pods = [job_pod("r", 5, 2, ended(&said.to_string()))];
        let state = view(Some(&job("r", 5, 2, |_| ())), &pods).view.state;
        let JobState::Ended(outcome) = state else { panic!("{state:?}") };
        assert_eq!((outcome.repair, outcome.failure.unwrap().class), (Repair::Full, FailureClass::NoRoom));
    }

    #[test]
    fn an_end_without_outcome_is_lost_with_its_last_words() {
        let pods = [job_pod("r", 5, 2, ended("no JSON"))];
        let JobState::Lost(why) = view(Some(&job("r", 5, 2, failed)), &pods).view.state else { panic!() };
        assert!(why.contains("BackoffLimitExceeded") && why.contains("OOMKilled") && why.contains("no JSON"), "{why}");
        assert!(matches!(view(None, &[]).view.state, JobState::Lost(_)));
    }

    #[test]
    fn a_job_whose_end_is_not_counted_yet_is_active() {
        assert_eq!(view(Some(&job("r", 5, 2, |_| ())), &[job_pod("r", 5, 2, ended("no JSON"))]).view.state, JobState::Active);
        let fresh = view(Some(&job("r", 5, 2, |_| ())), &[job_pod("r", 5, 1, |_| ())]);
        assert_eq!((fresh.view.state, fresh.waits.as_deref()), (JobState::Active, Some("its pod is not made yet")));
    }

    #[test]
    fn why_a_pod_does_not_run_is_told() {
        let pending = job_pod("r", 5, 2, |p| {
            p["status"] = json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
        });
        assert_eq!(view(None, &[pending]).waits.as_deref(), Some("0/3 nodes are available"));
        let no_image = job_pod("r", 5, 2, |p| {
            p["status"]["phase"] = json!("Pending");
            p["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
        });
        assert_eq!(view(None, &[no_image]).waits.as_deref(), Some("ErrImagePull: no such image"));
    }

    #[test]
    fn progress_is_the_newest_line_that_is_one() {
        let log = "{\"step\":\"Holding\"}\n{\"step\":\"Copying\",\"bytes\":5,\"total\":10}\nsomething for people\n{\"step\":\"Cop";
        let progress = progress(log).unwrap();
        assert_eq!((progress.step, progress.percent()), (Step::Copying, Some(50)));
    }
}
