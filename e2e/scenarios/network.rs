//! Who talks to whom, from where and by which rules: addresses that are not a pod's own, a mirror that is cut off, a role with
//! bounds of its own, and a primary that lets nobody replicate.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::{SegmentRecovery, recovery::Phase};
use kube::api::DeleteParams;
use model::Repair;

use super::{
    Stage, copies,
    stage::{HEALED_WITHIN, instance_of, until},
};
use crate::{
    bed::fault::{cut_pod, keep_down, lose_node, translate},
    fixture::{DATA_DIRECTORY, Row},
};

/// An address of documentation: no pod of the bed has it.
const PROXY: &str = "192.0.2.6";
/// FTS' grace for a mirror that is gone is 10 s in the fixture, and gpheal may add as much (docs/hang.md). `wal_sender_timeout` is
/// far beyond; the figure itself is measured by `make figures`.
const COMMITS_WAIT: Duration = Duration::from_secs(40);

/// Whoever connects to the acting primary arrives from one address, as through a service mesh.
pub async fn mesh(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(1).await?;
    let translated = translate(&stage.container(&primary).await?, primary.port, PROXY)?;
    copies::empty(stage, &mirror).await?;
    let told = |recovery: &SegmentRecovery, _: &_| recovery.status.as_ref().is_some_and(|status| status.message.contains(PROXY));
    let recovery = stage.wait_recovery(mirror.dbid, "a word of the other address", told).await;
    let healed = stage.wait_succeeded(mirror.dbid).await;
    translated.end();
    recovery?;
    ensure!(healed?.type_ == Some(Repair::Full), "it was no full copy");
    stage.wait_healthy().await.map(drop)
}

/// A mirror's pod has no network and its node is lost, as without power: commits of its content go on once FTS' grace is over.
pub async fn mirror_cut_off(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(2).await?;
    let session = stage.cluster.instance(&primary).await?;
    session.client().batch_execute("CREATE TABLE IF NOT EXISTS waits (i int)").await?;
    let container = stage.container(&mirror).await?;
    let (cut, node) = (cut_pod(&container)?, lose_node(&container)?);
    let begun = Instant::now();
    stage.mark("the mirror's pod is cut off, and its node lost");
    let commit = async {
        session.client().batch_execute("INSERT INTO waits VALUES (1)").await?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let told = until("the status to tell of the mirror", HEALED_WITHIN, async || {
        let unwell = stage.clusters().get(super::stage::CLUSTER).await?.status.unwrap_or_default().instances;
        let one = unwell.into_iter().find(|one| one.dbid == i32::from(mirror.dbid));
        Ok(one.filter(|one| ["MirrorHangs", "MirrorUnreachable"].contains(&one.reason.as_str())).ok_or_else(|| "nothing is told".into()))
    });
    let (waited, told) = tokio::try_join!(commit, told)?;
    stage.mark(format!("{}: {}", told.reason, told.message));
    stage.mark(format!("a commit waited {:.1} s", waited.as_secs_f64()));
    cut.heal();
    node.release()?;
    ensure!(waited < COMMITS_WAIT, "a commit waited {waited:?}");
    session.client().batch_execute("DROP TABLE waits").await?;
    stage.wait_healthy().await.map(drop)
}

/// The role of Jobs has bounds that cancel whatever takes longer than a moment.
pub async fn role_with_bounds(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    let settings = ["statement_timeout = '10ms'", "lock_timeout = '10ms'", "search_path = nowhere"];
    let (acting, _) = stage.coordinators().await?;
    for row in [&acting, &primary] {
        let session = stage.cluster.instance(row).await?;
        for setting in settings {
            session.client().batch_execute(&format!("ALTER ROLE gpadmin SET {setting}")).await?;
        }
    }
    let healed = lost_and_healed(stage, &primary, &mirror).await;
    for row in [&acting, &stage.pair(0).await?.0] {
        stage.cluster.instance(row).await?.client().batch_execute("ALTER ROLE gpadmin RESET ALL").await?;
    }
    healed
}

async fn lost_and_healed(stage: &mut Stage, primary: &Row, mirror: &Row) -> Result<()> {
    let down = keep_down(&stage.container(primary).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    down.release()?;
    stage.wait_rewound(primary.dbid).await
}

/// No line of `pg_hba.conf` for replication: said at once and by the server's own words, and healed when the line is back.
pub async fn replication_refused(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(1).await?;
    let file = stage.volume(&primary)?.folder().join(DATA_DIRECTORY).join("pg_hba.conf");
    let before = fs::read_to_string(&file)?;
    let without: Vec<_> = before.lines().filter(|line| line.split_whitespace().nth(1) != Some("replication")).collect();
    fs::write(&file, without.join("\n") + "\n")?;
    let reload = "SELECT pg_catalog.pg_reload_conf()";
    stage.cluster.instance(&primary).await?.client().batch_execute(reload).await?;
    copies::empty(stage, &mirror).await?;
    let over = |recovery: &SegmentRecovery, _: &_| recovery.status.as_ref().is_some_and(|s| s.phase == Phase::Failed);
    let recovery = stage.wait_recovery(mirror.dbid, "its end", over).await;
    fs::write(&file, before)?;
    stage.cluster.instance(&primary).await?.client().batch_execute(reload).await?;
    let recovery = recovery?;
    let one = instance_of(&recovery, mirror.dbid).context("the recovery has lost its instance")?;
    let told = format!("{:?} {}", one.failure, recovery.status.unwrap_or_default().message);
    ensure!(told.contains("LoginRefused") && told.contains("pg_hba.conf") && one.attempt == 1, "attempt {}: {told}", one.attempt);
    stage.mark("LoginRefused, at the first attempt");
    stage.recoveries().delete(&recovery.metadata.name.unwrap_or_default(), &DeleteParams::default()).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}
