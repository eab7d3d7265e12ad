//! Jobs and their pods as what the planner reads: does an attempt run, how did it end, where does it stand.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec},
};
use kube::ResourceExt;

use crate::{
    api::labels,
    model::{Attempt, Dbid, JobState, JobView, Outcome, Progress, world::AtWork},
};

/// The container of a Job that does the work.
pub const CONTAINER: &str = "recover";
/// The container that brings gpheal into a Job's pod.
pub const INSTALLER: &str = "gpheal";
/// How much of what is no outcome is shown.
const SHOWN: usize = 200;
/// The variable that carries what the Job is told.
pub const ATTEMPT_VARIABLE: &str = "GPHEAL_ATTEMPT";

/// One attempt's Job, with what only people and the report want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    pub view: JobView,
    /// Why its pod does not run yet.
    pub waits: Option<String>,
    /// The pod, while its container runs: whose log tells the progress.
    pub running_pod: Option<String>,
    /// Where its pod has come to.
    pub pod: PodStage,
    /// The node to which the Job is bound.
    pub node: Option<String>,
    /// What its log says.
    pub said: Said,
    /// uid and resourceVersion of the Job as it was read; `None`: it is gone.
    pub object: Option<(String, String)>,
}

/// The end of a Job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// It could be read when it was last tried.
    pub answered: bool,
    /// The last line, with its time.
    pub last: String,
    pub progress: Option<Progress>,
}

/// Where the pod of a Job that is not over has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodStage {
    /// There is none.
    None,
    /// It is on no node yet.
    Unscheduled,
    /// On its node; its container has not begun, as far as the node has told.
    Placed,
    /// Its container runs, or has run.
    Begun,
}

/// Which attempt is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Name of its Job.
    pub name: &'a str,
    pub recovery: &'a str,
    /// Of the recovery's object: one that was deleted and made again has Jobs of the same names.
    pub uid: &'a str,
    pub dbid: Dbid,
    pub number: u32,
}

fn labelled(labels: &BTreeMap<String, String>, recovery: &str, dbid: Dbid) -> Option<u32> {
    let of = |key: &str| labels.get(key).map(String::as_str);
    let ours = of(labels::RECOVERY) == Some(recovery) && of(labels::DBID) == Some(dbid.to_string().as_str());
    of(labels::ATTEMPT).filter(|_| ours)?.parse().ok()
}

/// The newest attempt of an instance that has a Job.
pub fn newest<'a>(jobs: &[&'a Job], recovery: &str, dbid: Dbid) -> Option<(u32, &'a Job)> {
    let ours = jobs.iter().filter_map(|job| Some((labelled(job.labels(), recovery, dbid)?, *job)));
    ours.max_by_key(|(attempt, _)| *attempt)
}

