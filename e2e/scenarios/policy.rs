//! Policies under which gpheal plans and does not act.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Stage, copies};

pub async fn observe_only(stage: &mut Stage) -> Result<()> {
    stands_still(stage, json!({ "mode": "Observe" }), "ObserveOnly", json!({ "mode": "Automatic" })).await
}

pub async fn paused(stage: &mut Stage) -> Result<()> {
    stands_still(stage, json!({ "paused": true }), "Paused", json!({ "paused": false })).await
}

async fn stands_still(stage: &mut Stage, policy: Value, reason: &str, lifted: Value) -> Result<()> {
    let (_, mirror) = stage.pair(0).await?;
    stage.healing(policy).await?;
    copies::empty(stage, &mirror).await?;
    let unwell = stage.wait_reason(mirror.dbid, reason).await?;
    ensure!(unwell.would.as_deref() == Some("Full"), "the plan is not shown: {unwell:?}");
    ensure!(!unwell.lifted_by.is_empty(), "it does not say what lifts it");
    stage.mark(format!("{reason}: {}", unwell.message));
    stage.stays_untouched(Duration::from_secs(6)).await?;
    stage.healing(lifted).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}
