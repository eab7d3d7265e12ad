//! Whether a full copy fits beside the old directory, with the log that streams meanwhile.

use std::{path::Path, time::Duration};

use nix::sys::statvfs::Statvfs;

use super::{
    Work,
    fault::{Classified, Fault, FileError},
    source::{SourceLock, unreadable},
};
use greenplum::{SessionError, size};
use model::FailureClass;

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
    let Some(data) = measured(source, size::DATA).await? else {
        tracing::warn!(minutes = MEASURED.as_secs() / 60, "how large the source is was not told in time; the copy is begun all the same");
        return Ok(());
    };
    let log = measured(source, size::log(source.dialect)).await?;
    let (files, of_spaces) = (measured(source, size::FILES).await?, measured(source, size::FILES_OF_SPACES).await?);
    let need = Need::of(data, log.unwrap_or_default(), files.unwrap_or_default() + of_spaces.unwrap_or_default());
    let parent = work.volume.data().parent().unwrap_or(work.volume.data());
    let (bytes, inodes) = free(parent)?;
    Ok(need.fits(bytes, inodes)?)
}

/// One number, of a query that looks at every file; `None`: it was not there in time, or a file went away meanwhile.
async fn measured(source: &SourceLock, sql: &str) -> Result<Option<u64>, Fault> {
    let session = source.session().await?;
    let measuring = async {
        match session.rows_within(sql, MEASURED).await {
            Err(error) if is_left_unmeasured(&error) => {
                tracing::warn!(%error, "the source could not be measured");
                Ok(None)
            }
            told => told.map(Some),
        }
    };
    let Some(rows) = source.patiently(measuring).await? else { return Ok(None) };
    let text = rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok()).flatten();
    text.map(|text| text.parse().map_err(|_| unreadable("a size"))).transpose()
}

/// What is not told in time, or refused, is left unmeasured; a server that is gone is another matter.
const fn is_left_unmeasured(error: &SessionError) -> bool {
    matches!(error, SessionError::TimedOut { .. } | SessionError::Statement { .. })
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

    /// A source of which nobody tells how large it is in time is copied all the same.
    #[test]
    fn what_is_not_told_in_time_is_left_unmeasured_and_a_server_that_is_gone_is_not() {
        let server = || greenplum::Server::new("gp-primary-0.gp", 6000);
        let refused = SessionError::Statement { server: server(), message: "no such file".into(), code: None };
        assert!(is_left_unmeasured(&SessionError::TimedOut { server: server(), seconds: MEASURED.as_secs() }));
        assert!(is_left_unmeasured(&refused) && !is_left_unmeasured(&SessionError::InRecovery(server())));
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
