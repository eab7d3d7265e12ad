//! What the scenarios took: a table for people, JSON for machines.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use super::memory::Peaks;

/// One scenario's result.
#[derive(Serialize)]
pub struct Line {
    pub name: String,
    pub passed: bool,
    /// Why it was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Seconds in all, with the proof afterwards.
    pub seconds: f64,
    /// Rows that were acknowledged while it ran; every one was found again.
    pub acknowledged_rows: usize,
    /// What happened when, seconds since it began.
    pub marks: Vec<(String, f64)>,
    /// The most memory that gpheal's processes had until then; unknown where processes are out of reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Peaks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Line {
    /// Of a scenario that was not run.
    pub fn skipped(name: &str, why: &str) -> Self {
        let (passed, seconds, acknowledged_rows) = (false, 0.0, 0);
        let (marks, memory, error) = (vec![], None, None);
        Self { name: name.to_owned(), passed, skipped: Some(why.to_owned()), seconds, acknowledged_rows, marks, memory, error }
    }
}

/// Writes `report.json` and `report.txt`, and prints the table.
pub fn write(folder: &Path, lines: &[Line]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join("report.json"), serde_json::to_vec_pretty(lines)?)?;
    let table = table(lines);
    fs::write(folder.join("report.txt"), &table)?;
    println!("\n{table}");
    Ok(())
}

fn table(lines: &[Line]) -> String {
    let head = format!("{:<21} {:<7} {:>8} {:>7}  phases (seconds since the hurt)\n", "scenario", "result", "seconds", "rows");
    let table = lines.iter().fold(head, |text, line| text + &row(line));
    match lines.iter().filter_map(|line| line.memory).reduce(Peaks::max) {
        Some(Peaks { operator, supervisor }) => {
            format!("{table}most resident memory: operator {operator:.1} MiB, supervisor {supervisor:.1} MiB\n")
        }
        None => table,
    }
}

fn row(line: &Line) -> String {
    if let Some(why) = &line.skipped {
        return format!("{:<21} skipped: {why}\n", line.name);
    }
    let result = if line.passed { "passed" } else { "FAILED" };
    let marks: Vec<_> = line.marks.iter().map(|(what, at)| format!("{at:.1} {}", short(what))).collect();
    let error = line.error.as_ref().map(|error| format!("{:<21} {error}\n", "")).unwrap_or_default();
    format!("{:<21} {result:<7} {:>8.1} {:>7}  {}\n{error}", line.name, line.seconds, line.acknowledged_rows, marks.join(" · "))
}

fn short(what: &str) -> String {
    let mut text: String = what.chars().take(48).collect();
    if text.len() < what.len() {
        text.push('…');
    }
    text
}
