//! Why nothing is done. Each reason is a type with a stable code, a sentence, and what lifts it.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{Content, Dbid, Repair, Unread, page::InstanceState, reasons::Example};

crate::reasons! {
    /// A reason to leave an instance alone. What it keeps from happening stands in docs/never.md.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Refusal {
        /// The catalog could not be read, or is not believed; the causes have codes of their own, which stand in its place.
        CatalogUnread { unread: Unread },
        /// The rows of the content cannot be true.
        CatalogInvalid { why: String },
        /// Segments have believed a coordinator on a higher timeline than the one that gave the catalog is on: it may be an old one.
        CoordinatorMayBeOvertaken { why: String },
        /// The standby coordinator does not run, does not follow, or cannot be asked: nothing would be left to activate.
        StandbyCoordinatorDown { dbid: Dbid, why: String },
        /// The coordinator and its standby are repaired in another way.
        CoordinatorRow,
        /// No such dbid or content in the catalog.
        NotInCatalog { what: String },
        /// The instance is up: a repair would take away redundancy that is there.
        TargetUp { dbid: Dbid },
        /// The instance is the acting primary: the only copy known to hold every commit.
        TargetIsActingPrimary { dbid: Dbid },
        /// The acting primary does not answer, and nothing else is known.
        ActingPrimaryNotAnswering { primary: Dbid, why: String },
        /// Both sides are gone.
        DoubleFault { primary: Dbid, mirror: Dbid, why: String },
        /// Both died in sync: the catalog names a primary that was never promoted.
        FlippedDouble { primary: Dbid, mirror: Dbid, why: String },
        /// What answers at the acting primary's place is not, or not surely, that instance.
        PeerSuspect { primary: Dbid, why: String },
        /// No selected pod is at the address of any segment.
        NothingSelected { selected: usize },
        /// The pod does not fulfil the contract of a segment pod.
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
        /// No full copy could take the place of its directory: its log lies elsewhere, or something is mounted within.
        NotToBeCopied { why: String },
        /// A Job at it would lack what its pod has: what an init container made, the proxy of a mesh.
        JobLacks { what: String },
        /// The acting primary's own data is gone.
        PrimaryDataMissing { dbid: Dbid },
        /// Its postgres is kept from starting by its machine or a setting, which no copy mends; its supervisor goes on trying.
        DoesNotStart { dbid: Dbid, why: String },
        /// Only a full copy would help and policy does not allow it.
        FullNotAllowed { why: String },
        /// A mirror that is down for less than the grace period.
        WithinGrace { seconds_left: i64 },
        /// Automatic healing is paused.
        Paused { would: Repair },
        /// The policy only observes.
        ObserveOnly { would: Repair },
        /// An earlier recovery of this fault failed for a cause that only a person can judge.
        RecoveryFailed { recovery: String },
        /// A recovery of this fault ended for a cause that passes by itself; another one goes on after a rest.
        TakenUpAgain { recovery: String, why: String, until: Timestamp },
        /// Repairs of this instance succeed, and it falls back soon after, as often as policy allows.
        FallsBack { recovery: String, copies: u32 },
        /// The instance was repaired, and fell again, as often within a term as policy lets it be without a person.
        Flapping { dbid: Dbid, recovery: String, within: SignedDuration, causes: Vec<String>, until: Timestamp },
        /// A SegmentRecovery that this operator cannot read has the name that a repair of this fault would have, or a Job at this content.
        RecoveryUnreadable { recovery: String },
        /// The Job of an attempt makes no progress: its node is lost or cordoned, its pod is not made, no heartbeat comes, nothing of its work moves.
        AttemptStuck { job: String, why: String },
        /// The Kubernetes API refuses the pod of an attempt's Job: a quota, a limit range, an admission policy.
        PodRefused { job: String, why: String },
        /// A recovery, its status or its Job cannot be made: the Kubernetes API refuses it, or something of the pod is missing.
        NotMade { why: String, passes: bool },
        /// Another recovery of the same content is running.
        AlreadyRecovering { content: Content, recovery: String },
        /// A Job at the same content, or its pod, has not ended yet, whatever it has said and whether or not its recovery is there.
        JobNotEnded { job: String },
        /// As many Jobs run as policy allows.
        JobBudget { max: usize },
        /// The pod's supervisor gives no page.
        SupervisorSilent { why: String },
        /// What is served at the pod's supervisor port is not the page of this instance: nonsense, or another's.
        PageNotBelieved { why: String },
        /// The mirror streams from its acting primary, for minutes, and FTS has not marked it up.
        NotMarkedUp { why: String },
        /// The mirror is up and follows; it is not in sync yet.
        CatchingUp,
        /// The mirror is up for FTS and acknowledges nothing, as its acting primary's supervisor or its own sees: commits wait for it.
        MirrorHangs { primary: Dbid, detail: String },
        /// The mirror is up for FTS, and neither its supervisor answers nor anything else shows that it lives.
        MirrorUnreachable { why: String },
        /// The mirror is up for FTS and answers nothing for a while, and its own supervisor shows that its WAL receiver works.
        MirrorSlow { primary: Dbid, detail: String },
        /// The mirror is up for FTS, and its WAL receiver says that it gets no connection: what was committed since is on one side alone,
        /// or commits wait.
        MirrorNotReceiving { why: String },
        /// The acting primary's supervisor cannot tell whether its mirror hangs: commits may wait for `wal_sender_timeout`, unseen.
        MirrorUnwatched { why: String },
        /// Up for FTS, and its postgres ends again and again, as a whole or within its postmaster, between two looks of FTS.
        CrashLooping { times: u32, serves_between: bool, last: String },
        /// The supervisor is in a state that no repair answers, or not yet.
        SupervisorSays { state: InstanceState, detail: String },
    }
}

