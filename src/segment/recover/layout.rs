//! Data directories that do not lie in one piece on their volume: links and mounts within them, and which repair carries which.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::{
    configure,
    fault::{Classified, Fault, FileError},
    swap::remove_folder,
};
use crate::volume::{layout::linked_log, mount};
use greenplum::Dialect;
use model::FailureClass;

/// A log that is linked to another place would move onto the data directory's volume, which was not made for it.
#[derive(Debug, thiserror::Error)]
#[error("the target's log is linked to {0}, and a full copy would put it into the data directory")]
pub struct LogElsewhere(PathBuf);

impl Classified for LogElsewhere {
    fn class(&self) -> FailureClass {
        FailureClass::LogElsewhere
    }
}

fn log_lies_within(log: &Path) -> Result<(), Fault> {
    match linked_log(log).map_err(FileError::at(log))? {
        Some(to) => Err(LogElsewhere(to).into()),
        None => Ok(()),
    }
}

/// Found out by the copy, it would be after the last moment: a half rewound directory that no copy can replace any more.
#[derive(Debug, thiserror::Error)]
#[error("{point} is mounted within the data directory, {because}")]
pub struct MountWithin {
    point: PathBuf,
    because: &'static str,
}

impl Classified for MountWithin {
    fn class(&self) -> FailureClass {
        FailureClass::MountWithin
    }
}

/// A full copy takes the place of the directory by a rename, and brings a log of its own.
pub fn allows_a_copy(data: &Path, dialect: Dialect) -> Result<(), Fault> {
    log_lies_within(&data.join(dialect.wal_folder()))?;
    let points = mount::below(data).map_err(FileError::at(data))?;
    none_of(points, |_| Ok(false), "which a full copy would replace by renaming")
}

/// pg_rewind writes in place. It follows a log that is a link or a mount, as it does with the folder of the server's own log:
/// both are there on either side. Whatever else is mounted it opens anew, replaces or removes, and ends at that half-way.
pub fn allows_a_rewind(data: &Path, dialect: Dialect) -> Result<(), Fault> {
    let points = mount::below(data).map_err(FileError::at(data))?;
    let carried = [dialect.wal_folder(), dialect.log_folder()].map(|folder| mount::resolved(data).join(folder));
    none_of(points, |point| Ok(carried.iter().any(|folder| folder == point) && is_writable(point)?), "which pg_rewind cannot replace")
}

/// Where nothing is rewound, settings are replaced all the same.
pub fn allows_settings(data: &Path, dialect: Dialect) -> Result<(), Fault> {
    let points = mount::below(data).map_err(FileError::at(data))?;
    let written: Vec<_> = configure::files(dialect).iter().map(|file| mount::resolved(data).join(file)).collect();
    none_of(points, |point| Ok(!written.iter().any(|file| file == point)), "which is to get settings of its own as a mirror")
}

fn none_of(points: Vec<PathBuf>, carried: impl Fn(&Path) -> io::Result<bool>, because: &'static str) -> Result<(), Fault> {
    for point in points {
        if !carried(&point).map_err(FileError::at(&point))? {
            return Err(MountWithin { point, because }.into());
        }
    }
    Ok(())
}

/// A folder of which the mount lets itself be written.
fn is_writable(point: &Path) -> io::Result<bool> {
    Ok(point.metadata()?.is_dir() && !statvfs(point)?.flags().contains(FsFlags::ST_RDONLY))
}

