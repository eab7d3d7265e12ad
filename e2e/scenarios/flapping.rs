//! A mirror that falls again after its repair: of its own files, of its settings, and for no reason that is known.

use std::{
    fs::OpenOptions,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use api::recovery::{InstanceStatus, Phase};
use model::{Page, Repair};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    Stage,
    crashes::nothing_was_repaired,
    stage::{CLUSTER, HEALED_WITHIN, instance_of, until},
};
use crate::{
    bed::fault::Container,
    fixture::{DATA_DIRECTORY, Row},
};

/// Shorter than what a mirror needs from its checkpointer to its WAL receiver: one that streams between two ends stays up for FTS.
const APART: Duration = Duration::from_millis(5);
/// Between two looks at what came of the aborts.
const LOOKS: Duration = Duration::from_millis(300);

/// The checkpointer of a mirror is aborted again and again within a postmaster that lives, until a repair has begun; so twice, and
/// the third is not begun by itself. A person's is.
pub async fn flapping(stage: &mut Stage) -> Result<()> {
    stage.healing(json!({ "breaker": { "repairs": 3, "within": "1h" } })).await?;
    let (_, mirror) = stage.pair(1).await?;
    for round in 1..=2 {
        abort_until(stage, &mirror, &format!("repair {round} to begin"), async |stage| Ok(begun(stage, &mirror).await?.len() == round))
            .await?;
        stage.mark(format!("repair {round} began; the checkpointer lives from here on"));
        let all_over = async || {
            let all = begun(stage, &mirror).await?;
            Ok(if all.iter().all(|(phase, _)| *phase == Phase::Succeeded) { Ok(()) } else { Err(format!("{all:?}")) })
        };
        until(&format!("repair {round} to succeed"), HEALED_WITHIN, all_over).await?;
        stage.wait_healthy().await?;
    }
    abort_until(stage, &mirror, "the third repair not to be begun", async |stage| {
        let status = stage.clusters().get(CLUSTER).await?.status.unwrap_or_default();
        Ok(status.instances.iter().any(|one| one.dbid == i32::from(mirror.dbid) && one.reason == "Flapping"))
    })
    .await?;
    let told = stage.wait_reason(mirror.dbid, "Flapping").await?;
    ensure!(told.message.contains("(3) now") && told.lifted_by.contains("SegmentRecovery"), "{}; {}", told.message, told.lifted_by);
    let tells = |page: &Page| page.last_exit.as_ref().is_some_and(|exit| exit.inside && exit.how.contains("checkpointer"));
    stage.wait_page(&mirror, "telling of what it died", tells).await?;
    ensure!(begun(stage, &mirror).await?.len() == 2, "a third repair was begun");
    stage.mark("Flapping, with its causes");
    stage.ask("by-hand", json!({ "dbids": [mirror.dbid] }), "Auto").await?;
    abort_until(stage, &mirror, "a person's repair to begin", async |stage| Ok(begun(stage, &mirror).await?.len() == 3)).await?;
    let over = stage.wait_over("by-hand").await?;
    ensure!(over.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded), "{:?}", over.status);
    stage.healed.push(mirror.dbid);
    stage.wait_healthy().await.map(drop)
}

/// A mirror begins anew each time that it streams, faster than FTS' grace: it stays up and in sync for FTS, and is told of all the same.
pub async fn crash_looping(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(2).await?;
    let container = stage.container(&mirror).await?;
    for ends in 1..=5 {
        abort_checkpointer(&container)?;
        let anew = |page: &Page| page.restarts >= ends && page.receiving;
        stage.wait_page(&mirror, &format!("beginning anew, {ends} times"), anew).await?;
    }
    stage.mark("its checkpointer was aborted five times");
    let told = stage.wait_reason(mirror.dbid, "CrashLooping").await?;
    ensure!(told.row.ends_with("mmsu") && told.message.contains("checkpointer"), "{}: {}", told.row, told.message);
    stage.mark("CrashLooping, though it is up and in sync");
    stage.wait_healthy().await?;
    nothing_was_repaired(stage).await
}

