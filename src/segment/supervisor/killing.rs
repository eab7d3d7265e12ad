//! The end of everything that came of a postgres, which one process in uninterruptible sleep can put off for ever.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Supervisor, process::Postgres};
use crate::volume::processes::{self, Found};
use model::InstanceState;

/// What SIGKILL ends is gone within milliseconds; what is not gone by now sits in a system call that does not return.
const DYING: Duration = Duration::from_secs(10);
/// Between two looks, before and after that.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Kills everything that came of `postgres` and waits until it is gone. What cannot be killed, or not be looked at,
    /// is said on the page for as long as it lasts; the caller's lock is kept meanwhile. `false`: we were told to end
    /// before it was gone.
    pub(super) async fn kill_all(&mut self, postgres: &Postgres) -> bool {
        let patience = Instant::now() + DYING;
        let mut known = BTreeSet::new();
        loop {
            let left = postgres.kill_all(&mut known);
            if left.is_nobody() {
                return true;
            }
            let stuck = Instant::now() >= patience;
            if stuck {
                self.say_unkillable(&left);
            }
            if stuck && self.signals.ending {
                return false;
            }
            tokio::select! { _ = self.signals.next() => {}, () = sleep(if stuck { LATER } else { SOON }) => {} }
        }
    }

    fn say_unkillable(&self, left: &Found) {
        let state = self.shown(InstanceState::Unkillable);
        let detail = unkillable(left);
        self.board.show(|page| (page.state, page.detail, page.serves, page.receiving) = (state, detail, None, false));
    }
}

fn unkillable(left: &Found) -> String {
    let seconds = DYING.as_secs();
    let remain = format!(
        "processes of postgres do not end, {seconds} s after SIGKILL: {}; look at the node's disks and mounts, or restart it",
        processes::describe(&left.pids)
    );
    match &left.unknown {
        None => remain,
        Some(why) if left.pids.is_empty() => format!("whether all of postgres is gone cannot be told: {why}"),
        Some(why) => format!("{remain}; and whether these are all cannot be told: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_not_called_gone() {
        let of = |pids: &[i32], unknown: Option<&str>| Found { pids: pids.into(), unknown: unknown.map(str::to_owned) };
        assert!(of(&[], None).is_nobody());
        let blind = of(&[], Some("EMFILE"));
        assert!(!blind.is_nobody() && unkillable(&blind) == "whether all of postgres is gone cannot be told: EMFILE");
        let both = unkillable(&of(&[1], Some("EMFILE")));
        assert!(both.contains("do not end, 10 s after SIGKILL: 1 (") && both.ends_with("EMFILE"), "{both}");
    }
}
