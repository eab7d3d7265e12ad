//! When, and how often, the postgres of an instance ends, as this operator sees it happen: by its own monotonic clock, as the one by which a page
//! says when it was may be wrong.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use model::{Changed, Dbid, Page};

/// Ends are counted for so long, however long its postgres serves between two of them. Those of one row, in which it does not, are
/// counted by its supervisor, and are one here.
const LATELY: Duration = Duration::from_mins(30);

/// What was seen of each instance.
#[derive(Debug, Default)]
pub struct Ends(BTreeMap<Dbid, Track>);

#[derive(Debug)]
struct Track {
    /// What its page said last: how many there were in a row, and when the newest was.
    row: u32,
    newest: Option<Timestamp>,
    /// Since when it is looked at.
    begun: Instant,
    /// When the newest was seen to happen.
    seen: Option<Instant>,
    /// When the first ones of a row were, oldest first.
    counted: VecDeque<Instant>,
}

impl Ends {
    /// When the postgres of an instance was last seen to end, and how often lately. One that cannot be asked is not known to have.
    pub fn look(&mut self, dbid: Dbid, page: Option<&Page>) -> (Option<Changed>, u32) {
        let now = Instant::now();
        if let Some(page) = page {
            let (row, newest) = (page.ends(), page.last_exit.as_ref().map(|exit| exit.at));
            let fresh = || Track { row, newest, begun: now, seen: None, counted: VecDeque::new() };
            self.0.entry(dbid).or_insert_with(fresh).says(row, newest, now);
        }
        self.0.get_mut(&dbid).map_or((None, 0), |track| (Some(track.changed(now)), track.lately(now)))
    }
}

impl Track {
    /// One that has served for a while begins its row anew, and one whose supervisor begins anew forgets: neither is an end.
    fn says(&mut self, row: u32, newest: Option<Timestamp>, now: Instant) {
        if row > self.row || (newest.is_some() && newest != self.newest) {
            self.seen = Some(now);
            if self.row == 0 || row <= self.row {
                self.counted.push_back(now);
            }
        }
        (self.row, self.newest) = (row, newest.or(self.newest));
    }

    fn changed(&self, now: Instant) -> Changed {
        let ago = |since: Instant| SignedDuration::try_from(now.duration_since(since)).unwrap_or(SignedDuration::MAX);
        self.seen.map_or_else(|| Changed::NotFor(ago(self.begun)), |seen| Changed::Ago(ago(seen)))
    }

    fn lately(&mut self, now: Instant) -> u32 {
        while self.counted.front().is_some_and(|seen| now.duration_since(*seen) >= LATELY) {
            self.counted.pop_front();
        }
        u32::try_from(self.counted.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{InstanceState, world::fixtures};

    const DAY: i64 = 86_400;

    /// A page whose newest end was so long ago by its node's clock.
    fn page(row: u32, newest: Option<i64>) -> Page {
        let exit = |ago| serde_json::json!({"at": fixtures::ago(ago), "how": "signal 6", "class": "Unclassified"});
        let last_exit = newest.map(|ago| serde_json::from_value(exit(ago)).unwrap());
        Page { state: InstanceState::Starting, restarts: row, last_exit, ..fixtures::page(&fixtures::row("5:0mmnd")) }
    }

    fn ago(seconds: i64) -> Changed {
        Changed::Ago(SignedDuration::from_secs(seconds))
    }

    fn not_for(seconds: i64) -> Changed {
        Changed::NotFor(SignedDuration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_was_when_it_was_seen_whatever_the_clock_of_its_node_says() {
        for offset in [0, 61, -61, DAY, -DAY] {
            let mut ends = Ends::default();
            assert_eq!(ends.look(Dbid(5), None), (None, 0), "never asked");
            assert_eq!(ends.look(Dbid(5), Some(&page(5, Some(offset)))), (Some(not_for(0)), 0), "who knows when that was");
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(ends.look(Dbid(5), Some(&page(5, Some(offset)))), (Some(not_for(2)), 0));
            assert_eq!(ends.look(Dbid(5), Some(&page(6, Some(offset - 2)))), (Some(ago(0)), 0), "{offset}");
            tokio::time::advance(Duration::from_secs(61)).await;
            assert_eq!(ends.look(Dbid(5), None), (Some(ago(61)), 0), "silence is no end");
            assert_eq!(ends.look(Dbid(5), Some(&page(6, Some(offset - 2)))), (Some(ago(61)), 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_is_forgotten_is_no_end_and_each_new_one_is() {
        let mut ends = Ends::default();
        assert_eq!(ends.look(Dbid(5), Some(&page(1, Some(10)))).0, Some(not_for(0)));
        for (row, newest, is_new) in [
            (0, Some(10), false), // it has served for a while
            (0, None, false),     // its supervisor began anew
            (1, Some(3), true),
            (0, Some(3), false),
            (1, Some(1), true),
            (1, Some(0), true), // it has served in between
            (2, None, true),    // of what, nobody can read
        ] {
            tokio::time::advance(Duration::from_secs(1)).await;
            let told = ends.look(Dbid(5), Some(&page(row, newest))).0;
            assert_eq!(told == Some(ago(0)), is_new, "{row} {newest:?}: {told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_are_counted_for_half_an_hour_and_those_of_one_row_once() {
        let mut ends = Ends::default();
        assert_eq!(ends.look(Dbid(5), Some(&page(0, None))).1, 0);
        let mut seen = vec![];
        for at in 1..=40 {
            tokio::time::advance(Duration::from_mins(1)).await;
            let first = ends.look(Dbid(5), Some(&page(1, Some(-10 * at))));
            tokio::time::advance(Duration::from_secs(10)).await;
            let second = ends.look(Dbid(5), Some(&page(2, Some(-10 * at - 1))));
            assert_eq!((first.0, second.0, first.1), (Some(ago(0)), Some(ago(0)), second.1), "{at}");
            seen.push(second.1);
        }
        assert_eq!((seen[3], seen[4], seen[39]), (4, 5, 26));
        tokio::time::advance(LATELY).await;
        assert_eq!(ends.look(Dbid(5), None), (Some(ago(1800)), 0));
    }
}
