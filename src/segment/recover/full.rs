//! Full: pg_basebackup beside the old directory, then a swap by rename. The old directory stays until
//! the supervisor has seen the new one in sync.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Work, configure, connections,
    disk::Disk,
    fault::{Classified, Fault, FileError},
    kept, layout,
    prove::Proven,
    room,
    source::{Began, SLOT, SourceLock},
    spaces,
    swap::{self, Space, remove_folder},
    tool,
};
use crate::volume::{Copy, Held, Volume, places, shape};
use greenplum::{Dialect, messages::Tool, tablespace::Tablespace};
use model::{FailureClass, Repair, Step, page::Shape};

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
    /// How the source knows the base backup, as long as it runs: so the next attempt knows whose walsenders are orphans.
    #[serde(flatten)]
    began: Began,
    /// Where tablespaces are copied to.
    #[serde(default)]
    tablespaces: Vec<PathBuf>,
}

/// Copies the source into a fresh directory and puts it into the old one's place.
pub async fn repair(work: &Work, source: &SourceLock, proven: &Proven, _lock: &Held) -> Result<String, Fault> {
    work.step(Step::Analysing).await;
    layout::allows_a_copy(work.volume.data(), proven.dialect)?;
    let spaces = spaces::of(work, source).await?;
    let predecessor: Option<Backup> = work.volume.read(BACKUP)?;
    forget_unfinished(work)?;
    for place in spaces.iter().flat_map(|space| space.places(work.attempt.target.dbid)) {
        remove(&Volume::discarded(&place))?; // it would take room until the swap
    }
    room::prove(work, source).await?;
    source.end_orphans(predecessor.as_ref().map(|backup| &backup.began)).await?;
    source.ready_slot().await?;
    source.checkpoint().await?; // with our patience: that of the base backup itself, which shows nothing meanwhile, is short then
    work.step(Step::Copying).await;
    let fresh = work.volume.beside_new();
    let to_swap = match made(work, source, proven, &fresh, &spaces).await {
        Ok(to_swap) => to_swap,
        Err(fault) => {
            // It is of no use to anybody, and may be what fills the volume on which the old directory is to start again.
            if let Err(left) = forget_unfinished(work) {
                tracing::warn!(class = left.class.as_str(), "what was copied could not be taken away");
            }
            return Err(fault);
        }
    };
    let mark = Copy { attempt: work.attempt.id.clone(), repair: Repair::Full, since: Timestamp::now() };
    let note = swap::swap(&work.volume, &mark, (&fresh, &to_swap), &kept::remembered(work, proven), || work.settle(proven))?;
    forget_unfinished(work)?; // the emptied folders of tablespaces
    work.volume.remove(BACKUP)?;
    Ok(note.to_owned())
}

/// A whole copy beside the old directory, on disk; what is to be swapped with it.
async fn made(work: &Work, source: &SourceLock, proven: &Proven, fresh: &Path, spaces: &[Tablespace]) -> Result<Vec<Space>, Fault> {
    let disk = Disk::open([work.volume.marks_folder().to_owned()])?; // it lies beside directory and tablespaces
    copy(work, source, fresh, spaces).await?;
    work.step(Step::Configuring).await;
    is_copy_of(work, fresh, proven)?;
    let to_swap = spaces::to_swap(work.volume.data(), fresh, spaces, work.attempt.target.dbid)?;
    configure::configure(work, fresh, source.dialect)?;
    layout::carry_log_folder(work.volume.data(), fresh, source.dialect)?;
    disk.sync()?;
    Ok(to_swap)
}

/// Runs the base backup, with a mark that tells what it leaves when it is cut off.
async fn copy(work: &Work, source: &SourceLock, fresh: &Path, spaces: &[Tablespace]) -> Result<(), Fault> {
    let tablespaces = spaces.iter().map(|space| space.fresh(work.attempt.target.dbid)).collect();
    let running = Backup { attempt: work.attempt.id.clone(), began: began(source).await?, tablespaces };
    for folder in &running.tablespaces {
        remove(folder)?; // of a predecessor whose mark is lost
    }
    work.volume.write(BACKUP, &running)?;
    let (arguments, options) = (arguments(work, source.dialect, fresh, spaces), source.tool_options());
    let environment = [("PGOPTIONS", options.as_str())];
    let running_tool = source.kept_while(tool::run(work, Tool::BaseBackup, &arguments, &environment));
    tokio::select! {
        done = running_tool => done.map(drop)?,
        never = note_connections(work, &running) => match never {},
    }
    source.back().await?; // of the run that was proven: nothing of another one takes the old directory's place
    Ok(work.volume.write(BACKUP, &Backup { began: Began::default(), ..running })?)
}

