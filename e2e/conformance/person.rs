//! What a person has said once, by an annotation that nobody took away again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::{InstanceState, Page, Repair, Role, Timeline};
use tokio::time::sleep;

use super::{
    bench::{Bench, STANDBY},
    losses::await_value,
    standby,
    supervised::{acting_and_mirror, await_page, ensure_supervised, install, recover, say_roles, supervise, supervise_with},
};

/// A person has said once that a promotion to timeline 2 does not count, and the annotation stands in the pod's template since. The other
/// side was made a mirror again, and is promoted: to timeline 2, for it goes on from this one's.
pub async fn what_was_said_of_one_promotion_says_nothing_of_the_next(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 0).await?;
    let healthy = bench.pair(0).await?;
    await_page(bench, new, "receiving", |page| page.receiving).await?;
    fail_over_and_forget(bench, old, new).await?;
    supervise(bench, old)?;
    let closed = await_page(bench, old, "staying closed", |page| page.state == InstanceState::Replaced).await?;
    let lifted_by = closed.detail.split_once("gpheal.io/not-replaced=").and_then(|(_, rest)| rest.split_once(')'));
    let (value, _) = lifted_by.with_context(|| format!("nothing is said of how it is lifted: {}", closed.detail))?;
    let annotations = bench.server(old).volume().join("annotations");
    std::fs::write(&annotations, format!("gpheal.io/not-replaced=\"{value}\"\n"))?;
    let annotations = annotations.display().to_string();
    bench.server(old).vanish()?;
    bench.server(new).vanish()?;
    supervise_with(bench, old, &[1], &[("GPHEAL_ANNOTATIONS", &annotations)])?;
    await_page(bench, old, "serving, as a person says", |page| page.serves == Some(Role::Primary)).await?;
    bench.probe().await?;
    // It is ahead of the one that goes on, so its directory is a person's to give up.
    let directory = bench.server(new).directory.clone();
    std::fs::remove_dir_all(&directory)?;
    supervise(bench, new)?;
    await_page(bench, new, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    let given_up = recover(bench, new, Repair::Full).await?;
    ensure!(given_up.failure.is_none(), "the other side is not made a mirror again: {given_up:?}");
    bench.await_pair(0, &healthy).await?;

    bench.utility(old).await?.rows("CREATE TABLE twice (i int)").await?;
    fail_over_and_forget(bench, old, new).await?;
    bench.utility(new).await?.rows("INSERT INTO twice VALUES (1)").await?;
    supervise_with(bench, old, &[1], &[("GPHEAL_ANNOTATIONS", &annotations)])?;
    await_page(bench, old, "staying closed again", |page| page.state == InstanceState::Replaced).await?;
    let session = bench.utility(new).await?;
    session.rows("SET synchronous_commit = local; INSERT INTO twice VALUES (2)").await?;
    bench.start_again().await
}

/// The mirror is promoted, and the catalog that is read from then on has not heard of it.
async fn fail_over_and_forget(bench: &mut Bench, old: i16, new: i16) -> Result<()> {
    bench.server(old).vanish()?;
    await_value(bench, &format!("SELECT role::text FROM gp_segment_configuration WHERE dbid = {new}"), "p").await?;
    await_page(bench, new, "serving as a primary", |page| page.serves == Some(Role::Primary)).await?;
    bench.await_session(new).await?;
    say_roles(bench, old, new).await
}

const LET_IT_BE_BELIEVED: &str = "gpheal.io/coordinator-timeline=\"1:2\"\n";
/// For longer than a coordinator waits for another one.
const LONG: Duration = Duration::from_secs(20);
/// A supervisor that runs nothing looks again within this.
const MOMENT: Duration = Duration::from_secs(6);

/// The activated standby was lost with its volume, so the old coordinator is to be believed again, on timeline 1 although its
/// segments have believed one on timeline 2. Later a new standby is activated, to timeline 2 again, and is silent for a while: the
/// annotation still stands.
pub async fn what_was_said_of_one_activation_says_nothing_of_the_next(bench: &mut Bench) -> Result<()> {
    bench.start_again().await?;
    standby::make(bench).await?;
    install(bench)?;
    let annotations = bench.folder().join("annotations");
    let says = |text: &str| std::fs::write(&annotations, text);
    says("")?;
    bench.owner().file(&annotations, 0o644)?;
    [1, 2, 3, 4, 5, STANDBY].into_iter().try_for_each(|dbid| bench.server(dbid).stop())?;
    for dbid in [STANDBY, 1, 2, 3, 4, 5] {
        supervise_and_tell(bench, dbid)?;
    }
    await_page(bench, 1, "dispatch", |page| page.serves == Some(Role::Primary)).await?;
    is_activated_and_lost(bench).await?;
    let lifted_by = |page: &Page| page.detail.contains("(gpheal.io/coordinator-timeline=1:2)");
    await_page(bench, 1, "telling how it is believed again", lifted_by).await?;
    says(LET_IT_BE_BELIEVED)?;
    is_believed_again(bench).await?;

    std::fs::remove_dir_all(bench.server(STANDBY).volume())?;
    bench.owner().folder(bench.server(STANDBY).volume())?;
    bench.copy_coordinator()?;
    supervise_and_tell(bench, STANDBY)?;
    is_activated_and_lost(bench).await?;
    sleep(LONG).await;
    let spent = |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("counts no more");
    await_page(bench, 1, "staying closed", spent).await?;
    says("")?;
    sleep(MOMENT).await;
    ensure!(bench.utility(1).await.is_err(), "the coordinator that was overtaken is open");

    says(LET_IT_BE_BELIEVED)?;
    is_believed_again(bench).await?;
    bench.start_again().await
}

fn supervise_and_tell(bench: &mut Bench, dbid: i16) -> Result<()> {
    let annotations = bench.folder().join("annotations").display().to_string();
    supervise_with(bench, dbid, &[1, STANDBY], &[("GPHEAL_ANNOTATIONS", &annotations), ("GPHEAL_COORDINATOR_WAIT", "10")])
}

/// The standby; the old coordinator and a segment have seen it before.
async fn is_activated_and_lost(bench: &mut Bench) -> Result<()> {
    await_page(bench, STANDBY, "following", |page| page.receiving).await?;
    standby::activate(bench).await?;
    let overtaken = |page: &Page| page.state == InstanceState::WaitingForPeer && page.detail.contains("has taken over");
    await_page(bench, 1, "being overtaken", overtaken).await?;
    has_been_seen(bench, Timeline(2)).await?;
    bench.server(STANDBY).vanish()
}

async fn is_believed_again(bench: &mut Bench) -> Result<()> {
    await_page(bench, 1, "dispatch again", |page| page.serves == Some(Role::Primary)).await?;
    has_been_seen(bench, Timeline(1)).await
}

/// By a segment whose pair is well, which asks about once a minute.
async fn has_been_seen(bench: &mut Bench, timeline: Timeline) -> Result<()> {
    let seen = |page: &Page| page.coordinator_timeline == Some(timeline);
    let heard = format!("having heard of the coordinator on timeline {timeline}");
    if await_page(bench, 2, &heard, seen).await.is_ok() {
        return Ok(());
    }
    await_page(bench, 2, &heard, seen).await.map(drop)
}
