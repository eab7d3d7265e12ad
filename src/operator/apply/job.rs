//! The Job of one attempt: where the volume is, as who the segment is, and nothing more.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Affinity, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, NodeAffinity, NodeSelector,
            NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, PodTemplateSpec,
            ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use kube::{ResourceExt, core::ObjectMeta};

use super::carried;
use crate::observe::{
    agreed::{self, Told},
    jobs, lacks, places,
};
use api::{
    GreenplumCluster, SegmentRecovery,
    cluster::{InitContainers, SecretKey, TlsMode},
    labels,
};
use model::Attempt;

const BIN: &str = "/gpheal-bin";
/// Becomes gpheal as soon as that is installed: a whole file, because it comes by rename. There is a shell wherever postgres
/// is, whose tools call it. A registry may be away for a night: that must cost no attempt, so it waits for a day. An
/// installer that began has some minutes: it is dead then (a full disk), and another attempt may do better.
const AWAITED: &str = "trap 'exit 143' TERM; waits=0; begun=0
until [ -x /gpheal-bin/gpheal ]; do
  if [ $((waits += 1)) -le 200 ]; then sleep 0.05; else sleep 1; fi
  if [ -e /gpheal-bin/.gpheal.tmp ]; then begun=$((begun + 1)); fi
  if [ $waits -gt 86400 ] || [ $begun -gt 300 ]; then echo 'container gpheal has installed nothing' >&2; exit 75; fi
done
exec /gpheal-bin/gpheal recover";
const CREDENTIALS: &str = "/etc/gpheal/credentials";
/// A folder of the Job's own for its password file: the root may be read-only, and so may be wherever the segment has its own.
const RUN: &str = "/gpheal-run";
const PASSFILE: &str = "/gpheal-run/pgpass";
const CA: &str = "/etc/gpheal/ca";
/// The Secret's key under a name of our own.
const CA_FILE: &str = "ca.crt";
const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A SIGTERM has to find the time to stop a tool and to leave truthful marks.
const GRACE: i64 = 60;
/// Ended Jobs are kept for a day: their logs are what a person reads first.
const KEPT: i32 = 86_400;
/// The largest environment variable that is sure to pass to a process is far above this.
const LONGEST_ATTEMPT: usize = 32 * 1024;

/// Why a Job cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JobError {
    #[error("pod {pod} has no container {container}")]
    NoContainer { pod: String, container: String },
    #[error("pod {pod} is on no node yet")]
    NoNode { pod: String },
    #[error(
        "no image of gpheal is known: set GPHEAL_IMAGE on the operator, or give pod {pod} an init container that runs 'gpheal install'"
    )]
    NoImage { pod: String },
    #[error("no variable of pod {pod} says which coordinator it asks")]
    NoCoordinator { pod: String },
    #[error("the attempt cannot be written: {why}")]
    Attempt { why: String },
}

impl JobError {
    /// A pod gets its node by itself.
    pub fn passes(&self) -> bool {
        match self {
            Self::NoNode { .. } => true,
            Self::NoContainer { .. } | Self::NoImage { .. } | Self::NoCoordinator { .. } | Self::Attempt { .. } => false,
        }
    }
}

/// What a Job is made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub cluster: &'a GreenplumCluster,
    pub recovery: &'a SegmentRecovery,
    pub attempt: &'a Attempt,
    /// The pod of the instance to repair.
    pub pod: &'a Pod,
    /// The operator's own image, when it knows it.
    pub image: Option<&'a str>,
}

