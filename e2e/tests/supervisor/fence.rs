//! What a supervisor started, it ends, whatever has become of the path of its volume's lock.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use model::{InstanceState, Role};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Alone, Place, catalog::Coordinator, serves, wait_for};

/// Processes of postgres on this data directory, whatever they hold.
fn on(place: &Place) -> Vec<i32> {
    let data = place.at("volume/gpseg");
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)).collect()
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_stale_primary_dies_although_its_locks_file_is_gone() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::empty(&alone, 25_992)?;
    place.bootstrap("bootstrap-primary", 2, 0, &[])?;
    let settings = place.at("volume/gpseg/postgresql.auto.conf");
    // As FTS tells a primary before any catalog calls its pair in sync.
    fs::write(&settings, fs::read_to_string(&settings)? + "synchronous_standby_names = '*'\n")?;
    let rows = [format!("2:0:p:127.0.0.1:25992:{}", place.at("volume/gpseg").display()), "5:0:m:127.0.0.1:1:/nowhere".into()];
    let coordinator = Coordinator::start(&alone, 25_991, &rows)?;
    let supervisor = place.supervise_with("127.0.0.1:18096", &[("GPHEAL_COORDINATOR", "127.0.0.1:25991")])?;
    let primary = |page: &model::Page| page.state == InstanceState::Serving && page.serves == Some(Role::Primary);
    wait_for(18096, "a primary", primary).await?;
    let before = on(&place);
    ensure!(before.len() > 3, "no postgres: {before:?}");

    fs::remove_file(place.at("volume/.gpheal/lock"))?;
    let told = |page: &model::Page| page.untrusted_lock.as_ref().is_some_and(|why| why.contains("removed or replaced"));
    wait_for(18096, "a lock that was removed", told).await?;
    coordinator.fail_over()?;
    let down = |page: &model::Page| page.serves.is_none() && page.state != InstanceState::Stopping && page.untrusted_lock.is_none();
    let page = wait_for(18096, "a stale primary that is down", down).await?;
    ensure!(page.state != InstanceState::Unkillable, "{}", page.detail);
    ensure!(on(&place).is_empty(), "it lives on: {:?} of {before:?}", on(&place));
    supervisor.end()
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn no_second_postmaster_beside_orphans_although_the_locks_file_is_replaced() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_990)?;
    let supervisor = place.supervise("127.0.0.1:18097")?;
    wait_for(18097, "a postgres that serves", serves).await?;
    let (postmaster, before) = (place.postmaster()?, place.postgres());
    let child = *before.iter().find(|pid| **pid != postmaster).context("no children")?;
    kill(Pid::from_raw(child), Signal::SIGSTOP)?; // it hears of nothing but SIGKILL
    fs::remove_file(place.at("volume/.gpheal/lock"))?;
    fs::write(place.at("volume/.gpheal/lock"), "")?;
    place.owner.file(&place.at("volume/.gpheal/lock"), 0o600)?;
    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    let other = |page: &model::Page| serves(page) && page.crashes == 1;
    wait_for(18097, "another postgres that serves", other).await?;
    let after = on(&place);
    ensure!(after.iter().all(|pid| !before.contains(pid)), "{after:?} are beside each other, of {before:?}");
    supervisor.end()?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ensure!(on(&place).is_empty(), "SIGTERM left {:?}", on(&place));
    Ok(())
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn sigterm_ends_everything_although_the_locks_file_is_gone() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_989)?;
    let supervisor = place.supervise_with("127.0.0.1:18098", &[("GPHEAL_STOP_SECONDS", "1")])?;
    wait_for(18098, "a postgres that serves", serves).await?;
    let (postmaster, all) = (place.postmaster()?, place.postgres());
    fs::rename(place.at("volume/.gpheal"), place.at("volume/gone"))?; // as of somebody who takes gpheal out too early
    for pid in all.iter().filter(|pid| **pid != postmaster) {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP)?;
    }
    kill(Pid::from_raw(postmaster), Signal::SIGSTOP)?;
    supervisor.end()?;
    ensure!(on(&place).is_empty(), "SIGTERM left {:?} of {all:?}", on(&place));
    Ok(())
}
