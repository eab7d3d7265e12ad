//! Why nothing is done. Each reason is a type with a stable code, a sentence, and what lifts it.

use std::fmt;

use jiff::Timestamp;

use super::{
    Content, Dbid, Repair, Unread,
    page::InstanceState,
    reasons::{Example, reasons},
};

reasons! {
    /// A reason to leave an instance alone. Invariants in brackets are those of reference §8.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Refusal {
        /// The catalog could not be read, or is not believed; the causes have codes of their own, which stand in its place.
        CatalogUnread { unread: Unread },
        /// The rows of the content can not be true [7.1 #7, #8].
        CatalogInvalid { why: String },
        /// The coordinator and its standby are repaired in another way [15].
        CoordinatorRow,
        /// No such dbid or content in the catalog.
        NotInCatalog { what: String },
        /// The instance is up: a repair would take away redundancy that is there.
        TargetUp { dbid: Dbid },
        /// The instance is the acting primary: the only copy known to hold every commit [1].
        TargetIsActingPrimary { dbid: Dbid },
        /// The acting primary does not answer, and nothing else is known [2].
        ActingPrimaryNotAnswering { primary: Dbid, why: String },
        /// Both sides are gone [2, 5].
        DoubleFault { primary: Dbid, mirror: Dbid, why: String },
        /// Both died in sync: the catalog names a primary that was never promoted [2; reference §7 #6].
        FlippedDouble { primary: Dbid, mirror: Dbid, why: String },
        /// What answers at the acting primary's place is not, or not surely, that instance [7].
        PeerSuspect { primary: Dbid, why: String },
        /// No selected pod is at the address of any segment.
        NothingSelected { selected: usize },
        /// The pod does not fulfil the contract of a segment pod (design §3.1).
        ContractNotFulfilled { points: Vec<ContractPoint> },
        /// The volume carries no token of this instance: perhaps not mounted, perhaps another's.
        VolumeUnrecognised { dbid: Dbid },
        /// Somebody holds the volume's lock, or lives in the data directory without it: it may be written.
        VolumeInUse { dbid: Dbid, detail: String },
        /// The row's place is an empty spare, and its supervisor has read a catalog that does not name it.
        SpareNotTaken { dbid: Dbid },
        /// The claim's access mode does not allow a lock to be trusted.
        AccessMode { claim: String, mode: String },
        /// The claim is not to be found, so whether its lock can be trusted is not known.
        ClaimUnread { claim: String, why: String },
        /// Its supervisor says that the volume's lock proves nothing: the file system is shared between nodes or mounts.
        UntrustedLock { why: String },
        /// The acting primary's own data is gone.
        PrimaryDataMissing { dbid: Dbid },
        /// Only a full copy would help and policy does not allow it [6].
        FullNotAllowed { why: String },
        /// A mirror that is down for less than the grace period.
        WithinGrace { seconds_left: i64 },
        /// Automatic healing is paused.
        Paused { would: Repair },
        /// The policy only observes.
        ObserveOnly { would: Repair },
        /// An earlier recovery of this fault failed for a cause that only a person can judge [20].
        RecoveryFailed { recovery: String },
        /// A recovery of this fault ended for a cause that passes by itself; another one goes on after a rest.
        TakenUpAgain { recovery: String, why: String, until: Timestamp },
        /// Repairs of this instance succeed, and it falls back soon after, as often as policy allows [20].
        FallsBack { recovery: String, copies: u32 },
        /// A SegmentRecovery that this operator cannot read has the name that a repair of this fault would have, or a Job at this content.
        RecoveryUnreadable { recovery: String },
        /// The Job of an attempt makes no progress: its node is lost or cordoned, a quota refuses its pod, no heartbeat comes.
        AttemptStuck { job: String, why: String },
        /// Another recovery of the same content is running [13].
        AlreadyRecovering { content: Content, recovery: String },
        /// A Job at the same content has ended for all that it said, and neither it nor its pod is known to be gone [13].
        JobNotEnded { job: String },
        /// As many Jobs run as policy allows.
        JobBudget { max: usize },
        /// The pod's supervisor gives no page.
        SupervisorSilent { why: String },
        /// What is served at the pod's supervisor port is not the page of this instance: nonsense, or another's.
        PageNotBelieved { why: String },
        /// The mirror is up and follows; it is not in sync yet [7.3 #54].
        CatchingUp,
        /// The supervisor is in a state that no repair answers, or not yet.
        SupervisorSays { state: InstanceState, detail: String },
    }
}

