//! `GreenplumCluster`: which cluster, and the healing policy.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Toleration,
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, Time},
        util::intstr::IntOrString,
    },
};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most instances that a status lists.
pub const LISTED: usize = 50;

/// A Greenplum or Apache Cloudberry cluster that already runs in this namespace, and how it is healed.
/// Its name has to equal the name that its segments' supervisors carry (GPHEAL_CLUSTER).
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[cfg_attr(test, kube(cel))]
#[kube(
    group = "gpheal.io",
    version = "v1alpha1",
    kind = "GreenplumCluster",
    namespaced,
    status = "GreenplumClusterStatus",
    shortname = "gpc",
    category = "gpheal",
    derive = "PartialEq",
    doc = "A Greenplum or Apache Cloudberry cluster that already runs in this namespace, and how gpheal heals it.",
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("the name of a GreenplumCluster has at most 40 characters, so that the names of its recoveries and Jobs fit"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "In Sync", type_ = "string", json_path = ".status.inSync", description = "Contents whose mirror is up and in sync"),
    printcolumn(name = "Down", type_ = "integer", json_path = ".status.counts.down"),
    printcolumn(name = "Recovering", type_ = "integer", json_path = ".status.counts.recovering"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.healing.mode", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GreenplumClusterSpec {
    /// How the coordinator is reached.
    #[x_kube(validation = Rule::new("has(self.service) != has(self.host)").message("give exactly one of service and host"))]
    pub coordinator: Coordinator,
    /// Which pods are the cluster's instances.
    pub segments: Segments,
    /// What gpheal may do by itself.
    #[serde(default)]
    pub healing: Healing,
    /// How its Jobs run.
    #[serde(default)]
    pub job: JobOptions,
}

/// How the coordinator is reached. The catalog is read here in utility mode; FTS is asked to look here.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Coordinator {
    /// Name of a Service in this namespace that leads to the acting coordinator. Exactly one of `service` and `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub service: Option<String>,
    /// DNS name or address of the acting coordinator, as both this namespace and the operator's can resolve it,
    /// such as `gp-coordinator-0.gp.NAMESPACE.svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._:a-zA-Z0-9]+$"))]
    pub host: Option<String>,
    /// TCP port of the coordinator's postmaster. Default 5432.
    #[serde(default = "defaults::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Database to connect to. Default `postgres`.
    #[serde(default = "defaults::database")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[^\x00]+$"))]
    pub database: String,
    /// Secret in this namespace with the keys `username` and `password` of the role with which gpheal looks at the
    /// coordinator and at every segment: a member of `pg_monitor`, on Greenplum 6 a superuser (`docs/rights.md`).
    pub credentials_secret: SecretName,
    /// Whether the connections to the coordinator and to every segment are encrypted. Default: they are not.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.mode != 'verify-full' || has(self.caSecretRef)")
        .message("mode verify-full needs caSecretRef: the authorities to trust"))]
    pub tls: Tls,
}

/// How connections to the database are encrypted, in the words of libpq's `sslmode`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// `disable`: not encrypted. `require`: encrypted, and the server's certificate is not looked at. `verify-full`: an
    /// authority in `caSecretRef` has to have signed the certificate for the name that is asked for: the coordinator's
    /// `service` or `host` as above, and of each instance the address and the hostname of its catalog row. Default `disable`.
    #[serde(default)]
    pub mode: TlsMode,
    /// The authorities to trust, for `verify-full`. Read anew for each new connection: several may stand in it while
    /// certificates are being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKey>,
}

/// How far a server is believed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    #[default]
    Disable,
    Require,
    VerifyFull,
}

/// One key of a Secret in the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key whose value are certificates in PEM. Default `ca.crt`.
    #[serde(default = "defaults::ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A Secret in the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SecretName {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Which pods are the cluster's instances.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Segments {
    /// Selects the pods of all instances, the coordinator's too, by their labels. A pod belongs to a catalog row when
    /// the row's address (or hostname) is the pod's name or hostname in its headless service, or the pod's IP.
    pub selector: LabelSelector,
    /// Name of the container in which postgres runs under `gpheal supervise`. Default `greenplum`.
    #[serde(default = "defaults::container")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub container: String,
}

