//! Everything that was seen in one look, as one value. The planner reads nothing else.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};

use super::{
    Catalog, Content, Dbid, Failure, Look, Lsn, NoPage, Outcome, Page, Progress, Repair, Role, Row, Step, SystemIdentifier, Timeline,
    Unread, refusal::ContractPoint,
};

/// One look at one cluster.
#[derive(Clone, Debug)]
pub struct World {
    pub catalog: Look<Catalog, Unread>,
    /// The timeline of the coordinator that gave the catalog.
    pub coordinator_timeline: Option<Timeline>,
    /// How many pods the cluster's selector selects.
    pub selected: usize,
    /// Pods and supervisors' pages, by the dbid of the row whose place they are.
    pub instances: BTreeMap<Dbid, Instance>,
    /// What the acting primary of a content answered in utility mode.
    pub sources: BTreeMap<Content, Look<Source>>,
    /// Contents to which a dispatched statement got an answer; asked only while a repair is being proven.
    pub dispatch: Look<Vec<Content>, Undispatched>,
    /// Why FTS could not be asked to look, when it was last tried.
    pub unprobed: Option<String>,
    /// Whose Jobs could not be made when that was last tried: recovery and dbid, the one that was tried longest ago first.
    pub not_made: Vec<(String, Dbid)>,
    /// All recoveries of this cluster, oldest first.
    pub recoveries: Vec<Recovery>,
    /// Names of SegmentRecoveries of which nothing but the name can be read, of whatever cluster: they are taken.
    pub unreadable: Vec<String>,
    /// Jobs that have not ended, and pods of Jobs that live: of whatever recovery, one that is over or deleted, too. Looked
    /// for while something may be begun or removed; `Unknown`: nothing may.
    pub at_work: Look<Vec<AtWork>>,
    /// Stable text that tells this cluster object from another of its name.
    pub cluster_uid: String,
    pub cluster_name: String,
}

/// One instance beside its catalog row.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The pod of its address, or why there is none to be had.
    pub pod: Look<PodSeen>,
    /// Points of the contract that its pod does not fulfil.
    pub contract: Vec<ContractPoint>,
    /// What a Job at it would lack of what its pod has.
    pub job_lacks: Option<String>,
    /// Its claim's access mode, when that does not allow a lock to be trusted: (claim, mode). `Unknown`: the claim was not found.
    pub access_mode: Option<(String, Look<String>)>,
    /// What its supervisor's port gave; whose page it is, [`World::page_of`] asks.
    pub page: Look<Page, NoPage>,
    /// Since when its row has not been well, as far as anybody remembers.
    pub unwell_since: Option<Timestamp>,
    /// It has been seen answering read-write since its row last changed.
    pub seen_promoted: bool,
    /// When the catalog made it the primary, by the history; `None`: it always was, or it is a mirror.
    pub promoted_at: Option<Timestamp>,
    /// When that was last seen to change, by a clock that nobody sets.
    pub marked: Option<Changed>,
    /// Time of the newest row that `gp_configuration_history` has for it. The coordinator's clock may have been set back since.
    pub last_history: Option<Timestamp>,
    /// How many rows `gp_configuration_history` has for it: what no clock moves, so it tells one fault from the next.
    pub written: Option<u64>,
    /// For how long nothing of it was seen to move, neither its state nor what it has replayed, by a clock that nobody sets.
    pub still: Option<SignedDuration>,
    /// For how long its supervisor has not answered, by the same clock.
    pub silent: Option<SignedDuration>,
    /// For how long its WAL receiver has said why it receives nothing, by the same clock.
    pub deaf: Option<SignedDuration>,
    /// For how long it has received while FTS has it marked down, by the same clock.
    pub unmarked: Option<SignedDuration>,
    /// When its postgres was last seen to end, by the same clock.
    pub ended: Option<Changed>,
    /// How often it was within the last half hour, having served for a while in between: those of one row are one.
    pub ends_lately: u32,
    /// The walsender, by its process, whose positions those of its WAL receiver go along with.
    pub walsender: Option<i32>,
    /// Its node is known not to run pods: why. Looked at while its supervisor is silent.
    pub node_lost: Option<String>,
}

/// When something was last seen to change, by a clock that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was seen to, so long ago.
    Ago(SignedDuration),
    /// Not for as long as anybody has looked, which is so long: when it was before, nobody has seen.
    NotFor(SignedDuration),
}

impl Changed {
    /// Whether it changed within `moment`. `None`: nobody has looked for long enough to know.
    pub fn within(self, moment: SignedDuration) -> Option<bool> {
        match self {
            Self::Ago(ago) => Some(ago < moment),
            Self::NotFor(looked) => (looked >= moment).then_some(false),
        }
    }
}

/// A Job that has not ended, or of which a pod lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AtWork {
    pub job: String,
    pub dbid: Dbid,
    pub recovery: String,
}

