//! What is written lasts: the file systems of a data directory and its tablespaces.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    fault::{Fault, FileError},
    spaces,
};
use greenplum::Dialect;

/// Open before the first byte is written: that writing back has failed is told only to who had the file system open by
/// then, and to each of them once (syncfs(2)).
pub struct Disk(Vec<(PathBuf, File)>);

impl Disk {
    /// Wherever a data directory has files: itself, its log and its tablespaces, which may be links to other file systems.
    pub fn of(data: &Path, dialect: Dialect) -> Result<Self, Fault> {
        Ok(Self::open(folders(data, dialect)?)?)
    }

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

fn folders(data: &Path, dialect: Dialect) -> Result<Vec<PathBuf>, Fault> {
    let log = data.join(dialect.wal_folder());
    let there = log.try_exists().map_err(FileError::at(&log))?;
    let elsewhere = spaces::folders(data)?.into_iter().chain(there.then_some(log));
    Ok([data.to_owned()].into_iter().chain(elsewhere).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_and_tablespaces_are_synced_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let (data, space) = (dir.path().join("gpseg"), dir.path().join("space"));
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::fs::create_dir(&space).unwrap();
        std::os::unix::fs::symlink(&space, data.join("pg_tblspc/1")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("gone"), data.join("pg_tblspc/2")).unwrap();
        assert_eq!(folders(&data, Dialect::Six).unwrap(), [data.clone(), space.clone()], "a link to nothing is passed over");
        std::os::unix::fs::symlink(dir.path(), data.join("pg_xlog")).unwrap();
        assert_eq!(folders(&data, Dialect::Six).unwrap(), [data.clone(), space, data.join("pg_xlog")]);
    }

    #[test]
    fn what_is_there_is_synced_and_what_is_not_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open([dir.path().to_owned(), PathBuf::from("/tmp")]).unwrap();
        disk.sync().unwrap();
        let missing = Disk::open([dir.path().join("missing")]).map(drop).unwrap_err();
        assert!(missing.to_string().contains("missing: No such file"), "{missing}");
    }
}
