//! The coordinator's work handed to its standby, and an old coordinator made the standby of the new one: what
//! `gpactivatestandby` and `gpinitstandby` do, by a person, without Python.

use std::time::Duration;

use anyhow::{Context, Result};
use greenplum::Dialect;
use kube::api::{ListParams, Patch, PatchParams};
use model::{InstanceState, Page, Role, Timeline};
use serde_json::json;

use super::{
    Stage,
    cold::scale,
    stage::{CLUSTER, HEALED_WITHIN, until},
};
use crate::fixture::{COORDINATORS, Catalog, DATA_DIRECTORY, Mode, NAMESPACE, Nature, Row, Session};

/// Promoted, its own row the acting coordinator's, and GreenplumCluster leads there.
const ACTIVE_WITHIN: Duration = Duration::from_mins(1);

/// Activates the standby. Whoever else is a coordinator is not asked.
pub async fn activate(stage: &mut Stage, standby: &Row) -> Result<()> {
    let pod = COORDINATORS.into_iter().find(|pod| *pod == standby.pod()).context("only a coordinator can be activated")?;
    stage.shell(standby, &format!("pg_ctl promote -D /data/{DATA_DIRECTORY}")).await?;
    until(&format!("{pod} to be the acting coordinator"), ACTIVE_WITHIN, async || {
        Ok(match acting(stage, pod).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("its own row is a mirror's".into()),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    stage.cluster.acts_now(pod);
    let host = json!({ "spec": { "coordinator": { "host": format!("{pod}.gp.{NAMESPACE}.svc") } } });
    stage.clusters().patch(CLUSTER, &PatchParams::default(), &Patch::Merge(host)).await?;
    stage.mark(format!("{pod} activated"));
    Ok(())
}

/// With a checkpoint, so that its control file tells the new timeline.
async fn acting(stage: &Stage, pod: &str) -> Result<bool> {
    let session = stage.cluster.coordinator_at(pod, Mode::Utility).await?;
    session.client().batch_execute("CHECKPOINT").await?;
    Ok(Catalog::read(&session).await?.coordinator().is_some_and(|row| row.pod() == pod))
}

/// Makes the coordinator at `old`, whose postgres is down, the standby of the acting one. The mark is what `docs/break-glass.md`
/// has a person set before he touches a directory.
pub async fn make_standby(stage: &mut Stage, old: &Row) -> Result<()> {
    let acting = stage.catalog().await?.coordinator().cloned().context("there is no acting coordinator")?;
    let given = new_row(&stage.cluster.coordinator(Mode::Utility).await?, old).await?;
    stage.shell(old, "touch /data/.gpheal/retired").await?;
    stage.wait_page(old, "Retired", |page| page.state == InstanceState::Retired).await?;
    let version = String::from_utf8(stage.read_volume(&acting, &format!("{DATA_DIRECTORY}/PG_VERSION")).await?)?;
    let method = Dialect::from_pg_version(&version)?.wal_method_option();
    let (host, port) = (&acting.address, acting.port);
    let script = format!(
        "export PGPASSFILE=/tmp/gpheal.pgpass
         rm -rf /data/gpseg.standby
         pg_basebackup -c fast -D /data/gpseg.standby -h {host} -p {port} -U gpadmin -w {method} stream \
           --write-recovery-conf --target-gp-dbid {given}
         rm -rf /data/{DATA_DIRECTORY}
         mv /data/gpseg.standby /data/{DATA_DIRECTORY}
         rm /data/.gpheal/retired"
    );
    stage.shell(old, &script).await?;
    follows(stage, old).await?;
    stage.mark(format!("{} is its standby", old.pod()));
    Ok(())
}

/// The row of the standby in place of the one that there may be; its dbid.
async fn new_row(session: &Session, old: &Row) -> Result<i16> {
    if Catalog::read(session).await?.standby().is_some() {
        session.client().batch_execute("SELECT gp_remove_master_standby()").await?;
    }
    let Row { address, port, datadir, .. } = old;
    let sql = format!("SELECT gp_add_master_standby('{address}', '{address}', '{datadir}', {port})");
    Ok(session.client().query_one(&sql, &[]).await?.try_get(0)?)
}

/// Its supervisor runs it as a mirror, and the acting coordinator has its walsender.
pub async fn follows(stage: &Stage, standby: &Row) -> Result<()> {
    stage.wait_page(standby, "following", |page| page.serves == Some(Role::Mirror)).await?;
    until(&format!("{} to follow the coordinator", standby.pod()), HEALED_WITHIN, async || {
        let senders = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'gp_walreceiver'";
        let row = match stage.cluster.coordinator(Mode::Utility).await {
            Ok(session) => session.client().query_one(senders, &[]).await?,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        Ok(if row.try_get::<_, i64>(0)? > 0 { Ok(()) } else { Err("it has no walsender".into()) })
    })
    .await
}

/// Some instance of every content has believed the acting coordinator. While all is well they ask once a minute; who crashed asks
/// at once.
pub async fn believed(stage: &mut Stage) -> Result<()> {
    let timeline = timeline(stage).await?;
    let catalog = stage.catalog().await?;
    let mirrors: Vec<_> = catalog.segments().filter(|row| !row.is_acting_primary()).collect();
    for row in &mirrors {
        stage.kill_postmaster(row).await?;
    }
    for row in &mirrors {
        let believes = |page: &Page| page.coordinator_timeline >= Some(timeline) && page.serves == Some(Role::Mirror);
        stage.wait_page(row, "believing the new coordinator", believes).await?;
    }
    stage.mark("every content has believed it");
    Ok(())
}

/// Of the acting coordinator, by its database.
async fn timeline(stage: &Stage) -> Result<Timeline> {
    let six = Nature::chosen()?.six;
    let sql = if six { "SELECT pg_xlogfile_name(pg_current_xlog_location())" } else { "SELECT pg_walfile_name(pg_current_wal_lsn())" };
    let name: String = stage.cluster.coordinator(Mode::Utility).await?.client().query_one(sql, &[]).await?.try_get(0)?;
    Ok(Timeline(u32::from_str_radix(name.get(..8).context("no name of a log file")?, 16)?))
}

/// Takes a coordinator's pod away, or brings it back.
pub async fn pod_is(stage: &mut Stage, row: &Row, there: bool) -> Result<()> {
    let set = row.pod().trim_end_matches("-0");
    scale(stage, &[(set, i32::from(there))]).await?;
    if there {
        stage.wait_page(row, "a page", |_| true).await?;
    } else {
        gone(stage, row.pod()).await?;
    }
    stage.mark(format!("pod {} {}", row.pod(), if there { "back" } else { "away" }));
    Ok(())
}

async fn gone(stage: &Stage, pod: &str) -> Result<()> {
    until(&format!("the pod {pod} to go away"), HEALED_WITHIN, async || {
        let there = stage.cluster.pods().list(&ListParams::default().fields(&format!("metadata.name={pod}"))).await?;
        Ok(if there.items.is_empty() { Ok(()) } else { Err("it is there".into()) })
    })
    .await
}

/// Both coordinators as they were built, whatever a scenario left.
pub async fn as_built(stage: &mut Stage) -> Result<()> {
    let [built, other] = COORDINATORS;
    let at = |pod: &str, row: &Row| Row { address: format!("{pod}.gp"), ..row.clone() };
    let acting = stage.catalog().await?.coordinator().cloned().context("no coordinator")?;
    if acting.pod() != built {
        let old = at(built, &acting);
        pod_is(stage, &old, true).await?;
        make_standby(stage, &old).await?;
        pod_is(stage, &acting, false).await?;
        activate(stage, &old).await?;
        pod_is(stage, &acting, true).await?;
    }
    if stage.catalog().await?.standby().is_none() {
        make_standby(stage, &at(other, &acting)).await?;
    }
    Ok(())
}
