//! Which repair, and what follows a failed attempt. Moved by classified errors alone.

use jiff::{SignedDuration, Timestamp};

use model::{Answer, Failure, FailureClass, InstanceState, Page, Policy, RecoveryInstance, Refusal, Repair, Step};

/// The longest pause between two attempts: what passes is answered within that.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// The repair that the volume asks for.
pub fn first(page: &Page) -> Repair {
    if page.copy {
        return Repair::Full; // never incremental over a copy that was cut off
    }
    match page.state {
        InstanceState::NeedsFull | InstanceState::CopyUnfinished => Repair::Full,
        InstanceState::Deciding
        | InstanceState::Starting
        | InstanceState::Serving
        | InstanceState::NotAnswering
        | InstanceState::Stopping
        | InstanceState::Unkillable
        | InstanceState::Held
        | InstanceState::NeedsRecovery
        | InstanceState::PrimaryDataMissing
        | InstanceState::VolumeUnrecognised
        | InstanceState::NotInCatalog
        | InstanceState::Retired
        | InstanceState::Maintenance
        | InstanceState::WaitingForCoordinator
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary
        | InstanceState::WaitingForSegments
        | InstanceState::LockBusy
        | InstanceState::HeldElsewhere
        | InstanceState::StayingDown
        | InstanceState::BackingOff
        | InstanceState::Replaced
        | InstanceState::PutBack
        | InstanceState::CatalogOutdated => Repair::Incremental,
    }
}

