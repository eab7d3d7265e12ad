//! The `SegmentRecovery` that automatic healing makes, and the next status of any recovery, Jobs first.

use kube::{ResourceExt, core::ObjectMeta};

use super::{Applier, ApplyError, Written};
use crate::observe::Seen;
use api::{
    GreenplumCluster, SegmentRecovery, SegmentRecoverySpec, SegmentRecoveryStatus, labels,
    recovery::{ClusterName, RecoveryType, Targets},
};
use model::{Dbid, InstanceNext, NewRecovery, Phase, RecoveryInstance, RecoveryNext, Refusal, Standing};

/// Longest reason in an annotation: it quotes a supervisor.
const LONGEST_WHY: usize = 1024;

/// The object; it goes with its cluster.
pub fn object(cluster: &GreenplumCluster, new: &NewRecovery) -> SegmentRecovery {
    let labels = [(labels::ORIGIN, labels::AUTOMATIC), (labels::CLUSTER, &cluster.name_any())];
    let why = (labels::WHY.to_owned(), crate::error::cut(&new.why, LONGEST_WHY));
    let follows = new.follows.clone().map(|before| (labels::FOLLOWS.to_owned(), before));
    let annotations = std::iter::once(why).chain(follows);
    SegmentRecovery {
        metadata: ObjectMeta {
            name: Some(new.name.clone()),
            namespace: cluster.namespace(),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some(annotations.collect()),
            owner_references: super::owned_by(cluster),
            ..ObjectMeta::default()
        },
        spec: SegmentRecoverySpec {
            cluster_ref: ClusterName { name: cluster.name_any() },
            targets: Targets { dbids: Some(vec![new.dbid.0.into()]), ..Targets::default() },
            type_: RecoveryType::Auto,
        },
        status: None,
    }
}

/// What became of one recovery's next state.
#[derive(Debug)]
pub struct Moved {
    pub written: Written<SegmentRecovery>,
    /// A Job was made, so the next look should come soon.
    pub made: bool,
    /// The instances whose Jobs could not be made.
    pub not_made: Vec<(Dbid, Refusal)>,
    pub errors: Vec<ApplyError>,
}

/// How a status is made of a next state; the report knows.
pub type MakeStatus<'a> = dyn Fn(&RecoveryNext) -> SegmentRecoveryStatus + Send + Sync + 'a;

impl Applier {
    /// Carries one recovery on. The order makes every crash harmless: first the status names the instances, then
    /// the Jobs are made, then the status says so; a Job that no status knows is adopted by the next look.
    /// `due` says whether a new status is worth a write now.
    ///
    /// # Errors
    /// [`ApplyError`] of the status; those of Jobs are in the answer.
    pub async fn advance(
        &self,
        cluster: &GreenplumCluster,
        seen: &Seen,
        object: &SegmentRecovery,
        next: &RecoveryNext,
        make: &MakeStatus<'_>,
        due: &(dyn Fn(&SegmentRecoveryStatus, bool) -> bool + Send + Sync),
    ) -> Result<Moved, ApplyError> {
        let jobs = next.instances.values().filter(|instance| instance.create_job.is_some()).count();
        let named = object.status.as_ref().is_some_and(|status| !status.instances.is_empty());
        let mut current = object.clone();
        if jobs > 0 && !named {
            match self.status(&current, None, &make(&unbegun(next))).await? {
                Written::Now(written) => current = *written,
                Written::Unchanged => {}
                Written::Moved => return Ok(Moved { written: Written::Moved, made: false, not_made: vec![], errors: vec![] }),
            }
        }
        let mut next = next.clone();
        let mut errors = self.jobs(cluster, seen, &current, &mut next).await;
        let not_made: Vec<_> = next.instances.iter().filter_map(|(dbid, one)| Some((*dbid, not_made(one)?))).collect();
        let begun = jobs > not_made.len();
        let ended = self.end_jobs(seen, &next, &current, &mut errors).await;
        let status = make(&next);
        let written =
            if due(&status, jobs > 0) { self.status(&current, current.status.as_ref(), &status).await? } else { Written::Unchanged };
        Ok(Moved { written, made: begun || ended, not_made, errors })
    }

    /// Deletes the Jobs that the plan says to end. Whether any was: what follows from it is known then.
    async fn end_jobs(&self, seen: &Seen, next: &RecoveryNext, object: &SegmentRecovery, errors: &mut Vec<ApplyError>) -> bool {
        let mut ended = false;
        for (dbid, instance) in &next.instances {
            let Some(why) = &instance.end_job else { continue };
            let job = seen.jobs.get(&object.name_any()).and_then(|jobs| jobs.get(dbid));
            match self.end_job(*dbid, job, why).await {
                Ok(done) => ended |= done,
                Err(error) => errors.push(error),
            }
        }
        ended
    }

    /// Makes the Jobs. An attempt whose Job could not be made has not begun: the state goes back, the reason stands.
    async fn jobs(&self, cluster: &GreenplumCluster, seen: &Seen, object: &SegmentRecovery, next: &mut RecoveryNext) -> Vec<ApplyError> {
        let (mut errors, mut told) = (vec![], vec![]);
        let before = seen.world.recoveries.iter().find(|one| one.name == object.name_any());
        for (dbid, instance) in &mut next.instances {
            let Some(attempt) = instance.create_job.clone() else { continue };
            if let Err(error) = self.job(cluster, object, seen, &attempt).await {
                let old = before.and_then(|one| one.instances.get(dbid)).cloned();
                instance.state = old.unwrap_or_else(|| RecoveryInstance::untouched(instance.state.content));
                let refusal = error.refusal();
                told.push(format!("dbid {dbid}: waits ({}): {refusal}; {}", refusal.code(), refusal.lifted_by()));
                (instance.create_job, instance.standing) = (None, Standing::Waiting(refusal));
                errors.push(error);
            }
        }
        if !told.is_empty() {
            next.message = told.join("; ");
        }
        if next.phase == Phase::Running && next.instances.values().all(|instance| instance.state.phase == Phase::Pending) {
            next.phase = Phase::Pending;
        }
        errors
    }
}

fn not_made(instance: &InstanceNext) -> Option<Refusal> {
    let Standing::Waiting(refusal @ Refusal::NotMade { .. }) = &instance.standing else { return None };
    Some(refusal.clone())
}

/// The same recovery with its instances named and nothing begun.
fn unbegun(next: &RecoveryNext) -> RecoveryNext {
    let mut unbegun = next.clone();
    unbegun.phase = Phase::Pending;
    unbegun.message = "its instances are known; the first attempt begins".into();
    for instance in unbegun.instances.values_mut().filter(|instance| instance.create_job.is_some()) {
        instance.state = RecoveryInstance::untouched(instance.state.content);
        instance.create_job = None;
    }
    unbegun
}