/// Repairs of this instance of which an attempt began.
async fn begun(stage: &Stage, row: &Row) -> Result<Vec<(Phase, InstanceStatus)>> {
    let phase = |status: &api::SegmentRecoveryStatus| status.phase;
    let all = stage.all_recoveries().await?.into_iter();
    let mine = all.filter_map(|one| Some((phase(one.status.as_ref()?), instance_of(&one, row.dbid)?)));
    Ok(mine.filter(|(_, one)| one.attempt > 0).collect())
}

async fn abort_until(stage: &Stage, row: &Row, what: &str, seen: impl AsyncFn(&Stage) -> Result<bool>) -> Result<()> {
    let (aborts, end) = (Aborts::begin(stage.container(row).await?), Instant::now() + HEALED_WITHIN);
    while !seen(stage).await? {
        ensure!(Instant::now() < end, "waited {} s for {what}", HEALED_WITHIN.as_secs());
        aborts.go_on()?;
        tokio::time::sleep(LOOKS).await;
    }
    Ok(())
}

/// Aborts each checkpointer as soon as there is one, until it is dropped.
struct Aborts(Arc<AtomicBool>, std::thread::JoinHandle<Result<()>>);

impl Aborts {
    fn begin(container: Container) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                abort_checkpointer(&container)?;
                std::thread::sleep(APART);
            }
            Ok(())
        });
        Self(over, thread)
    }

    fn go_on(&self) -> Result<()> {
        ensure!(!self.1.is_finished(), "the container's processes cannot be looked at any more");
        Ok(())
    }
}

impl Drop for Aborts {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// There may be none just now: its postmaster begins anew, or was stopped for a repair.
fn abort_checkpointer(container: &Container) -> Result<()> {
    for pid in container.postgres()? {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&title).contains("checkpointer") {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGABRT);
        }
    }
    Ok(())
}

/// A folder without which no server starts is removed: it ends of its own files, and a repair that changes nothing is not waited for.
pub async fn damage_in_redo(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    std::fs::remove_dir_all(stage.volume(&mirror)?.folder().join(DATA_DIRECTORY).join("pg_replslot"))?;
    stage.kill_postmaster(&mirror).await?;
    stage.mark("pg_replslot of the mirror removed, postmaster killed");
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    stage.wait_healthy().await.map(drop)
}

/// A setting that no server takes: of what it ends is told for the instance and in the cluster, no repair is begun for it, and all
/// is well once the setting is mended.
pub async fn settings_broken(stage: &mut Stage) -> Result<()> {
    const SETTING: &str = "no_such_setting";
    let (_, mirror) = stage.pair(2).await?;
    let earlier = begun(stage, &mirror).await?.len();
    let file = stage.volume(&mirror)?.folder().join(DATA_DIRECTORY).join("postgresql.conf");
    let before = std::fs::read(&file)?;
    OpenOptions::new().append(true).open(&file)?.write_all(format!("\n{SETTING} = 1\n").as_bytes())?;
    stage.kill_postmaster(&mirror).await?;
    stage.mark("a setting that no server takes, postmaster killed");
    let told = stage.wait_reason(mirror.dbid, "DoesNotStart").await?;
    ensure!(told.message.contains(SETTING) && told.message.contains("line"), "{}", told.message);
    let in_cluster = async || {
        let status = stage.clusters().get(CLUSTER).await?.status.unwrap_or_default();
        Ok(if status.message.contains(SETTING) { Ok(()) } else { Err(status.message) })
    };
    until("the cluster's message to name the setting", Duration::from_secs(30), in_cluster).await?;
    stage.mark("told");
    std::fs::write(&file, before)?; // the same file: its owner stays
    stage.wait_healthy().await?;
    ensure!(begun(stage, &mirror).await?.len() == earlier, "a repair was begun for a setting");
    Ok(())
}
