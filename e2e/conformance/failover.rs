//! FTS and a primary that dies: in place, for good, with its mirror.

use std::{
    fs,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use super::{
    bench::{Bench, GRACE, SLOT, fail, succeed},
    query::expect_same,
};

const WELL: &str = "3ppsu 5mmsu";

pub async fn a_primary_back_within_the_retries_is_not_replaced(bench: &mut Bench) -> Result<()> {
    bench.server(3).crash()?;
    let session = bench.dispatch().await?;
    let probe = tokio::spawn(async move { session.rows("SELECT gp_request_fts_probe_scan()").await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.start_segment(3)?;
    probe.await??;
    bench.expect_pair(1, WELL).await?;
    bench.await_session(3).await?;
    bench.await_pair(1, WELL).await
}

/// Then the way back: the ex-primary is rewound and becomes the mirror.
pub async fn catalog_changes_before_the_mirror_is_promoted(bench: &mut Bench) -> Result<()> {
    fail_over(bench).await?;
    expect_promoted(bench).await?;
    dry_run_is_no_check(bench)?;
    bench.recover(3, 5, "3mpsu 5pmsu").await?;
    swap_back(bench).await
}

async fn fail_over(bench: &mut Bench) -> Result<()> {
    bench.server(3).crash()?;
    let begun = Instant::now();
    let session = bench.dispatch().await?;
    let refusal = session.refused("SELECT gp_segment_id FROM gp_dist_random('gp_id')").await?;
    ensure!(refusal.code.starts_with("58M") || refusal.code.starts_with("57"), "dispatch failed with {refusal:?}");
    ensure!(begun.elapsed() > Duration::from_secs(3), "the retries took only {:?}", begun.elapsed());
    bench.expect_pair(1, "3mpnd 5pmnu").await
}

async fn expect_promoted(bench: &mut Bench) -> Result<()> {
    let marked = "FTS: update role, status, and mode for dbid";
    expect_same("history", &bench.history(3).await?, &format!("{marked} 3 with contentid 1 to m, d, and n"))?;
    expect_same("history", &bench.history(5).await?, &format!("{marked} 5 with contentid 1 to p, u, and n"))?;
    let session = bench.await_session(5).await?;
    expect_same("in recovery", &session.value("SELECT pg_is_in_recovery()").await?, &"f".into())?;
    expect_same("sync names", &session.value("SHOW synchronous_standby_names").await?, &String::new())?;
    let slot = format!("SELECT active, restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    expect_same("the slot", &session.value(&slot).await?, &"f|t".into())?;
    let file = bench.dialect().mirror_file();
    ensure!(!bench.server(5).file(file).exists(), "{file} is still there");
    ensure!(bench.server(5).log_text()?.contains("promoting mirror to primary due to FTS request"), "no word of FTS in the log");
    promoted_after_the_catalog(bench).await
}

/// A promotion begins with the history file of the new timeline.
async fn promoted_after_the_catalog(bench: &mut Bench) -> Result<()> {
    let changed = "SELECT extract(epoch FROM max(time)) FROM gp_configuration_history WHERE dbid = 5";
    let changed: f64 = bench.utility(1).await?.value(changed).await?.parse()?;
    let folder = bench.dialect().wal_folder();
    let files = fs::read_dir(bench.server(5).file(folder))?.flatten();
    let histories = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "history"));
    let newest = histories.filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    let newest = newest.context("the promoted mirror has no new timeline")?.duration_since(UNIX_EPOCH)?;
    ensure!(newest.as_secs_f64() > changed, "promoted before the catalog said so");
    Ok(())
}

fn dry_run_is_no_check(bench: &mut Bench) -> Result<()> {
    let command = bench.dry_rewind(3, 5);
    let said = fail(command)?;
    ensure!(said.contains("target server must be shut down cleanly"), "a dry run on a crashed target says: {said}");
    Ok(())
}

/// As a rebalance does it: stop the acting primary, let FTS act, rewind.
async fn swap_back(bench: &mut Bench) -> Result<()> {
    bench.utility(5).await?.rows("CHECKPOINT").await?;
    bench.server(5).stop()?;
    bench.probe().await?;
    bench.expect_pair(1, "3ppnu 5mmnd").await?;
    dry_run_writes_nothing(bench).await?;
    bench.recover(5, 3, WELL).await
}

async fn dry_run_writes_nothing(bench: &mut Bench) -> Result<()> {
    bench.await_session(3).await?.rows("CHECKPOINT").await?;
    let command = bench.dry_rewind(5, 3);
    succeed(command)?;
    let file = bench.dialect().mirror_file();
    ensure!(!bench.server(5).file(file).exists(), "a dry run made {file}");
    Ok(())
}

/// Nobody but the supervisor keeps it from that.
pub async fn a_stale_primary_opens_when_nobody_stops_it(bench: &mut Bench) -> Result<()> {
    bench.server(3).crash()?;
    bench.probe().await?;
    bench.await_session(5).await?;
    bench.start_segment(3)?;
    let stray = bench.await_session(3).await.context("a stale primary does not open")?;
    expect_same("in recovery", &stray.value("SELECT pg_is_in_recovery()").await?, &"f".into())?;
    bench.probe().await?;
    bench.expect_pair(1, "3mpnd 5pmnu").await?;
    // On Greenplum 6 a backend that waits for its client outlives the postmaster.
    drop(stray);
    bench.server(3).crash()?;
    bench.recover(3, 5, "3mpsu 5pmsu").await?;
    swap_back(bench).await
}

pub async fn both_dead_in_sync_flips_and_resends_the_promotion(bench: &mut Bench) -> Result<()> {
    bench.server(3).crash()?;
    bench.server(5).crash()?;
    bench.probe().await?;
    bench.expect_pair(1, "3mpnd 5pmnu").await?;
    bench.start_segment(5)?;
    let begun = Instant::now();
    while bench.utility(5).await.is_err() {
        bench.probe().await?;
        ensure!(begun.elapsed() < Duration::from_secs(30), "the promotion was not sent again");
    }
    bench.recover(3, 5, "3mpsu 5pmsu").await?;
    swap_back(bench).await
}

pub async fn double_fault_changes_nothing(bench: &mut Bench) -> Result<()> {
    bench.server(5).crash()?;
    tokio::time::sleep(Duration::from_secs(GRACE)).await;
    bench.await_pair(1, "3ppnu 5mmnd").await?;
    bench.server(3).crash()?;
    bench.probe().await?;
    bench.expect_pair(1, "3ppnu 5mmnd").await?;
    let log = bench.server(1).log_text()?;
    ensure!(log.contains("FTS double fault detected (content=1) primary dbid=3, mirror dbid=5"), "no double fault in the log");
    let session = bench.dispatch().await?;
    expect_same("what needs no segment", &session.value("SELECT 1").await?, &"1".into())?;
    session.refused("SELECT gp_segment_id FROM gp_dist_random('gp_id')").await?;
    bench.start_segment(3)?;
    bench.start_segment(5)?;
    bench.await_session(3).await?;
    bench.await_pair(1, WELL).await
}
