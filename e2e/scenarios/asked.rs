//! Recoveries that a person asks for.

use anyhow::{Result, ensure};
use api::recovery::Phase;
use serde_json::json;

use super::{Stage, copies};

pub async fn by_hand(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    refused(stage, "healthy-mirror", mirror.dbid, "TargetUp").await?;
    refused(stage, "acting-primary", primary.dbid, "TargetIsActingPrimary").await?;
    stage.healing(json!({ "paused": true })).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_reason(mirror.dbid, "Paused").await?;
    stage.mark("automatic healing stands still, paused");
    stage.ask("asked-for", json!({ "contents": [mirror.content] }), "Full").await?;
    let healed = stage.wait_over("asked-for").await?.status.unwrap_or_default();
    ensure!(healed.phase == Phase::Succeeded, "it ended {:?}: {}", healed.phase, healed.message);
    stage.mark("healed by hand while paused");
    stage.healed.push(mirror.dbid);
    stage.healing(json!({ "paused": false })).await?;
    stage.wait_healthy().await.map(drop)
}

async fn refused(stage: &mut Stage, name: &str, dbid: i16, code: &str) -> Result<()> {
    stage.ask(name, json!({ "dbids": [dbid] }), "Full").await?;
    let status = stage.wait_over(name).await?.status.unwrap_or_default();
    ensure!(status.phase == Phase::Refused && status.message.contains(code), "{name} ended {:?}: {}", status.phase, status.message);
    stage.mark(format!("{name} refused: {code}"));
    Ok(())
}