/// What the planner needs of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub ips: Vec<String>,
    pub node: Option<String>,
}

/// An acting primary that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub dbid: Dbid,
    pub content: Content,
    /// In recovery: it is a mirror that was not promoted, or not yet.
    pub in_recovery: bool,
    pub system_identifier: Option<SystemIdentifier>,
    pub walsenders: Vec<Walsender>,
}

impl Source {
    /// Walsenders that stream to a mirror; there is one as a rule.
    pub fn streaming(&self) -> impl Iterator<Item = &Walsender> {
        self.walsenders.iter().filter(|w| w.application_name == MIRROR_APPLICATION && w.state == "streaming")
    }
}

/// The name under which a mirror's WAL receiver connects, in all of Greenplum.
pub const MIRROR_APPLICATION: &str = "gp_walreceiver";

/// Why no dispatched statement was answered. It goes to all contents and fails for all, so it says whose fault it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undispatched {
    pub why: String,
    /// It was dispatched and failed; else it was not asked, or not yet.
    pub tried: bool,
    /// The contents that the coordinator named in its error.
    pub failed: Vec<Content>,
}

impl Undispatched {
    /// One that was dispatched in vain.
    pub fn tried(why: String, failed: Vec<Content>) -> Self {
        Self { why, tried: true, failed }
    }
}

impl From<&str> for Undispatched {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<String> for Undispatched {
    fn from(why: String) -> Self {
        Self { why, tried: false, failed: vec![] }
    }
}

impl fmt::Display for Undispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walsender {
    pub application_name: String,
    /// `streaming`, `catchup`, `startup`, `backup`.
    pub state: String,
    pub client: Option<String>,
    pub pid: Option<i32>,
    /// What its mirror has said to have flushed; `None` where the role that asks may not see it.
    pub flush: Option<Lsn>,
}

/// Phase of a recovery; only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Refused,
    Cancelled,
}

impl Phase {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Refused | Self::Cancelled)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Refused => "Refused",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Which instances a recovery is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    Dbids(Vec<Dbid>),
    /// The instance of each content that is down.
    Contents(Vec<Content>),
    AllDown,
}

/// Most instances of one recovery: its status lists each, and objects are bounded.
pub const MOST_TARGETS: usize = 128;

/// One `SegmentRecovery`.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub name: String,
    /// Of the object: tells it from a namesake that was deleted.
    pub uid: String,
    /// Made by automatic healing; else by a person or GitOps.
    pub automatic: bool,
    /// uid of the GreenplumCluster that owns it.
    pub owner: Option<String>,
    pub targets: Targets,
    /// `None`: the ladder decides.
    pub wanted: Option<Repair>,
    pub phase: Phase,
    /// Being deleted: cancel.
    pub deleting: bool,
    /// The recovery whose work automatic healing goes on with: its instance fell back after it, or its cause has passed.
    pub follows: Option<String>,
    /// When it was over.
    pub ended: Option<Timestamp>,
    pub instances: BTreeMap<Dbid, RecoveryInstance>,
}

/// One instance within a recovery, as its status has it, with its newest Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryInstance {
    pub content: Content,
    pub phase: Phase,
    /// Attempts begun so far; 0 before the first. It numbers the Jobs.
    pub attempt: u32,
    /// Ended attempts that had begun to copy: they alone are bounded by number.
    pub copies: u32,
    /// Attempts that failed since one last began to copy: the back-off grows with them.
    pub failures: u32,
    /// When the first of those failed: they are bounded by hours.
    pub failing_since: Option<Timestamp>,
    pub repair: Option<Repair>,
    /// Why this repair, for people.
    pub why: String,
    /// The acting primary that the newest attempt copies from.
    pub source: Option<Dbid>,
    /// When the newest attempt was begun.
    pub attempt_started: Option<Timestamp>,
    /// When the newest attempt was found ended without success: the back-off counts from here.
    pub attempt_ended: Option<Timestamp>,
    /// Whether the newest attempt, which is done, changed anything but settings. `None`: nobody says, or none is done.
    pub changed: Option<bool>,
    /// Copy done; since then waiting until FTS and replication prove it.
    pub proving_since: Option<Timestamp>,
    pub failure: Option<Failure>,
    /// The Job of the newest attempt.
    pub job: Option<JobView>,
}

impl RecoveryInstance {
    /// Before its first attempt.
    pub fn untouched(content: Content) -> Self {
        Self {
            content,
            phase: Phase::Pending,
            attempt: 0,
            copies: 0,
            failures: 0,
            failing_since: None,
            repair: None,
            why: String::new(),
            source: None,
            attempt_started: None,
            attempt_ended: None,
            changed: None,
            proving_since: None,
            failure: None,
            job: None,
        }
    }
}

