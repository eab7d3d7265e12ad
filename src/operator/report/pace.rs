//! How often a status is written: at once when it says something new, else at most every five seconds.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

const APART: Duration = Duration::from_secs(5);

/// When each object was last written.
#[derive(Debug, Default)]
pub struct Pace {
    written: BTreeMap<String, Instant>,
}

impl Pace {
    /// Whether a change is worth a write now.
    pub fn due(&self, name: &str, matters: bool) -> bool {
        matters || self.written.get(name).is_none_or(|at| at.elapsed() >= APART)
    }

    pub fn wrote(&mut self, name: &str) {
        self.written.insert(name.to_owned(), Instant::now());
    }

    /// Objects that are gone are forgotten.
    pub fn keep_only(&mut self, still: impl Fn(&str) -> bool) {
        self.written.retain(|name, _| still(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_waits_and_news_do_not() {
        let mut pace = Pace::default();
        assert!(pace.due("r", false));
        pace.wrote("r");
        assert!(!pace.due("r", false) && pace.due("r", true));
        tokio::time::advance(APART).await;
        assert!(pace.due("r", false));
    }
}