/// The repair for an attempt: what a person asked for, else what came before or what the volume asks for.
///
/// # Errors
/// [`Refusal::FullNotAllowed`] when only a full copy would help and neither policy nor a person allows it.
pub fn choose(policy: &Policy, wanted: Option<Repair>, earlier: Option<Repair>, page: &Page) -> Result<Repair, Refusal> {
    let needed = first(page).max(earlier.unwrap_or(Repair::Incremental));
    match (wanted, needed) {
        // A person's word is a policy of its own.
        (Some(Repair::Incremental), Repair::Full) => Err(Refusal::FullNotAllowed { why: "type: Incremental was asked for".into() }),
        (None, Repair::Full) if !policy.full_allowed => Err(Refusal::FullNotAllowed { why: page.detail.clone() }),
        (Some(Repair::Full), _) | (None, Repair::Full) => Ok(Repair::Full),
        (None | Some(Repair::Incremental), Repair::Incremental) => Ok(Repair::Incremental),
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

/// Whether an attempt that failed in this step had begun to copy. What has not is no attempt that is counted.
pub fn begins_to_copy(step: Step) -> bool {
    match step {
        Step::Proving | Step::Holding | Step::ProvingAgain | Step::Analysing => false,
        Step::Copying | Step::Configuring | Step::Releasing => true,
    }
}

/// Room ran out after the copy had begun, though there had been enough when it was measured: at once the same would happen again,
/// and each time costs the whole copy.
fn ran_out(failure: &Failure) -> bool {
    failure.class == FailureClass::NoRoom && begins_to_copy(failure.step)
}

/// Takes down how the newest attempt failed.
pub fn count(state: &mut RecoveryInstance, failure: Failure, copied: bool, now: Timestamp) {
    if copied {
        state.copies += 1;
        (state.failures, state.failing_since) = (0, None);
    } else {
        state.failures += 1;
        state.failing_since = Some(state.failing_since.map_or(now, |since| since.min(now)));
    }
    state.failure = Some(failure);
    state.attempt_ended = Some(now);
}

/// The rung after the newest attempt, which is counted and failed with this class.
pub fn after(policy: &Policy, wanted: Option<Repair>, state: &RecoveryInstance, class: FailureClass) -> Next {
    if state.copies >= policy.max_attempts {
        return Next::End;
    }
    let repair = state.repair.unwrap_or(Repair::Incremental);
    if state.failure.as_ref().is_some_and(ran_out) {
        return Next::End; // what follows goes on with its count (`follow::again`)
    }
    match (class.answer(), repair) {
        (Answer::Retry, _) if state.failures >= most_failures(policy) => Next::End,
        (Answer::Retry, same) => Next::Attempt(same),
        (Answer::GoFull, Repair::Incremental) if wanted.is_none() && policy.full_allowed => Next::Attempt(Repair::Full),
        // What only full can mend came out of a full copy: trying the same again is no answer.
        (Answer::GoFull | Answer::Stop, _) => Next::End,
    }
}

/// How many failures in a row make up the time for which policy lets them be repeated. By number, as a clock that is set
/// would lengthen or end it.
pub fn most_failures(policy: &Policy) -> u32 {
    let short: SignedDuration = (1..=SHORT).map(pause).sum();
    let long = policy.retry_for.saturating_sub(short).as_secs().max(0) / LONGEST_PAUSE.as_secs();
    SHORT + u32::try_from(long).unwrap_or(u32::MAX - SHORT)
}

/// Pauses that are shorter than the longest.
const SHORT: u32 = 8;

/// 2 s, 4 s, 8 s … at most some minutes.
fn pause(failures: u32) -> SignedDuration {
    SignedDuration::from_secs(1 << failures.clamp(1, SHORT + 1)).min(LONGEST_PAUSE)
}

/// When the next attempt may begin. A Job that was ended from outside says nothing about its cause, so the next one need
/// not wait for anything to pass, unless it goes on so.
pub fn not_before(ended: Timestamp, state: &RecoveryInstance) -> Timestamp {
    let from_outside = state.failure.as_ref().is_some_and(|f| matches!(f.class, FailureClass::Interrupted | FailureClass::JobLost));
    let failures = if state.failures > 0 { state.failures } else { state.copies };
    let failures = if from_outside { failures.saturating_sub(2) } else { failures };
    ended.saturating_add(pause(failures)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Content,
        world::fixtures::{self, ago, now},
    };

    fn failure(class: FailureClass, step: Step) -> Failure {
        Failure { class, step, message: String::new(), evidence: String::new() }
    }

    fn page(change: impl FnOnce(&mut Page)) -> Page {
        let mut page = fixtures::page(&fixtures::row("5:0mmnd"));
        change(&mut page);
        page
    }

    /// After `times` failures of one class and step, each counted.
    fn failed(times: u32, class: FailureClass, step: Step, repair: Repair) -> RecoveryInstance {
        let mut state = RecoveryInstance { repair: Some(repair), ..RecoveryInstance::untouched(Content(0)) };
        for _ in 0..times {
            state.attempt += 1;
            count(&mut state, failure(class, step), begins_to_copy(step), now());
        }
        state
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
        let after = |policy: &Policy, class, repair, times| {
            let state = failed(times, class, Step::Copying, repair);
            super::after(policy, None, &state, class)
        };
        assert_eq!(after(&policy, FailureClass::CannotRewind, Repair::Incremental, 1), Next::Attempt(Repair::Full));
        assert_eq!(after(&policy, FailureClass::CannotRewind, Repair::Full, 1), Next::End);
        assert_eq!(after(&policy, FailureClass::JobLost, Repair::Full, 1), Next::Attempt(Repair::Full));
        assert_eq!(after(&policy, FailureClass::JobLost, Repair::Full, policy.max_attempts), Next::End);
        assert_eq!(after(&policy, FailureClass::TargetAheadOfSource, Repair::Incremental, 1), Next::End);
        let never = Policy { full_allowed: false, ..Policy::default() };
        assert_eq!(after(&never, FailureClass::WalRemoved, Repair::Incremental, 1), Next::End);
    }

    /// Eight attempts were burnt in three minutes by what passes in five: a backup on the source, a network, an eviction.
    #[test]
    fn what_never_began_to_copy_is_repeated_for_hours() {
        let policy = Policy::default();
        for class in FailureClass::ALL.iter().filter(|class| class.answer() == Answer::Retry) {
            for step in [Step::Proving, Step::Holding, Step::ProvingAgain, Step::Analysing] {
                let state = failed(100, *class, step, Repair::Full);
                assert_eq!(state.copies, 0);
                let next = after(&policy, None, &state, *class);
                assert_eq!(next, Next::Attempt(Repair::Full), "{class:?} in {step}");
            }
        }
        let day: SignedDuration = (1..=most_failures(&policy)).map(pause).sum();
        assert!((policy.retry_for - LONGEST_PAUSE..=policy.retry_for).contains(&day), "{day}");
        let enough = failed(most_failures(&policy), FailureClass::SourceBusy, Step::Proving, Repair::Full);
        assert_eq!(after(&policy, None, &enough, FailureClass::SourceBusy), Next::End);
    }

    /// A volume is grown, or files are removed from it, while nobody looks at recoveries; a copy that ran out of room would end the
    /// same at once.
    #[test]
    fn too_little_room_is_waited_for_before_a_byte_moved_and_not_copied_against() {
        let policy = Policy::default();
        for step in Step::ALL {
            let state = failed(1, FailureClass::NoRoom, step, Repair::Full);
            let next = after(&policy, None, &state, FailureClass::NoRoom);
            let expected = if begins_to_copy(step) { Next::End } else { Next::Attempt(Repair::Full) };
            assert_eq!((next, state.copies), (expected, u32::from(begins_to_copy(step))), "{step}");
        }
    }

    #[test]
    fn the_back_off_grows_to_some_minutes() {
        let wait = |state: &RecoveryInstance| not_before(now(), state).duration_since(now()).as_secs();
        let waits: Vec<_> = (1..=10).map(|n| wait(&failed(n, FailureClass::SourceBusy, Step::Proving, Repair::Full))).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let copies: Vec<_> = (1..=3).map(|n| wait(&failed(n, FailureClass::ConnectionLost, Step::Copying, Repair::Full))).collect();
        assert_eq!(copies, [2, 4, 8]);
        let lost: Vec<_> = (1..=5).map(|n| wait(&failed(n, FailureClass::JobLost, Step::Proving, Repair::Full))).collect();
        assert_eq!(lost, [2, 2, 2, 4, 8], "evicted again and again");
    }

    #[test]
    fn a_copy_that_began_ends_the_row_of_failures_before_it() {
        let mut state = failed(5, FailureClass::SourceBusy, Step::Proving, Repair::Full);
        assert_eq!((state.failures, state.failing_since), (5, Some(now())));
        count(&mut state, failure(FailureClass::ConnectionLost, Step::Copying), true, now());
        assert_eq!((state.copies, state.failures, state.failing_since), (1, 0, None));
        state.failing_since = Some(ago(-86_400));
        count(&mut state, failure(FailureClass::SourceBusy, Step::Proving), false, now());
        assert_eq!(state.failing_since, Some(now()), "a clock that was set back");
    }
}
