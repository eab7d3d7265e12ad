//! What a primary has acknowledged, and how much of it its mirror is known to have: written down on the primary's own volume, as
//! its next repair may find nobody else who tells.
//!
//! FTS has commits wait for a mirror again as soon as that one was sent everything, and calls the pair in sync. Whether it has
//! flushed what was acknowledged without it shows only afterwards. Until then the mark `alone.json` stands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{task::JoinHandle, time::Instant};

use crate::volume::{Volume, commits::Alone};
use greenplum::replication::Position;
use model::{Look, Reach, Timeline};

/// What is known, and what of it is on the volume.
#[derive(Default)]
pub struct Acknowledged {
    /// What the mirror has confirmed, and what of it is written down.
    confirmed: Option<Reach>,
    noted: Option<Reach>,
    /// What was acknowledged that no mirror is known to have; `None`: the volume was not asked yet.
    alone: Option<Alone>,
    /// What the mark says of it; `None`: not known.
    marked: Option<Alone>,
    /// Since when commits were seen to wait for a mirror.
    waits: Option<Instant>,
    /// They surely did when the last look at the mirror began.
    sure: bool,
    /// Positions were shown in this run.
    sees: bool,
    /// Since when each look showed none, though there was a walsender to look at.
    blind: Option<Instant>,
    writing: Option<JoinHandle<Vec<Writes>>>,
    /// This run is over: what is not written by then is of no use to the next one.
    over: Arc<AtomicBool>,
}

impl Drop for Acknowledged {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// What a writer changes on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Mark(Alone),
    Confirmed(Reach),
}

/// The settings are written a moment before the server's processes have read them.
const SURELY: Duration = Duration::from_secs(1);
/// A mirror that lives has confirmed by then what it was sent before.
const SETTLES: Duration = Duration::from_secs(10);
/// So long a login that is refused, or a server that does not answer, may be of a moment.
const UNSEEN: Duration = Duration::from_mins(10);

impl Acknowledged {
    /// What was acknowledged alone may be nowhere else: each look matters.
    pub fn is_alone(&self) -> bool {
        self.alone != Some(Alone::Nothing)
    }

    /// Commits are seen to wait for a mirror.
    pub fn commits_wait(&self) -> bool {
        self.waits.is_some()
    }

    /// Commits wait for a mirror again, and what was acknowledged before is not known to be there yet: a moment, if all is well.
    pub fn is_settling(&self) -> bool {
        self.is_alone() && self.waits.is_some_and(|since| since.elapsed() < SETTLES)
    }

    /// By its own settings: the incarnation whose commits wait for no mirror.
    pub fn told(&mut self, volume: &Volume, alone: &Look<Option<String>>) {
        if self.alone.is_none() {
            self.marked = volume.alone().ok();
            self.alone = Some(self.marked.unwrap_or(Alone::Anything)); // a mark that cannot be read may stand
        }
        match alone {
            Look::Seen(None) => drop(self.waits.get_or_insert_with(Instant::now)),
            // What cannot be read may have been told in between.
            Look::Seen(Some(_)) | Look::Unknown(_) => (self.alone, self.waits, self.sure) = (Some(Alone::Anything), None, false),
        }
        self.write(volume);
    }

    /// A look at the mirror begins.
    pub fn looks(&mut self) {
        self.sure = self.waits.is_some_and(|since| since.elapsed() >= SURELY);
    }

    /// How far the mirror is by its own word.
    pub fn seen(&mut self, volume: &Volume, timeline: Option<Timeline>, positions: &[Position]) {
        let own = positions.iter().filter_map(|position| position.own).max();
        let confirmed = |position: &Position| position.flush.map(|flush| position.own.map_or(flush, |own| flush.min(own)));
        (self.sees, self.blind) = (self.sees || !positions.is_empty(), None);
        let Some(timeline) = timeline else { return };
        // What was written down in the life before a promotion has no end that could be seen here.
        let open = match self.alone {
            Some(Alone::Anything) => true,
            Some(Alone::Before(before)) => before.timeline != timeline,
            Some(Alone::Nothing) | None => false,
        };
        if open
            && self.sure
            && let Some(end) = own
        {
            self.alone = Some(Alone::Before(Reach { timeline, end }));
        }
        if let Some(end) = positions.iter().filter_map(confirmed).max() {
            self.has_confirmed(Reach { timeline, end });
        }
        self.write(volume);
    }

    fn has_confirmed(&mut self, now: Reach) {
        if self.confirmed.is_none_or(|before| before.timeline != now.timeline || before.end < now.end) {
            self.confirmed = Some(now);
        }
        if matches!(self.alone, Some(Alone::Before(before)) if before.timeline == now.timeline && now.end >= before.end) {
            self.alone = Some(Alone::Nothing);
        }
    }

