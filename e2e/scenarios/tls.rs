//! Certificates and authorities replaced under everybody's feet.

use std::{collections::BTreeMap, fs, net::IpAddr, os::unix::fs::chown};

use anyhow::{Context, Result, ensure};
use greenplum::{Ca, Server, Session, SessionError, Tls};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    Stage, copies, operator,
    stage::{HEALED_WITHIN, PODS, until},
};
use crate::{
    bed::fault::kill_postmaster,
    fixture::{
        DATA_DIRECTORY, Issued, Nature, Row,
        certificates::{authority, issue, put},
    },
};

/// Whose files they are in the containers.
const OWNER: u32 = 1000;

/// Authorities first, then certificates, then the old authority goes; nobody is restarted, and a mirror heals afterwards.
pub async fn rotated(stage: &mut Stage) -> Result<()> {
    let nature = Nature::chosen()?;
    let before = lives(stage).await?;
    let (old, new) = (authority(&stage.bed, "greenplum-1")?, authority(&stage.bed, "greenplum-2")?);
    let both = old.pem()? + &new.pem()?;
    mounted(stage, &both, &issue(&old)?).await?;
    stage.mark("both authorities are trusted");
    let renewed = issue(&new)?;
    mounted(stage, &both, &renewed).await?;
    for row in stage.catalog().await?.rows {
        take_certificate(stage, &row, &renewed, nature).await?;
        until(&format!("{} to show the new certificate", row.pod()), HEALED_WITHIN, async || {
            Ok(asked(stage, &row, &new.pem()?).await?.map_err(|error| error.to_string()))
        })
        .await?;
        stage.wait_healthy().await?;
    }
    stage.mark("every instance shows a certificate of the new one");
    mounted(stage, &new.pem()?, &renewed).await?;
    for row in stage.catalog().await?.rows {
        let refused = asked(stage, &row, &old.pem()?).await?;
        let untrusted = matches!(&refused, Err(SessionError::Tls { fault, .. }) if fault.code() == "CertificateUntrusted");
        ensure!(untrusted, "the old authority still vouches for {}: {refused:?}", row.pod());
    }
    stage.mark("the old authority is trusted by nobody");
    let (_, mirror) = stage.pair(0).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.healed.clear(); // that such a copy can serve alone is what mirror-emptied shows, with TLS as well
    stage.wait_healthy().await?;
    let after = lives(stage).await?;
    ensure!(before == after, "somebody was restarted: {before:?}, then {after:?}");
    Ok(())
}

/// Puts them into the Secret, and waits until every instance has them in its files.
async fn mounted(stage: &Stage, authorities: &str, issued: &Issued) -> Result<()> {
    put(stage.cluster.kubernetes(), authorities, issued).await?;
    let rows = stage.catalog().await?.rows;
    for row in &rows {
        until(&format!("{} to have the new files", row.pod()), HEALED_WITHIN, async || {
            nudge(stage, row).await?;
            let container = stage.container(row).await?;
            let file = |name: &str| Ok::<_, anyhow::Error>(format!("/proc/{}/root/etc/greenplum/tls/{name}", container.postmaster()?));
            let seen = (fs::read_to_string(file("ca.crt")?)?, fs::read_to_string(file("tls.crt")?)?);
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            Ok(if seen == (authorities.to_owned(), issued.certificate.clone()) { Ok(()) } else { Err("the old ones are there".into()) })
        })
        .await?;
    }
    Ok(())
}

/// The kubelet looks after mounted secrets about once a minute, and whenever it is told of a change of the pod.
pub async fn nudge(stage: &Stage, row: &Row) -> Result<()> {
    let annotation = json!({ "metadata": { "annotations": { "gpheal-e2e/nudged": jiff::Timestamp::now() } } });
    stage.cluster.pods().patch(row.pod(), &PatchParams::default(), &Patch::Merge(annotation)).await?;
    Ok(())
}

/// A server is told to read its files again; Greenplum 6 reads them only when it starts.
async fn take_certificate(stage: &Stage, row: &Row, issued: &Issued, nature: Nature) -> Result<()> {
    let container = stage.container(row).await?;
    if !nature.six {
        return Ok(kill(Pid::from_raw(container.postmaster()?), Signal::SIGHUP)?);
    }
    let data = stage.volume(row)?.folder().join(DATA_DIRECTORY);
    for (name, text) in [("server.key", &issued.key), ("server.crt", &issued.certificate)] {
        let file = data.join(name);
        fs::write(&file, text)?;
        chown(&file, Some(OWNER), Some(OWNER))?;
    }
    kill_postmaster(&container).map(drop)
}

/// Whether a client that trusts these authorities is answered; a mirror's refusal is an answer, given after the handshake.
async fn asked(stage: &Stage, row: &Row, authorities: &str) -> Result<Result<(), SessionError>> {
    let pod = stage.cluster.pods().get(row.pod()).await?;
    let ip: IpAddr = pod.status.and_then(|status| status.pod_ip).context("the pod has no address")?.parse()?;
    let tls = Tls::VerifyFull(Ca::Pem { pem: authorities.into(), from: "the scenario".into() });
    let server = Server::new(&row.address, row.port).at(ip);
    Ok(match Session::utility(&server, &stage.cluster.login(tls).await?, None).await {
        Ok(_) | Err(SessionError::InRecovery(_)) => Ok(()),
        Err(error) => Err(error),
    })
}

/// Identity and restarts of every pod that must not be touched.
pub async fn lives(stage: &Stage) -> Result<BTreeMap<String, (String, i32)>> {
    let operators = Api::<Pod>::namespaced(stage.cluster.kubernetes().clone(), operator::NAMESPACE).list(&ListParams::default()).await?;
    let instances = stage.cluster.pods().list(&ListParams::default()).await?;
    let instances = instances.items.into_iter().filter(|pod| PODS.contains(&pod.name_any().as_str()));
    let stay = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    let life = |pod: Pod| {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts = containers.map(|container| container.restart_count).sum();
        (pod.name_any(), (pod.uid().unwrap_or_default(), restarts))
    };
    Ok(instances.chain(operators.items).filter(stay).map(life).collect())
}
