//! Tablespaces of a data directory whose folders are gone.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::mount;
use greenplum::tablespace::LINKS;

/// A tablespace whose link leads to nothing, on the volume of the data directory itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its oid, which names its link.
    pub oid: OsString,
    pub folder: PathBuf,
}

/// Links that lead to nothing where the nearest folder that there is lies on the mount of the data directory: no volume is awaited
/// there, as a container's are mounted before it begins, and those of a Job as those of its pod. Where that folder lies on another
/// mount, or cannot be looked at, the tablespace may be whole, and nothing is known of it.
///
/// Whoever takes it for damage copies it beside that place, and only on this volume: a full copy refuses any other.
///
/// # Errors
/// That the links cannot be looked at.
pub fn lost(data: &Path) -> io::Result<Vec<Lost>> {
    let links = match std::fs::read_dir(data.join(LINKS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        links => links?,
    };
    let here = mount::of(data.parent().unwrap_or(data))?;
    let mut found = vec![];
    for link in links {
        let link = link?;
        if link.file_type()?.is_symlink() {
            let folder = std::fs::read_link(link.path())?;
            if folder.is_absolute() && is_gone(&folder, here) {
                found.push(Lost { oid: link.file_name(), folder });
            }
        }
    }
    Ok(found)
}

fn is_gone(folder: &Path, here: u64) -> bool {
    folder.try_exists().is_ok_and(|there| !there) && mount::of(folder).is_ok_and(|mount| mount == here)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_folder_that_is_gone_from_this_volume_is_lost_and_one_of_another_may_not_be_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("gpseg");
        assert_eq!(lost(&data).unwrap(), [], "there is no directory");
        fs::create_dir_all(data.join(LINKS)).unwrap();
        for (oid, folder) in [("1", dir.path().join("there/5")), ("2", dir.path().join("space/5")), ("3", "/proc/no-such/5".into())] {
            symlink(folder, data.join(LINKS).join(oid)).unwrap();
        }
        symlink("/proc/self/fd/none/5", data.join(LINKS).join("4")).unwrap();
        symlink(data.join(LINKS).join("5"), data.join(LINKS).join("5")).unwrap(); // a loop cannot be looked at
        fs::create_dir_all(dir.path().join("there/5")).unwrap();
        let lost = lost(&data).unwrap();
        assert_eq!(lost, [Lost { oid: "2".into(), folder: dir.path().join("space/5") }]);
    }
}
