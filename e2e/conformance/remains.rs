//! Directories that no repair can begin on as they are, and those of which too little is left to start from.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use model::{FailureClass, InstanceState, Outcome, Page, Repair, Role};
use segment::volume::Volume;
use tokio::time::sleep;

use super::{
    bench::{Bench, append, succeed},
    bounded::{await_mirror_down, in_sync},
    query::expect_same,
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, recover_untold, supervise},
};

/// "中文" in GBK, which is no UTF-8.
const COMMENT: &[u8] = b"# \xd6\xd0\xce\xc4\n";

/// Each ends pg_rewind, before it has written anything. Without them it rewinds, follows a log that is linked elsewhere, and leaves
/// settings in whatever encoding they are.
pub async fn what_a_rewind_cannot_pass_stops_it_before_a_byte_is_written(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = lost_primary(bench).await?;
    for dbid in [old, new] {
        let settings = bench.server(dbid).file("postgresql.conf");
        fs::write(&settings, [fs::read(&settings)?, COMMENT.to_vec()].concat())?;
    }
    a_mount_within(bench, old).await?;
    a_foreign_folder(bench, old).await?;
    a_linked_file(bench, old).await?;
    a_lost_tablespace(bench, old).await?;
    let (log, elsewhere) = (log_of(bench, old), bench.server(old).volume().join("log-elsewhere"));
    fs::rename(&log, &elsewhere)?;
    symlink(&elsewhere, &log)?;
    let outcome = recover(bench, old, Repair::Incremental).await?;
    ensure!(outcome.failure.is_none() && outcome.note == "rewound", "the rewind ended with {outcome:?}");
    let settings = fs::read(bench.server(old).file("postgresql.conf"))?;
    ensure!(settings.windows(COMMENT.len()).any(|window| window == COMMENT), "the settings are not the source's byte for byte");
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    in_sync(bench).await?;
    ensure!(fs::read_link(&log)? == elsewhere, "its log is not where it was");
    bench.server(old).vanish()?;
    fs::remove_file(&log)?;
    fs::rename(&elsewhere, &log)?;
    supervise(bench, old)?;
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// Say a file of a ConfigMap. Neither repair begins there.
async fn a_mount_within(bench: &mut Bench, dbid: i16) -> Result<()> {
    let (settings, elsewhere) = (bench.server(dbid).file("postgresql.conf"), bench.server(dbid).volume().join("settings"));
    fs::copy(&settings, &elsewhere)?;
    bench.owner().file(&elsewhere, 0o600)?;
    let mount = Mount::bind(&elsewhere, &settings)?;
    for repair in [Repair::Incremental, Repair::Full] {
        let outcome = recover(bench, dbid, repair).await?;
        refused(bench, dbid, &outcome, FailureClass::MountWithin, "postgresql.conf")?;
    }
    drop(mount);
    Ok(fs::remove_file(elsewhere)?)
}

async fn a_foreign_folder(bench: &mut Bench, dbid: i16) -> Result<()> {
    let folder = bench.server(dbid).file("base/extra");
    fs::create_dir(&folder)?;
    fs::write(folder.join("x"), "")?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?; // and of another user
    let outcome = recover(bench, dbid, Repair::Incremental).await?;
    refused(bench, dbid, &outcome, FailureClass::Environment, "Permission denied")?;
    Ok(fs::remove_dir_all(folder)?)
}

/// It is a file at the source.
async fn a_linked_file(bench: &mut Bench, dbid: i16) -> Result<()> {
    let (file, elsewhere) = (bench.server(dbid).file("pg_ident.conf"), bench.server(dbid).volume().join("pg_ident.conf"));
    fs::rename(&file, &elsewhere)?;
    symlink(&elsewhere, &file)?;
    let outcome = recover(bench, dbid, Repair::Incremental).await?;
    refused(bench, dbid, &outcome, FailureClass::CannotRewind, "pg_ident.conf")?;
    fs::remove_file(&file)?;
    Ok(fs::rename(elsewhere, file)?)
}

async fn a_lost_tablespace(bench: &mut Bench, dbid: i16) -> Result<()> {
    let (link, folder) = (bench.server(dbid).file("pg_tblspc/99999"), bench.server(dbid).volume().join("space/5"));
    symlink(&folder, &link)?;
    let outcome = recover(bench, dbid, Repair::Incremental).await?;
    refused(bench, dbid, &outcome, FailureClass::TargetUnusable, "space/5")?;
    Ok(fs::remove_file(link)?)
}

fn refused(bench: &mut Bench, dbid: i16, outcome: &Outcome, class: FailureClass, evidence: &str) -> Result<()> {
    let failure = outcome.failure.as_ref().with_context(|| format!("it was repaired in spite of {evidence}"))?;
    let told = failure.message.contains(evidence) || failure.evidence.contains(evidence);
    ensure!(failure.class == class && told, "{evidence}: the recovery ended with {failure:?}");
    let mark = bench.server(dbid).volume().join(".gpheal/copy");
    ensure!(!mark.try_exists()?, "{evidence}: a copy was begun");
    Ok(())
}

/// The primary of content 0 went on writing when it was lost, and its mirror serves.
async fn lost_primary(bench: &mut Bench) -> Result<(i16, i16)> {
    let (old, new) = acting_and_mirror(bench, 0).await?;
    let written = "CREATE TABLE remains (i int); INSERT INTO remains SELECT generate_series(1, 10000)";
    bench.utility(old).await?.rows(written).await?;
    bench.server(old).vanish()?;
    bench.probe().await?;
    bench.await_session(new).await?;
    bench.utility(new).await?.rows("DROP TABLE remains").await?;
    supervise(bench, old)?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    Ok((old, new))
}

/// One after the other, each put back; the folder of the log is gone for good, after the mirror was marked down.
pub async fn each_folder_that_is_gone_asks_for_a_full_copy(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (_, mirror) = acting_and_mirror(bench, 0).await?;
    let aside = bench.server(mirror).volume().join("aside");
    // What prepared transactions are kept in is read at every start from PostgreSQL 10 on.
    let twophase = if bench.dialect().wal_folder() == "pg_wal" { "pg_twophase" } else { "pg_notify" };
    for name in ["pg_notify", twophase] {
        let folder = bench.server(mirror).file(name);
        bench.server(mirror).vanish()?;
        fs::rename(&folder, &aside)?;
        supervise(bench, mirror)?;
        let lost = |page: &Page| page.state == InstanceState::NeedsFull && page.detail.contains(name);
        let said = await_page(bench, mirror, "needing a full copy", lost).await;
        fs::rename(&aside, &folder)?;
        said.with_context(|| format!("without {name}"))?;
    }
    bench.server(mirror).vanish()?;
    let log = bench.dialect().wal_folder();
    fs::remove_dir_all(bench.server(mirror).file(log))?;
    await_mirror_down(bench).await?;
    supervise(bench, mirror)?;
    let lost = |page: &Page| page.state == InstanceState::NeedsFull && page.detail.contains(log);
    await_page(bench, mirror, "needing a full copy", lost).await?;
    // Without a log what it followed shows alone that its primary lacks nothing that it had.
    let class = recover_untold(bench, mirror, Repair::Full).await?.failure.map(|failure| failure.class);
    expect_same("how a copy of which nothing shows that ends", &class, &Some(FailureClass::HistoryUnknown))?;
    let class = recover(bench, mirror, Repair::Incremental).await?.failure.map(|failure| failure.class);
    expect_same("how an incremental repair ends", &class, &Some(FailureClass::TargetUnusable))?;
    let outcome = recover(bench, mirror, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "the copy ended with {outcome:?}");
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// Nobody else can serve, so it is not left to FTS.
pub async fn a_primary_without_a_mirror_in_sync_comes_back_over_a_stale_lock(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 0).await?;
    bench.server(mirror).vanish()?;
    await_mirror_down(bench).await?;
    bench.server(primary).vanish()?;
    let lock = PathBuf::from(format!("/tmp/.s.PGSQL.{}.lock", bench.port(primary)));
    fs::write(&lock, "")?;
    bench.owner().file(&lock, 0o600)?;
    let settings = bench.server(primary).file("pg_hba.conf");
    let whole = fs::read_to_string(&settings)?;
    append(&settings, "hots all all trust\n")?;
    supervise(bench, primary)?;
    let named = |page: &Page| {
        let evidence = page.last_exit.as_ref().map(|exit| exit.evidence.as_str()).unwrap_or_default();
        evidence.contains("pg_hba.conf\"") && evidence.contains("line ") && evidence.contains(" of configuration file")
    };
    let said = await_page(bench, primary, "naming the line", named).await;
    fs::write(&settings, whole)?;
    said?;
    await_page(bench, primary, "serving", |page| page.serves == Some(Role::Primary)).await?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// Not even that a repair holds the place can be written there.
pub async fn on_a_volume_without_a_byte_left_nothing_begins_and_with_room_it_heals(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (_, mirror) = acting_and_mirror(bench, 0).await?;
    nothing_is_kept(bench, mirror).await?;
    bench.server(mirror).vanish()?;
    await_mirror_down(bench).await?;
    let (volume, marks) = (bench.server(mirror).volume().to_owned(), bench.folder().join("marks"));
    fs::remove_dir_all(bench.server(mirror).directory.clone())?;
    copied(&volume.join(".gpheal"), &marks)?;
    let small = Mount::small(&volume)?;
    bench.owner().folder(&volume)?;
    copied(&marks, &volume.join(".gpheal"))?;
    fs::write(volume.join("settings"), "what a person keeps there")?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    let filler = volume.join("filler");
    ensure!(std::io::copy(&mut std::io::repeat(1), &mut fs::File::create(&filler)?).is_err(), "the volume has no end");
    let failure = recover(bench, mirror, Repair::Full).await?.failure.context("it was copied to a full volume")?;
    ensure!(failure.class == FailureClass::NoRoom, "the recovery ended with {failure:?}");
    await_page(bench, mirror, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    fs::remove_file(filler)?;
    let outcome = recover(bench, mirror, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "with room the copy ended with {outcome:?}");
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    in_sync(bench).await?;

    bench.server(mirror).vanish()?;
    drop(small);
    supervise(bench, mirror)?;
    await_mirror_down(bench).await?;
    await_page(bench, mirror, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    let outcome = recover(bench, mirror, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "on its own volume the copy ended with {outcome:?}");
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// What an earlier copy has put aside is proven anew while nothing stands in its place.
async fn nothing_is_kept(bench: &mut Bench, dbid: i16) -> Result<()> {
    let volume = Volume::open(&bench.server(dbid).directory)?;
    let until = Instant::now() + Duration::from_mins(1);
    while volume.keeps() {
        ensure!(Instant::now() < until, "what a copy has replaced is not removed");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn copied(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    succeed(command).map(drop)
}

/// Something that is mounted until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn bind(from: &Path, to: &Path) -> Result<Self> {
        let mut command = Command::new("mount");
        command.arg("--bind").arg(from).arg(to);
        succeed(command).map(|_| Self(to.to_owned()))
    }

    fn small(to: &Path) -> Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=1500M", "small"]).arg(to);
        succeed(command).map(|_| Self(to.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there is about to end.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn log_of(bench: &mut Bench, dbid: i16) -> PathBuf {
    let folder = bench.dialect().wal_folder();
    bench.server(dbid).file(folder)
}
