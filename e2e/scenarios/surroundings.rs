//! An instance's surroundings are not what they should be: modes, locks of its container, settings, a cordoned node. Its data is
//! whole, so nothing is copied for it; and a repair that becomes due meets the same.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetUpdateStrategy},
    core::v1::Node,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    Stage, copies,
    crashes::nothing_was_repaired,
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::fault::{delete_pod, keep_down},
    fixture::{DATA_DIRECTORY, NAMESPACE, Row, place_of},
};

/// What a kubelet with `fsGroup` leaves of a directory's mode.
const OPEN: u32 = 0o2770;
/// A comment in Chinese, as GBK writes it: no UTF-8.
const NO_UTF8: &[u8] = b"\n# \xd6\xd0\xce\xc4\n";
/// Where the settings lie that an init container writes.
const ELSEWHERE: &str = "/etc/gp";
/// The StatefulSets of the segments: either may hold an acting primary.
pub const SETS: [&str; 2] = ["gp-primary", "gp-mirror"];
pub const ON_DELETE: &str = "OnDelete";
const ROLLING: &str = "RollingUpdate";

/// First under a mirror, which comes back by itself; then under a primary that is lost, which is rewound and not copied.
pub async fn mode_open(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(0).await?;
    fs::set_permissions(data(stage, &mirror)?, Permissions::from_mode(OPEN))?;
    dies_and_is_back(stage, &mirror).await?;
    ensure!(fs::metadata(data(stage, &mirror)?)?.permissions().mode() & 0o027 == 0, "the directory is still open");
    stage.mark("the mirror's directory is closed again, and it is back");
    let down = keep_down(&stage.container(&primary).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    fs::set_permissions(data(stage, &primary)?, Permissions::from_mode(OPEN))?;
    down.release()?;
    stage.wait_rewound(primary.dbid).await
}

/// An empty one, and one with the number of a process of the same container that has nothing to do with postgres.
pub async fn socket_lock(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(1).await?;
    let lock = format!("/tmp/.s.PGSQL.{}.lock", mirror.port);
    let stranger = stage.shell(&mirror, "sleep 600 > /dev/null 2>&1 & echo $!").await?;
    for text in [String::new(), format!("{}\\n", stranger.trim())] {
        stage.shell(&mirror, &format!("rm -f {lock}; printf '{text}' > {lock}")).await?;
        dies_and_is_back(stage, &mirror).await?;
        stage.mark(format!("back over a socket's lock that says '{text}'"));
    }
    stage.shell(&mirror, &format!("kill {}", stranger.trim())).await.map(drop)
}

async fn dies_and_is_back(stage: &Stage, mirror: &Row) -> Result<()> {
    let before = stage.page(mirror).await?.last_exit;
    stage.kill_postmaster(mirror).await?;
    stage.wait_page(mirror, "a mirror that receives again", |page| page.last_exit != before && page.receiving).await?;
    stage.wait_healthy().await?;
    nothing_was_repaired(stage).await
}

/// A comment that is no UTF-8 in the settings of both: the mirror's pod comes back, and a copy carries the comment along.
pub async fn settings_in_gbk(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(1).await?;
    for row in [&primary, &mirror] {
        OpenOptions::new().append(true).open(data(stage, row)?.join("postgresql.conf"))?.write_all(NO_UTF8)?;
    }
    restarted(stage, &mirror).await?;
    nothing_was_repaired(stage).await?;
    stage.mark("the mirror's pod is back");
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    let settings = fs::read(data(stage, &mirror)?.join("postgresql.conf"))?;
    ensure!(settings.windows(NO_UTF8.len()).any(|bytes| bytes == NO_UTF8), "the copy has lost the comment");
    stage.wait_healthy().await.map(drop)
}

/// Both instances of a content have settings that their pods' init containers write; the primary is lost, and crash recovery in
/// its Job reads them, too.
pub async fn settings_outside(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(2).await?;
    let sets: Api<StatefulSet> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let mut as_built = vec![];
    for set in SETS {
        as_built.push(sets.get(set).await?);
        sets.patch(set, &PatchParams::default(), &Patch::Strategic(with_settings())).await?;
    }
    let played = includes_and_dies(stage, &primary, &mirror).await;
    for set in &as_built {
        put_back(&sets, set, ON_DELETE).await?;
    }
    for row in [&primary, &mirror] {
        restarted(stage, row).await?;
    }
    for set in &as_built {
        put_back(&sets, set, strategy(set)).await?;
    }
    played
}

async fn includes_and_dies(stage: &mut Stage, primary: &Row, mirror: &Row) -> Result<()> {
    for row in [mirror, primary] {
        restarted(stage, row).await?;
    }
    let file = |stage: &Stage, row: &Row| Ok::<_, anyhow::Error>(data(stage, row)?.join("postgresql.conf"));
    let before = [fs::read(file(stage, mirror)?)?, fs::read(file(stage, primary)?)?];
    for row in [mirror, primary] {
        let line = format!("\ninclude '{ELSEWHERE}/extra.conf'\n");
        OpenOptions::new().append(true).open(file(stage, row)?)?.write_all(line.as_bytes())?;
    }
    let down = keep_down(&stage.container(primary).await?)?;
    stage.mark("both include what an init container writes; the primary is kept down");
    stage.wait_row(mirror.dbid, "pnu").await?;
    down.release()?;
    let healed = stage.wait_rewound(primary.dbid).await;
    for (row, text) in [mirror, primary].into_iter().zip(before) {
        fs::write(file(stage, row)?, text)?; // the same file: its owner stays
    }
    healed
}

/// Only the pods that are deleted take the change.
fn with_settings() -> Value {
    let script = format!("echo 'log_checkpoints = on' > {ELSEWHERE}/extra.conf");
    let mount = json!([{ "name": "settings", "mountPath": ELSEWHERE }]);
    let filler = json!({ "name": "settings", "image": "localhost/greenplum:dev", "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-ec", script], "volumeMounts": mount,
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } });
    json!({ "spec": { "updateStrategy": { "type": ON_DELETE, "rollingUpdate": null }, "template": { "spec": {
        "volumes": [{ "name": "settings", "emptyDir": {} }],
        "initContainers": [filler],
        "containers": [{ "name": "greenplum", "volumeMounts": mount }],
    } } } })
}

