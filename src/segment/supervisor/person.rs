//! What a person says to a supervisor: annotations of its pod, which the downward API writes into a file. A supervisor
//! has no Kubernetes credentials, and a person may have no shell in the pod.

use std::{fmt, fs, path::Path};

use super::Supervisor;
use crate::volume::{Token, TokenState, Volume, places, shape, token::TOKEN};
use model::{Dbid, SystemIdentifier, Timeline, page::Shape};

/// A person works here: postgres runs without being asked about, and gpheal keeps away (docs/break-glass.md#marks).
const MAINTENANCE: &str = "gpheal.io/maintenance";
// What lifts a refusal names what it refuses: an annotation that nobody took away, or that stands in a pod's template, says nothing
// of what happens later.

/// The named holder of the volume, on the named node, is gone: what it did not give back may be taken.
const NODE_GONE: &str = "gpheal.io/node-gone";
/// `DBID@EVIDENCE`, several with commas: that does not count as showing that another one took this instance's place as primary.
pub const NOT_REPLACED: &str = "gpheal.io/not-replaced";
/// `DBID@INCARNATION`, several with commas: another one has taken this instance's place although it served alone then, and what it
/// acknowledged may be lost.
pub const REPLACED: &str = "gpheal.io/replaced";
/// `TIMELINE:SEEN`: coordinators are to be believed down to that timeline although that higher one was seen. It was put back on an
/// older copy. It counts once: the next one that is activated may make the same timeline.
pub const COORDINATOR_TIMELINE: &str = "gpheal.io/coordinator-timeline";
/// The volume is this place's, though its token names another: address, port, directory or cluster were changed on
/// purpose. The value is the database's system identifier, so that it says nothing about another volume that is mounted later.
const ADOPT_VOLUME: &str = "gpheal.io/adopt-volume";
/// What a maintenance mark says that came from the annotation. One that a person wrote is that person's to remove.
const BY_ANNOTATION: &str = "by annotation\n";

/// The annotations that concern a supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// They could be read, so what is not here is not said.
    pub was_read: bool,
    maintenance: bool,
    pub gone: Option<String>,
    pub not_replaced: Vec<String>,
    pub replaced: Vec<String>,
    pub coordinator: Option<Allowed>,
    adopt: Option<SystemIdentifier>,
}

/// A coordinator of a lower timeline that a person lets be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Down to this one.
    believed: Timeline,
    /// Although this one was seen. Another that is seen later is another story.
    seen: Timeline,
}

impl Allowed {
    pub const fn new(believed: Timeline, seen: Timeline) -> Self {
        Self { believed, seen }
    }

    /// `1:5`
    pub fn parse(value: &str) -> Option<Self> {
        let (believed, seen) = value.split_once(':')?;
        Some(Self::new(Timeline(believed.parse().ok()?), Timeline(seen.parse().ok()?)))
    }

    /// The timeline below which no coordinator is believed, where this one was seen.
    pub fn floor(allowed: Option<Self>, seen: Timeline) -> Timeline {
        allowed.filter(|allowed| allowed.seen == seen).map_or(seen, |allowed| allowed.believed.min(seen))
    }

    /// What of it the volume of this token is to remember as of no more use: it was heeded there, or the volume has not seen what it
    /// speaks of. Timelines are numbers that come again, so it says nothing of what is seen later.
    pub fn spent(said: Option<Self>, token: &Token) -> Option<String> {
        let said = said?;
        let pending = Self::unless_spent(Some(said), token).is_some() && said.seen == token.coordinator_timeline;
        (!pending).then(|| said.to_string())
    }

    /// As far as it still counts for the volume of this token.
    pub fn unless_spent(said: Option<Self>, token: &Token) -> Option<Self> {
        said.filter(|said| token.coordinator_word.as_deref().and_then(Self::parse) != Some(*said))
    }

    /// How a person allows it.
    pub fn how(believed: Timeline, seen: Timeline, spent: Option<Self>) -> String {
        let word = Self::new(believed, seen);
        let again = if spent == Some(word) {
            ", which was said before and counts no more: take it away for some minutes, and say it again"
        } else {
            ""
        };
        format!("{COORDINATOR_TIMELINE}={word}{again}")
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.believed, self.seen)
    }
}

