//! The superuser's password replaced under everybody's feet.

use anyhow::{Context, Result, ensure};
use greenplum::Tls;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    Stage,
    stage::{HEALED_WITHIN, until},
    tls::{lives, nudge},
};
use crate::fixture::{DATA_DIRECTORY, NAMESPACE, Session};

const NEW: &str = "demo-only-rotated";

/// As `docs/passwords.md` says: FTS rests, the role first, then the secrets. Each mirror's WAL receiver then connects anew,
/// and nobody is restarted.
pub async fn rotated(stage: &mut Stage) -> Result<()> {
    let before = lives(stage).await?;
    let old = stage.cluster.login(Tls::Require).await?;
    let conf = format!("/data/{DATA_DIRECTORY}/postgresql.conf");
    set_fts(stage, &format!("cp {conf} /tmp/before; echo 'gp_fts_probe_interval = 3600' >> {conf}")).await?;
    rotate(stage, &old.user, NEW).await?;
    let seen = receivers_connect_anew(stage).await;
    // Also where something failed: others come after us.
    rotate(stage, &old.user, &old.password).await?;
    in_files(stage, &old.password).await?;
    set_fts(stage, &format!("cat /tmp/before > {conf}")).await?;
    seen?;
    stage.wait_healthy().await?;
    stage.mark("the old one is back everywhere");
    ensure!(stage.all_recoveries().await?.is_empty(), "a recovery was made");
    let after = lives(stage).await?;
    ensure!(before == after, "somebody was restarted: {before:?}, then {after:?}");
    Ok(())
}

/// Changes the coordinator's settings and waits until its prober has looked by them.
async fn set_fts(stage: &Stage, script: &str) -> Result<()> {
    let catalog = stage.catalog().await?;
    let coordinator = catalog.coordinator().context("no coordinator")?;
    stage.shell(coordinator, script).await?;
    stage.cluster.instance(coordinator).await?.client().batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
    stage.cluster.request_probe().await
}

async fn receivers_connect_anew(stage: &mut Stage) -> Result<()> {
    in_files(stage, NEW).await?;
    stage.mark("every password file has the new one");
    for content in 0..3 {
        let (primary, mirror) = stage.pair(content).await?;
        let session = stage.cluster.instance(&primary).await?;
        let connected = "SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE state = 'streaming' AND pid <> ALL($1)";
        let ended: Vec<i32> = senders(&session).await?;
        ensure!(!ended.is_empty(), "{} has no walsender", primary.pod());
        session.client().query("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_replication", &[]).await?;
        until(&format!("{} to be connected anew", mirror.pod()), HEALED_WITHIN, async || {
            let streaming: i64 = session.client().query_one(connected, &[&ended]).await?.try_get(0)?;
            Ok(if streaming > 0 { Ok(()) } else { Err("no walsender streams".into()) })
        })
        .await?;
    }
    stage.mark("every WAL receiver has connected with it");
    stage.cluster.request_probe().await?;
    stage.wait_healthy().await.map(drop)
}

async fn senders(session: &Session) -> Result<Vec<i32>> {
    let rows = session.client().query("SELECT pid FROM pg_catalog.pg_stat_replication", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// With Greenplum the coordinator would tell the segments; the stand-in's roles are each instance's own.
async fn rotate(stage: &Stage, user: &str, password: &str) -> Result<()> {
    let catalog = stage.catalog().await?;
    let mut sessions = vec![];
    for row in catalog.rows.iter().filter(|row| row.is_acting_primary()) {
        sessions.push(stage.cluster.instance(row).await?);
    }
    for session in &sessions {
        session.client().batch_execute(&format!("ALTER ROLE {user} PASSWORD '{password}'")).await?;
    }
    let secrets: Api<Secret> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    for secret in secrets.list(&ListParams::default()).await?.items {
        let of_user = secret.data.as_ref().and_then(|data| data.get("username")).is_some_and(|name| name.0 == user.as_bytes());
        if of_user {
            let patch = Patch::Merge(json!({ "stringData": { "password": password } }));
            secrets.patch(&secret.name_any(), &PatchParams::default(), &patch).await?;
        }
    }
    Ok(())
}

/// Waits until the password files of all instances have it.
async fn in_files(stage: &Stage, password: &str) -> Result<()> {
    for row in stage.catalog().await?.rows {
        until(&format!("{} to have the password", row.pod()), HEALED_WITHIN, async || {
            nudge(stage, &row).await?;
            let text = stage.shell(&row, "cat /tmp/gpheal.pgpass").await?;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            Ok(if text.contains(password) { Ok(()) } else { Err("its file has another".into()) })
        })
        .await?;
    }
    Ok(())
}