crate::reasons! {
    /// One point of the contract of a segment pod (docs/attach.md#the-contract-of-a-segment-pod).
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
        /// The data directory is the mount root, so marks cannot live beside it.
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

/// What waiting does to a refusal.
#[derive(Clone, Copy)]
struct Nature {
    /// A person has to do something.
    person: bool,
    /// No waiting changes it, so what was asked for is refused.
    for_good: bool,
    /// It stands in the way of a repair; what does not only takes its time.
    blocks: bool,
}

/// It only takes its time.
const TAKES_TIME: Nature = Nature { person: false, for_good: false, blocks: false };
/// It passes by itself, or is no fault.
const PASSES: Nature = Nature { blocks: true, ..TAKES_TIME };
const PERSON: Nature = Nature { person: true, ..PASSES };
const FOR_GOOD: Nature = Nature { for_good: true, ..PASSES };
const BOTH: Nature = Nature { person: true, ..FOR_GOOD };

// Of each refusal: what waiting does to it, what it says, and what lifts it.
crate::sentences! { Refusal {
    CatalogUnread { unread }: Nature { person: unread.needs_a_person(), ..PASSES },
        ("{unread}"),
        ("{}", unread.lifted_by());
    CatalogInvalid { why }: BOTH,
        ("{why}"),
        ("lifted when a person has repaired gp_segment_configuration (gpcheckcat)");
    CoordinatorMayBeOvertaken { why }: PERSON,
        ("the coordinator may have been taken over, and its catalog be an old one: {why}"),
        ("lifted when spec.coordinator leads to the coordinator on the higher timeline, and the other one does not run; where that one is \
             lost, when a person lets the other be believed (docs/break-glass.md, \"A coordinator that is not believed\")");
    StandbyCoordinatorDown { dbid, why }: PERSON,
        ("the standby coordinator, dbid {dbid}, could not be activated: {why}"),
        ("lifted by itself when it follows the coordinator; gpheal repairs no coordinator, so one that does not come back is for a person \
             to make anew (gpinitstandby, or pg_basebackup into an empty directory)");
    CoordinatorRow: FOR_GOOD,
        ("content -1 is the coordinator"),
        ("never; see gpinitstandby and gpactivatestandby");
    NotInCatalog { what }: BOTH,
        ("{what} is not in the catalog"),
        ("never; name dbids and contents of gp_segment_configuration");
    TargetUp { dbid }: FOR_GOOD,
        ("dbid {dbid} is up"),
        ("lifted when FTS marks the instance down");
    TargetIsActingPrimary { dbid }: FOR_GOOD,
        ("dbid {dbid} is the acting primary, the only copy known to hold every commit"),
        ("lifted when FTS has promoted its mirror; a healthy acting primary is never repaired");
    ActingPrimaryNotAnswering { primary, why }: TAKES_TIME,
        ("the acting primary, dbid {primary}, does not answer: {why}"),
        ("lifted when dbid {primary} answers again or FTS promotes its mirror");
    DoubleFault { primary, mirror, why }: PERSON,
        ("double fault: the acting primary, dbid {primary}, does not answer ({why}) and its mirror, dbid {mirror}, was not in sync"),
        ("lifted when dbid {primary} serves again on its own volume; it alone holds every commit");
    FlippedDouble { primary, mirror, why }: PERSON,
        ("both sides died in sync: the catalog flipped to dbid {primary}, which was not promoted ({why}); dbid {mirror} must not be \
             restarted as primary"),
        ("lifted when dbid {primary} runs again on its own volume, so that FTS can promote it; its peer is rewound then");
    PeerSuspect { primary, why }: PASSES,
        ("the acting primary, dbid {primary}, is suspect: {why}"),
        ("lifted when dbid {primary} answers as what its catalog row says");
    NothingSelected { selected }: PERSON,
        ("spec.segments.selector selects {selected} pods, and none of them is at the address of a segment"),
        ("lifted when spec.segments.selector selects the pods at the catalog's addresses; check it, and that they are not scaled down");
    ContractNotFulfilled { points }: of_contract(points),
        ("{}", points.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        ("lifted when the pod fulfils the contract of a segment pod");
    VolumeUnrecognised { dbid }: BOTH,
        ("the volume carries no token of dbid {dbid}: perhaps it is not mounted, perhaps it is another's"),
        ("lifted when the right volume is mounted; a person who knows that it is lost may restore the token");
    VolumeInUse { dbid, detail }: PASSES,
        ("the volume of dbid {dbid} is in use: {detail}"),
        ("lifted when the last process that holds the volume's lock, or lives in the data directory, has ended; a person may have \
             started it");
    SpareNotTaken { dbid }: PASSES,
        ("the place of dbid {dbid} is an empty spare, and its supervisor has read no row that names it yet"),
        ("lifted by itself when its supervisor has read the row");
    AccessMode { claim, mode }: BOTH,
        ("claim {claim} is {mode}, on which the volume's lock cannot be trusted"),
        ("lifted when the claim is ReadWriteOnce on a node-local or block volume");
    ClaimUnread { claim, why }: PERSON,
        ("whether the lock on claim {claim} can be trusted is not known: {why}"),
        ("lifted when the claim {claim} is there, and is ReadWriteOnce");
    UntrustedLock { why }: BOTH,
        ("the volume's lock proves nothing: {why}"),
        ("lifted when the data directory lies on a node-local or block volume with a file system of its own");
    NotToBeCopied { why }: PERSON,
        ("a full copy could not take the place of its data directory: {why}"),
        ("lifted when its log lies within its data directory, and nothing is mounted there; until then only what an incremental repair \
             mends is repaired");
    JobLacks { what }: PERSON,
        ("a Job at it would lack {what}"),
        ("lifted when its postgres gets that from its image, a ConfigMap, a Secret, or an init container that mounts nothing that outlives \
             the pod; where a Job can do without, by spec.job.initContainers: Omit, and for a mesh by spec.job.annotations that say whether \
             it injects");
    PrimaryDataMissing { dbid }: PERSON,
        ("the data directory of the acting primary, dbid {dbid}, is empty or unusable"),
        ("lifted when the volume of dbid {dbid} is restored; nothing else holds this content's commits");
    DoesNotStart { dbid, why }: PERSON,
        ("the postgres of dbid {dbid} does not start, for a reason that no copy mends: {why}"),
        ("lifted by itself once that is put right, as its supervisor goes on trying; a SegmentRecovery made by hand runs all the same");
    FullNotAllowed { why }: BOTH,
        ("only a full copy would help ({why}), which policy does not allow"),
        ("lifted by spec.healing.full: Allow, or by a SegmentRecovery of type Full");
    WithinGrace { seconds_left }: TAKES_TIME,
        ("down for less than the grace period ({seconds_left} s left)"),
        ("lifted in {seconds_left} s, or when its supervisor asks for a repair");
    Paused { would }: PASSES,
        ("healing is paused; would repair: {would}"),
        ("lifted by spec.healing.paused: false; a SegmentRecovery made by hand runs all the same");
    ObserveOnly { would }: PASSES,
        ("mode is Observe; would repair: {would}"),
        ("lifted by spec.healing.mode: Automatic; a SegmentRecovery made by hand runs all the same");
    RecoveryFailed { recovery }: PERSON,
        ("SegmentRecovery {recovery} failed for this fault"),
        ("lifted by deleting SegmentRecovery {recovery} when its cause is mended");
    TakenUpAgain { recovery, why, until }: PASSES,
        ("SegmentRecovery {recovery} ended for what passes by itself ({why})"),
        ("lifted by itself: another recovery follows at {until}");
    FallsBack { recovery, copies }: PERSON,
        ("SegmentRecovery {recovery} succeeded, and the mirror fell back again soon after, {copies} copies in a row"),
        ("lifted by deleting SegmentRecovery {recovery} when it is known, and mended, what breaks the mirror after each repair");
    Flapping { dbid, recovery, within, causes, until }: PASSES,
        ("dbid {dbid} falls again and again, {} times without {within:#} of quiet: {}", causes.len(), numbered(causes)),
        ("lifted by itself at {until}, {within:#} after SegmentRecovery {recovery} ended, or at once by a SegmentRecovery that a person \
             makes for dbid {dbid}, when it is known, and mended, what fells it");
    RecoveryUnreadable { recovery }: PERSON,
        ("this operator cannot read SegmentRecovery {recovery}, which is for this fault or has a Job at this content"),
        ("lifted by an operator that can read SegmentRecovery {recovery}, or by deleting it");
    AttemptStuck { job, why }: PERSON,
        ("Job {job} makes no progress: {why}"),
        ("lifted when Job {job} goes on or its pod is gone; delete its pod, by force only when its node is known to be gone");
    PodRefused { job, why }: PERSON,
        ("the pod of Job {job} is not made: {why}"),
        ("lifted by itself, within minutes, once quotas, limit ranges and policies of the namespace let the pod be; spec.job.resources \
             and spec.job.labels change what it asks for and carries");
    NotMade { why, passes }: if *passes { PASSES } else { PERSON },
        ("{why}"),
        ("lifted by itself, within a minute, once quotas, policies of admission and the operator's role let it be made, or what the \
             message names is there");
    AlreadyRecovering { content, recovery }: TAKES_TIME,
        ("content {content} is being repaired by SegmentRecovery {recovery}"),
        ("lifted when SegmentRecovery {recovery} has ended");
    JobNotEnded { job }: PASSES,
        ("Job {job}, at work for the same content, has not ended, or its pod has not"),
        ("lifted by itself when Job {job} has its condition Complete or Failed, or is gone, and its pod has ended; where it does \
             not end, delete it");
    JobBudget { max }: TAKES_TIME,
        ("{max} Jobs are running already"),
        ("lifted when a running Job ends");
    SupervisorSilent { why }: PASSES,
        ("its supervisor cannot be asked: {why}"),
        ("lifted when its pod runs and the supervisor's page can be read");
    PageNotBelieved { why }: PERSON,
        ("its supervisor's page is not believed: {why}"),
        ("lifted when its pod serves the page of this instance at the container port named gpheal; check GPHEAL_CLUSTER, \
             GPHEAL_ADDRESS, GPHEAL_PORT and GPHEAL_DATA_DIRECTORY there, and that supervisor and operator are of one version");
    NotMarkedUp { why }: PERSON,
        ("the mirror streams, for minutes, and FTS has not marked it up: {why}"),
        ("lifted by itself when FTS has marked it up; look whether the coordinator's FTS process works, and its log; a mirror that connects \
             under another name than gp_walreceiver FTS does not know, and a SegmentRecovery that a person makes for it sets that right, once \
             the one that waits for FTS is deleted");
    CatchingUp: TAKES_TIME,
        ("the mirror is up and not in sync yet"),
        ("lifted by itself when the mirror has received what it missed");
    MirrorHangs { primary, detail }: PASSES,
        ("the mirror hangs, as seen from dbid {primary}: {detail}"),
        ("lifted when the mirror acknowledges what it is sent, or FTS has marked it down; then it is repaired");
    MirrorUnreachable { why }: PASSES,
        ("the mirror cannot be reached: {why}"),
        ("lifted when its node is back and its supervisor answers, or FTS has marked it down; then it is repaired");
    MirrorSlow { primary, detail }: TAKES_TIME,
        ("the mirror is slow, as seen from dbid {primary}: {detail}"),
        ("lifted by itself when the mirror has acknowledged what it was sent; look at its disk and its processor");
    MirrorNotReceiving { why }: PASSES,
        ("the mirror is up for FTS and receives nothing; its WAL receiver says: {why}"),
        ("lifted when it receives, or FTS has marked it down; then it is repaired");
    MirrorUnwatched { why }: PERSON,
        ("whether its mirror hangs cannot be told: {why}"),
        ("lifted when its supervisor sees how far the mirror is (docs/hang.md, \"What it needs\"); until then a mirror that hangs is left \
             to wal_sender_timeout");
    CrashLooping { times, serves_between, last }: PASSES,
        ("it is up for FTS, and its postgres has ended {times} times {}, {last}", between(*serves_between)),
        ("lifted by itself when its postgres has served for a while, or FTS has marked it down; mend what ends it, of which the log of \
             its pod tells");
    SupervisorSays { state, detail }: if state.needs_a_person() { PERSON } else { TAKES_TIME },
        ("its supervisor says {state}: {detail}"),
        ("{}", state.lifted_by());
} }

impl Refusal {
    /// Stable word for status, metrics and logs.
    pub fn code(&self) -> &'static str {
        self.inner_code().unwrap_or(self.name())
    }

    /// Of what it is made of, where that has codes of its own.
    fn inner_code(&self) -> Option<&'static str> {
        if let Self::ContractNotFulfilled { points } = self {
            return points.first().map(ContractPoint::code);
        }
        if let Self::CatalogUnread { unread } = self { Some(unread.name()) } else { None }
    }

    /// A person has to do something: waiting alone does not lift it.
    pub fn needs_a_person(&self) -> bool {
        self.nature().person
    }

    /// It stands in the way of a repair; what only takes its time does not.
    pub fn blocks(&self) -> bool {
        self.nature().blocks
    }

    /// No waiting changes it: a recovery that was asked for is refused for good.
    pub fn is_final(&self) -> bool {
        self.nature().for_good
    }
}

/// What of its ends makes them many.
const fn between(serves: bool) -> &'static str {
    if serves { "within half an hour, though it serves in between" } else { "without serving for a while" }
}

/// `(1) …; (2) …`, in their order.
fn numbered(causes: &[String]) -> String {
    let one = |(at, cause): (usize, &String)| format!("({}) {cause}", at + 1);
    causes.iter().enumerate().map(one).collect::<Vec<_>>().join("; ")
}

/// Which kernel a pod runs on is read from two sources, one of which may be old for a moment.
fn of_contract(points: &[ContractPoint]) -> Nature {
    let own_kernel = |point: &ContractPoint| matches!(point, ContractPoint::OwnKernel { .. });
    let for_good = points.iter().any(|point| point.lasts() && !own_kernel(point));
    Nature { person: points.iter().any(ContractPoint::lasts), for_good, ..PASSES }
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
            | Self::PutBack
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
