//! The volume itself is not what it should be.

use std::time::Duration;

use anyhow::{Result, ensure};
use gpheal::{
    api::recovery::Phase,
    greenplum::wal::WalEnd,
    model::{FailureClass, InstanceState, Repair},
};

use super::Stage;
use crate::{
    bed::fault::{KeptDown, delete_pod_now, keep_down, stop_postgres_group},
    fixture::{NAMESPACE, Row},
};

pub async fn not_mounted(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    let volume = stage.volume(&mirror)?;
    let down = keep_down(&stage.container(&mirror).await?)?;
    let kept = volume.copy()?;
    volume.empty()?;
    down.release()?;
    stage.mark("mirror's volume replaced by an empty one");
    stage.wait_row(mirror.dbid, "mnd").await?;
    let unwell = stage.wait_reason(mirror.dbid, "VolumeUnrecognised").await?;
    stage.mark(format!("refused: {}", unwell.message));
    stage.stays_untouched(Duration::from_secs(6)).await?;
    let left: Vec<_> = std::fs::read_dir(volume.folder())?.flatten().map(|e| e.file_name()).filter(|n| n != ".gpheal").collect();
    ensure!(left.is_empty(), "something was written onto the unknown volume: {left:?}");
    let down = keep_down(&stage.container(&mirror).await?)?;
    volume.restore(&kept)?;
    down.release()?;
    stage.mark("the right volume is back");
    stage.wait_healthy().await.map(drop)
}

/// A cluster that is being attached: an acting primary has had no supervisor yet, and is replaced when it gets one.
pub async fn unadopted(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    let down = keep_down(&stage.container(&primary).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    let token = stage.volume(&primary)?.folder().join(".gpheal/volume.json");
    std::fs::remove_file(&token)?;
    stage.mark("primary replaced, its volume without a token");
    down.release()?;
    let healed = stage.wait_succeeded(primary.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Incremental), "it was repaired by {:?}", healed.type_);
    ensure!(token.exists(), "its volume was not adopted");
    stage.wait_healthy().await.map(drop)
}

/// A primary comes back on an older copy of its own volume, while its mirror, down, has what that lacks.
pub async fn ahead(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(2).await?;
    let volume = stage.volume(&primary)?;
    let older = {
        let asleep = stop_postgres_group(&stage.container(&primary).await?)?; // shorter than FTS' patience
        let older = volume.copy()?;
        asleep.wake();
        older
    };
    stage.mark("copy of the primary's volume taken");
    write_much(stage, &primary).await?;
    let mirror_down = keep_down(&stage.container(&mirror).await?)?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    stage.mark("mirror down");
    // What the older copy would acknowledge while it passes for the primary is lost by our own hand afterwards.
    stage.stop_writing().await?;
    let primary_down = keep_down(&stage.container(&primary).await?)?;
    let (newest, before) = (volume.copy()?, stage.wal_end(&mirror)?);
    volume.restore(&older)?;
    primary_down.release()?;
    mirror_down.release()?;
    stage.mark("primary back on the older copy");
    refused_as_ahead(stage, &mirror, before).await?;
    let primary_down: KeptDown = keep_down(&stage.container(&primary).await?)?;
    volume.restore(&newest)?;
    primary_down.release()?;
    stage.mark("the newest copy is back");
    stage.forget_recoveries().await?;
    delete_pod_now(&stage.bed, NAMESPACE, mirror.pod()).await?;
    stage.healed.push(mirror.dbid);
    stage.wait_healthy().await.map(drop)
}

/// More log than the older copy will write by itself while it is looked at.
async fn write_much(stage: &Stage, primary: &Row) -> Result<()> {
    let session = stage.cluster.instance(primary).await?;
    let sql = "CREATE TABLE IF NOT EXISTS much (t text); INSERT INTO much SELECT repeat(md5(g::text), 30) FROM generate_series(1, 60000) g; DROP TABLE much";
    Ok(session.client().batch_execute(sql).await?)
}

/// The mirror does not follow either: it would ask for the log from the start of a segment on, and have its own written over.
async fn refused_as_ahead(stage: &mut Stage, mirror: &Row, before: WalEnd) -> Result<()> {
    let failed = |r: &gpheal::api::SegmentRecovery, _: &_| r.status.as_ref().is_some_and(|s| s.phase == Phase::Failed);
    let recovery = stage.wait_recovery(mirror.dbid, "a failure", failed).await?;
    let instance = super::stage::instance_of(&recovery, mirror.dbid);
    let class = instance.and_then(|i| i.failure).and_then(|f| f.class.known().copied());
    ensure!(class == Some(FailureClass::TargetAheadOfSource), "it failed as {class:?}");
    stage.mark("TargetAheadOfSource");
    stage.wait_page(mirror, "staying closed", |p| p.state == InstanceState::NeedsRecovery).await?;
    ensure!(stage.wal_end(mirror)? == before, "the target was changed: {before:?} became {:?}", stage.wal_end(mirror)?);
    stage.wait_reason(mirror.dbid, "RecoveryFailed").await.map(drop)
}
