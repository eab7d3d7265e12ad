//! Mirrors that do not start, each for a reason of another kind: what their machine refuses, what they lost, what a setting says.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Result, ensure};
use gpheal::model::{InstanceState, Page, Repair, page::ExitClass};

use super::{
    bench::{Bench, append},
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

/// The mirror of content 0, which received and ended.
async fn ended_mirror(bench: &mut Bench) -> Result<i16> {
    ensure_supervised(bench).await?;
    let (_, mirror) = acting_and_mirror(bench, 0).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    bench.server(mirror).vanish()?;
    Ok(mirror)
}
