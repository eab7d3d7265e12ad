//! What is proven before, and again under the lock: the volume is the target's, the catalog still says
//! that the target is a down mirror, the source is live and itself, both are copies of one database.

use std::path::PathBuf;

use super::{
    Work, coordinator,
    fault::{Classified, Fault, OfCoordinator, of_file_system},
    identify::{Identified, identify},
    source::SourceLock,
};
use crate::volume::{
    Original, Token, TokenState, Volume,
    marks::MarkError,
    shape::{self, Shaped},
    token::Directory,
};
use greenplum::{
    Dialect,
    topology::Answer,
    wal::{self, Standing, Switch, WalEnd},
};
use model::{Catalog, FailureClass, Incarnation, Lsn, Place, Reach, Role, Row, Status, SystemIdentifier, Timeline, page::Shape};

/// What stands after a proof.
pub struct Proven {
    pub identified: Identified,
    /// Where what the target holds is: its data directory, or the original.
    pub directory: PathBuf,
    /// What a full copy that was cut off has put aside, while nothing stands in the data directory's place.
    pub original: Option<Original>,
    /// That directory.
    pub target: Shaped,
    pub dialect: Dialect,
    /// The source's timeline history.
    pub history: Vec<Switch>,
    /// What the volume remembers of the target.
    pub token: Token,
    /// How far the target's log reaches, when it has one.
    pub wal_end: Option<WalEnd>,
}

/// The world is not what the attempt was planned on.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("the volume is not that of dbid {0}: {1}")]
    Volume(i16, String),
    #[error("{0}")]
    Moved(String),
    #[error("the mark {0} stands on the volume: a person works there, or the place is given up")]
    Marked(&'static str),
    #[error("whether a person works on the volume cannot be looked at: {0}")]
    MarksUnknown(String),
    #[error("the target's log cannot be read, so it cannot be told how far it reaches: {0}")]
    Log(std::io::Error),
    /// pg_rewind would say so of either side, and not of which.
    #[error("the acting primary's timeline history {file} {what}: no mirror can follow it")]
    History { file: String, what: &'static str },
    #[error("the coordinator is on timeline {now}, older than {seen} which this volume has seen")]
    OldCoordinator { now: Timeline, seen: Timeline },
    #[error("the acting primary's system identifier is {theirs}, the {whose} is {other}")]
    SystemIdentifier { theirs: SystemIdentifier, whose: &'static str, other: SystemIdentifier },
    #[error(
        "the target's log reaches {target} on timeline {timeline}, the acting primary is at {source_at} on timeline {source_timeline}: was it restored from an older copy?"
    )]
    Ahead { target: Lsn, timeline: Timeline, source_at: Lsn, source_timeline: Timeline },
}

impl Classified for ProofError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Volume(..) => FailureClass::VolumeUnrecognised,
            Self::Moved(_) | Self::OldCoordinator { .. } => FailureClass::WorldMoved,
            Self::Marked(_) => FailureClass::HandsOff,
            Self::MarksUnknown(_) => FailureClass::Environment,
            Self::Log(source) => of_file_system(source),
            Self::History { .. } => FailureClass::SourceDamaged,
            Self::SystemIdentifier { .. } => FailureClass::SystemIdentifierDiffers,
            Self::Ahead { .. } => FailureClass::TargetAheadOfSource,
        }
    }
}

/// Proves that the pod's own coordinator knows the attempt's target and source as they were planned: before it has, nobody at
/// the source's address is given the credentials. What the volume remembers of the target.
pub async fn named(work: &Work) -> Result<Box<Token>, Fault> {
    hands_off(work)?;
    let token = match work.volume.token(&work.attempt.cluster, &work.attempt.target.address, work.attempt.target.port) {
        TokenState::Mine(token) if token.dbid == work.attempt.target.dbid => match work.volume.last_original()? {
            Some(original) => token.following(original.remembered.followed, Directory::of(&original.directory)),
            // Of a directory that a person put there by hand nothing is remembered.
            None => token.of_directory(Directory::of(work.volume.data())),
        },
        TokenState::Mine(token) => {
            return Err(ProofError::Volume(work.attempt.target.dbid.0, format!("its token is dbid {}'s", token.dbid)).into());
        }
        TokenState::Absent => return Err(ProofError::Volume(work.attempt.target.dbid.0, "it has no token".into()).into()),
        TokenState::Foreign(why) => return Err(ProofError::Volume(work.attempt.target.dbid.0, why).into()),
    };
    rows(work, &token).await?;
    Ok(Box::new(token))
}

/// Proves everything that can be proven without changing anything.
pub async fn prove(work: &Work, source: &SourceLock) -> Result<Proven, Fault> {
    let token = named(work).await?;
    source.prove_itself().await?;
    let identified = identify(work).await?;
    let original = work.volume.last_original()?;
    let directory = original.as_ref().map_or_else(|| work.volume.data().to_owned(), |original| original.directory.clone());
    let target = shape::look(&directory);
    let dialect = target.dialect.unwrap_or(source.dialect);
    let wal_end = wal_end(&directory.join(dialect.wal_folder()))?;
    one_database(identified.system_identifier, "volume's token", Some(token.system_identifier))?;
    one_database(identified.system_identifier, "target's control file", target.control.as_ref().map(|c| c.system_identifier))?;
    one_database(identified.system_identifier, "target's log", wal_end.map(|end| end.system_identifier))?;
    let history = history(source, identified.timeline).await?;
    Ok(Proven { identified, directory, original, target, dialect, history, token: *token, wal_end })
}