/// Writes down by which ports the source knows the base backup, as soon as it has opened its connections.
async fn note_connections(work: &Work, running: &Backup) -> Infallible {
    let mut noted = vec![];
    loop {
        tokio::time::sleep(Duration::from_millis(if noted.is_empty() { 100 } else { 2000 })).await;
        let ports = connections::ports();
        if ports.iter().all(|port| noted.contains(port)) {
            continue;
        }
        let began = Began { ports: ports.clone(), ..running.began.clone() };
        let (attempt, tablespaces) = (running.attempt.clone(), running.tablespaces.clone());
        match work.volume.write(BACKUP, &Backup { attempt, began, tablespaces }) {
            Ok(()) => noted = ports,
            Err(error) => tracing::warn!(%error, "the connections of the base backup could not be written down"),
        }
    }
}

/// What a copy that was cut off has left beside the directory and its tablespaces; whoever holds the lock may take it away.
pub fn forget_unfinished(work: &Work) -> Result<(), Fault> {
    remove(&work.volume.beside_new())?;
    remove(&Volume::discarded(work.volume.data()))?;
    let Some(backup) = work.volume.read::<Backup>(BACKUP)? else { return Ok(()) };
    backup.tablespaces.iter().try_for_each(|folder| remove(folder))
}

fn remove(folder: &Path) -> Result<(), Fault> {
    Ok(remove_folder(folder).map_err(FileError::at(folder))?)
}

/// The address under which the source knows us, and its time.
async fn began(source: &SourceLock) -> Result<Began, Fault> {
    let address = source.text("SELECT host(pg_catalog.inet_client_addr())").await?.unwrap_or_default();
    let now = source.text("SELECT floor(extract(epoch FROM pg_catalog.clock_timestamp()))::bigint::text").await?;
    Ok(Began { address, at: now.and_then(|now| now.parse().ok()), ports: vec![] })
}

/// As Greenplum's own tool calls it (docs/greenplum.md#pg_basebackup), but that we sync ourselves, and into folders that are new, so
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
    arguments.extend([dialect.no_sync_option(), dialect.no_verify_option()].into_iter().flatten().map(Into::into));
    for space in spaces {
        arguments.extend(["-T".into(), space.mapping(work.attempt.target.dbid)]);
    }
    if let Some(rate) = work.attempt.max_rate {
        // pg_basebackup takes 32 kB/s to 1 GB/s.
        arguments.extend(["--max-rate".into(), format!("{}k", (rate / 1024).clamp(32, 1024 * 1024))]);
    }
    arguments
}

/// Contents may share a system identifier: where a cluster was made of copies of one directory.
fn is_copy_of(work: &Work, fresh: &Path, proven: &Proven) -> Result<(), Fault> {
    let content = work.attempt.content;
    if let (_, Some(other)) = places::identity(fresh)
        && other != content
    {
        return Err(Unsound(format!("its settings say that it is of content {other}, not {content}")).into());
    }
    let copy = shape::look(fresh);
    let control = copy.control.ok_or(Unsound(copy.why))?;
    if control.system_identifier != proven.identified.system_identifier {
        return Err(Unsound(format!("its system identifier is {}", control.system_identifier)).into());
    }
    if copy.shape == Shape::Mirror { Ok(()) } else { Err(Unsound("it would start as a primary".into()).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_an_earlier_version_names_nobody() {
        let backup: Backup = serde_json::from_str(r#"{"attempt": "a", "address": "10.0.0.7"}"#).unwrap();
        assert_eq!(backup.began, Began { address: "10.0.0.7".into(), at: None, ports: vec![] });
    }
}
