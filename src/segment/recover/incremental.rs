//! Incremental: nothing when the target never diverged, else crash recovery, a dry run, pg_rewind.

use std::path::Path;

use jiff::Timestamp;

use super::{
    Done, Work, configure,
    disk::Disk,
    fault::{Classified, Fault, FileError, of_file_system},
    full,
    identify::identify,
    layout,
    prove::Proven,
    source::{SLOT, SourceLock},
    tool::{self, ToolError},
};
use crate::volume::{Copy, Held, mend, shape, spaces};
use greenplum::{
    Dialect,
    messages::Tool,
    wal::{self, Standing, Switch},
};
use model::{FailureClass, Lsn, Reach, Repair, Step, page::Shape};

/// An incremental repair cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IncrementalError {
    #[error("{0} began a copy of this directory and did not finish it")]
    CopyUnfinished(String),
    #[error("pg_rewind failed ({0}) after it had begun to write")]
    CutOff(String, String),
    #[error("the directory cannot be rewound: {0}")]
    Unusable(String),
    #[error("the directory or its marks cannot be looked at now: {0}")]
    NotSeen(String),
    #[error("the acting primary has no log any more from {0} on, which the target needs")]
    WalRemoved(Lsn),
    #[error(
        "the target's log ends at {end}, before the acting primary's history leaves its timeline at {fork}: pg_rewind goes back from there"
    )]
    EndsBefore { end: Lsn, fork: Lsn },
    #[error("data page checksums are {} at the acting primary and {} at the target", on(*.source_has), on(*.target_has))]
    Checksums { source_has: bool, target_has: bool },
    #[error("the directory that pg_rewind left cannot follow the acting primary: {0}")]
    Unsound(String),
    #[error("{0}: {1}")]
    File(String, std::io::Error),
}

impl Classified for IncrementalError {
    fn class(&self) -> FailureClass {
        match self {
            Self::CopyUnfinished(_) | Self::CutOff(..) => FailureClass::CopyUnfinished,
            Self::Unusable(_) => FailureClass::TargetUnusable,
            Self::NotSeen(_) => FailureClass::ToolKilled,
            Self::WalRemoved(_) => FailureClass::WalRemoved,
            Self::EndsBefore { .. } => FailureClass::CannotRewind,
            Self::Checksums { .. } => FailureClass::ChecksumsDiffer,
            Self::Unsound(_) => FailureClass::ResultUnsound,
            Self::File(_, source) => of_file_system(source),
        }
    }

    fn evidence(&self) -> String {
        match self {
            Self::CutOff(_, said) => said.clone(),
            Self::CopyUnfinished(_)
            | Self::Unusable(_)
            | Self::NotSeen(_)
            | Self::WalRemoved(_)
            | Self::EndsBefore { .. }
            | Self::Checksums { .. }
            | Self::Unsound(_)
            | Self::File(..) => String::new(),
        }
    }
}

/// Makes the target a mirror of the source again, copying only what differs.
pub async fn repair(work: &Work, source: &SourceLock, proven: &Proven, _lock: &Held) -> Result<Done, Fault> {
    work.step(Step::Analysing).await;
    fit(work, proven)?;
    has_its_spaces(work.volume.data())?;
    same_checksums(source, proven).await?;
    let follows = proven.is_mirror() && proven.standing() == Some(Standing::Follows);
    let allowed = if follows { layout::allows_settings } else { layout::allows_a_rewind };
    allowed(work.volume.data(), proven.dialect)?;
    source.ready_slot().await?; // afterwards a slot that is taken would end a rewind that is done
    full::forget_unfinished(work)?;
    source.checkpoint().await?;
    let disk = Disk::of(work.volume.data(), proven.dialect)?;
    let (note, changed) = if follows {
        wal_is_there(source, proven).await?;
        ("it never diverged: no rewind", false)
    } else {
        rewind(work, source, proven).await?
    };
    work.step(Step::Configuring).await;
    configure::configure(work, work.volume.data(), proven.dialect)?;
    // It has its marker again: the one put aside would make a mirror of what is promoted later.
    mend::marker(work.volume.data()).map_err(FileError::at(work.volume.data()))?;
    disk.sync()?;
    Disk::of(work.volume.data(), proven.dialect)?.sync()?; // of tablespaces that came with the rewind
    work.settle(proven)?;
    work.volume.remove("copy")?;
    Ok(Done { note: note.to_owned(), changed })
}

