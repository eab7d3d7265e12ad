//! A primary that was put back on an older copy of its volume, beside a mirror that has what the copy lacks.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use api::recovery::Phase;
use greenplum::{Dialect, wal::WalEnd};
use model::{FailureClass, InstanceState, Lsn, Repair};
use serde_json::json;

use super::{
    Stage,
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::{
        Snapshot,
        fault::{delete_pod_now, keep_down, stop_postgres_group},
        run,
    },
    fixture::{DATA_DIRECTORY, NAMESPACE, Nature, Row},
};

/// A primary comes back on an older copy of its own volume, while its mirror, down, has what that lacks. The workload goes on,
/// so that soon its position is far beyond the mirror's end; three ways lead to the end of the mirror's rows then, and all are shut.
pub async fn ahead(stage: &mut Stage) -> Result<()> {
    stage.healing(json!({ "paused": true })).await?;
    let (primary, mirror) = stage.pair(2).await?;
    let (volume, began) = (stage.volume(&primary)?, position(stage, &primary).await?);
    let older = {
        let asleep = stop_postgres_group(&stage.container(&primary).await?)?; // shorter than FTS' patience
        let older = volume.copy()?;
        asleep.wake();
        older
    };
    stage.mark("copy of the primary's volume taken");
    stage.cluster.instance(&primary).await?.client().batch_execute(ONLY_IN_SYNC).await?;
    write_megabytes(stage, &primary, 2).await?;
    stage.write_volume(&mirror, ".gpheal/retired", "").await?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    let end = position(stage, &primary).await?;
    stage.mark("mirror down");
    let newest = swap(stage, &primary, &older).await?;
    takes_writes(stage, &primary).await?;
    stage.go_on_writing().await?; // what it acknowledges from here on is lost by our own hand afterwards
    outrun(stage, &primary, Lsn(end.0 + 10 * (end.0 - began.0))).await?;
    let seen = Seen::of(stage, &mirror)?;
    not_started(stage, &mirror, &seen).await?;
    for repair in [Repair::Incremental, Repair::Full] {
        refused_as_another_history(stage, &mirror, repair, &seen).await?;
    }
    holds_its_rows(stage, &mirror).await?;

    stage.stop_writing_lies(mirror.content).await?;
    swap(stage, &primary, &newest).await?;
    stage.forget_recoveries().await?;
    stage.healing(json!({ "paused": false })).await?;
    delete_pod_now(&stage.bed, NAMESPACE, mirror.pod()).await?;
    stage.healed.push(mirror.dbid);
    stage.wait_healthy().await?;
    stage.go_on_writing().await
}

/// Rows that were acknowledged while the pair was in sync, and that the older copy lacks.
const ONLY_IN_SYNC: &str =
    "DROP TABLE IF EXISTS only_in_sync; CREATE TABLE only_in_sync (i int); INSERT INTO only_in_sync SELECT generate_series(1, 1000)";
/// So long a mirror that must not start is looked at.
const A_WHILE: Duration = Duration::from_secs(6);

async fn write_megabytes(stage: &Stage, primary: &Row, megabytes: u32) -> Result<()> {
    let session = stage.cluster.instance(primary).await?;
    let rows = 1000 * megabytes;
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS much (t text); INSERT INTO much SELECT repeat(md5(g::text), 30) FROM generate_series(1, {rows}) g"
    );
    Ok(session.client().batch_execute(&sql).await?)
}

/// Where the primary writes next.
async fn position(stage: &Stage, primary: &Row) -> Result<Lsn> {
    let function = if Nature::chosen()?.six { "pg_current_xlog_location" } else { "pg_current_wal_lsn" };
    let row = stage.cluster.instance(primary).await?.client().query_one(&format!("SELECT {function}()::text"), &[]).await?;
    Ok(row.try_get::<_, String>(0)?.parse()?)
}

/// The primary's volume becomes another copy of it; what it was is returned.
async fn swap(stage: &mut Stage, primary: &Row, copy: &Snapshot) -> Result<Snapshot> {
    stage.stop_writing().await?;
    let (volume, down) = (stage.volume(primary)?, keep_down(&stage.container(primary).await?)?);
    let before = volume.copy()?;
    volume.restore(copy)?;
    down.release()?;
    stage.mark("primary's volume exchanged");
    Ok(before)
}

