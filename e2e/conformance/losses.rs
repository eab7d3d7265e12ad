//! Ways to lose the last copy, tried against gpheal on these servers: a primary that was put back on an older copy of its
//! volume, and a coordinator whose standby was activated.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use greenplum::Dialect;
use model::{FailureClass, Incarnation, InstanceState, Lsn, Page, Reach, Repair, Role, Timeline};
use segment::volume::{Copy, Old, Original, Remembered, Volume, token::TOKEN};
use tokio::time::sleep;

use super::{
    bench::{Bench, GRACE, STANDBY, succeed},
    query::{connect, expect_same},
    standby,
    supervised::{
        acting_and_mirror, await_page, ensure_supervised, install, recover, recover_waived, say_roles, supervise, supervise_beside,
        supervise_with,
    },
};

/// It goes on writing, so that soon its position is far beyond the end of its mirror, which alone has the rows between.
pub async fn a_restored_primary_that_wrote_past_its_mirror_is_not_followed(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let older = older_copy(bench, primary).await?;
    bench.utility(primary).await?.rows(ONLY_IN_SYNC).await?;

    bench.server(mirror).stop()?;
    sleep(Duration::from_secs(GRACE)).await;
    await_status(bench, mirror, 'd').await?;
    bench.server(primary).vanish()?;
    put_back(bench, primary, &older)?;
    supervise(bench, primary)?;
    bench.await_session(primary).await?;
    takes_writes(bench, primary).await?;
    let much = "CREATE TABLE much (i int); INSERT INTO much SELECT generate_series(1, 100000)";
    bench.utility(primary).await?.rows(much).await?;

    let before = files(bench, mirror)?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "staying closed", |page| page.state == InstanceState::NeedsRecovery).await?;
    for repair in [Repair::Incremental, Repair::Full] {
        let class = recover(bench, mirror, repair).await?.failure.map(|failure| failure.class);
        expect_same(&format!("how {repair} fails"), &class, &Some(FailureClass::HistoryDiffers))?;
    }
    ensure!(before == files(bench, mirror)?, "the mirror's directory was changed");
    std::fs::remove_dir_all(&older)?;
    what_a_copy_has_put_aside_is_not_given_up(bench, mirror).await?;
    bench.start_again().await
}

/// An earlier full copy of the mirror was cut off between its renames, and the primary was put back then: nothing stands in the
/// mirror's place that could tell.
async fn what_a_copy_has_put_aside_is_not_given_up(bench: &mut Bench, mirror: i16) -> Result<()> {
    let volume = Volume::open(&bench.server(mirror).directory)?;
    let attempt = "earlier".to_owned();
    volume.write("copy", &Copy { attempt: attempt.clone(), repair: Repair::Full, since: jiff::Timestamp::now() })?;
    volume.keep(&Old { attempt, directory: volume.beside_old(), tablespaces: vec![], originals: vec![] })?;
    std::fs::rename(volume.data(), volume.beside_old())?;
    for rest in [false, true] {
        if rest {
            // Of a copy whose removal was cut off.
            bench.owner().folder(volume.data())?;
            std::fs::write(volume.data().join("rest"), "")?;
        }
        let class = recover(bench, mirror, Repair::Full).await?.failure.map(|failure| failure.class);
        expect_same("how a full copy over what is put aside fails", &class, &Some(FailureClass::HistoryDiffers))?;
        ensure!(volume.beside_old().join("PG_VERSION").exists() && volume.data().exists() == rest, "it did not stay as it was");
    }
    Ok(())
}