reasons! {
    /// One point of the contract of a segment pod (design §3.1).
    #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum ContractPoint {
        /// No selected pod has this catalog address.
        NoPod { address: String },
        /// Two selected pods have this catalog address.
        TwoPods { pods: String },
        /// The pod has no container of the name that the cluster gives.
        NoSuchContainer { container: String },
        /// The container's command is not the supervisor.
        NoSupervisor,
        /// The data directory is the mount root, so marks can not live beside it.
        DataDirIsMountRoot,
        /// The data directory lies on no persistent volume claim.
        NoClaim,
        /// Processes of other containers could see, and be, its processes.
        SharedProcessNamespace,
        /// Processes of the host could be taken for its own.
        HostPid,
        /// The pod has a kernel of its own (Kata, gVisor): a lock that its postgres holds is free for a Job beside it.
        OwnKernel { why: String },
        /// No variable of the pod says whom it asks, so a Job would be told by the GreenplumCluster alone.
        CoordinatorUntold,
        /// The Job would carry a secret that neither its pod uses nor the operator reads.
        ForeignSecret { secret: String },
        /// Its supervisor asks another coordinator than the GreenplumCluster names, so the two may speak of different clusters.
        OtherCoordinator { theirs: String, ours: String },
    }
}

impl Example for Vec<ContractPoint> {
    fn of(_: &str, _: &str) -> Self {
        vec![ContractPoint::NoSupervisor]
    }
}

impl ContractPoint {
    /// Stable word for status and metrics.
    pub fn code(&self) -> &'static str {
        self.name()
    }

    /// A pod that is being made again is away for a moment; its shape does not change by waiting.
    pub fn lasts(&self) -> bool {
        !matches!(self, Self::NoPod { .. })
    }
}

impl fmt::Display for ContractPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPod { address } => write!(
                f,
                "no selected pod has the catalog address {address}; check spec.segments.selector and the pod's hostname and subdomain"
            ),
            Self::TwoPods { pods } => write!(f, "several selected pods have one catalog address ({pods}); narrow spec.segments.selector"),
            Self::NoSuchContainer { container } => write!(f, "the pod has no container '{container}'; set spec.segments.container"),
            Self::NoSupervisor => write!(f, "the container does not run 'gpheal supervise -- postgres' as its command"),
            Self::DataDirIsMountRoot => write!(f, "the data directory is the root of its mount; move it into a folder below"),
            Self::NoClaim => write!(f, "the data directory lies on no persistent volume claim"),
            Self::SharedProcessNamespace => write!(f, "shareProcessNamespace must be off"),
            Self::HostPid => write!(f, "hostPID must be off"),
            Self::CoordinatorUntold => {
                write!(f, "the container has no variable GPHEAL_COORDINATOR, by which its Job would ask whom it asks; give it one")
            }
            Self::ForeignSecret { secret } => {
                write!(f, "spec.job.credentialsSecret is {secret}, which the pod does not use; name one that it mounts, or mount that one")
            }
            Self::OtherCoordinator { theirs, ours } => {
                write!(f, "GPHEAL_COORDINATOR of the pod is {theirs}, and spec.coordinator is {ours}; let the first name the second")
            }
            Self::OwnKernel { why } => {
                write!(f, "the pod does not run on its node's kernel, or that cannot be told: {why}; use a runtime that shares it")
            }
        }
    }
}

/// What lifts a reason, where that takes more than a line.
const SELECT: &str =
    "lifted when spec.segments.selector selects the pods at the catalog's addresses; check it, and that they are not scaled down";
const MOUNT: &str = "lifted when the right volume is mounted; a person who knows that it is lost may restore the token";
const END: &str =
    "lifted when the last process that holds the volume's lock, or lives in the data directory, has ended; a person may have started it";
const SHOW: &str = "lifted when its pod serves the page of this instance at the container port named gpheal; check GPHEAL_CLUSTER, \
    GPHEAL_ADDRESS, GPHEAL_PORT and GPHEAL_DATA_DIRECTORY there, and that supervisor and operator are of one version";