pub fn strategy(set: &StatefulSet) -> &str {
    set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref()).unwrap_or(ROLLING)
}

pub async fn put_back(sets: &Api<StatefulSet>, as_built: &StatefulSet, strategy: &str) -> Result<()> {
    let name = as_built.name_any();
    let mut now = sets.get(&name).await?;
    now.spec.clone_from(&as_built.spec);
    let strategy = StatefulSetUpdateStrategy { type_: Some(strategy.into()), rolling_update: None };
    now.spec.as_mut().context("a StatefulSet without a spec")?.update_strategy = Some(strategy);
    sets.replace(&name, &PostParams::default(), &now).await?;
    Ok(())
}

/// Its pod is replaced, and the pair is in sync.
pub async fn restarted(stage: &Stage, row: &Row) -> Result<()> {
    let uid = async || Ok::<_, anyhow::Error>(stage.cluster.pods().get_opt(row.pod()).await?.and_then(|pod| pod.metadata.uid));
    let before = uid().await?;
    delete_pod(&stage.bed, NAMESPACE, row.pod()).await?;
    let replaced = async || {
        Ok(match uid().await? {
            None => Err("there is none".into()),
            now if now == before => Err("it is the old one".into()),
            Some(_) => Ok(()),
        })
    };
    until(&format!("a new pod {}", row.pod()), HEALED_WITHIN, replaced).await?;
    stage.wait_page(row, "a new life", |page| page.serves.is_some()).await?;
    stage.wait_healthy().await.map(drop)
}

/// The pod beside which a repair is to run stays where it is, so the repair runs there, too.
pub async fn cordoned(stage: &mut Stage) -> Result<()> {
    let (_, mirror) = stage.pair(0).await?;
    let nodes: Api<Node> = Api::all(stage.cluster.kubernetes().clone());
    let node = place_of(mirror.pod())?.to_string();
    nodes.cordon(&node).await?;
    stage.mark(format!("{node} cordoned"));
    let healed = async {
        copies::empty(stage, &mirror).await?;
        stage.wait_succeeded(mirror.dbid).await
    };
    let healed = healed.await;
    nodes.uncordon(&node).await?;
    healed?;
    stage.wait_healthy().await.map(drop)
}

fn data(stage: &Stage, row: &Row) -> Result<PathBuf> {
    Ok(stage.volume(row)?.folder().join(DATA_DIRECTORY))
}
