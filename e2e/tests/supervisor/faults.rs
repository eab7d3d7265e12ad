//! Faults that pass. None of them ends a supervisor, which is pid 1 of its container: each is told, and postgres serves
//! again when it has passed.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Alone, Place, Supervisor, serves, wait_for};

const PORT: u16 = 18_100;

/// A fault, and its end.
type Change = fn(&Place, &Supervisor) -> Result<()>;

fn rename(place: &Place, from: &str, to: &str) -> Result<()> {
    Ok(fs::rename(place.at(from), place.at(to))?)
}

fn mode(place: &Place, name: &str, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(place.at(name), fs::Permissions::from_mode(mode))?)
}

/// A limit of the supervisor alone, `None`: as high as it may be. What it has, it keeps.
fn limit(place: &Place, supervisor: &Supervisor, name: &str, row: &str, most: Option<u32>) -> Result<()> {
    let pid = supervisor.0.id();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let hard = limits.lines().find_map(|line| line.strip_prefix(row)?.split_whitespace().nth(1)).context("no such limit")?;
    let soft = most.map_or_else(|| hard.to_owned(), |most| most.to_string());
    let mut prlimit = place.owner.command(std::path::Path::new("/usr/bin/prlimit"));
    let status = prlimit.args(["--pid", &pid.to_string(), &format!("--{name}={soft}:{hard}")]).status()?;
    ensure!(status.success(), "prlimit --{name} failed");
    Ok(())
}

fn processes(place: &Place, supervisor: &Supervisor, most: Option<u32>) -> Result<()> {
    limit(place, supervisor, "nproc", "Max processes", most)
}

fn descriptors(place: &Place, supervisor: &Supervisor, most: Option<u32>) -> Result<()> {
    limit(place, supervisor, "nofile", "Max open files", most)
}

/// All that may fail for a while between the end of a postgres and the start of the next.
const PASSING: &[(&str, Change, Change)] = &[
    (
        "a secret that cannot be read",
        |p, _| rename(p, "credentials/password", "credentials/gone"),
        |p, _| rename(p, "credentials/gone", "credentials/password"),
    ),
    ("no place for the password file", |p, _| rename(p, "passes", "passes-gone"), |p, _| rename(p, "passes-gone", "passes")),
    (
        "no postgres to execute",
        |p, _| rename(p, "home/bin/postgres", "home/bin/gone"),
        |p, _| rename(p, "home/bin/gone", "home/bin/postgres"),
    ),
    ("marks that cannot be written", |p, _| mode(p, "volume/.gpheal", 0o500), |p, _| mode(p, "volume/.gpheal", 0o700)),
    ("a volume that cannot be looked at", |p, _| mode(p, "volume", 0o000), |p, _| mode(p, "volume", 0o700)),
    ("no room for one more process", |p, s| processes(p, s, Some(1)), |p, s| processes(p, s, None)),
    ("no descriptor left", |p, s| descriptors(p, s, Some(8)), |p, s| descriptors(p, s, None)),
];

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn no_fault_that_passes_ends_the_supervisor() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_987)?;
    place.owner.folder(&place.at("passes"))?;
    let passfile = place.at("passes/pass").display().to_string();
    for (what, begin, end) in PASSING {
        // Each a new one, as many crashes in a row are a reason of their own to wait.
        let mut supervisor = place.supervise_with(&format!("127.0.0.1:{PORT}"), &[("GPHEAL_PASSFILE", &passfile)])?;
        wait_for(PORT, what, serves).await?;
        let postmaster = place.postmaster()?;
        begin(&place, &supervisor)?;
        kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            ensure!(supervisor.0.try_wait()?.is_none(), "the supervisor ended: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        end(&place, &supervisor)?;
        let other = |_: &model::Page| place.postmaster().is_ok_and(|pid| pid != postmaster);
        wait_for(PORT, what, |page| serves(page) && other(page)).await.with_context(|| format!("postgres is not back: {what}"))?;
        supervisor.end().with_context(|| format!("afterwards: {what}"))?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_page_that_cannot_be_served_keeps_postgres_from_nothing() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_986)?;
    let taken = TcpListener::bind("127.0.0.1:18101")?;
    let mut supervisor = place.supervise("127.0.0.1:18101")?;
    let until = Instant::now() + Duration::from_mins(1);
    while place.postgres().len() < 4 {
        ensure!(supervisor.0.try_wait()?.is_none(), "the supervisor ended for its page");
        ensure!(Instant::now() < until, "postgres was not started");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(taken);
    wait_for(18101, "a page at last", serves).await?;
    supervisor.end()
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn sigterm_is_heard_while_nobody_answers() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::empty(&alone, 25_983)?;
    place.bootstrap("bootstrap-primary", 2, 0, &[])?;
    let silent = TcpListener::bind("127.0.0.1:25982")?;
    let supervisor = place.supervise_with("127.0.0.1:18103", &[("GPHEAL_COORDINATOR", "127.0.0.1:25982")])?;
    let _asked = silent.accept()?;
    let begun = Instant::now();
    supervisor.end()?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "SIGTERM was heard after {:?}", begun.elapsed());
    Ok(())
}
