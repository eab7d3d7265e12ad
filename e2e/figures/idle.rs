//! What gpheal does while all is well: writes, statements, processor time; and how much memory it ever had.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Seek, SeekFrom},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kube::api::LogParams;
use serde_json::Value;

use super::Figure;
use crate::{
    bed::{
        fault::{self, Container},
        say,
    },
    scenarios::{Stage, memory::Peaks, operator, until},
};

const OPERATOR: &str = "system:serviceaccount:gpheal-system:gpheal";
const COORDINATOR: &str = "gp-coordinator-0";
/// Segments of the fixture that ask the coordinator for their rows.
const SEGMENTS: u64 = 6;

/// So long without a write of anything but the Lease, and what was begun is over.
const SETTLED: Duration = Duration::from_secs(90);
const SETTLED_WITHIN: Duration = Duration::from_mins(10);

pub async fn measure(stage: &Stage, minutes: u64) -> Result<Vec<Figure>> {
    settle(stage).await?;
    log_statements(stage, true).await?;
    let leader = Container::find(&stage.bed, operator::NAMESPACE, &fault::leader(&stage.bed).await?, "operator").await?;
    say(format!("looking at an idle cluster for {minutes} min"));
    let (audit_from, since, before) = (fs::metadata(stage.bed.audit_log())?.len(), jiff::Timestamp::now(), ticks(&leader)?);
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(60 * minutes)).await; // the measurement itself
    let (spent, seconds) = (ticks(&leader)? - before, begun.elapsed().as_secs_f64());
    let writes = writes(stage, audit_from)?;
    let statements = statements(stage, since).await?;
    log_statements(stage, false).await?;
    let leases = writes.get("leases").copied().unwrap_or_default();
    let allowed = f64::from(u32::try_from(minutes * (2 + SEGMENTS))?);
    Ok(vec![
        Figure::new(format!("idle {minutes} min: writes of anything but the Lease"), "", vec![others(&writes).into()], Some(0.0)),
        Figure::new(format!("idle {minutes} min: writes of the Lease"), "", vec![leases.into()], None),
        Figure::new(format!("idle {minutes} min: statements on the coordinator, {SEGMENTS} segments"), "", vec![statements], Some(allowed)),
        Figure::new("idle: processor time of the operator", "millicores", vec![spent / seconds * 1000.0], Some(2.0)),
    ])
}

/// A cluster that has just come up is not idle: until nothing was written for a while.
async fn settle(stage: &Stage) -> Result<()> {
    say("waiting until nothing is going on any more");
    let end = || Ok::<_, anyhow::Error>((fs::metadata(stage.bed.audit_log())?.len(), Instant::now()));
    let last = std::cell::Cell::new(end()?);
    until("nothing to be written any more", SETTLED_WITHIN, async || {
        if others(&writes(stage, last.get().0)?) > 0 {
            last.set(end()?);
        }
        let quiet = last.get().1.elapsed();
        Ok(if quiet >= SETTLED { Ok(()) } else { Err(format!("the last write was {} s ago", quiet.as_secs())) })
    })
    .await
}

/// Writes of anything but the Lease.
fn others(writes: &BTreeMap<String, u32>) -> u32 {
    writes.iter().filter(|(resource, _)| *resource != "leases").map(|(_, count)| count).sum()
}

/// The most resident memory that any process of the operators and of the supervisors had since it began.
pub async fn memory(stage: &Stage) -> Result<Vec<Figure>> {
    let peaks = Peaks::now(stage).await?;
    Ok(vec![
        Figure::new("VmHWM of the operator through all of this", "MiB", vec![peaks.operator], Some(30.0)),
        Figure::new("VmHWM of a supervisor, the most of seven", "MiB", vec![peaks.supervisor], Some(10.0)),
    ])
}

/// Seconds of processor time that the container's processes have had.
fn ticks(container: &Container) -> Result<f64> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;
    let of = |pid: i32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(user + system)
    };
    let all: u32 = container.processes()?.into_iter().filter_map(of).sum();
    Ok(f64::from(all) / f64::from(u32::try_from(per_second)?))
}

/// Writes of the operator by resource, from the audit log.
fn writes(stage: &Stage, from: u64) -> Result<BTreeMap<String, u32>> {
    let mut file = fs::File::open(stage.bed.audit_log())?;
    file.seek(SeekFrom::Start(from))?;
    let mut counts = BTreeMap::new();
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let writes = matches!(text("/verb"), "create" | "update" | "patch" | "delete" | "deletecollection");
        if writes && text("/user/username") == OPERATOR && text("/stage") == "ResponseComplete" {
            *counts.entry(text("/objectRef/resource").to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

async fn log_statements(stage: &Stage, on: bool) -> Result<()> {
    let session = stage.cluster.coordinator(crate::fixture::Mode::Utility).await?;
    let (what, prefix) = if on { ("all", "%m [%p] application=%a ") } else { ("none", "%m [%p] ") };
    session.client().batch_execute(&format!("ALTER SYSTEM SET log_statement = '{what}'")).await?;
    session.client().batch_execute(&format!("ALTER SYSTEM SET log_line_prefix = '{prefix}'")).await?;
    Ok(session.client().batch_execute("SELECT pg_reload_conf()").await?)
}

/// Statements that gpheal, operator or supervisor, sent to the coordinator since then.
async fn statements(stage: &Stage, since: jiff::Timestamp) -> Result<f64> {
    let how = LogParams { container: Some("greenplum".into()), since_time: Some(since), ..LogParams::default() };
    let log = stage.cluster.pods().logs(COORDINATOR, &how).await?;
    let ours = log.lines().filter(|line| line.contains("application=gpheal LOG:  "));
    let count = ours.filter(|line| line.contains("LOG:  statement:") || line.contains("LOG:  execute ")).count();
    Ok(f64::from(u32::try_from(count)?))
}
