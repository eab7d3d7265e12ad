//! gpheal heals Greenplum and Apache Cloudberry segments on Kubernetes.
//!
//! The file tree is the pipeline: `observe` -> `plan` -> `apply` -> `report` in the operator, and on
//! the segment's side `supervisor` (pid 1) and `recover` (the Job), which meet at the `volume`.

pub mod greenplum;
pub mod model;
pub mod plan;