/// A full copy came into a mirror's place and was lost before it was in sync: the marks on the volume were the copy's, and the primary
/// has not kept the log at the original's end. What was known of the original when it was put aside tells whose it is.
pub async fn an_original_is_judged_by_what_was_known_when_it_was_put_aside(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let serving = await_page(bench, primary, "its incarnations", |page| !page.incarnations.is_empty()).await?;
    let followed = await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?.followed;
    expect_same("the incarnation that the mirror follows", &followed.last(), &serving.incarnations.last())?;
    bench.utility(primary).await?.rows(&format!("{ONLY_IN_SYNC}; CHECKPOINT")).await?;
    bench.server(mirror).stop()?; // its control file says by then that it reaches beyond where the incarnation began
    sleep(Duration::from_secs(GRACE)).await;
    await_status(bench, mirror, 'd').await?;
    let volume = Volume::open(&bench.server(mirror).directory)?;
    let restored = followed.iter().map(|one| Incarnation { nonce: "of a run that the primary lost".into(), ..one.clone() }).collect();
    let attempt = "earlier".to_owned();
    let (shared, beyond) = (None, Some(Reach { timeline: Timeline(1), end: Lsn(u64::MAX) }));
    for (followed, proven, fails) in [
        (vec![], shared, Some(FailureClass::HistoryUnknown)),
        (restored, shared, Some(FailureClass::HistoryDiffers)),
        (followed.clone(), beyond, Some(FailureClass::HistoryDiffers)),
        (followed, shared, None),
    ] {
        volume.write("copy", &Copy { attempt: attempt.clone(), repair: Repair::Full, since: jiff::Timestamp::now() })?;
        let original = Original { directory: volume.beside_old(), remembered: Remembered { followed, proven, own: vec![] } };
        volume.keep(&Old { attempt: attempt.clone(), directory: volume.beside_old(), tablespaces: vec![], originals: vec![original] })?;
        if volume.data().exists() {
            std::fs::rename(volume.data(), volume.beside_old())?;
            std::fs::remove_dir_all(volume.beside_old().join(bench.dialect().wal_folder()))?;
            forget_followed(&volume)?;
        }
        let class = recover(bench, mirror, Repair::Full).await?.failure.map(|failure| failure.class);
        expect_same("how a full copy over the original fails", &class, &fails)?;
    }
    bench.start_again().await
}

/// As a full copy leaves the token.
fn forget_followed(volume: &Volume) -> Result<()> {
    let path = volume.marks_folder().join(TOKEN);
    let mut token: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    token["followed"] = serde_json::json!([]);
    token["followedIn"] = serde_json::Value::Null;
    Ok(std::fs::write(&path, token.to_string())?)
}

/// Whoever waits for no more than an answer opens it, and the rows that were acknowledged since are on its mirror alone.
pub async fn a_primary_put_back_while_its_mirror_is_in_sync_stays_closed(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let older = older_copy(bench, primary).await?;
    bench.utility(primary).await?.rows(ONLY_IN_SYNC).await?;

    let before = await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?.reaches;
    bench.server(primary).vanish()?;
    await_page(bench, mirror, "how far its log reaches by now", |page| page.reaches.is_some() && page.reaches != before).await?;
    put_back(bench, primary, &older)?;
    supervise(bench, primary)?;
    is_kept_closed(bench, primary, mirror).await?;
    let rewound = recover(bench, primary, Repair::Incremental).await?;
    expect_same("how it fails", &rewound.failure.map(|failure| failure.class), &Some(FailureClass::CannotRewind))?;
    let healed = recover(bench, primary, Repair::Full).await?;
    ensure!(healed.failure.is_none(), "the older copy is not repaired: {healed:?}");
    std::fs::remove_dir_all(&older)?;
    bench.start_again().await
}

/// Its supervisor lives on while a person keeps postgres down and puts the files back, and the file that tells one data directory
/// from another is not written anew: neither is shown by anything that the volume did not have before.
pub async fn a_primary_put_back_in_place_stays_closed(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let older = older_copy(bench, primary).await?;
    bench.utility(primary).await?.rows(ONLY_IN_SYNC).await?;

    let before = await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?.reaches;
    let retired = bench.server(primary).volume().join(".gpheal/retired");
    std::fs::write(&retired, "")?;
    await_page(bench, primary, "being retired", |page| page.state == InstanceState::Retired && page.serves.is_none()).await?;
    await_page(bench, mirror, "how far its log reaches by now", |page| page.reaches.is_some() && page.reaches != before).await?;
    put_back_in_place(bench, primary, &older)?;
    std::fs::remove_file(&retired)?;
    is_kept_closed(bench, primary, mirror).await?;
    std::fs::remove_dir_all(&older)?;
    bench.start_again().await
}

