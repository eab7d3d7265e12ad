//! Marks: small JSON files with a version, written by rename and synced. A mark that cannot be
//! read stands: nothing may start because a file was damaged.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Volume;
use model::{Dbid, Incarnation, Outcome, Reach, Repair};

/// Version of the marks' shape.
const VERSION: u32 = 1;
/// Ending of a mark that is being written.
const UNFINISHED: &str = ".tmp";
/// Nobody writes a mark for so long.
const ABANDONED: Duration = Duration::from_mins(10);

/// An attempt asks postgres to stay down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub attempt: String,
    pub dbid: Dbid,
    pub reason: String,
    /// Renewed every few seconds while the attempt lives.
    pub heartbeat: Timestamp,
}

/// Stands from right before the first destructive byte until the copy is whole and synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    pub attempt: String,
    pub repair: Repair,
    pub since: Timestamp,
}

/// What a full copy has put aside, which waits for the proof of the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Old {
    pub attempt: String,
    /// The old data directory, if there was one.
    pub directory: PathBuf,
    /// The old folders of its tablespaces, each beside its place.
    #[serde(default)]
    pub tablespaces: Vec<PathBuf>,
    /// Of the data directories among them, in the order in which they were put aside; an earlier version wrote none.
    #[serde(default)]
    pub originals: Vec<Original>,
}

/// A data directory that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Original {
    pub directory: PathBuf,
    #[serde(flatten)]
    pub remembered: Remembered,
}

/// What was known of a data directory when it was put aside: the marks of the volume are of what came into its place since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// The incarnations of its acting primary of whose history it was proven to be a part.
    pub followed: Vec<Incarnation>,
    /// Its own as a primary.
    pub own: Vec<Incarnation>,
    /// Up to where the acting primary of then held what it holds.
    pub proven: Option<Reach>,
}

/// The supervisor's answer to a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    pub attempt: String,
    /// `None`: obeyed; postgres is stopped and the lock given up.
    pub refused: Option<String>,
}

/// Every mark, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Marks {
    pub hold: Option<Hold>,
    pub copy: Option<Copy>,
    pub retired: bool,
    pub maintenance: bool,
    /// A copy mark is there that cannot be understood: it stands.
    pub unreadable: Option<String>,
    /// The marks could not be looked at now: nothing is started, and nothing that runs is stopped for it.
    pub unknown: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

/// Why a mark could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("the mark {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the mark {path} cannot be understood: {why}")]
    Content { path: PathBuf, why: String },
}

impl Volume {
    /// All marks. One that cannot be understood stands; one that cannot be looked at is unknown.
    pub fn marks(&self) -> Marks {
        let mut marks = Marks::default();
        for (name, stands) in [("retired", &mut marks.retired), ("maintenance", &mut marks.maintenance)] {
            match self.stands(name) {
                Ok(there) => *stands = there,
                Err(error) => marks.unknown = Some(error.to_string()),
            }
        }
        match self.read("hold") {
            Ok(hold) => marks.hold = hold,
            Err(MarkError::Content { path, why }) => marks.hold = Some(nobodys_hold(&path, why)),
            Err(error @ MarkError::Io { .. }) => marks.unknown = Some(error.to_string()),
        }
        match self.read("copy") {
            Ok(copy) => marks.copy = copy,
            Err(error @ MarkError::Content { .. }) => marks.unreadable = Some(error.to_string()),
            Err(error @ MarkError::Io { .. }) => marks.unknown = Some(error.to_string()),
        }
        marks
    }

    /// Whether a mark stands whose being there is all that it says.
    ///
    /// # Errors
    /// [`MarkError::Io`] when it cannot be looked at, which is not that it is missing.
    pub fn stands(&self, name: &str) -> Result<bool, MarkError> {
        let path = self.mark(name);
        path.try_exists().map_err(|source| MarkError::Io { path, source })
    }

    /// The newest attempt's outcome.
    pub fn result(&self) -> Option<Outcome> {
        self.read("result.json").ok().flatten()
    }

