//! How long it takes until a killed primary serves again, and until a lost one is a mirror in sync.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};
use operator::observe::jobs;

use super::{Figure, hand, seconds_since, written};
use crate::{
    bed::fault::kill_postmaster,
    fixture::{DATA_DIRECTORY, Row},
    scenarios::{Stage, until},
};

const SERVES_WITHIN: Duration = Duration::from_mins(1);

/// Postmaster of a primary killed -> it serves again, without failover.
pub async fn crashed(stage: &mut Stage, runs: usize) -> Result<Vec<Figure>> {
    let mut values = vec![];
    for content in contents(runs) {
        let (primary, _) = stage.pair(content).await?;
        kill_postmaster(&stage.container(&primary).await?)?;
        let killed = Instant::now();
        serves(stage, &primary).await?;
        values.push(killed.elapsed().as_secs_f64());
        stage.wait_healthy().await?;
    }
    Ok(vec![Figure::new("postmaster of a primary killed → serves again", "s", values, Some(3.0))])
}

async fn serves(stage: &Stage, row: &Row) -> Result<()> {
    until(&format!("{} to serve again", row.pod()), SERVES_WITHIN, async || {
        Ok(stage.cluster.instance(row).await.map(drop).map_err(|error| format!("{error:#}")))
    })
    .await
}

/// FTS marked a primary down -> its pair is in sync again; the same commands by hand beside it. Nobody can begin before
/// its mirror is promoted, which takes up to five seconds (`wal_retrieve_retry_interval`).
pub async fn lost(stage: &mut Stage, runs: usize) -> Result<Vec<Figure>> {
    let (mut healed, mut since_promoted, mut starts) = (vec![], vec![], vec![]);
    for content in contents(runs) {
        stage.forget_recoveries().await?;
        let (primary, mirror) = stage.pair(content).await?;
        // The container lives on: how long kubelet takes to start another is not what is measured here.
        // In one breath: a supervisor that has seen the mark stops postgres in order.
        let retired = "/data/.gpheal/retired";
        let postmaster = format!("$(head -n 1 /data/{DATA_DIRECTORY}/postmaster.pid)");
        stage.shell(&primary, &format!("touch {retired}; kill -9 {postmaster}")).await?;
        stage.wait_row(mirror.dbid, "pnu").await?;
        let marked = written(stage, primary.dbid).await?;
        stage.shell(&primary, &format!("rm {retired}")).await?;
        serves(stage, &mirror).await?;
        let promoted = Timestamp::now();
        stage.wait_row(primary.dbid, "msu").await?;
        let in_sync = written(stage, primary.dbid).await?;
        healed.push(seconds_since(marked, in_sync));
        since_promoted.push(seconds_since(promoted, in_sync));
        stage.wait_succeeded(primary.dbid).await?;
        starts.push(job_start(stage).await?);
        stage.wait_healthy().await?;
    }
    let by_hand = hand::incremental(runs).await?;
    let healed = Figure::new("primary lost: FTS' mark → pair in sync, small data", "s", healed, Some(10.0));
    let since_promoted = Figure::new("of it, its mirror promoted → pair in sync", "s", since_promoted, None);
    let by_hand = Figure::new("the same commands by hand, without Kubernetes: mirror promoted → pair in sync", "s", by_hand, None);
    let more = Figure::new("by gpheal, more than by hand", "s", vec![since_promoted.median() - by_hand.median()], Some(5.0));
    let starts = Figure::new("of it, Job's pod made (in whole seconds, so up to 1 s too much) → gpheal runs in it", "s", starts, Some(3.0));
    Ok(vec![healed, since_promoted, by_hand, more, starts])
}

/// The Job's pod was made, and gpheal speaks in it.
async fn job_start(stage: &Stage) -> Result<f64> {
    let pods = stage.cluster.pods().list(&ListParams::default().labels("gpheal.io/recovery")).await?.items;
    let pod = pods.first().context("the Job has no pod")?;
    let made = pod.metadata.creation_timestamp.as_ref().context("the pod has no age")?.0;
    let how = LogParams { container: Some(jobs::CONTAINER.into()), timestamps: true, ..LogParams::default() };
    let log = stage.cluster.pods().logs(&pod.name_any(), &how).await?;
    let spoke = log.split_whitespace().next().context("the Job said nothing")?.parse()?;
    Ok(seconds_since(made, spoke))
}

/// Three contents, one after the other: a supervisor that is hurt again at once holds back.
fn contents(runs: usize) -> impl Iterator<Item = i16> {
    (0..3).cycle().take(runs)
}
