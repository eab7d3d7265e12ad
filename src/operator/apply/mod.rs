//! Plan -> Kubernetes. Each effect is bound to what the plan saw: an object that has moved since is not written,
//! it is looked at again; a name that is taken is ours, because names are deterministic, or it is an error.

mod carried;
pub mod job;
pub mod recovery;

#[cfg(test)]
pub mod mock;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::{
    api::batch::v1::Job,
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::PartialObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;

use crate::observe::{Seen, jobs::JobSeen};
use api::{GreenplumCluster, SegmentRecovery, labels};
use model::{Attempt, Dbid, NewRecovery, Plan, Refusal, Removal};

/// Bound of one call.
const CALL: Duration = Duration::from_secs(15);

/// Why an effect did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot create {what} {name}")]
    Create {
        what: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot write the status of {name}")]
    Status {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer within {} s when writing {name}", CALL.as_secs())]
    TimedOut { name: String },
    #[error("the name {name} is taken by a {what} that is not ours; delete it if it is of no use")]
    Taken { what: &'static str, name: String },
    #[error("the Job {name} cannot be made")]
    Job {
        name: String,
        #[source]
        source: job::JobError,
    },
    #[error("the Job {name} is not ended: it may have begun to copy")]
    MayCopy { name: String },
    #[error("cannot end the Job {name}")]
    End {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot remove the SegmentRecovery {name}")]
    Remove {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the pod of dbid {dbid} was not seen")]
    NoPod { dbid: Dbid },
}

impl ApplyError {
    /// The same for whoever reads the status: what was refused stands until a person changes something, the rest passes.
    pub fn refusal(&self) -> Refusal {
        let passes = match self {
            Self::Create { source, .. } | Self::Status { source, .. } | Self::End { source, .. } | Self::Remove { source, .. } => {
                !is_refused(source)
            }
            Self::Job { source, .. } => source.passes(),
            Self::Taken { .. } => false,
            Self::TimedOut { .. } | Self::MayCopy { .. } | Self::NoPod { .. } => true,
        };
        Refusal::NotMade { why: crate::error::chain(self), passes }
    }
}

/// By a quota, a policy, a missing right or an older definition: not for being busy, and not for having moved.
fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429))
}

/// Whether a status was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Written<T> {
    /// As the API server has it now.
    Now(Box<T>),
    /// It says the same already.
    Unchanged,
    /// Somebody wrote in between, or deleted it: look again.
    Moved,
}

/// What became of one plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Recoveries that were made, by name, with why.
    pub recoveries: Vec<(String, String)>,
    /// Something was made, so the next look should come soon.
    pub made: bool,
    /// For which instance, and by which recovery, something could not be made.
    pub not_made: Vec<(Dbid, String, Refusal)>,
    pub errors: Vec<ApplyError>,
}

/// Writes within one namespace.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    namespace: String,
    /// Image of this program, which is installed into the Jobs' pods.
    image: Option<String>,
}

impl Applier {
    pub fn new(client: Client, namespace: &str, image: Option<String>) -> Self {
        Self { client, namespace: namespace.to_owned(), image }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes the recoveries of a plan. One that fails does not keep the others from being made.
    pub async fn new_recoveries(&self, cluster: &GreenplumCluster, plan: &Plan) -> Applied {
        let mut applied = Applied::default();
        for new in &plan.new_recoveries {
            match self.new_recovery(cluster, new).await {
                Ok(true) => {
                    applied.recoveries.push((new.name.clone(), new.why.clone()));
                    applied.made = true;
                }
                Ok(false) => {}
                Err(error) => {
                    applied.not_made.push((new.dbid, new.name.clone(), error.refusal()));
                    applied.errors.push(error);
                }
            }
        }
        applied
    }

    /// Whether it was made now. A namesake, which the look before did not list, is what the next look lists: nothing was made.
    async fn new_recovery(&self, cluster: &GreenplumCluster, new: &NewRecovery) -> Result<bool, ApplyError> {
        let object = recovery::object(cluster, new);
        match self.create(&object).await? {
            Created::Now => {
                tracing::info!(recovery = %new.name, dbid = %new.dbid, content = %new.content, repair = %new.repair, why = %new.why, "a recovery is made");
                Ok(true)
            }
            Created::Exists => {
                tracing::warn!(recovery = %new.name, "a recovery of this name came into being since the last look");
                Ok(false)
            }
            Created::Failed(source) => Err(ApplyError::Create { what: "SegmentRecovery", name: new.name.clone(), source }),
        }
    }

    /// Makes the Job of an attempt. A namesake that this recovery owns was made before: it is adopted.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn job(
        &self,
        cluster: &GreenplumCluster,
        object: &SegmentRecovery,
        seen: &Seen,
        attempt: &Attempt,
    ) -> Result<(), ApplyError> {
        let dbid = attempt.target.dbid;
        let name = attempt.id.clone();
        let pod = seen.pods.get(&dbid).ok_or(ApplyError::NoPod { dbid })?;
        let plan = job::Plan { cluster, recovery: object, attempt, pod, image: self.image.as_deref() };
        let job = job::job(&plan).map_err(|source| ApplyError::Job { name: name.clone(), source })?;
        match self.create(&job).await? {
            Created::Now => {
                tracing::info!(%dbid, content = %attempt.content, recovery = %attempt.recovery, job = %name, repair = %attempt.repair, "a Job is made");
                Ok(())
            }
            Created::Exists => self.adopt(object, &name, dbid).await,
            Created::Failed(source) => Err(ApplyError::Create { what: "Job", name, source }),
        }
    }

