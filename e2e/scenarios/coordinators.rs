//! Two coordinators: whoever was overtaken is stopped and stays down, who crashed is back at once, and an older catalog
//! neither opens nor kills anybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use model::{InstanceState, Page};
use serde_json::{Value, json};

use super::{
    Stage,
    crashes::{nothing_was_repaired, serves_again},
    handover::{activate, as_built, believed, follows, make_standby, pod_is},
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::fault::{Container, cut_pod, keep_down, kill_postmaster},
    fixture::{Mode, NAMESPACE, Row},
};

/// Runs only where every content is reached.
const DISPATCHED: &str = "SELECT count(*) FROM gp_dist_random('gp_id')";
/// A restart in place, against two minutes of waiting for the other one.
const BACK_WITHIN: Duration = Duration::from_secs(20);
/// So long an overtaken coordinator is looked at.
const A_WHILE: Duration = Duration::from_secs(5);

/// Activated while the old one crash-loops, and activated back while that one is cut off.
pub async fn overtaken(stage: &mut Stage) -> Result<()> {
    let before = stage.wait_healthy().await?.to_string();
    let (first, second) = stage.coordinators().await?;
    let crashes = CrashLoop::of(stage.container(&first).await?);
    stage.mark("the coordinator's postmaster is killed again and again");
    activate(stage, &second).await?;
    crashes.end()?;
    stays_down(stage, &first).await?;
    make_standby(stage, &first).await?;

    let cut = cut_pod(&stage.container(&second).await?)?;
    stage.mark("the acting coordinator is cut off");
    activate(stage, &first).await?;
    tokio::time::sleep(A_WHILE).await; // shorter than FTS of the one that is cut off needs to flip what it cannot reach
    ensure!(!stage.container(&second).await?.postgres()?.is_empty(), "the one that was cut off does not run any more");
    cut.heal();
    stage.mark("plugged in again");
    stays_down(stage, &second).await?;
    make_standby(stage, &second).await?;
    let after = stage.wait_healthy().await?.to_string();
    ensure!(before == after, "roles flipped: {before} became {after}");
    nothing_was_repaired(stage).await
}

/// Says why, runs nothing, and takes no dispatched statement.
async fn stays_down(stage: &mut Stage, old: &Row) -> Result<()> {
    let overtaken = |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("has taken over");
    stage.wait_page(old, "being overtaken", overtaken).await?;
    stage.mark(format!("{} is down, and knows why", old.pod()));
    never_dispatches(stage, old, A_WHILE).await
}

async fn never_dispatches(stage: &Stage, old: &Row, how_long: Duration) -> Result<()> {
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        if let Ok(session) = stage.cluster.coordinator_at(old.pod(), Mode::Dispatch).await {
            let answer = session.client().query_one(DISPATCHED, &[]).await;
            ensure!(answer.is_err(), "{} dispatches beside the acting one", old.pod());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// A postmaster that is killed as soon as it is there.
struct CrashLoop {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl CrashLoop {
    fn of(container: Container) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut killed = 0;
            while !told.load(Ordering::Relaxed) {
                killed += u32::from(kill_postmaster(&container).is_ok());
                std::thread::sleep(Duration::from_millis(100));
            }
            killed
        });
        Self { over, thread }
    }

    fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let killed = self.thread.join().map_err(|_| anyhow::anyhow!("the killer died"))?;
        ensure!(killed > 0, "it was never killed");
        Ok(())
    }
}

