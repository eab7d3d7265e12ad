//! What is said of a cluster that nobody drives: conditions on its own object, of which nothing but its name has to be readable.

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    apply::{Applier, ApplyError},
    report,
};
use api::{GreenplumCluster, condition};

/// Reason of a cluster whose object is being deleted.
const DELETING: &str = "Deleting";

/// Says on the object `name` why it is not healed.
pub async fn say(applier: &Applier, name: &str, generation: Option<i64>, code: &str, message: &str) -> Result<(), ApplyError> {
    let conditions = condition::merge(&[], &report::cluster::not_seen(code, message, true), generation, Timestamp::now());
    applier.conditions::<GreenplumCluster>(name, generation, &conditions, message).await
}

/// A finalizer of somebody else may hold an object for days, and what was last seen of the cluster would stand there: said once.
pub async fn say_deleting(applier: &Applier, cluster: &GreenplumCluster) -> Result<(), ApplyError> {
    let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let said = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.reason == DELETING);
    let held = cluster.finalizers();
    if said || held.is_empty() {
        return Ok(());
    }
    let message = format!("the object is being deleted, so the cluster is healed no more; the finalizers {} hold it", held.join(", "));
    say(applier, &cluster.name_any(), cluster.metadata.generation, DELETING, &message).await
}