/// The directory is one that can be rewound, or started, at all.
fn fit(work: &Work, proven: &Proven) -> Result<(), IncrementalError> {
    let marks = work.volume.marks();
    if let Some(copy) = marks.copy {
        return Err(IncrementalError::CopyUnfinished(copy.attempt));
    }
    if let Some(why) = marks.unreadable {
        return Err(IncrementalError::CopyUnfinished(why)); // it stands
    }
    if let Some(why) = marks.unknown {
        return Err(IncrementalError::NotSeen(why));
    }
    if proven.original.is_some() {
        return Err(IncrementalError::Unusable(format!("a full copy has put it aside as {}", proven.directory.display())));
    }
    match proven.target.shape {
        Shape::Empty | Shape::Unusable => Err(IncrementalError::Unusable(proven.target.why.clone())),
        Shape::Unknown => Err(IncrementalError::NotSeen(proven.target.why.clone())),
        // Crash recovery would write onto the source's own timeline, and pg_rewind would find nothing to do.
        Shape::Primary if proven.target_end().is_some_and(|at| at.timeline == proven.identified.timeline) => {
            Err(IncrementalError::Unusable("it is shaped as a primary on the acting primary's own timeline".into()))
        }
        Shape::Primary | Shape::Mirror => Ok(()),
    }
}

/// pg_rewind cannot walk through a link that leads to nothing, and what it does not copy is not made anew.
fn has_its_spaces(data: &Path) -> Result<(), Fault> {
    match spaces::lost(data).map_err(FileError::at(data))?.first() {
        Some(lost) => Err(IncrementalError::Unusable(format!("the folder of tablespace {} is gone", lost.folder.display())).into()),
        None => Ok(()),
    }
}

/// pg_rewind does not compare them: it copies the source's control file, so that pages which it did not copy would be
/// verified, or not, by a setting under which they were not written. gprecoverseg refuses such segments (docs/greenplum.md#gprecoverseg).
async fn same_checksums(source: &SourceLock, proven: &Proven) -> Result<(), Fault> {
    let setting = source.text("SELECT pg_catalog.current_setting('data_checksums')").await?;
    let target = proven.target.control.as_ref().map(|control| control.checksums);
    Ok(compare(setting.as_deref(), target)?)
}