/// The Job of `plan.attempt`.
///
/// # Errors
/// [`JobError`]
pub fn job(plan: &Plan) -> Result<Job, JobError> {
    let labels = labels_of(plan);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels.clone()), annotations: Some(annotations(plan)), ..ObjectMeta::default() }),
        spec: Some(pod_spec(plan)?),
    };
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(plan.attempt.id.clone()),
            namespace: plan.cluster.namespace(),
            labels: Some(labels),
            owner_references: super::owned_by(plan.recovery),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // The ladder is ours: a Job never tries twice, and never beside a pod that still ends.
            backoff_limit: Some(0),
            pod_replacement_policy: Some("Failed".into()),
            ttl_seconds_after_finished: Some(KEPT),
            template,
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// Never the segment's own labels: a Service or a budget must not take the Job for an instance. Those of the cluster's object
/// are for policies that admit by label; ours win, by which its Jobs are found.
fn labels_of(plan: &Plan) -> BTreeMap<String, String> {
    let attempt = plan.attempt;
    let ours = [
        ("app.kubernetes.io/name", "gpheal".to_owned()),
        ("app.kubernetes.io/component", "recovery".to_owned()),
        ("app.kubernetes.io/managed-by", labels::MANAGER.to_owned()),
        (labels::CLUSTER, attempt.cluster.clone()),
        (labels::RECOVERY, attempt.recovery.clone()),
        (labels::DBID, attempt.target.dbid.to_string()),
        (labels::ATTEMPT, attempt.number.to_string()),
    ];
    let theirs = plan.cluster.spec.job.labels.clone();
    theirs.into_iter().chain(ours.into_iter().map(|(key, value)| (key.to_owned(), value))).collect()
}

/// A sidecar that never ends would keep the Job from ending, so one is injected only when the cluster's object says so; a node
/// must not be emptied under a copy.
fn annotations(plan: &Plan) -> BTreeMap<String, String> {
    let pairs = [
        ("sidecar.istio.io/inject", "false"),
        ("linkerd.io/inject", "disabled"),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ];
    let ours = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    ours.chain(plan.cluster.spec.job.annotations.clone()).collect()
}

fn pod_spec(plan: &Plan) -> Result<PodSpec, JobError> {
    let pod = plan.pod.name_any();
    let name = &plan.cluster.spec.segments.container;
    let segment = places::container(plan.pod, name).ok_or_else(|| JobError::NoContainer { pod: pod.clone(), container: name.clone() })?;
    let theirs = plan.pod.spec.clone().unwrap_or_default();
    let node = theirs.node_name.clone().ok_or_else(|| JobError::NoNode { pod: pod.clone() })?;
    let image = image(plan, &theirs).ok_or(JobError::NoImage { pod })?;
    let mounts = mounts(plan.pod, &theirs, segment);
    let fillers = fillers(plan, &theirs, &mounts);
    let mounted = fillers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    let mounted: Vec<_> = mounts.iter().chain(mounted).cloned().collect();
    Ok(PodSpec {
        volumes: Some(volumes(plan, &theirs, &mounted)),
        init_containers: Some(fillers).filter(|fillers| !fillers.is_empty()),
        containers: vec![worker(plan, segment, mounts)?, installer(image, segment)],
        affinity: Some(on_node(node)),
        tolerations: Some(tolerations(&theirs, &plan.cluster.spec.job.tolerations)),
        security_context: Some(pod_security(theirs.security_context)),
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(GRACE),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: theirs.service_account_name,
        image_pull_secrets: theirs.image_pull_secrets,
        priority_class_name: theirs.priority_class_name,
        runtime_class_name: theirs.runtime_class_name,
        scheduler_name: theirs.scheduler_name,
        dns_config: theirs.dns_config,
        dns_policy: theirs.dns_policy,
        host_aliases: theirs.host_aliases,
        ..PodSpec::default()
    })
}

/// The operator's own image, else the one that the segment's pod itself took gpheal from.
fn image(plan: &Plan, theirs: &PodSpec) -> Option<String> {
    let installer = || theirs.init_containers.iter().flatten().find(|one| lacks::installs(one))?.image.clone();
    plan.image.map(str::to_owned).or_else(installer)
}

/// By the node's name, not its hostname label, which can differ; and by affinity, so that the scheduler still
/// sees to volumes, room and taints.
fn on_node(node: String) -> Affinity {
    let is_it = NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![node]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![is_it]), match_expressions: None };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node = NodeAffinity { required_during_scheduling_ignored_during_execution: Some(required), ..NodeAffinity::default() };
    Affinity { node_affinity: Some(node), ..Affinity::default() }
}

