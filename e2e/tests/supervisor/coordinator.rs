//! Two coordinators: one that was overtaken is stopped and stays down, one that crashed is back at once, and one that is
//! alone asks the segments.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use model::{InstanceState, Page, Role, Timeline, page::Shape};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Alone, Place,
    pages::{self, Told},
    wait_at,
};

const OLD: u16 = 25_996;
const NEW: u16 = 25_995;
/// Pages of one port on two addresses, as in two pods.
const PAGES: u16 = 18_093;
const COORDINATORS: (&str, &str) = ("GPHEAL_COORDINATOR", "127.0.0.1:25996,127.0.0.2:25995");

/// A standby of the coordinator at `OLD`, which a person keeps in maintenance: it runs whatever is decided.
fn standby_of(alone: &Alone, old: &Place) -> Result<Place> {
    let new = Place::empty(alone, NEW)?;
    new.maintain()?;
    let mut copy = new.command(&new.at("home/bin/pg_basebackup"));
    copy.arg("-D").arg(new.at("volume/gpseg")).env("PGPASSWORD", "secret");
    copy.args(["-h", "127.0.0.1", "-p", &old.port.to_string(), "-U", "gpadmin", "-c", "fast"]);
    copy.args(["--wal-method=stream", "--write-recovery-conf", "--target-gp-dbid=8"]);
    ensure!(copy.status()?.success(), "the standby was not made");
    Ok(new)
}

fn promote(place: &Place) -> Result<()> {
    let mut promote = place.command(&place.at("home/bin/pg_ctl"));
    ensure!(promote.arg("promote").arg("-D").arg(place.at("volume/gpseg")).status()?.success(), "the standby was not promoted");
    Ok(())
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn an_overtaken_coordinator_stays_down_however_long_the_other_is_silent() -> Result<()> {
    let alone = Alone::wait().await;
    let old = Place::empty(&alone, OLD)?;
    old.bootstrap("bootstrap-coordinator", 1, -1, &[&format!("1:-1:p:127.0.0.1:{OLD}:{}", old.at("volume/gpseg").display())])?;
    let page = format!("127.0.0.1:{PAGES}");
    let first = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches", |page| page.serves == Some(Role::Primary)).await?;
    let new = standby_of(&alone, &old)?;
    let other = new.supervise_with(&format!("127.0.0.2:{PAGES}"), &[COORDINATORS, ("GPHEAL_ADDRESS", "127.0.0.2")])?;
    wait_at("127.0.0.2", PAGES, "a standby that follows", |page| page.serves == Some(Role::Mirror)).await?;

    first.end()?;
    promote(&new)?;
    let overtook = |page: &model::Page| page.serves == Some(Role::Primary) && page.timeline == Some(Timeline(2));
    wait_at("127.0.0.2", PAGES, "a coordinator on timeline 2", overtook).await?;

    let stays = |page: &model::Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("timeline 2");
    let second = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "staying down", stays).await?;
    second.end()?;

    other.end()?;
    let third = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "staying down although the other is silent", stays).await?;
    ensure!(old.postgres().is_empty(), "postgres was started: {:?}", old.postgres());
    third.end()
}

/// The acting one is put back on an older copy of its volume: opened, it would lead a cluster that has gone on, and its standby,
/// which has what it lacks, would have that written over.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_coordinator_that_was_put_back_stays_closed_beside_a_standby_that_holds_more() -> Result<()> {
    let alone = Alone::wait().await;
    let old = bootstrapped(&alone, &[])?;
    let page = format!("127.0.0.1:{PAGES}");
    let supervise = || old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")]);
    let first = supervise()?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches", dispatches).await?;
    let new = standby_of(&alone, &old)?;
    let other = new.supervise_with(&format!("127.0.0.2:{PAGES}"), &[COORDINATORS, ("GPHEAL_ADDRESS", "127.0.0.2")])?;
    let follows = |page: &Page| page.receiving && page.followed.len() == 1;
    wait_at("127.0.0.2", PAGES, "a standby that remembers whom it follows", follows).await?;
    first.end()?;
    wait_at("127.0.0.2", PAGES, "a standby that receives from nobody", |page| !page.receiving).await?;
    let (volume, older) = (old.at("volume"), old.at("older"));
    copy(&volume, &older)?;

    let second = supervise()?;
    let on = |page: &Page| page.receiving && page.followed.len() == 2;
    wait_at("127.0.0.2", PAGES, "a standby that follows on", on).await?;
    let reached = wait_at("127.0.0.2", PAGES, "how far it reaches", |page| page.reaches.is_some()).await?.reaches;
    second.end()?;
    wait_at("127.0.0.2", PAGES, "how far it reaches by now", |page| page.reaches != reached).await?;
    std::fs::remove_dir_all(&volume)?;
    copy(&older, &volume)?;
    let third = supervise()?;
    let closed = |page: &Page| page.state == InstanceState::PutBack && page.detail.contains("dbid 8 holds what this one lacks");
    wait_at("127.0.0.1", PAGES, "staying closed", closed).await?;
    ensure!(old.postgres().is_empty(), "postgres was started: {:?}", old.postgres());
    third.end()?;
    other.end()
}

