//! What people and machines are told: status, events, metrics. All but the sending is pure.

pub mod cluster;
pub mod conditions;
pub mod events;
pub mod metrics;
pub mod pace;
pub mod recovery;

use model::Refusal;

/// A refusal in words that stand still: seconds that run down would be a write every second.
fn words(refusal: &Refusal) -> (String, String) {
    match refusal {
        Refusal::WithinGrace { .. } => (
            "down for less than the grace period; it may come back by itself".into(),
            "lifted when spec.healing.gracePeriod is over, or when its supervisor asks for a repair".into(),
        ),
        other => (other.to_string(), other.lifted_by()),
    }
}

/// More of a sentence, if there is more to say.
fn and(more: Option<&str>) -> String {
    more.map_or_else(String::new, |more| format!("; {more}"))
}
