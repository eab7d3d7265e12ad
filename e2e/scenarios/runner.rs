//! Goes through scenarios: a healthy start, the hurt, and afterwards the proof that nothing is lost.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Scenario, Stage, When, all,
    elsewhere::out_of_reach,
    handover,
    memory::Peaks,
    operator, person,
    report::{self, Line},
    stage::until,
    watchdog::Watchdog,
};
use crate::{
    bed::{Bed, fault::keep_down, say},
    fixture::{self, Acked, Nature, verify},
};

/// What to run.
pub struct Options {
    /// Names; empty is all, or the sample.
    pub names: Vec<String>,
    /// Of all only those that run with every change.
    pub sample: bool,
    pub out: PathBuf,
    /// Stop at the first that fails, and leave everything as it is.
    pub stop_at_failure: bool,
    /// Go on with the cluster that is there, instead of a fresh one.
    pub keep: bool,
}

/// Runs the scenarios; `true` when all passed. Call it from inside the bed's network, with images loaded.
pub async fn run(bed: Bed, options: &Options) -> Result<bool> {
    let chosen = chosen(&options.names, options.sample)?;
    if !options.keep {
        say("taking away the cluster of an earlier run");
        fixture::destroy(&bed).await?;
    }
    fixture::deploy(&bed).await?;
    operator::install(&bed).await?;
    let (mut stage, nature) = (Stage::of(bed).await?, Nature::chosen()?);
    let mut lines = vec![];
    for scenario in &chosen {
        let lacks = nature.lacks(scenario.name);
        let line = match lacks.or_else(|| out_of_reach(scenario.name).filter(|_| stage.bed.is_foreign())) {
            Some(why) => Line::skipped(scenario.name, why),
            None => one(&mut stage, scenario, &options.out).await,
        };
        let failed = !line.passed && line.skipped.is_none();
        lines.push(line);
        if failed && options.stop_at_failure {
            break;
        }
    }
    report::write(&options.out, &lines)?;
    let passed = lines.iter().filter(|line| line.passed).count();
    let skipped = lines.iter().filter(|line| line.skipped.is_some()).count();
    println!("{passed} passed, {} failed, {} skipped", lines.len() - passed - skipped, chosen.len() - lines.len() + skipped);
    Ok(passed + skipped == chosen.len())
}

fn chosen(names: &[String], sample: bool) -> Result<Vec<Scenario>> {
    let all = all();
    if names.is_empty() {
        return Ok(all.into_iter().filter(|scenario| !sample || scenario.when == When::Sample).collect());
    }
    let known = || all.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        all.iter().find(|s| s.name == name).copied().with_context(|| format!("there is no scenario {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

async fn one(stage: &mut Stage, scenario: &Scenario, out: &Path) -> Line {
    say(format!("scenario {}: {}", scenario.name, scenario.what));
    let begun = Instant::now();
    let mut rows = 0;
    let result = play(stage, scenario, &mut rows).await;
    let error = result.as_ref().err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        let kept = out.join(scenario.name);
        say(format!("scenario {} FAILED: {error}", scenario.name));
        match stage.bed.collect(&kept) {
            Ok(()) => say(format!("what explains it is kept in {}", kept.display())),
            Err(error) => say(format!("what explains it could not be kept: {error:#}")),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Line {
        name: scenario.name.into(),
        passed: result.is_ok(),
        skipped: None,
        seconds,
        acknowledged_rows: rows,
        marks: stage.marks.clone(),
        memory: if stage.bed.is_foreign() { None } else { Peaks::now(stage).await.ok() },
        error,
    }
}

async fn play(stage: &mut Stage, scenario: &Scenario, rows: &mut usize) -> Result<()> {
    start_healthy(stage).await?;
    stage.start_writing().await?;
    let watchdog = Watchdog::start(stage)?;
    stage.begin();
    let played = (scenario.run)(stage).await;
    stage.stop_writing().await?;
    let acked = stage.acked.clone();
    *rows = acked.count();
    played?;
    verify(&stage.cluster, &acked).await?;
    stage.mark(format!("all {} acknowledged rows are there", acked.count()));
    for dbid in stage.healed.clone() {
        made_to_serve(stage, dbid, &acked).await?;
    }
    watchdog.stop()
}

/// The policy as it was, no recovery left, every pair in sync.
async fn start_healthy(stage: &mut Stage) -> Result<()> {
    stage.begin();
    stage.let_jobs_go()?;
    person::nothing_is_said(stage).await?;
    let breaker = operator::breaker();
    stage
        .healing(json!({
            "mode": "Automatic", "paused": false, "full": "Allow", "gracePeriod": "5s", "maxRate": null, "breaker": breaker
        }))
        .await?;
    stage.wait_healthy().await.context("before the scenario")?;
    handover::as_built(stage).await?;
    stage.forget_recoveries().await
}

/// A healed instance is worth what it can do: its partner is kept down until it serves, and the rows are there.
async fn made_to_serve(stage: &mut Stage, dbid: i16, acked: &Acked) -> Result<()> {
    let catalog = stage.wait_healthy().await?;
    let row = catalog.by_dbid(dbid).with_context(|| format!("dbid {dbid} is gone"))?.clone();
    if row.is_acting_primary() {
        return Ok(()); // it served already when the rows were looked for
    }
    let partner = catalog.acting_primary(row.content).context("no partner")?.clone();
    if stage.bed.is_foreign() {
        stage.mark(format!("dbid {dbid} is not made to serve: its partner cannot be kept down from here"));
        return Ok(());
    }
    let down = keep_down(&stage.container(&partner).await?)?;
    stage.wait_row(dbid, "pnu").await?;
    promoted(stage, &row).await?;
    verify(&stage.cluster, acked).await.with_context(|| format!("made to serve, dbid {dbid}"))?;
    stage.mark(format!("dbid {dbid} serves, and all rows are there"));
    down.release()?;
    stage.wait_healthy().await.map(drop)
}

/// Waits until FTS' promotion is over and the instance takes writes.
pub async fn promoted(stage: &Stage, row: &fixture::Row) -> Result<()> {
    until(&format!("{} to be promoted", row.pod()), Duration::from_secs(30), async || {
        let session = match stage.cluster.instance(row).await {
            Ok(session) => session,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let answer = session.client().query_one("SELECT pg_is_in_recovery()", &[]).await;
        Ok(match answer.map(|row| row.get::<_, bool>(0)) {
            Ok(false) => Ok(()),
            Ok(true) => Err("it is in recovery".into()),
            Err(error) => Err(error.to_string()),
        })
    })
    .await
}
