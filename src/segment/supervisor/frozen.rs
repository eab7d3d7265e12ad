//! A mirror whose own postgres is stopped (SIGSTOP, a tracer that forgot it) keeps its primary's commits waiting and does
//! nothing. A mirror has nothing to lose: it is killed and started again. A primary never is.

use std::time::Duration;

use tokio::time::Instant;

use super::{Supervisor, process::Progress, watch::Running};
use model::page::Shape;

/// So long all the while: whoever stops a postgres to look at it for a moment is not disturbed.
const STOPPED: Duration = Duration::from_secs(5);
/// A disk that answers at all answers sooner.
const IN_KERNEL: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(1);
/// Between two kills: whoever stops it again and again is not fought, and what it replays is to come somewhere meanwhile.
const ONCE: Duration = Duration::from_mins(1);

/// What was seen of a mirror's own processes.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    seen: Option<(Progress, Instant)>,
    next: Option<Instant>,
}

/// How they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// They work, or wait for work.
    No,
    /// A process that a mirror cannot do without is stopped and stays so: it is killed.
    Stopped(String),
    /// Its receiver sits in the kernel and writes nothing. No signal ends that, and none is sent.
    InKernel(String),
}

impl Frozen {
    /// Judges one more look.
    pub fn judge(&mut self, progress: Option<Progress>, now: Instant) -> Halt {
        let Some(progress) = progress else {
            self.seen = None;
            return Halt::No;
        };
        let since = match &self.seen {
            Some((before, since)) if *before == progress => *since,
            Some(_) | None => now,
        };
        let lasts = now.duration_since(since);
        let Progress { pid, title, state, written: _, ticks: _ } = &progress;
        let named = format!("process {pid} ({title})");
        let halt = match state {
            'T' if lasts >= STOPPED => Halt::Stopped(format!("{named} has been stopped for {} s", lasts.as_secs())),
            'D' if lasts >= IN_KERNEL => Halt::InKernel(format!(
                "{named} sits in the kernel and has written nothing for a while: look at the node's disks and mounts; no signal ends it"
            )),
            _ => Halt::No, // it runs, sleeps, or is being looked at by a debugger
        };
        self.seen = Some((progress, since));
        halt
    }
}

impl Supervisor {
    /// Why this mirror's postgres is to be killed now, once a minute at most.
    pub(super) fn mirror_is_frozen(&mut self, running: &mut Running) -> Option<String> {
        let now = Instant::now();
        if running.frozen.next.is_some_and(|next| now < next) {
            return None;
        }
        running.frozen.next = Some(now + LOOK);
        let works_here = self.volume.stands("maintenance").unwrap_or(true);
        let is_mirror = !running.was_primary && !works_here && self.shape_now(running.dialect) == Shape::Mirror;
        let progress = running.postgres.halted().filter(|_| is_mirror);
        let receiver = if is_mirror { running.postgres.receiver_work(self.volume.data()) } else { None };
        if self.board.page().receiver != receiver {
            self.board.show(|page| page.receiver = receiver); // its primary goes by it before it ends anything
        }
        let (stalled, kill) = match running.frozen.judge(progress, now) {
            Halt::No => (None, None),
            Halt::Stopped(why) if !may_kill(self.memory.frozen, now) => {
                (Some(format!("{why}; it was killed for that less than a minute ago, and is left alone until then")), None)
            }
            Halt::Stopped(why) => (Some(why.clone()), Some(why)),
            Halt::InKernel(why) => (Some(why), None),
        };
        self.memory.frozen = kill.as_ref().map(|_| now).or(self.memory.frozen);
        if self.board.page().stalled != stalled {
            if let Some(why) = &stalled {
                tracing::warn!(why, "the mirror's postgres does not work");
            }
            self.board.show(|page| page.stalled = stalled);
        }
        kill
    }
}

fn may_kill(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= ONCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_killed_once_a_minute_at_most() {
        let now = Instant::now();
        assert!(may_kill(None, now));
        assert!(!may_kill(Some(now), now + Duration::from_secs(59)) && may_kill(Some(now), now + ONCE));
    }

    fn receiver(state: char, written: u64) -> Progress {
        Progress { pid: 7, title: "WAL receiver", state, written, ticks: 1 }
    }

    /// How it is judged at the end of so many seconds, each with this look.
    fn after(seconds: u64, look: impl Fn(u64) -> Option<Progress>) -> Halt {
        let (mut frozen, begun) = (Frozen::default(), Instant::now());
        let judged = (0..=seconds).map(|second| frozen.judge(look(second), begun + Duration::from_secs(second)));
        judged.last().unwrap_or(Halt::No)
    }

    #[test]
    fn only_what_is_stopped_and_stays_so_is_killed() {
        let stopped = |_| Some(receiver('T', 9));
        assert_eq!(after(4, stopped), Halt::No, "somebody looks at it for a moment");
        assert!(matches!(after(5, stopped), Halt::Stopped(why) if why == "process 7 (WAL receiver) has been stopped for 5 s"));
        assert_eq!(after(600, |second| Some(receiver(if second % 4 == 0 { 'S' } else { 'T' }, 9))), Halt::No, "slow, and alive");
        assert_eq!(after(600, |second| Some(Progress { ticks: second / 2, ..receiver('T', 9) })), Halt::No, "throttled, and alive");
        for state in ['S', 'R', 't', 'I'] {
            assert_eq!(after(600, |_| Some(receiver(state, 9))), Halt::No, "{state}");
        }
        assert_eq!(after(600, |_| None), Halt::No, "no mirror, or it could not be looked at");
        assert_eq!(
            after(5, |second| Some(Progress { pid: i32::try_from(second).unwrap_or_default(), ..receiver('T', 9) })),
            Halt::No,
            "another one each time"
        );
    }

    #[test]
    fn what_sits_in_the_kernel_is_told_of_and_no_signal_is_sent() {
        assert_eq!(after(14, |_| Some(receiver('D', 9))), Halt::No);
        assert!(matches!(after(15, |_| Some(receiver('D', 9))), Halt::InKernel(_)));
        assert_eq!(after(600, |second| Some(receiver('D', second))), Halt::No, "its disk is slow, and it writes");
    }
}
