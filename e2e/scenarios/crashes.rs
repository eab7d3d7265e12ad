//! postgres dies or sleeps; its directory is whole.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use model::InstanceState;

use super::{Stage, stage::until};
use crate::{
    bed::fault::{keep_down, stop_postgres_group},
    fixture::{NAMESPACE, Row},
};

/// A restart in place beats FTS' retries of 5 x 1 s; past this it did not.
const BACK_WITHIN: Duration = Duration::from_secs(10);

pub async fn crash_in_place(stage: &mut Stage) -> Result<()> {
    let (primary, _) = stage.pair(0).await?;
    stage.kill_postmaster(&primary).await?;
    stage.mark("postmaster of the primary killed");
    serves_again(stage, &primary).await?;
    stage.mark("serves again");
    stage.wait_healthy().await?;
    let (now, _) = stage.pair(0).await?;
    ensure!(now.dbid == primary.dbid, "the roles were swapped: {now} acts now");
    nothing_was_repaired(stage).await
}

pub async fn serves_again(stage: &Stage, primary: &Row) -> Result<()> {
    until(&format!("{} to serve again", primary.pod()), BACK_WITHIN, async || {
        let session = match stage.cluster.instance(primary).await {
            Ok(session) => session,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        Ok(session.client().batch_execute("SELECT 1").await.map_err(|error| error.to_string()))
    })
    .await
}

pub async fn mirror_crash(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    stage.kill_postmaster(&mirror).await?;
    stage.mark("postmaster of the mirror killed");
    stage.wait_page(&mirror, "a mirror that receives", |p| p.crashes > 0 && p.state == InstanceState::Serving && p.receiving).await?;
    stage.mark("receives again");
    stage.wait_healthy().await?;
    ensure!(stage.pair(0).await?.0.dbid == primary.dbid, "the roles were swapped");
    nothing_was_repaired(stage).await
}

pub async fn nothing_was_repaired(stage: &Stage) -> Result<()> {
    ensure!(stage.all_recoveries().await?.is_empty(), "a recovery was made for what comes back by itself");
    Ok(())
}

pub async fn primary_lost(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    let down = keep_down(&stage.container(&primary).await?)?;
    stage.mark("primary kept down");
    stage.wait_row(mirror.dbid, "pnu").await?;
    stage.mark("FTS promoted its mirror");
    let before = stage.wal_end(&primary)?;
    // Held before its first copied byte, so that the stale primary can be looked at.
    pause_at(stage, &primary, "ProvingAgain").await?;
    down.release()?;
    stage.wait_page(&primary, "a hold", |p| p.state == InstanceState::Held).await?;
    ensure!(stage.wal_end(&primary)? == before, "the stale primary wrote to its log: {before:?} became {:?}", stage.wal_end(&primary)?);
    never_opened(stage, &primary).await?;
    stage.mark("the stale primary stayed closed");
    unpause(stage, &primary).await?;
    stage.wait_rewound(primary.dbid).await?;
    ensure!(stage.pair(0).await?.0.dbid == mirror.dbid, "the roles are not swapped");
    Ok(())
}

/// A mark that makes the Job wait at a step.
pub async fn pause_at(stage: &Stage, row: &Row, step: &str) -> Result<()> {
    stage.write_volume(row, ".gpheal/pause-at", step).await
}

pub async fn unpause(stage: &Stage, row: &Row) -> Result<()> {
    stage.remove_from_volume(row, ".gpheal/pause-at").await
}

/// The container that came back has never said that it is open for writing.
async fn never_opened(stage: &Stage, row: &Row) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let log = pods.logs(row.pod(), &LogParams { container: Some("greenplum".into()), ..LogParams::default() }).await?;
    ensure!(log.contains("NeedsRecovery"), "the supervisor did not say NeedsRecovery:\n{log}");
    ensure!(!log.contains("ready to accept connections"), "the stale primary was opened:\n{log}");
    Ok(())
}

pub async fn sleeper(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    let asleep = stop_postgres_group(&stage.container(&primary).await?)?;
    stage.mark("all of the primary's postgres stopped");
    stage.wait_row(mirror.dbid, "pnu").await?;
    stage.mark("FTS promoted its mirror");
    asleep.wake();
    stage
        .wait_page(&primary, "being no primary any more", |p| {
            matches!(p.state, InstanceState::NeedsRecovery | InstanceState::Held) || p.serves == Some(model::Role::Mirror)
        })
        .await?;
    stage.mark("fenced");
    stage.wait_rewound(primary.dbid).await
}
