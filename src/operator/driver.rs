//! One cluster: observe, plan, apply, report, again and again. Its own task, so that a cluster whose coordinator
//! hangs holds up nobody else.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, ObjectMeta},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::Instrument;

use super::undriven;

use crate::error;
use crate::{
    apply::{Applied, Applier, ApplyError, Written},
    observe::{Observer, Seen, cluster::ObserveError},
    report::{
        self,
        events::{self, Happened, Sender},
        metrics::{Metrics, Of, Pass},
        pace::Pace,
    },
};
use api::{GreenplumCluster, GreenplumClusterStatus, SegmentRecovery, convert};
use model::{Plan, RecoveryNext, World};
use plan;

/// Between looks while something is going on.
const RESTLESS: Duration = Duration::from_secs(2);
/// Between looks while all is well. FTS's own truth makes no event in Kubernetes.
const WELL: Duration = Duration::from_secs(30);
/// While the next step of a repair is a matter of moments.
const SOON: Duration = Duration::from_millis(250);
/// After something was made: what follows from it is known already.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Least time between two looks, however many events there are.
const APART: Duration = Duration::from_millis(500);
/// Longest time between two passes that fail.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(1);
/// And between two of which all but some of what was planned came about: the others are healed meanwhile.
const LONGEST_OF_SOME: Duration = Duration::from_secs(10);
/// After old recoveries could not be removed.
const UNTIDY: Duration = Duration::from_mins(10);
/// Longest text of what did not come about in one pass.
const LONGEST_ERROR: usize = 4096;
/// Bound of reading the cluster's own object.
const CALL: Duration = Duration::from_secs(15);

/// What all drivers share.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub metrics: Metrics,
    pub events: Sender,
    pub image: Option<String>,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error("cannot read GreenplumCluster {name}")]
    Read {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer within {} s when reading GreenplumCluster {name}", CALL.as_secs())]
    TimedOut { name: String },
    #[error("GreenplumCluster {name} is invalid: {why}")]
    Invalid { name: String, why: String },
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What was planned and did not come about.
    #[error("{}", each(.0))]
    NotDone(Vec<ApplyError>),
}

fn each(errors: &[ApplyError]) -> String {
    let all: Vec<_> = errors.iter().map(|error| error::chain(error)).collect();
    error::cut(&all.join("; "), LONGEST_ERROR)
}

/// What a pass came to.
enum Ended {
    /// The object is gone, or going.
    Gone,
    /// The next look is due then.
    Next { after: Duration, changed: bool },
}

/// Drives one cluster.
pub struct Driver {
    context: Context,
    of: Of,
    api: Api<DeserializeGuard<GreenplumCluster>>,
    observer: Observer,
    applier: Applier,
    pace: Pace,
    shown: BTreeSet<&'static str>,
    /// Looks in a row at something that does not move before a person or the cluster's pods do.
    still: u32,
    /// The generation of an object that cannot be read, once that was said on it.
    invalid: Option<i64>,
    /// When old recoveries may be removed again.
    tidy_from: Option<Instant>,
    wake: Arc<Notify>,
    selector: watch::Sender<Option<LabelSelector>>,
}

/// However it ends: a cluster that is not driven has no metrics.
impl Drop for Driver {
    fn drop(&mut self) {
        self.context.metrics.forget(&self.of, &self.shown);
    }
}

impl Driver {
    /// `selector` is told which pods are worth a look when they change.
    pub fn new(context: Context, of: Of, wake: Arc<Notify>, selector: watch::Sender<Option<LabelSelector>>) -> Self {
        let client = context.client.clone();
        Self {
            api: Api::namespaced(client.clone(), &of.namespace),
            observer: Observer::new(client.clone(), &of.namespace, wake.clone()),
            applier: Applier::new(client, &of.namespace, context.image.clone()),
            pace: Pace::default(),
            shown: BTreeSet::new(),
            still: 0,
            invalid: None,
            tidy_from: None,
            context,
            of,
            wake,
            selector,
        }
    }

