//! Whether the target's log is part of the source's, by its bytes.
//!
//! A position says how far a log goes and not which one it is: a primary that was put back on an older copy of itself has
//! written past its mirror's end within a second. So before anything is overwritten the last bytes of the target's log are
//! held against the same ones of the source, up to where the source left the target's timeline: what an ex-primary wrote
//! after that is what a repair is for. Where those bytes are gone, only the incarnations show it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    Work,
    fault::{Classified, Fault, FileError},
    kept,
    prove::Proven,
    source::SourceLock,
};
use crate::volume::{
    commits::{Alone, is_marked_as_mirror, may_be_a_primarys, served_alone},
    marks::MarkError,
};
use greenplum::wal::{self, Switch, WalEnd};
use model::{Attempt, FailureClass, Incarnation, Lineage, Lsn, Reach, Timeline, incarnation::lineage};

/// So many of the last bytes are compared, as far as both sides have them. Two servers that were given the same statements
/// after one copy write the same bytes but for the times in commits and checkpoints, so the last pages alone say little.
const COMPARED: u64 = 32 << 20;
/// As many are asked for at once.
const AT_ONCE: u64 = 1 << 20;

/// The target is not known to be of the source's history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(
        "the target's log ends at {target} on timeline {timeline} and is not part of the acting primary's, which is at {source_at} on \
         timeline {source_timeline}: {why}. One of them was put back on an older copy, and each holds what the other lacks"
    )]
    Differs { target: Lsn, timeline: Timeline, source_at: Lsn, source_timeline: Timeline, why: String },
    #[error("nothing shows that the target's log, which ends at {target} on timeline {timeline}, is part of the acting primary's: {why}")]
    Unknown { target: Lsn, timeline: Timeline, why: String },
    #[error(
        "the target was a primary whose commits waited for no mirror (synchronous_standby_names in its postgresql.auto.conf is empty), and \
         another one was promoted all the same: what it acknowledged then is nowhere else"
    )]
    Alone,
    #[error(
        "what was acknowledged reaches up to {confirmed} on timeline {timeline}, by what the acting primary had confirmed as a mirror or by what \
         the target acknowledged without one, and the mirror was promoted at {fork}: it was put back on an older copy of itself, or had not \
         flushed yet what it was sent. What was acknowledged beyond is on the target alone"
    )]
    Behind { confirmed: Lsn, timeline: Timeline, fork: Lsn },
}

impl Classified for HistoryError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Differs { .. } => FailureClass::HistoryDiffers,
            Self::Unknown { .. } => FailureClass::HistoryUnknown,
            Self::Alone => FailureClass::ServedAlone,
            Self::Behind { .. } => FailureClass::PromotedBehind,
        }
    }
}

/// The log of a source, as far as it is still there.
pub trait SourceLog {
    /// Names of the segment files that end so.
    async fn ending_with(&self, suffix: &str) -> Result<Vec<String>, Fault>;
    /// So many bytes of one; `None`: it has not got them any more.
    async fn bytes(&self, name: &str, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Fault>;
}

impl SourceLog for SourceLock {
    async fn ending_with(&self, suffix: &str) -> Result<Vec<String>, Fault> {
        self.log_names(suffix).await
    }

    async fn bytes(&self, name: &str, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Fault> {
        self.log_bytes(name, offset, length).await
    }
}

/// What bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    Same,
    Differ(String),
    /// There is nothing to compare any more.
    Gone(String),
}

/// The end of a target's log, and how the source goes on from its timeline.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    pub folder: &'a Path,
    pub target: WalEnd,
    pub source: Timeline,
    pub history: &'a [Switch],
}

/// What the target holds up to the source's fork the source holds too, or a person has said that it need not.
pub async fn prove(work: &Work, source: &impl SourceLog, proven: &Proven) -> Result<(), Fault> {
    let Some(Reach { timeline, end: target }) = proven.target_end() else { return Ok(()) }; // neither control file nor log
    let folder = proven.directory.join(proven.dialect.wal_folder());
    let ends = |target| Ends { folder: &folder, target, source: proven.identified.timeline, history: &proven.history };
    let said = match proven.wal_end {
        Some(end) => compare(source, ends(end)).await?,
        None => Bytes::Gone("the target has a control file and no log".into()),
    };
    let beyond = beyond_fork(work, proven, (timeline, target)).map_err(FileError::at(&folder))?;
    let why = match judge(work, proven, said, (timeline, target)).and(beyond) {
        Lineage::Same => return Ok(()),
        Lineage::Differs(why) => {
            let (source_at, source_timeline) = (proven.identified.at, proven.identified.timeline);
            return Err(HistoryError::Differs { target, timeline, source_at, source_timeline, why }.into());
        }
        Lineage::Unknown(why) => why,
    };
    if excused(work, proven) {
        tracing::warn!(why, "the target's history is not known; it is no obstacle to this attempt");
        return Ok(());
    }
    Err(HistoryError::Unknown { target, timeline, why }.into())
}

