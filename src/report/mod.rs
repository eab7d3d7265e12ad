//! What people and machines are told: status, events, metrics. All but the sending is pure.

pub mod cluster;
pub mod conditions;
pub mod events;
pub mod metrics;
pub mod pace;
pub mod recovery;
