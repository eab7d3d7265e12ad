//! A coordinator whose standby has taken over stays down, also when that one is silent.

use anyhow::{Result, ensure};
use gpheal::model::{InstanceState, Role, Timeline};

use super::{Alone, Place, wait_at};

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
    let other = new.supervise_with(&format!("127.0.0.2:{PAGES}"), &[COORDINATORS])?;
    wait_at("127.0.0.2", PAGES, "a standby that follows", |page| page.serves == Some(Role::Mirror)).await?;

    first.end()?;
    promote(&new)?;
    let overtook = |page: &gpheal::model::Page| page.serves == Some(Role::Primary) && page.timeline == Some(Timeline(2));
    wait_at("127.0.0.2", PAGES, "a coordinator on timeline 2", overtook).await?;

    let stays = |page: &gpheal::model::Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("timeline 2");
    let second = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "staying down", stays).await?;
    second.end()?;

    other.end()?;
    let third = old.supervise_with(&page, &[COORDINATORS, ("GPHEAL_COORDINATOR_WAIT", "0")])?;
    wait_at("127.0.0.1", PAGES, "staying down although the other is silent", stays).await?;
    ensure!(old.postgres().is_empty(), "postgres was started: {:?}", old.postgres());
    third.end()
}
