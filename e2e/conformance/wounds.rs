//! Mirrors that do not start, each for a reason of another kind: what their machine refuses, what they lost, what a setting says.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use model::{FailureClass, InstanceState, Page, Repair, page::ExitClass};
use tokio::time::sleep;

use super::{
    bench::{Bench, append, fail},
    bounded,
    losses::await_status,
    query::expect_same,
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, supervise},
};

/// Kubelet opens the one at each mount of a volume with an fsGroup, and a `/tmp` that outlives the container keeps the other.
pub async fn an_open_directory_and_a_stale_socket_lock_are_put_right(bench: &mut Bench) -> Result<()> {
    let mirror = ended_mirror(bench).await?;
    let directory = bench.server(mirror).directory.clone();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2770))?;
    let lock = PathBuf::from(format!("/tmp/.s.PGSQL.{}.lock", bench.port(mirror)));
    fs::write(&lock, "")?;
    bench.owner().file(&lock, 0o600)?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    let mode = fs::metadata(&directory)?.permissions().mode() & 0o777;
    expect_same("mode of the directory", &mode, &0o700)
}

/// An incremental repair has nothing to do there, and would never end it.
pub async fn a_mirror_that_lost_a_folder_asks_for_a_full_copy(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let healthy = bench.pair(0).await?;
    let mirror = ended_mirror(bench).await?;
    fs::remove_dir_all(bench.server(mirror).directory.join("pg_replslot"))?;
    supervise(bench, mirror)?;
    let lost = |page: &Page| page.state == InstanceState::NeedsFull && page.detail.contains("pg_replslot");
    await_page(bench, mirror, "needing a full copy", lost).await?;
    await_status(bench, mirror, 'd').await?;
    let outcome = recover(bench, mirror, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "the recovery ended with {outcome:?}");
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    bench.await_pair(0, &healthy).await
}

pub async fn a_broken_line_of_the_settings_is_named(bench: &mut Bench) -> Result<()> {
    let mirror = ended_mirror(bench).await?;
    let settings = bench.server(mirror).file("postgresql.conf");
    let whole = fs::read_to_string(&settings)?;
    append(&settings, "\nno setting at all\n")?;
    supervise(bench, mirror)?;
    let named = |page: &Page| {
        let exit = page.last_exit.as_ref();
        exit.is_some_and(|exit| {
            exit.class == ExitClass::Configuration && exit.evidence.contains("postgresql.conf") && exit.evidence.contains(" line ")
        })
    };
    await_page(bench, mirror, "naming the line", named).await?;
    fs::write(&settings, whole)?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await.map(drop)
}

/// What the machine refuses of a commit log stands in the DETAIL of a message that is said of damage, too.
pub async fn a_commit_log_that_may_not_be_read_is_no_damage(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let healthy = bench.pair(0).await?;
    let (primary, mirror) = acting_and_mirror(bench, 0).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    // So that it has commits to replay.
    bench.utility(primary).await?.rows("CHECKPOINT; CREATE TABLE states (i int); DROP TABLE states").await?;
    bench.server(mirror).vanish()?;
    let states = states(bench, mirror)?;
    states.mode(0)?;
    supervise(bench, mirror)?;
    let refused = |page: &Page| {
        let exit = page.last_exit.as_ref().filter(|exit| exit.class == ExitClass::Environment);
        exit.is_some_and(|exit| exit.evidence.contains("/0000") && exit.evidence.contains("Permission denied"))
    };
    await_page(bench, mirror, "telling which file may not be read", refused).await?;
    for _ in 0..25 {
        sleep(Duration::from_millis(200)).await;
        let page = await_page(bench, mirror, "anything", |_| true).await?;
        ensure!(page.state != InstanceState::NeedsFull, "it asks for a full copy: {}", page.detail);
    }
    states.mode(0o600)?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    bench.await_pair(0, &healthy).await
}

