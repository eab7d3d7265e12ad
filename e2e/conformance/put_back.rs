//! A primary that is put back on an older copy of itself in a moment, or in a shape, in which it is easily not asked about.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use model::{FailureClass, InstanceState, Outcome, Page, Repair, Role, Step};
use tokio::time::sleep;

use super::{
    bench::{Bench, GRACE},
    losses::{await_status, await_value, copy, files, older_copy, put_back, takes_writes},
    query::expect_same,
    supervised::{acting_and_mirror, await_page, await_step, ensure_supervised, recover, recovering, supervise},
};

const BOTH: &str = "CREATE TABLE both_had (i int); INSERT INTO both_had SELECT generate_series(1, 1000)";
const MUCH: &str = "CREATE TABLE much (i int); INSERT INTO much SELECT generate_series(1, 100000)";
const COUNT: &str = "SELECT count(*) FROM both_had";

/// After a failover the newest snapshot of the acting primary's volume is of a time when it was the mirror. Put back on it, it has a
/// mirror's shape under a primary's row, is started without a question, and FTS has it promoted, although the other side is in sync.
pub async fn a_primary_put_back_to_when_it_was_the_mirror_stays_closed(bench: &mut Bench) -> Result<()> {
    let (primary, other, older) = failed_over_and_back_in_sync(bench).await?;
    bench.utility(primary).await?.rows(BOTH).await?;
    bench.server(primary).vanish()?;
    sleep(Duration::from_secs(2)).await;
    put_back(bench, primary, &older)?;
    supervise(bench, primary)?;
    sleep(Duration::from_secs(3)).await;
    bench.probe().await?;
    sleep(Duration::from_secs(GRACE)).await;
    bench.probe().await?;
    let pair = bench.pair(1).await?;
    let session = bench.utility(primary).await;
    let open = match &session {
        Ok(session) => format!("open as a primary, both_had: {:?}", session.value(COUNT).await.map_err(|error| error.to_string())),
        Err(error) => format!("closed: {error:#}"),
    };
    let page = await_page(bench, primary, "anything", |_| true).await?;
    let others = await_page(bench, other, "anything", |_| true).await?;
    std::fs::remove_dir_all(&older)?;
    ensure!(
        session.is_err(),
        "dbid {primary} is {open}; its page {:?} {}; the other side {:?} {}; the pair {pair}",
        page.state,
        page.detail,
        others.state,
        others.detail
    );
    bench.start_again().await
}

