//! Whether a full copy could take a data directory's place: it is made beside it, and swapped with it by renaming.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::mount;
use greenplum::Dialect;

/// What stands in the way of a full copy, in words; `None`: nothing that is known, or there is no directory to be in the way.
pub fn uncopied(data: &Path) -> Option<String> {
    let log = [Dialect::Seven, Dialect::Six].iter().find_map(|dialect| log_elsewhere(&data.join(dialect.wal_folder())));
    log.or_else(|| match mount::below(data) {
        Ok(points) => points.first().map(|point| format!("{} is mounted within it", point.display())),
        Err(error) => Some(format!("whether something is mounted within it cannot be seen: {error}")),
    })
}

fn log_elsewhere(log: &Path) -> Option<String> {
    match linked_log(log) {
        Ok(to) => to.map(|to| format!("its log is linked to another place ({})", to.display())),
        Err(error) => Some(format!("whether its log lies within it cannot be seen: {error}")),
    }
}

/// Where a log lies that is linked to another place: it would move onto the data directory's volume, which was not made for it.
///
/// # Errors
/// When that cannot be looked at.
pub fn linked_log(log: &Path) -> io::Result<Option<PathBuf>> {
    match std::fs::symlink_metadata(log) {
        Ok(there) if there.is_symlink() => std::fs::read_link(log).map(Some),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_linked_away_is_in_the_way_of_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("gpseg");
        let told = || uncopied(&data);
        assert_eq!(told(), None, "there is nothing to take the place of");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        assert_eq!(told(), None);
        std::fs::remove_dir(data.join("pg_wal")).unwrap();
        std::os::unix::fs::symlink("/log/of/gpseg", data.join("pg_wal")).unwrap();
        assert_eq!(told().unwrap(), "its log is linked to another place (/log/of/gpseg)");
    }

    #[test]
    fn what_is_mounted_within_is_in_the_way_of_a_copy() {
        let told = uncopied(Path::new("/"));
        assert!(told.is_some_and(|told| told.ends_with(" is mounted within it")), "below / there is /proc");
    }
}
