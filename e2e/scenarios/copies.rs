//! The directory of a mirror is lost or damaged: a full copy.

use anyhow::{Result, ensure};
use model::Repair;

use super::{
    Stage,
    crashes::{pause_at, unpause},
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::{fault::kill_postmaster, say},
    fixture::{DATA_DIRECTORY, Row},
};

/// Where a full copy keeps what it replaces.
const OLD: &str = "gpseg.gpheal-old";

/// Removes a mirror's directory under its running postgres, and ends that.
pub async fn empty(stage: &mut Stage, mirror: &Row) -> Result<()> {
    stage.remove_data(mirror).await?;
    if !stage.bed.is_foreign()
        && let Err(gone) = stage.kill_postmaster(mirror).await
    {
        say(format!("  it ended by itself already: {gone:#}"));
    }
    stage.mark(format!("directory of {} removed, postmaster killed", mirror.pod()));
    Ok(())
}

pub async fn mirror_emptied(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    empty(stage, &mirror).await?;
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    stage.wait_healthy().await.map(drop)
}

pub async fn mirror_corrupt(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    let (container, volume) = (stage.container(&mirror).await?, stage.volume(&mirror)?);
    pause_at(stage, &mirror, "Releasing").await?;
    volume.damage_file(&format!("{DATA_DIRECTORY}/global/pg_control"))?;
    kill_postmaster(&container)?;
    stage.mark("control file of the mirror overwritten, postmaster killed");
    let at_release = |_: &_, i: &api::recovery::InstanceStatus| i.step.as_deref() == Some("Releasing");
    let recovery = stage.wait_recovery(mirror.dbid, "the release", at_release).await?;
    let why = super::stage::instance_of(&recovery, mirror.dbid).map(|i| i.why).unwrap_or_default();
    ensure!(why.contains("control"), "the evidence is not given: '{why}'");
    ensure!(volume.folder().join(OLD).join("PG_VERSION").exists(), "the old directory is gone before the proof");
    stage.mark("copied; the old directory is still there");
    unpause(stage, &mirror).await?;
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    until("the old directory to be removed", HEALED_WITHIN, async || {
        Ok(if volume.folder().join(OLD).exists() { Err("it is there".into()) } else { Ok(()) })
    })
    .await?;
    stage.mark("the old directory is removed");
    stage.wait_healthy().await.map(drop)
}

pub async fn two_at_once(stage: &mut Stage) -> Result<()> {
    let (_, first) = stage.pair(1).await?;
    let (_, second) = stage.pair(2).await?;
    empty(stage, &first).await?;
    empty(stage, &second).await?;
    let (a, b) = (stage.wait_succeeded(first.dbid).await?, stage.wait_succeeded(second.dbid).await?);
    let began = |i: &api::recovery::InstanceStatus| i.attempt_started_at.as_ref().map(|t| t.0);
    let apart = began(&a).zip(began(&b)).map(|(a, b)| a.duration_since(b).abs().as_secs());
    ensure!(apart.is_some_and(|seconds| seconds < 20), "they were not begun side by side: {apart:?} s apart");
    stage.wait_healthy().await.map(drop)
}