/// An incremental repair recovers it from its crash at first, by a server that writes CSV where it collects its log.
pub async fn a_lost_primary_whose_commit_log_may_not_be_read_is_not_copied(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 0).await?;
    bench.utility(old).await?.rows("CREATE TABLE states (i int); DROP TABLE states").await?;
    bench.server(old).vanish()?;
    bench.probe().await?;
    bench.await_session(new).await?;
    append(&bench.server(old).file("postgresql.conf"), "\nlogging_collector = on\n")?;
    let states = states(bench, old)?;
    states.mode(0)?;
    supervise(bench, old)?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    let failure = recover(bench, old, Repair::Incremental).await?.failure.context("it was rewound")?;
    let told = failure.evidence.contains("/0000") && failure.evidence.contains("Permission denied");
    ensure!(failure.class == FailureClass::Environment && told, "the recovery ended with {failure:?}");
    states.mode(0o600)?;
    // More than this machine has: a server in single-user mode gets by with what a Job gives it.
    append(&bench.server(old).file("postgresql.conf"), "\nhuge_pages = on\nshared_buffers = 4096GB\n")?;
    let mut plain = bench.tool("postgres");
    plain.arg("--single").arg("-D").arg(&bench.server(old).directory).arg("template1").stdin(Stdio::null());
    let said = fail(plain)?;
    ensure!(
        said.contains("could not map anonymous shared memory"),
        "as its settings say it does not start, but for another reason: {said}"
    );
    let outcome = recover(bench, old, Repair::Incremental).await?;
    ensure!(outcome.failure.is_none(), "the recovery ended with {outcome:?}");
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    bounded::in_sync(bench).await
}

/// Its data is as good as a copy can make it: it is tried again until its port is free, and asks for no further copy.
pub async fn a_copied_mirror_that_its_machine_keeps_down_asks_for_no_second_copy(bench: &mut Bench) -> Result<()> {
    let mirror = ended_mirror(bench).await?;
    fs::remove_dir_all(&bench.server(mirror).directory)?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    await_status(bench, mirror, 'd').await?;
    let stranger = TcpListener::bind(("::", bench.port(mirror)))?;
    let outcome = recover(bench, mirror, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "the recovery ended with {outcome:?}");
    let died_since = |page: &Page| {
        let exit = page.last_exit.as_ref().filter(|exit| exit.class == ExitClass::Environment && exit.since >= 3);
        exit.is_some_and(|exit| exit.after.as_ref().is_some_and(|after| after.attempt == outcome.attempt))
    };
    let page = await_page(bench, mirror, "telling of what it died since its copy", died_since).await?;
    ensure!(!page.state.asks_for_repair(), "it asks for another one: {:?} {}", page.state, page.detail);
    let evidence = page.last_exit.map(|exit| exit.evidence).unwrap_or_default();
    ensure!(evidence.contains("in use") || evidence.contains("TCP/IP"), "what keeps it down is not named: {evidence}");
    drop(stranger);
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    bounded::in_sync(bench).await
}

/// The files that hold the states of transactions.
struct States(Vec<PathBuf>);

fn states(bench: &mut Bench, dbid: i16) -> Result<States> {
    let folders = ["pg_clog", "pg_xact"].map(|name| bench.server(dbid).file(name));
    let folder = folders.iter().find(|folder| folder.is_dir()).context("there is no commit log")?;
    let files = fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    Ok(States(files))
}

impl States {
    fn mode(&self, mode: u32) -> Result<()> {
        self.0.iter().try_for_each(|file| Ok(fs::set_permissions(file, fs::Permissions::from_mode(mode))?))
    }
}

/// The mirror of content 0, which received and ended.
async fn ended_mirror(bench: &mut Bench) -> Result<i16> {
    ensure_supervised(bench).await?;
    let (_, mirror) = acting_and_mirror(bench, 0).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    bench.server(mirror).vanish()?;
    Ok(mirror)
}