/// The server's log may lie on a volume of its own, by a link that no tool copies.
pub fn carry_log_folder(data: &Path, fresh: &Path, dialect: Dialect) -> Result<(), FileError> {
    let (link, own) = (data.join(dialect.log_folder()), fresh.join(dialect.log_folder()));
    let leads_to = match std::fs::symlink_metadata(&link) {
        Ok(there) if there.is_symlink() => std::fs::read_link(&link).map_err(FileError::at(&link))?,
        Ok(_) => return Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(FileError::at(&link)(error)),
    };
    tracing::info!(to = %leads_to.display(), "the link of the server's log is kept");
    remove_folder(&own).and_then(|()| std::os::unix::fs::symlink(leads_to, &own)).map_err(FileError::at(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_on_a_volume_of_its_own_is_not_moved_silently() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("gpseg/pg_wal");
        assert!(log_lies_within(&log).is_ok(), "there is no directory");
        std::fs::create_dir_all(&log).unwrap();
        assert!(log_lies_within(&log).is_ok());
        std::fs::remove_dir(&log).unwrap();
        std::os::unix::fs::symlink("/wal/gpseg", &log).unwrap();
        assert_eq!(log_lies_within(&log).unwrap_err().class, FailureClass::LogElsewhere, "also when the link leads nowhere");
        assert!(allows_a_rewind(&dir.path().join("gpseg"), Dialect::Seven).is_ok(), "pg_rewind follows it");
    }

    #[test]
    fn the_link_of_the_servers_log_is_carried() {
        let dir = tempfile::tempdir().unwrap();
        let (data, fresh) = (dir.path().join("gpseg"), dir.path().join("fresh"));
        std::fs::create_dir_all(fresh.join("log")).unwrap();
        std::fs::write(fresh.join("log/of-the-source.csv"), "x").unwrap();
        carry_log_folder(&data, &fresh, Dialect::Seven).unwrap();
        std::fs::create_dir_all(data.join("log")).unwrap();
        carry_log_folder(&data, &fresh, Dialect::Seven).unwrap();
        assert!(fresh.join("log/of-the-source.csv").try_exists().unwrap(), "where there is no link nothing changes");
        std::fs::remove_dir(data.join("log")).unwrap();
        std::os::unix::fs::symlink("/log/gpseg", data.join("log")).unwrap();
        carry_log_folder(&data, &fresh, Dialect::Seven).unwrap();
        assert_eq!(std::fs::read_link(fresh.join("log")).unwrap(), PathBuf::from("/log/gpseg"));
        std::os::unix::fs::symlink("../log", data.join("pg_log")).unwrap();
        carry_log_folder(&data, &fresh, Dialect::Six).unwrap();
        assert_eq!(std::fs::read_link(fresh.join("pg_log")).unwrap(), PathBuf::from("../log"), "the copy had none");
    }

    #[test]
    fn a_folder_in_which_something_is_mounted_is_neither_copied_for_nor_rewound() {
        let free = tempfile::tempdir().unwrap();
        for (allows, free) in [(allows_a_copy as fn(&Path, Dialect) -> _, free.path()), (allows_a_rewind, free.path())] {
            assert!(allows(free, Dialect::Seven).is_ok());
            assert_eq!(allows(Path::new("/"), Dialect::Seven).unwrap_err().class, FailureClass::MountWithin);
        }
        assert!(allows_settings(Path::new("/"), Dialect::Seven).is_ok(), "nothing is mounted over a file of settings");
    }

    /// What is mounted at any of these, of a directory that is rewound.
    #[test]
    fn only_the_folders_of_logs_may_be_mounts_under_a_rewind() {
        let refused = |carried: &[&str], point: &str| {
            let carried: Vec<PathBuf> = carried.iter().map(PathBuf::from).collect();
            none_of(vec![point.into()], |point| Ok(carried.iter().any(|folder| folder == point)), "x").is_err()
        };
        assert!(!refused(&["/data/gpseg/pg_wal"], "/data/gpseg/pg_wal"));
        assert!(refused(&["/data/gpseg/pg_wal"], "/data/gpseg/pg_wal/archive_status"));
        assert!(refused(&["/data/gpseg/pg_wal"], "/data/gpseg/postgresql.conf"));
        assert!(!is_writable(Path::new("/proc/self/mountinfo")).unwrap(), "no folder");
        assert!(is_writable(Path::new("/proc")).unwrap());
    }
}