/// Marks of people are for the Job, too: a free lock is no invitation.
fn hands_off(work: &Work) -> Result<(), Fault> {
    let marks = work.volume.marks();
    match (marks.unknown, marks.maintenance, marks.retired) {
        (Some(why), ..) => Err(ProofError::MarksUnknown(why).into()),
        (None, true, _) => Err(ProofError::Marked("maintenance").into()),
        (None, false, true) => Err(ProofError::Marked("retired").into()),
        (None, false, false) => Ok(()),
    }
}

/// A directory without a log has no end; one whose log cannot be read has one that nobody knows.
pub fn wal_end(folder: &std::path::Path) -> Result<Option<WalEnd>, ProofError> {
    match wal::end(folder) {
        Ok(end) => Ok(end),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProofError::Log(error)),
    }
}

fn one_database(source: SystemIdentifier, whose: &'static str, other: Option<SystemIdentifier>) -> Result<(), Fault> {
    match other {
        Some(other) if other != source => Err(ProofError::SystemIdentifier { theirs: source, whose, other }.into()),
        // What is not there to be read says nothing: an empty volume is copied in full.
        Some(_) | None => Ok(()),
    }
}

/// The rows, read anew: target still a down mirror at its place, source still the acting primary at its.
async fn rows(work: &Work, token: &Token) -> Result<(), Fault> {
    let (seen, whose) = (token.coordinator_timeline, token.coordinator);
    let Answer { catalog, timeline: now, .. } = coordinator::ask(work, whose).await.map_err(|error| OfCoordinator(*error))?;
    if now < seen {
        return Err(ProofError::OldCoordinator { now, seen }.into());
    }
    let attempt = &work.attempt;
    expect(&catalog, attempt.content, &attempt.target, Role::Mirror, Status::Down)?;
    expect(&catalog, attempt.content, &attempt.source, Role::Primary, Status::Up)?;
    catalog.pair(attempt.content).map_err(ProofError::Moved)?;
    Ok(())
}

fn expect(catalog: &Catalog, content: model::Content, place: &Place, role: Role, status: Status) -> Result<(), Fault> {
    let row = catalog.row(place.dbid).ok_or_else(|| ProofError::Moved(format!("dbid {} is not in the catalog any more", place.dbid)))?;
    let as_planned = row.content == content && row.role == role && row.status == status && Place::from(row) == *place;
    let moved =
        |row: &Row| ProofError::Moved(format!("the row of dbid {} is now {row} at {}:{} {}", row.dbid, row.address, row.port, row.datadir));
    if as_planned { Ok(()) } else { Err(moved(row).into()) }
}

/// Where the source left older timelines.
async fn history(source: &SourceLock, timeline: Timeline) -> Result<Vec<Switch>, Fault> {
    if timeline.0 <= 1 {
        return Ok(vec![]);
    }
    let file = format!("{:08X}.history", timeline.0);
    let bytes = source.log_bytes(&file, 0, 1024 * 1024).await?;
    let history = bytes.as_deref().and_then(wal::history);
    Ok(history.ok_or(ProofError::History { what: if bytes.is_none() { "is missing" } else { "is damaged" }, file })?)
}

impl Proven {
    /// Timeline and end of the target, by whatever of control file and log can be read; the later of both.
    pub fn target_end(&self) -> Option<Reach> {
        wal::reach(self.target.control.as_ref(), self.wal_end)
    }

    /// How the target stands to the source.
    pub fn standing(&self) -> Option<Standing> {
        let Reach { timeline, end } = self.target_end()?;
        Some(wal::standing(timeline, end, self.identified.timeline, self.identified.at, &self.history))
    }

    /// The incarnations of what the target holds, as a primary.
    pub fn own(&self, volume: &Volume) -> Result<Vec<Incarnation>, MarkError> {
        self.original.as_ref().map_or_else(|| volume.incarnations(), |original| Ok(original.remembered.own.clone()))
    }

    /// The target would come up as a mirror.
    pub fn is_mirror(&self) -> bool {
        self.target.shape == Shape::Mirror
    }
}

/// The source has everything that the target has: else it may have been restored from a snapshot, and the
/// target may be the last good copy.
pub fn not_ahead(work: &Work, proven: &Proven) -> Result<(), Fault> {
    let (Some(Standing::Ahead), Some(Reach { timeline, end: target })) = (proven.standing(), proven.target_end()) else { return Ok(()) };
    tracing::error!(attempt = work.attempt.id, "the target is ahead of its source");
    let (source_at, source_timeline) = (proven.identified.at, proven.identified.timeline);
    Err(ProofError::Ahead { target, timeline, source_at, source_timeline }.into())
}
