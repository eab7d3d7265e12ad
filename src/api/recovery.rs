//! `SegmentRecovery`: one repair, its plan, evidence, progress and outcome.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::word::{self, Word};
use model::{FailureClass, Repair, Step};

/// One repair of one or more instances. Made by people and by automatic healing alike; deleting it cancels it.
/// Its spec cannot be changed.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[cfg_attr(test, kube(cel))]
#[kube(
    group = "gpheal.io",
    version = "v1alpha1",
    kind = "SegmentRecovery",
    plural = "segmentrecoveries",
    namespaced,
    status = "SegmentRecoveryStatus",
    shortname = "gpr",
    category = "gpheal",
    derive = "PartialEq",
    doc = "One repair of one or more Greenplum instances. Deleting it cancels it.",
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("the name of a SegmentRecovery has at most 40 characters, so that the names of its Jobs fit"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name", priority = 1),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(name = "Time Left", type_ = "string", json_path = ".status.timeLeft"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a SegmentRecovery cannot be changed; make another one"))]
#[serde(rename_all = "camelCase")]
pub struct SegmentRecoverySpec {
    /// The cluster whose instances are repaired.
    pub cluster_ref: ClusterName,
    /// Which instances; exactly one of its fields.
    #[x_kube(validation = Rule::new(
        "(has(self.contents) ? 1 : 0) + (has(self.dbids) ? 1 : 0) + (has(self.allDown) ? 1 : 0) == 1"
    ).message("give exactly one of contents, dbids and allDown"))]
    pub targets: Targets,
    /// `Auto`: incremental, and full when that cannot help and policy allows it. `Incremental`: never full.
    /// `Full`: a full copy at once, whatever the policy says. Default `Auto`.
    #[serde(default, rename = "type")]
    pub type_: RecoveryType,
}

/// A GreenplumCluster in the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct ClusterName {
    /// Name of the GreenplumCluster.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Which instances are repaired. Only down mirrors ever are; others are refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    /// The mirrors of these contents (shards), from 0. At most 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(range(min = 0, max = 32_767)))]
    pub contents: Option<Vec<i32>>,
    /// The instances with these ids of gp_segment_configuration. At most 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(range(min = 1, max = 32_767)))]
    pub dbids: Option<Vec<i32>>,
    /// Every instance that is down when the recovery begins, at most 128; only `true` has a meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("allDown can only be true"))]
    pub all_down: Option<bool>,
}

/// Which repair is wanted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RecoveryType {
    #[default]
    Auto,
    Incremental,
    Full,
}

/// Phase of a recovery, and of each of its instances; only moves forward.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Refused,
    Cancelled,
    /// A word of another version; never written. What it asks for is not known, so the recovery is left alone.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Other,
}

/// Plan, evidence, progress and outcome.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct SegmentRecoveryStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready (it succeeded), Reconciling (it is not over) and Stalled (it failed, was refused, or waits for a person), as kstatus reads them.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Where it stands.
    #[serde(default)]
    pub phase: Phase,
    /// One sentence per instance: what is done, what it waits for, how it ended.
    #[serde(default)]
    pub message: String,
    /// `Incremental`, `Full`, or `Mixed` when its instances differ.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// How much of all that is to be copied is copied, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// Time until the slowest copy ends, at its present rate, such as `2m10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_left: Option<String>,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Its instances, fixed when it was first looked at. At most 128.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub instances: Vec<InstanceStatus>,
}

/// One instance of a recovery.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its id in gp_segment_configuration.
    pub dbid: i32,
    /// Its content (shard).
    pub content: i32,
    /// Where it stands.
    pub phase: Phase,
    /// What happens now: a step of its Job (Proving, Holding, ProvingAgain, Analysing, Copying, Configuring, Releasing),
    /// or Waiting, BackingOff, Scheduling (its Job's pod does not run yet), Stuck (it makes no progress) or Verifying (copied; waits until FTS and
    /// replication prove it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Attempts begun so far.
    #[serde(default)]
    pub attempt: i32,
    /// Ended attempts that had begun to copy; these are bounded by number.
    #[serde(default)]
    pub copies: i32,
    /// Attempts that failed since one last began to copy; these are bounded by time.
    #[serde(default)]
    pub failures: i32,
    /// When the first of those failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,
    /// What the newest attempt does: `Incremental` or `Full`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none", deserialize_with = "word::known_or_none")]
    #[schemars(with = "Option<String>")]
    pub type_: Option<Repair>,
    /// Why this type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The acting primary that it is repaired from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_dbid: Option<i32>,
    /// Job of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Bytes copied by the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Bytes to copy in all, as the tool estimates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// How much of it is copied, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// Bytes per second over the last seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<i64>,
    /// Seconds until the copy ends at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// When the newest attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_started_at: Option<Time>,
    /// When the newest attempt was found ended without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_ended_at: Option<Time>,
    /// Whether the newest attempt, which is done, changed anything but settings in the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// When its copy was done; since then the proof is awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying_since: Option<Time>,
    /// How the newest failed attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureStatus>,
}

/// A failed attempt, classified.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct FailureStatus {
    /// One word that decides what comes next.
    #[schemars(with = "String")]
    pub class: Word<FailureClass>,
    /// The step of the Job that failed.
    #[schemars(with = "String")]
    pub step: Word<Step>,
    /// One sentence.
    pub message: String,
    /// The lines that led to the class.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
}
