//! Reads of the Kubernetes API, each bounded in time. Lists, never a cache: a plan must not act on an old world.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{PersistentVolumeClaim, Pod, PodStatus, Secret},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
    core::{DeserializeGuard, Selector},
};
use tokio::time::{Instant, timeout};

use super::{
    jobs::{self, Said},
    memory::Memory,
    places::{self, Place},
    recoveries::RecoverySeen,
};
use api::{
    SegmentRecovery,
    cluster::{self, SecretKey},
    convert, labels,
};
use greenplum::{Ca, Login, Tls, TlsFault};
use model::{Catalog, Dbid, Look, Phase, policy::KEPT};

/// Bound of one call; the client retries an overloaded API server by itself, for much longer.
const CALL: Duration = Duration::from_secs(15);
/// Most bytes of a Job's log that are read: twenty lines of progress are far less.
const LOG_BYTES: i64 = 64 * 1024;
/// Between two reads of one Job's log: not in every look while things move fast.
const LOG_APART: Duration = Duration::from_millis(1500);
/// The same after a node has not answered: each such question holds a look up.
const LOG_SILENT: Duration = Duration::from_mins(1);
/// The only mode on which a lock can be trusted and a Job beside the segment's pod can mount the claim.
const TRUSTED: &str = "ReadWriteOnce";

/// Why a cluster's objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot read {what}")]
    Read {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer within {} s when reading {what}", CALL.as_secs())]
    TimedOut { what: &'static str },
    #[error("spec.segments.selector cannot be used: {why}")]
    Selector { why: String },
}

impl ObserveError {
    /// This operator has no right to it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Read { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 403))
    }

    /// Stable word for conditions; what to do about it; whether it lasts until somebody does.
    pub fn advice(&self) -> (&'static str, &'static str, bool) {
        let code = |source: &kube::Error| if let kube::Error::Api(status) = source { status.code } else { 0 };
        match self {
            Self::Selector { .. } => ("SelectorInvalid", SELECTOR, true),
            Self::Read { what: PODS, source } if code(source) == 400 => ("SelectorInvalid", SELECTOR, true),
            Self::Read { source, .. } if code(source) == 403 => {
                ("Forbidden", "lifted when the operator's role in this namespace allows it", true)
            }
            Self::Read { .. } | Self::TimedOut { .. } => ("NotObserved", "lifted when the Kubernetes API answers", false),
        }
    }
}

/// What an instance's pod is made of, and its addresses; neither who wrote which field of it nor what its containers do.
fn lean(mut pod: Pod) -> Pod {
    (pod.metadata.managed_fields, pod.metadata.annotations) = (None, None);
    if let Some(status) = &mut pod.status {
        let (phase, pod_ip, pod_ips) = (status.phase.take(), status.pod_ip.take(), status.pod_ips.take());
        *status = PodStatus { phase, pod_ip, pod_ips, ..PodStatus::default() };
    }
    if let Some(volumes) = pod.spec.as_mut().and_then(|spec| spec.volumes.as_mut()) {
        volumes.shrink_to_fit(); // they are what fills the memory: 3 kB each, whatever they are
    }
    pod
}

const PODS: &str = "pods";
/// Pods in one answer.
const PODS_AT_ONCE: u32 = 200;
const SELECTOR: &str = "lifted by a spec.segments.selector of valid labels and operators (In, NotIn, Exists, DoesNotExist)";

/// The recoveries of a namespace, as one cluster sees them.
#[derive(Debug, Default)]
pub struct Listed {
    /// Of this cluster, oldest first.
    pub ours: Vec<SegmentRecovery>,
    /// In words of another version, of whatever cluster.
    pub unreadable: Vec<String>,
    /// Of other clusters: their names are taken, too.
    pub foreign: Vec<String>,
}

impl Listed {
    fn cannot_read(&mut self, name: String, why: &str) {
        tracing::debug!(recovery = %name, %why, "a SegmentRecovery cannot be read and is left alone");
        self.unreadable.push(name);
    }

    /// There may be Jobs of them, or so many that old ones may be removed, for which it has to be known that there are none.
    pub fn may_have_jobs(&self) -> bool {
        let over = |object: &SegmentRecovery| object.status.as_ref().is_some_and(|status| Phase::from(status.phase).is_over());
        !(self.unreadable.is_empty() && self.ours.iter().all(over)) || self.ours.len() > KEPT
    }
}

/// Reads within one namespace.
pub struct Reader {
    pub(super) client: Client,
    namespace: String,
}

