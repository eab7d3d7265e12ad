//! The source's tablespaces in a full copy: each is copied beside its location, and takes its place in the swap.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Work,
    fault::{Classified, Fault, OfSource, of_file_system},
    source::SourceLock,
    swap::{CopiedSpace, Space},
};
use crate::volume::mount;
use greenplum::tablespace::{self, LINKS, Tablespace};
use model::{Dbid, FailureClass};

/// A tablespace cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    #[error("tablespace {name} lies at {location}, which is not on the volume of the data directory beside it")]
    Elsewhere { name: String, location: PathBuf },
    #[error("the location of tablespace {name}, {location}, has letters in an encoding in which it cannot be told to pg_basebackup")]
    Unnamable { name: String, location: PathBuf },
    #[error("tablespace {0} was made while the copy ran")]
    Made(String),
    #[error("the copy links tablespace {name} to {link}, which is neither Greenplum's layout nor PostgreSQL's")]
    Layout { name: String, link: PathBuf },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl Classified for SpaceError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Elsewhere { .. } | Self::Unnamable { .. } => FailureClass::TablespaceElsewhere,
            Self::Made(_) => FailureClass::WorldMoved,
            Self::Layout { .. } => FailureClass::ResultUnsound,
            Self::File { source, .. } => of_file_system(source),
        }
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> SpaceError {
    |source| SpaceError::File { path: path.to_owned(), source }
}

/// The source's tablespaces, all of them on the volume of the target's data directory: there a rename can put them into
/// place, and the room that is counted is theirs too.
pub async fn of(work: &Work, source: &SourceLock) -> Result<Vec<Tablespace>, Fault> {
    let session = source.session().await?;
    let spaces = tablespace::made_by_users(&session).await.map_err(OfSource)?;
    spaces.iter().try_for_each(|space| can_be_copied(work.volume.data(), space))?;
    Ok(spaces)
}

fn can_be_copied(data: &Path, space: &Tablespace) -> Result<(), SpaceError> {
    let (name, location) = (space.name.clone(), space.location.clone());
    if !space.exact {
        return Err(SpaceError::Unnamable { name, location });
    }
    if is_here(data, &space.location)? { Ok(()) } else { Err(SpaceError::Elsewhere { name, location }) }
}

/// The location, and the folder in which it stands, lie on the mount of the data directory and not within that.
fn is_here(data: &Path, location: &Path) -> Result<bool, SpaceError> {
    let mount = |path: &Path| mount::of(path).map_err(file(path));
    let (Some(volume), Some(parent)) = (data.parent(), location.parent().filter(|_| location.is_absolute())) else { return Ok(false) };
    let here = mount(volume)?;
    Ok(!location.starts_with(data) && mount(location)? == here && mount(parent)? == here)
}

/// What the swap has to move: the copied tablespaces, and those that the target has and the source has no more.
pub fn to_swap(data: &Path, fresh: &Path, spaces: &[Tablespace], dbid: Dbid) -> Result<Vec<Space>, SpaceError> {
    let mut found = vec![];
    for (oid, link, folder) in links(fresh)? {
        let space = spaces.iter().find(|space| space.oid == oid).ok_or(SpaceError::Made(oid))?;
        let place = space.place(dbid, &folder);
        let place = place.ok_or_else(|| SpaceError::Layout { name: space.name.clone(), link: folder.clone() })?;
        found.push(Space { place, copy: Some(CopiedSpace { folder, link }) });
    }
    let here = data.parent().map(mount::of).transpose().map_err(file(data))?;
    for (_, _, place) in links(data)? {
        // Only what is surely this instance's own: a location may be shared with the source.
        let own = place.file_name().is_some_and(|name| name == dbid.to_string().as_str());
        let known = found.iter().any(|space| space.place == place);
        if own && !known && mount::of(&place).ok() == here {
            found.push(Space { place, copy: None });
        }
    }
    Ok(found)
}

