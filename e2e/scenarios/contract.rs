//! The contract of a segment pod, checked from inside its container beside a living postgres.

use anyhow::{Context, Result, ensure};
use kube::api::AttachParams;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::{Stage, stage::PODS};
use crate::fixture::Nature;

const CHECK: [&str; 6] = ["/gpheal-bin/gpheal", "supervise", "--check", "--output", "json", "--grace-seconds=60"];

/// What is wrong for a moment, on one command line, and the code that tells it.
const WRONG: [(&str, &str); 13] = [
    ("--port=7001", "NotInCatalog"),
    ("--port=70000", "VariableMalformed"),
    ("--address=gp-coordinator-0.gp", "NameElsewhere"),
    ("--address=gp-nobody-0.gp", "NameUnresolved"),
    ("--credentials=/nowhere", "CredentialsUnreadable"),
    ("--coordinator=gp-coordinator-0.gp:1", "CoordinatorUnreachable"),
    ("--coordinator=gp-coordinator-0.gp:8090", "NotPostgres"),
    ("--coordinator=gp-nobody-0.gp:5432", "NameUnresolved"),
    ("--coordinator=gp-coordinator-0.gp:5432,gp-coordinator-1.gp", "VariableMalformed"),
    ("--credentials=/tmp/wrong", "LoginRefused"),
    ("--data-directory=/data", "DataDirIsMountRoot"),
    ("--data-directory=/tmp/gpseg", "NoClaim"),
    ("--stop-seconds=60", "StopTooLong"),
];

/// The same where the servers let nobody in without TLS.
const WRONG_TLS: [(&str, &str); 2] = [("--ca=/nowhere", "CaMissing"), ("--tls=disable", "LoginRefused")];

pub async fn contract(stage: &mut Stage) -> Result<()> {
    for pod in PODS {
        let answer = check(stage, pod, &[]).await?;
        ensure!(answer["ok"] == true, "{pod} does not pass: {answer}");
    }
    stage.mark("the check passes in every pod, while postgres runs");
    let mirror = stage.catalog().await?.rows.into_iter().find(|row| row.pod() == "gp-mirror-0").context("it has no row")?;
    let wrong = "mkdir -p /tmp/wrong; cd /tmp/wrong; printf gpadmin > username; printf wrong > password";
    stage.shell(&mirror, wrong).await?;
    let tls = Nature::chosen()?.tls.then_some(WRONG_TLS);
    for (argument, code) in WRONG.into_iter().chain(tls.into_iter().flatten()) {
        let answer = check(stage, "gp-mirror-0", &[argument]).await?;
        ensure!(answer["ok"] == false && codes(&answer).contains(&code), "{argument} is not told as {code}: {answer}");
    }
    stage.mark("everything that was made wrong is told by its code");
    stage.wait_healthy().await.map(drop)
}

fn codes(answer: &Value) -> Vec<&str> {
    answer["points"].as_array().into_iter().flatten().filter_map(|point| point["code"].as_str()).collect()
}

async fn check(stage: &Stage, pod: &str, arguments: &[&str]) -> Result<Value> {
    let how = AttachParams::default().container("greenplum").stderr(false);
    let mut process = stage.cluster.pods().exec(pod, [&CHECK, arguments].concat(), &how).await?;
    let mut text = String::new();
    process.stdout().context("the check has no output")?.read_to_string(&mut text).await?;
    serde_json::from_str(&text).with_context(|| format!("{pod} answers '{text}'"))
}