/// Jobs that have not ended and pods of Jobs that live, by their labels alone: whatever their recoveries say, or whether there
/// are any. That a container has said how it ended is not the end of its pod, nor of its Job.
pub fn at_work(jobs: &[Job], pods: &[Pod]) -> Vec<AtWork> {
    let of = |labels: &BTreeMap<String, String>, job: String| {
        let dbid = labels.get(labels::DBID)?.parse().ok().map(Dbid)?;
        Some(AtWork { job, dbid, recovery: labels.get(labels::RECOVERY)?.clone() })
    };
    let job_of = |pod: &Pod| pod.labels().get("batch.kubernetes.io/job-name").cloned().unwrap_or_else(|| pod.name_any());
    let jobs = jobs.iter().filter(|job| finished(job).is_none()).filter_map(|job| of(job.labels(), job.name_any()));
    let pods = pods.iter().filter(|pod| !is_over(pod)).filter_map(|pod| of(pod.labels(), job_of(pod)));
    let mut all: Vec<_> = jobs.chain(pods).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a Job was told.
pub fn told(job: &Job) -> Option<Attempt> {
    told_in(job.spec.as_ref()?.template.spec.as_ref()?)
}

fn told_in(spec: &PodSpec) -> Option<Attempt> {
    let env = spec.containers.iter().find(|c| c.name == CONTAINER)?.env.as_ref()?;
    serde_json::from_str(env.iter().find(|variable| variable.name == ATTEMPT_VARIABLE)?.value.as_deref()?).ok()
}

/// How attempt `number` stands; its Job may be gone.
pub fn seen(asked: &Asked, job: Option<&Job>, pods: &[Pod]) -> JobSeen {
    let labelled = |pod: &&Pod| labelled(pod.labels(), asked.recovery, asked.dbid) == Some(asked.number);
    let ours: Vec<&Pod> = pods.iter().filter(labelled).filter(|pod| !is_of_another(pod, asked.uid)).collect();
    let state = state(asked, job, &ours);
    let active = state == JobState::Active;
    let object = |job: &Job| Some((job.metadata.uid.clone()?, job.metadata.resource_version.clone()?));
    JobSeen {
        waits: if active { waits(&ours) } else { None },
        running_pod: ours.iter().find(|pod| active && runs(pod)).map(|pod| pod.name_any()),
        pod: ours.iter().map(|pod| stage(pod)).max().unwrap_or(PodStage::None),
        node: ours.iter().find_map(|pod| pod.spec.as_ref()?.node_name.clone()).or_else(|| bound_to(job?)),
        object: job.and_then(object),
        said: Said::default(),
        view: JobView { begun: true, ..JobView::new(asked.name, state) },
    }
}

/// Its attempt is one of a recovery of this name that is gone: it was deleted, and made again.
fn is_of_another(pod: &Pod, uid: &str) -> bool {
    let told = pod.spec.as_ref().and_then(told_in).and_then(|told| told.recovery_uid);
    told.is_some_and(|of| of != uid)
}

fn stage(pod: &Pod) -> PodStage {
    let state = container(pod).and_then(|status| status.state.as_ref());
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    match state.map(|state| state.running.is_some() || state.terminated.is_some()) {
        Some(true) => PodStage::Begun,
        Some(false) | None if placed => PodStage::Placed,
        Some(false) | None => PodStage::Unscheduled,
    }
}

/// The node in the Job's affinity (`apply::job`).
fn bound_to(job: &Job) -> Option<String> {
    let affinity = job.spec.as_ref()?.template.spec.as_ref()?.affinity.as_ref()?;
    let required = affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == "metadata.name").find_map(|field| field.values.as_ref()?.first());
    named.cloned()
}

fn state(asked: &Asked, job: Option<&Job>, pods: &[&Pod]) -> JobState {
    let name = asked.name;
    // What the container said is believed as soon as it ended: by then the volume's lock is free.
    if let Some(said) = pods.iter().find_map(|pod| said(asked, pod)) {
        return said.map_or_else(JobState::Garbled, JobState::Ended);
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

/// What the container of this attempt said of its end, or why that is not believed. `None`: it has not ended, or was
/// ended from outside before it could say anything.
fn said(asked: &Asked, pod: &Pod) -> Option<Result<Outcome, String>> {
    let attempt = asked.name;
    let end = terminated(pod)?;
    let text = end.message.as_deref().filter(|text| !text.trim().is_empty())?;
    let killed = end.signal.is_some_and(|signal| signal != 0) || end.exit_code > 128;
    let not_begun = matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun" | "ContainerStatusUnknown"));
    let parsed = serde_json::from_str::<Outcome>(text);
    if parsed.is_err() && (killed || not_begun) {
        return None; // these are the last words of somebody else
    }
    let garbled = |why: String| format!("Job {attempt} left no outcome of its attempt: {why}");
    Some(match parsed {
        Err(error) => Err(garbled(format!("{}: '{}'", shown(&error.to_string()), shown(text)))),
        Ok(outcome) if outcome.attempt != attempt => Err(garbled(format!("it speaks of attempt '{}'", shown(&outcome.attempt)))),
        Ok(outcome) if outcome.recovery_uid.as_deref().is_some_and(|of| of != asked.uid) => {
            Err(garbled("it speaks of an attempt of a deleted recovery of this name".into()))
        }
        Ok(outcome) if outcome.failure.is_none() && end.exit_code != 0 => {
            Err(garbled(format!("it speaks of success, and its exit code is {}", end.exit_code)))
        }
        Ok(outcome) => Ok(outcome),
    })
}

/// The beginning of a text that may be anything, as one line that can be printed.
fn shown(text: &str) -> String {
    let printable = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '.' } else { c };
    crate::error::cut(&text.trim().chars().map(printable).collect::<String>(), SHOWN)
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
        Some(format!(
            ": {reason}, exit code {}{}",
            end.exit_code,
            end.message.as_ref().map_or(String::new(), |m| format!(", '{}'", shown(m)))
        ))
    };
    pods.iter().find_map(said).or_else(|| pods.iter().find_map(|pod| unprepared(pod))).unwrap_or_default()
}

