//! What people and machines are told: status, events, metrics.

pub mod error;
