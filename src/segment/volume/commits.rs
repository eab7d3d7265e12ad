//! Whether a primary acknowledged commits that no mirror has, by what it left behind in its data directory.

use std::{io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Volume, marks::MarkError, places::assigned};
use greenplum::Dialect;
use model::{Lsn, Reach, Timeline, page::Shape};

/// File name in the folder of marks: commits were acknowledged without a mirror, and none is known to have them yet.
const ALONE: &str = "alone.json";

#[derive(Serialize, Deserialize)]
struct Written {
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeline: Option<Timeline>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<Lsn>,
}

/// What a primary has acknowledged without a mirror, and none is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    Nothing,
    /// Whatever its log holds may be of it.
    Anything,
    /// It lies before: commits have waited for a mirror since.
    Before(Reach),
}

impl Volume {
    /// What was acknowledged that no mirror is known to have, though commits may wait for one by now.
    ///
    /// # Errors
    /// [`MarkError`]; a mark that cannot be read may stand.
    pub fn alone(&self) -> Result<Alone, MarkError> {
        Ok(match self.read::<Written>(ALONE)? {
            None => Alone::Nothing,
            Some(Written { timeline: Some(timeline), end: Some(end), .. }) => Alone::Before(Reach { timeline, end }),
            Some(Written { .. }) => Alone::Anything,
        })
    }

    /// Writes that down.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn note_alone(&self, alone: Alone) -> Result<(), MarkError> {
        let before = match alone {
            Alone::Nothing => return self.remove(ALONE),
            Alone::Anything => None,
            Alone::Before(before) => Some(before),
        };
        let (timeline, end) = (before.map(|before| before.timeline), before.map(|before| before.end));
        self.write(ALONE, &Written { since: Timestamp::now(), timeline, end })
    }
}

/// The directory is that of a primary, as far as it can be told, whose commits last waited for no mirror. A mirror's settings are
/// a copy of its primary's, and say nothing of itself.
///
/// # Errors
/// That its settings, or the marker of a mirror, cannot be looked at.
pub fn served_alone(data: &Path, shape: Shape) -> io::Result<bool> {
    if !may_be_a_primarys(data, shape)? {
        return Ok(false);
    }
    Ok(match commits(data)? {
        Commits::Alone => true,
        Commits::WaitForMirror => false,
        // Nothing says that it ever was a server's.
        Commits::NoSettings => shape == Shape::Primary,
    })
}

/// The directory is that of a primary, as far as it can be told.
///
/// # Errors
/// That the marker of a mirror cannot be looked at.
pub fn may_be_a_primarys(data: &Path, shape: Shape) -> io::Result<bool> {
    Ok(match shape {
        Shape::Primary => true,
        Shape::Mirror | Shape::Empty => false,
        // What no server starts from may be all that is left of what it acknowledged.
        Shape::Unusable | Shape::Unknown => !is_marked_as_mirror(data)?,
    })
}

/// The directory is a mirror's by its marker.
///
/// # Errors
/// That it cannot be looked at.
pub fn is_marked_as_mirror(data: &Path) -> io::Result<bool> {
    Ok(data.join(Dialect::Six.mirror_marker()).try_exists()? || data.join(Dialect::Seven.mirror_marker()).try_exists()?)
}

/// Whether commits on the primary whose directory this is wait for its mirror, as FTS last told it. It writes that into the
/// primary's settings by itself: `*` before a catalog calls the pair in sync, nothing once the mirror is marked down there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commits {
    WaitForMirror,
    /// They were acknowledged without a mirror.
    Alone,
    /// The file that each server has is not there.
    NoSettings,
}

/// What FTS last told the primary of a directory. One that it has promoted, and told nothing before, has no such line: it is told to
/// commit alone only where its settings say otherwise (`UnsetSyncStandbysDefined`), and they were copied before its primary was told to
/// wait. A server without a line waits for nobody.
///
/// # Errors
/// That its settings cannot be read.
fn commits(data: &Path) -> io::Result<Commits> {
    let told = settings(data, "postgresql.auto.conf")?;
    let own = settings(data, "postgresql.conf")?;
    if told.is_none() && own.is_none() {
        return Ok(Commits::NoSettings);
    }
    // The one that is read last wins.
    let names = [told, own].into_iter().flatten().find_map(|text| assigned(&text, "synchronous_standby_names"));
    Ok(if names.unwrap_or_default().is_empty() { Commits::Alone } else { Commits::WaitForMirror })
}

/// A file of settings, where there is one.
fn settings(data: &Path, file: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(data.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fts_last_told_a_primary_stands_in_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("postgresql.auto.conf");
        assert_eq!(commits(dir.path()).unwrap(), Commits::NoSettings);
        for (text, expected) in [
            ("# Do not edit this file manually!\n", Commits::Alone),
            ("synchronous_standby_names = '*'\n", Commits::WaitForMirror),
            ("synchronous_standby_names = ''\n", Commits::Alone),
            ("synchronous_standby_names = '*'\nsynchronous_standby_names = ''\n", Commits::Alone),
            ("# synchronous_standby_names = ''\nsynchronous_standby_names_x = '*'\n", Commits::Alone),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(commits(dir.path()).unwrap(), expected, "{text}");
        }
        std::fs::write(&file, "").unwrap();
        let own = dir.path().join("postgresql.conf");
        std::fs::write(&own, "synchronous_standby_names = '*' # ours\n").unwrap();
        assert_eq!(commits(dir.path()).unwrap(), Commits::WaitForMirror, "a site's own");
        std::fs::remove_file(&own).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        commits(dir.path()).unwrap_err();
    }

    #[test]
    fn a_primary_that_no_server_starts_from_any_more_served_alone_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let is = |shape| served_alone(dir.path(), shape).unwrap();
        std::fs::write(dir.path().join("postgresql.auto.conf"), "synchronous_standby_names = ''\n").unwrap();
        assert_eq!([Shape::Primary, Shape::Unusable, Shape::Unknown].map(is), [true; 3]);
        assert_eq!([Shape::Mirror, Shape::Empty].map(is), [false; 2], "its settings are a copy of its primary's");
        for marker in [Dialect::Six, Dialect::Seven].map(Dialect::mirror_marker) {
            std::fs::write(dir.path().join(marker), "").unwrap();
            assert!(!is(Shape::Unusable), "a mirror with a damaged control file");
            std::fs::remove_file(dir.path().join(marker)).unwrap();
        }
        std::fs::write(dir.path().join("postgresql.auto.conf"), "synchronous_standby_names = '*'\n").unwrap();
        assert!(!is(Shape::Primary));
    }

    /// Its settings are those of a primary that was not told to wait yet, and FTS tells it nothing when it has it promoted.
    #[test]
    fn a_mirror_that_was_promoted_before_it_was_told_anything_serves_alone() {
        let dir = tempfile::tempdir().unwrap();
        let is = |shape| served_alone(dir.path(), shape).unwrap();
        assert_eq!([Shape::Unusable, Shape::Unknown].map(is), [false; 2], "nothing is left of it");
        std::fs::write(dir.path().join("postgresql.auto.conf"), "port = 6000\n").unwrap();
        assert_eq!([Shape::Primary, Shape::Unusable, Shape::Unknown].map(is), [true; 3]);
        assert_eq!([Shape::Mirror, Shape::Empty].map(is), [false; 2]);
    }
}