/// What gpheal may do by itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Healing {
    /// `Automatic`: down mirrors are repaired without asking. `Observe`: what would be done is shown in the status
    /// and nothing is done. A SegmentRecovery made by hand runs in both. Default `Automatic`.
    #[serde(default)]
    pub mode: Mode,
    /// Automatic healing stands still; running repairs go on. Default false.
    #[serde(default)]
    pub paused: bool,
    /// How long a mirror may be down before it is repaired, as a duration such as `30s`, `5m` or `1h30m`. Skipped when
    /// the instance's supervisor itself says that only a repair brings it back. At most a week. Default `30s`.
    #[serde(default = "defaults::grace")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('168h')").message("gracePeriod is at most a week (168h)"))]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    pub grace_period: Duration,
    /// Whether a mirror's data directory may be replaced by a full copy of its primary's when an incremental repair
    /// cannot help. The old directory stays until the copy is proven. Default `Allow`.
    #[serde(default)]
    pub full: Full,
    /// When repairs of an instance that falls again and again are not begun by themselves any more: it is left alone then, with
    /// the reason `Flapping` and what felled it each time, until it was quiet for the term, or a person makes a SegmentRecovery
    /// for it.
    #[serde(default)]
    pub breaker: Breaker,
    /// Upper bound of a full copy, in bytes per second (32 KiB/s to 1 GiB/s). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32_768, max = 1_073_741_824))]
    pub max_rate: Option<i64>,
}

impl Default for Healing {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            paused: false,
            grace_period: defaults::grace(),
            full: Full::default(),
            breaker: Breaker::default(),
            max_rate: None,
        }
    }
}

/// When repairs of one instance are not begun by themselves any more.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// The so-many-th repair of one instance within the term is not begun by itself. 2 to 1000. Default 3.
    #[serde(default = "defaults::breaker_repairs")]
    #[schemars(range(min = 2, max = 1000))]
    pub repairs: i32,
    /// The term, as a duration such as `30m` or `1h`. One minute to 12 hours. Default `1h`.
    #[serde(default = "defaults::breaker_within")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('12h')")
        .message("breaker.within is one minute (1m) to 12 hours (12h)"))]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    pub within: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { repairs: defaults::breaker_repairs(), within: defaults::breaker_within() }
    }
}

/// Whether gpheal acts by itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Automatic,
    Observe,
}

/// Whether a full copy may replace a data directory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Full {
    #[default]
    Allow,
    Never,
}

/// How the Jobs that repair instances run. They take image, user, security context, volumes and node from the
/// segment's pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct JobOptions {
    /// Secret in this namespace with the keys `username` and `password` of the superuser with which Jobs copy, and as
    /// which the mirrors that they leave replicate: one that the instances' own pods use. Default: `spec.coordinator.credentialsSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretName>,
    /// Resources of the Job's container. Default: requests of 50m CPU and 64Mi memory, and the limits of CPU and
    /// memory of the segment's container, if that has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Tolerations of the Job's pod, besides those of the segment's pod. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// Labels of the Job and its pod, besides gpheal's own, which win: for a NetworkPolicy that admits by label. A Job talks to
    /// the coordinators and to the acting primary of its content. None by which a Service finds segments. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Job's pod; they win over gpheal's own, by which a service mesh injects nothing. Where only members of a
    /// mesh are let in, `sidecar.istio.io/inject: "true"` or `linkerd.io/inject: enabled` makes the Job one: with native sidecars,
    /// as any other keeps the Job from ending. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub annotations: BTreeMap<String, String>,
    /// `Copy`: those init containers of the segment's pod run in the Job's, too, that fill an emptyDir which the segment's
    /// container mounts, and mount nothing that outlives a pod. `Omit`: none of them. Default `Copy`.
    #[serde(default)]
    pub init_containers: InitContainers,
}

