//! Everything that was seen in one look, as one value. The planner reads nothing else.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};

use super::{
    Catalog, Content, Dbid, Failure, InstanceState, Look, NoPage, Outcome, Page, Progress, Refusal, Repair, Row, Step, SystemIdentifier,
    Timeline, Unread, refusal::ContractPoint,
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
    /// All recoveries of this cluster, oldest first.
    pub recoveries: Vec<Recovery>,
    /// Names of SegmentRecoveries of which nothing but the name can be read, of whatever cluster: they are taken.
    pub unreadable: Vec<String>,
    /// Instances at which a Job of such a recovery may be at work, with its name.
    pub at_work: BTreeMap<Dbid, String>,
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
    /// Time of the newest row that `gp_configuration_history` has for it. The coordinator's clock may have been set back since.
    pub last_history: Option<Timestamp>,
    /// How many rows `gp_configuration_history` has for it: what no clock moves, so it tells one fault from the next.
    pub written: Option<u64>,
    /// For how long nothing of it was seen to move, neither its state nor what it has replayed, by a clock that nobody sets.
    pub still: Option<SignedDuration>,
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
    /// It has begun to copy, or nobody can say that it has not.
    pub begun: bool,
    /// Its pod's node is known to be gone for good (no Node object any more, or marked as out of service).
    pub node_gone: bool,
}

