//! One attempt at one instance: what the operator asks of a Job, and what the Job says back.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Content, Dbid, Failure, Incarnation, Postmaster};

/// How an instance is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord)]
pub enum Repair {
    /// `pg_rewind` (skipped when the target never diverged), then start as mirror.
    Incremental,
    /// `pg_basebackup` beside the old directory, then swap.
    Full,
}

impl Repair {
    /// Stable word for labels, names and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incremental => "Incremental",
            Self::Full => "Full",
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an instance lives, as its catalog row says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    pub dbid: Dbid,
    pub hostname: String,
    pub address: String,
    pub port: u16,
    pub data_directory: String,
}

impl From<&super::Row> for Place {
    fn from(row: &super::Row) -> Self {
        Self {
            dbid: row.dbid,
            hostname: row.hostname.clone(),
            address: row.address.clone(),
            port: row.port,
            data_directory: row.datadir.clone(),
        }
    }
}

/// Everything that a Job is told; it proves each point again. Nothing is left to choose there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Name of the Job; the id under which marks are left on the volume.
    pub id: String,
    pub cluster: String,
    pub recovery: String,
    /// From 1.
    pub number: u32,
    pub repair: Repair,
    pub content: Content,
    pub target: Place,
    pub source: Place,
    /// Upper bound of a full copy, in bytes per second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_rate: Option<u64>,
    /// uid of the SegmentRecovery: one that was deleted and made again gives its attempts the same names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recovery_uid: Option<String>,
    /// What the source's supervisor shows: its starts as a primary, and those of its own primary that it followed before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub source_incarnations: Vec<Incarnation>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub source_followed: Vec<Incarnation>,
    /// The run of the source's postgres of which they are; `None`: its supervisor does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_postmaster: Option<Postmaster>,
    /// A person asked for a full copy of this dbid by name: that nothing shows which history it holds is no obstacle.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub waives_history: bool,
}

/// The steps of a Job, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// Everything is proven while the instance is left alone.
    Proving,
    /// Its postgres is asked to stop and the volume's lock is taken.
    Holding,
    /// The same is proven again, under the lock.
    ProvingAgain,
    /// Crash recovery and dry run of an incremental repair; nothing of the copy is written yet.
    Analysing,
    Copying,
    Configuring,
    /// Marks are removed and the lock is given back.
    Releasing,
}

impl Step {
    pub const ALL: [Self; 7] =
        [Self::Proving, Self::Holding, Self::ProvingAgain, Self::Analysing, Self::Copying, Self::Configuring, Self::Releasing];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proving => "Proving",
            Self::Holding => "Holding",
            Self::ProvingAgain => "ProvingAgain",
            Self::Analysing => "Analysing",
            Self::Copying => "Copying",
            Self::Configuring => "Configuring",
            Self::Releasing => "Releasing",
        })
    }
}

/// Seconds before its end from which on a copy is looked at more often.
const NEARLY: u64 = 3;

/// One line that a Job prints per second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub step: Step,
    /// Bytes copied so far.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes to copy in all, when the tool has said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<u64>,
    /// Bytes per second over the last seconds.
    #[serde(default)]
    pub rate: u64,
    /// Seconds left at that rate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds_left: Option<u64>,
    /// Bytes that the processes of the running tool have read and written: all that there is to show of crash recovery.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub written: Option<u64>,
    /// How often anything of the work was seen to move: a line is printed whether it does or not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moves: Option<u64>,
}

impl Progress {
    /// What is left is a matter of moments. It may be some seconds old when it is read.
    pub fn nears_its_end(&self) -> bool {
        self.step > Step::Copying || (self.step == Step::Copying && self.seconds_left.is_some_and(|left| left <= NEARLY))
    }

    /// What its tool does, where that tells nothing of how far it is.
    pub fn work(&self) -> Option<String> {
        let (read, written) = self.total.is_none().then_some(()).and(self.read.zip(self.written))?;
        let mebibytes = |bytes: u64| bytes >> 20;
        Some(format!("{}: {} MiB read and {} MiB written", self.step, mebibytes(read), mebibytes(written)))
    }

    /// 0 to 100, when a total is known. pg_basebackup's total is an estimate, so 100 is a cap.
    pub fn percent(&self) -> Option<i32> {
        let total = self.total.filter(|total| *total > 0)?;
        i32::try_from((self.bytes.saturating_mul(100) / total).min(100)).ok()
    }
}

/// How an attempt ended: in the termination message (at most 3 KiB) and in `result.json` beside the marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub attempt: String,
    pub repair: Repair,
    /// `None`: it succeeded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<Failure>,
    /// Bytes copied in all.
    #[serde(default)]
    pub bytes: u64,
    /// Seconds from the first proof to the release.
    #[serde(default)]
    pub seconds: u64,
    /// What a person wants to know about how it went (no rewind needed, old directory kept, …).
    #[serde(default)]
    pub note: String,
    /// Whether it changed anything but settings in the directory. `None`: nobody says, or it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed: Option<bool>,
    /// As in [`Attempt`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recovery_uid: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_does_is_told_where_it_tells_nothing_itself() {
        let progress = |text: &str| serde_json::from_str::<Progress>(text).unwrap().work();
        let works = r#"{"step": "Analysing", "read": 3145728000, "written": 1048575}"#;
        assert_eq!(progress(works).as_deref(), Some("Analysing: 3000 MiB read and 0 MiB written"));
        assert_eq!(progress(r#"{"step": "Copying", "bytes": 1, "total": 2, "read": 1, "written": 1}"#), None);
        assert_eq!(progress(r#"{"step": "Copying"}"#), None, "of a Job of an earlier version");
    }

    #[test]
    fn a_copy_nears_its_end_when_seconds_are_left_and_after_it() {
        let nears = |step, seconds_left| {
            Progress { step, bytes: 1, total: Some(2), rate: 1, seconds_left, read: None, written: None, moves: None }.nears_its_end()
        };
        assert!(!nears(Step::Analysing, Some(1)) && !nears(Step::Copying, None) && !nears(Step::Copying, Some(4)));
        assert!(nears(Step::Copying, Some(3)) && nears(Step::Configuring, None) && nears(Step::Releasing, None));
    }
}