/// Whether a Job runs copies of the init containers that fill what its container mounts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InitContainers {
    #[default]
    Copy,
    Omit,
}

/// Resources of a container.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct Resources {
    /// What the scheduler sets aside, by resource (`cpu`, `memory`), as Kubernetes quantities. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "quantities")]
    pub requests: BTreeMap<String, IntOrString>,
    /// What the container may use at most, by resource, as Kubernetes quantities. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "quantities")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// Quantities as Kubernetes writes them, which it would else refuse only when a Job is made.
fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    const PATTERN: &str =
        r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": PATTERN},
    })
}

/// What gpheal sees and does.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct GreenplumClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled as kstatus reads them; CoordinatorReachable, Degraded, InSync, Balanced,
    /// DoubleFault, MirrorsWatched, JobsEquipped, HealingBlocked and Paused for people and alerts.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One sentence: how the cluster is.
    #[serde(default)]
    pub message: String,
    /// Highest timeline on which an acting coordinator was seen, as far as a segment's supervisor has believed it, too; one on a
    /// lower timeline is not believed. To be removed by hand after the whole cluster was restored from an older copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator_timeline: Option<i64>,
    /// Contents whose mirror is up and in sync, of all, such as `2/3`.
    #[serde(default)]
    pub in_sync: String,
    /// Instances in numbers.
    #[serde(default)]
    pub counts: Counts,
    /// Instances that are not well, each with the reason why nothing is done or the recovery that works on it. At most 50.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub instances: Vec<UnwellInstance>,
    /// Instances that are not well and not listed, beyond the 50 that are.
    #[serde(default)]
    pub unlisted: i32,
}

/// Instances in numbers; the coordinator and its standby are not counted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Contents (shards).
    pub contents: i32,
    /// Contents whose mirror is up and in sync.
    pub in_sync: i32,
    /// Instances, primaries and mirrors.
    pub instances: i32,
    /// Instances that FTS marks up.
    pub up: i32,
    /// Instances that FTS marks down.
    pub down: i32,
    /// Instances that do not have their preferred role.
    pub swapped: i32,
    /// Instances that a recovery works on now.
    pub recovering: i32,
}

/// One instance that is not well.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UnwellInstance {
    /// Its id in gp_segment_configuration.
    pub dbid: i32,
    /// Its content (shard).
    pub content: i32,
    /// Its catalog row as `dbid:content` with role, preferred role, mode and status, such as `5:0mmnd`.
    pub row: String,
    /// Since when it has not been well, as far as was seen.
    pub since: Time,
    /// One word: why nothing is done, or `Recovering` or `Planned`.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
    /// What has to happen before something is done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lifted_by: String,
    /// What would be done, `Incremental` or `Full`, if policy allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    /// The SegmentRecovery that works on it, or that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
}

mod defaults {
    use kube::core::Duration;

    pub fn port() -> i32 {
        5432
    }
    pub fn database() -> String {
        "postgres".into()
    }
    pub fn ca_key() -> String {
        "ca.crt".into()
    }
    pub fn container() -> String {
        "greenplum".into()
    }
    pub fn breaker_repairs() -> i32 {
        3
    }
    pub fn breaker_within() -> Duration {
        std::time::Duration::from_hours(1).into()
    }
    pub fn grace() -> Duration {
        std::time::Duration::from_secs(30).into()
    }
}

impl GreenplumCluster {
    /// Where the coordinator listens, as seen from any namespace.
    pub fn coordinator_host(&self) -> String {
        let coordinator = &self.spec.coordinator;
        match (&coordinator.service, &coordinator.host) {
            (Some(service), _) => format!("{service}.{}.svc", self.metadata.namespace.as_deref().unwrap_or("default")),
            (None, host) => host.clone().unwrap_or_default(),
        }
    }
}
