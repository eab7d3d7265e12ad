//! What may hang for minutes runs beside the loop: FTS probes and the dispatch proof. One of each at a time.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

use greenplum::{Login, Server, Session, fts};
use model::{Content, Look, world::Undispatched};

/// Between the first two beginnings of the same errand; each further one waits twice as long, up to the longest.
const APART: Duration = Duration::from_secs(1);
const LONGEST_APART: Duration = Duration::from_secs(5);
/// Bound of one errand, a little over the longest statement's own.
const LONGEST: Duration = Duration::from_secs(160);

/// One kind of errand: at most one runs, and what one did not bring about the next one is later for.
#[derive(Debug)]
struct Errand<T> {
    task: Option<JoinHandle<T>>,
    begun: Option<Instant>,
    /// How often in a row it was begun.
    times: u32,
}

impl<T> Default for Errand<T> {
    fn default() -> Self {
        Self { task: None, begun: None, times: 0 }
    }
}

impl<T: Send + 'static> Errand<T> {
    fn is_due(&self) -> bool {
        let apart = APART.saturating_mul(1 << self.times.saturating_sub(1).min(5)).min(LONGEST_APART);
        self.task.is_none() && self.begun.is_none_or(|begun| begun.elapsed() >= apart)
    }

    /// Nobody needs it now: the next time it is asked for, it is for something new.
    fn rest(&mut self) {
        self.times = 0;
    }

    fn begin(&mut self, wake: &Arc<Notify>, work: impl Future<Output = T> + Send + 'static) {
        let wake = wake.clone();
        (self.begun, self.times) = (Some(Instant::now()), self.times.saturating_add(1));
        self.task = Some(tokio::spawn(async move {
            let done = work.await;
            wake.notify_one();
            done
        }));
    }

    /// The result, once, when there is one.
    async fn take(&mut self) -> Option<Result<T, String>> {
        let task = self.task.take_if(|task| task.is_finished())?;
        Some(task.await.map_err(|e| e.to_string()))
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The errands of one cluster.
#[derive(Debug, Default)]
pub struct Background {
    probe: Errand<Option<String>>,
    /// Why FTS could not be asked to look, when it was last tried.
    pub unprobed: Option<String>,
    dispatch: Errand<Look<Vec<Content>, Undispatched>>,
    answered: Option<Look<Vec<Content>, Undispatched>>,
}

impl Background {
    /// There is no reason to have FTS look.
    pub fn no_probe(&mut self) {
        self.probe.rest();
        self.unprobed = None;
    }

    /// Has FTS look now, without waiting for it.
    pub async fn probe(&mut self, server: &Server, login: &Login, why: &str, wake: &Arc<Notify>) {
        if let Some(done) = self.probe.take().await {
            self.unprobed = done.unwrap_or_else(Some);
        }
        if !self.probe.is_due() {
            return;
        }
        tracing::info!(%why, "FTS is asked to look now");
        let (server, login) = (server.clone(), login.clone());
        self.probe.begin(wake, async move {
            let asked = async { fts::request_probe(&Session::dispatch(&server, &login).await?).await };
            let failed = match timeout(LONGEST, asked).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("FTS could not be asked to look: {error}")),
                Err(_) => Some(format!("FTS did not end its look within {} s", LONGEST.as_secs())),
            };
            failed.as_ref().map_or_else(|| tracing::debug!("FTS has looked"), |why| tracing::warn!("{why}"));
            failed
        });
    }

    /// The newest dispatch proof, and another one is begun when it is time; forgotten while nobody needs it.
    pub async fn dispatch(&mut self, needed: bool, server: &Server, login: &Login, wake: &Arc<Notify>) -> Look<Vec<Content>, Undispatched> {
        if let Some(done) = self.dispatch.take().await {
            self.answered = Some(done.unwrap_or_else(|why| Look::Unknown(why.into())));
        }
        if !needed {
            self.answered = None;
            self.dispatch.rest();
            return Look::Unknown("not asked while nothing is being proven".into());
        }
        if self.dispatch.is_due() {
            let (server, login) = (server.clone(), login.clone());
            self.dispatch.begin(wake, async move {
                let asked = async { fts::dispatched_contents(&Session::dispatch(&server, &login).await?).await };
                match timeout(LONGEST, asked).await {
                    Ok(Ok(contents)) => Look::Seen(contents),
                    Ok(Err(error)) => Look::Unknown(fts::undispatched(&error)),
                    Err(_) => Look::Unknown(Undispatched::tried(format!("no answer within {} s", LONGEST.as_secs()), vec![])),
                }
            });
        }
        self.answered.clone().unwrap_or_else(|| Look::Unknown("asked just now".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_errand_at_a_time_and_not_too_often() {
        let wake = Arc::new(Notify::new());
        let mut errand = Errand::<u8>::default();
        assert!(errand.is_due());
        errand.begin(&wake, async { 7 });
        assert!(!errand.is_due(), "it runs");
        wake.notified().await;
        while !errand.task.as_ref().unwrap().is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(errand.take().await, Some(Ok(7)));
        assert!(!errand.is_due(), "it began just now");
        tokio::time::advance(APART).await;
        assert!(errand.is_due());
        assert_eq!(errand.take().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_brings_nothing_about_is_tried_ever_more_slowly_and_what_is_new_at_once_again() {
        let wake = Arc::new(Notify::new());
        let mut errand = Errand::<u8>::default();
        for apart in [1, 2, 4, 5, 5] {
            errand.begin(&wake, async { 7 });
            errand.task = None;
            tokio::time::advance(Duration::from_millis(apart * 1000 - 1)).await;
            assert!(!errand.is_due(), "before {apart} s");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(errand.is_due(), "after {apart} s");
        }
        errand.begin(&wake, async { 7 });
        errand.task = None;
        errand.rest();
        tokio::time::advance(APART).await;
        assert!(errand.is_due());
    }
}