/// What a person says of this instance by an annotation that names the evidence which does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    annotation: &'static str,
    dbid: Option<Dbid>,
    said: Vec<String>,
}

impl Word {
    /// Of what shows that it was replaced, or put back on an older copy.
    pub fn not_replaced(dbid: Option<Dbid>, said: &[String]) -> Self {
        Self { annotation: NOT_REPLACED, dbid, said: said.to_vec() }
    }

    /// Of what shows that it cannot have been replaced.
    pub fn replaced(dbid: Option<Dbid>, said: &[String]) -> Self {
        Self { annotation: REPLACED, dbid, said: said.to_vec() }
    }

    pub fn lifts(&self, evidence: &str) -> bool {
        self.value(evidence).is_some_and(|value| self.said.contains(&value))
    }

    /// `2@timeline-5`; `None` for one that does not know its dbid.
    fn value(&self, evidence: &str) -> Option<String> {
        self.dbid.map(|dbid| format!("{dbid}@{evidence}"))
    }

    /// What a person who knows better says, for the end of a sentence.
    pub fn how(&self, evidence: &str) -> String {
        self.value(evidence).map_or_else(String::new, |value| format!(" ({}={value})", self.annotation))
    }
}

/// Reads the file of the downward API: a line `key="value"` each, the value quoted as in Go. `None`: it cannot be read
/// now, which says nothing.
fn read(file: &Path) -> Option<Said> {
    let text = fs::read_to_string(file).ok()?;
    let value = |key: &str| {
        let quoted = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        serde_json::from_str::<String>(quoted).ok()
    };
    let maintenance = value(MAINTENANCE).is_some_and(|value| value != "false");
    let list = |key: &str| value(key).map(|all| all.split(',').map(|one| one.trim().to_owned()).collect()).unwrap_or_default();
    Some(Said {
        was_read: true,
        maintenance,
        gone: value(NODE_GONE).filter(|holder| !holder.is_empty()),
        not_replaced: list(NOT_REPLACED),
        replaced: list(REPLACED),
        coordinator: value(COORDINATOR_TIMELINE).and_then(|value| Allowed::parse(&value)),
        adopt: value(ADOPT_VOLUME).and_then(|value| value.parse().ok()),
    })
}

/// The mark stands while the annotation does. One that a person wrote stays.
fn follow(maintenance: bool, mark: &Path) -> std::io::Result<()> {
    let by = match fs::read_to_string(mark) {
        Ok(by) => Some(by),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(()), // not our words
        Err(error) => return Err(error),
    };
    match (maintenance, by) {
        (true, None) => fs::write(mark, BY_ANNOTATION),
        (false, Some(by)) if by == BY_ANNOTATION => fs::remove_file(mark),
        (true, Some(_)) | (false, Some(_) | None) => Ok(()),
    }
}

impl Supervisor {
    /// Makes the volume say what the annotations say, so that a Job, which sees only the volume, is told too.
    pub(super) fn heed_person(&self) -> Said {
        let Some(said) = self.config.annotations.as_deref().and_then(read) else { return Said::default() };
        if let Err(error) = follow(said.maintenance, &self.volume.mark("maintenance")) {
            tracing::warn!(%error, "the maintenance mark does not follow the pod's annotation");
        }
        said
    }

    /// Gives a volume to this place whose token names another one, when a person says that it is the same database. Every
    /// other question is asked as ever: the catalog has to have this instance at this place.
    pub(super) fn heed_adoption(&self, said: &Said) {
        let Some(database) = said.adopt else { return };
        let config = &self.config;
        let TokenState::Foreign(why) = self.volume.token(&config.cluster, &config.address, config.port) else { return };
        let adopted = may_adopt(&self.volume, database).and_then(|()| {
            let given = self.volume.give_token_to(database, &config.cluster, &config.address, config.port);
            given.map_err(|error| error.to_string())
        });
        match adopted {
            Ok(()) => tracing::warn!(was = why, %database, "the volume is adopted at its new place, as its pod's annotation says"),
            Err(error) => tracing::warn!(error, %database, "the volume is not adopted, though its pod's annotation says so"),
        }
    }
}