/// And its mirror, which has the rows that the older copy lacks, is promoted.
async fn is_kept_closed(bench: &mut Bench, primary: i16, mirror: i16) -> Result<()> {
    let closed = |page: &Page| page.state == InstanceState::PutBack && page.detail.contains("holds what this one lacks");
    await_page(bench, primary, "staying closed", closed).await?;
    sleep(Duration::from_secs(GRACE)).await;
    let promoted = format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {mirror}");
    await_value(bench, &promoted, "p").await?;
    await_page(bench, mirror, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    let rows = bench.utility(mirror).await?.value("SELECT count(*) FROM only_in_sync").await?;
    expect_same("rows that were acknowledged", &rows, &"1000".to_owned())?;
    await_page(bench, primary, "being a mirror", |page| page.state == InstanceState::NeedsRecovery).await.map(drop)
}

/// The running one is stopped, and stays down; nobody asks it.
pub async fn a_coordinator_whose_standby_is_activated_is_fenced(bench: &mut Bench) -> Result<()> {
    bench.start_again().await?;
    standby::make(bench).await?;
    install(bench)?;
    [1, 2, 3, 4, 5, STANDBY].into_iter().try_for_each(|dbid| bench.server(dbid).stop())?;
    for dbid in [STANDBY, 1, 2, 3, 4, 5] {
        supervise_beside(bench, dbid, &[1, STANDBY])?;
    }
    await_page(bench, 1, "dispatch", |page| page.serves == Some(Role::Primary)).await?;
    await_page(bench, STANDBY, "following", |page| page.serves == Some(Role::Mirror)).await?;
    standby::activate(bench).await?;
    let overtaken = |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("has taken over");
    await_page(bench, 1, "being overtaken", overtaken).await?;
    ensure!(bench.utility(1).await.is_err(), "the old coordinator is still open");
    let reached = connect(bench.port(STANDBY), "").await?.rows("SELECT gp_segment_id FROM gp_dist_random('gp_id') ORDER BY 1").await?;
    expect_same("contents reached by the new one", &reached, &vec!["0".into(), "1".into()])?;
    bench.start_again().await
}

/// The zone of coordinator and primary is lost after a mirror was marked down, and the standby coordinator had not heard of that:
/// its catalog has the mirror promoted, and the rows that its primary acknowledged alone are on that one's volume only.
pub async fn what_was_acknowledged_alone_is_not_overwritten(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = serve_alone(bench).await?;
    bench.server(old).vanish()?;
    let older = format!(
        "SET allow_system_table_mods = true; UPDATE gp_segment_configuration SET status = 'u', mode = 's' WHERE dbid IN ({old}, {new})"
    );
    bench.utility(1).await?.rows(&older).await?;
    supervise(bench, new)?;
    await_page(bench, new, "running", |page| page.state == InstanceState::Serving).await?;
    await_value(bench, &format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {new}"), "p").await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    supervise(bench, old)?;
    await_page(bench, old, "telling that the catalog is old", |page| page.state == InstanceState::CatalogOutdated).await?;
    let before = files(bench, old)?;
    for repair in [Repair::Incremental, Repair::Full] {
        let class = recover(bench, old, repair).await?.failure.map(|failure| failure.class);
        expect_same(&format!("how {repair} fails"), &class, &Some(FailureClass::ServedAlone))?;
    }
    ensure!(before == files(bench, old)?, "the only copy of the rows was changed");
    let given_up = recover_waived(bench, old).await?;
    ensure!(given_up.failure.is_none(), "a person cannot give it up: {given_up:?}");
    bench.start_again().await
}

/// The mirror's volume is put back on an older copy, its primary is lost before FTS has looked, and FTS promotes what is left: the rows
/// that both had acknowledged are on the old primary alone.
pub async fn what_a_mirror_had_confirmed_before_it_was_put_back_is_not_overwritten(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 1).await?;
    await_page(bench, new, "following", |page| page.receiving && !page.followed.is_empty()).await?;
    let older = older_copy(bench, new).await?;
    bench.utility(old).await?.rows("CREATE TABLE confirmed (i int); INSERT INTO confirmed SELECT generate_series(1, 1000)").await?;
    await_confirmed(bench, old).await?;
    for lost in [new, old] {
        bench.server(lost).vanish()?;
    }
    put_back(bench, new, &older)?;
    supervise(bench, new)?;
    await_value(bench, &format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {new}"), "p").await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    supervise(bench, old)?;
    await_page(bench, old, "being a mirror", |page| page.state == InstanceState::NeedsRecovery).await?;
    let before = files(bench, old)?;
    for repair in [Repair::Incremental, Repair::Full] {
        let class = recover(bench, old, repair).await?.failure.map(|failure| failure.class);
        expect_same(&format!("how {repair} fails"), &class, &Some(FailureClass::PromotedBehind))?;
    }
    ensure!(before == files(bench, old)?, "the only copy of the rows was changed");
    let given_up = recover_waived(bench, old).await?;
    ensure!(given_up.failure.is_none(), "a person cannot give it up: {given_up:?}");
    std::fs::remove_dir_all(&older)?;
    bench.start_again().await
}

/// All that the primary has written so far is confirmed, and that is on its volume.
async fn await_confirmed(bench: &mut Bench, primary: i16) -> Result<()> {
    let sql = match bench.dialect().of_gpheal() {
        Dialect::Six => "SELECT pg_current_xlog_location()",
        Dialect::Seven => "SELECT pg_current_wal_lsn()",
    };
    let written: Lsn = bench.utility(primary).await?.value(sql).await?.parse().map_err(|_| anyhow::anyhow!("no position"))?;
    let volume = Volume::open(&bench.server(primary).directory)?;
    for _ in 0..100 {
        if volume.confirmed()?.is_some_and(|confirmed| confirmed.end >= written) {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("what the mirror has confirmed is not written down")
}

/// The catalog of a coordinator that was activated is from before the last failover: it calls the one a mirror that has served alone
/// since then, on the same timeline as the other side, which was down.
pub async fn who_served_alone_is_not_killed_on_the_word_of_an_older_catalog(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = serve_alone(bench).await?;
    let outdated = |page: &Page| page.state == InstanceState::CatalogOutdated;
    say_roles(bench, new, old).await?;
    let told = |page: &Page| outdated(page) && page.serves == Some(Role::Primary);
    await_page(bench, old, "telling that the catalog is old", told).await?;
    expect_same("rows", &bench.utility(old).await?.value("SELECT count(*) FROM alone").await?, &"10000".to_owned())?;

    bench.server(old).vanish()?;
    supervise(bench, old)?;
    let closed = await_page(bench, old, "staying closed", |page| outdated(page) && page.serves.is_none()).await?;
    let lifted_by = closed.detail.split_once("gpheal.io/replaced=").and_then(|(_, rest)| rest.split_once(')'));
    let (value, _) = lifted_by.with_context(|| format!("nothing is said of how it is lifted: {}", closed.detail))?;
    let annotations = bench.server(old).volume().join("annotations");
    std::fs::write(&annotations, format!("gpheal.io/replaced=\"{value}\"\n"))?;
    bench.server(old).vanish()?;
    supervise_with(bench, old, &[1], &[("GPHEAL_ANNOTATIONS", &annotations.display().to_string())])?;
    await_page(bench, old, "being a mirror, as a person says", |page| page.state == InstanceState::NeedsRecovery).await?;
    bench.start_again().await
}

/// What FTS told it while its mirror was down is taken back before any catalog calls the pair in sync.
pub async fn who_served_alone_once_is_a_mirror_after_a_failover(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let healthy = bench.pair(0).await?;
    let (old, new) = serve_alone(bench).await?;
    supervise(bench, new)?;
    bench.await_pair(0, &healthy).await?;
    bench.server(old).vanish()?;
    await_status(bench, old, 'd').await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    supervise(bench, old)?;
    await_page(bench, old, "being a mirror", |page| page.state == InstanceState::NeedsRecovery).await?;
    let rewound = recover(bench, old, Repair::Incremental).await?;
    ensure!(rewound.failure.is_none(), "it is not repaired: {rewound:?}");
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    bench.start_again().await
}

/// The mirror of content 0 is down, FTS has told its primary to commit without it, and it did.
pub async fn serve_alone(bench: &mut Bench) -> Result<(i16, i16)> {
    let (old, new) = acting_and_mirror(bench, 0).await?;
    await_page(bench, new, "receiving", |page| page.receiving).await?;
    bench.server(new).vanish()?;
    sleep(Duration::from_secs(GRACE)).await;
    await_status(bench, new, 'd').await?;
    bench.utility(old).await?.rows("CREATE TABLE alone (i int); INSERT INTO alone SELECT generate_series(1, 10000)").await?;
    Ok((old, new))
}

/// Rows that are acknowledged while the pair is in sync, and that the older copy lacks.
const ONLY_IN_SYNC: &str = "CREATE TABLE only_in_sync (i int); INSERT INTO only_in_sync SELECT generate_series(1, 1000)";

/// A copy of its volume; the pair is in sync again afterwards.
pub async fn older_copy(bench: &mut Bench, dbid: i16) -> Result<PathBuf> {
    let healthy = bench.pair(1).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    let volume = bench.server(dbid).volume().to_owned();
    let older = volume.with_extension("older");
    // What a mirror has not noted yet of a primary that has only just begun shows that one, begun again, as put back.
    let begun = await_page(bench, primary, "serving", |page| !page.incarnations.is_empty()).await?.incarnations;
    await_page(bench, mirror, "following that one", |page| page.receiving && page.followed.last() == begun.last()).await?;
    bench.utility(primary).await?.rows("CHECKPOINT").await?;
    bench.server(dbid).vanish()?; // FTS looks once a minute, or when it is asked
    copy(&volume, &older)?;
    supervise(bench, dbid)?;
    bench.await_session(primary).await?;
    await_page(bench, mirror, "following", |page| page.receiving && !page.followed.is_empty()).await?;
    bench.await_pair(1, &healthy).await?;
    Ok(older)
}

pub fn put_back(bench: &mut Bench, primary: i16, older: &Path) -> Result<()> {
    let volume = bench.server(primary).volume().to_owned();
    std::fs::remove_dir_all(&volume)?;
    copy(older, &volume)
}

/// As `rsync` does it: what is the same stays as it is.
fn put_back_in_place(bench: &mut Bench, primary: i16, older: &Path) -> Result<()> {
    let mut back = std::process::Command::new("sh");
    back.args(["-ec", "cd \"$0\"; find . -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec rm -rf {} +; cp -a \"$1/data/.\" ."]);
    back.arg(&bench.server(primary).directory).arg(older);
    succeed(back).map(drop)
}

pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?; // of a check that failed
    }
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    succeed(command).map(drop)
}

/// Path, size and time of every file of the data directory.
pub fn files(bench: &mut Bench, dbid: i16) -> Result<String> {
    let mut command = std::process::Command::new("find");
    command.arg(&bench.server(dbid).directory).args(["-printf", "%P %s %T@\\n"]);
    succeed(command)
}

/// Has FTS look until the row says so.
pub async fn await_status(bench: &mut Bench, dbid: i16, status: char) -> Result<()> {
    await_value(bench, &format!("SELECT status::text FROM gp_segment_configuration WHERE dbid = {dbid}"), &status.to_string()).await
}

/// Has FTS look until the catalog answers so.
pub async fn await_value(bench: &mut Bench, sql: &str, value: &str) -> Result<()> {
    for _ in 0..100 {
        bench.probe().await?;
        if bench.utility(1).await?.value(sql).await? == value {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("{sql}: not '{value}'")
}

/// The older copy is of a time when the pair was in sync: until FTS tells it, commits wait for the mirror.
pub async fn takes_writes(bench: &mut Bench, primary: i16) -> Result<()> {
    for _ in 0..100 {
        bench.probe().await?;
        if bench.utility(primary).await?.value("SHOW synchronous_standby_names").await?.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("dbid {primary} waits for its mirror with every commit")
}