/// A Job, as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    pub name: String,
    pub state: JobState,
    pub step: Option<Step>,
    pub progress: Option<Progress>,
    /// Why it makes no progress, when it makes none: its node is lost or cordoned, a quota refuses its pod, the instance's pod
    /// has moved, no heartbeat comes. Such a Job counts in no budget.
    pub stuck: Option<String>,
    /// Who refuses its pod, and why, in the words of the API server: a quota, a limit range, an admission policy.
    pub refused: Option<String>,
    /// It has begun to copy, or nobody can say that it has not.
    pub begun: bool,
    /// Its pod's node is known to be gone for good (no Node object any more, or marked as out of service).
    pub node_gone: bool,
}

impl JobView {
    /// One that runs, of which nothing is known yet.
    pub fn new(name: &str, state: JobState) -> Self {
        Self { name: name.to_owned(), state, step: None, progress: None, stuck: None, refused: None, begun: false, node_gone: false }
    }
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    Active,
    /// It ended and said how.
    Ended(Outcome),
    /// It ended or vanished and nobody knows how.
    Lost(String),
    /// It ended and left something that is not the outcome of this attempt.
    Garbled(String),
}

impl World {
    /// Whether anything is going on or amiss, so that it is looked at every 2 s instead of every 30 s.
    pub fn restless(&self) -> bool {
        let Some(catalog) = self.catalog.seen() else { return true };
        let mut segments = catalog.rows.iter().filter(|row| row.content.0 >= 0);
        let lost = |row: &Row| self.instances.get(&row.dbid).is_some_and(|one| one.node_lost.is_some());
        // Somebody who is silent for a moment is looked at again soon where nobody else would tell that it hangs.
        let is_silent = |row: &Row| self.instances.get(&row.dbid).is_some_and(|one| one.silent.is_some());
        let unseen = |row: &Row| is_silent(row) && self.unwatched(row.content).is_some();
        let serves = |row: &Row| self.page_of(row).map_or(true, Page::is_calm) && !lost(row) && !unseen(row);
        !segments.all(|row| row.well() && serves(row)) || self.recoveries.iter().any(|r| !r.phase.is_over())
    }

    /// Why the acting primary of a content cannot tell whether its mirror hangs.
    pub fn unwatched(&self, content: Content) -> Option<&String> {
        let rows = &self.catalog.seen()?.rows;
        let primary = rows.iter().find(|row| row.content == content && row.role == Role::Primary)?;
        self.page_of(primary).ok()?.mirror_unwatched.as_ref()
    }

    /// The page of a row's instance. A page of another cluster or place is nobody's word.
    ///
    /// # Errors
    /// Why there is none to go by.
    pub fn page_of(&self, row: &Row) -> Result<&Page, NoPage> {
        let unasked = || NoPage::Silent("its pod was not looked for yet".into());
        match &self.instances.get(&row.dbid).ok_or_else(unasked)?.page {
            Look::Unknown(none) => Err(none.clone()),
            Look::Seen(page) => page.is_of(&self.cluster_name, row).map(|()| page).map_err(NoPage::NotBelieved),
        }
    }

    /// The timeline of the coordinator that gave the catalog, where a segment of this cluster vouches for it: its supervisor has
    /// believed that one itself, or is too old to tell. A Service that leads astray finds a coordinator, too.
    pub fn vouched_timeline(&self) -> Option<Timeline> {
        let asked = self.coordinator_timeline?;
        self.pages_of_segments().any(|page| page.coordinator_timeline.is_none_or(|seen| seen >= asked)).then_some(asked)
    }

    /// A segment that the catalog names is one of this cluster, by its supervisor's word: it is no other cluster's catalog.
    pub fn is_of_this_cluster(&self) -> bool {
        self.pages_of_segments().next().is_some()
    }

    fn pages_of_segments(&self) -> impl Iterator<Item = &Page> {
        let rows = self.catalog.seen().map_or(&[][..], |catalog| &catalog.rows);
        rows.iter().filter(|row| row.content.0 >= 0).filter_map(|row| self.page_of(row).ok())
    }

    /// Not one segment has a pod among those that are selected: they are all gone, or others are selected.
    pub fn nothing_selected(&self) -> bool {
        let rows = self.catalog.seen().map_or(&[][..], |catalog| &catalog.rows);
        let mut segments = rows.iter().filter(|row| row.content.0 >= 0).peekable();
        let without = |row: &Row| {
            let points = self.instances.get(&row.dbid).map_or(&[][..], |instance| &instance.contract);
            points.iter().any(|point| matches!(point, ContractPoint::NoPod { .. }))
        };
        segments.peek().is_some() && segments.all(without)
    }
}

#[cfg(any(test, feature = "fixtures"))]
#[path = "world_fixtures.rs"]
pub mod fixtures;
