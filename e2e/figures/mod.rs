//! `make figures`: what healing costs, each figure the median of several runs in one go, and beside it the same
//! commands by hand in the same go.
//!
//! `heal` measures crashes and lost primaries, `full` a copy of several GiB, `hang` how long commits wait for a
//! mirror that hangs, `idle` what gpheal does while all is well, `hand` what a person does on bare processes; `page` writes `docs/performance.md`.

mod full;
mod hand;
mod hang;
mod heal;
mod idle;
mod page;

use std::path::PathBuf;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use crate::{
    bed::{Bed, say},
    fixture::{self, Mode},
    scenarios::{Stage, operator},
};

/// What to measure, and how long.
pub struct Options {
    /// How often each is measured; the median counts.
    pub runs: usize,
    /// Size of the full copy, in GiB.
    pub gibibytes: u64,
    /// How long the idle cluster is looked at, in minutes.
    pub idle_minutes: u64,
    /// Where the page is written.
    pub page: PathBuf,
}

/// A figure with all that was measured, and what is to be reached.
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub values: Vec<f64>,
    /// The most that it may be, if there is such a limit.
    pub limit: Option<f64>,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, values: Vec<f64>, limit: Option<f64>) -> Self {
        Self { what: what.into(), unit, values, limit }
    }

    /// The middle one; of an even number, the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let (below, above) = (sorted.get((sorted.len().max(1) - 1) / 2), sorted.get(sorted.len() / 2));
        f64::midpoint(below.copied().unwrap_or(f64::NAN), above.copied().unwrap_or(f64::NAN))
    }

    /// A limit that no value was measured against is not kept.
    pub fn is_kept(&self) -> bool {
        self.limit.is_none_or(|limit| self.median() <= limit)
    }
}

/// Measures everything and writes the page; `true` when every limit is kept. Call it from inside the bed's network.
pub async fn run(bed: Bed, options: &Options) -> Result<bool> {
    fixture::destroy(&bed).await?;
    fixture::deploy(&bed).await?;
    operator::install(&bed).await?;
    let mut stage = Stage::of(bed).await?;
    stage.begin();
    stage.wait_healthy().await?;
    let mut figures = idle::measure(&stage, options.idle_minutes).await?;
    figures.extend(heal::crashed(&mut stage, options.runs).await?);
    figures.extend(heal::lost(&mut stage, options.runs).await?);
    figures.extend(hang::measure(&mut stage).await?);
    figures.extend(full::measure(&mut stage, options.runs, options.gibibytes).await?);
    figures.extend(idle::memory(&stage).await?);
    page::write(&options.page, options, &figures)?;
    for figure in figures.iter().filter(|figure| !figure.is_kept()) {
        say(format!("over its limit: {}: {:.2} {}", figure.what, figure.median(), figure.unit));
    }
    Ok(figures.iter().all(Figure::is_kept))
}

/// When FTS has last written of an instance, by the coordinator's clock, which is this machine's.
async fn written(stage: &Stage, dbid: i16) -> Result<Timestamp> {
    let session = stage.cluster.coordinator(Mode::Utility).await?;
    let sql = format!("SELECT extract(epoch FROM max(time))::float8 FROM gp_configuration_history WHERE dbid = {dbid}");
    let seconds: f64 = session.client().query_one(&sql, &[]).await?.get(0);
    Ok(Timestamp::UNIX_EPOCH.checked_add(SignedDuration::try_from_secs_f64(seconds)?)?)
}

fn seconds_since(begun: Timestamp, ended: Timestamp) -> f64 {
    ended.duration_since(begun).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_and_none_keeps_no_limit() {
        let figure = |values: &[f64]| Figure::new("x", "s", values.to_vec(), Some(3.0));
        assert!((figure(&[9.0, 1.0, 2.0]).median() - 2.0).abs() < f64::EPSILON);
        assert!((figure(&[1.0, 2.0, 3.0, 9.0]).median() - 2.5).abs() < f64::EPSILON);
        assert!(figure(&[9.0, 1.0, 2.0]).is_kept());
        assert!(!figure(&[9.0, 4.0, 2.0]).is_kept());
        assert!(!figure(&[]).is_kept());
    }
}
