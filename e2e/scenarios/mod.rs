//! The scenarios: each hurts a real cluster in one way, and says what must be seen.
//!
//! `list` names them, `stage` is what they act on, `runner` goes through them and proves after each
//! that no acknowledged row is gone, `watchdog` looks on all the time, `report` writes down the times.

mod ahead;
mod asked;
mod bad;
mod cold;
mod contract;
mod coordinators;
pub mod copies;
mod crashes;
mod demo;
mod doubles;
mod elsewhere;
mod flapping;
mod frozen;
mod handover;
mod hands;
mod installs;
mod jobs;
mod leaders;
mod list;
pub mod memory;
mod neighbours;
mod network;
pub mod operator;
mod passwords;
mod person;
mod policy;
mod report;
mod rights;
mod runner;
mod squatters;
mod stage;
pub mod surroundings;
mod tablespaces;
mod tls;
mod volumes;
mod watchdog;

pub use self::{
    demo::demo,
    list::{Scenario, When, all},
    runner::{Options, run},
    stage::{Stage, until},
};
