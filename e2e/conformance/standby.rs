//! The coordinator's standby, and its activation as `gpactivatestandby` does it: `pg_ctl promote`, and a checkpoint once
//! it answers. The rest the database does by itself.

use anyhow::{Result, ensure};
use greenplum::{Session, topology};
use model::Timeline;

use super::{
    bench::{Bench, STANDBY, succeed},
    product::{login, server},
    query::{connect, expect_same, refused_connection},
};

const COORDINATORS: &str = "SELECT dbid || role::text || preferred_role::text || mode::text || status::text \
     FROM gp_segment_configuration WHERE content = -1 ORDER BY dbid";
const HISTORY: &str = "SELECT count(*) FROM gp_configuration_history";

/// The row first, then a copy, as `gpinitstandby` does it. Nobody notices when it dies.
pub async fn it_follows_and_fts_does_not_watch_it(bench: &mut Bench) -> Result<()> {
    make(bench).await?;
    let refusal = refused_connection(bench.port(STANDBY), bench.dialect().utility_session()).await?;
    refusal.expect("57M02", "the database system is in recovery mode")?;
    let senders = "SELECT gp_segment_id, application_name, state, sync_error FROM gp_stat_replication WHERE gp_segment_id < 0";
    expect_same("its walsender", &bench.dispatch().await?.rows(senders).await?, &vec!["-1|gp_walreceiver|streaming|none".into()])?;
    let slots = bench.utility(1).await?.value("SELECT count(*) FROM pg_replication_slots").await?;
    expect_same("slots of the coordinator", &slots, &"0".into())?;

    bench.server(STANDBY).crash()?;
    bench.probe().await?;
    // No table: Greenplum 6 gives it an OID that a primary may have given to one of its own.
    bench.dispatch().await?.rows("COMMENT ON DATABASE postgres IS 'without a standby'").await?;
    expect_same("the coordinators", &bench.utility(1).await?.rows(COORDINATORS).await?, &vec!["1ppnu".into(), "6mmsu".into()])?;
    bench.start_standby()?;
    follows(bench).await
}

/// It keeps its dbid, the old coordinator's row goes, and no history is written.
pub async fn activation_gives_it_the_catalog(bench: &mut Bench) -> Result<()> {
    ensure_made(bench).await?;
    let history = bench.utility(1).await?.value(HISTORY).await?;
    bench.server(1).crash()?;
    activate(bench).await?;
    let session = bench.utility(STANDBY).await?;
    expect_same("the coordinators", &session.rows(COORDINATORS).await?, &vec!["6ppsu".into()])?;
    expect_same("rows of the history", &session.value(HISTORY).await?, &history)?;
    let own = Session::utility(&server(bench, STANDBY), &login(), None).await?;
    let answer = topology::read(&own).await?;
    expect_same("what gpheal reads", &(answer.timeline, answer.catalog.rows.len()), &(Timeline(2), 5))?;
    let dispatching = connect(bench.port(STANDBY), "").await?;
    let reached = dispatching.rows("SELECT gp_segment_id FROM gp_dist_random('gp_id') ORDER BY 1").await?;
    expect_same("contents reached", &reached, &vec!["0".into(), "1".into()])
}

/// Nobody but the supervisor keeps it from that: two coordinators lead the same segments.
pub async fn an_old_coordinator_opens_when_nobody_stops_it(bench: &mut Bench) -> Result<()> {
    if !bench.server(STANDBY).runs() || bench.server(1).runs() {
        activation_gives_it_the_catalog(bench).await?;
    }
    bench.start_coordinator().await?;
    let old = bench.dispatch().await?;
    let reached = old.rows("SELECT gp_segment_id FROM gp_dist_random('gp_id') ORDER BY 1").await?;
    expect_same("contents reached by the old one", &reached, &vec!["0".into(), "1".into()])?;
    expect_same("its coordinators", &old.rows(COORDINATORS).await?, &vec!["1ppnu".into(), "6mmsu".into()])?;
    let new = connect(bench.port(STANDBY), "").await?;
    ensure!(new.rows("SELECT gp_segment_id FROM gp_dist_random('gp_id')").await?.len() == 2, "the new one does not dispatch any more");
    drop((old, new));
    bench.start_again().await
}

pub async fn make(bench: &mut Bench) -> Result<()> {
    bench.add_standby().await?;
    bench.copy_coordinator()?;
    bench.start_standby()?;
    follows(bench).await
}

async fn ensure_made(bench: &mut Bench) -> Result<()> {
    if bench.server(STANDBY).runs() { Ok(()) } else { make(bench).await }
}

/// Until the coordinator has its walsender.
async fn follows(bench: &mut Bench) -> Result<()> {
    let session = bench.utility(1).await?;
    for _ in 0..100 {
        if session.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await? == "1" {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    anyhow::bail!("the standby does not follow")
}

pub async fn activate(bench: &mut Bench) -> Result<()> {
    let mut promote = bench.tool("pg_ctl");
    promote.arg("promote").arg("-D").arg(&bench.server(STANDBY).directory);
    succeed(promote)?;
    bench.await_session(STANDBY).await?.rows("CHECKPOINT").await?;
    for _ in 0..100 {
        let own = bench.utility(STANDBY).await?.value("SELECT role::text FROM gp_segment_configuration WHERE dbid = 6").await?;
        if own == "p" {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("its own row stays a mirror's")
}
