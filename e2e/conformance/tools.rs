//! The copy tools: options, outcomes, and what they leave behind.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl},
    sys::signal::Signal,
};

use super::{
    bench::{Bench, SLOT, fail, succeed},
    query::expect_same,
};

pub async fn versions_are_told(bench: &mut Bench) -> Result<()> {
    let mut command = bench.tool("postgres");
    command.arg("--gp-version");
    let said = succeed(command)?;
    ensure!(said.contains("Greenplum Database") || said.contains("Cloudberry"), "--gp-version says {said:?}");
    let version = bench.utility(1).await?.value("SELECT version()").await?;
    ensure!(version.starts_with("PostgreSQL ") && version.contains('('), "version() says {version:?}");
    Ok(())
}

pub async fn base_backup_wants_a_dbid_and_an_empty_directory(bench: &mut Bench) -> Result<()> {
    let mut without = bench.tool("pg_basebackup");
    let port = bench.port(2).to_string();
    let scratch = bench.folder().join("scratch");
    without.args(["-h", "127.0.0.1", "-p", &port, "-D"]).arg(&scratch);
    ensure!(fail(without)?.contains("dbid"), "a base backup without a dbid does not say so");
    let filled = bench.base_backup(4, 2);
    ensure!(fail(filled)?.contains("exists but is not empty"), "a filled directory was not refused as such");
    Ok(())
}

/// What does not come from the source stays, even what does not belong there.
pub async fn base_backup_overwrites_when_forced(bench: &mut Bench) -> Result<()> {
    bench.server(4).crash()?;
    let stray = bench.server(4).file("stray.txt");
    fs::write(&stray, "stray")?;
    fs::write(bench.server(4).file("internal.auto.conf"), "gp_dbid=77\n")?;
    let of_log = format!("{}/of-its-source.csv", bench.dialect().log_folder());
    let log_of_source = bench.server(2).file(&of_log);
    fs::write(&log_of_source, "what the source says of itself")?;
    bench.owner().file(&log_of_source, 0o600)?;
    await_free_slot(bench, 2).await?;
    let mut command = bench.base_backup(4, 2);
    command.args(["--force-overwrite", "--progress", "--verbose", "-E", "./db_dumps", "-E", "./promote"]);
    let said = succeed(command)?;
    ensure!(said.contains("kB (") && said.contains("%)"), "no progress in {said:?}");
    ensure!(stray.exists(), "a stray file is gone");
    // Greenplum copies no logs; the stand-in's own server does.
    let copied = bench.server(4).file(&of_log).exists();
    ensure!(!copied || bench.dialect().has_monitors(), "the source's log was copied, and no room was counted for it");
    fs::remove_file(log_of_source)?;
    expect_mirror_files(bench, 4, 2)?;
    bench.adapt_port(4)?;
    bench.start_segment(4)?;
    bench.await_pair(0, "2ppsu 4mmsu").await
}

fn expect_mirror_files(bench: &mut Bench, dbid: i16, source: i16) -> Result<()> {
    let (marker, settings) = (bench.dialect().mirror_file(), bench.dialect().recovery_settings());
    let port = bench.port(source);
    let server = bench.server(dbid);
    ensure!(server.file(marker).exists(), "there is no {marker}");
    expect_same("internal.auto.conf", &server.read("internal.auto.conf")?.replace(' ', ""), &format!("gp_dbid={dbid}\n"))?;
    let text = server.read(settings)?;
    for part in ["application_name=gp_walreceiver", &format!("port={port}"), SLOT] {
        ensure!(text.contains(part), "{settings} lacks {part}: {text}");
    }
    let copied = server.read("postgresql.conf")?;
    let last = copied.lines().rfind(|line| line.starts_with("port"));
    expect_same("the port that the copy has", &last, &Some(format!("port = {port}").as_str()))
}

pub async fn base_backup_fails_while_the_slot_is_used(bench: &mut Bench) -> Result<()> {
    let target = bench.folder().join("second-copy");
    let port = bench.port(2).to_string();
    let mut command = bench.tool("pg_basebackup");
    command.args(["-c", "fast", "-h", "127.0.0.1", "-p", &port, "-D"]).arg(&target);
    command.args(["--slot", SLOT, bench.dialect().wal_method(), "--target-gp-dbid", "9"]);
    let said = fail(command)?;
    ensure!(said.contains("active"), "the slot's user is not named: {said}");
    Ok(())
}

/// The supervisor's lock works by this.
pub async fn inherited_lock_is_held_until_the_last_process_is_gone(bench: &mut Bench) -> Result<()> {
    bench.server(4).stop()?;
    let path = bench.folder().join("lock");
    let held = lock(&path)?;
    fcntl(held.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    bench.start_segment(4)?;
    // The guard would unlock, for the servers too: the descriptor is closed instead.
    std::mem::forget(held);
    close_here(&path)?;
    bench.await_pair(0, "2ppsu 4mmsu").await?;
    ensure!(lock(&path).is_err(), "a running server does not hold the lock");
    bench.server(4).crash()?;
    await_lock(&path).await?;
    bench.start_segment(4)?;
    bench.await_pair(0, "2ppsu 4mmsu").await
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::options().create(true).append(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).context("the lock is held")
}

/// Every descriptor of this process that is that file.
fn close_here(path: &Path) -> Result<()> {
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let number: i32 = entry.file_name().to_string_lossy().parse()?;
            nix::unistd::close(number)?;
        }
    }
    Ok(())
}

async fn await_lock(path: &Path) -> Result<()> {
    for _ in 0..100 {
        if lock(path).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lock(path).map(drop)
}

/// The walsender of a mirror that was killed needs a moment to notice.
pub async fn await_free_slot(bench: &mut Bench, dbid: i16) -> Result<()> {
    let session = bench.utility(dbid).await?;
    for _ in 0..100 {
        if session.value("SELECT active FROM pg_replication_slots").await? == "f" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(false, "the slot is used 5 s after {:?} of its user", Signal::SIGKILL);
    Ok(())
}
