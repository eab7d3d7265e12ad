//! A full copy of several GiB, against pg_basebackup and start of the same mirror by hand: same source, same volume,
//! the same end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greenplum::Dialect;
use jiff::Timestamp;
use serde_json::json;

use super::{Figure, seconds_since, written};
use crate::{
    bed::say,
    fixture::{DATA_DIRECTORY, Row},
    scenarios::{Stage, copies, until},
};

const CONTENT: i16 = 2;
const COPIED_WITHIN: Duration = Duration::from_mins(10);
/// Each look takes the processors from the copy that is measured.
const LOOKS_APART: Duration = Duration::from_secs(1);

pub async fn measure(stage: &mut Stage, runs: usize, gibibytes: u64) -> Result<Vec<Figure>> {
    fill(stage, gibibytes).await?;
    stage.healing(json!({ "paused": true })).await?;
    let (mut bare, mut healed, mut proven) = (vec![], vec![], vec![]);
    for run in 0..runs {
        stage.forget_recoveries().await?;
        let (primary, mirror) = stage.pair(CONTENT).await?;
        stage.shell(&mirror, "touch /data/.gpheal/retired").await?;
        copies::empty(stage, &mirror).await?;
        stage.wait_row(mirror.dbid, "mnd").await?;
        bare.push(by_hand(stage, &primary, &mirror).await?);
        stage.shell(&mirror, "rm /data/.gpheal/retired").await?;
        stage.wait_row(mirror.dbid, "mnd").await?;
        let (in_sync, succeeded) = by_gpheal(stage, &mirror, run).await?;
        healed.push(in_sync);
        proven.push(succeeded);
    }
    stage.healing(json!({ "paused": false })).await?;
    let bare = Figure::new(format!("by hand: pg_basebackup of {gibibytes} GiB, start → pair in sync"), "s", bare, None);
    let healed = Figure::new(format!("full of {gibibytes} GiB: asked for → pair in sync"), "s", healed, None);
    let proven =
        Figure::new("the same: asked for → seen to have Succeeded, all points proven (looked at once a second)", "s", proven, None);
    let ratio = Figure::new("full, in sync by gpheal ÷ by hand", "×", vec![healed.median() / bare.median()], Some(1.1));
    Ok(vec![bare, healed, proven, ratio])
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
            break;
        }
        let text = "SELECT repeat(md5(i::text), 31) FROM generate_series(1, 100000) i";
        session.client().batch_execute(&format!("INSERT INTO ballast {text}")).await?;
    }
    // Else autovacuum would do it, while a copy is measured.
    session.client().batch_execute("VACUUM FREEZE ballast").await?;
    Ok(session.client().batch_execute("CHECKPOINT").await?)
}

/// In the container of the mirror that is to be copied, whose supervisor keeps away.
async fn by_hand(stage: &Stage, primary: &Row, mirror: &Row) -> Result<f64> {
    let version = std::fs::read_to_string(stage.volume(primary)?.folder().join(DATA_DIRECTORY).join("PG_VERSION"))?;
    let dialect = Dialect::from_pg_version(&version)?;
    let (to, method, role) = (format!("/data/{DATA_DIRECTORY}"), dialect.wal_method_option(), dialect.segment_arguments().join(" "));
    let (host, from, dbid, port) = (&primary.address, primary.port, mirror.dbid, mirror.port);
    let copy = format!(
        "export PGPASSFILE=/tmp/gpheal.pgpass
         pg_basebackup -c fast -D {to} -h {host} -p {from} -U gpadmin -w --slot internal_wal_replication_slot \
           {method} stream --write-recovery-conf --target-gp-dbid {dbid}
         echo 'port = {port}' >> {to}/postgresql.conf
         sync -f {to}
         pg_ctl -D {to} -W -l /tmp/by-hand.log -o '-p {port} {role}' start"
    );
    let begun = Timestamp::now();
    stage.shell(mirror, &copy).await?;
    let seconds = seconds_since(begun, in_sync(stage, mirror, true).await?);
    stage.shell(mirror, &format!("pg_ctl -D {to} -m immediate stop; rm -r {to}; sync -f /data")).await?;
    Ok(seconds)
}

/// Since when the pair is in sync; a person has FTS look meanwhile.
async fn in_sync(stage: &Stage, mirror: &Row, probing: bool) -> Result<Timestamp> {
    until("the pair to be in sync", COPIED_WITHIN, async || {
        if probing {
            stage.cluster.request_probe().await?;
        } else {
            tokio::time::sleep(LOOKS_APART).await;
        }
        let catalog = stage.catalog().await?;
        let row = catalog.by_dbid(mirror.dbid).context("the mirror's row is gone")?;
        Ok(if (row.mode, row.status) == ('s', 'u') { Ok(()) } else { Err(row.to_string()) })
    })
    .await?;
    written(stage, mirror.dbid).await
}

/// Seconds until the pair is in sync, and until the recovery has succeeded.
async fn by_gpheal(stage: &mut Stage, mirror: &Row, run: usize) -> Result<(f64, f64)> {
    let name = format!("figure-{run}");
    let begun = Timestamp::now();
    stage.ask(&name, json!({ "dbids": [mirror.dbid] }), "Full").await?;
    let seconds = seconds_since(begun, in_sync(stage, mirror, false).await?);
    let ended = until(&format!("{name} to end"), COPIED_WITHIN, async || {
        let status = stage.recoveries().get(&name).await?.status.unwrap_or_default();
        Ok(if status.ended_at.is_some() { Ok(status) } else { Err(status.message) })
    })
    .await?;
    let proven = Timestamp::now();
    ensure!(ended.phase == api::recovery::Phase::Succeeded, "it ended {:?}: {}", ended.phase, ended.message);
    stage.wait_healthy().await?;
    Ok((seconds, seconds_since(begun, proven)))
}