impl Reader {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods of a cluster, some at a time and without what nobody here reads: two thousand come as 20 MB, every few seconds.
    pub async fn pods(&self, selector: &LabelSelector) -> Result<Vec<Pod>, ObserveError> {
        let selector = Selector::try_from(selector.clone()).map_err(|e| ObserveError::Selector { why: e.to_string() })?;
        let mut params = ListParams::default().labels_from(&selector).limit(PODS_AT_ONCE);
        let mut pods = vec![];
        loop {
            let page = bounded(PODS, self.api::<Pod>().list(&params)).await?;
            pods.extend(page.items.into_iter().map(lean));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(pods),
            }
        }
    }

    /// The recoveries of a namespace. One that cannot be read does not blind us for the others, and keeps its name.
    pub async fn recoveries(&self, cluster: &str) -> Result<Listed, ObserveError> {
        let api = self.api::<DeserializeGuard<SegmentRecovery>>();
        let items = bounded("SegmentRecoveries", api.list(&ListParams::default())).await?.items;
        let mut listed = Listed::default();
        for guarded in items {
            let name = guarded.name_any();
            match guarded.0.map_err(|invalid| invalid.error) {
                Err(why) => listed.cannot_read(name, &why),
                Ok(object) if object.spec.cluster_ref.name != cluster => listed.foreign.push(name),
                Ok(object) => match convert::unknown(&object) {
                    Some(why) => listed.cannot_read(name, &why),
                    None => listed.ours.push(object),
                },
            }
        }
        listed.ours.sort_by_key(|object| (object.metadata.creation_timestamp.clone(), object.name_any()));
        Ok(listed)
    }

    pub async fn jobs(&self, cluster: &str) -> Result<Vec<Job>, ObserveError> {
        Ok(bounded("Jobs", self.api::<Job>().list(&ours(cluster))).await?.items)
    }

    pub async fn job_pods(&self, cluster: &str) -> Result<Vec<Pod>, ObserveError> {
        Ok(bounded("pods of Jobs", self.api::<Pod>().list(&ours(cluster))).await?.items)
    }

    /// User and password out of a Secret.
    ///
    /// # Errors
    /// A sentence for people: it becomes the reason why the coordinator cannot be asked.
    pub async fn login(&self, secret: &str) -> Result<Login, String> {
        let read = bounded("the credentials Secret", self.api::<Secret>().get_opt(secret)).await;
        let found = read.map_err(|error| unread(secret, &error))?;
        let data =
            found.ok_or(format!("there is no Secret {secret}; make it with the keys username and password"))?.data.unwrap_or_default();
        let key = |key: &str| {
            let value = data.get(key).ok_or(format!("Secret {secret} has no key {key}"))?;
            let text = String::from_utf8(value.0.clone()).map_err(|_| format!("key {key} of Secret {secret} is no text"))?;
            Ok::<_, String>(text.trim_end_matches(['\r', '\n']).to_owned())
        };
        Ok(Login { user: key("username")?, password: key("password")?, tls: Tls::Disable })
    }

    /// How connections are encrypted, with the authorities to trust out of their Secret.
    ///
    /// # Errors
    /// [`TlsFault::CaMissing`]
    pub async fn tls(&self, spec: &cluster::Tls) -> Result<Tls, TlsFault> {
        let ca = match (spec.mode, &spec.ca_secret_ref) {
            (cluster::TlsMode::Disable, _) => return Ok(Tls::Disable),
            (cluster::TlsMode::Require, _) => return Ok(Tls::Require),
            (cluster::TlsMode::VerifyFull, ca) => ca.as_ref(),
        };
        let missing = |why: String| TlsFault::CaMissing { why };
        let SecretKey { name, key } = ca.ok_or_else(|| missing("spec.coordinator.tls has no caSecretRef".into()))?;
        let read = bounded("the Secret of the authorities", self.api::<Secret>().get_opt(name)).await;
        let found = read.map_err(|error| missing(unread(name, &error)))?;
        let data = found.ok_or_else(|| missing(format!("there is no Secret {name}")))?.data.unwrap_or_default();
        let value = data.get(key).ok_or_else(|| missing(format!("Secret {name} has no key {key}")))?;
        let from = format!("key {key} of Secret {name}");
        Ok(Tls::VerifyFull(Ca::Pem { pem: String::from_utf8_lossy(&value.0).into(), from }))
    }

    /// Access modes that rule a repair out, of the claims of rows that are not well.
    pub async fn access(
        &self,
        catalog: &Catalog,
        places: &BTreeMap<Dbid, Place<'_>>,
        container: &str,
        known: &mut BTreeMap<(String, String), Option<String>>,
    ) -> Result<BTreeMap<Dbid, (String, Look<String>)>, ObserveError> {
        let mut untrusted = BTreeMap::new();
        for row in catalog.rows.iter().filter(|row| row.content.0 >= 0 && !row.well()) {
            let Some(Place::One(pod)) = places.get(&row.dbid) else { continue };
            let Some(claim) = places::claim(pod, container, &row.datadir) else { continue };
            let key = (pod.uid().unwrap_or_default(), claim.to_owned());
            let mode = match known.get(&key) {
                Some(mode) => mode.clone(),
                None => match self.untrusted_mode(claim).await? {
                    Look::Unknown(why) => {
                        untrusted.insert(row.dbid, (claim.to_owned(), Look::Unknown(why)));
                        continue;
                    }
                    Look::Seen(mode) => known.entry(key).or_insert(mode).clone(),
                },
            };
            if let Some(mode) = mode {
                untrusted.insert(row.dbid, (claim.to_owned(), Look::Seen(mode)));
            }
        }
        Ok(untrusted)
    }

    /// A mode that is not trusted, if it has one. A claim that is not there, or without modes, says nothing.
    async fn untrusted_mode(&self, claim: &str) -> Result<Look<Option<String>>, ObserveError> {
        let found = bounded("a claim", self.api::<PersistentVolumeClaim>().get_opt(claim)).await?;
        let Some(found) = found else { return Ok(Look::Unknown("there is no such claim".into())) };
        let modes = found.spec.and_then(|spec| spec.access_modes).unwrap_or_default();
        if modes.is_empty() {
            return Ok(Look::Unknown("it has no access mode".into()));
        }
        Ok(Look::Seen(modes.into_iter().find(|mode| mode != TRUSTED)))
    }

    /// Adds the progress of Jobs that run, from the end of their logs every few seconds.
    pub async fn progress(&self, joined: &mut [RecoverySeen], memory: &mut Memory) {
        for seen in joined {
            for (dbid, job) in &mut seen.jobs {
                let Some(pod) = &job.running_pod else { continue };
                job.said = self.said(pod, memory.logs.remove(&job.view.name), job.view.name.clone(), memory).await;
                job.view.step = job.said.progress.as_ref().map(|progress| progress.step);
                job.view.progress.clone_from(&job.said.progress);
                if let Some(state) = seen.recovery.instances.get_mut(dbid) {
                    state.job = Some(job.view.clone());
                }
            }
        }
    }

    /// What a Job's log says, or has said when it was last read.
    async fn said(&self, pod: &str, known: Option<(Instant, Said)>, job: String, memory: &mut Memory) -> Said {
        let (due, before) = known.unwrap_or_else(|| (Instant::now(), Said::default()));
        if due > Instant::now() {
            memory.logs.insert(job, (due, before.clone()));
            return before;
        }
        let (said, apart) = match self.log(pod).await {
            Ok(log) => (jobs::heard(&log, before), LOG_APART),
            Err(ObserveError::TimedOut { .. }) => (Said { answered: false, ..before }, LOG_SILENT),
            Err(_) => (Said { answered: false, ..before }, LOG_APART),
        };
        memory.logs.insert(job, (Instant::now() + apart, said.clone()));
        said
    }

    async fn log(&self, pod: &str) -> Result<String, ObserveError> {
        let params = LogParams {
            container: Some(jobs::CONTAINER.into()),
            tail_lines: Some(20),
            limit_bytes: Some(LOG_BYTES),
            timestamps: true,
            ..LogParams::default()
        };
        let read = bounded("a Job's log", self.api::<Pod>().logs(pod, &params)).await;
        read.inspect_err(|failed| tracing::debug!(%pod, error = crate::error::chain(failed), "a Job's log cannot be read now"))
    }
}

