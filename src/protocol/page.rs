//! The page that a supervisor serves at `/status`: written by one side, read by the other.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Content, Dbid, Incarnation, Lsn, Outcome, Postmaster, Reach, Role, Row, SystemIdentifier, Timeline, reasons::Example};

/// Version of the page's shape; a page of another version is not believed.
pub const PAGE_VERSION: u32 = 1;

/// Ends of a postgres in a row, of those that are no news any more once it has served for a while, after which its next start is not
/// waited for.
const ENDS: u32 = 5;

crate::reasons! {
    /// What the supervisor of an instance does now.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum InstanceState {
        /// Just begun; nothing is decided.
        Deciding,
        /// postgres was started and does not serve its role yet.
        Starting,
        /// postgres serves its role.
        Serving,
        /// postgres runs and does not answer.
        NotAnswering,
        /// postgres is being stopped.
        Stopping,
        /// Processes of it do not end, whatever is sent to them: they sit in the kernel, and only the node can be mended.
        Unkillable,
        /// Stopped for an attempt; the lock is given up.
        Held,
        /// A copy of this directory was cut off.
        CopyUnfinished,
        /// A mirror that is shaped as a primary: a stale primary, to be rewound. Or one that has what its primary lacks.
        NeedsRecovery,
        /// A mirror whose directory is empty or unusable.
        NeedsFull,
        /// The acting primary's directory is empty or unusable. Only a person can answer this.
        PrimaryDataMissing,
        /// No token of this instance on the volume, so perhaps not its volume.
        VolumeUnrecognised,
        /// The catalog has no row for this place.
        NotInCatalog,
        /// The catalog says primary, and this volume remembers that another instance took its place.
        Replaced,
        /// The catalog calls it a mirror, while it is on a higher timeline of its content than the other side, or was last told by FTS to
        /// commit without a mirror: the catalog is older than the last failover.
        CatalogOutdated,
        /// It would open as a primary, and its mirror, or standby, holds what it lacks: it was put back on an older copy of itself.
        PutBack,
        /// A person keeps postgres down by the mark `retired`, or its place was moved away.
        Retired,
        /// A person works here; postgres runs without being asked about.
        Maintenance,
        /// The coordinator cannot be asked and the volume alone does not allow a start.
        WaitingForCoordinator,
        /// A primary that may have been replaced: the peer has to say that it was not promoted.
        WaitingForPeer,
        /// A mirror that is not in sync: it is to learn first whether its acting primary has all that it has.
        WaitingForPrimary,
        /// A coordinator that waits for its segments or for the other coordinator.
        WaitingForSegments,
        /// Somebody else holds the volume's lock, or lives in the data directory without it.
        LockBusy,
        /// The volume's last holder, on another node, did not give it back and may still write.
        HeldElsewhere,
        /// The acting primary's directory is empty or unusable, and its mirror is in sync: FTS promotes that.
        StayingDown,
        /// postgres ended again and again; the next start is delayed, so that FTS can fail over meanwhile.
        BackingOff,
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Example for InstanceState {
    fn of(_: &str, _: &str) -> Self {
        Self::NeedsRecovery
    }
}

impl InstanceState {
    /// The supervisor itself says that only a repair brings it back.
    pub fn asks_for_repair(self) -> bool {
        matches!(self, Self::NeedsRecovery | Self::NeedsFull | Self::CopyUnfinished)
    }

    /// What has to happen before it is left.
    pub fn lifted_by(self) -> &'static str {
        match self {
            Self::Deciding => "lifted by itself when its volume and the catalog were looked at",
            Self::Starting => "lifted by itself when postgres serves its role",
            Self::Serving => "lifted by itself when FTS has marked it up and in sync",
            Self::NotAnswering => "lifted when postgres answers; FTS fails over if a primary does not",
            Self::Stopping => "lifted by itself when postgres is gone",
            Self::Unkillable => "lifted when those processes are gone: mend the node's disks and mounts, or restart it",
            Self::Held => "lifted when the attempt gives the volume back, or a minute after its last heartbeat",
            Self::CopyUnfinished | Self::NeedsRecovery | Self::NeedsFull => "lifted when FTS has marked it down; then it is repaired",
            Self::PrimaryDataMissing => "lifted when its volume is restored; nothing else holds this content's commits",
            Self::VolumeUnrecognised => "lifted when the right volume is mounted; a person who knows that it is lost may restore the token",
            Self::NotInCatalog => "never, while the catalog does not name this place",
            Self::Replaced => {
                "lifted when FTS has marked it a mirror again and it is repaired, or by annotating the pod with gpheal.io/not-replaced and \
                 what its message gives for it, when a person knows that the other side holds nothing that this one lacks"
            }
            Self::CatalogOutdated => {
                "lifted when a coordinator whose catalog knows of the last failover dispatches; gpheal never writes roles, so a person sees to \
                 that, or ends the newer side on purpose; where it committed without a mirror, and a person promoted that one all the same, by \
                 annotating the pod with gpheal.io/replaced and what its message gives for it, when what it acknowledged then may be lost: it is \
                 a stale primary from then on, whose repair gives that up only by a SegmentRecovery of type Full that names the dbid"
            }
            Self::PutBack => {
                "lifted when FTS has promoted its mirror and it is repaired, when its newest volume is back, or by annotating the pod with \
                 gpheal.io/not-replaced and what its message gives for it, when a person knows that what the other side holds may be lost; a \
                 coordinator's standby is activated by a person"
            }
            Self::Retired => "lifted by removing the retired mark; never, where the place was moved away",
            Self::Maintenance => "lifted by removing the maintenance mark, or the annotation that made it",
            Self::HeldElsewhere => {
                "lifted by annotating the pod with gpheal.io/node-gone and what its message gives for it, when a person knows that holder to be \
                 gone"
            }
            Self::WaitingForCoordinator => "lifted when a coordinator answers in utility mode",
            Self::WaitingForPrimary => "lifted when the acting primary answers in utility mode",
            Self::WaitingForPeer => {
                "lifted when a coordinator answers, or the peer's supervisor says that its postgres runs as a mirror; \
                 a coordinator waits for the other one for GPHEAL_COORDINATOR_WAIT at most"
            }
            Self::WaitingForSegments => "lifted when every content has a live primary, after GPHEAL_COORDINATOR_WAIT at the latest",
            Self::LockBusy => "lifted when the last process that holds the lock, or lives in the data directory, has ended",
            Self::StayingDown => "lifted when FTS has promoted its mirror; then it is repaired",
            Self::BackingOff => "lifted by itself after half a minute at most for a primary with a mirror in sync, else a minute",
        }
    }
}

