//! What a primary has acknowledged, and how much of it its mirror is known to have: written down on the primary's own volume, as
//! its next repair may find nobody else who tells.
//!
//! FTS has commits wait for a mirror again as soon as that one was sent everything, and calls the pair in sync. Whether it has
//! flushed what was acknowledged without it shows only afterwards. Until then the mark `alone.json` stands.

use futures::FutureExt;
use tokio::task::JoinHandle;

use super::hang::Sight;
use crate::{
    model::{Look, Lsn, Reach, Timeline},
    volume::{Volume, marks::MarkError},
};

/// What is known, and what is being written.
#[derive(Default)]
pub struct Acknowledged {
    /// What the mirror has confirmed and is on the volume, or being written there.
    confirmed: Option<Reach>,
    /// Whether the mark stands; `None`: nobody has looked yet.
    alone: Option<bool>,
    /// Commits waited for a mirror when the last look began.
    waits: bool,
    /// The end of the log when they were first seen to: what was acknowledged alone lies before.
    alone_to: Option<Lsn>,
    noting: Option<JoinHandle<Result<(), MarkError>>>,
}

impl Acknowledged {
    /// What was acknowledged alone may be nowhere else: each look matters.
    pub fn is_alone(&self) -> bool {
        self.alone != Some(false)
    }

    /// By its own settings, right before a look: the incarnation whose commits wait for no mirror.
    pub fn told(&mut self, volume: &Volume, alone: &Look<Option<String>>) {
        if self.is_writing() {
            return;
        }
        self.waits = matches!(alone, Look::Seen(None));
        if !self.waits {
            self.alone_to = None;
        }
        let by_settings = matches!(alone, Look::Seen(Some(_)));
        if by_settings && self.alone != Some(true) {
            self.alone = Some(true);
            self.note(volume, Volume::note_alone);
        } else if self.alone.is_none() {
            self.alone = Some(volume.is_alone().unwrap_or(true)); // one that cannot be read may stand
        }
    }

    /// How far the mirror is by its own word.
    pub fn seen(&mut self, volume: &Volume, timeline: Option<Timeline>, sights: &[Sight]) {
        if self.is_writing() {
            return;
        }
        let own = sights.iter().filter_map(|(sender, _)| sender.position.own).max();
        let position = |(sender, _): &Sight| sender.position.flush.map(|flush| sender.position.own.map_or(flush, |own| flush.min(own)));
        if self.alone == Some(true) && self.waits && self.alone_to.is_none() {
            self.alone_to = own;
        }
        let (Some(timeline), Some(end)) = (timeline, sights.iter().filter_map(position).max()) else { return };
        let (seen, has_all) = (Reach { timeline, end }, self.alone_to.is_some_and(|alone_to| end >= alone_to));
        if has_all {
            (self.alone, self.alone_to, self.confirmed) = (Some(false), None, Some(seen));
            self.note(volume, move |volume| volume.confirm(seen).and_then(|()| volume.forget_alone()));
        } else if self.confirmed.is_none_or(|before| before.timeline != timeline || before.end < end) {
            self.confirmed = Some(seen);
            self.note(volume, move |volume| volume.confirm(seen));
        }
    }

    /// No login sees how far a mirror is, so what FTS says has to do.
    pub fn unseen(&mut self, volume: &Volume) {
        if self.alone == Some(true) && self.waits && !self.is_writing() {
            self.alone = Some(false);
            self.note(volume, Volume::forget_alone);
        }
    }

    pub fn is_writing(&mut self) -> bool {
        let Some(noting) = self.noting.take_if(|noting| noting.is_finished()) else { return self.noting.is_some() };
        if !matches!(noting.now_or_never(), Some(Ok(Ok(())))) {
            (self.confirmed, self.alone) = (None, None); // once more
        }
        false
    }

    /// Beside the loop: a disk that hangs must not hold that up.
    fn note(&mut self, volume: &Volume, write: impl FnOnce(&Volume) -> Result<(), MarkError> + Send + 'static) {
        let volume = volume.clone();
        self.noting = Some(tokio::task::spawn_blocking(move || {
            write(&volume).inspect_err(|error| tracing::warn!(%error, "what was acknowledged could not be written down"))
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        greenplum::replication::{Position, Sender},
        supervisor::hang::Outside,
    };

    const AT: fn(u64, u64) -> Vec<Sight> = |own, flush| {
        let position = Position { own: Some(Lsn(own)), sent: Some(Lsn(own)), write: Some(Lsn(flush)), flush: Some(Lsn(flush)) };
        let sender = Sender { pid: 7, started: "noon".into(), state: "streaming".into(), client: None, position };
        vec![(sender, Outside { works: true, unread: 0 })]
    };
    const ALONE: fn() -> Look<Option<String>> = || Look::Seen(Some("n1".into()));
    const WAITS: fn() -> Look<Option<String>> = || Look::Seen(None);

    /// One look, and what stands on the volume after it.
    async fn look(known: &mut Acknowledged, volume: &Volume, told: Look<Option<String>>, sights: &[Sight]) -> bool {
        known.told(volume, &told);
        written(known).await;
        known.seen(volume, Some(Timeline(1)), sights);
        written(known).await;
        volume.is_alone().unwrap()
    }

    async fn written(known: &mut Acknowledged) {
        while known.is_writing() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_was_acknowledged_alone_stands_until_the_mirror_has_flushed_it() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(!look(&mut known, &volume, WAITS(), &AT(90, 90)).await && !known.is_alone());
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
        assert!(look(&mut known, &volume, ALONE(), &AT(200, 200)).await, "it acknowledges alone still");
        assert!(look(&mut known, &volume, WAITS(), &AT(300, 90)).await, "sent all, and in sync by the catalog");
        let mut again = Acknowledged::default();
        assert!(look(&mut again, &volume, WAITS(), &AT(400, 300)).await && again.is_alone(), "another process knows it by the volume");
        assert!(look(&mut known, &volume, Look::Unknown("its settings".into()), &AT(400, 400)).await, "unknown is not that it waits");
        assert!(look(&mut known, &volume, WAITS(), &AT(500, 499)).await, "what came meanwhile may have been acknowledged alone");
        assert!(!look(&mut known, &volume, WAITS(), &AT(900, 500)).await && !known.is_alone());
        assert_eq!(volume.confirmed().unwrap(), Some(Reach { timeline: Timeline(1), end: Lsn(500) }));
    }

    #[tokio::test]
    async fn where_no_login_sees_positions_it_ends_with_what_fts_says() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut known = Acknowledged::default();
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
        known.unseen(&volume);
        written(&mut known).await;
        assert!(volume.is_alone().unwrap(), "it acknowledges alone");
        assert!(look(&mut known, &volume, WAITS(), &[]).await);
        known.unseen(&volume);
        written(&mut known).await;
        assert!(!volume.is_alone().unwrap());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let (marks, aside) = (volume.marks_folder().to_owned(), dir.path().join("aside"));
        std::fs::rename(&marks, &aside).unwrap();
        let mut known = Acknowledged::default();
        known.told(&volume, &ALONE());
        written(&mut known).await;
        std::fs::rename(&aside, &marks).unwrap();
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
    }
}