/// The volume is on this node and nowhere else. Where a budget holds an eviction up until the pair is in sync, a Job that
/// waited for the end of a drain would have the drain wait for the Job.
fn tolerations(theirs: &PodSpec, ours: &[Toleration]) -> Vec<Toleration> {
    let cordoned = Toleration {
        key: Some("node.kubernetes.io/unschedulable".into()),
        operator: Some("Exists".into()),
        effect: Some("NoSchedule".into()),
        ..Toleration::default()
    };
    let mut all: Vec<Toleration> = theirs.tolerations.clone().unwrap_or_default();
    for one in ours.iter().chain([&cordoned]) {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
    all
}

/// The user and groups are the segment's, so that files keep their owner; the profile is never less than restricted asks for.
fn pod_security(theirs: Option<PodSecurityContext>) -> PodSecurityContext {
    let mut context = theirs.unwrap_or_default();
    context.seccomp_profile.get_or_insert_with(|| SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None });
    context.sysctls = None;
    context
}

fn container_security(segment: &Container) -> SecurityContext {
    let theirs = segment.security_context.clone().unwrap_or_default();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(k8s_openapi::api::core::v1::Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        privileged: None,
        proc_mount: None,
        ..theirs
    }
}

/// Beside the worker, not before it: a kubelet looks once a second whether an init container has ended.
fn installer(image: String, segment: &Container) -> Container {
    Container {
        name: jobs::INSTALLER.into(),
        image: Some(image),
        image_pull_policy: segment.image_pull_policy.clone(),
        command: Some(vec!["/gpheal".into(), "install".into(), BIN.into()]),
        resources: Some(installing(segment)),
        security_context: Some(container_security(segment)),
        volume_mounts: Some(vec![mount("gpheal-job-bin", BIN, false)]),
        ..Container::default()
    }
}

fn worker(plan: &Plan, segment: &Container, mut mounts: Vec<VolumeMount>) -> Result<Container, JobError> {
    mounts.push(mount("gpheal-job-bin", BIN, true));
    mounts.push(mount("gpheal-job-run", RUN, false));
    mounts.push(mount("gpheal-job-credentials", CREDENTIALS, true));
    if ca_secret(plan).is_some() {
        mounts.push(mount("gpheal-job-ca", CA, true));
    }
    Ok(Container {
        name: jobs::CONTAINER.into(),
        image: segment.image.clone(),
        image_pull_policy: segment.image_pull_policy.clone(),
        command: Some(["/bin/sh", "-c", AWAITED].map(Into::into).into()),
        working_dir: segment.working_dir.clone(),
        env: Some(environment(plan, segment, &mounts)?),
        env_from: segment.env_from.clone(),
        resources: Some(resources(plan, segment)),
        security_context: Some(container_security(segment)),
        volume_mounts: Some(mounts),
        ..Container::default()
    })
}

/// The segment's environment (its PATH and whatever its libraries want), without what its supervisor is told.
fn environment(plan: &Plan, segment: &Container, mounts: &[VolumeMount]) -> Result<Vec<EnvVar>, JobError> {
    let attempt = serde_json::to_string(plan.attempt).map_err(|e| JobError::Attempt { why: e.to_string() })?;
    if attempt.len() > LONGEST_ATTEMPT {
        return Err(JobError::Attempt { why: format!("{} bytes", attempt.len()) });
    }
    let fields = [("POD_NAME", "metadata.name"), ("POD_UID", "metadata.uid"), ("NODE_NAME", "spec.nodeName")];
    let ours = |name: &str| name.starts_with("GPHEAL_") || fields.iter().any(|(field, _)| *field == name);
    // Its own words for whom it asks may be made of others.
    let words =
        |name: &str| matches!(agreed::told(segment), Told::By(told) if told.value.iter().any(|text| text.contains(&format!("$({name})"))));
    let kept = |variable: &&EnvVar| !ours(&variable.name) || words(&variable.name) || carried::names_in(mounts, &variable.name);
    let mut env: Vec<EnvVar> = segment.env.iter().flatten().filter(kept).cloned().collect();
    env.extend(fields.map(|(name, path)| {
        let field_ref = Some(ObjectFieldSelector { field_path: path.into(), api_version: None });
        EnvVar { name: name.into(), value: None, value_from: Some(EnvVarSource { field_ref, ..EnvVarSource::default() }) }
    }));
    env.extend(coordinators(plan, segment)?);
    let values =
        [(jobs::ATTEMPT_VARIABLE, attempt), ("GPHEAL_CREDENTIALS", CREDENTIALS.to_owned()), ("GPHEAL_PASSFILE", PASSFILE.to_owned())];
    env.extend(values.into_iter().chain(tls_environment(plan, segment)).map(|(name, value)| plain(name, value)));
    Ok(env)
}

