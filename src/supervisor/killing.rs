//! The end of everything that holds the volume's lock, which one process in uninterruptible sleep can put off for ever.

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::{Supervisor, process};
use crate::model::InstanceState;

/// What SIGKILL ends is gone within milliseconds; what is not gone by now sits in a system call that does not return.
const DYING: Duration = Duration::from_secs(10);
/// Between two looks, before and after that.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Kills everything that holds the lock besides us and waits until it is gone. What can not be killed is said on the
    /// page for as long as it lasts; the caller's lock is kept meanwhile. `false`: we were told to end before it was gone.
    pub(super) async fn kill_all(&mut self, postmaster: Option<Pid>) -> bool {
        let patience = Instant::now() + DYING;
        loop {
            let left = process::kill_holders(&self.volume, postmaster);
            if left.is_empty() {
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

    fn say_unkillable(&self, left: &[i32]) {
        let detail = format!(
            "processes that hold the volume's lock do not end, {} s after SIGKILL: {}; look at the node's disks and mounts, or restart it",
            DYING.as_secs(),
            process::describe(left)
        );
        let state = self.shown(InstanceState::Unkillable);
        self.board.show(|page| (page.state, page.detail, page.serves, page.receiving) = (state, detail, None, false));
    }
}