/// An init container that failed, so that the work could not begin.
fn unprepared(pod: &Pod) -> Option<String> {
    let ends = pod.status.as_ref()?.init_container_statuses.as_ref()?.iter();
    let mut ends = ends.filter_map(|status| Some((&status.name, status.state.as_ref()?.terminated.as_ref()?)));
    let (name, end) = ends.rfind(|(_, end)| end.exit_code != 0)?;
    let message = end.message.as_ref().map_or(String::new(), |message| format!(", '{}'", shown(message)));
    let hint = "with spec.job.initContainers: Omit it is left out";
    Some(format!(": its init container {name}, a copy of the segment's, ended with exit code {}{message}; {hint}", end.exit_code))
}

fn waits(pods: &[&Pod]) -> Option<String> {
    let Some(pod) = pods.first() else { return Some("its pod is not made yet".into()) };
    let status = pod.status.as_ref();
    let unscheduled = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let unscheduled = unscheduled.filter(|c| c.type_ == "PodScheduled" && c.status == "False").find_map(|c| c.message.clone());
    let mut containers =
        status.into_iter().flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()));
    let held_up = unscheduled.or_else(|| containers.find_map(held_up));
    held_up.or_else(|| (!runs(pod)).then(|| "its pod starts".into()))
}

/// Why a container keeps the work from beginning.
fn held_up(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if let Some(end) = state.terminated.as_ref().filter(|end| status.name == INSTALLER && end.exit_code != 0) {
        let reason = end.reason.as_deref().unwrap_or("?");
        return Some(format!(
            "its container {INSTALLER} ended with exit code {}: {reason}; see to its image and delete the Job for another attempt",
            end.exit_code
        ));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| *reason != "PodInitializing")?;
    Some(format!("{reason}{}", waiting.message.as_ref().map_or(String::new(), |message| format!(": {message}"))))
}

/// What the last lines of a log say; lines carry their time where it was asked for.
pub fn heard(log: &str, before: Said) -> Said {
    let last = log.lines().rev().find(|line| !line.is_empty()).map_or(before.last, str::to_owned);
    Said { answered: true, last, progress: progress(log).or(before.progress) }
}

