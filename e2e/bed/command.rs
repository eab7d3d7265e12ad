//! Running other programs and keeping files, with errors that say what was run
//! and what it answered.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Tells the person at the terminal what happens.
pub fn say(text: impl AsRef<str>) {
    eprintln!("bed: {}", text.as_ref());
}

/// Runs a program to its end and returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{} ({}): {}", shown(command), output.status, complaint(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program ends well; for questions, where 'no' is an answer.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(output(command)?.status.success())
}

pub fn program<I>(name: impl AsRef<OsStr>, arguments: I) -> Command
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// A program with arguments that hold no spaces, written as one line.
pub fn line(text: &str) -> Command {
    let mut words = text.split_whitespace();
    program(words.next().unwrap_or_default(), words)
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("{} did not start", shown(command)))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn complaint(output: &Output) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let lines = String::from_utf8_lossy(said);
    let lines: Vec<_> = lines.trim().lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Writes a file when its text differs and makes its folder when it is missing.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The entries of a folder; none when there is no such folder.
pub fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(found) = fs::read_dir(folder) else { return Vec::new() };
    found.flatten().map(|entry| entry.path()).collect()
}

/// Holds `path` locked against other processes until the guard is dropped.
pub fn lock(path: &Path, what: &str) -> Result<Flock<File>> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let open = || {
        let mut options = File::options();
        options.create(true).append(true).open(path)
    };
    let file = open().with_context(|| format!("cannot open the lock {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(held),
        Err((file, _)) => {
            say(format!("waiting for another process that works on {what}"));
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
