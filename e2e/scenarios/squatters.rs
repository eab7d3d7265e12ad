//! A person started postgres by hand in the pod of an instance that is to be repaired.

use std::{fs::File, time::Duration};

use anyhow::{Result, ensure};
use greenplum::Dialect;
use model::{InstanceState, Repair};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::Stage;
use crate::{
    bed::fault::keep_down,
    fixture::{DATA_DIRECTORY, Nature, Row},
};

/// Longer than grace and plan take.
const A_WHILE: Duration = Duration::from_secs(8);

/// No Job is made beside it, not for a person either, and none could take the lock; when it ends, all goes on by itself.
pub async fn squatter(stage: &mut Stage) -> Result<()> {
    stage.healing(json!({ "paused": true })).await?;
    let (lost, mirror) = stage.pair(1).await?;
    let down = keep_down(&stage.container(&lost).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    down.release()?;
    stage.wait_page(&lost, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    by_hand(stage, &lost, "-w -l /tmp/by-hand.log", "start").await?;
    let postgres = stage.container(&lost).await?.postgres()?;
    ensure!(!postgres.is_empty(), "no postgres runs that was started by hand");
    stage.wait_page(&lost, "seeing it", |page| page.state == InstanceState::LockBusy).await?;
    stage.mark("postgres started by hand; the page says LockBusy");
    stage.healing(json!({ "paused": false })).await?;
    let unwell = stage.wait_reason(lost.dbid, "VolumeInUse").await?;
    stage.mark(unwell.message);
    stage.stays_untouched(A_WHILE).await?;
    stage.ask("beside-it", json!({ "dbids": [lost.dbid] }), "Full").await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(lock_is_held(stage, &lost)?, "a Job could have taken the lock of the volume");
    let after = stage.container(&lost).await?.postgres()?;
    ensure!(postgres.iter().any(|pid| after.contains(pid)), "postgres that was started by hand is gone");
    stage.recoveries().delete("beside-it", &kube::api::DeleteParams::default()).await?;
    stage.mark("nothing was written beside it, nor can be");
    by_hand(stage, &lost, "-m fast -w", "stop").await?;
    let healed = stage.wait_succeeded(lost.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Incremental), "it was repaired by {:?}", healed.type_);
    stage.wait_healthy().await.map(drop)
}

async fn by_hand(stage: &Stage, row: &Row, options: &str, verb: &str) -> Result<()> {
    let dialect = if Nature::chosen()?.six { Dialect::Six } else { Dialect::Seven };
    let arguments = dialect.segment_arguments().join(" ");
    let script = format!("pg_ctl -D /data/{DATA_DIRECTORY} {options} -o '-p {} {arguments}' {verb} > /dev/null 2>&1 < /dev/null", row.port);
    stage.shell(row, &script).await.map(drop)
}

fn lock_is_held(stage: &Stage, row: &Row) -> Result<bool> {
    let file = File::open(stage.volume(row)?.folder().join(".gpheal/lock"))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}