fn compare(source: Option<&str>, target: Option<u32>) -> Result<(), IncrementalError> {
    let (source_has, target_has) = (source == Some("on"), target.is_some_and(|version| version != 0));
    if source_has == target_has { Ok(()) } else { Err(IncrementalError::Checksums { source_has, target_has }) }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

/// The log that the target will ask for is still on the source.
async fn wal_is_there(source: &SourceLock, proven: &Proven) -> Result<(), Fault> {
    let (Some(Reach { end, .. }), Some(wal_end)) = (proven.target_end(), proven.wal_end) else { return Ok(()) };
    let suffix = wal::segment_suffix(end, wal_end.segment_size);
    let folder = proven.dialect.wal_folder();
    let sql = format!("SELECT name FROM pg_catalog.pg_ls_dir('{folder}') AS name WHERE name LIKE '________{suffix}' LIMIT 1");
    if source.text(&sql).await?.is_some() { Ok(()) } else { Err(IncrementalError::WalRemoved(end).into()) }
}

async fn rewind(work: &Work, source: &SourceLock, proven: &Proven) -> Result<(&'static str, bool), Fault> {
    reaches_the_fork(proven.target_end(), &proven.history)?;
    let data = work.volume.data();
    // A mirror that diverged (docs/greenplum.md#pg_rewind): with the marker there, single-user recovery and pg_rewind refuse.
    put_marker_aside(data, proven.dialect)?;
    remove(&data.join("postmaster.pid"))?;
    source.kept_while(recover_from_crash(work, proven)).await?;
    let options = format!("{} {}", proven.dialect.utility_option(), source.tool_options());
    let utility = [("PGOPTIONS", options.as_str())];
    source.kept_while(tool::run(work, Tool::Rewind, &arguments(work, DRY), &utility)).await?;
    work.step(Step::Copying).await;
    source.back().await?; // of the run that was proven, right before the first byte
    work.volume.write("copy", &Copy { attempt: work.attempt.id.clone(), repair: Repair::Incremental, since: Timestamp::now() })?;
    let wet: Vec<_> = WET.iter().copied().chain(proven.dialect.no_sync_option()).collect();
    let rewinding = async { tool::run(work, Tool::Rewind, &arguments(work, &wet), &utility).await.map_err(after_the_first_byte) };
    let said = source.kept_while(rewinding).await?;
    sound(work, source, proven).await?;
    let nothing = said.iter().any(|line| line.contains("no rewind required"));
    Ok(if nothing { ("no rewind required", false) } else { ("rewound", true) })
}

/// Whoever takes the lock next puts it back: an attempt that ends before the rewind must not leave a mirror that is taken for a primary.
/// pg_rewind removes it, as any file that its source has not got.
fn put_marker_aside(data: &Path, dialect: Dialect) -> Result<(), Fault> {
    let marker = data.join(dialect.mirror_marker());
    match std::fs::rename(&marker, mend::marker_aside(data, dialect)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| IncrementalError::File(marker.display().to_string(), error).into()),
    }
}

/// A primary that was put back on an older copy may end before the fork. pg_rewind finds no checkpoint to go back from then
/// ("could not find previous WAL record"), and what crash recovery writes before it is asked would make a log that is part
/// of the source's into one that is not, so that a full copy is refused, too (seen on Greenplum 6.24.3).
fn reaches_the_fork(target: Option<Reach>, history: &[Switch]) -> Result<(), IncrementalError> {
    let Some(Reach { timeline, end }) = target else { return Ok(()) }; // pg_rewind says what is missing
    match wal::fork(history, timeline) {
        Some(fork) if end < fork => Err(IncrementalError::EndsBefore { end, fork }),
        Some(_) | None => Ok(()),
    }
}

/// pg_rewind wants a cleanly stopped target, and its dry run cannot make one (docs/greenplum.md#pg_rewind).
async fn recover_from_crash(work: &Work, proven: &Proven) -> Result<(), Fault> {
    if proven.target.control.as_ref().is_some_and(|control| control.state == "shut down") {
        return Ok(());
    }
    mend::mode(work.volume.data(), Some(proven.dialect));
    tool::run(work, Tool::Postgres, &alone(work.volume.data(), proven.dialect), &[]).await?;
    Ok(())
}

fn alone(data: &Path, dialect: Dialect) -> Vec<String> {
    let data = data.to_string_lossy();
    ["--single", "-D", &data].into_iter().chain(dialect.single_user_arguments()).chain(["template1"]).map(str::to_owned).collect()
}

/// Once the first byte is written, a failure that nobody knows has left a directory that only a full copy makes whole. What
/// is known is answered by its own class; the copy's mark stands in any case.
fn after_the_first_byte(error: ToolError) -> Fault {
    let unknown = error.class == FailureClass::Unclassified;
    if unknown { IncrementalError::CutOff(error.how, error.said).into() } else { error.into() }
}

/// What a dry run is called with: nothing that writes. Greenplum 6 writes its settings in a dry run too, and a stale
/// primary with a mirror's settings would start as a mirror before it is rewound.
const DRY: &[&str] = &["--dry-run"];
const WET: &[&str] = &["--write-recovery-conf", "--slot", SLOT, "--progress"];

fn arguments(work: &Work, more: &[&str]) -> Vec<String> {
    let source = &work.attempt.source;
    // The name by which Greenplum's own tools know that a rewind is running (docs/greenplum.md#pg_rewind).
    let server = format!(
        "host={} port={} user={} dbname=template1 application_name=__gprecoverseg_pg_rewind__",
        source.address, source.port, work.login.user
    );
    let ends = [format!("--source-server={server}"), format!("--target-pgdata={}", work.volume.data().display())];
    more.iter().map(|word| (*word).to_owned()).chain(ends).collect()
}