/// The copy is of a time when the pair was in sync: until FTS has told it, commits wait for the mirror.
async fn takes_writes(stage: &mut Stage, primary: &Row) -> Result<()> {
    until(&format!("{} to take writes on the other copy", primary.pod()), HEALED_WITHIN, async || {
        // A dispatch session may hang while the primary is away.
        let _ = tokio::time::timeout(Duration::from_secs(5), stage.cluster.request_probe()).await;
        let names = match stage.cluster.instance(primary).await {
            Ok(session) => session.client().query_one("SHOW synchronous_standby_names", &[]).await?.try_get::<_, String>(0)?,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        Ok(if names.is_empty() { Ok(()) } else { Err("commits wait for the mirror".into()) })
    })
    .await?;
    stage.mark("it takes writes without its mirror");
    Ok(())
}

/// The restored primary writes until its position says nothing any more.
async fn outrun(stage: &mut Stage, primary: &Row, beyond: Lsn) -> Result<()> {
    while position(stage, primary).await? <= beyond {
        write_megabytes(stage, primary, 4).await?;
    }
    stage.mark("it has written ten times what it lacks");
    Ok(())
}

/// What a mirror's directory is at one moment.
#[derive(PartialEq, Eq)]
struct Seen {
    end: WalEnd,
    /// Path, size and time of every file.
    files: String,
}

impl Seen {
    fn of(stage: &Stage, mirror: &Row) -> Result<Self> {
        let folder = stage.volume(mirror)?.folder().join(DATA_DIRECTORY);
        let files = run(Command::new("find").arg(folder).args(["-printf", "%P %s %T@\\n"]))?;
        Ok(Self { end: stage.wal_end(mirror)?, files })
    }
}

/// It would ask for the log from the start of a segment on, and have its own written over.
async fn not_started(stage: &mut Stage, mirror: &Row, seen: &Seen) -> Result<()> {
    stage.remove_from_volume(mirror, ".gpheal/retired").await?;
    let page = stage.wait_page(mirror, "staying closed", |page| page.state == InstanceState::NeedsRecovery).await?;
    stage.mark(format!("its supervisor: {}", page.detail));
    stage.stays_untouched(A_WHILE).await?;
    ensure!(Seen::of(stage, mirror)? == *seen, "the mirror's directory was changed");
    Ok(())
}

async fn refused_as_another_history(stage: &mut Stage, mirror: &Row, repair: Repair, seen: &Seen) -> Result<()> {
    let name = format!("ahead-{repair}").to_lowercase();
    stage.ask(&name, json!({ "dbids": [mirror.dbid] }), &repair.to_string()).await?;
    let recovery = stage.wait_over(&name).await?;
    let status = recovery.status.clone().unwrap_or_default();
    let failure = super::stage::instance_of(&recovery, mirror.dbid).and_then(|instance| instance.failure);
    let class = failure.and_then(|failure| failure.class.known().copied());
    ensure!(
        status.phase == Phase::Failed && class == Some(FailureClass::HistoryDiffers),
        "{repair} ended {:?} as {class:?}: {}",
        status.phase,
        status.message
    );
    stage.mark(format!("{repair}: HistoryDiffers"));
    ensure!(Seen::of(stage, mirror)? == *seen, "{repair} changed the mirror's directory");
    Ok(())
}

/// A copy of its directory, opened alone: its rows are there to be had.
async fn holds_its_rows(stage: &mut Stage, mirror: &Row) -> Result<()> {
    let dialect = if Nature::chosen()?.six { Dialect::Six } else { Dialect::Seven };
    let (marker, arguments, utility) = (dialect.mirror_marker(), dialect.segment_arguments().join(" "), dialect.utility_option());
    let script = format!(
        "cp -a /data/{DATA_DIRECTORY} /tmp/alone
         rm -f /tmp/alone/{marker} /tmp/alone/postmaster.pid
         pg_ctl -D /tmp/alone -l /tmp/alone.log -w -t 60 -o '-p 7999 {arguments}' start > /dev/null
         PGOPTIONS='{utility}' psql -X -A -t -q -h /tmp -p 7999 -U gpadmin -d postgres -c 'SELECT count(*) FROM only_in_sync'
         pg_ctl -D /tmp/alone -m immediate stop > /dev/null
         rm -rf /tmp/alone /tmp/alone.log"
    );
    let rows = stage.shell(mirror, &script).await?;
    ensure!(rows.trim() == "1000", "a copy of the mirror's directory, opened alone, has {rows:?} of 1000 rows");
    stage.mark("a copy of its directory, opened alone, has all rows");
    Ok(())
}
