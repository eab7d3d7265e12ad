//! Who gets a session where, and the words for those who do not.

use anyhow::{Result, ensure};

use super::{
    bench::Bench,
    query::{expect_same, refused_connection},
};

pub async fn identity_is_shown_in_utility_mode(bench: &mut Bench) -> Result<()> {
    for (dbid, content) in [(1, -1), (2, 0), (3, 1)] {
        let session = bench.utility(dbid).await?;
        expect_same("gp_dbid", &session.value("SHOW gp_dbid").await?, &dbid.to_string())?;
        expect_same("gp_contentid", &session.value("SHOW gp_contentid").await?, &content.to_string())?;
    }
    Ok(())
}

pub async fn segments_refuse_normal_sessions(bench: &mut Bench) -> Result<()> {
    let (port, refusal) = (bench.port(2), bench.dialect().segment_refusal());
    refused_connection(port, "").await?.expect("57P03", refusal)
}

pub async fn mirrors_refuse_everybody(bench: &mut Bench) -> Result<()> {
    let port = bench.port(4);
    for options in ["", bench.dialect().utility_session()] {
        let refusal = refused_connection(port, options).await?;
        refusal.expect("57M02", "the database system is in recovery mode")?;
        ensure!(refusal.detail.contains("last replayed record at "), "the detail names no position: {}", refusal.detail);
    }
    Ok(())
}

pub async fn a_probe_cannot_be_asked_in_utility_mode(bench: &mut Bench) -> Result<()> {
    let session = bench.utility(1).await?;
    session.refused("SELECT gp_request_fts_probe_scan()").await?.expect("XX000", "without utility mode")
}

pub async fn statements_reach_every_content(bench: &mut Bench) -> Result<()> {
    let session = bench.dispatch().await?;
    let reached = session.rows("SELECT gp_segment_id FROM gp_dist_random('gp_id') ORDER BY 1").await?;
    expect_same("contents reached", &reached, &vec!["0".into(), "1".into()])?;
    let replication = "SELECT gp_segment_id, application_name, state, sync_state, sync_error FROM gp_stat_replication \
         WHERE gp_segment_id >= 0 ORDER BY 1";
    let expected = ["0|gp_walreceiver|streaming|sync|none", "1|gp_walreceiver|streaming|sync|none"];
    expect_same("gp_stat_replication", &session.rows(replication).await?, &expected.map(str::to_owned).to_vec())
}
