//! What a decision rests on: what the volume, the catalog, the other side of the pair and the other coordinators say.

use super::person::{Allowed, Word};
use crate::volume::{Marks, TokenState};
use model::{Content, Look, Role, Timeline, page::Shape};

/// What the catalog says of this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowHere {
    /// The row of this dbid has this address, port and directory.
    Mine { role: Role, in_sync: bool },
    /// No row names this place with this dbid; the text says what there is instead.
    NotMine(String),
}

/// What the other side of the pair says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHere {
    pub role: PeerRole,
    /// The newest timeline that its directory knows.
    pub timeline: Option<Timeline>,
    /// Nonce of its last incarnation as a primary on that timeline: a later promotion may make the same timeline again.
    pub promotion: Option<String>,
    /// As a copy it holds what the one that asks lacks, so that one was put back on an older copy; the text says what shows it.
    pub holds_more: Option<HoldsMore>,
    /// Why that cannot be told yet: how far its log reaches is not on its page.
    pub unsettled: Option<String>,
    /// Dbid and incarnation, as `2@nonce`, of a primary that FTS last told to commit without a mirror, and that has not given way.
    pub alone: Option<String>,
}

/// What a copy holds and its primary lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldsMore {
    /// What shows it.
    pub why: String,
    /// Nonce of the last incarnation that the copy followed.
    pub copy: String,
}

/// What the other side of the pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// It runs as a mirror, so it was not promoted.
    InRecovery,
    /// It serves as a primary, or could.
    Promoted,
    /// It has the directory of a mirror, and does not run.
    Idle,
}

/// How the other coordinators stand to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherHere {
    /// There is none, or none takes writes on a higher timeline.
    Behind,
    /// It is a standby, and holds what this one lacks: this one was put back on an older copy; the text says what shows it.
    HoldsMore(HoldsMore),
    /// Its database takes writes on this timeline, which is higher than ours.
    Overtook(Timeline),
    /// Its database takes writes on our very timeline, as one does that was activated beside another, or copied by hand: neither is
    /// older than the other, and two catalogs lead the segments.
    Rivals(Timeline),
}

/// How a mirror's log stands to that of its acting primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryHere {
    HasAll,
    /// It lacks what the mirror has, so it was put back on an older copy of itself; the text says how far both are.
    Lacks(String),
    /// It serves, and nothing shows which history it has.
    Unproven(String),
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Facts {
    pub marks: Marks,
    pub token: TokenState,
    pub shape: Shape,
    /// Why the directory is unusable, or its control file, for people.
    pub shape_why: String,
    pub content: Option<Content>,
    /// The newest timeline that the directory knows.
    pub timeline: Option<Timeline>,
    pub row: Look<RowHere>,
    /// Asked for whoever would open, or is open, as a primary, and for who may be promoted as soon as it runs.
    pub peer: Look<PeerHere>,
    /// Asked by a coordinator.
    pub other: Look<OtherHere>,
    /// Asked only for a mirror that may start.
    pub primary: Look<PrimaryHere>,
    /// How a coordinator may do without an answer of the others.
    pub alone: Alone,
    pub not_replaced: Word,
    /// The incarnation that FTS last told to commit without a mirror, of one that is a primary by its directory.
    pub served_alone: Look<Option<String>>,
    pub replaced: Word,
    /// Whether its start can wait for the other side for some seconds more.
    pub may_wait: bool,
    pub allowed: Option<Allowed>,
    /// The pair was in sync when the catalog was last read.
    pub was_in_sync: bool,
    /// postgres died on this directory in a way that a start cannot mend.
    pub unusable: Option<String>,
    /// It followed a history that is not its primary's.
    pub diverged: Option<String>,
}

/// How a coordinator stands to others that it cannot ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alone {
    /// They have to be waited for.
    Waits,
    /// They have been silent for as long as one waits for them.
    Waited,
    /// It dispatched until a moment ago in this very process, and had asked them: nobody can have been activated since.
    InPlace,
    /// The segments have seen, or may have, a coordinator on a higher timeline.
    Refuted(String),
}