/// A primary whose mirror is down acknowledges what no other copy holds, and FTS promotes no mirror over that unless it goes by an
/// older catalog. The bytes past the fork, where an ex-primary's own begin, are then no remains but the only copy.
pub fn not_alone(work: &Work, proven: &Proven) -> Result<(), Fault> {
    let data = &proven.directory;
    match (served_alone(data, proven.target.shape).map_err(FileError::at(data))?, excused(work, proven)) {
        (false, _) => Ok(()),
        (true, true) => {
            tracing::warn!("the target's commits waited for no mirror; it is no obstacle to this attempt");
            Ok(())
        }
        (true, false) => Err(HistoryError::Alone.into()),
    }
}

/// What lies past the fork are an ex-primary's remains as long as its mirror had it all when it was promoted. A commit is acknowledged
/// when the mirror has confirmed it, so one that forks below a whole record of a transaction that it had confirmed has lost
/// acknowledged commits. What a server writes by itself, say a checkpoint, acknowledges nothing.
pub fn not_behind(work: &Work, proven: &Proven) -> Result<(), Fault> {
    let Some(Reach { timeline, end: target }) = proven.target_end() else { return Ok(()) }; // neither control file nor log
    let acknowledged = acknowledged(work, proven, Reach { timeline, end: target })?;
    let behind = match acknowledged {
        Ok(None) => return Ok(()),
        Ok(Some(acknowledged)) => {
            let folder = proven.directory.join(proven.dialect.wal_folder());
            promoted_behind(&folder, (timeline, proven.wal_end), acknowledged, &proven.history).map_err(FileError::at(&folder))?
        }
        Err(error) => Some(HistoryError::Unknown { target, timeline, why: format!("what it had acknowledged: {error}") }),
    };
    match behind {
        None => Ok(()),
        Some(behind) if excused(work, proven) => {
            tracing::warn!(%behind, "it is no obstacle to this attempt");
            Ok(())
        }
        Some(behind) => Err(behind.into()),
    }
}

/// Up to where a commit may have been acknowledged. One that served alone, and whose mirror was not seen to have confirmed all of
/// that since, may have acknowledged all that it has.
fn acknowledged(work: &Work, proven: &Proven, all: Reach) -> Result<Result<Option<Reach>, MarkError>, Fault> {
    let data = &proven.directory;
    if !may_be_a_primarys(data, proven.target.shape).map_err(FileError::at(data))? {
        return Ok(work.volume.confirmed());
    }
    let known = work.volume.alone().and_then(|alone| Ok((alone, work.volume.confirmed()?)));
    Ok(known.map(|(alone, confirmed)| reaches(alone, confirmed, all)))
}

/// The further of what was acknowledged alone and what a mirror has confirmed, of one whose log holds so much.
fn reaches(alone: Alone, confirmed: Option<Reach>, all: Reach) -> Option<Reach> {
    match alone {
        Alone::Nothing => confirmed,
        Alone::Before(before) if before.timeline == all.timeline => {
            confirmed.filter(|confirmed| confirmed.timeline == before.timeline && confirmed.end > before.end).or(Some(before))
        }
        Alone::Before(_) | Alone::Anything => Some(all),
    }
}

/// `target`: its newest timeline, and the end of its log, if it has one. What its log has at the fork and cannot be read, or is not
/// there any more, may have been confirmed.
fn promoted_behind(
    folder: &Path,
    target: (Timeline, Option<WalEnd>),
    confirmed: Reach,
    history: &[Switch],
) -> io::Result<Option<HistoryError>> {
    let (Reach { timeline, end: confirmed }, (newest, log)) = (confirmed, target);
    let Some(fork) = wal::fork(history, timeline).filter(|fork| timeline == newest && *fork < confirmed) else { return Ok(None) };
    // A mirror confirms bytes, and is promoted at the end of a record: of the last one it may have had a part.
    let lost = match log {
        Some(end) => wal::holds_transactions(folder, end, fork, confirmed)?,
        None => true,
    };
    Ok(lost.then_some(HistoryError::Behind { confirmed, timeline, fork }))
}