    /// Reads a mark; `None` when it does not stand.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MarkError> {
        let path = self.mark(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MarkError::Io { path, source }),
        };
        let content = |why: String| MarkError::Content { path: path.clone(), why };
        let mark: Versioned<T> = serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        if mark.version == VERSION { Ok(Some(mark.value)) } else { Err(content(format!("version {}, expected {VERSION}", mark.version))) }
    }

    /// Writes a mark so that a crash leaves either the old or the new one.
    ///
    /// # Errors
    /// [`MarkError::Io`]
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), MarkError> {
        let path = self.mark(name);
        // Every Job is pid 1 of its own namespace; two may meet here.
        let fresh = self.mark(&format!("{name}.{}.{}{UNFINISHED}", std::process::id(), Timestamp::now().as_nanosecond()));
        let write = || -> io::Result<()> {
            let bytes = serde_json::to_vec_pretty(&Versioned { version: VERSION, value })?;
            let mut file = File::create(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            sync_folder_of(&path)
        };
        write().map_err(|source| {
            let _ = std::fs::remove_file(&fresh); // on a full disk one would be left with every heartbeat
            MarkError::Io { path: path.clone(), source }
        })
    }

    /// Removes what writers that were killed in the middle have left behind. What is younger may be being written.
    pub fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.marks) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(UNFINISHED)) {
            let age = std::fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Ends a mark; that it does not stand is as good.
    ///
    /// # Errors
    /// [`MarkError::Io`]
    pub fn remove(&self, name: &str) -> Result<(), MarkError> {
        let path = self.mark(name);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_folder_of(&path).map_err(|source| MarkError::Io { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(MarkError::Io { path, source }),
        }
    }
}

/// A hold that cannot be understood ages by its file: it stands like any other, and ends like one whose attempt is gone.
fn nobodys_hold(path: &Path, why: String) -> Hold {
    let written = std::fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|at| Timestamp::try_from(at).ok());
    Hold { attempt: "(unreadable)".into(), dbid: Dbid(0), reason: why, heartbeat: written.unwrap_or(Timestamp::UNIX_EPOCH) }
}

/// Makes a rename or removal in the folder of `path` last.
///
/// # Errors
/// As of the file system.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        Hold { attempt: "a1".into(), dbid: Dbid(5), reason: "test".into(), heartbeat: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn marks_are_read_back_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        assert_eq!(volume.marks(), Marks::default());
        volume.write("hold", &hold()).unwrap();
        assert_eq!(volume.marks().hold, Some(hold()));
        volume.remove("hold").unwrap();
        volume.remove("hold").unwrap();
        assert_eq!(volume.marks(), Marks::default());
    }

    #[test]
    fn a_mark_that_cannot_be_read_stands() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        for damage in ["", "{}", r#"{"version":99,"attempt":"a"}"#] {
            std::fs::write(volume.mark("copy"), damage).unwrap();
            assert!(volume.marks().unreadable.is_some(), "{damage}");
            std::fs::write(volume.mark("hold"), damage).unwrap();
            let hold = volume.marks().hold.expect("it stands");
            assert!(Timestamp::now().duration_since(hold.heartbeat).as_secs() < 60, "it ages by its file");
        }
    }

    #[test]
    fn a_mark_that_cannot_be_looked_at_is_unknown_and_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        std::fs::create_dir(volume.mark("copy")).unwrap(); // reading a folder fails otherwise than by its content
        let marks = volume.marks();
        assert!(marks.unknown.is_some() && marks.unreadable.is_none() && marks.copy.is_none());
    }

    #[test]
    fn a_mark_of_a_person_that_cannot_be_looked_at_is_unknown_and_not_missing() {
        for name in ["retired", "maintenance"] {
            let dir = tempfile::tempdir().unwrap();
            let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
            std::os::unix::fs::symlink(volume.mark(name), volume.mark(name)).unwrap(); // looks for itself for ever
            let marks = volume.marks();
            assert!(marks.unknown.is_some() && !marks.retired && !marks.maintenance, "{name}: {marks:?}");
            assert!(volume.stands(name).is_err());
        }
    }

    #[test]
    fn what_could_not_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        std::fs::create_dir_all(volume.mark("hold").join("in the way")).unwrap();
        assert!(volume.write("hold", &hold()).is_err());
        let names = || std::fs::read_dir(volume.marks_folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(), ["hold"]);
        for (name, age) in [("copy.7.1.tmp", 3600), ("copy.7.2.tmp", 0)] {
            let file = File::create(volume.mark(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        volume.sweep();
        assert!(!volume.mark("copy.7.1.tmp").exists() && volume.mark("copy.7.2.tmp").exists(), "{:?}", names());
    }
}
