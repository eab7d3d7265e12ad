//! The operator on the bed: definitions, rights, deployment, and the cluster that it looks after.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;

use crate::{
    bed::Bed,
    fixture::{apply, wait_until},
};

const NAMESPACE: &str = "gpheal-system";
const READY_WITHIN: Duration = Duration::from_mins(2);

/// Installs the operator from this checkout's manifests and hands it the fixture.
pub async fn install(bed: &Bed) -> Result<()> {
    let client = bed.client()?;
    for folder in ["crds", "config/default"] {
        for text in manifests(folder)? {
            apply(&client, &text).await?;
        }
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    deployments.restart("gpheal").await.context("the operator's deployment can not be restarted")?;
    wait_until("the operator to be ready", READY_WITHIN, async || {
        let found = deployments.get("gpheal").await?;
        let (wanted, status) = (found.metadata.generation, found.status.unwrap_or_default());
        Ok(status.observed_generation >= wanted
            && status.updated_replicas == Some(1)
            && status.ready_replicas == Some(1)
            && status.replicas == Some(1))
    })
    .await?;
    for text in manifests("config/samples")? {
        apply(&client, &text).await?;
    }
    Ok(())
}

/// The YAML files of a folder, in the order of their names.
fn manifests(folder: &str) -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let files = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten();
    let mut paths: Vec<_> = files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))).collect()
}
