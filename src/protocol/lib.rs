//! What operator, supervisor and Job say to each other, and the words that they say it in: rows of the catalog, the status page, an
//! attempt and its outcome, the marks on a volume. Plain types, of no platform.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm, reason = "what is new has to be decided about"))]

pub mod attempt;
pub mod catalog;
pub mod failure;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
#[cfg(test)]
mod golden;
pub mod ids;
pub mod incarnation;
pub mod index;
pub mod page;
pub mod postmaster;
pub mod reasons;
pub mod refusal;
pub mod unread;

pub use attempt::{Attempt, Outcome, Place, Progress, Repair, Step};
pub use catalog::{Catalog, Mode, Pair, Role, Row, Status};
pub use failure::{Answer, Failure, FailureClass};
pub use ids::{Content, Dbid, Lsn, SystemIdentifier, Timeline};
pub use incarnation::{Begins, Incarnation, Lineage, Reach};
pub use index::CatalogIndex;
pub use page::{InstanceState, NoPage, Page};
pub use postmaster::Postmaster;
pub use refusal::Refusal;
pub use unread::Unread;

/// What is being installed, until it is whole. Where it stays, whoever installed is dead.
pub const INSTALLING: &str = ".gpheal.tmp";
