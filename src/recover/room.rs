//! Whether a full copy fits beside the old directory, with the log that streams meanwhile.

use super::{
    Work,
    fault::{Classified, Fault},
    source::SourceLock,
};
use crate::{greenplum::Dialect, model::FailureClass};

/// There is too little room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    #[error("the copy needs about {need} MiB and the volume has {free} MiB free; grow the volume")]
    Short { need: u64, free: u64 },
    #[error("the room could not be measured: {0}")]
    Unknown(String),
}

impl Classified for RoomError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Short { .. } => FailureClass::NoRoom,
            Self::Unknown(_) => FailureClass::Unclassified,
        }
    }
}

/// Segments of 64 MB (O §2), beside which history files and a folder lie; pg_ls_waldir is not known there.
const LOG_OF_SIX: &str = "SELECT (count(*) * 64 * 1024 * 1024)::text FROM pg_catalog.pg_ls_dir('pg_xlog') AS name WHERE length(name) = 24";

/// Proves that the copy fits. The log is counted twice: what is there is copied, and as much may come while it is.
pub async fn prove(work: &Work, source: &SourceLock) -> Result<(), Fault> {
    let data = number(source, "SELECT sum(pg_catalog.pg_database_size(oid))::text FROM pg_catalog.pg_database").await?;
    let log = match source.session.dialect {
        Dialect::Seven => number(source, "SELECT sum(size)::text FROM pg_catalog.pg_ls_waldir()").await?,
        Dialect::Six => number(source, LOG_OF_SIX).await?,
    };
    let need = data + data / 20 + 2 * log;
    let parent = work.volume.data().parent().unwrap_or(work.volume.data());
    let stat = nix::sys::statvfs::statvfs(parent).map_err(|e| RoomError::Unknown(e.to_string()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free < need { Err(RoomError::Short { need: need >> 20, free: free >> 20 }.into()) } else { Ok(()) }
}

async fn number(source: &SourceLock, sql: &str) -> Result<u64, Fault> {
    let text = source.text(sql).await?.unwrap_or_default();
    Ok(text.parse().map_err(|_| RoomError::Unknown(format!("'{text}' is no size")))?)
}
