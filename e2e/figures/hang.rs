//! How long a commit waits for a mirror that hangs, with gpheal and with what PostgreSQL does alone (`wal_sender_timeout`).

use std::time::Instant;

use anyhow::Result;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::Figure;
use crate::{
    bed::fault::{cut_pod, freeze, lose_node},
    fixture::NAMESPACE,
    scenarios::{
        Stage,
        surroundings::{ON_DELETE, SETS, put_back, restarted, strategy},
    },
};

/// FTS' grace for a mirror that is gone, in the fixture.
const GRACE: f64 = 10.0;
/// What is done to the mirror. Its node is lost in the same moment, so that no kubelet starts it again.
#[derive(Clone, Copy)]
enum Hurt {
    /// Each process of its container is stopped, its supervisor too; the kernel goes on answering for it.
    Frozen,
    /// Its pod has no network, as without power.
    Unpowered,
}

/// Each at a content of its own: a pair is cut once a minute at most.
const HURTS: [(i16, Hurt, &str); 2] = [(0, Hurt::Frozen, "frozen"), (1, Hurt::Unpowered, "without power")];

pub async fn measure(stage: &mut Stage) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    for (content, hurt, how) in HURTS {
        let waits = commit_waits(stage, content, hurt).await?;
        figures.push(Figure::new(format!("a mirror is {how}: a commit of its content waits"), "s", vec![waits], Some(GRACE + 10.0)));
    }
    let sets: Api<StatefulSet> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let left_alone = json!([{ "name": "GPHEAL_HASTEN_LOST_MIRROR", "value": "false" }]);
    let patch = json!({ "spec": { "updateStrategy": { "type": ON_DELETE, "rollingUpdate": null },
        "template": { "spec": { "containers": [{ "name": "greenplum", "env": left_alone }] } } } });
    let mut as_built = vec![];
    for set in SETS {
        as_built.push(sets.get(set).await?);
        sets.patch(set, &PatchParams::default(), &Patch::Strategic(patch.clone())).await?;
    }
    for (content, hurt, how) in HURTS {
        let (primary, _) = stage.pair(content).await?;
        restarted(stage, &primary).await?;
        let waits = commit_waits(stage, content, hurt).await?;
        figures.push(Figure::new(format!("the same, {how}, without gpheal (GPHEAL_HASTEN_LOST_MIRROR=false)"), "s", vec![waits], None));
    }
    for set in &as_built {
        put_back(&sets, set, ON_DELETE).await?;
    }
    for (content, ..) in HURTS {
        let (primary, _) = stage.pair(content).await?;
        restarted(stage, &primary).await?;
    }
    for set in &as_built {
        put_back(&sets, set, strategy(set)).await?;
    }
    Ok(figures)
}

/// In seconds, from the moment at which it is hurt.
async fn commit_waits(stage: &mut Stage, content: i16, hurt: Hurt) -> Result<f64> {
    let (primary, mirror) = stage.pair(content).await?;
    let session = stage.cluster.instance(&primary).await?;
    session.client().batch_execute("CREATE TABLE IF NOT EXISTS waits (i int)").await?;
    let container = stage.container(&mirror).await?;
    let (waited, node) = match hurt {
        Hurt::Frozen => {
            let (asleep, node, begun) = (freeze(&container)?, lose_node(&container)?, Instant::now());
            session.client().batch_execute("INSERT INTO waits VALUES (1)").await?;
            let waited = begun.elapsed();
            asleep.wake();
            (waited, node)
        }
        Hurt::Unpowered => {
            let (cut, node, begun) = (cut_pod(&container)?, lose_node(&container)?, Instant::now());
            session.client().batch_execute("INSERT INTO waits VALUES (1)").await?;
            let waited = begun.elapsed();
            cut.heal();
            (waited, node)
        }
    };
    node.release()?;
    stage.wait_healthy().await?;
    stage.cluster.instance(&stage.pair(content).await?.0).await?.client().batch_execute("DROP TABLE waits").await?;
    Ok(waited.as_secs_f64())
}
