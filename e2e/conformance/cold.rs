//! A coordinator that starts while its segments are away.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    bench::Bench,
    query::{connect, expect_same, refused_connection},
};

const A_WHILE: Duration = Duration::from_secs(5);

fn stop_everything(bench: &mut Bench) -> Result<()> {
    (1..=5).try_for_each(|dbid| bench.server(dbid).stop())
}

async fn start_everything(bench: &mut Bench) -> Result<()> {
    for dbid in 2..=5 {
        bench.start_segment(dbid)?;
    }
    for dbid in [2, 3] {
        bench.await_session(dbid).await?;
    }
    bench.start_coordinator().await?;
    bench.await_pair(0, "2ppsu 4mmsu").await?;
    bench.await_pair(1, "3ppsu 5mmsu").await
}

pub async fn utility_mode_answers_alone_and_nothing_flips(bench: &mut Bench) -> Result<()> {
    stop_everything(bench)?;
    bench.start_lone_coordinator().await?;
    let (port, refusal) = (bench.port(1), bench.dialect().lone_refusal());
    refused_connection(port, "").await?.expect("57P03", refusal)?;
    tokio::time::sleep(A_WHILE).await;
    bench.expect_pair(0, "2ppsu 4mmsu").await?;
    bench.server(1).stop()?;
    start_everything(bench).await
}

/// And every content flips within the retries, though both sides are down.
pub async fn dispatch_hangs_until_segments_answer_and_flips_meanwhile(bench: &mut Bench) -> Result<()> {
    stop_everything(bench)?;
    bench.start_coordinator().await?;
    let port = bench.port(1);
    let patient = tokio::time::timeout(A_WHILE, connect(port, "")).await;
    ensure!(patient.is_err(), "a dispatch session was answered while all segments are down");
    tokio::time::sleep(A_WHILE).await;
    expect_same("content 0", &bench.pair(0).await?, &"2mpnd 4pmnu".into())?;
    expect_same("content 1", &bench.pair(1).await?, &"3mpnd 5pmnu".into())?;
    for dbid in [4, 5] {
        bench.start_segment(dbid)?;
    }
    // Its mirrors are promoted by the next scan, and then it answers.
    let late = tokio::time::timeout(Duration::from_secs(90), connect(port, "")).await;
    ensure!(late.is_ok_and(|session| session.is_ok()), "no dispatch session although all contents are served again");
    for (dbid, source, healed) in [(2, 4, "2mpsu 4pmsu"), (3, 5, "3mpsu 5pmsu")] {
        bench.recover(dbid, source, healed).await?;
    }
    Ok(())
}