/// A person waives it by name; or an attempt that proved it has begun to overwrite the directory, and was cut off. What that has put
/// aside is as it was, and the source may be another one by now.
fn excused(work: &Work, proven: &Proven) -> bool {
    work.attempt.waives_history || proven.original.is_none() && work.volume.marks().copy.is_some()
}

fn judge(work: &Work, proven: &Proven, said: Bytes, end: (Timeline, Lsn)) -> Lineage {
    match said {
        Bytes::Same => Lineage::Same,
        Bytes::Differ(why) => Lineage::Differs(why),
        Bytes::Gone(gone) => {
            let remembered = proven.original.as_ref().map(|original| &original.remembered);
            if let Some(known) = remembered.and_then(|remembered| kept::by_memory(work, proven, remembered)) {
                return known.because(&gone);
            }
            let own = match proven.own(&work.volume) {
                Ok(own) => own,
                Err(error) => return Lineage::Unknown(format!("{gone}; {error}")),
            };
            let fork = wal::fork(&proven.history, end.0);
            let source = (source_incarnations(&work.attempt, proven.identified.timeline), work.attempt.source_followed.as_slice());
            by_incarnations(source, &proven.token.followed, &own, end, fork).because(&gone)
        }
    }
}

/// What a target has past the fork are the remains of what it wrote itself as the primary of that timeline. One that was a mirror there
/// had it from its primary, acknowledged: the source was put back on an older copy, and promoted.
fn beyond_fork(work: &Work, proven: &Proven, (timeline, end): (Timeline, Lsn)) -> io::Result<Lineage> {
    let last_byte = proven.wal_end.filter(|log| log.timeline == timeline).map_or(end, |log| log.last_byte);
    let Some(fork) = wal::fork(&proven.history, timeline).filter(|fork| last_byte > *fork) else { return Ok(Lineage::Same) };
    let own = match proven.own(&work.volume) {
        Ok(own) => own,
        Err(error) => return Ok(Lineage::Unknown(error.to_string())),
    };
    let source = source_incarnations(&work.attempt, proven.identified.timeline);
    let mirror = proven.is_mirror() || is_marked_as_mirror(&proven.directory)?;
    Ok(written_beyond(&own, (&proven.token.followed, source), Reach { timeline, end }, mirror.then_some(fork)))
}

/// `mirrors`: the fork, of a directory that was a mirror's when it was last written.
fn written_beyond(
    own: &[Incarnation],
    (followed, source): (&[Incarnation], &[Incarnation]),
    reach: Reach,
    mirrors: Option<Lsn>,
) -> Lineage {
    if own.last().is_some_and(|last| last.timeline == reach.timeline) {
        return Lineage::Same;
    }
    match mirrors {
        _ if !followed.is_empty() => lineage(followed, source, Some(reach)),
        Some(fork) => Lineage::Unknown(format!(
            "it is a mirror's and reaches beyond {fork}, where the acting primary left that timeline, and what it followed is not known"
        )),
        None => Lineage::Same,
    }
}

/// Those that the source's supervisor showed, where they are of what serves now: of this run, and of its timeline, as it may have been
/// promoted since. A page that names no run shows nothing of this one.
pub fn source_incarnations(attempt: &Attempt, serves: Timeline) -> &[Incarnation] {
    let all = attempt.source_incarnations.as_slice();
    let of_now = attempt.source_postmaster.is_some() && all.last().is_some_and(|last| last.timeline == serves);
    if of_now { all } else { &[] }
}

/// A target that was the primary of its timeline followed nobody on it: there the source, as it was promoted at the fork,
/// is the copy that followed the target. Of the source: its incarnations, and those that it followed.
pub fn by_incarnations(
    (source, source_followed): (&[Incarnation], &[Incarnation]),
    followed: &[Incarnation],
    own: &[Incarnation],
    (timeline, end): (Timeline, Lsn),
    fork: Option<Lsn>,
) -> Lineage {
    let was_primary = own.last().is_some_and(|last| last.timeline == timeline);
    let at = |end| Some(Reach { timeline, end });
    match fork {
        Some(fork) if was_primary => lineage(source_followed, own, at(fork)),
        Some(fork) => lineage(followed, source, at(end.min(fork))),
        None => lineage(followed, source, at(end)),
    }
}

