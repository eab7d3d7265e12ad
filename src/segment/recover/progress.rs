//! One JSON line per second on stdout: step, bytes, rate, time left.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::activity::Whose;
use greenplum::{Session, awaited::Awaited};
use model::{Progress, Step};

/// The rate is taken over this many seconds.
const WINDOW: usize = 10;

struct State {
    step: Step,
    bytes: u64,
    total: Option<u64>,
    /// Bytes at the last seconds, oldest first.
    seconds: VecDeque<u64>,
    changed: Instant,
    /// How often it did.
    moves: u64,
    /// Bytes that a running tool has read and written.
    worked: Option<(u64, u64)>,
    /// What it waits for on the source.
    awaited: Option<Awaited>,
    /// Whose doing is its own.
    whose: Whose,
}

/// Where the steps say how far they are.
#[derive(Clone)]
pub struct Reporter {
    state: Arc<Mutex<State>>,
}

impl Reporter {
    /// Begins to print.
    pub fn start() -> Self {
        let reporter = Self { state: Arc::new(Mutex::new(State::new(Step::Proving))) };
        let printing = reporter.clone();
        std::thread::spawn(move || {
            loop {
                printing.print();
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        reporter
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next step begins; said at once, for whoever follows the log.
    pub fn step(&self, step: Step) {
        self.with(|state| {
            state.step = step;
            state.moved();
        });
        self.print();
    }

    pub fn current(&self) -> Step {
        self.with(|state| state.step)
    }

    pub fn bytes(&self) -> u64 {
        self.with(|state| state.bytes)
    }

    /// The copy has come so far.
    pub fn copied(&self, bytes: u64, total: u64) {
        self.with(|state| {
            if bytes != state.bytes {
                state.moved();
            }
            (state.bytes, state.total) = (bytes, Some(total));
            if state.awaited == Some(Awaited::Backup) {
                state.awaited = None; // it has begun to come
            }
        });
    }

    /// Something moved that is no byte of the copy: a line was said.
    pub fn moved(&self) {
        self.with(State::moved);
    }

    /// A tool that runs has read and written so much.
    pub fn worked(&self, read: u64, written: u64) {
        self.with(|state| state.worked = Some((read, written)));
    }

    /// A tool runs that is at work while these processes are, or while the source is at what it waits for.
    pub fn runs(&self, whose: Whose, awaited: Option<Awaited>) {
        self.with(|state| {
            (state.whose, state.awaited) = (whose, awaited);
            state.moved();
        });
    }

    /// Looks whether the source works for a tool that waits for it; what cannot be asked is no sign of it.
    pub async fn works(&self, source: &Session) {
        let Some(what) = self.awaited() else { return };
        match what.is_worked_for(source).await {
            Ok(true) => self.works_for(what),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "whether the source works for a tool that waits for it is not known"),
        }
    }

    /// The source was seen to work for a tool that waits for this.
    pub fn works_for(&self, what: Awaited) {
        self.with(|state| {
            if state.awaited == Some(what) {
                state.moved();
            }
        });
    }

    /// What the tool has started is all that it waits for by now.
    pub fn waits_for_its_own(&self) {
        self.with(|state| state.whose = Whose::All);
    }

    pub fn whose(&self) -> Whose {
        self.with(|state| state.whose)
    }

    /// What a running tool waits for on the source, if anything.
    pub fn awaited(&self) -> Option<Awaited> {
        self.with(|state| state.awaited)
    }

    /// No tool runs.
    pub fn idles(&self) {
        self.with(|state| (state.worked, state.awaited) = (None, None));
    }

    /// How long nothing has moved.
    pub fn still_for(&self) -> Duration {
        self.with(|state| state.changed.elapsed())
    }

    fn print(&self) {
        let progress = self.with(State::progress);
        if let Ok(line) = serde_json::to_string(&progress) {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

impl State {
    fn new(step: Step) -> Self {
        let (seconds, changed) = (VecDeque::new(), Instant::now());
        Self { step, bytes: 0, total: None, seconds, changed, moves: 0, worked: None, awaited: None, whose: Whose::All }
    }

    fn moved(&mut self) {
        (self.changed, self.moves) = (Instant::now(), self.moves + 1);
    }

    fn progress(&mut self) -> Progress {
        if self.step == Step::Copying {
            self.seconds.push_back(self.bytes);
            if self.seconds.len() > WINDOW {
                self.seconds.pop_front();
            }
        }
        let span = self.seconds.len().saturating_sub(1).max(1) as u64;
        let rate = self.bytes.saturating_sub(self.seconds.front().copied().unwrap_or(0)) / span;
        let left = self.total.map(|total| total.saturating_sub(self.bytes));
        let seconds_left = left.filter(|_| rate > 0).map(|left| left.div_ceil(rate));
        let (read, written) = self.worked.unzip();
        Progress { step: self.step, bytes: self.bytes, total: self.total, rate, seconds_left, read, written, moves: Some(self.moves) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_counted_and_a_line_alone_is_no_move() {
        let report = Reporter { state: Arc::new(Mutex::new(State::new(Step::Proving))) };
        let moves = || report.with(State::progress).moves;
        let before = moves();
        assert_eq!(before, moves(), "it is printed again");
        let mut last = before;
        for work in [
            &|| report.step(Step::Copying) as (),
            &|| report.copied(1, 2),
            &|| report.runs(Whose::All, Some(Awaited::Backup)),
            &|| report.works_for(Awaited::Backup),
            &|| report.moved(),
        ] as [&dyn Fn(); 5]
        {
            work();
            assert!(moves() > last);
            last = moves();
        }
        report.copied(1, 2);
        assert_eq!(moves(), last, "no further byte");
    }

    #[test]
    fn rate_and_time_left_follow_the_bytes() {
        let mut state = State { total: Some(1000), ..State::new(Step::Copying) };
        assert_eq!(state.progress().seconds_left, None);
        for bytes in [100, 200, 300] {
            state.bytes = bytes;
            state.progress();
        }
        state.bytes = 400;
        let progress = state.progress();
        assert_eq!((progress.rate, progress.seconds_left, progress.percent()), (100, Some(6), Some(40)));
    }
}
