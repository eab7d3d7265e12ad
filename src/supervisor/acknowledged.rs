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

/// What is known, and what of it is on the volume.
#[derive(Default)]
pub struct Acknowledged {
    /// What the mirror has confirmed, and what of it is written down.
    confirmed: Option<Reach>,
    noted: Option<Reach>,
    /// Whether something was acknowledged that no mirror is known to have; `None`: the volume was not asked yet.
    alone: Option<bool>,
    /// Whether the mark stands; `None`: not known.
    marked: Option<bool>,
    /// Looks in a row before which commits were seen to wait for a mirror.
    waited: u32,
    /// The end of the log when they surely did: what was acknowledged alone lies before.
    alone_to: Option<Lsn>,
    writing: Option<(JoinHandle<Result<(), MarkError>>, Writes)>,
}

/// What a writer changes on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Alone,
    Confirmed(Reach),
    NotAlone,
}

/// The settings are written a moment before the server's processes have read them.
const SURELY: u32 = 2;

impl Acknowledged {
    /// What was acknowledged alone may be nowhere else: each look matters.
    pub fn is_alone(&self) -> bool {
        self.alone != Some(false)
    }

    /// By its own settings, right before a look: the incarnation whose commits wait for no mirror.
    pub fn told(&mut self, volume: &Volume, alone: &Look<Option<String>>) {
        if self.alone.is_none() {
            self.alone = Some(volume.is_alone().unwrap_or(true)); // one that cannot be read may stand
            self.marked = self.alone;
        }
        match alone {
            Look::Seen(None) => self.waited = self.waited.saturating_add(1),
            Look::Seen(Some(_)) => (self.alone, self.waited, self.alone_to) = (Some(true), 0, None),
            Look::Unknown(_) => (self.waited, self.alone_to) = (0, None),
        }
        self.write(volume);
    }

    /// How far the mirror is by its own word.
    pub fn seen(&mut self, volume: &Volume, timeline: Option<Timeline>, sights: &[Sight]) {
        let own = sights.iter().filter_map(|(sender, _)| sender.position.own).max();
        let position = |(sender, _): &Sight| sender.position.flush.map(|flush| sender.position.own.map_or(flush, |own| flush.min(own)));
        if self.alone == Some(true) && self.waited >= SURELY && self.alone_to.is_none() {
            self.alone_to = own;
        }
        let (Some(timeline), Some(end)) = (timeline, sights.iter().filter_map(position).max()) else { return };
        if self.confirmed.is_none_or(|before| before.timeline != timeline || before.end < end) {
            self.confirmed = Some(Reach { timeline, end });
        }
        if self.alone_to.is_some_and(|alone_to| end >= alone_to) {
            (self.alone, self.alone_to) = (Some(false), None);
        }
        self.write(volume);
    }

    /// This login never sees how far a mirror is, so what FTS says has to do.
    pub fn hidden(&mut self, volume: &Volume) {
        if self.waited > 0 {
            self.alone = Some(false);
        }
        self.write(volume);
    }

    /// Whether all that is known is on the volume.
    pub fn is_written(&mut self) -> bool {
        self.reap();
        self.writing.is_none() && self.due().is_none()
    }

    /// The next that has to be written: a mark goes last.
    fn due(&self) -> Option<Writes> {
        match (self.alone, self.marked) {
            (Some(true), Some(false) | None) => Some(Writes::Alone),
            _ if self.confirmed != self.noted => self.confirmed.map(Writes::Confirmed),
            (Some(false), Some(true) | None) => Some(Writes::NotAlone),
            (Some(true), Some(true)) | (Some(false), Some(false)) | (None, _) => None,
        }
    }

    fn reap(&mut self) {
        let Some((writing, what)) = self.writing.take_if(|(writing, _)| writing.is_finished()) else { return };
        let written = matches!(writing.now_or_never(), Some(Ok(Ok(()))));
        match what {
            Writes::Alone => self.marked = written.then_some(true),
            Writes::Confirmed(reach) => self.noted = if written { Some(reach) } else { self.noted },
            Writes::NotAlone => self.marked = written.then_some(false),
        }
    }

    /// Beside the loop: a disk that hangs must not hold that up.
    fn write(&mut self, volume: &Volume) {
        self.reap();
        let Some(what) = self.due().filter(|_| self.writing.is_none()) else { return };
        let volume = volume.clone();
        let write = move || {
            let written = match what {
                Writes::Alone => volume.note_alone(),
                Writes::Confirmed(reach) => volume.confirm(reach),
                Writes::NotAlone => volume.forget_alone(),
            };
            written.inspect_err(|error| tracing::warn!(%error, "what was acknowledged could not be written down"))
        };
        self.writing = Some((tokio::task::spawn_blocking(write), what));
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
        written(known, volume).await;
        known.seen(volume, Some(Timeline(1)), sights);
        written(known, volume).await;
        volume.is_alone().unwrap()
    }

    async fn written(known: &mut Acknowledged, volume: &Volume) {
        while !known.is_written() {
            known.write(volume);
            tokio::task::yield_now().await;
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
        assert!(look(&mut known, &volume, WAITS(), &AT(250, 250)).await, "its processes may not have read that setting yet");
        assert!(look(&mut known, &volume, WAITS(), &AT(300, 250)).await, "sent all, and in sync by the catalog");
        let mut again = Acknowledged::default();
        assert!(look(&mut again, &volume, WAITS(), &AT(400, 300)).await && again.is_alone(), "another process knows it by the volume");
        assert!(look(&mut known, &volume, Look::Unknown("its settings".into()), &AT(400, 400)).await, "unknown is not that it waits");
        assert!(look(&mut known, &volume, WAITS(), &AT(450, 450)).await);
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
        known.hidden(&volume);
        written(&mut known, &volume).await;
        assert!(volume.is_alone().unwrap(), "it acknowledges alone");
        assert!(look(&mut known, &volume, WAITS(), &[]).await);
        known.hidden(&volume);
        written(&mut known, &volume).await;
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
        while known.writing.as_ref().is_some_and(|(writing, _)| !writing.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert!(!known.is_written());
        std::fs::rename(&aside, &marks).unwrap();
        assert!(look(&mut known, &volume, ALONE(), &[]).await);
    }
}
