//! What full copies have put aside: it goes when the copy in its place is proven, so each is held against the source of every later one.

use super::{
    Work,
    fault::{Classified, Fault},
    history::{self, Bytes, Ends, HistoryError, SourceLog},
    prove::{Proven, wal_end},
};
use crate::volume::{Original, Remembered};
use greenplum::wal::{self, Standing, Switch, WalEnd};
use model::{Lineage, Reach, incarnation::lineage};

/// What is to be remembered of the target's data directory when it is put aside: it was proven to be of the source's history, unless a
/// person has waived that.
pub fn remembered(work: &Work, proven: &Proven) -> Remembered {
    let waived = work.attempt.waives_history; // then it was not proven
    let source = if waived { &[] } else { history::source_incarnations(&work.attempt, proven.identified.timeline) };
    let own = proven.own(&work.volume).unwrap_or_default(); // unreadable, it was proven by its bytes
    let was_primary = own.last().map(|last| last.timeline) == proven.target_end().map(|end| end.timeline);
    let followed = match (source, was_primary) {
        ([], true) => &[], // what it followed before says nothing of the timeline on which it was the primary
        ([], false) => proven.token.followed.as_slice(),
        (source, _) => source,
    };
    let end = proven.target_end().filter(|_| !waived);
    Remembered { followed: followed.to_vec(), own, proven: end.map(|end| shared(end, &proven.history)) }
}

/// As far as what reaches to `end` is part of the source's history.
fn shared(end: Reach, history: &[Switch]) -> Reach {
    Reach { end: wal::fork(history, end.timeline).map_or(end.end, |fork| fork.min(end.end)), ..end }
}

/// As far as the log of an original shows what the source lacks, or what it was proven to share is not the source's any more, it
/// stays. What nothing can tell of was proven when it was put aside. The log of the one that was put aside last is judged as what the
/// target holds, while nothing stands in its place.
pub async fn prove(work: &Work, source: &impl SourceLog, proven: &Proven) -> Result<(), Fault> {
    let last = proven.original.as_ref().map(|original| &original.directory);
    for original in work.volume.originals()? {
        let path = original.directory.display();
        let folder = original.directory.join(proven.dialect.wal_folder());
        let log = wal_end(&folder).map_err(|error| Fault::new(error.class(), &format!("{path}: {error}")))?;
        let serves = Reach { timeline: proven.identified.timeline, end: proven.identified.at };
        let given_up = original.remembered.proven.and_then(|then| given_up(then, serves, &proven.history));
        let said = match (given_up, log) {
            (Some(why), _) => Lineage::Differs(why),
            (None, Some(log)) if Some(&original.directory) != last => {
                let ends = Ends { folder: &folder, target: log, source: proven.identified.timeline, history: &proven.history };
                by_log(work, source, (proven, &original), ends).await?
            }
            (None, Some(_)) => Lineage::Same, // its log was judged as what the target holds
            (None, None) => by_memory(work, proven, &original.remembered).unwrap_or(Lineage::Same),
        };
        if let (Lineage::Differs(why), Some(Reach { timeline, end: target })) = (said, reach(&original, log)) {
            let (source_at, source_timeline) = (proven.identified.at, proven.identified.timeline);
            return Err(HistoryError::Differs {
                target,
                timeline,
                source_at,
                source_timeline,
                why: format!("it is kept as {path}; {why}"),
            }
            .into());
        }
    }
    Ok(())
}

fn reach(original: &Original, log: Option<WalEnd>) -> Option<Reach> {
    log.map(|log| Reach { timeline: log.timeline, end: log.end }).or(original.remembered.proven)
}

/// The source was put back since, and promoted before: it lacks what it had then.
fn given_up(Reach { timeline, end }: Reach, serves: Reach, history: &[Switch]) -> Option<String> {
    match wal::standing(timeline, end, serves.timeline, serves.end, history) {
        Standing::Follows => None,
        Standing::Ahead | Standing::Diverged => {
            Some(format!("the acting primary held it up to {end} of timeline {timeline} when it was put aside, and does not now"))
        }
    }
}

async fn by_log(work: &Work, source: &impl SourceLog, (proven, original): (&Proven, &Original), ends: Ends<'_>) -> Result<Lineage, Fault> {
    let (timeline, end) = (ends.target.timeline, ends.target.end);
    if wal::standing(timeline, end, ends.source, proven.identified.at, ends.history) == Standing::Ahead {
        return Ok(Lineage::Differs("it reaches further".into()));
    }
    Ok(match history::compare(source, ends).await? {
        Bytes::Differ(why) => Lineage::Differs(why),
        Bytes::Same => Lineage::Same,
        Bytes::Gone(_) => by_memory(work, proven, &original.remembered).unwrap_or_else(|| {
            let now = history::source_incarnations(&work.attempt, ends.source);
            let Remembered { followed, own, .. } = &original.remembered;
            let fork = wal::fork(ends.history, timeline);
            history::by_incarnations((now, &work.attempt.source_followed), followed, own, (timeline, end), fork)
        }),
    })
}

/// By the incarnations of whose history it was proven to be a part, where its bytes cannot tell; `None`: none were known.
pub fn by_memory(work: &Work, proven: &Proven, remembered: &Remembered) -> Option<Lineage> {
    let now = history::source_incarnations(&work.attempt, proven.identified.timeline);
    let then = remembered.proven.filter(|_| !remembered.followed.is_empty());
    then.map(|then| lineage(&remembered.followed, now, Some(then)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Lsn, Timeline};

    fn to(timeline: u32, end: u64) -> Reach {
        Reach { timeline: Timeline(timeline), end: Lsn(end) }
    }

    #[test]
    fn what_an_original_shared_with_its_source_has_to_be_there_still() {
        let left_at = |switch| [Switch { timeline: Timeline(1), switch: Lsn(switch) }];
        // Of an ex-primary: remains begin at the fork.
        assert_eq!(
            [shared(to(1, 900), &left_at(500)), shared(to(1, 400), &left_at(500)), shared(to(1, 900), &[])],
            [to(1, 500), to(1, 400), to(1, 900)]
        );
        for (then, serves, history, given) in [
            (to(1, 500), to(2, 800), left_at(500).as_slice(), false),
            (to(1, 500), to(2, 800), &left_at(600), false),
            (to(1, 500), to(1, 500), &[], false),
            (to(1, 500), to(2, 800), &left_at(499), true), // put back on an older copy, and promoted anew
            (to(1, 500), to(2, 800), &[], true),
            (to(1, 500), to(1, 499), &[], true),
            (to(2, 500), to(1, 900), &[], true),
        ] {
            assert_eq!(given_up(then, serves, history).is_some(), given, "{then:?} {serves:?} {history:?}");
        }
    }
}