fn plain(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value), value_from: None }
}

/// The Job asks whom the instance itself asks, in its own words; what the cluster's object names is for a gpheal that does
/// not know better. Where the words come from a ConfigMap, the Job takes that over as it is.
fn coordinators(plan: &Plan, segment: &Container) -> Result<Vec<EnvVar>, JobError> {
    let (host, port) = (plan.cluster.coordinator_host(), plan.cluster.spec.coordinator.port);
    let named = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match agreed::told(segment) {
        Told::By(theirs) => {
            let theirs = EnvVar { name: "GPHEAL_POD_COORDINATORS".into(), ..theirs.clone() };
            Ok(vec![theirs, plain(agreed::COORDINATOR, named)])
        }
        Told::From => Ok(vec![]),
        Told::Nothing => Err(JobError::NoCoordinator { pod: plan.pod.name_any() }),
    }
}

/// The Job asks as the operator does. The mirror that it leaves asks as its own supervisor was told to, by the
/// authorities that its own pod mounts.
fn tls_environment(plan: &Plan, segment: &Container) -> Vec<(&'static str, String)> {
    let mode = match plan.cluster.spec.coordinator.tls.mode {
        TlsMode::Disable => "disable",
        TlsMode::Require => "require",
        TlsMode::VerifyFull => "verify-full",
    };
    let mut all = vec![("GPHEAL_TLS", mode.to_owned())];
    if ca_secret(plan).is_some() {
        all.push(("GPHEAL_CA", format!("{CA}/{CA_FILE}")));
    }
    let theirs = |name: &str| segment.env.iter().flatten().find(|variable| variable.name == name)?.value.clone();
    all.extend(theirs("GPHEAL_TLS").map(|mode| ("GPHEAL_MIRROR_TLS", mode)));
    all.extend(theirs("GPHEAL_CA").map(|path| ("GPHEAL_MIRROR_CA", path)));
    all
}

fn ca_secret<'a>(plan: &Plan<'a>) -> Option<&'a SecretKey> {
    let tls = &plan.cluster.spec.coordinator.tls;
    tls.ca_secret_ref.as_ref().filter(|_| tls.mode == TlsMode::VerifyFull)
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(read_only), ..VolumeMount::default() }
}

/// The segment's own mounts at their own paths: data, tablespaces, sockets, configuration. Not a token, not what the Job has
/// of its own, and no huge pages: the node has given them to the segment's pod, beside which the Job runs, so that a Job
/// that claimed as many would often find no place; its postgres is told to do without (`postgres --single`).
fn mounts(pod: &Pod, theirs: &PodSpec, segment: &Container) -> Vec<VolumeMount> {
    let huge =
        |volume: &Volume| volume.empty_dir.as_ref().and_then(|dir| dir.medium.as_ref()).is_some_and(|it| it.starts_with("HugePages"));
    let huge = |name: &str| theirs.volumes.iter().flatten().any(|volume| volume.name == name && huge(volume));
    let foreign = |mount: &VolumeMount| ![BIN, RUN, CREDENTIALS, CA, TOKENS].contains(&mount.mount_path.trim_end_matches('/'));
    carried::mounts(pod, segment).into_iter().filter(|mount| foreign(mount) && !huge(&mount.name)).collect()
}

