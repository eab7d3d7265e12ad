//! What a person has said once, by an annotation that nobody took away again.

use anyhow::{Context, Result, ensure};
use gpheal::model::{InstanceState, Repair, Role};

use super::{
    bench::Bench,
    losses::await_value,
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, say_roles, supervise, supervise_with},
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
