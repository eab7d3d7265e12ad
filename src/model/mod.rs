//! Plain types that every part speaks. Nothing of Kubernetes, of a database client or of a clock is
//! known here; `tests/layers.rs` holds that down.

pub mod attempt;
pub mod catalog;
pub mod failure;
pub mod ids;
pub mod incarnation;
pub mod index;
pub mod look;
pub mod page;
pub mod plan;
pub mod policy;
pub mod postmaster;
pub mod reasons;
pub mod refusal;
pub mod unread;
pub mod world;

pub use attempt::{Attempt, Outcome, Place, Progress, Repair, Step};
pub use catalog::{Catalog, Mode, Pair, Role, Row, Status};
pub use failure::{Answer, Failure, FailureClass};
pub use ids::{Content, Dbid, Lsn, SystemIdentifier, Timeline};
pub use incarnation::{Begins, Incarnation, Lineage, Reach};
pub use index::CatalogIndex;
pub use look::Look;
pub use page::{InstanceState, NoPage, Page};
pub use plan::{InstanceNext, Missing, NewRecovery, Plan, Reason, RecoveryNext, Removal, Standing, Unwell};
pub use policy::{Breaker, HealingMode, Policy};
pub use postmaster::Postmaster;
pub use refusal::Refusal;
pub use unread::Unread;
pub use world::{Changed, Instance, JobState, JobView, Phase, Recovery, RecoveryInstance, Source, Targets, World};