/// The shape of a data directory: what postgres would come up as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// It could not be looked at now; that says nothing about what is there.
    Unknown,
    /// No data directory, or nothing in it.
    Empty,
    /// Something is there that no postgres can start from.
    Unusable,
    /// It would come up read-write.
    Primary,
    /// It has recovery.conf or standby.signal: it would follow a primary.
    Mirror,
}

/// Why postgres ended, from its exit and its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    pub at: Timestamp,
    /// `exit 1`, `signal 9`.
    pub how: String,
    pub class: ExitClass,
    /// The log lines that led to the class.
    #[serde(default)]
    pub evidence: String,
    /// The attempt whose outcome stood on the volume when that postgres was started; `None`: there was none, or nobody tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<AttemptSeen>,
    /// Ends since then, this one too, however long it served in between.
    #[serde(default)]
    pub since: u32,
    /// One of its processes ended, and its postmaster lives and began anew with all others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
}

/// An attempt, as its outcome on the volume names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptSeen {
    pub attempt: String,
    /// As in [`super::Attempt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_uid: Option<String>,
}

/// Classes of a postgres that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitClass {
    /// Killed by a signal from outside.
    Killed,
    /// A setting that this server does not take.
    Configuration,
    /// The directory cannot be used any more: damaged or incomplete.
    DataUnusable,
    /// The mirror's history is not the primary's (docs/greenplum.md#timelines).
    TimelineDiverged,
    /// Disk full, port taken, no memory: the environment.
    Environment,
    /// Nothing in the log that we know.
    Unclassified,
}

impl fmt::Display for ExitClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "Killed",
            Self::Configuration => "Configuration",
            Self::DataUnusable => "DataUnusable",
            Self::TimelineDiverged => "TimelineDiverged",
            Self::Environment => "Environment",
            Self::Unclassified => "Unclassified",
        })
    }
}

/// A repair's request to keep postgres down, as found on the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldSeen {
    pub attempt: String,
    pub heartbeat: Timestamp,
}

