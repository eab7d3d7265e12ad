//! A tablespace beside the data directory: a full copy carries it and overwrites nothing in place.

use std::{fs, os::unix::fs::chown, path::PathBuf};

use anyhow::{Context, Result, ensure};
use api::recovery::InstanceStatus;
use model::Repair;

use super::{
    Stage, copies,
    crashes::{pause_at, unpause},
    runner::promoted,
    stage::{HEALED_WITHIN, until},
};
use crate::{
    bed::fault::keep_down,
    fixture::{DATA_DIRECTORY, Row},
};

/// Below the root of a volume, which the pods see as `/data`.
const FOLDER: &str = "space";
/// uid and gid of the pods.
const OWNER: u32 = 1000;
const ROWS: i64 = 5000;

pub async fn tablespace(stage: &mut Stage) -> Result<()> {
    let (primary, mirror) = stage.pair(1).await?;
    filled(stage, &primary, &mirror).await?;
    stage.mark("a tablespace with a table, on both sides");
    pause_at(stage, &mirror, "Releasing").await?;
    copies::empty(stage, &mirror).await?;
    let at_release = |_: &_, i: &InstanceStatus| i.step.as_deref() == Some("Releasing");
    stage.wait_recovery(mirror.dbid, "the release", at_release).await?;
    ensure!(leftovers(stage, &mirror)?.iter().any(|name| name.ends_with(".gpheal-old")), "the old tablespace is gone before the proof");
    let link = link(stage, &mirror)?.context("the copy has no link to its tablespace")?;
    ensure!(link.starts_with("/data/space") && !link.to_string_lossy().contains("gpheal"), "the link leads to {}", link.display());
    stage.mark("copied; the old tablespace is kept");
    unpause(stage, &mirror).await?;
    let healed = stage.wait_succeeded(mirror.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    stage.wait_healthy().await?;
    nothing_is_left_over(stage, &mirror).await?;
    stage.mark("what was replaced is removed");
    serves_the_rows(stage, &primary, &mirror).await?;
    emptied(stage).await
}

/// Made in utility mode on the acting primary, like every table of the scenarios.
async fn filled(stage: &Stage, primary: &Row, mirror: &Row) -> Result<()> {
    for row in [primary, mirror] {
        let folder = stage.volume(row)?.folder().join(FOLDER);
        fs::create_dir_all(&folder)?;
        chown(&folder, Some(OWNER), Some(OWNER))?;
    }
    let session = stage.cluster.instance(primary).await?;
    let rows = format!("INSERT INTO in_space SELECT generate_series(1, {ROWS})");
    for sql in ["CREATE TABLESPACE space LOCATION '/data/space'", "CREATE TABLE in_space (id bigint) TABLESPACE space", &rows] {
        session.client().batch_execute(sql).await.with_context(|| sql.to_owned())?;
    }
    until(&format!("{} to replay the tablespace", mirror.pod()), HEALED_WITHIN, async || {
        Ok(link(stage, mirror)?.map(drop).ok_or_else(|| "there is no link".into()))
    })
    .await
}

/// Where the instance's only tablespace is.
fn link(stage: &Stage, row: &Row) -> Result<Option<PathBuf>> {
    let folder = stage.volume(row)?.folder().join(DATA_DIRECTORY).join("pg_tblspc");
    let first = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.next().transpose()?;
    Ok(first.map(|entry| fs::read_link(entry.path())).transpose()?)
}

/// Folders that a full copy has made or put aside.
fn leftovers(stage: &Stage, row: &Row) -> Result<Vec<String>> {
    let root = stage.volume(row)?.folder().to_owned();
    let folders = [root.join(FOLDER), root].map(fs::read_dir);
    let names = folders.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.contains(".gpheal-")).collect())
}

async fn nothing_is_left_over(stage: &Stage, row: &Row) -> Result<()> {
    until("what was replaced to be removed", HEALED_WITHIN, async || {
        let left = leftovers(stage, row)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })
    .await
}

/// The copy is made to serve, and its former primary is rewound, with the tablespace.
async fn serves_the_rows(stage: &mut Stage, primary: &Row, mirror: &Row) -> Result<()> {
    let down = keep_down(&stage.container(primary).await?)?;
    stage.wait_row(mirror.dbid, "pnu").await?;
    promoted(stage, mirror).await?;
    let session = stage.cluster.instance(mirror).await?;
    let count: i64 = session.client().query_one("SELECT count(*) FROM in_space", &[]).await?.get(0);
    ensure!(count == ROWS, "the promoted copy has {count} of {ROWS} rows in its tablespace");
    stage.mark("promoted, and the rows are there");
    down.release()?;
    stage.wait_succeeded(primary.dbid).await?;
    stage.wait_healthy().await.map(drop)
}

async fn emptied(stage: &Stage) -> Result<()> {
    let (primary, _) = stage.pair(1).await?;
    let session = stage.cluster.instance(&primary).await?;
    for sql in ["DROP TABLE in_space", "DROP TABLESPACE space"] {
        session.client().batch_execute(sql).await.with_context(|| sql.to_owned())?;
    }
    Ok(())
}
