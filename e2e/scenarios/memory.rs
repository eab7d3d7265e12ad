//! The most resident memory that gpheal's processes had since they began.

use std::fs;

use anyhow::Result;
use kube::api::ListParams;
use serde::Serialize;

use super::{Stage, operator};
use crate::bed::fault::Container;

/// `VmHWM` in MiB, of the process that had the most.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Peaks {
    pub operator: f64,
    pub supervisor: f64,
}

impl Peaks {
    /// Of what runs now; what has ended is forgotten by the kernel.
    pub async fn now(stage: &Stage) -> Result<Self> {
        let mut peaks = Self::default();
        for pod in operator::pods(&stage.bed)?.list(&ListParams::default()).await?.items {
            let name = pod.metadata.name.unwrap_or_default();
            // A pod that is just being replaced has no container, or none any more.
            if let Ok(container) = Container::find(&stage.bed, operator::NAMESPACE, &name, "operator").await {
                peaks.operator = peaks.operator.max(peak(&container)?);
            }
        }
        for row in &stage.catalog().await?.rows {
            if let Ok(container) = stage.container(row).await {
                peaks.supervisor = peaks.supervisor.max(peak(&container)?);
            }
        }
        Ok(peaks)
    }

    /// The greater of both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { operator: self.operator.max(other.operator), supervisor: self.supervisor.max(other.supervisor) }
    }
}

/// The most of the container's gpheal processes.
fn peak(container: &Container) -> Result<f64> {
    let of = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        (field("Name:")? == "gpheal").then_some(())?;
        let kibibytes: f64 = field("VmHWM:")?.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes / 1024.0)
    };
    Ok(container.processes()?.into_iter().filter_map(of).fold(0.0, f64::max))
}