    /// Until the object is gone.
    pub async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let begun = Instant::now();
            match self.pass().await {
                Ok(Ended::Gone) => break,
                Ok(Ended::Next { after, changed }) => {
                    failures = 0;
                    self.context.metrics.pass(&self.of, if changed { Pass::Changed } else { Pass::Unchanged });
                    // A large cluster is not looked at all the time: at least as much rest as work.
                    self.rest(after.max(begun.elapsed()), if self.still > 0 { after / 6 } else { APART }).await;
                }
                Err(failure) => {
                    failures += 1;
                    let pause = pause(&failure, failures);
                    self.context.metrics.pass(&self.of, Pass::Failed);
                    tracing::error!(error = error::chain(&failure), again_in = ?pause, "a pass failed");
                    self.rest(pause, pause / 2).await;
                }
            }
        }
        tracing::info!("the cluster's object is gone, or going; it is healed no more");
    }

    /// Until `after`, or until something has happened, but no shorter than `apart`: pods of a cluster that nobody can
    /// help may restart all day.
    async fn rest(&self, after: Duration, apart: Duration) {
        let apart = apart.max(APART).min(after);
        sleep(apart).await;
        let wake = self.wake.clone();
        let something = async {
            tokio::select! {
                () = wake.notified() => {}
                () = self.observer.until_something_happens() => {}
            }
        };
        let _ = timeout(after.saturating_sub(apart), something).await;
    }

    /// When the next look is due. What does not move before a person does is looked at ever less often.
    fn due(&mut self, world: &World, plan: &Plan, made: bool, now: Timestamp) -> Duration {
        self.still = if !made && plan.stands_still(world) { self.still.saturating_add(1) } else { 0 };
        let moments = self.still == 0 && plan.is_lively(now);
        match (made, moments, world.restless()) {
            (true, ..) => AT_ONCE,
            (false, true, _) => SOON,
            (false, false, false) => WELL,
            (false, false, true) => RESTLESS.saturating_mul(1 << self.still.saturating_sub(1).min(5)).min(WELL),
        }
    }

    async fn pass(&mut self) -> Result<Ended, DriveError> {
        let Some(cluster) = self.read().await? else { return Ok(Ended::Gone) };
        self.selector.send_if_modified(|known| {
            let wanted = Some(cluster.spec.segments.selector.clone());
            let moved = *known != wanted;
            *known = wanted;
            moved
        });
        let seen = match Box::pin(self.observer.look(&cluster)).await {
            Ok(seen) => seen,
            Err(error) => {
                self.unseen(&cluster, &error).await?;
                return Err(error.into());
            }
        };
        self.act(&cluster, &seen, Timestamp::now()).await
    }

    /// What follows from a look: it is planned, done and told.
    async fn act(&mut self, cluster: &GreenplumCluster, seen: &Seen, now: Timestamp) -> Result<Ended, DriveError> {
        let mut plan = plan::plan(&convert::policy(&cluster.spec.healing), &seen.world, now);
        self.observer.follow(cluster, seen, &plan).await;
        let mut applied = self.applier.new_recoveries(cluster, &plan).await;
        let mut changed = !applied.recoveries.is_empty();
        for (name, next) in &plan.recoveries {
            let span = tracing::info_span!("recovery", recovery = %name);
            changed |= self.recovery(cluster, seen, name, next, now, &mut applied).instrument(span).await;
        }
        for (dbid, recovery, refusal) in &applied.not_made {
            plan.was_not_made(*dbid, recovery, refusal);
        }
        self.observer.not_made = plan.still_not_made(&self.observer.not_made, &applied.not_made);
        match self.cluster(cluster, seen, &plan, &applied, now).await {
            Ok(wrote) => changed |= wrote,
            Err(error) => applied.errors.push(error),
        }
        self.tidy(seen, &plan).await;
        self.pace.keep_only(|name| name == self.of.cluster || seen.objects.contains_key(name));
        if !applied.errors.is_empty() {
            return Err(DriveError::NotDone(applied.errors));
        }
        Ok(Ended::Next { after: self.due(&seen.world, &plan, applied.made, now), changed })
    }

    /// Removes old recoveries. That it cannot, for want of a right most of all, is told and holds up no healing.
    async fn tidy(&mut self, seen: &Seen, plan: &Plan) {
        if plan.removals.is_empty() || self.tidy_from.is_some_and(|from| from > Instant::now()) {
            return;
        }
        if let Err(failure) = self.applier.remove(seen, plan).await {
            self.tidy_from = Some(Instant::now() + UNTIDY);
            let error = error::chain(&failure);
            tracing::warn!(error, again_in = ?UNTIDY, "old recoveries are not removed; the operator's role has to allow deleting them");
        }
    }

    /// The cluster's object as it is now; never from a cache.
    async fn read(&mut self) -> Result<Option<GreenplumCluster>, DriveError> {
        let name = self.of.cluster.clone();
        let read = timeout(CALL, self.api.get_opt(&name)).await.map_err(|_| DriveError::TimedOut { name: name.clone() })?;
        let found = read.map_err(|source| DriveError::Read { name: name.clone(), source: Box::new(source) })?;
        let Some(guarded) = found else { return Ok(None) };
        match guarded.0 {
            Ok(cluster) if cluster.metadata.deletion_timestamp.is_some() => {
                undriven::say_deleting(&self.applier, &cluster).await?;
                Ok(None)
            }
            Ok(cluster) => Ok(Some(cluster)),
            Err(invalid) => {
                self.say_invalid(&invalid.metadata, &invalid.error).await?;
                Err(DriveError::Invalid { name, why: invalid.error })
            }
        }
    }

    /// Once for each generation: the rest of its status cannot be read either, so it cannot be compared.
    async fn say_invalid(&mut self, metadata: &ObjectMeta, why: &str) -> Result<(), DriveError> {
        let generation = metadata.generation.unwrap_or_default();
        if self.invalid == Some(generation) {
            return Ok(());
        }
        let message = format!("this operator cannot read the object: {why}; lifted when it is of the version of the installed definitions");
        undriven::say(&self.applier, &self.of.cluster, metadata.generation, "Invalid", &message).await?;
        self.invalid = Some(generation);
        Ok(())
    }

    /// Carries one recovery on. One that fails does not keep the others from going on.
    async fn recovery(
        &mut self,
        cluster: &GreenplumCluster,
        seen: &Seen,
        name: &str,
        next: &RecoveryNext,
        now: Timestamp,
        applied: &mut Applied,
    ) -> bool {
        let Some(object) = seen.objects.get(name) else { return false };
        let jobs = seen.jobs.get(name).cloned().unwrap_or_default();
        let make = |next: &RecoveryNext| report::recovery::status(object, next, &jobs, now);
        let pace = &self.pace;
        let due =
            |new: &api::SegmentRecoveryStatus, made: bool| made || pace.due(name, report::recovery::matters(object.status.as_ref(), new));
        let moved = match self.applier.advance(cluster, seen, object, next, &make, &due).await {
            Ok(moved) => moved,
            Err(error) => {
                let live = next.instances.iter().filter(|(_, one)| !one.state.phase.is_over());
                applied.not_made.extend(live.map(|(dbid, _)| (*dbid, name.to_owned(), error.refusal())));
                applied.errors.push(error);
                return false;
            }
        };
        applied.made |= moved.made || moved.written == Written::Moved;
        applied.not_made.extend(moved.not_made.into_iter().map(|(dbid, refusal)| (dbid, name.to_owned(), refusal)));
        applied.errors.extend(moved.errors);
        match moved.written {
            Written::Now(written) => {
                self.pace.wrote(name);
                self.tell_recovery(object, &written, now).await;
                true
            }
            Written::Unchanged => moved.made,
            Written::Moved => false,
        }
    }

    async fn tell_recovery(&self, before: &SegmentRecovery, after: &SegmentRecovery, now: Timestamp) {
        let Some(status) = &after.status else { return };
        let happened = events::of_recovery(before.status.as_ref(), status);
        log(&happened);
        self.context.events.send(&before.object_ref(&()), &happened, now).await;
        self.context.metrics.recovery(before.status.as_ref(), after);
    }

    async fn cluster(
        &mut self,
        cluster: &GreenplumCluster,
        seen: &Seen,
        plan: &Plan,
        applied: &Applied,
        now: Timestamp,
    ) -> Result<bool, ApplyError> {
        let status = report::cluster::status(cluster, &seen.world, plan, now);
        if seen.world.catalog.seen().is_some() {
            self.context.metrics.cluster(&self.of, &status.counts, plan, &mut self.shown);
        }
        let made = applied.recoveries.iter();
        let made = made.map(|(name, why)| Happened::normal("RecoveryCreated", format!("SegmentRecovery {name}: {why}")));
        self.write(cluster, &status, made.collect(), now).await
    }

    /// A status of a look that failed altogether.
    async fn unseen(&mut self, cluster: &GreenplumCluster, error: &ObserveError) -> Result<bool, DriveError> {
        let now = Timestamp::now();
        let (code, advice, lasts) = error.advice();
        let status = report::cluster::unseen(cluster, code, &format!("{}; {advice}", error::chain(error)), lasts, now);
        Ok(self.write(cluster, &status, vec![], now).await?)
    }

    async fn write(
        &mut self,
        cluster: &GreenplumCluster,
        status: &GreenplumClusterStatus,
        mut happened: Vec<Happened>,
        now: Timestamp,
    ) -> Result<bool, ApplyError> {
        let old = cluster.status.as_ref();
        let mut wrote = false;
        if self.pace.due(&self.of.cluster, report::cluster::matters(old, status))
            && let Written::Now(_) = self.applier.status(cluster, old, status).await?
        {
            self.pace.wrote(&self.of.cluster);
            happened.extend(events::of_cluster(old, status));
            wrote = true;
        }
        log(&happened);
        self.context.events.send(&cluster.object_ref(&()), &happened, now).await;
        Ok(wrote)
    }
}

/// What is told as events is told in the log, too.
fn log(happened: &[Happened]) {
    for Happened { warning, reason, note, dbid, content } in happened {
        if *warning {
            tracing::warn!(dbid, content, %reason, "{note}");
        } else {
            tracing::info!(dbid, content, %reason, "{note}");
        }
    }
}

/// What could not be made is told, and holds up the others no longer than it takes to be seen to pass.
fn pause(failure: &DriveError, failures: u32) -> Duration {
    match failure {
        DriveError::NotDone(_) => back_off(failures).min(LONGEST_OF_SOME),
        DriveError::Read { .. }
        | DriveError::TimedOut { .. }
        | DriveError::Invalid { .. }
        | DriveError::Observe(_)
        | DriveError::Apply(_) => back_off(failures),
    }
}

/// 1 s, 2 s, 4 s … at most a minute.
pub(super) fn back_off(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