/// What pg_rewind left follows the source. That it exits with 0 is not enough (docs/greenplum.md#pg_rewind). It has the source's log up
/// to its end, of which the last records may not be flushed there yet. A source that is away for a moment is waited for: the mark of a
/// copy stands, and a failure here would have the next attempt copy everything.
async fn sound(work: &Work, source: &SourceLock, proven: &Proven) -> Result<(), Fault> {
    let inserted = source.inserted().await?;
    let identified = identify(work).await?;
    let left = shape::look(work.volume.data());
    let control = left.control.ok_or(IncrementalError::Unsound(left.why))?;
    let end = control.min_recovery.max(control.checkpoint);
    match wal::standing(control.newest_timeline(), end, identified.timeline, identified.at.max(inserted), &proven.history) {
        Standing::Follows => Ok(()),
        Standing::Diverged => {
            Err(IncrementalError::Unsound(format!("it has diverged, at {end} on timeline {}", control.newest_timeline())).into())
        }
        Standing::Ahead => {
            Err(IncrementalError::Unsound(format!("it is ahead, at {end} on timeline {}", control.newest_timeline())).into())
        }
    }
}

fn remove(file: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IncrementalError::File(file.display().to_string(), error).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timeline;

    #[test]
    fn an_unknown_end_of_a_rewind_that_had_begun_leads_to_a_full_copy() {
        let ended = |class| {
            let said = "a sentence that nobody has ever seen".to_owned();
            after_the_first_byte(ToolError { tool: "pg_rewind", how: "1".into(), said, class })
        };
        assert_eq!(ended(FailureClass::Unclassified).class, FailureClass::CopyUnfinished);
        let shown = ended(FailureClass::Unclassified).at(Step::Copying);
        assert!(shown.evidence.contains("nobody has ever seen"), "{shown:?}");
        for class in [FailureClass::Environment, FailureClass::NoRoom, FailureClass::ConnectionLost] {
            assert_eq!(ended(class).class, class);
        }
    }

    /// A setting of another language would win over the environment, and then nobody knew why it ended.
    #[test]
    fn a_server_that_runs_alone_speaks_english_whatever_is_set() {
        for dialect in [Dialect::Six, Dialect::Seven] {
            let arguments = alone(Path::new("/data/gpseg0"), dialect).join(" ");
            assert!(arguments.contains("-D /data/gpseg0 ") && arguments.ends_with(" -c lc_messages=C template1"), "{arguments}");
        }
    }

    #[test]
    fn a_log_that_ends_before_the_fork_is_not_recovered_from_its_crash() {
        let history = wal::history(b"1\t0/500\tx\n2\t0/900\tx\n").unwrap();
        let looked = |timeline, end| reaches_the_fork(Some(Reach { timeline: Timeline(timeline), end: Lsn(end) }), &history);
        assert_eq!(looked(2, 0x8FF).unwrap_err().class(), FailureClass::CannotRewind);
        assert_eq!(looked(1, 0x4FF).unwrap_err().class(), FailureClass::CannotRewind, "of an older timeline's fork");
        assert!(looked(2, 0x900).is_ok(), "the mirror had all of it: crash recovery writes the first record that differs");
        assert!(looked(2, 0x901).is_ok() && looked(3, 0x100).is_ok());
        assert!(reaches_the_fork(None, &history).is_ok());
    }

    #[test]
    fn checksums_have_to_be_alike_on_both_sides() {
        assert!(compare(Some("on"), Some(1)).is_ok() && compare(Some("off"), Some(0)).is_ok());
        let differ = compare(Some("on"), Some(0)).unwrap_err();
        assert_eq!(differ.class(), FailureClass::ChecksumsDiffer);
        assert_eq!(differ.to_string(), "data page checksums are on at the acting primary and off at the target");
        assert!(compare(Some("off"), Some(1)).is_err());
    }
}
