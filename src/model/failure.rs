//! Why an attempt failed, as a class that decides what comes next. The ladder moves by class alone.

use serde::{Deserialize, Serialize};

use super::Step;

/// A failed attempt with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub class: FailureClass,
    pub step: Step,
    /// One sentence for people.
    pub message: String,
    /// The lines that led to the class: a tool's output, a control file's field. At most 1 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The same again after a back-off: the cause is expected to pass.
    Retry,
    /// Incremental can not do it; full can, if policy allows.
    GoFull,
    /// A person has to look: trying again could only repeat or worsen it.
    Stop,
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident => $answer:ident),* $(,)?) => {
        /// The classes of failure (reference §7).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum FailureClass { $($(#[doc = $doc])+ $name),* }

        impl FailureClass {
            pub const ALL: &[Self] = &[$(Self::$name),*];
            /// Stable word for status, metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
            /// What comes next.
            pub fn answer(self) -> Answer {
                match self { $(Self::$name => Answer::$answer),* }
            }
        }
    };
}

classes! {
    /// The Job was told to stop (SIGTERM) and did, with truthful marks.
    Interrupted => Retry,
    /// The Job or its pod is gone and nobody knows how it ended.
    JobLost => Retry,
    /// The catalog, or the pair's rows in it, moved between plan and proof.
    WorldMoved => Retry,
    /// The acting primary does not answer, or not yet read-write.
    SourceNotReady => Retry,
    /// The coordinator does not answer.
    CoordinatorUnreachable => Retry,
    /// The instance's postgres did not stop, or somebody else holds the volume's lock.
    LockBusy => Retry,
    /// Another repair of this content holds the advisory lock on the source.
    SourceBusy => Retry,
    /// Replication slot or walsenders of the source are taken.
    SlotActive => Retry,
    /// The connection broke during the copy.
    ConnectionLost => Retry,
    /// A tool was killed, or could not be run for want of memory or processes.
    ToolKilled => Retry,
    /// pg_rewind finds no common ancestor, lacks the target's old WAL, or needs hints that are off (7.2 #30-33).
    CannotRewind => GoFull,
    /// An earlier copy of this directory was cut off; only a full copy makes it whole (8 #10b).
    CopyUnfinished => GoFull,
    /// WAL that the target needs is gone from the source (7.2 #35-37).
    WalRemoved => GoFull,
    /// The target's own files are damaged or missing (control file, PG_VERSION).
    TargetUnusable => GoFull,
    /// The target knows WAL that the source does not: the source may have been restored from a snapshot.
    TargetAheadOfSource => Stop,
    /// The volume carries no token, or the token of another instance.
    VolumeUnrecognised => Stop,
    /// Source and target are not copies of one database.
    SystemIdentifierDiffers => Stop,
    /// A person works on the volume (`maintenance`), or its place is given up (`retired`).
    HandsOff => Stop,
    /// Too little room for the copy and the WAL that streams meanwhile.
    NoRoom => Stop,
    /// Database, server or image versions do not fit together.
    VersionDiffers => Stop,
    /// A login was refused: password, role or pg_hba.
    LoginRefused => Stop,
    /// The source says that it is not the instance that the catalog names.
    SourceNotItself => Stop,
    /// The copy was made, but what it left is not a mirror that can follow the source.
    ResultUnsound => Stop,
    /// A tool failed in a way that nobody has classified.
    Unclassified => Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_incremental_can_not_do_leads_to_a_full_copy() {
        let full: Vec<_> = FailureClass::ALL.iter().filter(|class| class.answer() == Answer::GoFull).map(|c| c.as_str()).collect();
        assert_eq!(full, ["CannotRewind", "CopyUnfinished", "WalRemoved", "TargetUnusable"]);
    }

    #[test]
    fn the_unknown_stops() {
        assert_eq!(FailureClass::Unclassified.answer(), Answer::Stop);
    }
}
