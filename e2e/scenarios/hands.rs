//! A person takes over, as `docs/break-glass.md` says.

use std::time::Duration;

use anyhow::Result;
use greenplum::Dialect;
use model::InstanceState;

use super::Stage;
use crate::fixture::{DATA_DIRECTORY, Row};

pub async fn break_glass(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    stage.shell(&mirror, "touch /data/.gpheal/maintenance").await?;
    stage.wait_page(&mirror, "Maintenance", |page| page.state == InstanceState::Maintenance && page.serves.is_some()).await?;
    stage.wait_reason(mirror.dbid, "SupervisorSays").await?;
    stage.mark("maintenance: the page and the status say so");
    let killed = jiff::Timestamp::now();
    stage.kill_postmaster(&mirror).await?;
    let back = |page: &model::Page| page.last_exit.as_ref().is_some_and(|exit| exit.at >= killed) && page.serves.is_some();
    stage.wait_page(&mirror, "serving after that end", back).await?;
    stage.shell(&mirror, "rm /data/.gpheal/maintenance").await?;
    stage.wait_page(&mirror, "Serving", |page| page.state == InstanceState::Serving).await?;
    stage.mark("postgres was started again without being asked about, maintenance ended");

    stage.shell(&mirror, "touch /data/.gpheal/retired").await?;
    stage.wait_page(&mirror, "Retired", |page| page.state == InstanceState::Retired).await?;
    stage.wait_row(mirror.dbid, "mnd").await?;
    stage.wait_reason(mirror.dbid, "SupervisorSays").await?;
    stage.stays_untouched(Duration::from_secs(6)).await?;
    stage.mark("retired: postgres is down, and nothing is repaired");
    stage.shell(&mirror, &copy(stage, &primary, &mirror).await?).await?;
    stage.shell(&mirror, "rm /data/.gpheal/retired").await?;
    stage.mark("copied in full by hand");
    stage.healed.push(mirror.dbid);
    stage.wait_healthy().await.map(drop)
}

/// The commands of the page, for this pair.
async fn copy(stage: &Stage, primary: &Row, mirror: &Row) -> Result<String> {
    let version = String::from_utf8(stage.read_volume(mirror, &format!("{DATA_DIRECTORY}/PG_VERSION")).await?)?;
    let method = Dialect::from_pg_version(&version)?.wal_method_option();
    let (host, from, dbid, to) = (&primary.address, primary.port, mirror.dbid, mirror.port);
    Ok(format!(
        "export PGPASSFILE=/tmp/gpheal.pgpass
         pg_basebackup -c fast -D /data/gpseg.by-hand -h {host} -p {from} -U gpadmin -w --slot internal_wal_replication_slot \
           {method} stream --force-overwrite --write-recovery-conf --target-gp-dbid {dbid}
         mv /data/gpseg /data/gpseg.before
         mv /data/gpseg.by-hand /data/gpseg
         echo 'port = {to}' >> /data/gpseg/postgresql.conf
         rm -r /data/gpseg.before"
    ))
}