/// `/status` of one supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    pub version: u32,
    pub cluster: String,
    /// From the directory or, when that is empty, the token.
    #[serde(default)]
    pub dbid: Option<Dbid>,
    #[serde(default)]
    pub content: Option<Content>,
    pub address: String,
    pub port: u16,
    pub data_directory: String,
    pub state: InstanceState,
    /// Since when in this state.
    pub since: Timestamp,
    /// One sentence for people.
    pub detail: String,
    pub shape: Shape,
    /// What the running postgres serves as, when it answers.
    #[serde(default)]
    pub serves: Option<Role>,
    /// Its own WAL receiver streams.
    #[serde(default)]
    pub receiving: bool,
    /// That receiver, and how far it says that it has received; `None` where its title does not tell.
    #[serde(default)]
    pub received: Option<Received>,
    /// What it replays now, as its startup process says: a position that moves while there is work.
    #[serde(default)]
    pub replays: Option<String>,
    #[serde(default)]
    pub system_identifier: Option<SystemIdentifier>,
    /// The timeline of its directory.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    #[serde(default)]
    pub hold: Option<HoldSeen>,
    /// A copy mark stands.
    #[serde(default)]
    pub copy: bool,
    /// Crashes of postgres since it last served for a while.
    #[serde(default)]
    pub crashes: u32,
    #[serde(default, deserialize_with = "if_known")]
    pub last_exit: Option<LastExit>,
    /// How often its postmaster was seen to begin anew after one of its processes had ended, since it last served for a while.
    #[serde(default)]
    pub restarts: u32,
    /// What its WAL receiver last said of why it does not stream.
    #[serde(default)]
    pub receiver_error: Option<String>,
    /// The newest attempt's outcome, from `result.json`.
    #[serde(default, deserialize_with = "if_known")]
    pub result: Option<Outcome>,
    /// Of a primary that serves: this run of its postgres.
    #[serde(default)]
    pub postmaster: Option<Postmaster>,
    /// Its own starts as a primary that stand on its volume, oldest first.
    #[serde(default)]
    pub incarnations: Vec<Incarnation>,
    /// Those of its acting primary that it followed, as its token has them.
    #[serde(default)]
    pub followed: Vec<Incarnation>,
    /// How far the log of a mirror reaches at least: when it last received from nobody.
    #[serde(default)]
    pub reaches: Option<Reach>,
    /// Of a primary by its directory: the incarnation that FTS last told to commit without a mirror.
    #[serde(default)]
    pub served_alone: Option<String>,
    /// Highest timeline of a coordinator that was believed here.
    #[serde(default)]
    pub coordinator_timeline: Option<Timeline>,
    /// Boot id of its kernel.
    #[serde(default)]
    pub boot: Option<String>,
    /// Name of its node, when it was told.
    #[serde(default)]
    pub node: Option<String>,
    /// Why the volume's lock proves nothing: its file system is a shared one.
    #[serde(default)]
    pub untrusted_lock: Option<String>,
    /// What would keep a full copy from taking the place of its directory.
    #[serde(default)]
    pub uncopied: Option<String>,
    /// Of an acting primary: its mirror owes it an answer and gives none.
    #[serde(default)]
    pub mirror_hangs: Option<MirrorHang>,
    /// Of an acting primary: why it cannot tell whether its mirror hangs.
    #[serde(default)]
    pub mirror_unwatched: Option<String>,
    /// Of a mirror: why its own postgres cannot work, though it runs.
    #[serde(default)]
    pub stalled: Option<String>,
    /// Of a mirror: what its WAL receiver has done so far, connected or not: one that works may answer nothing for a long time.
    #[serde(default)]
    pub receiver: Option<Work>,
    /// Of a postgres that does not serve yet: what its start has done so far. A position tells nothing of one that syncs a million files.
    #[serde(default)]
    pub start: Option<Effort>,
}

impl Page {
    /// Of a supervisor that has looked at nothing yet, for `address`, `port` and `data_directory` of the catalog.
    pub fn first(cluster: &str, (address, port, data_directory): (&str, u16, &str), since: Timestamp) -> Self {
        Self {
            version: PAGE_VERSION,
            cluster: cluster.to_owned(),
            dbid: None,
            content: None,
            address: address.to_owned(),
            port,
            data_directory: data_directory.to_owned(),
            state: InstanceState::Deciding,
            since,
            detail: String::new(),
            shape: Shape::Unknown,
            serves: None,
            receiving: false,
            received: None,
            replays: None,
            system_identifier: None,
            timeline: None,
            hold: None,
            copy: false,
            crashes: 0,
            last_exit: None,
            restarts: 0,
            receiver_error: None,
            result: None,
            postmaster: None,
            incarnations: vec![],
            followed: vec![],
            coordinator_timeline: None,
            boot: None,
            node: None,
            reaches: None,
            served_alone: None,
            untrusted_lock: None,
            mirror_hangs: None,
            mirror_unwatched: None,
            stalled: None,
            receiver: None,
            start: None,
            uncopied: None,
        }
    }
}

/// What a process has done so far, in steps of which it does not take one by waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effort {
    pub pid: i32,
    /// Steps of bytes that it has read and written.
    #[serde(default)]
    pub read_or_written: u64,
    /// Steps of processor time.
    #[serde(default)]
    pub computed: u64,
}

impl Effort {
    /// It has worked since. Another process has not done so for what the first one did: one that is begun again and again comes nowhere.
    pub fn goes_on_from(self, before: Self) -> bool {
        self.pid == before.pid && self != before
    }
}

