//! A full copy of several GiB, against a bare pg_basebackup of the same primary onto the same volume.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::AttachParams;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::Figure;
use crate::{
    bed::say,
    fixture::{DATA_DIRECTORY, Row},
    scenarios::{Stage, copies, until},
};

const CONTENT: i16 = 2;
const COPIED_WITHIN: Duration = Duration::from_mins(10);

pub async fn measure(stage: &mut Stage, runs: usize, gibibytes: u64) -> Result<Vec<Figure>> {
    fill(stage, gibibytes).await?;
    stage.healing(json!({ "paused": true })).await?;
    let (mut bare, mut healed) = (vec![], vec![]);
    for run in 0..runs {
        stage.forget_recoveries().await?;
        let (primary, mirror) = stage.pair(CONTENT).await?;
        copies::empty(stage, &mirror).await?;
        stage.wait_row(mirror.dbid, "mnd").await?;
        bare.push(by_hand(stage, &primary, &mirror).await?);
        healed.push(by_gpheal(stage, &mirror, run).await?);
    }
    stage.healing(json!({ "paused": false })).await?;
    let bare = Figure::new(format!("bare pg_basebackup of {gibibytes} GiB"), "s", bare, None);
    let healed = Figure::new(format!("full of {gibibytes} GiB: asked for → Succeeded"), "s", healed, None);
    let ratio = Figure::new("the ratio of the two", "×", vec![healed.median() / bare.median()], Some(1.1));
    Ok(vec![bare, healed, ratio])
}

/// Rows of a kilobyte each, until the database is so large.
async fn fill(stage: &Stage, gibibytes: u64) -> Result<()> {
    say(format!("filling content {CONTENT} with {gibibytes} GiB"));
    let (primary, _) = stage.pair(CONTENT).await?;
    let session = stage.cluster.instance(&primary).await?;
    session.client().batch_execute("CREATE TABLE IF NOT EXISTS ballast (filling text)").await?;
    let wanted = i64::try_from(gibibytes << 30)?;
    loop {
        let size: i64 = session.client().query_one("SELECT pg_database_size('postgres')", &[]).await?.get(0);
        if size >= wanted {
            return Ok(session.client().batch_execute("CHECKPOINT").await?);
        }
        let text = "SELECT repeat(md5(i::text), 31) FROM generate_series(1, 100000) i";
        session.client().batch_execute(&format!("INSERT INTO ballast {text}")).await?;
    }
}

/// In the container of the mirror that is to be copied, so over the same network onto the same disk.
async fn by_hand(stage: &Stage, primary: &Row, mirror: &Row) -> Result<f64> {
    let to = format!("/data/{DATA_DIRECTORY}.bare");
    let copy = format!(
        "PGPASSFILE=/tmp/gpheal.pgpass pg_basebackup -D {to} -c fast -h {}.gp -p {} -U gpadmin \
         --wal-method=stream --slot=internal_wal_replication_slot --write-recovery-conf --target-gp-dbid={} && sync -f {to}",
        primary.pod(),
        primary.port,
        mirror.dbid
    );
    let begun = Instant::now();
    execute(stage, mirror, &copy).await?;
    let seconds = begun.elapsed().as_secs_f64();
    execute(stage, mirror, &format!("rm -rf {to} && sync -f /data")).await?;
    Ok(seconds)
}

async fn execute(stage: &Stage, row: &Row, script: &str) -> Result<()> {
    let how = AttachParams::default().container("greenplum").stdout(false).stderr(true);
    let mut process = stage.cluster.pods().exec(row.pod(), ["bash", "-c", script], &how).await?;
    let mut said = String::new();
    process.stderr().context("no output")?.read_to_string(&mut said).await?;
    let ended = process.take_status().context("no status")?.await.context("it ended without a status")?;
    ensure!(ended.status.as_deref() == Some("Success"), "`{script}` failed in {}: {said}", row.pod());
    Ok(())
}

async fn by_gpheal(stage: &mut Stage, mirror: &Row, run: usize) -> Result<f64> {
    let name = format!("figure-{run}");
    let begun = Instant::now();
    stage.ask(&name, json!({ "dbids": [mirror.dbid] }), "Full").await?;
    let ended = until(&format!("{name} to end"), COPIED_WITHIN, async || {
        let status = stage.recoveries().get(&name).await?.status.unwrap_or_default();
        Ok(if status.ended_at.is_some() { Ok(status) } else { Err(status.message) })
    })
    .await?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(ended.phase == gpheal::api::recovery::Phase::Succeeded, "it ended {:?}: {}", ended.phase, ended.message);
    stage.wait_healthy().await?;
    Ok(seconds)
}
