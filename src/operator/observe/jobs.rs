//! Jobs and their pods as what the planner reads: does an attempt run, how did it end, where does it stand.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec},
};
use kube::ResourceExt;

use api::labels;
use model::{Attempt, Dbid, JobState, JobView, Outcome, Progress, Step, world::AtWork};

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
    let at_work: Vec<&Pod> = ours.iter().filter(|pod| works(asked, pod)).copied().collect();
    let object = |job: &Job| Some((job.metadata.uid.clone()?, job.metadata.resource_version.clone()?));
    JobSeen {
        waits: if active { waits(if at_work.is_empty() { &ours } else { &at_work }) } else { None },
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
    // A pod that lives works on, whatever became of its Job, and whatever a second one of the attempt says that it kept away.
    if pods.iter().any(|pod| works(asked, pod)) {
        return JobState::Active;
    }
    // What the container said is believed as soon as it ended: by then the volume's lock is free.
    if let Some(said) = pods.iter().filter_map(|pod| said(asked, pod)).max_by_key(how_far) {
        return said.map_or_else(JobState::Garbled, JobState::Ended);
    }
    match job {
        None => JobState::Lost(format!("Job {name} is gone, and its pod left no outcome")),
        Some(job) => match finished(job) {
            None => JobState::Active,
            Some(why) => JobState::Lost(format!("Job {name} ended ({why}), and its pod left no outcome{}", last_words(pods))),
        },
    }
}

/// It has not ended, and has not said how it did.
fn works(asked: &Asked, pod: &Pod) -> bool {
    !is_over(pod) && said(asked, pod).is_none()
}

/// Of several pods of one attempt the one that came furthest tells what became of it.
fn how_far(said: &Result<Outcome, String>) -> (bool, bool, Option<Step>) {
    let failed_in = said.as_ref().ok().and_then(|outcome| outcome.failure.as_ref()).map(|failure| failure.step);
    (said.is_ok(), said.is_ok() && failed_in.is_none(), failed_in)
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
#[path = "jobs_tests.rs"]
mod tests;
