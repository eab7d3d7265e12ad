//! Conditions in the form of kstatus, whose time moves only with their value.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition should say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub kind: &'static str,
    /// `None`: nobody could look.
    pub holds: Option<bool>,
    /// One word, PascalCase.
    pub reason: String,
    pub message: String,
}

impl Wanted {
    pub fn new(kind: &'static str, holds: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, holds, reason: reason.to_owned(), message: message.into() }
    }
}

/// Longest message: it may quote what anybody says.
const LONGEST: usize = 4096;

/// The new list: `lastTransitionTime` is kept where the value did not change.
pub fn merge(old: &[Condition], wanted: &[Wanted], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let one = |want: &Wanted| {
        let status = word(want.holds);
        let since = old.iter().find(|c| c.type_ == want.kind && c.status == status);
        Condition {
            type_: want.kind.to_owned(),
            status: status.to_owned(),
            reason: want.reason.clone(),
            message: model::error::cut(&want.message, LONGEST),
            observed_generation: generation,
            last_transition_time: since.map_or(Time(seconds(now)), |c| c.last_transition_time.clone()),
        }
    };
    wanted.iter().map(one).collect()
}

fn word(holds: Option<bool>) -> &'static str {
    match holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    }
}

/// Kubernetes keeps whole seconds; what is compared with what was read must be cut alike.
pub fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Whether a condition of `kind` is true in `list`.
pub fn holds(list: &[Condition], kind: &str) -> bool {
    list.iter().any(|c| c.type_ == kind && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::world::fixtures::{ago, now};

    fn ready(holds: bool, reason: &str) -> Wanted {
        Wanted::new("Ready", Some(holds), reason, "")
    }

    #[test]
    fn the_time_moves_only_with_the_value() {
        let first = merge(&[], &[ready(true, "InSync")], Some(1), ago(60));
        let same = merge(&first, &[ready(true, "Other")], Some(2), now());
        assert_eq!(same[0].last_transition_time, first[0].last_transition_time);
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("Other", Some(2)));
        let moved = merge(&same, &[ready(false, "Down")], Some(2), now());
        assert_eq!(moved[0].last_transition_time, Time(now()));
    }
}
