//! Full: pg_basebackup beside the old directory, then a swap by rename. The old directory stays until
//! the supervisor has seen the new one in sync.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Work, configure,
    disk::Disk,
    fault::{Classified, Fault, FileError},
    prove::Proven,
    room,
    source::{SLOT, SourceLock},
    spaces,
    swap::{self, remove_folder},
    tool,
};
use crate::{
    greenplum::{Dialect, tablespace::Tablespace},
    model::{FailureClass, Repair, Step, page::Shape},
    volume::{Copy, Held, shape},
};

/// Name of the mark of a base backup.
const BACKUP: &str = "backup.json";

/// What was copied is no mirror of the source.
#[derive(Debug, thiserror::Error)]
#[error("the copy is not a mirror of this source: {0}")]
pub struct Unsound(String);

impl Classified for Unsound {
    fn class(&self) -> FailureClass {
        FailureClass::ResultUnsound
    }
}

/// Left on the volume from the begin of a base backup to the end of the swap.
#[derive(Serialize, Deserialize)]
struct Backup {
    attempt: String,
    /// The address under which the source knows the base backup, as long as it runs: so the next attempt knows whose
    /// walsenders are orphans.
    address: String,
    /// Where tablespaces are copied to.
    #[serde(default)]
    tablespaces: Vec<PathBuf>,
}

/// Copies the source into a fresh directory and puts it into the old one's place.
pub async fn repair(work: &Work, source: &SourceLock, proven: &Proven, _lock: &Held) -> Result<String, Fault> {
    work.step(Step::Analysing).await;
    let spaces = spaces::of(work, source).await?;
    let predecessor: Option<Backup> = work.volume.read(BACKUP)?;
    forget_unfinished(work)?;
    room::prove(work, source).await?;
    source.end_orphans(predecessor.as_ref().map(|backup| backup.address.as_str())).await?;
    source.ready_slot().await?;
    work.step(Step::Copying).await;
    let fresh = work.volume.beside_new();
    let disk = Disk::open([work.volume.marks_folder().to_owned()])?; // it lies beside directory and tablespaces
    copy(work, source, &fresh, &spaces).await?;
    work.step(Step::Configuring).await;
    is_copy_of(&fresh, proven)?;
    let to_swap = spaces::to_swap(work.volume.data(), &fresh, &spaces, work.attempt.target.dbid)?;
    configure::configure(work, &fresh, source.session.dialect)?;
    disk.sync()?;
    let mark = Copy { attempt: work.attempt.id.clone(), repair: Repair::Full, since: Timestamp::now() };
    let note = swap::swap(&work.volume, &mark, &fresh, &to_swap)?;
    forget_unfinished(work)?; // the emptied folders of tablespaces
    work.volume.remove(BACKUP)?;
    Ok(note.to_owned())
}

/// Runs the base backup, with a mark that tells what it leaves when it is cut off.
async fn copy(work: &Work, source: &SourceLock, fresh: &Path, spaces: &[Tablespace]) -> Result<(), Fault> {
    let tablespaces = spaces.iter().map(|space| space.fresh(work.attempt.target.dbid)).collect();
    let running = Backup { attempt: work.attempt.id.clone(), address: own_address(source).await?, tablespaces };
    for folder in &running.tablespaces {
        remove(folder)?; // of a predecessor whose mark is lost
    }
    work.volume.write(BACKUP, &running)?;
    tool::run(work, "pg_basebackup", &arguments(work, source.session.dialect, fresh, spaces), &[]).await?;
    Ok(work.volume.write(BACKUP, &Backup { address: String::new(), ..running })?)
}

/// What a copy that was cut off has left beside the directory and its tablespaces; whoever holds the lock may take it away.
pub fn forget_unfinished(work: &Work) -> Result<(), Fault> {
    remove(&work.volume.beside_new())?;
    let Some(backup) = work.volume.read::<Backup>(BACKUP)? else { return Ok(()) };
    backup.tablespaces.iter().try_for_each(|folder| remove(folder))
}

fn remove(folder: &Path) -> Result<(), Fault> {
    Ok(remove_folder(folder).map_err(FileError::at(folder))?)
}

/// The address under which the source knows us.
async fn own_address(source: &SourceLock) -> Result<String, Fault> {
    Ok(source.text("SELECT host(pg_catalog.inet_client_addr())").await?.unwrap_or_default())
}

/// As Greenplum's own tool calls it (reference §3.6), but that we sync ourselves, and into folders that are new, so
/// nothing has to be overwritten: what is no part of the mapping yet and lies in the way ends the copy.
fn arguments(work: &Work, dialect: Dialect, fresh: &Path, spaces: &[Tablespace]) -> Vec<String> {
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
    arguments.extend(dialect.no_sync_option().map(Into::into));
    for space in spaces {
        arguments.extend(["-T".into(), space.mapping(work.attempt.target.dbid)]);
    }
    if let Some(rate) = work.attempt.max_rate {
        // pg_basebackup takes 32 kB/s to 1 GB/s.
        arguments.extend(["--max-rate".into(), format!("{}k", (rate / 1024).clamp(32, 1024 * 1024))]);
    }
    arguments
}

fn is_copy_of(fresh: &Path, proven: &Proven) -> Result<(), Fault> {
    let copy = shape::look(fresh);
    let control = copy.control.ok_or(Unsound(copy.why))?;
    if control.system_identifier != proven.identified.system_identifier {
        return Err(Unsound(format!("its system identifier is {}", control.system_identifier)).into());
    }
    if copy.shape == Shape::Mirror { Ok(()) } else { Err(Unsound("it would start as a primary".into()).into()) }
}
