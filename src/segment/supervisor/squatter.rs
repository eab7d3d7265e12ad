//! Who lives in the data directory without the lock: a postgres that a person started by hand, or a tool.

use super::{Round, Supervisor};
use crate::volume::{
    marks::Ack,
    processes::{self, Found},
};
use model::InstanceState;

impl Supervisor {
    /// Waits until nobody lives in the data directory. The caller's lock is kept for as long as somebody does: it is all
    /// that keeps a Job, in whose pod the process cannot be seen, from writing beside it. `Some`: we were told to end.
    pub(super) async fn keep_from_squatters(&mut self) -> anyhow::Result<Option<Round>> {
        loop {
            let Some((state, why)) = squatted(&self.volume.squatters()) else { return Ok(None) };
            self.refuse_hold(&why);
            match self.stay(state, why).await? {
                Round::End => return Ok(Some(Round::End)),
                Round::Again => {}
            }
        }
    }

    /// Somebody came to live there since it was decided to stay down: the lock is to be taken before a Job has it. One that
    /// somebody else holds, or that is kept for this very reason, is looked at as often as that is.
    pub(super) fn is_squatted(&self, state: InstanceState) -> bool {
        !matches!(state, InstanceState::Held | InstanceState::LockBusy | InstanceState::HeldElsewhere | InstanceState::Deciding)
            && !self.volume.squatters().pids.is_empty()
    }

    /// Tells an attempt that waits for the lock why it does not get it.
    pub(super) fn refuse_hold(&self, why: &str) {
        let Some(hold) = self.volume.marks().hold else { return };
        let ack = Ack { attempt: hold.attempt, refused: Some(why.to_owned()) };
        if self.volume.read::<Ack>("ack").is_ok_and(|there| there.as_ref() == Some(&ack)) {
            return;
        }
        tracing::warn!(attempt = ack.attempt, why, "a hold is not obeyed");
        if let Err(error) = self.volume.write("ack", &ack) {
            tracing::warn!(%error, "the refusal could not be left on the volume");
        }
    }
}

/// What that is called, and how it is told.
fn squatted(found: &Found) -> Option<(InstanceState, String)> {
    match (found.pids.as_slice(), &found.unknown) {
        ([], None) => None,
        ([], Some(why)) => {
            Some((InstanceState::Deciding, format!("whether somebody writes without the volume's lock is not known: {why}")))
        }
        (pids, _) => Some((
            InstanceState::LockBusy,
            format!(
                "the volume's lock is kept, as a process lives or writes in the data directory without it: {}",
                processes::describe(pids)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lives_there_is_named_and_unknown_is_not_nobody() {
        assert_eq!(squatted(&Found::default()), None);
        let me = std::process::id().cast_signed();
        let (state, why) = squatted(&Found { pids: vec![me], unknown: None }).unwrap();
        assert!(state == InstanceState::LockBusy && why.contains(&me.to_string()), "{why}");
        let (state, why) = squatted(&Found { pids: vec![], unknown: Some("EMFILE".into()) }).unwrap();
        assert!(state == InstanceState::Deciding && why.ends_with("EMFILE"), "{why}");
    }
}
