//! Pods of Jobs that are not made, because a quota, a limit range or an admission policy refuses them. The Job itself never says
//! so: its controller tries again and again, and leaves an event each time. Only of Jobs whose pod is late are events read.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use kube::api::ListParams;
use tokio::time::Instant;

use super::{
    cluster::{Reader, bounded},
    jobs::{JobSeen, PodStage},
};
use model::JobState;

/// Of the event that tells of a pod that could not be made.
const REASON: &str = "FailedCreate";
/// A pod that can be made is there within moments.
const LATE: Duration = Duration::from_secs(5);
/// Between two reads of one Job's events: its controller tries at most once a minute after some tries.
const APART: Duration = Duration::from_secs(10);
/// The same after the API server has not answered: each such question holds a look up.
const SILENT: Duration = Duration::from_mins(1);
/// How long it is not tried again where the operator has no right to read events.
const FORBIDDEN_KEPT: Duration = Duration::from_mins(10);
/// The events of one Job are few, and alike.
const MOST: u32 = 100;
/// Letters of an event that are shown.
const LONGEST: usize = 800;

/// What was heard of the Jobs that have no pod.
#[derive(Debug, Default)]
pub struct Refusals {
    /// By uid of the Job: when its events are read next, and what they said last.
    known: BTreeMap<String, (Instant, Option<String>)>,
    forbidden: Option<Instant>,
}

impl Refusals {
    /// Adds to Jobs why their pods are not made, as far as anybody says so; what was heard of all others is forgotten.
    pub async fn look(&mut self, reader: &Reader, jobs: &mut [&mut JobSeen]) {
        let uids: Vec<String> = jobs.iter().filter_map(|job| podless(job).map(str::to_owned)).collect();
        self.known.retain(|uid, _| uids.contains(uid));
        for job in jobs {
            if let Some(uid) = podless(job).map(str::to_owned) {
                job.view.refused = self.said(reader, uid).await;
            }
        }
    }

    async fn said(&mut self, reader: &Reader, uid: String) -> Option<String> {
        let (due, before) = self.known.get(&uid).cloned().unwrap_or_else(|| (Instant::now() + LATE, None));
        let forbidden = self.forbidden.is_some_and(|since| since.elapsed() < FORBIDDEN_KEPT);
        let (due, said) = if due > Instant::now() || forbidden { (due, before) } else { self.read(reader, &uid, before).await };
        self.known.insert(uid, (due, said.clone()));
        said
    }

    async fn read(&mut self, reader: &Reader, uid: &str, before: Option<String>) -> (Instant, Option<String>) {
        let params = ListParams::default().fields(&format!("regarding.uid={uid},reason={REASON}")).limit(MOST);
        match bounded("events of a Job", reader.api::<Event>().list(&params)).await {
            Ok(listed) => (Instant::now() + APART, newest(&listed.items).or(before)),
            Err(error) => {
                tracing::info!(error = crate::error::chain(&error), "why the pod of a Job is not made cannot be read");
                self.forbidden = error.is_forbidden().then(Instant::now).or(self.forbidden);
                (Instant::now() + SILENT, before)
            }
        }
    }
}

/// The uid of a Job that is at work and has no pod.
fn podless(job: &JobSeen) -> Option<&str> {
    let waits = job.view.state == JobState::Active && job.pod == PodStage::None;
    job.object.as_ref().filter(|_| waits).map(|(uid, _)| uid.as_str())
}

/// What the newest event says; that it is asked for by its reason is not relied upon.
fn newest(events: &[Event]) -> Option<String> {
    let ours = events.iter().filter(|event| event.reason.as_deref() == Some(REASON));
    let said = |event: &Event| Some((at(event), event.note.clone().filter(|note| !note.trim().is_empty())?));
    let (_, note) = ours.filter_map(said).max_by_key(|(at, _)| *at)?;
    let bare = note.trim().trim_start_matches("(combined from similar events): ").trim_start_matches("Error creating: ");
    Some(crate::error::cut(bare, LONGEST))
}

/// When an event was seen last: a series is one event, and who writes in the old way fills the old fields.
fn at(event: &Event) -> Option<Timestamp> {
    let old = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    let new = |time: &Option<MicroTime>| time.as_ref().map(|time| time.0);
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    [series, old(&event.deprecated_last_timestamp), new(&event.event_time), old(&event.metadata.creation_timestamp)]
        .into_iter()
        .flatten()
        .max()
}

#[cfg(test)]
#[path = "refused_tests.rs"]
mod tests;
