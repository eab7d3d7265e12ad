//! Whether a mirror hangs, from what its acting primary sees of it: pure, so that each rule stands in a table.
//!
//! FTS believes the walsender, which gives a silent mirror up after `wal_sender_timeout`, five minutes on Greenplum 6; so long
//! every commit of the content waits, in a pair that the catalog calls in sync.

use std::time::{Duration, Instant};

use greenplum::replication::{Position, Sender};
use model::Lsn;

/// Between two looks.
pub const APART: Duration = Duration::from_secs(1);
/// For so long a mirror that owes an answer may stand still. One that lives acknowledges what it has written within
/// milliseconds, and with a disk that stalls within a second or two; with looks, end and FTS' look this stays below ten.
pub const STILL: Duration = Duration::from_secs(5);
/// The same of one that catches up while commits wait for it. Greenplum 6 answers then at the end of a segment alone, but what it takes
/// shows in what its walsender sends: that goes on until the buffers of both sides are full.
pub const STILL_BEHIND: Duration = Duration::from_secs(15);
/// Two looks further apart show nothing of what was between them: we did not run, so perhaps the walsender did not, either.
pub const NEXT: Duration = Duration::from_secs(3);
/// Between two ends of one mirror's walsender: a slow one is to catch up, and to be told of, rather than be cut again.
pub const ONCE: Duration = Duration::from_mins(1);

/// What this process sees of the walsender, beside what it tells itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// It sleeps or runs; else it is stopped, or sits in the kernel (a disk that hangs), and the mirror cannot be judged by it.
    pub works: bool,
    /// Bytes that have come from the mirror and that it has not read yet.
    pub unread: u64,
}

/// One walsender to the mirror, as one look showed it.
pub type Sight = (Sender, Outside);

/// How a mirror stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No walsender sends to it.
    Gone,
    /// It has all that was sent.
    Lives,
    /// It catches up, begins, or its answer waits to be read: nothing is known that would be told or taken back.
    Unjudged,
    /// It owes an answer, not for long.
    Owes,
    /// It has owed one for too long; its walsender is to be ended now.
    Hangs,
    /// The same, and one was ended less than a minute ago.
    HangsAgain,
    /// It is its walsender that does not work, so nobody knows how the mirror is; commits wait all the same.
    Stopped,
}

/// What one walsender's mirror owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Debt {
    Nothing,
    Unknown,
    /// It was sent more than it has acknowledged, and stands here; up to where it was sent the log, if it catches up; whether its
    /// walsender works.
    Owed {
        write: Lsn,
        flush: Lsn,
        behind: Option<Lsn>,
        works: bool,
    },
}

/// What is remembered from look to look.
#[derive(Clone, Debug, Default)]
pub struct Track {
    still: Vec<Still>,
    ended: Option<Instant>,
}

/// A walsender whose mirror owes an answer, and where that has stood since.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Still {
    who: (i32, String),
    debt: Debt,
    since: Instant,
    seen: Instant,
}

impl Track {
    /// Judges one more look, and tells which of the walsenders it is about, since when. A mirror has one as a rule; the one
    /// that it left behind when its node lost power stands beside that until it is ended. `wait`: commits wait for a mirror.
    pub fn judge<'s>(&mut self, sights: &'s [Sight], wait: bool, now: Instant) -> (Standing, Option<(&'s Sender, Duration)>) {
        let Some((first, _)) = sights.first() else {
            self.still.clear();
            return (Standing::Gone, None);
        };
        let before = std::mem::take(&mut self.still);
        let debts: Vec<_> = sights.iter().map(|(sender, outside)| (sender, debt(sender, *outside, wait))).collect();
        let mut longest: Option<(&Sender, Duration, Debt)> = None;
        for (sender, debt) in &debts {
            let Debt::Owed { .. } = *debt else { continue };
            let who = (sender.pid, sender.started.clone());
            let same = before.iter().find(|still| still.who == who && still.debt == *debt && now.duration_since(still.seen) <= NEXT);
            let since = same.map_or(now, |still| still.since);
            let lasts = now.duration_since(since);
            if longest.is_none_or(|(_, longest, _)| lasts > longest) {
                longest = Some((sender, lasts, *debt));
            }
            self.still.push(Still { who, debt: *debt, since, seen: now });
        }
        let Some((sender, lasts, Debt::Owed { works, behind, .. })) = longest else {
            let all_is_there = debts.iter().all(|(_, debt)| *debt == Debt::Nothing);
            return (if all_is_there { Standing::Lives } else { Standing::Unjudged }, Some((first, Duration::ZERO)));
        };
        let again = self.ended.is_some_and(|ended| now.duration_since(ended) < ONCE);
        let patience = if behind.is_some() { STILL_BEHIND } else { STILL };
        let standing = match (lasts >= patience, works, again) {
            (false, ..) => Standing::Owes,
            (true, false, _) => Standing::Stopped,
            (true, true, false) => Standing::Hangs,
            (true, true, true) => Standing::HangsAgain,
        };
        (standing, Some((sender, lasts)))
    }

    /// The walsender was, or was to be, ended.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
        self.still.clear();
    }
}

