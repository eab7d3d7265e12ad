//! What is known of a cluster and what may be decided about it, in plain types. Nothing of Kubernetes, of a database client or of a clock
//! is known here: no such crate is among the dependencies.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm, reason = "what is new has to be decided about"))]

pub mod error;
pub mod look;
pub mod plan;
pub mod policy;
pub mod world;

pub use look::Look;
pub use plan::{InstanceNext, Missing, NewRecovery, Plan, Reason, RecoveryNext, Removal, Standing, Unwell};
pub use policy::{Breaker, HealingMode, Policy};
pub use protocol::{
    Answer, Attempt, Begins, Catalog, CatalogIndex, Content, Dbid, Failure, FailureClass, Incarnation, InstanceState, Lineage, Lsn, Mode,
    NoPage, Outcome, Page, Pair, Place, Postmaster, Progress, Reach, Refusal, Repair, Role, Row, Status, Step, SystemIdentifier, Timeline,
    Unread, attempt, catalog, failure, ids, incarnation, index, page, postmaster, reasons, refusal, unread,
};
pub use world::{Changed, Instance, JobState, JobView, Phase, Recovery, RecoveryInstance, Source, Targets, World};
