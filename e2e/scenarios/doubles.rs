//! Both sides of a pair are gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Stage, stage::CLUSTER};
use crate::bed::fault::keep_down;

pub async fn double_fault(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(1).await?;
    let mirror_down = keep_down(&stage.container(&mirror).await?)?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    stage.mark("mirror kept down");
    let primary_down = keep_down(&stage.container(&primary).await?)?;
    stage.mark("primary kept down too");
    let why = stage.wait_reason(primary.dbid, "DoubleFault").await?;
    stage.mark(format!("{}; {}", why.message, why.lifted_by));
    stage.stays_untouched(Duration::from_secs(6)).await?;
    mirror_down.release()?;
    stage.mark("only the mirror is back");
    stage.wait_page(&mirror, "a page", |_| true).await?;
    stage.stays_untouched(Duration::from_secs(10)).await?;
    ensure!(!is_ready(stage).await?, "it claims health with a content's only good copy away");
    primary_down.release()?;
    stage.mark("primary back");
    stage.wait_healthy().await?;
    ensure!(stage.pair(1).await?.0.dbid == primary.dbid, "the roles were swapped");
    stage.healed.push(mirror.dbid);
    Ok(())
}

async fn is_ready(stage: &Stage) -> Result<bool> {
    let status = stage.clusters().get(CLUSTER).await?.status.context("the cluster has no status")?;
    Ok(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

pub async fn flipped_double(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    let (a, b) = (stage.container(&primary).await?, stage.container(&mirror).await?);
    let (primary_down, mirror_down) = (keep_down(&a)?, keep_down(&b)?);
    stage.mark("both kept down at once, in sync");
    stage.wait_row(mirror.dbid, "pnu").await?;
    stage.mark("the catalog flipped to the dead mirror");
    let why = stage.wait_reason(primary.dbid, "FlippedDouble").await?;
    stage.mark(why.message);
    stage.stays_untouched(Duration::from_secs(6)).await?;
    primary_down.release()?;
    stage.wait_page(&primary, "staying closed", |p| p.serves.is_none()).await?;
    mirror_down.release()?;
    stage.mark("both released");
    stage.wait_succeeded(primary.dbid).await?;
    stage.wait_healthy().await?;
    ensure!(stage.pair(0).await?.0.dbid == mirror.dbid, "the roles are not those of the flip");
    Ok(())
}
