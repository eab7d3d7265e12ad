//! FTS and a mirror that goes and comes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    bench::{Bench, GRACE},
    query::expect_same,
};

const WELL: &str = "2ppsu 4mmsu";

pub async fn a_dead_mirror_has_grace_then_is_marked_down(bench: &mut Bench) -> Result<()> {
    let primary = bench.utility(2).await?;
    primary.rows("CREATE TABLE IF NOT EXISTS waits (i int)").await?;
    expect_same("synchronous_standby_names", &primary.value("SHOW synchronous_standby_names").await?, &"*".into())?;
    bench.server(4).crash()?;
    let commit = tokio::spawn(async move { primary.rows("INSERT INTO waits VALUES (1)").await });
    bench.expect_pair(0, WELL).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(!commit.is_finished(), "a commit did not wait for the dead mirror");
    tokio::time::sleep(Duration::from_secs(GRACE)).await;
    bench.await_pair(0, "2ppnu 4mmnd").await?;
    commit.await??;
    expect_history(bench, 2, "dbid 2 with contentid 0 to p, u, and n").await?;
    expect_history(bench, 4, "dbid 4 with contentid 0 to m, d, and n").await?;
    let names = bench.utility(2).await?.value("SHOW synchronous_standby_names").await?;
    expect_same("synchronous_standby_names", &names, &String::new())?;
    bench.start_segment(4)?;
    bench.await_pair(0, WELL).await?;
    expect_history(bench, 4, "dbid 4 with contentid 0 to m, u, and s").await?;
    let settings = bench.server(2).read("postgresql.auto.conf")?;
    ensure!(settings.contains("synchronous_standby_names = '*'"), "not switched on again: {settings}");
    Ok(())
}

async fn expect_history(bench: &mut Bench, dbid: i16, ending: &str) -> Result<()> {
    let expected = format!("FTS: update role, status, and mode for {ending}");
    expect_same("the newest history row", &bench.history(dbid).await?, &expected)
}

pub async fn a_short_absence_of_the_mirror_is_nothing(bench: &mut Bench) -> Result<()> {
    let before = bench.history(4).await?;
    bench.server(4).crash()?;
    bench.start_segment(4)?;
    bench.probe().await?;
    bench.expect_pair(0, WELL).await?;
    expect_same("the newest history row", &bench.history(4).await?, &before)?;
    bench.await_pair(0, WELL).await
}
