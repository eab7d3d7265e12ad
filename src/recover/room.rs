//! Whether a full copy fits beside the old directory, with the log that streams meanwhile.

use std::{path::Path, time::Duration};

use nix::sys::statvfs::Statvfs;

use super::{
    Work,
    fault::{Classified, Fault, FileError},
    source::SourceLock,
};
use crate::{greenplum::Dialect, model::FailureClass};

/// There is too little room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    #[error("the copy needs about {need} MiB and the volume has {free} MiB free; grow the volume, or remove files from it")]
    Short { need: u64, free: u64 },
    #[error("the copy needs about {need} files and the volume's file system has inodes for {free}; it has to be made with more")]
    Inodes { need: u64, free: u64 },
}

impl Classified for RoomError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Short { .. } | Self::Inodes { .. } => FailureClass::NoRoom,
        }
    }
}

/// Each file of the source is looked at for it, which takes minutes where there are a million and none of them is cached.
/// Longer than this it is not waited for: the tool itself tells when the volume is full, and the old directory is untouched
/// until then.
const MEASURED: Duration = Duration::from_mins(20);

/// Tablespaces are counted with their databases.
const DATA: &str = "SELECT sum(pg_catalog.pg_database_size(oid))::text FROM pg_catalog.pg_database";
/// Segments of 64 MB (O §2), beside which history files and a folder lie; pg_ls_waldir is not known there.
const LOG_OF_SIX: &str = "SELECT (count(*) * 64 * 1024 * 1024)::text FROM pg_catalog.pg_ls_dir('pg_xlog') AS name WHERE length(name) = 24";
const LOG_OF_SEVEN: &str = "SELECT sum(size)::text FROM pg_catalog.pg_ls_waldir()";
/// Folders are listed for it, and no file is looked at. Files of tablespaces are left out.
const FILES: &str = "SELECT sum((SELECT count(*) FROM pg_catalog.pg_ls_dir('base/' || oid)))::text FROM pg_catalog.pg_database
  WHERE dattablespace = (SELECT oid FROM pg_catalog.pg_tablespace WHERE spcname = 'pg_default')";

/// Log that streams while the copy runs: as much as lies there now, but no more. What the slot keeps for a mirror that is
/// down is not copied, and may be larger than the data.
const MOST_LOG: u64 = 1 << 30;
/// What every directory has besides the files of its databases.
const OTHER_FILES: u64 = 1000;

/// What a copy takes; what is not known takes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    bytes: u64,
    files: u64,
}

impl Need {
    fn of(data: u64, log: u64, files: u64) -> Self {
        Self { bytes: data + data / 20 + log.min(MOST_LOG), files: files + files / 20 + OTHER_FILES }
    }

    /// Some file systems have no fixed number of inodes, and show none.
    fn fits(self, bytes: u64, inodes: Option<u64>) -> Result<(), RoomError> {
        if bytes < self.bytes {
            return Err(RoomError::Short { need: self.bytes >> 20, free: bytes >> 20 });
        }
        match inodes {
            Some(free) if free < self.files => Err(RoomError::Inodes { need: self.files, free }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Proves that the copy fits, as far as that can be measured.
pub async fn prove(work: &Work, source: &SourceLock) -> Result<(), Fault> {
    let Some(data) = source.measured(DATA, MEASURED).await? else {
        tracing::warn!(minutes = MEASURED.as_secs() / 60, "how large the source is was not told in time; the copy is begun all the same");
        return Ok(());
    };
    let log = match source.dialect {
        Dialect::Seven => source.measured(LOG_OF_SEVEN, MEASURED).await?,
        Dialect::Six => source.measured(LOG_OF_SIX, MEASURED).await?,
    };
    let files = source.measured(FILES, MEASURED).await?;
    let need = Need::of(data, log.unwrap_or_default(), files.unwrap_or_default());
    let parent = work.volume.data().parent().unwrap_or(work.volume.data());
    let (bytes, inodes) = free(parent)?;
    Ok(need.fits(bytes, inodes)?)
}

fn free(folder: &Path) -> Result<(u64, Option<u64>), FileError> {
    let stat = nix::sys::statvfs::statvfs(folder).map_err(|errno| FileError::at(folder)(errno.into()))?;
    Ok((stat.blocks_available() * stat.fragment_size(), inodes(&stat)))
}

fn inodes(stat: &Statvfs) -> Option<u64> {
    (stat.files() > 0).then(|| stat.files_available())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A mirror that was down for days has its log kept on the source, and must not be refused for it.
    #[test]
    fn log_that_a_slot_keeps_is_not_counted() {
        let need = Need::of(100 * GIB, 500 * GIB, 0);
        assert_eq!(need.bytes, 106 * GIB);
        assert_eq!(Need::of(0, 16 << 20, 0).bytes, 16 << 20);
        assert!(need.fits(107 * GIB, None).is_ok());
        let short = need.fits(105 * GIB, None).unwrap_err();
        assert_eq!((short.class(), short.to_string().contains("108544 MiB")), (FailureClass::NoRoom, true), "{short}");
    }

    #[test]
    fn a_volume_without_inodes_has_no_room() {
        let need = Need::of(GIB, 0, 1_000_000);
        let short = need.fits(100 * GIB, Some(1_000_000)).unwrap_err();
        assert_eq!(short.class(), FailureClass::NoRoom);
        assert!(short.to_string().contains("inodes for 1000000"), "{short}");
        assert!(need.fits(100 * GIB, Some(2_000_000)).is_ok() && need.fits(100 * GIB, None).is_ok());
    }

    #[test]
    fn what_is_free_is_read_from_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(dir.path()).unwrap().0 > 0);
        assert!(free(&dir.path().join("missing")).is_err());
    }
}