    async fn adopt(&self, object: &SegmentRecovery, name: &str, dbid: Dbid) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Create { what: "Job", name: name.to_owned(), source: Box::new(source) };
        let found = self.bounded(name, self.api::<Job>().get(name)).await?.map_err(failed)?;
        let owned = found.owner_references().iter().any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref());
        let same = found.labels().get(labels::DBID).is_some_and(|text| *text == dbid.to_string());
        if !(owned && same) {
            return Err(ApplyError::Taken { what: "Job", name: name.to_owned() });
        }
        tracing::info!(%dbid, job = %name, "a Job that was made before is adopted");
        Ok(())
    }

    /// Deletes the Job of an attempt that does not go on, as it was seen: one that has moved since is looked at again. `false`:
    /// it has moved, or is gone. Never one that may have begun to copy, unless its node is gone for good.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn end_job(&self, dbid: Dbid, job: Option<&JobSeen>, why: &str) -> Result<bool, ApplyError> {
        let Some((job, (uid, version))) = job.and_then(|job| Some((job, job.object.clone()?))) else { return Ok(false) };
        let name = job.view.name.clone();
        if job.view.begun && !job.view.node_gone {
            return Err(ApplyError::MayCopy { name });
        }
        match self.bounded(&name, self.api::<Job>().delete(&name, &as_seen(uid, version))).await? {
            Ok(_) => {
                tracing::warn!(%dbid, job = %name, %why, "a Job that does not go on is ended");
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
            Err(source) => Err(ApplyError::End { name, source: Box::new(source) }),
        }
    }

    /// Removes the objects of old recoveries, each as it was seen, with what is left of their Jobs.
    ///
    /// # Errors
    /// [`ApplyError`] of the first one that cannot be removed; the others are left, too.
    pub async fn remove(&self, seen: &Seen, plan: &Plan) -> Result<(), ApplyError> {
        for Removal { recovery: name, why } in &plan.removals {
            let Some(object) = seen.objects.get(name) else { continue };
            let (Some(uid), Some(version)) = (object.uid(), object.resource_version()) else { continue };
            match self.bounded(name, self.api::<SegmentRecovery>().delete(name, &as_seen(uid, version))).await? {
                Ok(_) => tracing::info!(recovery = %name, %why, "an old recovery is removed"),
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                Err(source) => return Err(ApplyError::Remove { name: name.clone(), source: Box::new(source) }),
            }
        }
        Ok(())
    }

    /// Writes a status by server-side apply, if it differs, on the very object that was read.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn status<K, S>(&self, object: &K, old: Option<&S>, new: &S) -> Result<Written<K>, ApplyError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
        S: Serialize + PartialEq,
    {
        if old == Some(new) {
            return Ok(Written::Unchanged);
        }
        let name = object.name_any();
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": {"name": name, "resourceVersion": object.resource_version()},
            "status": new,
        });
        let how = PatchParams::apply(labels::MANAGER).force();
        match self.bounded(&name, self.api::<K>().patch_status(&name, &how, &Patch::Apply(body))).await? {
            Ok(written) => Ok(Written::Now(Box::new(written))),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(Written::Moved),
            Err(source) => Err(ApplyError::Status { name, source: Box::new(source) }),
        }
    }

    /// Writes conditions and message onto an object of which nothing but its name can be read; the rest of its status stays.
    ///
    /// # Errors
    /// [`ApplyError`]
    pub async fn conditions<K>(
        &self,
        name: &str,
        generation: Option<i64>,
        conditions: &[Condition],
        message: &str,
    ) -> Result<(), ApplyError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        let api = self.api::<PartialObjectMeta<K>>();
        let patch = json!({"status": {"observedGeneration": generation, "conditions": conditions, "message": message}});
        match self.bounded(name, api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).await? {
            Ok(_) => Ok(()),
            Err(source) => Err(ApplyError::Status { name: name.to_owned(), source: Box::new(source) }),
        }
    }

    async fn create<K>(&self, object: &K) -> Result<Created, ApplyError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let how = PostParams { field_manager: Some(labels::MANAGER.into()), ..PostParams::default() };
        match self.bounded(&object.name_any(), self.api::<K>().create(&how, object)).await? {
            Ok(_) => Ok(Created::Now),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Created::Exists),
            Err(source) => Ok(Created::Failed(Box::new(source))),
        }
    }

    async fn bounded<T>(
        &self,
        name: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Result<T, kube::Error>, ApplyError> {
        timeout(CALL, call).await.map_err(|_| ApplyError::TimedOut { name: name.to_owned() })
    }
}

/// The very object that was read, as it was read.
fn as_seen(uid: String, version: String) -> DeleteParams {
    let preconditions = Some(Preconditions { uid: Some(uid), resource_version: Some(version) });
    DeleteParams { preconditions, ..DeleteParams::background() }
}

/// It goes with its owner, and the owner's deletion in the foreground waits until it is gone.
fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Option<Vec<OwnerReference>> {
    let reference = owner.controller_owner_ref(&())?;
    Some(vec![OwnerReference { block_owner_deletion: Some(true), ..reference }])
}

enum Created {
    Now,
    Exists,
    Failed(Box<kube::Error>),
}
