//! Whether a mirror that answers nothing works all the same, as its own supervisor shows it: asked for before its walsender is
//! ended, and again before FTS is asked to look.
//!
//! A WAL receiver of Greenplum 6 answers only when it has read all that came, or at the end of a segment, and fills the next one with
//! 64 MB of zeros before it writes anything there. Behind a slow disk and many sessions that stands still by its walsender's word,
//! and does not by its own process.

use std::time::{Duration, Instant};

use super::{Supervisor, peer, watch::Running};
use model::{Look, Page, page::Work};

/// What moved so lately works: a page shows it once a second, and a second passes between two looks at the page.
const WORKS: Duration = Duration::from_secs(4);
/// And this is so long before it is given up: a receiver that has lost its connection is begun again after 5 s.
pub const COMES_BACK: Duration = Duration::from_secs(7);
/// Between two looks at the page.
const APART: Duration = Duration::from_secs(1);

/// What the mirror's page showed of its WAL receiver, from look to look.
#[derive(Clone, Debug, Default)]
pub struct Works {
    seen: Option<Work>,
    moved: Option<Instant>,
}

impl Works {
    /// One more look. A page that is silent, says that its postgres cannot work, or is of a supervisor that does not tell shows
    /// nothing that moves; neither does another process, for one that gets no connection is begun again and again.
    pub fn saw(&mut self, page: &Look<Page>, now: Instant) {
        let Some(page) = page.seen().filter(|page| page.stalled.is_none()) else { return };
        if let (Some(before), Some(work)) = (self.seen, page.receiver) {
            let differs = |before: Option<u64>, now: Option<u64>| before.zip(now).is_some_and(|(before, now)| before != now);
            if before.pid == work.pid && (differs(before.written, work.written) || differs(before.disk, work.disk)) {
                self.moved = Some(now);
            }
        }
        self.seen = page.receiver.or(self.seen);
    }

    /// It was seen to move a moment ago: its process, and what that had written by then.
    pub fn works(&self, now: Instant) -> Option<Work> {
        self.seen.filter(|_| self.moved_within(WORKS, now))
    }

    pub fn moved_within(&self, time: Duration, now: Instant) -> bool {
        self.moved.is_some_and(|moved| now.duration_since(moved) <= time)
    }
}

impl Supervisor {
    /// Looks at the mirror's page while the mirror owes an answer, and until it is back once its walsender was ended.
    pub(super) fn ask_whether_it_works(&self, running: &mut Running) {
        let (now, watch) = (tokio::time::Instant::now(), &mut running.mirror);
        let wanted = watch.owes || watch.ended.is_some();
        if !wanted || watch.page.is_some() || watch.next_page.is_some_and(|next| now < next) {
            return;
        }
        let Some(other) = running.here.other_side() else { return };
        let config = self.config.clone();
        watch.next_page = Some(now + APART);
        watch.page = Some(tokio::spawn(async move { peer::page_of_other(&config, &other).await }));
    }

    pub(super) fn mirror_page_read(&self, running: &mut Running, page: Option<Look<Page>>) {
        running.mirror.page = None;
        let page = page.unwrap_or_else(|| Look::Unknown("the question was broken off".into()));
        running.mirror.works.saw(&page, Instant::now());
        self.say_whether_fts_may_look(running);
    }

    /// One that works is waited for, whoever would ask FTS.
    pub(super) fn say_whether_fts_may_look(&self, running: &Running) {
        let watch = &running.mirror;
        let gone = watch.ended.is_some() && !watch.is_back && !watch.works.moved_within(COMES_BACK, Instant::now());
        if self.board.page().mirror_hangs.as_ref().is_some_and(|hang| hang.ended != gone) {
            self.board.show(|page| {
                if let Some(hang) = &mut page.mirror_hangs {
                    hang.ended = gone;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::world::fixtures;

    /// A page that shows this, at this second.
    type Shown = (u64, Option<Work>);

    const fn work(pid: i32, written: u64) -> Work {
        Work { pid, written: Some(written), disk: None }
    }

    fn page(stalled: Option<&str>, receiver: Option<Work>) -> Look<Page> {
        let stalled = stalled.map(ToOwned::to_owned);
        Look::Seen(Page { stalled, receiver, ..fixtures::page(&fixtures::row("5:0mmsu")) })
    }

    /// Whether it works at that second, after these looks.
    fn works(at: u64, looks: &[Shown]) -> bool {
        let (mut works, begun) = (Works::default(), Instant::now());
        for (second, work) in looks {
            works.saw(&page(None, *work), begun + Duration::from_secs(*second));
        }
        works.works(begun + Duration::from_secs(at)).is_some()
    }

    #[test]
    fn what_has_moved_a_moment_ago_works() {
        let wrote = |second, written| (second, Some(work(7, written)));
        assert!(works(3, &[wrote(0, 10), wrote(1, 10), wrote(2, 11)]));
        assert!(works(6, &[wrote(0, 10), wrote(2, 11)]), "so few bytes are enough, and so are few looks");
        assert!(!works(7, &[wrote(0, 10), wrote(2, 11)]), "it has stopped since");
        assert!(!works(3, &[wrote(0, 10), wrote(3, 10)]));
        assert!(!works(0, &[wrote(0, 10)]), "nothing to hold it against");
    }

    #[test]
    fn what_does_not_tell_does_not_work() {
        let wrote = |second, written| (second, Some(work(7, written)));
        assert!(!works(3, &[(0, None), (3, None)]), "an older supervisor");
        assert!(!works(3, &[wrote(0, 10), (3, Some(work(8, 900)))]), "one that is begun again and again");
        assert!(works(5, &[wrote(0, 10), (2, None), wrote(4, 20)]), "it could not be looked at once");
        let (mut silent, now) = (Works::default(), Instant::now());
        silent.saw(&page(None, Some(work(7, 10))), now);
        silent.saw(&Look::Unknown("timed out".into()), now);
        assert_eq!(silent.works(now), None);
        for (stalled, is) in [(None, true), (Some("it has been stopped for 5 s"), false)] {
            let mut works = silent.clone();
            works.saw(&page(stalled, Some(work(7, 11))), now);
            assert_eq!(works.works(now).is_some(), is, "{stalled:?}");
        }
    }

    #[test]
    fn one_that_waits_for_a_disk_that_writes_works_and_one_whose_disk_hangs_does_not() {
        let waits = |second, disk| (second, Some(Work { disk, ..work(7, 10) }));
        assert!(works(3, &[waits(0, Some(1)), waits(1, Some(2)), waits(2, Some(3))]));
        assert!(!works(3, &[waits(0, Some(1)), waits(1, Some(1)), waits(2, Some(1))]));
        assert!(!works(3, &[waits(0, None), waits(1, Some(1)), waits(2, None)]), "it came and went");
    }

    /// It may be gone already when FTS is to be asked, and is begun again in a moment.
    #[test]
    fn what_has_moved_is_waited_for_longer_than_it_is_called_at_work() {
        let (mut works, begun) = (Works::default(), Instant::now());
        works.saw(&page(None, Some(work(7, 10))), begun);
        works.saw(&page(None, Some(work(7, 11))), begun);
        works.saw(&page(None, None), begun);
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(works.works(after(6)).is_none() && works.moved_within(COMES_BACK, after(6)));
        assert!(!works.moved_within(COMES_BACK, after(8)));
    }
}