/// Nobody knows what they do where the cluster's object says so.
fn fillers(plan: &Plan, theirs: &PodSpec, mounts: &[VolumeMount]) -> Vec<Container> {
    match plan.cluster.spec.job.init_containers {
        InitContainers::Copy => carried::fillers(plan.pod, theirs, mounts, TOKENS),
        InitContainers::Omit => vec![],
    }
}

fn volumes(plan: &Plan, theirs: &PodSpec, mounts: &[VolumeMount]) -> Vec<Volume> {
    let mounted = |volume: &&Volume| mounts.iter().any(|mount| mount.name == volume.name);
    let mut volumes: Vec<Volume> = theirs.volumes.iter().flatten().filter(mounted).cloned().collect();
    volumes.push(empty("gpheal-job-bin", None));
    volumes.push(empty("gpheal-job-run", Some("Memory"))); // no password on a disk
    let spec = &plan.cluster.spec;
    let secret_name = Some(spec.job.credentials_secret.as_ref().unwrap_or(&spec.coordinator.credentials_secret).name.clone());
    let secret = SecretVolumeSource { secret_name, ..SecretVolumeSource::default() };
    volumes.push(Volume { name: "gpheal-job-credentials".into(), secret: Some(secret), ..Volume::default() });
    if let Some(SecretKey { name, key }) = ca_secret(plan) {
        let item = KeyToPath { key: key.clone(), path: CA_FILE.into(), mode: None };
        let secret = SecretVolumeSource { secret_name: Some(name.clone()), items: Some(vec![item]), ..SecretVolumeSource::default() };
        volumes.push(Volume { name: "gpheal-job-ca".into(), secret: Some(secret), ..Volume::default() });
    }
    volumes
}

fn empty(name: &str, medium: Option<&str>) -> Volume {
    let empty_dir = Some(EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: None });
    Volume { name: name.into(), empty_dir, ..Volume::default() }
}

/// What fits the segment's postgres fits the one that recovers it from a crash; and the page cache of a copy counts, so
/// that it does not push out that of the node, nor is all of it left to be synced at the end. A quota may demand a limit of
/// whatever the segment's container has one of.
fn resources(plan: &Plan, segment: &Container) -> ResourceRequirements {
    if let Some(wanted) = &plan.cluster.spec.job.resources {
        let (requests, limits) = (Some(quantities(&wanted.requests)), Some(quantities(&wanted.limits)));
        return ResourceRequirements { requests, limits, claims: None };
    }
    ResourceRequirements { limits: limited(segment, |_, limit| limit.clone()), ..tiny() }
}

fn installing(segment: &Container) -> ResourceRequirements {
    let enough = |name: &str, _: &Quantity| Quantity(if name == "cpu" { "1" } else { "128Mi" }.into());
    ResourceRequirements { limits: limited(segment, enough), ..tiny() }
}

/// Limits of what the segment's container has a limit of.
fn limited(segment: &Container, limit: impl Fn(&str, &Quantity) -> Quantity) -> Option<BTreeMap<String, Quantity>> {
    let theirs = segment.resources.as_ref()?.limits.as_ref()?;
    let both = theirs.iter().filter(|(name, _)| ["cpu", "memory"].contains(&name.as_str()));
    Some(both.map(|(name, theirs)| (name.clone(), limit(name, theirs))).collect()).filter(|limits: &BTreeMap<_, _>| !limits.is_empty())
}

/// The work is done by disk and network; a large request would only keep the Job from its one node.
fn tiny() -> ResourceRequirements {
    let requests = [("cpu", "50m"), ("memory", "64Mi")].map(|(key, value)| (key.to_owned(), Quantity(value.to_owned())));
    ResourceRequirements { requests: Some(requests.into()), ..ResourceRequirements::default() }
}

fn quantities(wanted: &BTreeMap<String, IntOrString>) -> BTreeMap<String, Quantity> {
    let text = |value: &IntOrString| match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    wanted.iter().map(|(key, value)| (key.clone(), Quantity(text(value)))).collect()
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