/// What a process has done so far; it works while any of this moves. Its processor time is not among it: a WAL receiver that waits
/// in vain for its primary looks around ten times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    pub pid: i32,
    /// Bytes that it has written.
    #[serde(default)]
    pub written: Option<u64>,
    /// While it sits in the kernel: sectors that the disk of its data directory has written. One that hangs writes none.
    #[serde(default)]
    pub disk: Option<u64>,
}

/// A WAL receiver at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// Its process.
    pub pid: i32,
    /// The end of what it has written.
    pub position: Lsn,
}

/// A mirror that hangs, as its acting primary's supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorHang {
    /// Since when it has stood still.
    pub since: Timestamp,
    /// Where it stands, and what was done about it.
    pub detail: String,
    /// Its walsender has been ended and none is back, nor does its own supervisor show that it works: FTS may be asked to look.
    #[serde(default)]
    pub ended: bool,
    /// It does not hang: it answers nothing, and its own supervisor shows that its WAL receiver works.
    #[serde(default)]
    pub slow: bool,
}

/// Why there is no page to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// Nothing answered, so far or in time.
    Silent(String),
    /// Something answered, and it is not the page of this instance: nonsense, another version, cluster or place.
    NotBelieved(String),
}

/// What a newer supervisor says in words that are not known here is not said; the rest of its page stands.
fn if_known<'de, T: serde::de::DeserializeOwned, D: serde::Deserializer<'de>>(page: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(page)?).ok())
}

impl Page {
    /// It serves, neither it nor its mirror hangs, and a mirror receives.
    pub fn is_calm(&self) -> bool {
        self.state == InstanceState::Serving
            && self.mirror_hangs.is_none()
            && self.stalled.is_none()
            && self.is_deaf().is_none()
            && !self.keeps_ending()
    }

    /// Ends of its postgres, as a whole or within its postmaster, since it last served for a while.
    pub const fn ends(&self) -> u32 {
        self.crashes.saturating_add(self.restarts)
    }

    /// They are so many that its next start is not waited for.
    pub const fn keeps_ending(&self) -> bool {
        self.ends() >= ENDS
    }

    /// Of a postgres that ended: what it was and did, what it saw of its mirror, and that it was stopped.
    pub fn forget_postgres(&mut self) {
        self.postmaster = None;
        (self.mirror_hangs, self.mirror_unwatched, self.stalled) = (None, None, None);
        (self.received, self.receiver, self.start) = (None, None, None);
    }

    /// Of a mirror that serves: why its WAL receiver receives nothing, in its own words.
    pub fn is_deaf(&self) -> Option<&String> {
        let serves = self.state == InstanceState::Serving && self.serves == Some(Role::Mirror);
        self.receiver_error.as_ref().filter(|_| serves && !self.receiving)
    }

    /// It is the page of the instance of this row in this cluster, in words that we know.
    ///
    /// # Errors
    /// A sentence that says whose it is instead.
    pub fn is_of(&self, cluster: &str, row: &Row) -> Result<(), String> {
        if self.version != PAGE_VERSION {
            return Err(format!("its page has version {}, this operator reads {PAGE_VERSION}", self.version));
        }
        if self.cluster != cluster {
            return Err(format!("its page belongs to cluster '{}' and not to '{cluster}'", short(&self.cluster)));
        }
        let place = (self.address.as_str(), self.port, self.data_directory.as_str());
        if place != (row.address.as_str(), row.port, row.datadir.as_str()) {
            let (address, directory) = (short(&self.address), short(&self.data_directory));
            return Err(format!(
                "its page is of {address}:{} {directory} and not of {}:{} {}",
                self.port, row.address, row.port, row.datadir
            ));
        }
        Ok(())
    }
}

/// Enough to recognise it by.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    /// An operator may be older than its supervisors: a roll-back, or an upgrade that stopped half-way.
    #[test]
    fn a_word_of_a_newer_supervisor_blinds_nobody() {
        let mut page = serde_json::to_value(fixtures::page(&fixtures::row("5:0mmnd"))).unwrap();
        page["result"] = serde_json::json!({"attempt": "a", "repair": "Full", "bytes": 1, "seconds": 1, "note": "",
            "failure": {"class": "Newer", "step": "Copying", "message": "x"}});
        page["lastExit"] = serde_json::json!({"at": Timestamp::UNIX_EPOCH, "how": "exit status: 1", "class": "Newer"});
        let read: Page = serde_json::from_value(page.clone()).unwrap();
        assert_eq!((read.result, read.last_exit), (None, None));
        page["result"]["failure"]["class"] = "NoRoom".into();
        page["lastExit"]["class"] = "Environment".into();
        let read: Page = serde_json::from_value(page).unwrap();
        assert!(read.result.is_some() && read.last_exit.is_some());
    }
}