    /// This login never sees how far a mirror is, so what FTS says has to do, once a mirror that lives has confirmed what it was sent.
    pub fn hidden(&mut self, volume: &Volume) {
        self.by_fts(volume, SETTLES);
    }

    /// It is not seen now; where it was never seen, what FTS says has to do in the end.
    pub fn unseen(&mut self, volume: &Volume) {
        self.by_fts(volume, UNSEEN);
    }

    /// The mirror may have connected only now, however long commits have waited for one.
    fn by_fts(&mut self, volume: &Volume, patience: Duration) {
        let blind = self.blind.get_or_insert_with(Instant::now).elapsed();
        if !self.sees && blind >= patience && self.waits.is_some_and(|since| since.elapsed() >= patience) {
            self.alone = Some(Alone::Nothing);
        }
        self.write(volume);
    }

    /// Whether all that is known is on the volume.
    pub fn is_written(&mut self) -> bool {
        self.reap();
        self.writing.is_none() && self.due().is_empty()
    }

    /// What has to be written, in its order: less than the mark says goes last.
    fn due(&self) -> Vec<Writes> {
        let mark = self.alone.filter(|_| self.marked != self.alone).map(Writes::Mark);
        let confirmed = self.confirmed.filter(|_| self.confirmed != self.noted).map(Writes::Confirmed);
        if mark == Some(Writes::Mark(Alone::Anything)) {
            return mark.into_iter().collect();
        }
        confirmed.into_iter().chain(mark).collect()
    }

    fn reap(&mut self) {
        let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) else { return };
        for written in writing.now_or_never().and_then(Result::ok).unwrap_or_default() {
            match written {
                Writes::Mark(alone) => self.marked = Some(alone),
                Writes::Confirmed(reach) => self.noted = Some(reach),
            }
        }
    }

    /// Beside the loop: a disk that hangs must not hold that up.
    fn write(&mut self, volume: &Volume) {
        self.reap();
        let due = self.due();
        if self.writing.is_some() || due.is_empty() {
            return;
        }
        if due.iter().any(|what| matches!(what, Writes::Mark(_))) {
            self.marked = None; // one that fails may stand or not
        }
        let volume = volume.clone();
        let over = self.over.clone();
        let goes_on = move |what: &Writes| !over.load(Ordering::Acquire) && written(&volume, *what);
        self.writing = Some(tokio::task::spawn_blocking(move || due.into_iter().take_while(goes_on).collect()));
    }
}

