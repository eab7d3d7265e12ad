//! gpheal heals Greenplum and Apache Cloudberry segments on Kubernetes.
//!
//! The file tree is the pipeline: `observe` -> `plan` -> `apply` -> `report` in the operator, and on
//! the segment's side `supervisor` (pid 1) and `recover` (the Job), which meet at the `volume`.

pub mod api;
pub mod apply;
pub mod documents;
pub mod error;
pub mod greenplum;
pub mod log;
pub mod model;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod recover;
pub mod report;
pub mod supervisor;
pub mod volume;
pub mod web;

use std::{io, os::unix::fs::PermissionsExt, path::Path};

/// What is being installed, until it is whole. Where it stays, whoever installed is dead.
pub const INSTALLING: &str = ".gpheal.tmp";

/// Copies the running program into `folder` as `gpheal`, by rename, so that nobody executes half of it.
///
/// # Errors
/// As of the file system.
pub fn install(folder: &Path) -> io::Result<()> {
    let fresh = folder.join(INSTALLING);
    std::fs::copy(std::env::current_exe()?, &fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(fresh, folder.join("gpheal"))
}