/// The newest progress in the last lines of a log.
fn progress(log: &str) -> Option<Progress> {
    let without_time = |line: &str| serde_json::from_str(line.split_once(' ')?.1).ok();
    log.lines().rev().find_map(|line| serde_json::from_str(line).ok().or_else(|| without_time(line)))
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
        seen(&Asked { name: "r-d5-a2", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 2 }, job, pods)
    }

    /// The pod of an attempt of the recovery with this uid, which has ended well.
    fn ended_well(uid: &str, outcome_of: &str) -> Pod {
        let place = json!({"dbid": 5, "hostname": "", "address": "", "port": 1, "dataDirectory": ""});
        let attempt = json!({"id": "r-d5-a2", "cluster": "demo", "recovery": "r", "number": 2, "repair": "Full", "content": 0,
            "target": place, "source": place, "recoveryUid": uid});
        let said = json!({"attempt": "r-d5-a2", "repair": "Full", "recoveryUid": outcome_of}).to_string();
        job_pod("r", 5, 2, |pod| {
            pod["spec"]["containers"][0]["env"] = json!([{"name": "GPHEAL_ATTEMPT", "value": attempt.to_string()}]);
            pod["status"]["phase"] = json!("Succeeded");
            pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0, "message": said}});
        })
    }

    #[test]
    fn an_attempt_of_a_deleted_recovery_of_the_same_name_is_not_believed() {
        let job = job("r", 5, 2, |_| ());
        let state = |pod: Pod| view(Some(&job), &[pod]).view.state;
        assert!(matches!(state(ended_well("uid-r", "uid-r")), JobState::Ended(_)));
        assert_eq!(state(ended_well("uid-of-the-one-before", "uid-of-the-one-before")), JobState::Active, "its pod is none of ours");
        let JobState::Garbled(why) = state(ended_well("uid-r", "uid-of-the-one-before")) else { panic!("it was believed") };
        assert!(why.contains("deleted recovery"), "{why}");
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

    fn garbled(exit_code: i32, message: &str) -> String {
        let pods = [job_pod("r", 5, 2, |pod| {
            pod["status"]["phase"] = json!("Failed");
            pod["status"]["containerStatuses"][0]["state"] =
                json!({"terminated": {"exitCode": exit_code, "reason": "Error", "message": message}});
        })];
        match view(Some(&job("r", 5, 2, failed)), &pods).view.state {
            JobState::Garbled(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_the_outcome_of_this_attempt_is_not_believed() {
        let success = json!({"attempt": "r-d5-a2", "repair": "Full"});
        let others = json!({"attempt": "r-d5-a1", "repair": "Full"});
        let unknown = json!({"attempt": "r-d5-a2", "repair": "Full", "failure": {"class": "Bored", "step": "Proving", "message": ""}});
        for (exit_code, message, told) in [
            (1, "Segmentation fault".to_owned(), "'Segmentation fault'"),
            (0, "done!".to_owned(), "'done!'"),
            (1, success.to_string(), "speaks of success, and its exit code is 1"),
            (0, others.to_string(), "speaks of attempt 'r-d5-a1'"),
            (1, unknown.to_string(), "unknown variant `Bored`"),
            (1, "\u{0}\u{1}\u{fffd}x".repeat(1365), "'...x...x"),
        ] {
            let why = garbled(exit_code, &message);
            assert!(why.contains(told) && why.len() < 2 * SHOWN + 200, "{why}");
        }
    }

    #[test]
    fn progress_that_is_none_or_lies_is_no_harm() {
        assert_eq!(progress("\u{fffd}\u{0}\n{}\n[[[[\n{\"step\":\"Levitating\"}"), None);
        let boast = progress(&format!("{{\"step\":\"Copying\",\"bytes\":{0},\"total\":1,\"rate\":{0},\"secondsLeft\":{0}}}", u64::MAX));
        assert_eq!(boast.unwrap().percent(), Some(100));
    }

    #[test]
    fn an_end_without_outcome_is_lost_with_its_last_words() {
        let pods = [job_pod("r", 5, 2, ended("no JSON"))];
        let JobState::Lost(why) = view(Some(&job("r", 5, 2, failed)), &pods).view.state else { panic!() };
        assert!(why.contains("BackoffLimitExceeded") && why.contains("OOMKilled") && why.contains("no JSON"), "{why}");
        assert!(matches!(view(None, &[]).view.state, JobState::Lost(_)));
    }

    #[test]
    fn an_init_container_that_failed_is_named() {
        let pod = job_pod("r", 5, 2, |pod| {
            pod["status"] = json!({"phase": "Failed", "initContainerStatuses": [{"name": "settings", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
        });
        let JobState::Lost(why) = view(Some(&job("r", 5, 2, failed)), &[pod]).view.state else { panic!() };
        assert!(why.contains("init container settings") && why.contains("exit code 3") && why.contains("Omit"), "{why}");
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
    fn what_keeps_gpheal_from_a_pod_that_waits_for_it_is_told() {
        let beside = |state: Value| {
            let pod = job_pod("r", 5, 2, |pod| {
                let installer = json!({"name": "gpheal", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
                pod["status"]["containerStatuses"].as_array_mut().unwrap().push(installer);
            });
            view(None, &[pod]).waits
        };
        let pulled = beside(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
        assert_eq!(pulled.as_deref(), Some("ImagePullBackOff: no such image"));
        let failed = beside(json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
        assert_eq!(
            failed.as_deref(),
            Some("its container gpheal ended with exit code 1: Error; see to its image and delete the Job for another attempt")
        );
        assert_eq!(beside(json!({"running": {}})), None);
        assert_eq!(beside(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), None);
    }

    #[test]
    fn progress_is_the_newest_line_that_is_one() {
        let log = "{\"step\":\"Holding\"}\n{\"step\":\"Copying\",\"bytes\":5,\"total\":10}\nsomething for people\n{\"step\":\"Cop";
        let progress = progress(log).unwrap();
        assert_eq!((progress.step, progress.percent()), (Step::Copying, Some(50)));
    }
}