/// What a mirror owes by its walsender's word. One that catches up is judged while commits wait for it: FTS takes that back from a pair
/// that it finds without a mirror, and one that has answered once since it connected is there (`is_mirror_up`). One that has never
/// answered owes all; an answer that waits to be read will be.
fn debt(sender: &Sender, outside: Outside, wait: bool) -> Debt {
    let Position { own, sent: Some(sent), write, flush } = sender.position else { return Debt::Unknown };
    let (write, flush) = (write.unwrap_or(Lsn(0)), flush.unwrap_or(Lsn(0)));
    let behind = match sender.state.as_str() {
        "streaming" => None,
        "catchup" if wait => Some(sent),
        _ => return Debt::Unknown, // a base backup, one that begins or ends, or a word of another version
    };
    // What a walsender that works has not sent yet, it sends.
    let due = if outside.works { sent } else { own.map_or(sent, |own| own.max(sent)) };
    match (due > flush, outside.works && outside.unread > 0) {
        (false, _) => Debt::Nothing,
        (true, true) => Debt::Unknown,
        (true, false) => Debt::Owed { write, flush, behind, works: outside.works },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Outside = Outside { works: true, unread: 0 };

    fn sender(sent: u64, write: u64, flush: u64) -> Sender {
        let position = Position { own: Some(Lsn(sent)), sent: Some(Lsn(sent)), write: Some(Lsn(write)), flush: Some(Lsn(flush)) };
        Sender { pid: 7, started: "noon".into(), state: "streaming".into(), client: Some(("10.0.0.5".into(), 4711)), position }
    }

    /// How the last of these looks, each so many milliseconds after the first, is judged.
    fn last(looks: &[(u64, Sight)]) -> Standing {
        last_where(true, looks)
    }

    fn last_where(wait: bool, looks: &[(u64, Sight)]) -> Standing {
        let (mut track, begun) = (Track::default(), Instant::now());
        let judge = |(at, sight): &(u64, Sight)| track.judge(std::slice::from_ref(sight), wait, begun + Duration::from_millis(*at)).0;
        looks.iter().map(judge).last().unwrap()
    }

    /// The same sight at each second up to this one.
    fn for_seconds(seconds: u64, sight: &Sight) -> Vec<(u64, Sight)> {
        (0..=seconds).map(|second| (second * 1000, sight.clone())).collect()
    }

    fn sends(sender: Sender) -> Sight {
        (sender, WELL)
    }

    #[test]
    fn a_mirror_that_owes_an_answer_and_stands_still_hangs() {
        let owes = sends(sender(100, 50, 50));
        assert_eq!(last(&for_seconds(0, &owes)), Standing::Owes);
        assert_eq!(last(&for_seconds(4, &owes)), Standing::Owes);
        assert_eq!(last(&for_seconds(5, &owes)), Standing::Hangs);
        let flushes_nothing = sends(sender(100, 100, 50));
        assert_eq!(last(&for_seconds(5, &flushes_nothing)), Standing::Hangs, "its disk does not sync");
        let mut never_answered = sender(100, 0, 0);
        (never_answered.position.write, never_answered.position.flush) = (None, None);
        assert_eq!(last(&for_seconds(5, &sends(never_answered))), Standing::Hangs);
    }

    #[test]
    fn a_mirror_that_moves_at_all_never_hangs() {
        let slow = |step: u64| sends(sender(1_000_000, 50 + step, 50));
        let crawls: Vec<_> = (0..600).map(|second| (second * 1000, slow(second / 4))).collect();
        assert!((1..600).all(|looks| last(&crawls[..looks]) == Standing::Owes), "one byte written in four seconds");
        let syncs: Vec<_> = (0..600).map(|second| (second * 1000, sends(sender(1_000_000, 900, 50 + second / 4)))).collect();
        assert!((1..600).all(|looks| last(&syncs[..looks]) == Standing::Owes));
    }

    #[test]
    fn what_owes_nothing_lives_and_what_is_not_known_is_neither_that_nor_a_hang() {
        let with = |change: &dyn Fn(&mut Sender)| {
            let mut changed = sender(100, 50, 50);
            change(&mut changed);
            sends(changed)
        };
        assert_eq!(last(&for_seconds(600, &sends(sender(100, 100, 100)))), Standing::Lives);
        for (what, sight) in [
            ("nothing was sent", with(&|one| one.position.sent = None)),
            ("it makes a base backup", with(&|one| one.state = "backup".into())),
            ("it begins", with(&|one| one.state = "startup".into())),
            ("nobody knows this state", with(&|one| one.state = "stopping".into())),
            ("its answer waits to be read", (sender(100, 50, 50), Outside { works: true, unread: 34 })),
        ] {
            assert_eq!(last(&for_seconds(600, &sight)), Standing::Unjudged, "{what}");
        }
        assert_eq!(Track::default().judge(&[], true, Instant::now()), (Standing::Gone, None));
    }

    /// FTS leaves commits waiting for one that has answered once since it connected.
    #[test]
    fn a_mirror_that_catches_up_and_takes_nothing_more_hangs_where_commits_wait_for_it() {
        let behind = |sent: u64, flush: u64| sends(Sender { state: "catchup".into(), ..sender(sent, flush, flush) });
        let stands = for_seconds(600, &behind(100, 50));
        assert_eq!(last(&stands[..15]), Standing::Owes, "the buffers of both sides are full by then");
        assert_eq!(last(&stands[..16]), Standing::Hangs);
        assert_eq!(last_where(false, &stands), Standing::Unjudged, "no commit waits for it");
        let takes: Vec<_> = (0..600).map(|second| (second * 1000, behind(1000 + second / 14, 50))).collect();
        assert!((1..600).all(|looks| last(&takes[..looks]) == Standing::Owes), "it answers at the end of a segment");
    }

    /// Nobody ends it, and its own timeout does not, either: commits would wait for ever, and all would look well.
    #[test]
    fn a_walsender_that_does_not_work_is_told_of_and_never_ended() {
        for unread in [0, 34] {
            let stopped = (sender(100, 50, 50), Outside { works: false, unread });
            assert_eq!(last(&for_seconds(4, &stopped)), Standing::Owes);
            assert_eq!(last(&for_seconds(600, &stopped)), Standing::Stopped);
            let woken = [for_seconds(600, &stopped), vec![(601_000, sends(sender(100, 50, 50)))]].concat();
            assert_eq!(last(&woken), Standing::Owes, "the mirror is judged from here on");
        }
        let mut stopped = (sender(100, 100, 100), Outside { works: false, unread: 0 });
        assert_eq!(last(&for_seconds(600, &stopped)), Standing::Lives, "there is nothing to send");
        stopped.0.position.own = Some(Lsn(101));
        assert_eq!(last(&for_seconds(600, &stopped)), Standing::Stopped, "it sends nothing of what there is");
        stopped.1.works = true;
        assert_eq!(last(&for_seconds(600, &stopped)), Standing::Lives, "it will");
    }

    #[test]
    fn the_clock_begins_anew_with_another_walsender_and_after_a_gap_in_our_own_looks() {
        let (owes, next) = (sends(sender(100, 50, 50)), sends(Sender { pid: 8, ..sender(100, 50, 50) }));
        let again = sends(Sender { started: "one".into(), ..sender(100, 50, 50) });
        for other in [next, again] {
            let looks = [for_seconds(4, &owes), vec![(5000, other)]].concat();
            assert_eq!(last(&looks), Standing::Owes);
        }
        let looks = [for_seconds(4, &owes), vec![(9000, owes.clone())]].concat();
        assert_eq!(last(&looks), Standing::Owes, "we did not run for five seconds, nor perhaps did the walsender");
        let looks = [for_seconds(4, &owes), vec![(4500, sends(sender(100, 100, 100))), (5000, owes)]].concat();
        assert_eq!(last(&looks), Standing::Owes, "it had answered");
    }

    #[test]
    fn the_one_that_hangs_is_found_beside_one_that_lives() {
        let (mut track, begun) = (Track::default(), Instant::now());
        let left_behind = Sender { pid: 8, ..sender(100, 50, 50) };
        for second in 0..=5 {
            let moves = sender(1000, 50 + second, 50 + second);
            let sights = [sends(moves), sends(left_behind.clone())];
            let (standing, about) = track.judge(&sights, true, begun + Duration::from_secs(second));
            assert_eq!(standing == Standing::Hangs, second == 5);
            assert!(second == 0 || about.unwrap().0.pid == 8);
        }
    }

    #[test]
    fn a_pair_is_cut_once_a_minute_at_most() {
        let (mut track, begun) = (Track::default(), Instant::now());
        let mut cuts = vec![];
        for second in 0..130 {
            let now = begun + Duration::from_secs(second);
            if track.judge(&[sends(sender(100, 50, 50))], true, now).0 == Standing::Hangs {
                track.ended(now);
                cuts.push(second);
            }
        }
        assert_eq!(cuts, [5, 65, 125]);
    }
}
