//! What keeps a supervisor from doing what it decided, and passes: a full disk, no room for one more process, a file that
//! cannot be read for a moment. It is told and tried again. A supervisor that ended for it would take every process of
//! its container with it, and be started later and later.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Config, Round, Signals, Supervisor, Woken, board::Board, process};
use crate::volume::{Held, Marks, Volume, VolumeError, layout, mount};
use model::{InstanceState, error};

/// Until it is tried again, doubled with each that failed in a row.
const SOON: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);

fn pause(faults: u32) -> Duration {
    SOON.saturating_mul(1 << faults.min(10)).min(LATEST)
}

/// Opens the volume; what passes is waited for. `None`: we were told to end.
///
/// # Errors
/// What only another configuration of the pod changes.
pub(super) async fn open(config: &Config, board: &Board, signals: &mut Signals) -> Result<Option<Volume>, VolumeError> {
    let mut faults = 0;
    loop {
        let error = match Volume::open(&config.data_directory) {
            Ok(volume) => return Ok(Some(volume)),
            Err(error @ (VolumeError::NotAbsolute(_) | VolumeError::DataDirIsMountRoot(_))) => return Err(error),
            Err(error @ (VolumeError::Marks { .. } | VolumeError::Look { .. })) => error,
        };
        let why = error::chain(&error);
        tracing::warn!(why, "the volume cannot be opened; it is tried again");
        board.counts.round_faults.inc();
        board.show(|page| (page.state, page.detail) = (InstanceState::Deciding, why));
        if told_to_end(signals, pause(faults)).await {
            return Ok(None);
        }
        faults = faults.saturating_add(1);
    }
}

/// Waits for `patience`; whether we were told to end meanwhile.
async fn told_to_end(signals: &mut Signals, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while !signals.ending {
        tokio::select! {
            woken = signals.next() => match woken {
                Woken::ToEnd => {}
                Woken::ByChild => drop(process::reap(None)),
            },
            () = sleep(until.saturating_duration_since(Instant::now())) => return false,
        }
    }
    true
}

impl Supervisor {
    /// What was decided could not be carried out, and nothing of postgres runs. Says why, waits, and decides anew.
    pub(super) async fn after_fault(&mut self, error: &anyhow::Error) -> Round {
        let patience = pause(self.memory.faults);
        self.memory.faults = self.memory.faults.saturating_add(1);
        let seconds = patience.as_secs_f32();
        let why = format!("{}; it is tried again after {seconds} s", error::chain(error.as_ref()));
        tracing::warn!(why, "what was decided could not be carried out");
        self.board.counts.round_faults.inc();
        let state = self.shown(InstanceState::BackingOff);
        self.board.show(|page| (page.state, page.detail, page.serves, page.receiving) = (state, why, None, false));
        if told_to_end(&mut self.signals, patience).await { Round::End } else { Round::Again }
    }

    /// What a lock on this volume is worth. One that is worth nothing keeps no postgres down: it is told, and nothing is
    /// handed over on its word.
    pub(super) fn judge_mount(&mut self) {
        let why = mount::worthless_lock(self.volume.data());
        if let Some(why) = why.as_ref().filter(|_| why != self.memory.shared_volume) {
            tracing::warn!(why, "the volume's lock proves nothing: nothing is repaired here");
        }
        let uncopied = layout::uncopied(self.volume.data());
        self.board.show(|page| {
            page.untrusted_lock.clone_from(&why);
            page.uncopied = uncopied;
        });
        self.memory.shared_volume = why;
    }

    /// The lock while postgres runs: whether it still guards the volume, and what to tell when not.
    pub(super) fn look_after(&mut self, lock: &mut Held) {
        let fault = lock.fault();
        let why = self.memory.shared_volume.clone().or(fault);
        if why == self.board.page().untrusted_lock {
            return;
        }
        if let Some(why) = &why {
            tracing::warn!(why, "the volume's lock does not guard it: nothing is repaired here");
        } else {
            tracing::info!("the volume's lock guards it again");
        }
        self.board.show(|page| page.untrusted_lock = why);
    }

    /// The marks that count: where the lock proves nothing, the volume is handed over to nobody, and whoever asked is told.
    pub(super) fn marks(&self) -> Marks {
        let mut marks = self.volume.marks();
        if marks.hold.is_some()
            && let Some(why) = self.board.page().untrusted_lock
        {
            self.refuse_hold(&format!("the volume's lock proves nothing, so it is handed over to nobody: {why}"));
            marks.hold = None;
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_later_and_at_last_every_quarter_of_a_minute() {
        let pauses: Vec<_> = (0..7).map(|faults| pause(faults).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15000, 15000]);
        assert_eq!(pause(u32::MAX), LATEST);
    }
}
