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
    /// Incremental cannot do it; full can, if policy allows.
    GoFull,
    /// A person has to look: trying again could only repeat or worsen it.
    Stop,
}

impl Answer {
    /// What follows, where a class says nothing of its own.
    fn lifted_by(self) -> &'static str {
        match self {
            Self::Retry => {
                "by itself: another attempt 2 s to 5 min later, for a day where it never began to copy, else while copies are left"
            }
            Self::GoFull => "by a full copy, when the recovery's type is Auto and spec.healing.full is Allow",
            Self::Stop => "by a person, who reads the evidence",
        }
    }
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident => $answer:ident $($lifted_by:literal)?),* $(,)?) => {
        /// The classes of failure.
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
            /// What it is, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),* }
            }
            /// What has to happen before it is tried again.
            pub fn lifted_by(self) -> &'static str {
                match self {
                    $(Self::$name => {
                        let own: &[&'static str] = &[$($lifted_by)?];
                        own.first().copied().unwrap_or(Answer::$answer.lifted_by())
                    }),*
                }
            }
        }
    };
}

classes! {
    /// The Job was told to stop (SIGTERM) and did, with truthful marks.
    Interrupted => Retry,
    /// The Job or its pod is gone and nobody knows how it ended.
    JobLost => Retry,
    /// The Kubernetes API refused the Job's pod: a quota, a limit range, an admission policy.
    PodRefused => Retry "by itself, once the namespace lets the pod be: another attempt 2 s to 5 min later, for a day",
    /// The Job ended and left something that is not the outcome of its attempt.
    OutcomeNotBelieved => Stop "by a person, who finds out what ran in its pod: the segment's image, a webhook that changes pods",
    /// The catalog, or the pair's rows in it, moved between plan and proof.
    WorldMoved => Retry,
    /// The acting primary does not answer, or not yet read-write.
    SourceNotReady => Retry "by itself, once it answers: another attempt 2 s to 5 min later, for a day where it never began to copy; while it answers others, look at the network policies: a Job's pod has not the segments' labels (spec.job.labels gives it some)",
    /// The acting primary was started again since it was looked at: what was proven of it may not be true of what serves now.
    SourceRestarted => Retry,
    /// The coordinator does not answer.
    CoordinatorUnreachable => Retry "by itself, once it answers: another attempt 2 s to 5 min later, for a day where it never began to copy; while it answers others, look at the network policies: a Job's pod has not the segments' labels (spec.job.labels gives it some)",
    /// The instance's postgres did not stop, or somebody else holds the volume's lock.
    LockBusy => Retry,
    /// The volume's lock proves nothing: its file system is one that other nodes or kernels may have mounted, too.
    LockUntrusted => Stop "by a data directory on a node-local or block volume; until then its mirror is repaired by hand",
    /// Another repair of this content holds the advisory lock on the source.
    SourceBusy => Retry,
    /// Replication slot or walsenders of the source are taken.
    SlotActive => Retry,
    /// The connection broke during the copy.
    ConnectionLost => Retry,
    /// A tool was killed, or could not be run for want of memory or processes.
    ToolKilled => Retry,
    /// pg_rewind finds no common ancestor, lacks the target's old WAL, needs hints that are off, or the log ends before the fork.
    CannotRewind => GoFull,
    /// An earlier copy of this directory was cut off; only a full copy makes it whole.
    CopyUnfinished => GoFull,
    /// WAL that the target needs is gone from the source.
    WalRemoved => GoFull,
    /// The target's own files are damaged or missing (control file, PG_VERSION).
    TargetUnusable => GoFull,
    /// The target knows WAL that the source does not: the source may have been restored from a snapshot.
    TargetAheadOfSource => Stop "by a person, who finds out which copy holds the commits; an empty target, with nothing kept beside it (gpheal-old), is copied in full",
    /// The target's log is not part of the source's: one of the two was put back on an older copy, and each holds what the other lacks.
    HistoryDiffers => Stop "by a person, who finds out which copy holds the commits; an empty target, with nothing kept beside it (gpheal-old), is copied in full",
    /// Nothing shows any more whether the target's log is part of the source's.
    HistoryUnknown => Stop "by a SegmentRecovery of type Full that names the dbid, when a person knows that the target holds nothing that its source lacks",
    /// The target was last a primary whose mirror was down, and an older catalog had that mirror promoted: what was acknowledged
    /// meanwhile is on the target alone.
    ServedAlone => Stop "by a person, who saves what was written there meanwhile; then a SegmentRecovery of type Full that names the dbid gives up the rest",
    /// The acting primary was promoted from less than the target had acknowledged: it was put back on an older copy, its disk lost what
    /// it had called safe, or it had not flushed yet what was acknowledged without it. What lies beyond is on the target alone.
    PromotedBehind => Stop "by a person, who saves what the acting primary lacks; then a SegmentRecovery of type Full that names the dbid gives up the rest",
    /// The volume carries no token, or the token of another instance.
    VolumeUnrecognised => Stop "by mounting the right volume",
    /// Source and target are not copies of one database.
    SystemIdentifierDiffers => Stop "by mounting the right volumes; one of the two belongs to another database",
    /// Data page checksums are on at one side of the pair and off at the other: a rewind would leave pages of both kinds.
    ChecksumsDiffer => Stop "by a SegmentRecovery of type Full, which makes the target as its source is; find out first who changed the setting",
    /// A person works on the volume (`maintenance`), or its place is given up (`retired`).
    HandsOff => Stop "by removing the mark when the work is done",
    /// The target's machine, image or mounts refuse something: permissions, a read-only or failing disk, a missing library or include.
    /// Nothing is known of the directory by it, so nothing is copied for it.
    Environment => Retry "by itself, once what the message names is put right: another attempt 2 s to 5 min later, for a day where it never began to copy",
    /// The same at the acting primary: its disk is full, read-only or fails.
    SourceEnvironment => Retry "by itself, once what the message names is put right at the acting primary: its disk, its permissions",
    /// A file of the acting primary went or changed while it was copied.
    SourceChanged => Retry,
    /// Pages of the acting primary do not pass their checksums: a copy would carry the damage along.
    SourceDamaged => Stop "by a person: the acting primary has damaged pages, and is all there is",
    /// A setting, or a file that settings name, which the server does not take.
    Configuration => Stop "by mending the line or file that the evidence names, then by a SegmentRecovery",
    /// Too little room on the target's volume for the copy and the WAL that streams meanwhile, or for anything at all.
    NoRoom => Retry "by itself, once the volume is larger or files are removed from it: another attempt 2 s to 5 min later, for a day; where a copy had begun, an hour later, as long as copies are left",
    /// A tablespace of the source does not lie on the volume of the data directory, so a full copy cannot carry it.
    TablespaceElsewhere => Stop "by moving the tablespace to a location on the data directory's volume, or dropping it; gprecoverseg -F carries it as it is",
    /// The target's log is a link to another place, which a full copy would not fill.
    LogElsewhere => Stop "by gprecoverseg -F, which carries the log where it is, or by moving the log into the data directory",
    /// Something is mounted below the data directory, so a copy that was made beside it could not take its place, and pg_rewind would end at it half-way.
    MountWithin => Stop "by mounting it outside of the data directory, say with include_dir for settings; gprecoverseg -F overwrites in place",
    /// Database, server or image versions do not fit together.
    VersionDiffers => Stop "by running one version of Greenplum in both pods",
    /// A login was refused: password, role or pg_hba.
    LoginRefused => Stop "by the right password in the credentials secret, and lines in pg_hba.conf for the pod network, for replication too",
    /// No encrypted connection: the server offers no TLS, its certificate is not believed, or there is nobody to believe.
    TlsRefused => Stop "by what the message says: the authorities in caSecretRef, the server's certificate, or spec.coordinator.tls.mode",
    /// The source says that it is not the instance that the catalog names.
    SourceNotItself => Stop "when the catalog's address leads to the instance that the catalog names",
    /// The copy was made, but what it left is not a mirror that can follow the source.
    ResultUnsound => Stop "by a person, who reads the evidence; where a copy was cut off, the next repair is a full one",
    /// The repair was done, and the instance's postgres ends again and again for what another copy would not mend, or nobody knows.
    MirrorDies => Stop "by a person, who mends what the message names; its supervisor starts it again by itself, at most a minute later",
    /// A tool failed in a way that nobody has classified.
    Unclassified => Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_incremental_cannot_do_leads_to_a_full_copy() {
        let full: Vec<_> = FailureClass::ALL.iter().filter(|class| class.answer() == Answer::GoFull).map(|c| c.as_str()).collect();
        assert_eq!(full, ["CannotRewind", "CopyUnfinished", "WalRemoved", "TargetUnusable"]);
    }

    #[test]
    fn the_unknown_stops() {
        assert_eq!(FailureClass::Unclassified.answer(), Answer::Stop);
    }
}