/// Its standby's pod is away, and nobody can have been activated in the second since its crash.
pub async fn crash(stage: &mut Stage) -> Result<()> {
    let (acting, standby) = stage.coordinators().await?;
    pod_is(stage, &standby, false).await?;
    stage.kill_postmaster(&acting).await?;
    let killed = Instant::now();
    stage.mark("postmaster of the coordinator killed");
    until("the coordinator to dispatch again", BACK_WITHIN, async || {
        Ok(match stage.cluster.coordinator(Mode::Dispatch).await {
            Ok(session) => session.client().query_one(DISPATCHED, &[]).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    stage.mark(format!("dispatches again after {:.1} s", killed.elapsed().as_secs_f64()));
    pod_is(stage, &standby, true).await?;
    follows(stage, &standby).await?;
    stage.wait_healthy().await?;
    nothing_was_repaired(stage).await
}

/// A cold start of the old one, with the one that was activated slow: what the segments have seen decides.
pub async fn cold(stage: &mut Stage) -> Result<()> {
    let (old, new) = stage.coordinators().await?;
    pod_is(stage, &old, false).await?;
    activate(stage, &new).await?;
    believed(stage).await?;
    pod_is(stage, &new, false).await?;
    waits_for(stage, "gp-coordinator", Some("4")).await?;
    pod_is(stage, &old, true).await?;
    let refuted =
        |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("has believed a coordinator on timeline");
    stage.wait_page(&old, "being refuted by segments", refuted).await?;
    stage.mark("the old one, alone, asked the segments");
    never_dispatches(stage, &old, A_WHILE).await?;
    pod_is(stage, &new, true).await?;
    stays_down(stage, &old).await?;
    serves_again(stage, &new).await?;
    pod_is(stage, &old, false).await?;
    waits_for(stage, "gp-coordinator", None).await?;
    as_built(stage).await?;
    stage.wait_healthy().await?;
    nothing_was_repaired(stage).await
}

/// How long a coordinator waits for the other one; changed while its pod is away.
async fn waits_for(stage: &Stage, set: &str, seconds: Option<&str>) -> Result<()> {
    let name = "GPHEAL_COORDINATOR_WAIT";
    let variable = seconds.map_or_else(|| json!({ "name": name, "$patch": "delete" }), |value| json!({ "name": name, "value": value }));
    let patch: Value = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "greenplum", "env": [variable] }] } } } });
    let sets = Api::<StatefulSet>::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    sets.patch(set, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

/// A pair fails over while the standby's catalog is behind, and that catalog becomes the acting one: by it the stale
/// primary is to be opened, and the one that has the commits to be stopped.
pub async fn replaced(stage: &mut Stage) -> Result<()> {
    stage.healing(json!({ "paused": true })).await?;
    let (first, second) = stage.coordinators().await?;
    let (old_side, serving) = stage.pair(0).await?;
    pod_is(stage, &second, false).await?;
    let down = keep_down(&stage.container(&old_side).await?)?;
    stage.wait_row(serving.dbid, "pnu").await?;
    down.release()?;
    stage.wait_page(&old_side, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    stage.mark("failed over; the standby has not seen it");
    serves_again(stage, &serving).await?;
    let postmaster = stage.container(&serving).await?.postmaster()?;

    pod_is(stage, &first, false).await?;
    pod_is(stage, &second, true).await?;
    stage.wait_page(&second, "its standby's role", |page| page.serves.is_some()).await?;
    activate(stage, &second).await?;
    neither_opened_nor_killed(stage, &old_side, &serving, postmaster).await?;
    stage.wait_row(serving.dbid, "pnu").await?;
    stage.mark("FTS of the new one has found who serves");
    ensure!(stage.container(&serving).await?.postmaster()? == postmaster, "{} was restarted", serving.pod());
    stage.healing(json!({ "paused": false })).await?;
    stage.wait_succeeded(old_side.dbid).await?;
    stage.wait_healthy().await?;
    as_built(stage).await
}

/// Looked at for as long as the older catalog stands, which is some seconds.
async fn neither_opened_nor_killed(stage: &mut Stage, old_side: &Row, serving: &Row, postmaster: i32) -> Result<()> {
    until("the stale primary to say that it was replaced", HEALED_WITHIN, async || {
        let container = stage.container(old_side).await?;
        ensure!(container.postgres()?.is_empty(), "the stale primary was opened");
        let alive = stage.container(serving).await?.postmaster().ok();
        ensure!(alive == Some(postmaster), "the one that serves was killed: {alive:?} is there instead of {postmaster}");
        Ok(match stage.page(old_side).await {
            Ok(page) if page.state == InstanceState::Replaced => Ok(()),
            // FTS was quicker: its row is a mirror's again, and the older catalog is over.
            Ok(_) if stage.catalog().await?.by_dbid(old_side.dbid).is_some_and(|row| row.role == 'm') => Ok(()),
            Ok(page) => Err(format!("{:?}: {}", page.state, page.detail)),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    stage.mark("the stale one stays closed, the other one serves");
    Ok(())
}
