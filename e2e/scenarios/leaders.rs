//! Two operators, of which one leads: it dies, falls asleep, leaves; and both are taken away.

use std::time::Duration;

use anyhow::{Result, ensure};
use api::recovery::{InstanceStatus, Phase};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use model::Step;
use serde_json::json;

use super::{
    Stage, copies,
    crashes::{self, pause_at, unpause},
    operator::{self, NAMESPACE},
    stage::until,
};
use crate::{
    bed::fault::{self, delete_pod, delete_pod_now},
    fixture::Row,
};

/// A lease that is not renewed for 15 s is taken; a pod takes some seconds to begin.
const LED_WITHIN: Duration = Duration::from_secs(40);

/// Steps at which the leader is killed; the Job waits there meanwhile.
const STEPS: [Step; 4] = [Step::Proving, Step::Holding, Step::Copying, Step::Releasing];

/// The leader is killed with its pod at every step of one repair.
pub async fn leader_killed(stage: &mut Stage) -> Result<()> {
    two(stage).await?;
    let (_, mirror) = stage.pair(0).await?;
    pause_at(stage, &mirror, &STEPS[0].to_string()).await?;
    copies::empty(stage, &mirror).await?;
    for (index, step) in STEPS.iter().enumerate() {
        let there = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some(&step.to_string());
        stage.wait_recovery(mirror.dbid, &format!("the step {step}"), there).await?;
        let killed = fault::leader(&stage.bed).await?;
        delete_pod_now(&stage.bed, NAMESPACE, &killed).await?;
        let next = led_by_another(stage, &killed).await?;
        stage.mark(format!("leader killed at {step}; {next} leads"));
        match STEPS.get(index + 1) {
            Some(next) => pause_at(stage, &mirror, &next.to_string()).await?,
            None => unpause(stage, &mirror).await?,
        }
    }
    one_attempt(stage, &mirror).await
}

