//! The hold: asks the supervisor to stop postgres and give up the lock, for as long as we live.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    Work,
    fault::{Classified, Fault, of_file_system},
};
use crate::volume::{
    Held, Hold, LockError, Volume,
    marks::{Ack, MarkError},
};
use model::FailureClass;

/// The supervisor takes a hold for dead after 60 s without a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A supervisor looks every 250 ms, reads the catalog, and stops postgres: fast, then harder.
const PATIENCE: Duration = Duration::from_mins(2);

/// The volume was not given.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("the supervisor does not give up the volume: {0}")]
    Refused(String),
    #[error("the volume's lock did not become free within {seconds} s ({who})")]
    Busy { who: String, seconds: u64 },
    #[error("{0}")]
    Elsewhere(String),
    #[error("{text}")]
    Unusable { text: String, class: FailureClass },
}

impl Classified for HoldError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Refused(_) => FailureClass::WorldMoved,
            Self::Busy { .. } | Self::Elsewhere(_) => FailureClass::LockBusy,
            Self::Unusable { class, .. } => *class,
        }
    }
}

/// A hold that stands and beats. Dropping it ends it, whatever happened: what must keep postgres down
/// after a failure is the copy mark, not the hold.
pub struct Holding {
    volume: Volume,
    attempt: String,
    stop: Arc<AtomicBool>,
    beating: Option<std::thread::JoinHandle<()>>,
}

impl Holding {
    /// Writes the mark and keeps it alive.
    pub fn begin(work: &Work) -> Result<Self, Fault> {
        let hold = Hold {
            attempt: work.attempt.id.clone(),
            dbid: work.attempt.target.dbid,
            reason: format!("{} repair, {}", work.attempt.repair, work.attempt.recovery),
            heartbeat: Timestamp::now(),
        };
        work.volume.remove("ack")?;
        work.volume.write("hold", &hold)?;
        let stop = Arc::new(AtomicBool::new(false));
        let beating = beat(work.volume.clone(), hold, Arc::clone(&stop));
        Ok(Self { volume: work.volume.clone(), attempt: work.attempt.id.clone(), stop, beating: Some(beating) })
    }

    /// Waits for the lock. A free lock needs no acknowledgement: crash loop, or the container is gone.
    pub async fn take_lock(&self, work: &Work) -> Result<Held, Fault> {
        let until = Instant::now() + PATIENCE;
        loop {
            let who = match self.volume.try_lock(&work.holder(), None) {
                Ok(lock) => return Ok(lock),
                Err(LockError::Busy(who)) => who,
                Err(LockError::Elsewhere(who)) => return Err(HoldError::Elsewhere(LockError::Elsewhere(who).to_string()).into()),
                Err(error @ LockError::Io { .. }) => unusable(&error)?,
            };
            if let Some(why) = self.refused(&work.attempt.id) {
                return Err(HoldError::Refused(why).into());
            }
            if Instant::now() >= until {
                return Err(HoldError::Busy { who, seconds: PATIENCE.as_secs() }.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn refused(&self, attempt: &str) -> Option<String> {
        let ack: Ack = self.volume.read("ack").ok().flatten()?;
        ack.refused.filter(|_| ack.attempt == attempt)
    }

    fn finish(&mut self) -> Result<(), MarkError> {
        let Some(beating) = self.beating.take() else { return Ok(()) };
        self.stop.store(true, Ordering::Relaxed);
        beating.thread().unpark();
        let _ = beating.join(); // else a last heartbeat could bring the mark back
        if is_ours(&self.volume, &self.attempt) { self.volume.remove("hold") } else { Ok(()) }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the hold could not be ended; the supervisor ends it when its heartbeat is old");
        }
    }
}

/// A lock that cannot be used for want of room or rights does not come by waiting; any other error may pass.
fn unusable(error: &LockError) -> Result<String, HoldError> {
    let text = error.to_string();
    let class = match error {
        LockError::Io { source, .. } => of_file_system(source),
        LockError::Busy(_) | LockError::Elsewhere(_) => FailureClass::LockBusy,
    };
    let lasts = matches!(class, FailureClass::NoRoom | FailureClass::Environment);
    if lasts { Err(HoldError::Unusable { text, class }) } else { Ok(text) }
}

/// The mark is still that of this attempt: a successor's is not ours to renew or to end.
fn is_ours(volume: &Volume, attempt: &str) -> bool {
    volume.marks().hold.is_some_and(|hold| hold.attempt == attempt)
}

fn beat(volume: Volume, mut hold: Hold, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(HEARTBEAT);
            hold.heartbeat = Timestamp::now();
            if !stop.load(Ordering::Relaxed)
                && is_ours(&volume, &hold.attempt)
                && let Err(error) = volume.write("hold", &hold)
            {
                tracing::warn!(%error, "the heartbeat could not be written");
            }
        }
    })
}