impl Refusal {
    /// Stable word for status, metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ContractNotFulfilled { points } => points.first().map_or(self.name(), ContractPoint::code),
            Self::CatalogUnread { unread } => unread.name(),
            _ => self.name(),
        }
    }

    /// What has to happen before something is done.
    pub fn lifted_by(&self) -> String {
        match self {
            Self::CatalogUnread { unread } => unread.lifted_by().into(),
            Self::CatalogInvalid { .. } => "lifted when a person has repaired gp_segment_configuration (gpcheckcat)".into(),
            Self::CoordinatorRow => "never; see gpinitstandby and gpactivatestandby".into(),
            Self::NotInCatalog { .. } => "never; name dbids and contents of gp_segment_configuration".into(),
            Self::TargetUp { .. } => "lifted when FTS marks the instance down".into(),
            Self::TargetIsActingPrimary { .. } => {
                "lifted when FTS has promoted its mirror; a healthy acting primary is never repaired".into()
            }
            Self::ActingPrimaryNotAnswering { primary, .. } => {
                format!("lifted when dbid {primary} answers again or FTS promotes its mirror")
            }
            Self::DoubleFault { primary, .. } => {
                format!("lifted when dbid {primary} serves again on its own volume; it alone holds every commit")
            }
            Self::FlippedDouble { primary, .. } => {
                format!("lifted when dbid {primary} runs again on its own volume, so that FTS can promote it; its peer is rewound then")
            }
            Self::PeerSuspect { primary, .. } => format!("lifted when dbid {primary} answers as what its catalog row says"),
            Self::NothingSelected { .. } => SELECT.into(),
            Self::ContractNotFulfilled { .. } => "lifted when the pod fulfils the contract of a segment pod".into(),
            Self::VolumeUnrecognised { .. } => MOUNT.into(),
            Self::VolumeInUse { .. } => END.into(),
            Self::SpareNotTaken { .. } => "lifted by itself when its supervisor has read the row".into(),
            Self::AccessMode { .. } => "lifted when the claim is ReadWriteOnce on a node-local or block volume".into(),
            Self::ClaimUnread { claim, .. } => format!("lifted when the claim {claim} is there, and is ReadWriteOnce"),
            Self::UntrustedLock { .. } => {
                "lifted when the data directory lies on a node-local or block volume with a file system of its own".into()
            }
            Self::PrimaryDataMissing { dbid } => {
                format!("lifted when the volume of dbid {dbid} is restored; nothing else holds this content's commits")
            }
            Self::FullNotAllowed { .. } => "lifted by spec.healing.full: Allow, or by a SegmentRecovery of type Full".into(),
            Self::WithinGrace { seconds_left } => format!("lifted in {seconds_left} s, or when its supervisor asks for a repair"),
            Self::Paused { .. } => "lifted by spec.healing.paused: false; a SegmentRecovery made by hand runs all the same".into(),
            Self::ObserveOnly { .. } => "lifted by spec.healing.mode: Automatic; a SegmentRecovery made by hand runs all the same".into(),
            Self::RecoveryFailed { recovery } => format!("lifted by deleting SegmentRecovery {recovery} when its cause is mended"),
            Self::TakenUpAgain { until, .. } => format!("lifted by itself: another recovery follows at {until}"),
            Self::FallsBack { recovery, .. } => {
                format!(
                    "lifted by deleting SegmentRecovery {recovery} when it is known, and mended, what breaks the mirror after each repair"
                )
            }
            Self::RecoveryUnreadable { recovery } => {
                format!("lifted by an operator that can read SegmentRecovery {recovery}, or by deleting it")
            }
            Self::AttemptStuck { job, .. } => {
                format!("lifted when Job {job} goes on or its pod is gone; delete its pod, by force only when its node is known to be gone")
            }
            Self::AlreadyRecovering { recovery, .. } => format!("lifted when SegmentRecovery {recovery} has ended"),
            Self::JobNotEnded { job } => {
                format!(
                    "lifted by itself when Job {job} has its condition Complete or Failed, or is gone, and its pod has ended; else delete both"
                )
            }
            Self::JobBudget { .. } => "lifted when a running Job ends".into(),
            Self::SupervisorSilent { .. } => "lifted when its pod runs and the supervisor's page can be read".into(),
            Self::PageNotBelieved { .. } => SHOW.into(),
            Self::CatchingUp => "lifted by itself when the mirror has received what it missed".into(),
            Self::SupervisorSays { state, .. } => state.lifted_by().into(),
        }
    }

    /// A person has to do something: waiting alone does not lift it.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::ContractNotFulfilled { points } => points.iter().any(ContractPoint::lasts),
            Self::CatalogUnread { unread } => unread.needs_a_person(),
            Self::SupervisorSays { state, .. } => state.needs_a_person(),
            Self::CatalogInvalid { .. }
            | Self::NotInCatalog { .. }
            | Self::NothingSelected { .. }
            | Self::DoubleFault { .. }
            | Self::FlippedDouble { .. }
            | Self::VolumeUnrecognised { .. }
            | Self::AccessMode { .. }
            | Self::ClaimUnread { .. }
            | Self::UntrustedLock { .. }
            | Self::PrimaryDataMissing { .. }
            | Self::FullNotAllowed { .. }
            | Self::RecoveryFailed { .. }
            | Self::FallsBack { .. }
            | Self::RecoveryUnreadable { .. }
            | Self::AttemptStuck { .. }
            | Self::PageNotBelieved { .. } => true,
            // These pass by themselves, or are no fault.
            Self::CoordinatorRow
            | Self::TargetUp { .. }
            | Self::TargetIsActingPrimary { .. }
            | Self::ActingPrimaryNotAnswering { .. }
            | Self::PeerSuspect { .. }
            | Self::VolumeInUse { .. }
            | Self::SpareNotTaken { .. }
            | Self::WithinGrace { .. }
            | Self::Paused { .. }
            | Self::ObserveOnly { .. }
            | Self::TakenUpAgain { .. }
            | Self::AlreadyRecovering { .. }
            | Self::JobNotEnded { .. }
            | Self::JobBudget { .. }
            | Self::SupervisorSilent { .. }
            | Self::CatchingUp => false,
        }
    }

    /// No waiting changes it: a recovery that was asked for is refused for good.
    pub fn is_final(&self) -> bool {
        match self {
            // Which kernel a pod runs on is read from two sources, one of which may be old for a moment.
            Self::ContractNotFulfilled { points } => {
                points.iter().any(|point| point.lasts() && !matches!(point, ContractPoint::OwnKernel { .. }))
            }
            Self::CoordinatorRow
            | Self::NotInCatalog { .. }
            | Self::TargetUp { .. }
            | Self::TargetIsActingPrimary { .. }
            | Self::VolumeUnrecognised { .. }
            | Self::AccessMode { .. }
            | Self::UntrustedLock { .. }
            | Self::FullNotAllowed { .. }
            | Self::CatalogInvalid { .. } => true,
            Self::CatalogUnread { .. }
            | Self::ClaimUnread { .. }
            | Self::SupervisorSays { .. }
            | Self::NothingSelected { .. }
            | Self::DoubleFault { .. }
            | Self::FlippedDouble { .. }
            | Self::PrimaryDataMissing { .. }
            | Self::RecoveryFailed { .. }
            | Self::FallsBack { .. }
            | Self::RecoveryUnreadable { .. }
            | Self::AttemptStuck { .. }
            | Self::PageNotBelieved { .. }
            | Self::ActingPrimaryNotAnswering { .. }
            | Self::PeerSuspect { .. }
            | Self::VolumeInUse { .. }
            | Self::SpareNotTaken { .. }
            | Self::WithinGrace { .. }
            | Self::Paused { .. }
            | Self::ObserveOnly { .. }
            | Self::TakenUpAgain { .. }
            | Self::AlreadyRecovering { .. }
            | Self::JobNotEnded { .. }
            | Self::JobBudget { .. }
            | Self::SupervisorSilent { .. }
            | Self::CatchingUp => false,
        }
    }
}

