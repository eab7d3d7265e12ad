//! One instance's volume: the lock, the token and the marks that live beside its data directory.
//!
//! Shared by the supervisor and the Job; it is where the two meet.

pub mod commits;
pub mod confirmed;
pub mod holder;
pub mod incarnations;
pub mod layout;
pub mod lock;
pub mod marks;
pub mod mend;
pub mod mount;
pub mod places;
pub mod processes;
pub mod replaced;
pub mod shape;
pub mod spaces;
pub mod token;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use holder::Holder;
pub use lock::{Held, LockError, LockSeen};
pub use marks::{Copy, Hold, Marks, Old, Original, Remembered};
pub use token::{Token, TokenState};

/// The folder of marks, beside the data directory.
const MARKS: &str = ".gpheal";

/// A data directory with its folder of marks.
#[derive(Clone, Debug)]
pub struct Volume {
    data: PathBuf,
    marks: PathBuf,
}

/// Why a directory cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("the data directory {0} is not an absolute path with a parent folder")]
    NotAbsolute(PathBuf),
    #[error(
        "DataDirIsMountRoot: {0} is the root of its mount, so marks cannot live beside it; move the data directory into a folder below"
    )]
    DataDirIsMountRoot(PathBuf),
    #[error("the folder of marks {path} cannot be used; check fsGroup and the volume's owner")]
    Marks { path: PathBuf, source: io::Error },
    /// Passes, perhaps.
    #[error("the data directory {path} cannot be looked at: {source}")]
    Look { path: PathBuf, source: io::Error },
}

impl Volume {
    /// Opens the volume of `data`, making the folder of marks if it is missing.
    ///
    /// # Errors
    /// [`VolumeError`]
    pub fn open(data: &Path) -> Result<Self, VolumeError> {
        let volume = Self::at(data)?;
        std::fs::create_dir_all(&volume.marks).map_err(|source| VolumeError::Marks { path: volume.marks.clone(), source })?;
        Ok(volume)
    }

    /// The volume of `data` as it is, for somebody who only looks.
    ///
    /// # Errors
    /// [`VolumeError`]
    pub fn at(data: &Path) -> Result<Self, VolumeError> {
        let parent = data.parent().filter(|_| data.is_absolute()).ok_or_else(|| VolumeError::NotAbsolute(data.to_owned()))?;
        if is_mount_root(data, parent).map_err(|source| VolumeError::Look { path: data.to_owned(), source })? {
            return Err(VolumeError::DataDirIsMountRoot(data.to_owned()));
        }
        Ok(Self { data: data.to_owned(), marks: parent.join(MARKS) })
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder of marks.
    pub fn marks_folder(&self) -> &Path {
        &self.marks
    }

    /// A file in the folder of marks.
    pub fn mark(&self, name: &str) -> PathBuf {
        self.marks.join(name)
    }

    /// Where a full copy is made before it takes the old one's place.
    pub fn beside_new(&self) -> PathBuf {
        self.beside("gpheal-new")
    }

    /// Where the old directory waits until the new one is proven.
    pub fn beside_old(&self) -> PathBuf {
        Self::aside(&self.data)
    }

    /// Where the old directory goes when the new one is proven, to be removed.
    pub fn beside_gone(&self) -> PathBuf {
        self.beside("gpheal-gone")
    }

    fn beside(&self, tail: &str) -> PathBuf {
        beside(&self.data, tail)
    }
}

/// `place.tail`, in the same folder.
fn beside(place: &Path, tail: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(tail);
    place.with_file_name(name)
}

/// A directory that does not exist yet is none.
fn is_mount_root(data: &Path, parent: &Path) -> io::Result<bool> {
    Ok(data.try_exists()? && mount::of(data)? != mount::of(parent)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_looked_at_is_not_called_fine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Volume::at(&dir.path().join("gpseg")).is_ok(), "there is none yet");
        let looped = dir.path().join("loop");
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        assert!(matches!(Volume::at(&looped), Err(VolumeError::Look { .. })));
        assert!(matches!(Volume::at(Path::new("/proc")), Err(VolumeError::DataDirIsMountRoot(_))));
    }
}
