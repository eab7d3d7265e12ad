//! Volumes bound to a node: folders of the host, as `local` persistent volumes.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::{
    command::{entries, make_folder, program, run},
    kubernetes::LOCAL,
    layout::{Layout, Node},
};

/// How often in a row a folder may be found filled again while it is removed.
const REFILLED: u32 = 1000;

/// A claim that a volume is kept for.
#[derive(Clone, Debug)]
pub struct Claim {
    pub namespace: String,
    pub name: String,
}

/// A volume of a node, seen from the host.
#[derive(Clone, Debug)]
pub struct Volume {
    node: Node,
    name: String,
    folder: PathBuf,
}

/// A copy of a volume, beside it.
#[derive(Debug)]
pub struct Snapshot {
    folder: PathBuf,
}

impl Volume {
    /// Makes the folder when it is missing, closed to all but root: the kubelet
    /// opens it to the pod's group.
    pub(super) fn ensure(layout: &Layout, node: Node, name: &str) -> Result<Self> {
        let folder = layout.volume(node, name);
        if !folder.exists() {
            make_folder(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o770))?;
        }
        Ok(Self { node, name: name.to_owned(), folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn node(&self) -> Node {
        self.node
    }

    /// The object that offers the volume to one claim, on its node alone.
    pub fn persistent_volume(&self, claim: &Claim, capacity: &str) -> Result<PersistentVolume> {
        let node = json!([{ "key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.to_string()] }]);
        let object = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": self.name },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": { "storage": capacity },
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": claim.namespace,
                    "name": claim.name,
                },
                "local": { "path": self.folder },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": node }] } },
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": LOCAL,
                "volumeMode": "Filesystem",
            },
        });
        Ok(serde_json::from_value(object)?)
    }

    /// Removes one folder of the volume, say its data directory. A server that still runs makes files meanwhile.
    pub fn remove_data_dir(&self, below: &str) -> Result<()> {
        let path = self.inner(below)?;
        let refilled = |error: &io::Error| error.kind() == io::ErrorKind::DirectoryNotEmpty;
        let mut removed = fs::remove_dir_all(&path);
        for _ in 0..REFILLED {
            if !removed.as_ref().is_err_and(refilled) {
                break;
            }
            removed = fs::remove_dir_all(&path);
        }
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Overwrites a file from its beginning to its end with what is no content of anything.
    pub fn damage_file(&self, below: &str) -> Result<()> {
        let path = self.inner(below)?;
        let length = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let length = usize::try_from(length)?;
        fs::write(&path, vec![0xA5; length]).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Leaves the volume as a new disk would be.
    pub fn empty(&self) -> Result<()> {
        for path in entries(&self.folder) {
            let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Copies the volume as it is on the disk now.
    pub fn copy(&self) -> Result<Snapshot> {
        let beside = self.folder.with_file_name(".copies");
        make_folder(&beside)?;
        let place = tempfile::Builder::new().prefix(&self.name).tempdir_in(&beside)?.keep();
        copy_all(&self.folder, &place)?;
        Ok(Snapshot { folder: place })
    }

    /// Puts a copy back in place of what the volume holds.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.empty()?;
        copy_all(&snapshot.folder, &self.folder)
    }

    /// A path below the volume, which must not lead out of it.
    fn inner(&self, below: &str) -> Result<PathBuf> {
        let plain = Path::new(below).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        ensure!(plain && !below.is_empty(), "{below:?} is not a path below a volume");
        Ok(self.folder.join(below))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // What stays goes with the bed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// With owners, times and links, as a disk's own copy would be.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let source = from.join(".");
    run(program("cp", ["-a", "--reflink=auto"]).arg(source).arg(to)).map(drop)
}
