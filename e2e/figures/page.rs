//! `docs/performance.md`, written from what was measured.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};

use super::{Figure, Options};

const READING: &str = "
## How to read it

What gpheal adds to a full copy is no copying: a Job's pod starts (about a second, Kubernetes' own), source and volume are proven,
the file system is synced, the end of the hold is noticed, FTS is asked to look. The ratio is what these one to two seconds are of a copy of this
size on this disk; how it is for larger ones was not measured. On two cores the copy takes all that others leave: the same
command by hand differs by a fifth from run to run.

A lost primary is lost by its postgres, its container lives on. Its mirror's promotion takes up to five seconds, by chance: PostgreSQL
waits for so long between two attempts to reach a primary (`wal_retrieve_retry_interval`).

A mirror that hangs is marked down when FTS' grace is over, here 10 s (30 by default), counted from the moment at which its walsender ends. Without gpheal
that moment is `wal_sender_timeout`: 60 s by default, 5 min on Greenplum 6.
";

pub fn write(path: &Path, options: &Options, figures: &[Figure]) -> Result<()> {
    let mut text = format!(
        "# What it costs\n\nWritten by `make figures` (medians of {}): the bed of three nodes on one machine of {} cores, {}; operator and\n\
         supervisors as they are shipped. By hand: the same programs in the same run; there pg_basebackup syncs its files itself. \"All\" is every value\n\
         that was measured.\n\n\
         | figure | median | all | to reach | |\n|---|---|---|---|---|\n",
        options.runs,
        std::thread::available_parallelism()?,
        if std::env::var_os("GPHOME").is_some() { "a real Greenplum" } else { "the stand-in of Greenplum" },
    );
    for figure in figures {
        let all: Vec<_> = figure.values.iter().map(|value| format!("{value:.2}")).collect();
        let limit = figure.limit.map_or_else(String::new, |limit| format!("≤ {limit} {}", figure.unit));
        let kept = match (figure.limit, figure.is_kept()) {
            (None, _) => "",
            (_, true) => "reached",
            (_, false) => "**not reached**",
        };
        writeln!(text, "| {} | {:.2} {} | {} | {limit} | {kept} |", figure.what, figure.median(), figure.unit, all.join(" "))?;
    }
    text.push_str(READING);
    std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\n{text}");
    Ok(())
}
