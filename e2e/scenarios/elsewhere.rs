//! Scenarios on a cluster of the user's, where nothing but its API server can be reached.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use model::Page;
use tokio::io::AsyncReadExt;

use super::{Stage, stage::PAGE_PORT};
use crate::{
    bed::fault,
    fixture::{DATA_DIRECTORY, NAMESPACE, Row},
};

/// Where the fixture mounts a volume, and in which container.
const MOUNT: &str = "/data";
const CONTAINER: &str = "greenplum";

/// Why a scenario cannot run where only the API server can be reached; `None` when it can.
pub fn out_of_reach(scenario: &str) -> Option<&'static str> {
    match scenario {
        "contract" | "crash-in-place" | "mirror-crash" | "mirror-emptied" | "two-at-once" | "break-glass" | "by-hand" | "observe-only"
        | "paused" | "operator-killed" | "leader-killed" | "leader-leaves" | "uninstalled" | "upgraded" | "cancelled" | "samples"
        | "password-rotated" | "cold-start" => None,
        "rights" => Some("it reads the API server's audit log"),
        "kustomize" => Some("its overlay names the image of the bed"),
        "hung-neighbour" => Some("the address that never answers is one of the bed's network"),
        _ => Some("it needs the nodes: their processes, their volumes or their network"),
    }
}

impl Stage {
    /// Kills an instance's postmaster: from outside on the bed, from within its pod elsewhere.
    pub async fn kill_postmaster(&self, row: &Row) -> Result<()> {
        if !self.bed.is_foreign() {
            return fault::kill_postmaster(&self.container(row).await?).map(drop);
        }
        let script = format!("read pid < {MOUNT}/{DATA_DIRECTORY}/postmaster.pid; kill -9 $pid");
        self.shell(row, &script).await.map(drop)
    }

    /// Removes the directory of an instance whose postgres runs, and ends that.
    pub async fn remove_data(&self, row: &Row) -> Result<()> {
        if !self.bed.is_foreign() {
            return self.volume(row)?.remove_data_dir(DATA_DIRECTORY);
        }
        // Postgres may have ended by itself when it saw its directory go.
        let data = format!("{MOUNT}/{DATA_DIRECTORY}");
        let script = format!("read pid < {data}/postmaster.pid; rm -rf {data}; kill -9 $pid || true");
        self.shell(row, &script).await.map(drop)
    }

    /// A small file of an instance's volume.
    pub async fn read_volume(&self, row: &Row, below: &str) -> Result<Vec<u8>> {
        if !self.bed.is_foreign() {
            return Ok(std::fs::read(self.volume(row)?.folder().join(below))?);
        }
        Ok(self.shell(row, &format!("cat {MOUNT}/{below}")).await?.into_bytes())
    }

    /// Whether an instance's volume has a file.
    pub async fn has(&self, row: &Row, below: &str) -> Result<bool> {
        if !self.bed.is_foreign() {
            return Ok(self.volume(row)?.folder().join(below).exists());
        }
        Ok(!self.shell(row, &format!("if [ -e {MOUNT}/{below} ]; then echo yes; fi")).await?.is_empty())
    }

    /// Writes a line into an instance's volume.
    pub async fn write_volume(&self, row: &Row, below: &str, line: &str) -> Result<()> {
        if !self.bed.is_foreign() {
            return Ok(std::fs::write(self.volume(row)?.folder().join(below), line)?);
        }
        self.shell(row, &format!("echo '{line}' > {MOUNT}/{below}")).await.map(drop)
    }

    /// Removes a file of an instance's volume.
    pub async fn remove_from_volume(&self, row: &Row, below: &str) -> Result<()> {
        if !self.bed.is_foreign() {
            return Ok(std::fs::remove_file(self.volume(row)?.folder().join(below))?);
        }
        self.shell(row, &format!("rm {MOUNT}/{below}")).await.map(drop)
    }

    /// The page of an instance's supervisor, through the API server.
    pub async fn page_by_proxy(&self, row: &Row) -> Result<Page> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:{PAGE_PORT}/proxy/status", row.pod());
        let text = self.cluster.kubernetes().request_text(http::Request::get(path).body(Vec::new())?).await?;
        serde_json::from_str(&text).context("the page cannot be understood")
    }

    /// Runs a script in an instance's container until a command of it fails, and returns what it says.
    pub async fn shell(&self, row: &Row, script: &str) -> Result<String> {
        let pods: Api<Pod> = self.cluster.pods();
        let how = AttachParams::default().container(CONTAINER).stdout(true).stderr(true);
        let mut process = pods.exec(row.pod(), ["/bin/sh", "-ec", script], &how).await?;
        let ended = process.take_status().context("the command has no status")?;
        let (mut said, mut complained) = (String::new(), String::new());
        let (mut out, mut err) = (process.stdout().context("no output")?, process.stderr().context("no errors")?);
        tokio::try_join!(out.read_to_string(&mut said), err.read_to_string(&mut complained))?;
        let status = ended.await.context("the command ended without a status")?;
        ensure!(status.status.as_deref() == Some("Success"), "`{script}` in {} failed: {complained}", row.pod());
        Ok(said)
    }
}
