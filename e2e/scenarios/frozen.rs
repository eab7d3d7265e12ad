//! Nodes are lost in the middle of repairs: nobody ends these attempts, and they must not hold up the rest of the cluster.

use anyhow::Result;
use model::Step;

use super::{
    Stage, copies,
    crashes::{pause_at, unpause},
    jobs::job_pod_at,
};
use crate::{
    bed::fault::{Container, freeze, lose_node},
    fixture::{CONTENTS, NAMESPACE, Row, place_of},
};

/// The container of a Job that repairs.
const WORKER: &str = "recover";

/// As many Jobs as may run at once (2) are frozen, each with its node; the content that is left is healed all the same.
pub async fn node_frozen(stage: &mut Stage) -> Result<()> {
    let (spared, lost) = apart(stage).await?;
    let mut held = vec![];
    for mirror in &lost {
        pause_at(stage, mirror, &Step::Copying.to_string()).await?;
        copies::empty(stage, mirror).await?;
    }
    // Both before a node is lost: they may be on one.
    let mut jobs = vec![];
    for mirror in &lost {
        jobs.push(job_at_work(stage, mirror).await?);
    }
    for job in &jobs {
        held.push((freeze(job)?, lose_node(job)?));
    }
    stage.mark("the nodes of two Jobs are lost, and their processes frozen");
    copies::empty(stage, &spared).await?;
    for mirror in &lost {
        let why = stage.wait_reason(mirror.dbid, "AttemptStuck").await?;
        stage.mark(why.message);
    }
    stage.wait_succeeded(spared.dbid).await?;
    stage.mark("the third content is healed");
    for (asleep, node) in held {
        asleep.wake();
        node.release()?;
    }
    for mirror in &lost {
        unpause(stage, mirror).await?;
    }
    for mirror in &lost {
        stage.wait_succeeded(mirror.dbid).await?;
    }
    stage.wait_healthy().await.map(drop)
}

/// A mirror on a node that carries no other one, and the others.
async fn apart(stage: &Stage) -> Result<(Row, Vec<Row>)> {
    let mut mirrors = vec![];
    for content in 0..CONTENTS {
        mirrors.push(stage.pair(content).await?.1);
    }
    for index in 0..mirrors.len() {
        let place = place_of(mirrors[index].pod())?;
        let mut others = mirrors.clone();
        let spared = others.remove(index);
        if others.iter().all(|other| place_of(other.pod()).is_ok_and(|node| node != place)) {
            return Ok((spared, others));
        }
    }
    anyhow::bail!("no mirror is alone on its node")
}

async fn job_at_work(stage: &Stage, mirror: &Row) -> Result<Container> {
    let pod = job_pod_at(stage, mirror, Step::Copying).await?;
    Container::find(&stage.bed, NAMESPACE, &pod, WORKER).await
}
