//! The Job or the operator dies in the middle.

use anyhow::{Context, Result, ensure};
use api::recovery::InstanceStatus;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use model::{Repair, Step};
use serde_json::json;

use super::{
    Stage, copies,
    crashes::{pause_at, unpause},
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::fault::{delete_operator, delete_pod, keep_down, kill_operator},
    fixture::{NAMESPACE, Row},
};

/// Steps at which the Job of a full copy is ended, each with whether a copy mark must stand afterwards.
const FULL: [(Step, bool); 7] = [
    (Step::Proving, false),
    (Step::Holding, false),
    (Step::ProvingAgain, false),
    (Step::Analysing, false),
    (Step::Copying, false), // beside: the old place is not touched
    (Step::Configuring, false),
    (Step::Releasing, false),
];

/// The same for an incremental repair.
const INCREMENTAL: [(Step, bool); 2] = [(Step::Analysing, false), (Step::Copying, false)];

pub async fn job_killed(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    pause_at(stage, &mirror, &FULL[0].0.to_string()).await?;
    copies::empty(stage, &mirror).await?;
    ended_at_each(stage, &mirror, &FULL).await?;
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    stage.wait_healthy().await?;
    incremental(stage).await
}

async fn incremental(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(2).await?;
    let down = keep_down(&stage.container(&primary).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    pause_at(stage, &primary, &INCREMENTAL[0].0.to_string()).await?;
    down.release()?;
    stage.mark("a primary is to be rewound");
    ended_at_each(stage, &primary, &INCREMENTAL).await?;
    stage.wait_succeeded(primary.dbid).await?;
    stage.wait_healthy().await.map(drop)
}

/// Ends the Job at one step after the other; the last one is left to run.
async fn ended_at_each(stage: &mut Stage, target: &Row, steps: &[(Step, bool)]) -> Result<()> {
    for (index, (step, copy_mark)) in steps.iter().enumerate() {
        let pod = job_pod_at(stage, target, *step).await?;
        delete_pod(&stage.bed, NAMESPACE, &pod).await?;
        gone(stage, &pod).await?;
        // Not before: the Job would go on from where it waits. The next attempt waits a back-off longer than this takes.
        match steps.get(index + 1) {
            Some((next, _)) => pause_at(stage, target, &next.to_string()).await?,
            None => unpause(stage, target).await?,
        }
        ensure!(stage.has(target, ".gpheal/copy").await? == *copy_mark, "after an end at {step} the copy mark is not truthful");
        stage.mark(format!("Job ended at {step}"));
    }
    Ok(())
}

/// The pod of the Job that waits at a step.
pub async fn job_pod_at(stage: &Stage, target: &Row, step: Step) -> Result<String> {
    let there = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some(&step.to_string()) && i.job.is_some();
    let recovery = stage.wait_recovery(target.dbid, &format!("the step {step}"), there).await?;
    let job = super::stage::instance_of(&recovery, target.dbid).and_then(|i| i.job).context("no Job is named")?;
    let pods: Api<Pod> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"))).await?;
    found.items.first().and_then(|p| p.metadata.name.clone()).with_context(|| format!("Job {job} has no pod"))
}

async fn gone(stage: &Stage, pod: &str) -> Result<()> {
    until(&format!("the pod {pod} to go away"), HEALED_WITHIN, async || {
        Ok(if stage.cluster.pods().get_opt(pod).await?.is_none() { Ok(()) } else { Err("it is there".into()) })
    })
    .await
}

/// Deleting a recovery cancels it: SIGTERM to the Job, and marks that tell the truth.
pub async fn cancelled(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(0).await?;
    stage.healing(json!({ "paused": true, "maxRate": 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    stage.ask("to-be-cancelled", json!({ "dbids": [mirror.dbid] }), "Full").await?;
    let pod = job_pod_at(stage, &mirror, Step::Copying).await?;
    stage.recoveries().delete("to-be-cancelled", &DeleteParams::default()).await?;
    stage.mark("recovery deleted in the middle of its copy");
    gone(stage, &pod).await?;
    let left = stage.has(&mirror, ".gpheal/hold").await? || stage.has(&mirror, ".gpheal/copy").await?;
    ensure!(!left, "the marks are not truthful: nothing was replaced");
    stage.wait_reason(mirror.dbid, "Paused").await?;
    stage.mark("cancelled, marks truthful");
    stage.healing(json!({ "paused": false, "maxRate": null })).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}

/// What no pod and no condition of the Job tells.
pub async fn pod_refused(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(0).await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let none: ResourceQuota = serde_json::from_value(json!({ "metadata": { "name": "no-more" }, "spec": { "hard": { "pods": "0" } } }))?;
    quotas.create(&PostParams::default(), &none).await?;
    let told = match copies::empty(stage, &mirror).await {
        Ok(()) => stage.wait_reason(mirror.dbid, "PodRefused").await,
        Err(error) => Err(error),
    };
    quotas.delete("no-more", &DeleteParams::default()).await?;
    let told = told?;
    ensure!(told.message.contains("no-more") && told.lifted_by.contains("quotas"), "{}; {}", told.message, told.lifted_by);
    stage.mark(format!("told: {}", told.message));
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}

pub async fn operator_killed(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(2).await?;
    stage.healing(json!({ "maxRate": 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    let copying = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some("Copying") && i.percent.is_some_and(|p| p > 5);
    stage.wait_recovery(mirror.dbid, "the middle of a copy", copying).await?;
    if stage.bed.is_foreign() {
        delete_operator(&stage.bed).await?;
    } else {
        kill_operator(&stage.bed).await?;
    }
    stage.mark("operator killed in the middle of the copy");
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.attempt == 1, "it took {} attempts", healed.attempt);
    let jobs = stage.jobs().list(&ListParams::default().labels("gpheal.io/recovery")).await?.items.len();
    ensure!(jobs == 1, "{jobs} Jobs were made");
    stage.healing(json!({ "maxRate": null })).await?;
    stage.wait_healthy().await.map(drop)
}