impl InstanceState {
    /// No waiting ends it, and nothing but a person does.
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::Unkillable
            | Self::PrimaryDataMissing
            | Self::VolumeUnrecognised
            | Self::NotInCatalog
            | Self::Retired
            | Self::HeldElsewhere
            | Self::Replaced
            | Self::CatalogOutdated => true,
            // In `Maintenance` a person is at work already.
            Self::Maintenance
            | Self::Deciding
            | Self::Starting
            | Self::Serving
            | Self::NotAnswering
            | Self::Stopping
            | Self::Held
            | Self::CopyUnfinished
            | Self::NeedsRecovery
            | Self::NeedsFull
            | Self::WaitingForCoordinator
            | Self::WaitingForPeer
            | Self::WaitingForPrimary
            | Self::WaitingForSegments
            | Self::LockBusy
            | Self::StayingDown
            | Self::BackingOff => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatalogUnread { unread } => write!(f, "{unread}"),
            Self::CatalogInvalid { why } => write!(f, "{why}"),
            Self::CoordinatorRow => write!(f, "content -1 is the coordinator"),
            Self::NotInCatalog { what } => write!(f, "{what} is not in the catalog"),
            Self::TargetUp { dbid } => write!(f, "dbid {dbid} is up"),
            Self::TargetIsActingPrimary { dbid } => {
                write!(f, "dbid {dbid} is the acting primary, the only copy known to hold every commit")
            }
            Self::ActingPrimaryNotAnswering { primary, why } => write!(f, "the acting primary, dbid {primary}, does not answer: {why}"),
            Self::DoubleFault { primary, mirror, why } => {
                write!(
                    f,
                    "double fault: the acting primary, dbid {primary}, does not answer ({why}) and its mirror, dbid {mirror}, was not in sync"
                )
            }
            Self::FlippedDouble { primary, mirror, why } => {
                write!(
                    f,
                    "both sides died in sync: the catalog flipped to dbid {primary}, which was not promoted ({why}); dbid {mirror} must not be restarted as primary"
                )
            }
            Self::PeerSuspect { primary, why } => write!(f, "the acting primary, dbid {primary}, is suspect: {why}"),
            Self::NothingSelected { selected } => {
                write!(f, "spec.segments.selector selects {selected} pods, and none of them is at the address of a segment")
            }
            Self::ContractNotFulfilled { points } => {
                write!(f, "{}", points.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Self::VolumeUnrecognised { dbid } => {
                write!(f, "the volume carries no token of dbid {dbid}: perhaps it is not mounted, perhaps it is another's")
            }
            Self::VolumeInUse { dbid, detail } => write!(f, "the volume of dbid {dbid} is in use: {detail}"),
            Self::SpareNotTaken { dbid } => {
                write!(f, "the place of dbid {dbid} is an empty spare, and its supervisor has read no row that names it yet")
            }
            Self::AccessMode { claim, mode } => write!(f, "claim {claim} is {mode}, on which the volume's lock can not be trusted"),
            Self::ClaimUnread { claim, why } => write!(f, "whether the lock on claim {claim} can be trusted is not known: {why}"),
            Self::UntrustedLock { why } => write!(f, "the volume's lock proves nothing: {why}"),
            Self::PrimaryDataMissing { dbid } => write!(f, "the data directory of the acting primary, dbid {dbid}, is empty or unusable"),
            Self::FullNotAllowed { why } => write!(f, "only a full copy would help ({why}), which policy does not allow"),
            Self::WithinGrace { seconds_left } => write!(f, "down for less than the grace period ({seconds_left} s left)"),
            Self::Paused { would } => write!(f, "healing is paused; would repair: {would}"),
            Self::ObserveOnly { would } => write!(f, "mode is Observe; would repair: {would}"),
            Self::RecoveryFailed { recovery } => write!(f, "SegmentRecovery {recovery} failed for this fault"),
            Self::TakenUpAgain { recovery, why, .. } => write!(f, "SegmentRecovery {recovery} ended for what passes by itself ({why})"),
            Self::FallsBack { recovery, copies } => {
                write!(f, "SegmentRecovery {recovery} succeeded, and the mirror fell back again soon after, {copies} copies in a row")
            }
            Self::RecoveryUnreadable { recovery } => {
                write!(f, "this operator cannot read SegmentRecovery {recovery}, which is for this fault or has a Job at this content")
            }
            Self::AttemptStuck { job, why } => write!(f, "Job {job} makes no progress: {why}"),
            Self::AlreadyRecovering { content, recovery } => write!(f, "content {content} is being repaired by SegmentRecovery {recovery}"),
            Self::JobNotEnded { job } => write!(f, "Job {job}, at work for the same content, has not ended, or its pod has not"),
            Self::JobBudget { max } => write!(f, "{max} Jobs are running already"),
            Self::SupervisorSilent { why } => write!(f, "its supervisor can not be asked: {why}"),
            Self::PageNotBelieved { why } => write!(f, "its supervisor's page is not believed: {why}"),
            Self::CatchingUp => write!(f, "the mirror is up and not in sync yet"),
            Self::SupervisorSays { state, detail } => write!(f, "its supervisor says {state:?}: {detail}"),
        }
    }
}
