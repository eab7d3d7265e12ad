//! What a person says to a supervisor by annotating its pod.

use anyhow::{Context, Result, ensure};
use kube::api::{ListParams, Patch, PatchParams};
use model::InstanceState;
use serde_json::{Value, json};

use super::{Stage, crashes};
use crate::{
    bed::fault::{keep_down, kill_postmaster},
    fixture::Row,
};

pub async fn maintenance(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    annotate(stage, &mirror, json!({ "gpheal.io/maintenance": "disk is looked at" })).await?;
    stage.wait_page(&mirror, "maintenance", |page| page.state == InstanceState::Maintenance).await?;
    stage.mark("a person works on the mirror");
    kill_postmaster(&stage.container(&mirror).await?)?;
    stage.wait_page(&mirror, "a start without being asked about", |page| page.receiving).await?;
    ensure!(stage.page(&mirror).await?.state == InstanceState::Maintenance, "its page does not say so any more");

    let down = keep_down(&stage.container(&mirror).await?)?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    stage.ask("during-maintenance", json!({ "dbids": [mirror.dbid] }), "Full").await?;
    down.release()?;
    stage.wait_healthy().await?;
    let jobs = stage.jobs().list(&ListParams::default().labels("gpheal.io/recovery")).await?.items.len();
    ensure!(jobs == 0, "a Job was made during maintenance");
    stage.mark("down and up again under maintenance, no Job");

    annotate(stage, &mirror, json!({ "gpheal.io/maintenance": null })).await?;
    stage.wait_page(&mirror, "being served as before", |page| page.state == InstanceState::Serving).await?;
    stage.mark("maintenance ended");
    stage.wait_healthy().await.map(drop)
}

/// Volumes of the bed are bound to their node, so the record of a holder on another one is written by the scenario.
pub async fn held_elsewhere(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(2).await?;
    let down = keep_down(&stage.container(&mirror).await?)?;
    let lock = stage.volume(&mirror)?.folder().join(".gpheal/lock");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&lock)?).context("the lock's record cannot be read")?;
    ensure!(record["released"] == false && record["pod"] == mirror.pod(), "it does not say who held the lock: {record}");
    (record["node"], record["boot"]) = ("n9".into(), "another kernel's".into());
    std::fs::write(&lock, record.to_string())?;
    down.release()?;
    let page = stage.wait_page(&mirror, "HeldElsewhere", |page| page.state == InstanceState::HeldElsewhere).await?;
    let lifts = page.detail.split_once("gpheal.io/node-gone=").and_then(|(_, said)| said.split_whitespace().next());
    let lifts =
        lifts.filter(|lifts| lifts.starts_with("n9@")).with_context(|| format!("it does not say what lifts it: {}", page.detail))?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    let unwell = stage.wait_reason(mirror.dbid, "SupervisorSays").await?;
    stage.mark(format!("SupervisorSays: {}", unwell.message));
    crashes::nothing_was_repaired(stage).await?;

    annotate(stage, &mirror, json!({ "gpheal.io/node-gone": lifts })).await?;
    stage.wait_healthy().await?;
    stage.mark("a person said that the node is gone: back by itself");
    annotate(stage, &mirror, json!({ "gpheal.io/node-gone": null })).await
}

/// Nobody says anything any more, whatever the last scenario left.
pub async fn nothing_is_said(stage: &Stage) -> Result<()> {
    let nothing = json!({ "gpheal.io/maintenance": null, "gpheal.io/node-gone": null });
    for row in stage.catalog().await?.rows.iter().filter(|row| row.content >= 0) {
        annotate(stage, row, nothing.clone()).await?;
    }
    Ok(())
}

async fn annotate(stage: &Stage, row: &Row, annotations: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    stage.cluster.pods().patch(row.pod(), &PatchParams::default(), &patch).await?;
    Ok(())
}