/// (acting primary that was the mirror, its mirror, older copy of when it was one)
async fn failed_over_and_back_in_sync(bench: &mut Bench) -> Result<(i16, i16, PathBuf)> {
    ensure_supervised(bench).await?;
    let healthy = bench.pair(1).await?;
    let (old, new) = acting_and_mirror(bench, 1).await?;
    await_page(bench, new, "following", |page| page.receiving && !page.followed.is_empty()).await?;
    let volume = bench.server(new).volume().to_owned();
    let older = volume.with_extension("older");
    bench.server(new).vanish()?;
    copy(&volume, &older)?;
    supervise(bench, new)?;
    await_page(bench, new, "following", |page| page.receiving).await?;
    bench.await_pair(1, &healthy).await?;
    bench.server(old).vanish()?;
    await_value(bench, &format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {new}"), "p").await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    bench.utility(new).await?.rows("CREATE TABLE after_failover (i int)").await?;
    supervise(bench, old)?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    let rewound = recover(bench, old, Repair::Incremental).await?;
    ensure!(rewound.failure.is_none(), "it is not repaired: {rewound:?}");
    await_page(bench, old, "following", |page| page.receiving && !page.followed.is_empty()).await?;
    await_value(bench, &format!("SELECT mode::text FROM gp_segment_configuration WHERE dbid = {old}"), "s").await?;
    Ok((new, old, older))
}

/// Its data directory alone is put back, on a new claim: there is no token, so the other side is not asked, though the catalog
/// has just named it, and says that it is in sync.
pub async fn a_primary_put_back_without_its_marks_stays_closed(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let older = older_copy(bench, primary).await?;
    bench.utility(primary).await?.rows(BOTH).await?;
    let before = await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?.reaches;
    bench.server(primary).vanish()?;
    await_page(bench, mirror, "how far its log reaches by now", |page| page.reaches.is_some() && page.reaches != before).await?;
    put_back(bench, primary, &older)?;
    std::fs::remove_dir_all(bench.server(primary).volume().join(".gpheal"))?;
    supervise(bench, primary)?;
    let decided = |page: &Page| page.serves.is_some() || page.state == InstanceState::PutBack;
    let page = await_page(bench, primary, "a decision", decided).await?;
    let rows = bench.utility(primary).await;
    let rows = match &rows {
        Ok(session) => session.value(COUNT).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let pair = bench.pair(1).await?;
    std::fs::remove_dir_all(&older)?;
    ensure!(
        page.state == InstanceState::PutBack,
        "dbid {primary}: {:?} {}; both_had there: {rows:?}; the pair {pair}",
        page.state,
        page.detail
    );
    bench.start_again().await
}

/// A repair is done; before the mirror receives, the primary is put back on an older copy and writes past the mirror's end. What the
/// mirror would have known it by was erased by the repair.
pub async fn a_primary_put_back_after_a_full_repair_is_not_followed(bench: &mut Bench) -> Result<()> {
    put_back_after(bench, Repair::Full).await
}

/// The same after a repair that had nothing to do.
pub async fn a_primary_put_back_after_an_incremental_repair_is_not_followed(bench: &mut Bench) -> Result<()> {
    put_back_after(bench, Repair::Incremental).await
}

async fn put_back_after(bench: &mut Bench, repair: Repair) -> Result<()> {
    let (primary, mirror, older) = mirror_down_with_more(bench).await?;
    let outcome = recover(bench, mirror, repair).await?;
    ensure!(outcome.failure.is_none(), "it is not repaired: {outcome:?}");
    put_back_and_write(bench, primary, &older).await?;
    let before = files(bench, mirror)?;
    supervise(bench, mirror)?;
    is_kept(bench, primary, mirror, &before, &older).await
}

/// The Job is slow, or its node sleeps, between its proofs and the copy; meanwhile the primary is put back on an older copy.
pub async fn a_source_put_back_after_the_proof_of_a_full_repair_is_not_copied(bench: &mut Bench) -> Result<()> {
    put_back_during(bench, Repair::Full).await
}

/// The same of an incremental one.
pub async fn a_source_put_back_after_the_proof_of_an_incremental_repair_is_not_followed(bench: &mut Bench) -> Result<()> {
    put_back_during(bench, Repair::Incremental).await
}

async fn put_back_during(bench: &mut Bench, repair: Repair) -> Result<()> {
    let (primary, mirror, older) = mirror_down_with_more(bench).await?;
    let pause = bench.server(mirror).volume().join(".gpheal/pause-at");
    std::fs::write(&pause, "Analysing")?;
    let job = recovering(bench, mirror, repair).await?;
    await_step(bench, mirror, Step::Analysing).await?; // its proofs are done
    put_back_and_write(bench, primary, &older).await?;
    std::fs::remove_file(&pause)?;
    let outcome: Outcome = job.await??;
    println!("       the Job: {outcome:?}");
    let early = [Step::Proving, Step::Holding, Step::ProvingAgain];
    ensure!(!outcome.failure.is_some_and(|failure| early.contains(&failure.step)), "nothing is shown: it had not proven all yet");
    let before = files(bench, mirror)?;
    supervise(bench, mirror)?;
    is_kept(bench, primary, mirror, &before, &older).await
}

/// A primary is put back by point-in-time recovery: it ends on a timeline of its own, that forks below what its mirror has. The
/// mirror's supervisor says that it holds what its primary lacks; the Job takes it for an ex-primary's remains.
pub async fn a_mirror_that_reaches_beyond_the_fork_is_not_rewound(bench: &mut Bench) -> Result<()> {
    let (primary, mirror, older) = mirror_down_with_more(bench).await?;
    bench.server(primary).vanish()?;
    put_back(bench, primary, &older)?;
    let marker = if bench.dialect().log_folder() == "pg_log" { "recovery.conf" } else { "standby.signal" };
    // Greenplum 6 starts with no marker that names neither a primary nor an archive.
    let text = if marker == "recovery.conf" { "restore_command = 'false'\n" } else { "" };
    let file = bench.server(primary).file(marker);
    std::fs::write(&file, text)?;
    bench.owner().file(&file, 0o600)?;
    supervise(bench, primary)?;
    for _ in 0..300 {
        bench.probe().await?;
        if !bench.server(primary).file(marker).exists() {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    bench.await_session(primary).await?;
    takes_writes(bench, primary).await?;
    bench.utility(primary).await?.rows(MUCH).await?;
    // Else nothing is known of its history: `HistoryUnknown`.
    let told = |page: &Page| page.timeline.is_some() && page.incarnations.last().map(|last| last.timeline) == page.timeline;
    await_page(bench, primary, "its incarnation on the timeline to which it was promoted", told).await?;
    let before = files(bench, mirror)?;
    supervise(bench, mirror)?;
    let page = await_page(bench, mirror, "asking for a repair", |page| page.state == InstanceState::NeedsRecovery).await?;
    println!("       the mirror's supervisor: {}", page.detail);
    let outcome = recover(bench, mirror, Repair::Incremental).await?;
    println!("       the Job: {outcome:?}");
    let class = outcome.failure.map(|failure| failure.class);
    std::fs::remove_dir_all(&older)?;
    ensure!(class == Some(FailureClass::HistoryDiffers) && before == files(bench, mirror)?, "the last copy was overwritten: {class:?}");
    bench.start_again().await
}

/// The mirror is down, by row too, and has all of `both_had`; so has its primary, but not the older copy of that.
async fn mirror_down_with_more(bench: &mut Bench) -> Result<(i16, i16, PathBuf)> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?;
    let older = older_copy(bench, primary).await?;
    bench.utility(primary).await?.rows(BOTH).await?;
    bench.server(mirror).stop()?;
    sleep(Duration::from_secs(GRACE)).await;
    await_status(bench, mirror, 'd').await?;
    Ok((primary, mirror, older))
}

async fn put_back_and_write(bench: &mut Bench, primary: i16, older: &std::path::Path) -> Result<()> {
    bench.server(primary).vanish()?;
    put_back(bench, primary, older)?;
    supervise(bench, primary)?;
    bench.await_session(primary).await?;
    takes_writes(bench, primary).await?;
    let session = bench.utility(primary).await?;
    session.rows(MUCH).await?;
    let switch = if bench.dialect().log_folder() == "pg_log" { "SELECT pg_switch_xlog()" } else { "SELECT pg_switch_wal()" };
    for number in 0..4 {
        // Far past the end of a copy, which ends with a segment.
        session.rows(&format!("INSERT INTO much VALUES ({number})")).await?;
        session.rows(switch).await?;
    }
    Ok(())
}

/// The mirror has what is nowhere else, and still has it.
async fn is_kept(bench: &mut Bench, primary: i16, mirror: i16, before: &str, older: &std::path::Path) -> Result<()> {
    let decided =
        |page: &Page| page.receiving || page.state == InstanceState::NeedsRecovery || page.state == InstanceState::WaitingForPrimary;
    let page = await_page(bench, mirror, "a decision", decided).await;
    for _ in 0..10 {
        bench.probe().await?;
        sleep(Duration::from_secs(1)).await;
    }
    let pair = bench.pair(1).await?;
    let rows = bench.utility(primary).await?.value(COUNT).await.map_err(|error| error.to_string());
    let old = bench.server(mirror).volume().join("data.gpheal-old").exists();
    std::fs::remove_dir_all(older)?;
    let said =
        page.map_or_else(|error| error.to_string(), |page| format!("{:?} {}, receiving: {}", page.state, page.detail, page.receiving));
    ensure!(
        before == files(bench, mirror)?,
        "the mirror's supervisor: {said}; the pair {pair}; both_had at the primary: {rows:?}; the directory from before is kept: {old}"
    );
    expect_same("rows", &pair.contains("su"), &false)?;
    bench.start_again().await
}
