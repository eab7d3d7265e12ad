//! What a primary acknowledged without its mirror, in the seconds in which that one is back and has flushed none of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use greenplum::{
    Session,
    replication::{self, Senders},
};
use model::{FailureClass, InstanceState, Repair, Role};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use segment::volume::{Volume, commits::Alone};
use tokio::time::sleep;

use super::{
    bench::Bench,
    hang::{postmaster, receiver_of},
    losses::{await_value, copy, put_back, serve_alone},
    product::{login, server},
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, say_roles, supervise},
};

/// The mirror is back and was sent all, so FTS calls the pair in sync and has the primary wait for it; it has flushed nothing yet.
/// Both are lost in that moment, and what the mirror had not flushed is lost for ever.
pub async fn what_the_mirror_has_not_flushed_since_is_not_overwritten(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = serve_alone(bench).await?;
    is_written_down(bench, old).await?;
    let flushed = bench.server(new).volume().with_extension("flushed");
    copy(bench.server(new).volume(), &flushed)?;
    supervise(bench, new)?;
    stop_receiver(bench, old, new).await?;
    bench.probe().await?;
    let names = bench.utility(old).await?.value("SHOW synchronous_standby_names").await?;
    println!("       with its receiver stopped: {}, names {names:?}", bench.pair(0).await?);
    for lost in [old, new] {
        bench.server(lost).vanish()?;
    }
    put_back(bench, new, &flushed)?;
    supervise(bench, new)?;
    await_value(bench, &format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {new}"), "p").await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    let kept = bench.utility(new).await?.value("SELECT count(*) FROM pg_class WHERE relname = 'alone'").await?;
    ensure!(kept == "0", "the promoted one has the rows: nothing was tried");
    supervise(bench, old)?;
    await_page(bench, old, "being a mirror", |page| page.state == InstanceState::NeedsRecovery).await?;
    for repair in [Repair::Incremental, Repair::Full] {
        let class = recover(bench, old, repair).await?.failure.map(|failure| failure.class);
        ensure!(class == Some(FailureClass::PromotedBehind), "{repair:?}: {class:?}");
    }
    bench.start_again().await
}

/// Beside the supervisor's loop, as a disk may hang.
async fn is_written_down(bench: &mut Bench, primary: i16) -> Result<()> {
    let volume = Volume::open(&bench.server(primary).directory)?;
    let begun = Instant::now();
    while volume.alone()? != Alone::Anything {
        ensure!(begun.elapsed() < Duration::from_secs(5), "that it acknowledges alone is not written down");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn seen(session: &Session) -> Result<Vec<(String, greenplum::replication::Position)>> {
    match replication::senders(session, Duration::from_secs(5)).await? {
        Senders::Seen(senders) => Ok(senders.into_iter().map(|sender| (sender.state, sender.position)).collect()),
        Senders::Hidden => anyhow::bail!("hidden"),
    }
}

/// It runs for moments only, until it is connected.
async fn stop_receiver(bench: &mut Bench, primary: i16, mirror: i16) -> Result<Pid> {
    let session = Session::utility(&server(bench, primary), &login(), None).await?;
    let until = Instant::now() + Duration::from_secs(30);
    let mut found = None;
    while found.is_none() && Instant::now() < until {
        found = postmaster(bench, mirror).ok().and_then(receiver_of);
        thread::sleep(Duration::from_micros(200));
    }
    let receiver = found.context("there is no receiver")?;
    kill(receiver, Signal::SIGSTOP)?;
    while Instant::now() < until {
        if seen(&session).await?.iter().any(|(state, _)| state == "streaming" || state == "catchup") {
            return Ok(receiver);
        }
        kill(receiver, Signal::SIGCONT)?;
        thread::sleep(Duration::from_micros(150));
        kill(receiver, Signal::SIGSTOP)?;
        sleep(Duration::from_millis(3)).await;
    }
    anyhow::bail!("it does not connect")
}

/// FTS tells a mirror that it has promoted nothing, where its settings are from before its primary was told to wait, as those of each
/// first mirror are. What it acknowledges from then on is nowhere else, whatever an older catalog says.
pub async fn a_mirror_that_is_promoted_and_told_nothing_serves_alone(bench: &mut Bench) -> Result<()> {
    bench.start_again().await?; // its mirrors are the first ones
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 0).await?;
    bench.server(old).vanish()?;
    bench.probe().await?;
    bench.await_session(new).await?;
    bench.utility(new).await?.rows("CREATE TABLE alone (i int); INSERT INTO alone SELECT generate_series(1, 10000)").await?;
    let settings = std::fs::read_to_string(bench.server(new).file("postgresql.auto.conf"))?;
    ensure!(!settings.contains("synchronous_standby_names"), "it was told something: nothing is tried");
    await_page(bench, new, "telling that it serves alone", |page| page.served_alone.is_some()).await?;
    is_written_down(bench, new).await?;
    say_roles(bench, old, new).await?;
    let told = |page: &model::Page| page.state == InstanceState::CatalogOutdated && page.serves == Some(Role::Primary);
    await_page(bench, new, "telling that the catalog is old", told).await?;
    let kept = bench.utility(new).await?.value("SELECT count(*) FROM alone").await?;
    ensure!(kept == "10000", "it does not serve what it acknowledged: {kept}");
    bench.start_again().await
}

/// A catalog from before the mirror was marked down, while its primary lives and serves alone: the mirror starts under the row of a
/// primary without a question, and FTS has it promoted beside the other one.
pub async fn a_mirror_is_not_opened_beside_a_primary_that_serves_alone(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = serve_alone(bench).await?;
    let row = |dbid: i16, role: char| {
        format!("UPDATE gp_segment_configuration SET role = '{role}', status = 'u', mode = 's' WHERE dbid = {dbid};")
    };
    let older = [row(new, 'p'), row(old, 'm')].concat();
    bench.utility(1).await?.rows(&format!("SET allow_system_table_mods = true; {older}")).await?;
    await_page(bench, old, "telling that the catalog is old", |page| page.state == InstanceState::CatalogOutdated).await?;
    supervise(bench, new)?;
    let mut opened = None;
    for _ in 0..30 {
        bench.probe().await.ok();
        let page = await_page(bench, new, "anything", |_| true).await?;
        if page.serves == Some(Role::Primary) {
            opened = Some(page);
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    let Some(page) = opened else { return bench.start_again().await };
    let other = await_page(bench, old, "anything", |_| true).await?;
    let mut writes = vec![];
    for dbid in [old, new] {
        let session = bench.utility(dbid).await?;
        let wrote = session.rows("CREATE TABLE written_beside (i int); INSERT INTO written_beside VALUES (1)").await.is_ok();
        let alone = session.value("SELECT count(*) FROM alone").await.unwrap_or_else(|_| "none".into());
        writes.push(format!("dbid {dbid} takes writes: {wrote}, rows that were acknowledged alone: {alone}"));
    }
    anyhow::bail!(
        "{}; dbid {new} {:?} {}; dbid {old} {:?} serves {:?}; the pair {}",
        writes.join("; "),
        page.state,
        page.detail,
        other.state,
        other.serves,
        bench.pair(0).await?
    )
}
