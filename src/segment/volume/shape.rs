//! What postgres would come up as on this directory.

use std::{io, path::Path};

use greenplum::{
    Dialect,
    control::{ControlData, ControlError},
};
use model::page::Shape;

/// A data directory, looked at from outside.
#[derive(Clone, Debug)]
pub struct Shaped {
    pub shape: Shape,
    pub dialect: Option<Dialect>,
    pub control: Option<ControlData>,
    /// Why it is unusable.
    pub why: String,
}

/// Looks at `data`. The control file is read by the image's own `pg_controldata`, so it is in every version's words.
pub fn look(data: &Path) -> Shaped {
    match is_empty(data) {
        Ok(false) => {}
        Ok(true) => return without(Shape::Empty, None, format!("{} is empty or missing", data.display())),
        Err(error) => return without(Shape::Unknown, None, format!("{} cannot be listed: {error}", data.display())),
    }
    let unusable = |dialect, why: String| without(Shape::Unusable, dialect, why);
    let dialect = match std::fs::read(data.join("PG_VERSION")) {
        Ok(text) => match Dialect::from_pg_version(&String::from_utf8_lossy(&text)) {
            Ok(dialect) => dialect,
            Err(error) => return unusable(None, error.to_string()),
        },
        Err(error) if error.kind() != io::ErrorKind::NotFound => return without(Shape::Unknown, None, format!("PG_VERSION: {error}")),
        Err(error) => return unusable(None, format!("PG_VERSION: {error}")),
    };
    match ControlData::read(data) {
        Ok(control) => with_log(data, dialect, control),
        Err(error @ (ControlError::NoTool(_) | ControlError::Unknown(_))) => without(Shape::Unknown, Some(dialect), error.to_string()),
        Err(error @ ControlError::Unusable(_)) => unusable(Some(dialect), error.to_string()),
    }
}

/// No server starts without the folder of its log, or with a file in its place. A link is somebody's way to another volume: where
/// it leads nowhere, that is not there now, which is no damage.
fn with_log(data: &Path, dialect: Dialect, control: ControlData) -> Shaped {
    let folder = data.join(dialect.wal_folder());
    let gone = |control, why: String| Shaped { shape: Shape::Unusable, dialect: Some(dialect), control: Some(control), why };
    match folder.symlink_metadata() {
        Ok(there) if there.is_dir() || there.is_symlink() => by_marker(data, dialect, control),
        Ok(_) => gone(control, format!("{} is no folder", folder.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => gone(control, format!("{} is missing", folder.display())),
        Err(error) => without(Shape::Unknown, Some(dialect), format!("{}: {error}", folder.display())),
    }
}

/// Whether the marker stands decides between mirror and primary; that it cannot be looked at decides nothing.
fn by_marker(data: &Path, dialect: Dialect, control: ControlData) -> Shaped {
    let marker = data.join(dialect.mirror_marker());
    match marker.try_exists() {
        Ok(mirror) => {
            let shape = if mirror { Shape::Mirror } else { Shape::Primary };
            Shaped { shape, dialect: Some(dialect), control: Some(control), why: String::new() }
        }
        Err(error) => without(Shape::Unknown, Some(dialect), format!("{}: {error}", marker.display())),
    }
}

fn without(shape: Shape, dialect: Option<Dialect>, why: String) -> Shaped {
    Shaped { shape, dialect, control: None, why }
}

/// Only what is missing, or was listed and is empty, is empty.
fn is_empty(data: &Path) -> io::Result<bool> {
    match std::fs::read_dir(data) {
        Ok(mut entries) => entries.next().transpose().map(|first| first.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_called_empty_or_unusable() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("gpseg");
        assert_eq!(look(&data).shape, Shape::Empty);
        std::fs::write(&data, "no folder").unwrap();
        assert_eq!(look(&data).shape, Shape::Unknown);
        std::fs::remove_file(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
        assert_eq!(look(&data).shape, Shape::Empty);
        std::fs::write(data.join("stray"), "").unwrap();
        assert_eq!(look(&data).shape, Shape::Unusable);
    }

    fn control() -> ControlData {
        let said = "Database system identifier: 7\nDatabase cluster state: x\nLatest checkpoint location: 0/1\n\
                    Latest checkpoint's TimeLineID: 1\nMinimum recovery ending location: 0/0\nData page checksum version: 0\n";
        ControlData::parse(said).unwrap()
    }

    /// A mirror without it was for ever one whose log cannot be read.
    #[test]
    fn a_directory_without_the_folder_of_its_log_is_unusable_and_one_whose_link_leads_nowhere_is_not() {
        for dialect in [Dialect::Six, Dialect::Seven] {
            let dir = tempfile::tempdir().unwrap();
            let (log, shape) = (dir.path().join(dialect.wal_folder()), || with_log(dir.path(), dialect, control()));
            let gone = shape();
            assert!(gone.shape == Shape::Unusable && gone.why.contains(dialect.wal_folder()) && gone.control.is_some(), "{gone:?}");
            std::fs::write(&log, "").unwrap();
            assert_eq!(shape().shape, Shape::Unusable, "a file");
            std::fs::remove_file(&log).unwrap();
            std::os::unix::fs::symlink(dir.path().join("not-mounted/log"), &log).unwrap();
            assert_eq!(shape().shape, Shape::Primary, "its volume is not there now");
            std::fs::remove_file(&log).unwrap();
            std::fs::create_dir(&log).unwrap();
            assert_eq!(shape().shape, Shape::Primary);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(with_log(&dir.path().join("file"), Dialect::Seven, control()).shape, Shape::Unknown, "it cannot be looked at");
    }

    #[test]
    fn a_marker_that_cannot_be_looked_at_makes_no_primary() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("standby.signal", dir.path().join("standby.signal")).unwrap(); // a loop
        let shaped = by_marker(dir.path(), Dialect::Seven, control());
        assert!(shaped.shape == Shape::Unknown && shaped.why.contains("standby.signal"), "{}", shaped.why);
    }
}
