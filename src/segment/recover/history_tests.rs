use std::path::PathBuf;

use super::*;
use greenplum::wal::{
    Standing, standing,
    written::{SIX, TWELVE, Written},
};
use model::{Postmaster, Repair, world::fixtures::attempt};

const LAYOUTS: [(u16, u64); 2] = [(SIX, 32768), (TWELVE, 8192)];

/// The log of a source, in a folder.
struct Folder(PathBuf);

impl SourceLog for Folder {
    async fn ending_with(&self, suffix: &str) -> Result<Vec<String>, Fault> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        Ok(names.filter(|name| name.ends_with(suffix)).collect())
    }

    async fn bytes(&self, name: &str, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Fault> {
        Ok(read(&self.0.join(name), offset, length).unwrap())
    }
}

/// Target and source, each with its log in a folder.
struct Pair {
    dir: tempfile::TempDir,
    source_timeline: u32,
    history: Vec<Switch>,
}

impl Pair {
    fn new(source_timeline: u32, fork: Option<u64>) -> Self {
        let history = fork.map(|fork| Switch { timeline: Timeline(1), switch: Lsn(fork) });
        Self { dir: tempfile::tempdir().unwrap(), source_timeline, history: history.into_iter().collect() }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn end(&self) -> WalEnd {
        wal::end(&self.target()).unwrap().unwrap()
    }

    async fn said(&self) -> Bytes {
        let folder = self.target();
        let ends = Ends { folder: &folder, target: self.end(), source: Timeline(self.source_timeline), history: &self.history };
        compare(&Folder(self.source()), ends).await.map_err(|fault| fault.class).unwrap()
    }
}

fn written(magic: u16, block: u64, records: usize) -> Written {
    let mut log = Written::new(magic, block, 32 * block);
    write(&mut log, 1, records);
    log
}

fn write(log: &mut Written, by: u8, records: usize) {
    for number in 0..records {
        log.append(&[by, u8::try_from(1 + number % 250).unwrap()].repeat(200));
    }
}

fn leave(log: &Written, folder: &Path, timeline: u32, from: u64) {
    log.leave(folder, timeline, from, log.end(), &[]);
}

/// The primary was put back to S, its mirror had got E, and now the primary is past E: its position says that it has all.
#[tokio::test]
async fn a_primary_that_was_put_back_and_has_written_past_its_mirrors_end_has_another_history() {
    for (magic, block) in LAYOUTS {
        for (before, lost, anew) in [(50, 10, 400), (50, 900, 4000), (3000, 1, 2), (3000, 700, 3000)] {
            let pair = Pair::new(1, None);
            let mut mirror = written(magic, block, before);
            let mut primary = mirror.clone();
            write(&mut mirror, 2, lost);
            write(&mut primary, 3, anew);
            leave(&mirror, &pair.target(), 1, mirror.start);
            leave(&primary, &pair.source(), 1, primary.start);
            let end = pair.end();
            // This is all that was looked at.
            assert_eq!(standing(Timeline(1), end.end, Timeline(1), Lsn(primary.end()), &[]), Standing::Follows);
            let said = pair.said().await;
            assert!(matches!(&said, Bytes::Differ(why) if why.contains("differ from")), "{before} {lost} {anew}: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_mirror_that_is_behind_is_of_the_same_history_wherever_it_ends() {
    for (magic, block) in LAYOUTS {
        let log = written(magic, block, 3000);
        for end in (log.start + 2000..log.end()).step_by(79_777) {
            let pair = Pair::new(1, None);
            let stale: Vec<u8> = (0..log.segment).map(|n| u8::try_from(n % 255).unwrap()).collect();
            log.leave(&pair.target(), 1, log.start, end, &stale);
            leave(&log, &pair.source(), 1, log.start);
            // A recycled segment of which not a whole record was written yet ends before it.
            assert_eq!(pair.said().await, Bytes::Same, "{end:x}");
        }
    }
}

#[tokio::test]
async fn padding_after_a_switch_is_not_compared() {
    let pair = Pair::new(1, None);
    let mut log = written(TWELVE, 8192, 20);
    log.switch();
    leave(&log, &pair.source(), 1, log.start);
    leave(&log, &pair.target(), 1, log.start);
    let file = pair.target().join("000000010000000000000001");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(9); // a mirror's file was recycled, and the server sends no padding
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(pair.said().await, Bytes::Same);
}

/// After every failover an ex-primary has something that its successor lacks: past the fork.
#[tokio::test]
async fn what_an_ex_primary_wrote_past_the_fork_is_not_compared() {
    for (magic, block) in LAYOUTS {
        for (before, past) in [(30, 5), (3000, 2000)] {
            let mut old = written(magic, block, before);
            let fork = old.end();
            let mut new = old.clone().promoted();
            write(&mut new, 7, 3000);
            write(&mut old, 8, past);
            let pair = Pair::new(2, Some(fork));
            leave(&old, &pair.target(), 1, old.start);
            leave(&new, &pair.source(), 2, fork - 1);
            assert_eq!(pair.said().await, Bytes::Same, "only the new timeline's segment of the fork is left");
            let restored = {
                let mut log = written(magic, block, before - 10);
                write(&mut log, 9, past + 40);
                log
            };
            leave(&restored, &pair.target(), 1, restored.start);
            assert!(matches!(pair.said().await, Bytes::Differ(_)), "an ex-primary that was put back before the fork");
        }
    }
}

#[tokio::test]
async fn a_timeline_that_the_source_never_was_on_is_another_history() {
    let pair = Pair { source_timeline: 3, ..Pair::new(3, Some(1)) };
    let log = written(TWELVE, 8192, 30).promoted();
    leave(&log, &pair.target(), 2, log.start);
    leave(&log, &pair.source(), 2, log.start);
    assert!(matches!(pair.said().await, Bytes::Differ(why) if why.contains("timeline 2")));
}

#[tokio::test]
async fn segments_that_are_gone_say_nothing() {
    let log = written(TWELVE, 8192, 3000);
    let pair = Pair::new(1, None);
    log.leave(&pair.target(), 1, log.start, log.start + log.segment + 5000, &[]);
    leave(&log, &pair.source(), 1, log.end() - 1);
    assert!(matches!(pair.said().await, Bytes::Gone(why) if why.contains("acting primary")));
    // The fork lies before what the ex-primary still has.
    let pair = Pair::new(2, Some(log.start + 500));
    leave(&log, &pair.target(), 1, log.end() - 1);
    leave(&log, &pair.source(), 1, log.start);
    assert!(matches!(pair.said().await, Bytes::Gone(why) if why.contains("the target")));
}

#[test]
fn so_much_is_compared_and_nothing_over_the_start_of_a_segment() {
    let (segment, mega) = (4 << 20, AT_ONCE);
    assert_eq!(ranges(Lsn(0), segment), []);
    assert_eq!(ranges(Lsn(100), segment), [(0, 100)]);
    assert_eq!(ranges(Lsn(segment), segment)[0], (segment - mega, mega), "the end of a segment belongs to it");
    assert_eq!(ranges(Lsn(segment + 100), segment)[..2], [(segment, 100), (segment - mega, mega)]);
    let all = ranges(Lsn(80 * mega + 7), segment);
    assert_eq!(all.iter().map(|(_, length)| length).sum::<u64>(), COMPARED);
    assert_eq!(all.last(), Some(&(48 * mega + 7, mega - 7)));
}

/// The same load was run again after the copy was put back: the last megabytes are the same, byte by byte.
#[tokio::test]
async fn a_difference_before_many_bytes_that_are_the_same_is_found() {
    let pair = Pair::new(1, None);
    let (mut mirror, mut primary) = (written(TWELVE, 8192, 20), written(TWELVE, 8192, 20));
    let fork = mirror.end();
    mirror.append(b"committed, and only here");
    primary.append(b"another one, of its size");
    assert_eq!(mirror.end(), primary.end());
    for log in [&mut mirror, &mut primary] {
        write(log, 5, 6000);
    }
    leave(&mirror, &pair.target(), 1, mirror.start);
    leave(&primary, &pair.source(), 1, primary.start);
    let said = pair.said().await;
    assert!(matches!(&said, Bytes::Differ(why) if why.contains(&Lsn(fork + 20).to_string())), "{said:?}, not after {}", Lsn(fork));
}

/// The end is what counts: that older segments are the same says nothing of it.
#[tokio::test]
async fn the_last_bytes_are_not_vouched_for_by_those_before() {
    let log = written(TWELVE, 8192, 3000);
    let pair = Pair::new(1, None);
    leave(&log, &pair.target(), 1, log.start);
    log.leave(&pair.source(), 1, log.start, log.start + log.segment, &[]);
    assert!(matches!(pair.said().await, Bytes::Gone(_)));
}

fn incarnation(number: u64, nonce: &str, timeline: u32, began: u64) -> Incarnation {
    Incarnation { number, nonce: nonce.into(), timeline: Timeline(timeline), began: Lsn(began) }
}

#[test]
fn where_bytes_are_gone_the_incarnations_decide() {
    let (one, two) = (incarnation(1, "a", 1, 10), incarnation(2, "b", 1, 100));
    let source = (&[one.clone(), two.clone()][..], &[][..]);
    let stands = |followed: &[Incarnation], end| by_incarnations(source, followed, &[], (Timeline(1), Lsn(end)), None);
    assert_eq!(stands(std::slice::from_ref(&one), 90), Lineage::Same);
    assert!(matches!(stands(std::slice::from_ref(&one), 101), Lineage::Differs(_)));
    assert!(matches!(stands(&[], 90), Lineage::Unknown(_)), "unknown is not yes");
}

#[test]
fn an_ex_primary_is_known_by_who_followed_it() {
    let (own, restored) = (incarnation(3, "x", 1, 50), incarnation(4, "y", 1, 80));
    let (serves, followed) = ([incarnation(1, "s", 2, 100)], [own.clone()]);
    let source = (&serves[..], &followed[..]);
    let stands = |own: &[Incarnation]| by_incarnations(source, &[], own, (Timeline(1), Lsn(500)), Some(Lsn(100)));
    assert_eq!(stands(std::slice::from_ref(&own)), Lineage::Same);
    assert_eq!(stands(&[own.clone(), incarnation(4, "z", 1, 120)]), Lineage::Same, "started again after it was replaced");
    assert!(matches!(stands(&[own, restored]), Lineage::Differs(_)), "put back before the fork");
    assert!(matches!(stands(&[]), Lineage::Unknown(_)));
}

/// A primary that was put back on an older copy may be promoted: to a timeline that leaves the one before below its mirror's end.
#[test]
fn beyond_the_fork_are_remains_only_of_who_was_the_primary_there() {
    let (first, promoted) = (incarnation(1, "a", 1, 10), incarnation(2, "b", 2, 100));
    let (before, after) = ([first.clone()], [first, promoted]);
    let reach = |end| Reach { timeline: Timeline(1), end: Lsn(end) };
    let mirror = |followed: &[Incarnation], source: &[Incarnation]| written_beyond(&[], (followed, source), reach(150), Some(Lsn(100)));
    assert!(matches!(mirror(&before, &after), Lineage::Differs(_)));
    assert!(matches!(mirror(&before, &[]), Lineage::Unknown(_)), "the source does not tell");
    assert!(matches!(mirror(&[], &after), Lineage::Unknown(_)), "nothing is remembered");
    let of = |own: &[Incarnation], mirrors| written_beyond(own, (&before, &after), reach(150), mirrors);
    assert_eq!(of(&[incarnation(3, "x", 1, 50)], None), Lineage::Same, "an ex-primary's own");
    assert_eq!(of(&[incarnation(3, "x", 1, 50)], Some(Lsn(100))), Lineage::Same, "that a person gave a mirror's marker");
    assert!(matches!(of(&[incarnation(3, "x", 0, 50)], None), Lineage::Differs(_)), "of a life before");
    assert_eq!(written_beyond(&[], (&[], &after), reach(150), None), Lineage::Same, "an ex-primary of before it was watched");
}

#[test]
fn incarnations_that_were_shown_of_another_run_or_before_a_promotion_are_not_those_of_what_serves() {
    let shown = vec![incarnation(1, "a", 1, 10)];
    let attempt = Attempt { source_incarnations: shown.clone(), ..attempt(Repair::Full) };
    assert_eq!(source_incarnations(&attempt, Timeline(1)), []);
    let attempt = Attempt { source_postmaster: Some(Postmaster { pid: 7, started: 9 }), ..attempt };
    assert_eq!(source_incarnations(&attempt, Timeline(1)), shown);
    assert_eq!(source_incarnations(&attempt, Timeline(2)), []);
}

/// The log that a primary left, from the segment of `from` on.
fn left(log: &Written, from: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    leave(log, dir.path(), 1, from);
    dir
}

/// A mirror that had confirmed its log up to `confirmed` was promoted at `fork`.
fn behind(log: &Path, fork: u64, confirmed: (u32, u64)) -> bool {
    let history = [Switch { timeline: Timeline(1), switch: Lsn(fork) }];
    let confirmed = Reach { timeline: Timeline(confirmed.0), end: Lsn(confirmed.1) };
    promoted_behind(log, (Timeline(1), wal::end(log).unwrap()), confirmed, &history).unwrap().is_some()
}

#[test]
fn a_mirror_that_was_promoted_below_a_whole_record_that_it_had_confirmed_has_lost_commits() {
    for (magic, block) in LAYOUTS {
        let mut log = written(magic, block, 300);
        let fork = log.end();
        let next = log.commit(&[7; 9000]); // over pages
        let last = log.append(&[8; 64]);
        let from = log.start + 2 * log.segment;
        while log.end() < from + log.segment {
            write(&mut log, 1, 300);
        }
        let whole = left(&log, log.start);
        let behind_at = |fork, confirmed| behind(whole.path(), fork, (1, confirmed));
        assert!(!behind_at(fork, fork) && !behind_at(fork, fork - 1), "it had all");
        assert!(!behind_at(fork, fork + 8) && !behind_at(fork, next - 1), "of the next record it had a part");
        assert!(behind_at(fork, next) && behind_at(fork, last) && behind_at(fork, log.end()));
        assert!(!behind(whole.path(), fork, (2, log.end())), "confirmed on another timeline");
        assert!(behind_at(log.end(), log.end() + 100), "what was confirmed is not there any more");
        assert!(behind(left(&log, from).path(), fork, (1, log.end())), "far below: the target has no file for it any more");
    }
}

/// A checkpoint, a snapshot for standbys, or what a transaction that never ended wrote.
#[test]
fn what_acknowledges_nothing_is_not_lost() {
    for (magic, block) in LAYOUTS {
        let mut log = written(magic, block, 300);
        let fork = log.end();
        for length in [40, 9000, 64] {
            log.append(&vec![7; length]);
        }
        let without = log.end();
        let committed = log.commit(&[8; 30]);
        let after = log.end();
        log.switch();
        log.append(&[9; 700]);
        let segment_later = log.end();
        log.commit(&[8; 30]);
        let dir = left(&log, log.start);
        let behind_at = |fork, confirmed| behind(dir.path(), fork, (1, confirmed));
        assert!(!behind_at(fork, without) && !behind_at(fork, committed - 1), "it has confirmed a part of the commit");
        assert!(behind_at(fork, committed) && behind_at(fork, log.end()));
        assert!(!behind_at(after, segment_later) && behind_at(after, log.end()), "over a switch");
    }
}

/// A commit that waited for the mirror when its primary died was acknowledged to nobody.
#[test]
fn what_was_acknowledged_alone_ends_where_commits_waited_again() {
    let at = |timeline, end| Reach { timeline: Timeline(timeline), end: Lsn(end) };
    let of = |alone, confirmed| reaches(alone, confirmed, at(2, 900));
    assert_eq!(of(Alone::Nothing, Some(at(2, 100))), Some(at(2, 100)));
    assert_eq!(of(Alone::Nothing, None), None);
    assert_eq!(of(Alone::Anything, Some(at(2, 100))), Some(at(2, 900)));
    for (confirmed, furthest) in [(None, 500), (Some(at(2, 100)), 500), (Some(at(2, 600)), 600), (Some(at(1, 600)), 500)] {
        assert_eq!(of(Alone::Before(at(2, 500)), confirmed), Some(at(2, furthest)), "{confirmed:?}");
    }
    assert_eq!(of(Alone::Before(at(1, 500)), None), Some(at(2, 900)), "of the life before a promotion");
}

#[test]
fn what_cannot_be_read_at_the_fork_may_have_been_confirmed() {
    for (magic, block) in LAYOUTS {
        let mut log = written(magic, block, 300);
        let fork = log.end();
        write(&mut log, 2, 2000);
        let dir = left(&log, log.start);
        let (at, segment) = (usize::try_from(fork % log.segment).unwrap(), fork / log.segment);
        let path = dir.path().join(format!("00000001{:08X}{segment:08X}", 0));
        let whole = std::fs::read(&path).unwrap();
        // Its length is damaged, too.
        for (damaged, with) in [(at + 40..at + 60, 0), (at..at + 4, 0), (at..at + 3, 0x7F), (at..at + 2, 0x3F)] {
            let mut bytes = whole.clone();
            bytes[damaged.clone()].fill(with);
            std::fs::write(&path, bytes).unwrap();
            for confirmed in [log.end(), fork + 8] {
                assert!(behind(dir.path(), fork, (1, confirmed)), "{damaged:?} of {with:x}, confirmed {confirmed:x}");
            }
        }
        let nothing = tempfile::tempdir().unwrap();
        let of = |timeline| (Timeline(timeline), None);
        let history = [Switch { timeline: Timeline(1), switch: Lsn(fork) }];
        let confirmed = Reach { timeline: Timeline(1), end: Lsn(fork + 8) };
        let said = |target| promoted_behind(nothing.path(), target, confirmed, &history).unwrap().is_some();
        assert!(said(of(1)) && !said(of(2)), "there is no log any more");
    }
}
