//! Which repair, and what follows a failed attempt. Moved by classified errors alone.

use jiff::{SignedDuration, Timestamp};

use crate::model::{Answer, Failure, FailureClass, InstanceState, Page, Policy, Refusal, Repair};

/// The repair that the volume asks for.
pub fn first(page: &Page) -> Repair {
    match page.state {
        InstanceState::NeedsFull | InstanceState::CopyUnfinished => Repair::Full,
        _ if page.copy => Repair::Full, // [8 #10b] never incremental over a copy that was cut off
        _ => Repair::Incremental,
    }
}

/// The repair for an attempt: what a person asked for, else what came before or what the volume asks for.
///
/// # Errors
/// [`Refusal::FullNotAllowed`] when only a full copy would help and neither policy nor a person allows it.
pub fn choose(policy: &Policy, wanted: Option<Repair>, earlier: Option<Repair>, page: &Page) -> Result<Repair, Refusal> {
    let needed = first(page).max(earlier.unwrap_or(Repair::Incremental));
    match (wanted, needed) {
        (Some(Repair::Full), _) => Ok(Repair::Full), // an explicit policy of its own [6]
        (Some(Repair::Incremental), Repair::Full) => Err(Refusal::FullNotAllowed { why: "type: Incremental was asked for".into() }),
        (None, Repair::Full) if !policy.full_allowed => Err(Refusal::FullNotAllowed { why: page.detail.clone() }),
        (_, needed) => Ok(needed),
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt of this kind after the back-off.
    Attempt(Repair),
    /// No further attempt.
    End,
}

/// The rung after `failure` of attempt number `attempt`.
pub fn after(policy: &Policy, wanted: Option<Repair>, repair: Repair, attempt: u32, failure: &Failure) -> Next {
    if attempt >= policy.max_attempts {
        return Next::End; // [20]
    }
    match (failure.class.answer(), repair) {
        (Answer::Retry, same) => Next::Attempt(same),
        (Answer::GoFull, Repair::Incremental) if wanted.is_none() && policy.full_allowed => Next::Attempt(Repair::Full),
        // What only full can mend came out of a full copy: trying the same again is no answer.
        (Answer::GoFull | Answer::Stop, _) => Next::End,
    }
}

/// When the attempt after number `attempt` may begin: 2 s, 4 s, 8 s … at most a minute. A Job that was
/// ended from outside says nothing about its cause, so the next one need not wait for anything to pass.
pub fn not_before(ended: Timestamp, attempt: u32, failure: Option<&Failure>) -> Timestamp {
    let from_outside = failure.is_some_and(|f| matches!(f.class, FailureClass::Interrupted | FailureClass::JobLost));
    let doublings = if from_outside { 1 } else { attempt.clamp(1, 6) };
    let seconds = 2_i64.saturating_pow(doublings).min(60);
    ended.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Step, world::fixtures};

    fn failure(class: FailureClass) -> Failure {
        Failure { class, step: Step::Copying, message: String::new(), evidence: String::new() }
    }

    fn page(change: impl FnOnce(&mut Page)) -> Page {
        let mut page = fixtures::page(&fixtures::row("5:0mmnd"));
        change(&mut page);
        page
    }

    #[test]
    fn the_volume_chooses_the_first_repair() {
        assert_eq!(first(&page(|p| p.state = InstanceState::NeedsRecovery)), Repair::Incremental);
        assert_eq!(first(&page(|p| p.state = InstanceState::NeedsFull)), Repair::Full);
        assert_eq!(first(&page(|p| p.copy = true)), Repair::Full);
    }

    #[test]
    fn full_needs_policy_or_a_person() {
        let never = Policy { full_allowed: false, ..Policy::default() };
        let empty = page(|p| p.state = InstanceState::NeedsFull);
        assert!(matches!(choose(&never, None, None, &empty), Err(Refusal::FullNotAllowed { .. })));
        assert_eq!(choose(&never, Some(Repair::Full), None, &empty), Ok(Repair::Full));
        assert!(choose(&Policy::default(), Some(Repair::Incremental), None, &empty).is_err());
        assert_eq!(choose(&Policy::default(), None, Some(Repair::Full), &page(|_| ())), Ok(Repair::Full));
    }

    #[test]
    fn the_ladder_moves_by_class() {
        let policy = Policy::default();
        let after = |class, repair, attempt| super::after(&policy, None, repair, attempt, &failure(class));
        assert_eq!(after(FailureClass::CannotRewind, Repair::Incremental, 1), Next::Attempt(Repair::Full));
        assert_eq!(after(FailureClass::CannotRewind, Repair::Full, 1), Next::End);
        assert_eq!(after(FailureClass::JobLost, Repair::Full, 1), Next::Attempt(Repair::Full));
        assert_eq!(after(FailureClass::JobLost, Repair::Full, policy.max_attempts), Next::End);
        assert_eq!(after(FailureClass::TargetAheadOfSource, Repair::Incremental, 1), Next::End);
        let never = Policy { full_allowed: false, ..Policy::default() };
        assert_eq!(super::after(&never, None, Repair::Incremental, 1, &failure(FailureClass::WalRemoved)), Next::End);
    }

    #[test]
    fn the_back_off_grows_to_a_minute() {
        let ended = fixtures::now();
        let waits: Vec<_> = (1..=8).map(|n| not_before(ended, n, None).duration_since(ended).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(not_before(ended, 5, Some(&failure(FailureClass::JobLost))).duration_since(ended).as_secs(), 2);
    }
}
