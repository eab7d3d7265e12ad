//! Looks on while scenarios run: one writer per volume, one Job per content, no write without a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, api::ListParams};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Stage, stage::PODS};
use crate::{
    bed::{Volume, proc},
    fixture::{NAMESPACE, volume_of},
};

const LOOK: Duration = Duration::from_secs(1);
/// Programs that write a data directory.
const WRITERS: [&str; 3] = ["postgres", "pg_rewind", "pg_basebackup"];

/// A look-out that runs beside a scenario.
pub struct Watchdog {
    broken: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
    audit: Option<PathBuf>,
    audit_from: u64,
}

impl Watchdog {
    pub fn start(stage: &Stage) -> Result<Self> {
        // Without nodes to look at, Jobs are all that can be watched.
        let pods = if stage.bed.is_foreign() { &[][..] } else { &PODS[..] };
        let volumes = pods.iter().map(|pod| volume_of(&stage.bed, pod)).collect::<Result<Vec<_>>>()?;
        let jobs: Api<Job> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
        let broken = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&broken);
        let task = tokio::spawn(async move {
            loop {
                let mut found = two_writers(&volumes);
                found.extend(two_jobs(&jobs).await);
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                tokio::time::sleep(LOOK).await;
            }
        });
        let audit = Some(stage.bed.audit_log()).filter(|_| !stage.bed.is_foreign());
        let audit_from = audit.as_ref().and_then(|audit| fs::metadata(audit).ok()).map_or(0, |m| m.len());
        Ok(Self { broken, task, audit, audit_from })
    }

    /// Ends the look-out; an error names what it saw.
    pub fn stop(self) -> Result<()> {
        self.task.abort();
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(broken.is_empty(), "rules were broken: {broken:?}");
        let Some(audit) = self.audit else { return Ok(()) };
        let idle = writes_without_change(&audit, self.audit_from)?;
        ensure!(idle.is_empty(), "the operator wrote what was already so: {idle:?}");
        Ok(())
    }
}

/// Volumes on which writers of two pods live at once. Who writes is seen by what it has open, whoever has the lock.
fn two_writers(volumes: &[Volume]) -> Vec<String> {
    let known: BTreeMap<Identity, &Path> = volumes.iter().filter_map(|v| Some((identity(v.folder())?, v.folder()))).collect();
    let mut pods: BTreeMap<&Path, BTreeSet<String>> = BTreeMap::new();
    for pid in proc::all().into_iter().filter(|pid| is_writer(*pid)) {
        let Some(pod) = pod_of(pid) else { continue };
        for volume in lives_on(pid).iter().filter_map(|folder| known.get(folder)) {
            pods.entry(volume).or_default().insert(pod.clone());
        }
    }
    let several = pods.into_iter().filter(|(_, pods)| pods.len() > 1);
    several.map(|(volume, pods)| format!("{} has writers of several pods: {pods:?}", volume.display())).collect()
}

/// Device and inode: a container sees a folder under another path.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// The folders in which it works or has a file open, and all above them.
fn lives_on(pid: i32) -> BTreeSet<Identity> {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    let open = proc::open_files(pid).into_iter().filter_map(|(_, target)| Some(target.parent()?.to_owned()));
    let mut folders = BTreeSet::new();
    for folder in cwd.into_iter().chain(open).filter(|path| path.is_absolute()) {
        folders.extend(folder.ancestors().map(Path::to_owned));
    }
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    folders.iter().filter_map(|folder| identity(&root.join(folder.strip_prefix("/").unwrap_or(folder)))).collect()
}

fn is_writer(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.file_name().is_some_and(|name| WRITERS.iter().any(|w| name == *w)))
}

/// The pod's uid out of the process' cgroup.
fn pod_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let pod = text.split('/').find(|part| part.starts_with("pod"))?;
    Some(pod.to_owned())
}

/// Contents for which two Jobs are active at once.
async fn two_jobs(jobs: &Api<Job>) -> Vec<String> {
    let Ok(list) = jobs.list(&ListParams::default().labels("gpheal.io/recovery")).await else { return vec![] };
    let mut by_dbid: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for job in list.items.iter().filter(|job| job.status.as_ref().is_some_and(|s| s.active.unwrap_or(0) > 0)) {
        let dbid = job.metadata.labels.as_ref().and_then(|l| l.get("gpheal.io/dbid")).cloned().unwrap_or_default();
        by_dbid.entry(content_of(&dbid)).or_default().push(job.metadata.name.clone().unwrap_or_default());
    }
    by_dbid.into_iter().filter(|(_, jobs)| jobs.len() > 1).map(|(content, jobs)| format!("content {content} has Jobs {jobs:?}")).collect()
}

/// dbids 2, 3, 4 are the contents 0, 1, 2 as built primaries, 5, 6, 7 as mirrors.
fn content_of(dbid: &str) -> String {
    dbid.parse::<i32>().map_or_else(|_| dbid.to_owned(), |dbid| ((dbid - 2) % 3).to_string())
}

/// Status writes of the operator after which the object's resourceVersion is one that it had before.
fn writes_without_change(audit: &PathBuf, from: u64) -> Result<Vec<String>> {
    let mut file = fs::File::open(audit)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut seen, mut idle) = (BTreeSet::new(), vec![]);
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let version = written_version(&event);
        idle.extend(version.filter(|version| !seen.insert(version.clone())));
    }
    Ok(idle)
}

/// `RESOURCE/NAME@VERSION` for a finished write of our kinds by the operator.
fn written_version(event: &Value) -> Option<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let ours = text("/objectRef/apiGroup") == Some("gpheal.io") && text("/user/username")?.contains("gpheal");
    let write = ours && text("/stage") == Some("ResponseComplete") && matches!(text("/verb"), Some("patch" | "update"));
    let done = event.pointer("/responseStatus/code").and_then(Value::as_i64) == Some(200);
    (write && done).then_some(())?;
    let version = text("/responseObject/metadata/resourceVersion")?;
    Some(format!("{}/{}@{version}", text("/objectRef/resource")?, text("/objectRef/name")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_below_a_folder_lives_there_whatever_its_lock() {
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = i32::try_from(std::process::id()).unwrap();
        let lives = |folder: &Path| identity(folder).is_some_and(|wanted| lives_on(own).contains(&wanted));
        fs::create_dir(volume.path().join("gpseg")).unwrap();
        assert!(!lives(volume.path()));
        let open = fs::File::create(volume.path().join("gpseg/file")).unwrap();
        assert!(lives(volume.path()) && !lives(other.path()));
        drop(open);
    }
}