/// What it writes while it waits for its segments is of an incarnation that its standby cannot have written down yet.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_coordinator_that_waits_for_its_segments_does_not_leave_its_standby_behind() -> Result<()> {
    let alone = Alone::wait().await;
    let old = bootstrapped(&alone, &["2:0:p:127.0.0.1:1:/nowhere"])?;
    let page = format!("127.0.0.1:{PAGES}");
    let supervise = || old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "8")]);
    let told = Told::serve(&format!("127.0.0.2:{PAGES}"), standby()).await?;
    let mut running = supervise()?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches", dispatches).await?;
    drop(told);
    let new = standby_of(&alone, &old)?;
    std::fs::remove_file(new.at("volume/.gpheal/maintenance"))?;
    let other = new.supervise_with(&format!("127.0.0.2:{PAGES}"), &[COORDINATORS, ("GPHEAL_ADDRESS", "127.0.0.2")])?;
    wait_at("127.0.0.2", PAGES, "a standby that follows", |page| page.receiving && page.followed.len() == 1).await?;
    for starts in 2..4 {
        running.end()?;
        running = supervise()?;
        wait_at("127.0.0.1", PAGES, "waiting", |page| page.state == InstanceState::WaitingForSegments).await?;
        wait_at("127.0.0.1", PAGES, "a coordinator that dispatches again", dispatches).await?;
        wait_at("127.0.0.2", PAGES, "a standby that follows on", |page| page.receiving && page.followed.len() == starts).await?;
    }
    running.end()?;
    other.end()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-a").arg(from).arg(to).status()?.success(), "{} was not copied", from.display());
    Ok(())
}

fn row_of(place: &Place) -> String {
    format!("1:-1:p:127.0.0.1:{OLD}:{}", place.at("volume/gpseg").display())
}

fn bootstrapped(alone: &Alone, more: &[&str]) -> Result<Place> {
    let old = Place::empty(alone, OLD)?;
    let own = row_of(&old);
    let rows: Vec<&str> = std::iter::once(own.as_str()).chain(more.iter().copied()).collect();
    old.bootstrap("bootstrap-coordinator", 1, -1, &rows)?;
    Ok(old)
}

fn dispatches(page: &Page) -> bool {
    page.serves == Some(Role::Primary)
}

/// Both would lead the segments for ever: its own question before the start came too early to see it.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_running_coordinator_is_fenced_when_its_standby_is_activated() -> Result<()> {
    let alone = Alone::wait().await;
    let old = bootstrapped(&alone, &[])?;
    let page = format!("127.0.0.1:{PAGES}");
    let first = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches", dispatches).await?;
    let new = standby_of(&alone, &old)?;
    let other = new.supervise_with(&format!("127.0.0.2:{PAGES}"), &[COORDINATORS, ("GPHEAL_ADDRESS", "127.0.0.2")])?;
    wait_at("127.0.0.2", PAGES, "a standby that follows", |page| page.serves == Some(Role::Mirror)).await?;

    promote(&new)?;
    let stays = |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("timeline 2");
    wait_at("127.0.0.1", PAGES, "being fenced, and staying down", stays).await?;
    ensure!(old.postgres().is_empty(), "it still runs: {:?}", old.postgres());
    other.end()?;
    first.end()?;
    let again = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "staying down although the other is silent", stays).await?;
    again.end()
}