pub async fn compare(source: &impl SourceLog, ends: Ends<'_>) -> Result<Bytes, Fault> {
    let (timeline, last_byte) = (ends.target.timeline, ends.target.last_byte);
    let fork = wal::fork(ends.history, timeline);
    let upto = match fork {
        _ if timeline == ends.source => last_byte,
        Some(fork) => last_byte.min(fork),
        None => return Ok(Bytes::Differ(format!("timeline {timeline} is no part of its history"))),
    };
    let mut found = Bytes::Gone("the target's log has no record".into());
    for (number, (from, length)) in ranges(upto, u64::from(ends.target.segment_size)).into_iter().enumerate() {
        let said = range(source, ends, from, length).await?;
        found = match (said, found) {
            // The last bytes decide: what went before says nothing without them.
            (said, _) if number == 0 => said,
            (_, gone @ Bytes::Gone(_)) => return Ok(gone),
            // Where they begin to differ lies after what is the same, or is gone.
            (Bytes::Same | Bytes::Gone(_), differ @ Bytes::Differ(_)) => return Ok(differ),
            (Bytes::Gone(_), Bytes::Same) => return Ok(Bytes::Same),
            (said @ Bytes::Differ(_), Bytes::Same | Bytes::Differ(_)) | (said @ Bytes::Same, Bytes::Same) => said,
        };
    }
    Ok(found)
}

/// Start and length of what is compared up to `upto`, the last first, none over the start of a segment.
fn ranges(upto: Lsn, segment: u64) -> Vec<(u64, u64)> {
    let (mut ranges, mut end) = (vec![], upto.0);
    let first = upto.0.saturating_sub(COMPARED);
    while end > first && segment > 0 {
        let start = (end - 1) - (end - 1) % segment;
        let from = start.max(first).max(end.saturating_sub(AT_ONCE));
        ranges.push((from, end - from));
        end = from;
    }
    ranges
}

/// Bytes of one segment, on both sides.
async fn range(source: &impl SourceLog, ends: Ends<'_>, from: u64, length: u64) -> Result<Bytes, Fault> {
    let (size, offset) = (ends.target.segment_size, from % u64::from(ends.target.segment_size));
    let suffix = wal::segment_suffix(Lsn(from), size);
    let file = FileError::at(ends.folder);
    let Some(name) = wal::segment_of(ends.folder, Lsn(from), size, ends.target.timeline).map_err(file)? else {
        return Ok(Bytes::Gone(format!("the target has no segment {suffix} any more")));
    };
    let Some(here) = read(&ends.folder.join(&name), offset, length).map_err(FileError::at(ends.folder))? else {
        return Ok(Bytes::Gone(format!("the target's segment {name} was cut off")));
    };
    let names = source.ending_with(&suffix).await?;
    let there = match continues(&names, &name, ends) {
        Some(theirs) => source.bytes(theirs, offset, length).await?,
        None => None,
    };
    let Some(there) = there.filter(|there| there.len() as u64 == length) else {
        return Ok(Bytes::Gone(format!("the acting primary has no segment {suffix} of the target's history any more")));
    };
    Ok(match here.iter().zip(&there).position(|(here, there)| here != there) {
        None => Bytes::Same,
        Some(at) => Bytes::Differ(format!("their logs differ from {} on, in segment {name}", Lsn(from + at as u64))),
    })
}

/// The file of the source that goes on as the target's does: of the same timeline, or of the next one of its history that has it.
fn continues<'a>(names: &'a [String], target: &str, ends: Ends<'_>) -> Option<&'a String> {
    let oldest = wal::timeline_of(target)?;
    let of_history = |of: Timeline| of == oldest || of == ends.source || ends.history.iter().any(|switch| switch.timeline == of);
    let fits = |name: &&String| wal::timeline_of(name).is_some_and(|of| of >= oldest && of_history(of));
    names.iter().filter(fits).min() // all end alike, so the lowest timeline comes first
}

/// `None`: the file ends before.
fn read(path: &Path, offset: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0_u8; usize::try_from(length).map_err(io::Error::other)?];
    match File::open(path)?.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
