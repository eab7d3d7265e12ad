//! What is written lasts: the file systems of a data directory and its tablespaces.

use std::{fs::File, os::fd::AsFd, path::PathBuf};

use super::fault::FileError;

/// Open before the first byte is written: that writing back has failed is told only to who had the file system open by
/// then, and to each of them once (syncfs(2)).
pub struct Disk(Vec<(PathBuf, File)>);

impl Disk {
    /// Of the folders' file systems.
    pub fn open(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, FileError> {
        let open = |folder: PathBuf| match File::open(&folder) {
            Ok(file) => Ok((folder, file)),
            Err(error) => Err(FileError::at(&folder)(error)),
        };
        Ok(Self(folders.into_iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Everything that was written by now lasts when this returns.
    pub fn sync(&self) -> Result<(), FileError> {
        let sync =
            |(folder, file): &(PathBuf, File)| nix::unistd::syncfs(file.as_fd()).map_err(|errno| FileError::at(folder)(errno.into()));
        self.0.iter().try_for_each(sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_synced_and_what_is_not_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open([dir.path().to_owned(), PathBuf::from("/tmp")]).unwrap();
        disk.sync().unwrap();
        let missing = Disk::open([dir.path().join("missing")]).map(drop).unwrap_err();
        assert!(missing.to_string().contains("missing: No such file"), "{missing}");
    }
}