/// The directory, where there is one, is of that database and of the token's instance.
fn may_adopt(volume: &Volume, database: SystemIdentifier) -> Result<(), String> {
    let token = volume.read::<Token>(TOKEN).map_err(|error| error.to_string())?.ok_or("there is no token")?;
    let shaped = shape::look(volume.data());
    match (shaped.shape, shaped.control) {
        (Shape::Unknown, _) => return Err(shaped.why),
        (_, Some(control)) if control.system_identifier != database => {
            return Err(format!("the directory is of database {}", control.system_identifier));
        }
        (Shape::Empty | Shape::Unusable | Shape::Primary | Shape::Mirror, _) => {}
    }
    match places::identity(volume.data()).0 {
        Some(dbid) if dbid != token.dbid => Err(format!("the directory is dbid {dbid}, the token's is {}", token.dbid)),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Said {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("annotations");
        fs::write(&file, text).unwrap();
        read(&file).unwrap()
    }

    #[test]
    fn the_mark_follows_the_annotation_and_not_a_persons_own() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("maintenance");
        follow(true, &mark).unwrap();
        assert!(mark.exists());
        follow(false, &mark).unwrap();
        assert!(!mark.exists());
        fs::write(&mark, "Ann looks at the disk").unwrap();
        follow(true, &mark).unwrap();
        follow(false, &mark).unwrap();
        assert_eq!(fs::read_to_string(&mark).unwrap(), "Ann looks at the disk");
    }

    #[test]
    fn annotations_are_read_as_the_downward_api_writes_them() {
        let other = "kubernetes.io/config.source=\"api\"\ngpheal.io/maintenance-note=\"x\"\n";
        assert_eq!(says(other), Said { was_read: true, ..Said::default() });
        assert!(says(&format!("{other}gpheal.io/maintenance=\"\"\n")).maintenance);
        assert!(says("gpheal.io/maintenance=\"disk is swapped, \\\"Ann\\\"\"\n").maintenance);
        assert!(!says("gpheal.io/maintenance=\"false\"\n").maintenance);
        assert_eq!(says("gpheal.io/node-gone=\"n2@2026-01-01T00:00:00Z\"\n").gone.as_deref(), Some("n2@2026-01-01T00:00:00Z"));
        assert_eq!(says("gpheal.io/node-gone=\"\"\n").gone, None);
        let said = says("gpheal.io/not-replaced=\"5@timeline-7, 5@3f2a9c1e\"\n").not_replaced;
        assert_eq!(said, ["5@timeline-7", "5@3f2a9c1e"]);
        let of = |dbid| Word::not_replaced(Some(Dbid(dbid)), &said);
        assert!(of(5).lifts("timeline-7") && of(5).lifts("3f2a9c1e"));
        assert!(!of(5).lifts("timeline-8") && !of(6).lifts("timeline-7") && !Word::not_replaced(None, &said).lifts("timeline-7"));
        assert_eq!(of(5).how("timeline-8"), " (gpheal.io/not-replaced=5@timeline-8)");
        let said = says("gpheal.io/replaced=\"5@3f2a9c1e\"\n");
        assert!(said.not_replaced.is_empty() && Word::replaced(Some(Dbid(5)), &said.replaced).lifts("3f2a9c1e"));
        assert_eq!(Word::replaced(Some(Dbid(5)), &[]).how("x"), " (gpheal.io/replaced=5@x)");
        let allowed = says("gpheal.io/coordinator-timeline=\"2:5\"\n").coordinator;
        let floor = |seen| Allowed::floor(allowed, Timeline(seen)).0;
        assert_eq!((floor(5), floor(4), floor(6), floor(1)), (2, 4, 6, 1), "of the one that was named alone");
        for none in ["2", "2:", "yes", ""] {
            assert_eq!(says(&format!("gpheal.io/coordinator-timeline=\"{none}\"\n")).coordinator, None, "{none}: it has to say which");
        }
        assert_eq!(says("gpheal.io/adopt-volume=\"7123456789012345678\"\n").adopt, Some(SystemIdentifier(7_123_456_789_012_345_678)));
        assert_eq!(says("gpheal.io/adopt-volume=\"true\"\n").adopt, None, "it has to say which");
        assert_eq!(read(Path::new("/nowhere/annotations")), None, "not readable says nothing");
    }
}