/// Its standby's pod is away, and nobody can have been activated in the second since its crash.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_coordinator_that_crashes_while_its_standby_is_away_dispatches_again_at_once() -> Result<()> {
    let alone = Alone::wait().await;
    let old = bootstrapped(&alone, &[])?;
    let standby = Told::serve(&format!("127.0.0.2:{PAGES}"), standby()).await?;
    let first = old.supervise_with(&format!("127.0.0.1:{PAGES}"), &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "120")])?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches", dispatches).await?;
    drop(standby);
    let (postmaster, began) = (old.postmaster()?, Instant::now());
    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    wait_at("127.0.0.1", PAGES, "noticing that it crashed", |page| page.crashes == 1).await?;
    wait_at("127.0.0.1", PAGES, "dispatching again", dispatches).await?;
    ensure!(began.elapsed() < Duration::from_secs(10) && old.postmaster()? != postmaster, "it took {:?}", began.elapsed());
    first.end()
}

/// A standby that follows, as its page has it.
fn standby() -> Page {
    Page {
        shape: Shape::Mirror,
        serves: Some(Role::Mirror),
        timeline: Some(Timeline(1)),
        ..pages::primary(8, -1, "127.0.0.2", NEW, "/standby")
    }
}

/// A segment named by mistake, a recycled address, or anybody on the network: it was kept down for ever.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_page_alone_never_keeps_a_coordinator_down_for_ever() -> Result<()> {
    let alone = Alone::wait().await;
    let old = bootstrapped(&alone, &[])?;
    let segment = Page { timeline: Some(Timeline(7)), ..pages::primary(2, 0, "127.0.0.2", NEW, "/segment") };
    let told = Told::serve(&format!("127.0.0.2:{PAGES}"), segment).await?;
    let first = old.supervise_with(&format!("127.0.0.1:{PAGES}"), &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "1")])?;
    wait_at("127.0.0.1", PAGES, "a coordinator that dispatches beside a segment's page", dispatches).await?;
    // The right place, and a claim that no database stands behind.
    told.change(|page| *page = Page { timeline: Some(Timeline(7)), ..pages::primary(8, -1, "127.0.0.2", NEW, "/standby") });
    kill(Pid::from_raw(old.postmaster()?), Signal::SIGKILL)?;
    wait_at("127.0.0.1", PAGES, "noticing that it crashed", |page| page.crashes == 1).await?;
    wait_at("127.0.0.1", PAGES, "dispatching beside a claim", dispatches).await?;
    let token = std::fs::read_to_string(old.at("volume/.gpheal/volume.json"))?;
    ensure!(token.contains("\"coordinatorTimeline\": 0"), "a page's word was remembered: {token}");
    first.end()
}

/// Cold start with the other one's node slow: what the segments have believed decides.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_coordinator_alone_dispatches_only_when_the_segments_have_seen_nothing_higher() -> Result<()> {
    let alone = Alone::wait().await;
    let rows = ["2:0:p:127.0.0.3:25001:/a", "3:1:p:127.0.0.4:25001:/b", "4:2:p:127.0.0.5:25001:/c"];
    let old = bootstrapped(&alone, &rows)?;
    let mut segments = vec![];
    for (dbid, content, host, directory) in [(2, 0, "127.0.0.3", "/a"), (3, 1, "127.0.0.4", "/b")] {
        let page = Page { coordinator_timeline: Some(Timeline(1)), ..pages::primary(dbid, content, host, 25_001, directory) };
        segments.push(Told::serve(&format!("{host}:{PAGES}"), page).await?);
    }
    segments[1].change(|page| page.coordinator_timeline = Some(Timeline(2)));
    let first = old.supervise_with(&format!("127.0.0.1:{PAGES}"), &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "1")])?;
    let refuted =
        |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("has believed a coordinator on timeline 2");
    wait_at("127.0.0.1", PAGES, "being refuted by a segment", refuted).await?;
    ensure!(old.postgres().is_empty(), "it runs: {:?}", old.postgres());
    first.end()?;

    segments.pop();
    let second = old.supervise_with(&format!("127.0.0.1:{PAGES}"), &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "1")])?;
    wait_at("127.0.0.1", PAGES, "too few witnesses", |page| page.detail.contains("of 3 contents 1 say")).await?;
    let page = Page { coordinator_timeline: Some(Timeline(1)), ..pages::primary(3, 1, "127.0.0.4", 25_001, "/b") };
    segments.push(Told::serve(&format!("127.0.0.4:{PAGES}"), page).await?);
    wait_at("127.0.0.1", PAGES, "dispatching with a majority of witnesses", dispatches).await?;
    second.end()
}