fn written(volume: &Volume, what: Writes) -> bool {
    let written = match what {
        Writes::Mark(alone) => volume.note_alone(alone),
        Writes::Confirmed(reach) => volume.confirm(reach),
    };
    written.inspect_err(|error| tracing::warn!(%error, "what was acknowledged could not be written down")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Lsn;

    const AT: fn(u64, u64) -> Vec<Position> =
        |own, flush| vec![Position { own: Some(Lsn(own)), sent: Some(Lsn(own)), write: Some(Lsn(flush)), flush: Some(Lsn(flush)) }];
    const ALONE: fn() -> Look<Option<String>> = || Look::Seen(Some("n1".into()));
    const BEFORE: fn(u64) -> Alone = |end| Alone::Before(Reach { timeline: Timeline(1), end: Lsn(end) });
    const WAITS: fn() -> Look<Option<String>> = || Look::Seen(None);

    /// One look, if it shows something, and what stands on the volume after it.
    async fn look(known: &mut Acknowledged, volume: &Volume, told: Look<Option<String>>, positions: &[Position]) -> bool {
        tokio::time::advance(SURELY / 2).await;
        known.told(volume, &told);
        written(known, volume).await;
        known.looks();
        if !positions.is_empty() {
            known.seen(volume, Some(Timeline(1)), positions);
        }
        written(known, volume).await;
        volume.alone().unwrap() != Alone::Nothing
    }

    async fn written(known: &mut Acknowledged, volume: &Volume) {
        while !known.is_written() {
            known.write(volume);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_acknowledged_alone_stands_until_the_mirror_has_flushed_it() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(!look(&mut known, &volume, WAITS(), &AT(90, 90)).await && !known.is_alone());
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
        assert!(look(&mut known, &volume, ALONE(), &AT(200, 200)).await, "it acknowledges alone still");
        assert!(look(&mut known, &volume, WAITS(), &AT(250, 250)).await, "its processes may not have read that setting yet");
        assert!(look(&mut known, &volume, WAITS(), &AT(260, 260)).await, "for a second");
        assert_eq!(volume.alone().unwrap(), Alone::Anything);
        assert!(look(&mut known, &volume, WAITS(), &AT(300, 250)).await, "sent all, and in sync by the catalog");
        assert_eq!(volume.alone().unwrap(), BEFORE(300), "what came later was acknowledged by the mirror, too");
        let mut again = Acknowledged::default();
        assert!(look(&mut again, &volume, WAITS(), &AT(400, 299)).await && again.is_alone(), "another process knows it by the volume");
        assert!(look(&mut known, &volume, Look::Unknown("its settings".into()), &AT(400, 400)).await, "unknown is not that it waits");
        assert_eq!(volume.alone().unwrap(), Alone::Anything, "it may have acknowledged alone meanwhile");
        assert!(look(&mut known, &volume, WAITS(), &AT(440, 440)).await && look(&mut known, &volume, WAITS(), &AT(450, 450)).await);
        assert!(look(&mut known, &volume, WAITS(), &AT(500, 499)).await, "what came meanwhile may have been acknowledged alone");
        assert!(known.is_settling());
        tokio::time::advance(SETTLES).await;
        assert!(!known.is_settling(), "it is looked at no more often than any other");
        assert!(!look(&mut known, &volume, WAITS(), &AT(900, 500)).await && !known.is_alone());
        assert_eq!(volume.confirmed().unwrap(), Some(Reach { timeline: Timeline(1), end: Lsn(500) }));
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_login_sees_positions_it_ends_with_what_fts_says() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
        known.hidden(&volume);
        written(&mut known, &volume).await;
        assert_ne!(volume.alone().unwrap(), Alone::Nothing, "it acknowledges alone");
        for expected in [Alone::Anything, Alone::Nothing] {
            assert!(look(&mut known, &volume, WAITS(), &[]).await);
            known.hidden(&volume);
            written(&mut known, &volume).await;
            assert_eq!(volume.alone().unwrap(), expected, "a mirror that lives needs a moment to confirm");
            tokio::time::advance(SETTLES).await;
        }
    }

    /// A password that is being replaced, say.
    #[tokio::test(start_paused = true)]
    async fn a_login_that_was_refused_takes_back_nothing_that_positions_had_shown() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(look(&mut known, &volume, ALONE(), &[]).await && look(&mut known, &volume, WAITS(), &[]).await);
        tokio::time::advance(UNSEEN).await; // with no mirror all the while
        for expected in [Alone::Anything, Alone::Nothing] {
            assert!(look(&mut known, &volume, WAITS(), &[]).await);
            known.unseen(&volume);
            written(&mut known, &volume).await;
            assert_eq!(volume.alone().unwrap(), expected, "nobody has ever seen it here");
            tokio::time::advance(UNSEEN).await;
        }
        assert!(look(&mut known, &volume, ALONE(), &AT(300, 250)).await && look(&mut known, &volume, WAITS(), &AT(300, 250)).await);
        tokio::time::advance(UNSEEN * 2).await;
        known.hidden(&volume);
        known.unseen(&volume);
        written(&mut known, &volume).await;
        assert_ne!(volume.alone().unwrap(), Alone::Nothing, "the mirror had not flushed it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_may_stand() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(!look(&mut known, &volume, WAITS(), &AT(90, 90)).await);
        assert!(look(&mut known, &volume, Look::Unknown("no file handles".into()), &AT(90, 90)).await, "it may have been told meanwhile");
        std::fs::write(volume.marks_folder().join("alone.json"), "{").unwrap();
        let mut again = Acknowledged::default();
        assert!(look(&mut again, &volume, WAITS(), &[]).await, "written anew, as it can be read then");
        assert_eq!(volume.alone().unwrap(), Alone::Anything);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_down_before_a_promotion_ends_on_the_timeline_of_now() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        volume.note_alone(Alone::Before(Reach { timeline: Timeline(7), end: Lsn(100) })).unwrap();
        let mut known = Acknowledged::default();
        for _ in 0..2 {
            assert!(look(&mut known, &volume, WAITS(), &AT(200, 200)).await);
        }
        assert!(!look(&mut known, &volume, WAITS(), &AT(200, 200)).await);
    }

    #[tokio::test]
    async fn a_run_that_is_over_writes_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        known.alone = Some(Alone::Anything);
        known.over.store(true, Ordering::Release);
        known.write(&volume);
        known.writing.take().unwrap().await.unwrap();
        assert_eq!(volume.alone().unwrap(), Alone::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let (marks, aside) = (volume.marks_folder().to_owned(), dir.path().join("aside"));
        std::fs::rename(&marks, &aside).unwrap();
        let mut known = Acknowledged::default();
        known.told(&volume, &ALONE());
        while known.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert!(!known.is_written());
        std::fs::rename(&aside, &marks).unwrap();
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
    }
}