impl JobView {
    /// One that runs, of which nothing is known yet.
    pub fn new(name: &str, state: JobState) -> Self {
        Self { name: name.to_owned(), state, step: None, progress: None, stuck: None, begun: false, node_gone: false }
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
        let serves = |row: &Row| self.page_of(row).map_or(true, |page| page.state == InstanceState::Serving);
        !segments.all(|row| row.well() && serves(row)) || self.recoveries.iter().any(|r| !r.phase.is_over())
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

    /// Why neither a recovery named `name` nor another one may begin anything at `content`: there is one that cannot be read.
    ///
    /// # Errors
    /// [`Refusal::RecoveryUnreadable`]
    pub fn all_readable(&self, name: &str, content: Content) -> Result<(), Refusal> {
        let of = |dbid: &Dbid| self.catalog.seen().and_then(|catalog| catalog.row(*dbid)).map(|row| row.content);
        let namesake = self.unreadable.iter().find(|taken| *taken == name);
        let at_work = || self.at_work.iter().find(|(dbid, _)| of(dbid) == Some(content)).map(|(_, recovery)| recovery);
        match namesake.or_else(at_work) {
            None => Ok(()),
            Some(recovery) => Err(Refusal::RecoveryUnreadable { recovery: recovery.clone() }),
        }
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

#[cfg(test)]
pub mod fixtures {
    //! A small world of one healthy pair, bent by chained modifiers.
    #![allow(clippy::return_self_not_must_use, reason = "modifiers of test objects")]
    use super::*;
    use crate::model::{
        Mode, Role, Status,
        page::{PAGE_VERSION, Shape},
    };

    /// Reads the notation of the field, `5:0mmnd`.
    pub fn row(text: &str) -> Row {
        let (dbid, rest) = text.split_once(':').unwrap();
        let split = rest.len() - 4;
        let letters: Vec<char> = rest[split..].chars().collect();
        let dbid: i16 = dbid.parse().unwrap();
        Row {
            dbid: Dbid(dbid),
            content: Content(rest[..split].parse().unwrap()),
            role: Role::try_from(letters[0]).unwrap(),
            preferred_role: Role::try_from(letters[1]).unwrap(),
            mode: Mode::try_from(letters[2]).unwrap(),
            status: Status::try_from(letters[3]).unwrap(),
            port: 6000,
            hostname: format!("seg-{dbid}.gp"),
            address: format!("seg-{dbid}.gp"),
            datadir: "/data/gpseg".into(),
        }
    }

    pub const NOW: i64 = 1_800_000_000;

    pub fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    pub fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW - seconds).unwrap()
    }

    pub fn page(row: &Row) -> Page {
        Page {
            version: PAGE_VERSION,
            cluster: "demo".into(),
            dbid: Some(row.dbid),
            content: Some(row.content),
            address: row.address.clone(),
            port: row.port,
            data_directory: row.datadir.clone(),
            state: InstanceState::Serving,
            since: ago(3600),
            detail: String::new(),
            shape: if row.role == Role::Primary { Shape::Primary } else { Shape::Mirror },
            serves: Some(row.role),
            receiving: row.role == Role::Mirror,
            replays: None,
            system_identifier: Some(SystemIdentifier(7)),
            timeline: None,
            hold: None,
            copy: false,
            crashes: 0,
            last_exit: None,
            result: None,
            incarnations: vec![],
            followed: vec![],
            coordinator_timeline: None,
            boot: None,
            node: None,
            reaches: None,
            untrusted_lock: None,
        }
    }

    fn instance(row: &Row) -> Instance {
        Instance {
            pod: Look::Seen(PodSeen {
                name: format!("seg-{}", row.dbid),
                ips: vec![format!("10.0.0.{}", row.dbid)],
                node: Some("n1".into()),
            }),
            contract: vec![],
            access_mode: None,
            page: Look::Seen(page(row)),
            unwell_since: None,
            seen_promoted: row.role == Role::Primary,
            last_history: Some(ago(7200)),
            written: Some(1),
            still: None,
            promoted_at: (row.role != row.preferred_role && row.role == Role::Primary).then(|| ago(7200)),
        }
    }

    fn source(row: &Row, mirror: &Row) -> Source {
        Source {
            dbid: row.dbid,
            content: row.content,
            in_recovery: false,
            system_identifier: Some(SystemIdentifier(7)),
            walsenders: vec![walsender(mirror.dbid.0)],
        }
    }

    /// Of an acting primary that streams to this mirror.
    pub fn walsender(mirror: i16) -> Walsender {
        Walsender { application_name: "gp_walreceiver".into(), state: "streaming".into(), client: Some(format!("10.0.0.{mirror}")) }
    }

    impl World {
        /// A world whose catalog has these rows, where everything answers.
        pub fn of(rows: &[&str]) -> Self {
            Self::of_rows(rows.iter().map(|text| row(text)).collect())
        }

        /// The same of rows that need not make sense.
        pub fn of_rows(rows: Vec<Row>) -> Self {
            let catalog = Catalog { rows };
            let mut sources = BTreeMap::new();
            for content in catalog.contents() {
                if let Ok(pair) = catalog.pair(content) {
                    let mut source = source(pair.primary, pair.mirror);
                    if pair.mirror.status == Status::Down {
                        source.walsenders.clear();
                    }
                    sources.insert(content, Look::Seen(source));
                }
            }
            Self {
                instances: catalog.rows.iter().map(|row| (row.dbid, instance(row))).collect(),
                dispatch: Look::Seen(catalog.contents()),
                coordinator_timeline: Some(Timeline(1)),
                selected: catalog.rows.len(),
                catalog: Look::Seen(catalog),
                sources,
                recoveries: vec![],
                unreadable: vec![],
                at_work: BTreeMap::new(),
                cluster_uid: "uid".into(),
                cluster_name: "demo".into(),
            }
        }

        pub fn page(mut self, dbid: i16, change: impl FnOnce(&mut Page)) -> Self {
            if let Look::Seen(page) = &mut self.instances.get_mut(&Dbid(dbid)).unwrap().page {
                change(page);
            }
            self
        }

        /// No page of an instance came.
        pub fn silent(self, dbid: i16) -> Self {
            self.instance(dbid, |i| i.page = Look::Unknown(NoPage::Silent("no answer".into())))
        }

        /// The catalog could not be read.
        pub fn blind(mut self) -> Self {
            self.catalog = Look::Unknown(Unread::CoordinatorSilent { why: "timed out".into() });
            self
        }

        /// No selected pod is at an instance's address.
        pub fn without_pod(self, dbid: i16) -> Self {
            self.silent(dbid).instance(dbid, |i| {
                i.pod = Look::Unknown("no pod".into());
                i.contract = vec![ContractPoint::NoPod { address: "seg.gp".into() }];
            })
        }

        pub fn instance(mut self, dbid: i16, change: impl FnOnce(&mut Instance)) -> Self {
            change(self.instances.get_mut(&Dbid(dbid)).unwrap());
            self
        }

        pub fn down_for(self, dbid: i16, seconds: i64) -> Self {
            self.instance(dbid, |i| i.unwell_since = Some(ago(seconds)))
        }

        pub fn source(mut self, content: i16, look: Look<Source>) -> Self {
            self.sources.insert(Content(content), look);
            self
        }

        pub fn source_with(mut self, content: i16, change: impl FnOnce(&mut Source)) -> Self {
            if let Look::Seen(source) = self.sources.get_mut(&Content(content)).unwrap() {
                change(source);
            }
            self
        }

        pub fn recovery(mut self, recovery: Recovery) -> Self {
            self.recoveries.push(recovery);
            self
        }
    }

    /// A recovery asked for by hand, not begun.
    pub fn asked(name: &str, dbids: &[i16], wanted: Option<Repair>) -> Recovery {
        Recovery {
            name: name.into(),
            uid: format!("uid-of-{name}"),
            automatic: false,
            targets: Targets::Dbids(dbids.iter().map(|d| Dbid(*d)).collect()),
            wanted,
            phase: Phase::Pending,
            deleting: false,
            follows: None,
            ended: None,
            instances: BTreeMap::new(),
        }
    }

    /// One whose first attempt at one instance is running.
    pub fn running(name: &str, dbid: i16, content: i16, repair: Repair, state: JobState) -> Recovery {
        let mut recovery = asked(name, &[dbid], None);
        recovery.phase = Phase::Running;
        let instance = RecoveryInstance {
            phase: Phase::Running,
            attempt: 1,
            repair: Some(repair),
            attempt_started: Some(ago(20)),
            job: Some(JobView::new(&format!("{name}-a1"), state)),
            ..RecoveryInstance::untouched(Content(content))
        };
        recovery.instances.insert(Dbid(dbid), instance);
        recovery
    }
}
