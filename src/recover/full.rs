//! Full: pg_basebackup beside the old directory, then a swap by rename. The old directory stays until
//! the supervisor has seen the new one in sync.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Work, configure,
    fault::{Classified, Fault},
    prove::Proven,
    room,
    source::{SLOT, SourceLock},
    tool,
};
use crate::{
    greenplum::Dialect,
    model::{FailureClass, Repair, Step, page::Shape},
    volume::{Copy, Held, Old, marks::sync_folder_of, shape},
};

/// A full copy can not go on.
#[derive(Debug, thiserror::Error)]
pub enum FullError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the copy is not a mirror of this source: {0}")]
    Unsound(String),
    #[error("the source has tablespaces of its own ({0}), which a full copy beside the old directory does not carry; use gprecoverseg -F")]
    Tablespaces(String),
}

impl Classified for FullError {
    fn class(&self) -> FailureClass {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => FailureClass::NoRoom,
            Self::File { .. } | Self::Tablespaces(_) => FailureClass::Unclassified,
            Self::Unsound(_) => FailureClass::ResultUnsound,
        }
    }
}

/// Left on the volume while a base backup runs, so that the next attempt knows whose walsenders are orphans.
#[derive(Serialize, Deserialize)]
struct Backup {
    attempt: String,
    address: String,
}

/// Copies the source into a fresh directory and puts it into the old one's place.
pub async fn repair(work: &Work, source: &SourceLock, proven: &Proven, _lock: &Held) -> Result<String, Fault> {
    work.step(Step::Analysing).await;
    forget_unfinished(work)?;
    let fresh = work.volume.beside_new();
    no_tablespaces(source).await?;
    room::prove(work, source).await?;
    let predecessor: Option<Backup> = work.volume.read("backup.json")?;
    source.end_orphans(predecessor.as_ref().map(|backup| backup.address.as_str())).await?;
    source.ready_slot().await?;
    work.step(Step::Copying).await;
    work.volume.write("backup.json", &Backup { attempt: work.attempt.id.clone(), address: own_address(source).await? })?;
    let dialect = source.session.dialect;
    tool::run(work, "pg_basebackup", &arguments(work, dialect, &fresh), &[]).await?;
    work.volume.remove("backup.json")?;
    work.step(Step::Configuring).await;
    is_copy_of(&fresh, proven)?;
    configure::configure(work, &fresh, dialect)?;
    swap(work, &fresh)
}

/// What a copy that was cut off has left beside the directory; whoever holds the lock may take it away.
pub fn forget_unfinished(work: &Work) -> Result<(), Fault> {
    remove_folder(&work.volume.beside_new())
}

/// The address under which the source knows us.
async fn own_address(source: &SourceLock) -> Result<String, Fault> {
    Ok(source.text("SELECT host(pg_catalog.inet_client_addr())").await?.unwrap_or_default())
}

async fn no_tablespaces(source: &SourceLock) -> Result<(), Fault> {
    let sql = "SELECT string_agg(spcname, ', ') FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
    match source.text(sql).await? {
        Some(names) => Err(FullError::Tablespaces(names).into()),
        None => Ok(()),
    }
}

/// As Greenplum's own tool calls it (reference §3.6), into a folder that is new.
fn arguments(work: &Work, dialect: Dialect, fresh: &Path) -> Vec<String> {
    let source = &work.attempt.source;
    let mut arguments: Vec<String> = [
        "-c",
        "fast",
        "-D",
        &fresh.to_string_lossy(),
        "-h",
        &source.address,
        "-p",
        &source.port.to_string(),
        "-U",
        &work.login.user,
        "-w",
        "--slot",
        SLOT,
        dialect.wal_method_option(),
        "stream",
        "--force-overwrite",
        "--write-recovery-conf",
        "--target-gp-dbid",
        &work.attempt.target.dbid.to_string(),
        "-E",
        "./db_dumps",
        "-E",
        "./promote",
        "--progress",
        "--verbose",
    ]
    .map(Into::into)
    .into();
    if let Some(rate) = work.attempt.max_rate {
        // pg_basebackup takes 32 kB/s to 1 GB/s.
        arguments.extend(["--max-rate".into(), format!("{}k", (rate / 1024).clamp(32, 1024 * 1024))]);
    }
    arguments
}

fn is_copy_of(fresh: &Path, proven: &Proven) -> Result<(), Fault> {
    let copy = shape::look(fresh);
    let control = copy.control.ok_or(FullError::Unsound(copy.why))?;
    if control.system_identifier != proven.identified.system_identifier {
        return Err(FullError::Unsound(format!("its system identifier is {}", control.system_identifier)).into());
    }
    if copy.shape == Shape::Mirror { Ok(()) } else { Err(FullError::Unsound("it would start as a primary".into()).into()) }
}

/// Old aside, new in place. The copy mark stands only while neither is where it should be.
fn swap(work: &Work, fresh: &Path) -> Result<String, Fault> {
    let (data, old) = (work.volume.data(), work.volume.beside_old());
    work.volume.write("copy", &Copy { attempt: work.attempt.id.clone(), repair: Repair::Full, since: Timestamp::now() })?;
    let note = if !data.exists() {
        "there was no old directory"
    } else if std::fs::remove_dir(data).is_ok() {
        "the old directory was empty" // and only an empty one can be removed so
    } else if original_waits(work)? {
        remove_folder(data)?;
        "what was there held nothing that was ever proven"
    } else {
        remove_folder(&old)?; // without its mark it is what a removal has left over
        work.volume.write("old", &Old { attempt: work.attempt.id.clone(), directory: old.clone(), tablespaces: vec![] })?;
        rename(data, &old)?;
        "the old directory is kept until the new one is in sync"
    };
    rename(fresh, data)?;
    sync_folder_of(data).map_err(|source| FullError::File { path: data.to_owned(), source })?;
    work.volume.remove("copy")?;
    Ok(note.to_owned())
}

/// An original is kept from an earlier copy that was never proven; what stands in its place is that copy.
fn original_waits(work: &Work) -> Result<bool, Fault> {
    Ok(work.volume.read::<Old>("old")?.is_some_and(|old| old.directory.exists()))
}

fn rename(from: &Path, to: &Path) -> Result<(), Fault> {
    Ok(std::fs::rename(from, to).map_err(|source| FullError::File { path: from.to_owned(), source })?)
}

fn remove_folder(folder: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FullError::File { path: folder.to_owned(), source }.into()),
        _ => Ok(()),
    }
}
