//! The volume itself is not what it should be.

use std::time::Duration;

use anyhow::{Result, ensure};
use model::Repair;

use super::Stage;
use crate::bed::fault::keep_down;

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