/// Where the tablespaces of a data directory lie; a link that points to nothing is none.
pub fn folders(data: &Path) -> Result<Vec<PathBuf>, SpaceError> {
    let mut found = vec![];
    for (_, _, folder) in links(data)? {
        if folder.try_exists().map_err(file(&folder))? {
            found.push(folder);
        }
    }
    Ok(found)
}

/// The links of a data directory, if there is one: oid, link, and where that points.
fn links(data: &Path) -> Result<Vec<(String, PathBuf, PathBuf)>, SpaceError> {
    let folder = data.join(LINKS);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(file(&folder))?,
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(file(&folder))?.path();
        if let Ok(target) = std::fs::read_link(&path) {
            found.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path, target));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const DBID: Dbid = Dbid(5);

    fn space(oid: &str, location: &Path) -> Tablespace {
        Tablespace { oid: oid.into(), name: format!("of {oid}"), location: location.to_owned(), exact: true }
    }

    /// A directory with a link of this name to this folder.
    fn linking(data: &Path, oid: &str, folder: &Path) {
        fs::create_dir_all(data.join(LINKS)).unwrap();
        symlink(folder, data.join(LINKS).join(oid)).unwrap();
    }

    #[test]
    fn a_location_on_another_mount_or_within_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("gpseg");
        let here = |location: &Path| is_here(&data, location).unwrap();
        assert!(here(&dir.path().join("space")), "it may be made anew");
        assert!(!here(&data.join("space")));
        assert!(!here(Path::new("/proc/self")));
        assert!(!here(Path::new("pg_tblspc/16400")), "in place");
        symlink("/proc/self", dir.path().join("away")).unwrap();
        assert!(!here(&dir.path().join("away")));
    }

    #[test]
    fn a_location_that_cannot_be_told_to_a_tool_is_refused_before_a_byte_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let here = space("1", &dir.path().join("space"));
        assert!(can_be_copied(&dir.path().join("gpseg"), &here).is_ok());
        let refused = can_be_copied(&dir.path().join("gpseg"), &Tablespace { exact: false, ..here }).unwrap_err();
        assert_eq!(refused.class(), FailureClass::TablespaceElsewhere);
    }

    #[test]
    fn every_tablespace_of_the_copy_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (data, fresh) = (dir.path().join("gpseg"), dir.path().join("fresh"));
        let one = space("1", &dir.path().join("one"));
        assert_eq!(to_swap(&data, &fresh, std::slice::from_ref(&one), DBID).unwrap(), [], "dropped while the copy ran");
        linking(&fresh, "1", &one.fresh(DBID).join("5"));
        let found = to_swap(&data, &fresh, std::slice::from_ref(&one), DBID).unwrap();
        let copy = CopiedSpace { folder: one.fresh(DBID).join("5"), link: fresh.join("pg_tblspc/1") };
        assert_eq!(found, [Space { place: dir.path().join("one/5"), copy: Some(copy) }]);
        linking(&fresh, "2", &dir.path().join("two/5"));
        assert!(matches!(to_swap(&data, &fresh, std::slice::from_ref(&one), DBID), Err(SpaceError::Made(oid)) if oid == "2"));
        let unmapped = [one, space("2", &dir.path().join("two"))];
        assert!(matches!(to_swap(&data, &fresh, &unmapped, DBID), Err(SpaceError::Layout { .. })));
    }

    #[test]
    fn of_what_the_source_has_no_more_only_the_instances_own_folder_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (data, fresh) = (dir.path().join("gpseg"), dir.path().join("fresh"));
        linking(&data, "1", &dir.path().join("dropped/5"));
        linking(&data, "2", &dir.path().join("shared/2"));
        linking(&data, "3", Path::new("/proc/5"));
        let found = to_swap(&data, &fresh, &[], DBID).unwrap();
        assert_eq!(found, [Space { place: dir.path().join("dropped/5"), copy: None }]);
    }
}
