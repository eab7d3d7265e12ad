//! What the operator wrote, by the API server's own record.

use std::{
    fs,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::CLUSTER;
use crate::bed::Bed;

/// The record from one moment on.
pub struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    pub fn from_now(bed: &Bed) -> Result<Self> {
        let path = bed.audit_log();
        let from = fs::metadata(&path)?.len();
        Ok(Self { path, from })
    }

    /// The operator wrote statuses and events of these clusters and nothing else, and each status a few times at most;
    /// whatever it made belongs to the healthy cluster. The number of those statuses.
    pub fn nothing_but_statuses(&self, clusters: &[&str]) -> Result<usize> {
        let mut statuses = vec![];
        for event in self.writes()? {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (resource, subresource, mut name) = (text("/objectRef/resource"), text("/objectRef/subresource"), text("/objectRef/name"));
            if name.is_empty() {
                name = text("/requestObject/metadata/name");
            }
            match (resource.as_str(), subresource.as_str()) {
                ("events" | "leases", _) | ("segmentrecoveries", "status") => {}
                ("greenplumclusters", "status") if clusters.contains(&name.as_str()) => statuses.push(name),
                ("greenplumclusters", "status") => ensure!(name == CLUSTER, "the status of {name} was written"),
                _ => ensure!(name.starts_with(&format!("{CLUSTER}-d")), "{} of {resource} {subresource} {name}", text("/verb")),
            }
        }
        for cluster in clusters {
            let written = statuses.iter().filter(|name| name == cluster).count();
            ensure!((1..=8).contains(&written), "the status of {cluster} was written {written} times");
        }
        Ok(statuses.len())
    }

    fn writes(&self) -> Result<Vec<Value>> {
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let events = BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let is = |event: &Value, pointer: &str, wanted: &[&str]| {
            event.pointer(pointer).and_then(Value::as_str).is_some_and(|text| wanted.contains(&text))
        };
        let ours = |event: &Value| {
            let user = event.pointer("/user/username").and_then(Value::as_str).unwrap_or_default();
            user.starts_with("system:serviceaccount:gpheal-system:")
        };
        let write = ["create", "update", "patch", "delete", "deletecollection"];
        Ok(events.filter(|e| is(e, "/stage", &["ResponseComplete"]) && is(e, "/verb", &write) && ours(e)).collect())
    }
}
