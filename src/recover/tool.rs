//! The image's own tools: in their own process group, with the volume's lock inherited, watched for
//! progress, killed whole when we are dropped.

use std::{collections::VecDeque, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::{Work, fault::Classified};
use crate::{
    greenplum::messages::{self, Tool},
    model::FailureClass,
};

/// Lines of a tool's output that are kept.
const KEPT: usize = 30;
/// A copy that moves nothing for so long is broken off: the network is gone and TCP has not noticed.
const STALLED: Duration = Duration::from_mins(15);

/// A tool failed.
#[derive(Debug, thiserror::Error)]
#[error("{tool} failed ({how})")]
pub struct ToolError {
    pub tool: &'static str,
    pub how: String,
    pub said: String,
    pub class: FailureClass,
}

impl Classified for ToolError {
    fn class(&self) -> FailureClass {
        self.class
    }
    fn evidence(&self) -> String {
        self.said.clone()
    }
}

/// Kills the whole group on the way out: a pg_basebackup that is killed alone leaves its WAL receiver alive (O §6.5).
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs a tool to its end and gives back the last lines that it said.
pub async fn run(work: &Work, tool: &'static str, arguments: &[String], environment: &[(&str, &str)]) -> Result<Vec<String>, ToolError> {
    let mut command = Command::new(tool);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .env("PGPASSFILE", &work.passfile)
        .envs(work.login.tls.libpq_environment())
        .env("LC_ALL", "C")
        .env("PGCONNECT_TIMEOUT", "20");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    tracing::info!(tool, arguments = arguments.join(" "), "running");
    let failed = |how: String, said: &[String], class| ToolError { tool, how, said: said.join("\n"), class };
    let mut child = command.spawn().map_err(|e| failed(e.to_string(), &[], unspawned(&e)))?;
    let child_id = child.id();
    let mut group = Group(child_id.map(|pid| Pid::from_raw(pid.cast_signed())));
    let said = watch(work, &mut child, child_id).await;
    let status = match tokio::time::timeout(Duration::from_mins(1), child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(failed(error.to_string(), &said, FailureClass::Unclassified)),
        Err(_) => return Err(failed("nothing moved for a long time".into(), &said, FailureClass::ConnectionLost)),
    };
    if !status.success() {
        let killed = status.signal().is_some();
        return Err(failed(
            status.to_string(),
            &said,
            if killed { FailureClass::ToolKilled } else { messages::of_tool(Tool::named(tool), &said) },
        ));
    }
    group.0 = None;
    Ok(said)
}

/// A tool that is not there is a fault of the image; one that could not be started now is not.
fn unspawned(error: &std::io::Error) -> FailureClass {
    if error.kind() == std::io::ErrorKind::NotFound { FailureClass::VersionDiffers } else { FailureClass::ToolKilled }
}

/// Reads what it says until it says no more, or nothing moves any more.
async fn watch(work: &Work, child: &mut Child, pid: Option<u32>) -> Vec<String> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut lines = Lines::default();
    let mut other = Lines::default();
    let reading = async {
        tokio::join!(read(work, out, &mut lines), read(work, err, &mut other));
    };
    let stalled = async {
        let mut before = None;
        while work.report.still_for() < STALLED {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let now = pid.and_then(|pid| activity(&std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?));
            if now.is_some() && now != before {
                work.report.moved(); // crash recovery says nothing for hours, and reads all the time
            }
            before = now.or(before);
        }
    };
    tokio::select! { () = reading => {}, () = stalled => {} }
    lines.kept.into_iter().chain(other.kept).collect()
}

/// Bytes that a process has read and written, by `/proc/PID/io`.
fn activity(io: &str) -> Option<(u64, u64)> {
    let field = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("rchar:")?, field("wchar:")?))
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    partial: Vec<u8>,
}

async fn read(work: &Work, stream: Option<impl AsyncRead + Unpin>, lines: &mut Lines) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for byte in &buffer[..count] {
            // Progress is rewritten in place with carriage returns.
            if matches!(byte, b'\n' | b'\r') { lines.end_of_line(work) } else { lines.partial.push(*byte) }
        }
    }
    lines.end_of_line(work);
}

impl Lines {
    fn end_of_line(&mut self, work: &Work) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).trim_end().to_owned();
        if let Some((done, total)) = progress(&line) {
            work.report.copied(done, total);
        } else if !line.is_empty() {
            work.report.moved();
            tracing::info!("{line}");
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(line);
        }
    }
}

/// `12345/67890 kB (18%)`, of pg_basebackup and pg_rewind alike (reference §3.9): bytes done, bytes in all.
fn progress(line: &str) -> Option<(u64, u64)> {
    let (head, tail) = line.split_once(" kB (")?;
    tail.contains("%)").then_some(())?;
    let (done, total) = head.trim().rsplit_once('/')?;
    let done: u64 = done.rsplit(' ').next()?.parse().ok()?;
    Some((done * 1024, total.parse::<u64>().ok()? * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_both_tools_is_read() {
        assert_eq!(progress("  1024/2048 kB (50%), 0/1 tablespace"), Some((1024 * 1024, 2048 * 1024)));
        assert_eq!(progress(" 1/2 kB (50%) copied"), Some((1024, 2048)));
        assert_eq!(progress("pg_rewind: need to copy 213 MB (total source directory size is 283 MB)"), None);
    }

    #[test]
    fn a_process_that_reads_is_not_stalled() {
        let io = "rchar: 10\nwchar: 20\nsyscr: 1\nread_bytes: 4096\n";
        assert_eq!(activity(io), Some((10, 20)));
        assert_eq!(activity(""), None);
        assert!(activity(&std::fs::read_to_string("/proc/self/io").unwrap()).is_some());
    }
}