/// Why a Secret could not be read. That it may not be is the first thing to happen after an installation.
fn unread(secret: &str, error: &ObserveError) -> String {
    let lifted = "; name it in the chart's value `secrets`, or give the right on it alone by config/samples/credentials-role.yaml";
    format!("Secret {secret}: {}{}", crate::error::chain(error), if error.is_forbidden() { lifted } else { "" })
}

fn ours(cluster: &str) -> ListParams {
    ListParams::default().labels(&format!("{}={cluster},{}", labels::CLUSTER, labels::RECOVERY))
}

pub(super) async fn bounded<T>(what: &'static str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ObserveError> {
    let answered = timeout(CALL, call).await.map_err(|_| ObserveError::TimedOut { what })?;
    answered.map_err(|source| ObserveError::Read { what, source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::mock::{Objects, expect, finished, server},
        observe::fixtures::pod,
    };
    use api::fixtures;
    use model::world::fixtures::row;
    use serde_json::json;

    const SECRET: &str = "/api/v1/namespaces/demo/secrets/login";
    const CLAIM: &str = "/api/v1/namespaces/demo/persistentvolumeclaims/data-gp-mirror-0";

    const POD_LIST: &str = "/api/v1/namespaces/demo/pods";

    fn reader(objects: &Objects) -> Reader {
        Reader::new(objects.client(), "demo")
    }

    #[tokio::test]
    async fn recoveries_of_this_cluster_are_read_oldest_first() {
        let named = |name: &str, cluster: &str, made: &str| {
            let mut object = serde_json::to_value(fixtures::recovery(name, &[5])).unwrap();
            object["spec"]["clusterRef"]["name"] = json!(cluster);
            object["metadata"]["creationTimestamp"] = json!(made);
            object
        };
        let (old, new) = ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z");
        let items = [named("b", "demo", new), named("a", "demo", old), named("c", "other", old)];
        let objects = Objects::default();
        objects.put("/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries", json!({"metadata": {}, "items": items}));
        let read = reader(&objects).recoveries("demo").await.unwrap();
        assert_eq!(read.ours.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read.foreign, ["c"], "its name is taken");
    }

    #[tokio::test]
    async fn credentials_are_read_and_what_is_missing_is_named() {
        let objects = Objects::default();
        let reader = reader(&objects);
        assert!(reader.login("login").await.unwrap_err().contains("there is no Secret login"));
        objects.put(SECRET, json!({"metadata": {}, "data": {"username": "Z3BhZG1pbg=="}}));
        assert_eq!(reader.login("login").await.unwrap_err(), "Secret login has no key password");
        objects.put(SECRET, json!({"metadata": {}, "data": {"username": "Z3BhZG1pbg==", "password": "c2VjcmV0Cg=="}}));
        let login = reader.login("login").await.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("gpadmin", "secret"), "a last line's end is no part of it");
    }

    #[tokio::test]
    async fn authorities_are_read_anew_and_what_is_missing_is_named() {
        let objects = Objects::default();
        let reader = reader(&objects);
        let spec = serde_json::from_value(json!({"mode": "verify-full", "caSecretRef": {"name": "login"}})).unwrap();
        let why = |fault: TlsFault| (fault.code(), fault.to_string());
        let (code, told) = why(reader.tls(&spec).await.unwrap_err());
        assert!(code == "CaMissing" && told.contains("there is no Secret login"), "{told}");
        objects.put(SECRET, json!({"metadata": {}, "data": {"tls.crt": ""}}));
        let (code, told) = why(reader.tls(&spec).await.unwrap_err());
        assert!(code == "CaMissing" && told.contains("Secret login has no key ca.crt"), "{told}");
        for (encoded, read) in [("b2xk", "old"), ("bmV3", "new")] {
            objects.put(SECRET, json!({"metadata": {}, "data": {"ca.crt": encoded}}));
            let Tls::VerifyFull(Ca::Pem { pem, from }) = reader.tls(&spec).await.unwrap() else { unreachable!() };
            assert_eq!((&*pem, from.as_str()), (read, "key ca.crt of Secret login"));
        }
        let plain = reader.tls(&cluster::Tls::default()).await.unwrap();
        assert_eq!(plain, Tls::Disable, "what nobody asked for is not read");
    }

    #[tokio::test]
    async fn a_secret_that_may_not_be_read_is_told_with_what_gives_the_right() {
        let (client, task) = server(vec![expect("GET", SECRET, json!({})).refused(403, "Forbidden")]);
        let told = Reader::new(client, "demo").login("login").await.unwrap_err();
        assert!(told.starts_with("Secret login: ") && told.contains("credentials-role.yaml"), "{told}");
        finished(task).await;
    }

    #[tokio::test]
    async fn only_claims_of_unwell_rows_are_read_and_each_once() {
        let shared = json!({"metadata": {}, "spec": {"accessModes": ["ReadWriteMany"]}});
        let (client, task) = server(vec![expect("GET", CLAIM, shared)]);
        let reader = Reader::new(client, "demo");
        let catalog = Catalog { rows: vec![row("2:0ppsu"), row("5:0mmnd")] };
        let pod = pod("gp-mirror-0", |_| ());
        let places = BTreeMap::from([(Dbid(2), Place::One(&pod)), (Dbid(5), Place::One(&pod))]);
        let mut known = BTreeMap::new();
        for _ in 0..2 {
            let found = reader.access(&catalog, &places, "greenplum", &mut known).await.unwrap();
            assert_eq!(found, BTreeMap::from([(Dbid(5), ("data-gp-mirror-0".to_owned(), Look::Seen("ReadWriteMany".to_owned())))]));
        }
        drop(reader);
        finished(task).await;
    }

    #[tokio::test]
    async fn a_claim_that_is_not_there_is_not_a_trusted_one_and_is_looked_for_again() {
        let (catalog, pod, mut known) = (Catalog { rows: vec![row("5:0mmnd")] }, pod("gp-mirror-0", |_| ()), BTreeMap::new());
        let places = BTreeMap::from([(Dbid(5), Place::One(&pod))]);
        let none = expect("GET", CLAIM, json!({})).refused(404, "NotFound");
        let modeless = expect("GET", CLAIM, json!({"metadata": {}, "spec": {}}));
        let trusted = expect("GET", CLAIM, json!({"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"]}}));
        let (client, task) = server(vec![none, modeless, trusted]);
        let reader = Reader::new(client, "demo");
        for expected in [Some("there is no such claim"), Some("it has no access mode"), None, None] {
            let found = reader.access(&catalog, &places, "greenplum", &mut known).await.unwrap();
            assert_eq!(found.get(&Dbid(5)).and_then(|(_, mode)| mode.unknown().map(String::as_str)), expected);
        }
        drop(reader);
        finished(task).await;
    }

    #[tokio::test]
    async fn an_answer_that_is_refused_is_an_error_and_not_an_empty_world() {
        let (client, task) = server(vec![expect("GET", POD_LIST, json!({})).refused(403, "Forbidden")]);
        let error = Reader::new(client, "demo").job_pods("demo").await.unwrap_err();
        assert_eq!(error.advice().0, "Forbidden");
        finished(task).await;
    }

    #[tokio::test]
    async fn pods_come_some_at_a_time_and_without_what_nobody_reads() {
        let named = |name: &str| {
            pod(name, |pod| {
                pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(5000)});
                pod["metadata"]["managedFields"] = json!([{"manager": "kubelet", "operation": "Update"}]);
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            })
        };
        let first =
            expect("GET", POD_LIST, json!({"metadata": {"continue": "more"}, "items": [named("a"), named("b")]})).query("limit=200");
        let second = expect("GET", POD_LIST, json!({"metadata": {"continue": ""}, "items": [named("c")]})).query("continue=more");
        let (client, task) = server(vec![first, second]);
        let pods = Reader::new(client, "demo").pods(&LabelSelector::default()).await.unwrap();
        let lean = |name: &str| pod(name, |_| ());
        assert_eq!(pods, [lean("a"), lean("b"), lean("c")], "all that is read of them is there");
        finished(task).await;
    }

    #[tokio::test]
    async fn a_list_of_pods_that_broke_off_is_an_error_and_no_half_world() {
        let first = expect("GET", POD_LIST, json!({"metadata": {"continue": "more"}, "items": [pod("a", |_| ())]}));
        let (client, task) = server(vec![first, expect("GET", POD_LIST, json!({})).refused(410, "Expired")]);
        assert_eq!(Reader::new(client, "demo").pods(&LabelSelector::default()).await.unwrap_err().advice().0, "NotObserved");
        finished(task).await;
    }

    #[tokio::test]
    async fn a_selector_that_nobody_understands_is_told_as_such() {
        let wrong: LabelSelector = serde_json::from_value(json!({"matchExpressions": [{"key": "a", "operator": "Likes"}]})).unwrap();
        let objects = Objects::default();
        assert_eq!(reader(&objects).pods(&wrong).await.unwrap_err().advice().0, "SelectorInvalid");
        // Only the API server knows whether a label can be one.
        let (client, task) = server(vec![expect("GET", POD_LIST, json!({})).refused(400, "BadRequest")]);
        let labels: LabelSelector = serde_json::from_value(json!({"matchLabels": {"not a label!": "x"}})).unwrap();
        assert_eq!(Reader::new(client, "demo").pods(&labels).await.unwrap_err().advice().0, "SelectorInvalid");
        finished(task).await;
    }
}