/// The leader sleeps until another one leads, and wakes up in the middle of what it was doing.
pub async fn leader_asleep(stage: &mut Stage) -> Result<()> {
    two(stage).await?;
    let (_, mirror) = stage.pair(1).await?;
    stage.healing(json!({ "maxRate": 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    let copying = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some("Copying");
    stage.wait_recovery(mirror.dbid, "the middle of a copy", copying).await?;
    let sleeper = fault::leader(&stage.bed).await?;
    let asleep = fault::suspend_operator(&stage.bed, &sleeper).await?;
    stage.mark("leader asleep");
    led_by_another(stage, &sleeper).await?;
    asleep.wake();
    stage.mark("another leads; the sleeper is awake");
    until("the sleeper to give up", LED_WITHIN, async || {
        let pod = operator::pods(&stage.bed)?.get_opt(&sleeper).await?;
        let restarts = pod.and_then(|p| p.status?.container_statuses?.first().map(|c| c.restart_count));
        Ok(if restarts == Some(0) { Err("it runs on".into()) } else { Ok(()) })
    })
    .await?;
    stage.mark("the sleeper gave up");
    ensure!(fault::leader(&stage.bed).await? != sleeper, "the sleeper leads again");
    stage.healing(json!({ "maxRate": null })).await?;
    one_attempt(stage, &mirror).await
}

/// A leader that is told to end gives its lease up: nobody waits until it runs out.
pub async fn leader_leaves(stage: &mut Stage) -> Result<()> {
    two(stage).await?;
    let leaving = fault::leader(&stage.bed).await?;
    let begun = std::time::Instant::now();
    delete_pod(&stage.bed, NAMESPACE, &leaving).await?;
    led_by_another(stage, &leaving).await?;
    let seconds = begun.elapsed().as_secs_f64();
    stage.mark(format!("another leads after {seconds:.1} s"));
    ensure!(seconds < 10.0, "the lease was not given up: it took {seconds:.1} s, it holds for 15");
    let (_, mirror) = stage.pair(2).await?;
    copies::empty(stage, &mirror).await?;
    one_attempt(stage, &mirror).await
}

/// Both are taken away in the middle of a copy: it ends, segments go on by themselves; put back, they go on from the objects.
pub async fn uninstalled(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(0).await?;
    let (other, _) = stage.pair(1).await?;
    stage.healing(json!({ "maxRate": 4 * 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    let copying = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some("Copying");
    stage.wait_recovery(mirror.dbid, "the middle of a copy", copying).await?;
    operator::remove(&stage.bed).await?;
    stage.mark("operator taken away in the middle of the copy");
    stage.kill_postmaster(&other).await?;
    crashes::serves_again(stage, &other).await?;
    stage.mark("a primary's postmaster was killed and serves again");
    stage.wait_healthy().await?;
    stage.mark("the copy ended, every pair is in sync");
    let left = stage.all_recoveries().await?;
    let running = left.iter().all(|r| r.status.as_ref().is_some_and(|s| s.phase == Phase::Running));
    ensure!(running && left.len() == 1, "somebody wrote without an operator: {left:?}");
    operator::install(&stage.bed).await?;
    stage.healing(json!({ "maxRate": null, "gracePeriod": "5s" })).await?;
    one_attempt(stage, &mirror).await
}

/// The operators are replaced by the chart in the middle of a copy; no pod of the cluster is restarted by that.
pub async fn upgraded(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    stage.healing(json!({ "maxRate": 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    let copying = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some("Copying");
    stage.wait_recovery(mirror.dbid, "the middle of a copy", copying).await?;
    let before = pods_of_the_cluster(stage).await?;
    operator::by_chart(&stage.bed).await?;
    stage.mark("operators replaced in the middle of the copy");
    stage.healing(json!({ "maxRate": null })).await?;
    one_attempt(stage, &mirror).await?;
    ensure!(pods_of_the_cluster(stage).await? == before, "pods of the cluster were replaced, or their containers restarted");
    Ok(())
}

/// Identity and restarts of every pod of the cluster.
async fn pods_of_the_cluster(stage: &Stage) -> Result<Vec<(Option<String>, i32)>> {
    let pods = stage.cluster.pods().list(&ListParams::default().labels("app.kubernetes.io/name=greenplum")).await?.items;
    let restarts = |status: k8s_openapi::api::core::v1::PodStatus| status.container_statuses?.first().map(|c| c.restart_count);
    Ok(pods.into_iter().map(|pod| (pod.metadata.uid, pod.status.and_then(restarts).unwrap_or_default())).collect())
}

/// Two operators, both ready.
async fn two(stage: &Stage) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    deployments.patch_scale("gpheal", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "replicas": 2 } }))).await?;
    until("two operators to be ready", LED_WITHIN, async || {
        let ready = deployments.get("gpheal").await?.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        Ok(if ready == 2 { Ok(()) } else { Err(format!("{ready} are")) })
    })
    .await
}

async fn led_by_another(stage: &Stage, before: &str) -> Result<String> {
    until("another operator to lead", LED_WITHIN, async || {
        Ok(match fault::leader(&stage.bed).await {
            Ok(leader) if leader != before => Ok(leader),
            Ok(leader) => Err(format!("{leader} leads")),
            Err(error) => Err(error.to_string()),
        })
    })
    .await
}

/// However many operators had a hand in it: one recovery, one Job, one attempt.
async fn one_attempt(stage: &mut Stage, mirror: &Row) -> Result<()> {
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.attempt == 1, "it took {} attempts", healed.attempt);
    let jobs = stage.jobs().list(&ListParams::default().labels("gpheal.io/recovery")).await?.items.len();
    let recoveries = stage.all_recoveries().await?.len();
    ensure!((jobs, recoveries) == (1, 1), "{jobs} Jobs and {recoveries} recoveries were made");
    stage.wait_healthy().await.map(drop)
}
