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

use super::{
    Work,
    activity::{Activity, Whose},
    fault::Classified,
    progress::Reporter,
};
use greenplum::{
    awaited::Awaited,
    messages::{self, Tool},
    server_log,
};
use model::FailureClass;

/// Lines of a tool's output that are kept.
const KEPT: usize = 30;
/// A tool whose processes do nothing for so long is broken off: the network is gone and TCP has not noticed.
const STALLED: Duration = Duration::from_mins(15);
/// Said by `pg_basebackup` once the copy is whole and its log is not.
const THE_LOG_IS_LEFT: &str = "waiting for background process to finish streaming";
/// How often it is looked at what they do.
const LOOK: Duration = Duration::from_secs(5);

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

/// Kills the whole group on the way out: a pg_basebackup that is killed alone leaves its WAL receiver alive
/// (docs/greenplum.md#pg_basebackup).
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs a tool to its end and gives back the last lines that it said.
pub async fn run(work: &Work, tool: Tool, arguments: &[String], environment: &[(&str, &str)]) -> Result<Vec<String>, ToolError> {
    let mut command = Command::new(tool.program());
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .env("PGPASSFILE", &work.passfile)
        .envs(work.login.tls.libpq_environment())
        .env("LC_ALL", "C")
        .env("PGCONNECT_TIMEOUT", "20");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    tracing::info!(tool = tool.program(), arguments = arguments.join(" "), "running");
    let failed = |how: String, said: &[String], class| ToolError { tool: tool.program(), how, said: said.join("\n"), class };
    let mut child = command.spawn().map_err(|e| failed(e.to_string(), &[], unspawned(&e)))?;
    let child_id = child.id();
    let mut group = Group(child_id.map(|pid| Pid::from_raw(pid.cast_signed())));
    let said = watch(&work.report, &mut child, tool, (STALLED, LOOK)).await;
    let status = match tokio::time::timeout(Duration::from_mins(1), child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(failed(error.to_string(), &said, FailureClass::Unclassified)),
        Err(_) => return Err(failed("nothing moved for a long time".into(), &said, stalled(tool))),
    };
    if !status.success() {
        let killed = status.signal().is_some();
        return Err(failed(status.to_string(), &said, if killed { FailureClass::ToolKilled } else { messages::of_tool(tool, &said) }));
    }
    group.0 = None;
    Ok(said)
}

/// A tool that is not there is a fault of the image; one that could not be started now is not.
fn unspawned(error: &std::io::Error) -> FailureClass {
    if error.kind() == std::io::ErrorKind::NotFound { FailureClass::VersionDiffers } else { FailureClass::ToolKilled }
}

/// A server in single-user mode has no connection that could be lost.
fn stalled(tool: Tool) -> FailureClass {
    match tool {
        Tool::Postgres => FailureClass::ToolKilled,
        Tool::Rewind | Tool::BaseBackup | Tool::Psql => FailureClass::ConnectionLost,
    }
}

const fn whose(tool: Tool) -> Whose {
    match tool {
        Tool::BaseBackup => Whose::TheToolAlone,
        Tool::Postgres | Tool::Rewind | Tool::Psql => Whose::All,
    }
}

/// What a tool waits for on the source while it does nothing itself.
const fn awaited(tool: Tool) -> Option<Awaited> {
    match tool {
        Tool::BaseBackup => Some(Awaited::Backup),
        Tool::Rewind => Some(Awaited::Rewind),
        Tool::Postgres | Tool::Psql => None,
    }
}

/// Reads what it says until it says no more, or nothing moves any more.
async fn watch(report: &Reporter, child: &mut Child, tool: Tool, (bound, look): (Duration, Duration)) -> Vec<String> {
    let (out, err, pid) = (child.stdout.take(), child.stderr.take(), child.id());
    let mut lines = Lines::default();
    let mut other = Lines::default();
    let reading = async {
        tokio::join!(read(report, out, &mut lines), read(report, err, &mut other));
    };
    report.runs(whose(tool), awaited(tool));
    tokio::select! { () = reading => {}, () = stalled_for(report, pid, (bound, look)) => {} }
    report.idles();
    lines.kept.into_iter().chain(other.kept).collect()
}

/// Ends when nothing has moved for so long.
async fn stalled_for(report: &Reporter, pid: Option<u32>, (bound, look): (Duration, Duration)) {
    let mut before = None;
    while report.still_for() < bound {
        tokio::time::sleep(look).await;
        let whose = report.whose();
        let now = pid.and_then(|pid| Activity::of(pid, whose));
        if now.is_some() && now != before {
            report.moved();
        }
        if let Some(Activity { read, written, .. }) = now {
            report.worked(read, written);
        }
        before = now.or(before);
    }
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    partial: Vec<u8>,
}

async fn read(report: &Reporter, stream: Option<impl AsyncRead + Unpin>, lines: &mut Lines) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0_u8; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for byte in &buffer[..count] {
            // Progress is rewritten in place with carriage returns.
            if matches!(byte, b'\n' | b'\r') { lines.end_of_line(report) } else { lines.partial.push(*byte) }
        }
    }
    lines.end_of_line(report);
}

impl Lines {
    fn end_of_line(&mut self, report: &Reporter) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).trim_end().to_owned();
        if let Some((done, total)) = progress(&line) {
            report.copied(done, total);
        } else if !line.is_empty() {
            report.moved();
            tracing::info!("{line}");
            if line.contains(THE_LOG_IS_LEFT) {
                report.waits_for_its_own();
            }
            if server_log::is_trace(&line) {
                return; // thirty of them would push out what they are of
            }
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(line);
        }
    }
}

/// `12345/67890 kB (18%)`, of pg_basebackup and pg_rewind alike (docs/greenplum.md#pg_basebackup): bytes done, bytes in all.
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
    use model::Answer;

    #[test]
    fn progress_of_both_tools_is_read() {
        assert_eq!(progress("  1024/2048 kB (50%), 0/1 tablespace"), Some((1024 * 1024, 2048 * 1024)));
        assert_eq!(progress(" 1/2 kB (50%) copied"), Some((1024, 2048)));
        assert_eq!(progress("pg_rewind: need to copy 213 MB (total source directory size is 283 MB)"), None);
    }

    /// As Greenplum 6 writes them, in either form of its log.
    #[test]
    fn what_ended_a_server_is_kept_however_long_its_trace_is() {
        let (mut lines, report) = (Lines::default(), Reporter::start());
        let fatal = "2026-11-28 16:17:28.435 UTC|||23578|postmaster||:-FATAL:  could not access status of transaction 712";
        let plain = |at: u32| {
            format!("2026-11-28 16:17:28.435 UTC|||23578|postmaster||:-          Traceback {at}:  postgres(+0xd8906) [0x55c8472de906]")
        };
        let csv = |at: u32| format!("{at}    0x55d38ade3906 postgres <symbol not found> + 0x8ade3906");
        for line in std::iter::once(fatal.to_owned()).chain((0..30).map(plain)).chain((2..31).map(csv)) {
            lines.partial.extend(line.bytes());
            lines.end_of_line(&report);
        }
        assert_eq!(lines.kept, [fatal]);
    }

    /// What a tool says that is looked at more often, and given up sooner.
    async fn watched(script: &str, tool: Tool) -> (Vec<String>, bool) {
        watched_by(&Reporter::start(), script, tool).await
    }

    async fn watched_by(report: &Reporter, script: &str, tool: Tool) -> (Vec<String>, bool) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let group = Group(child.id().map(|pid| Pid::from_raw(pid.cast_signed())));
        let bounds = (Duration::from_secs(1), Duration::from_millis(100));
        let said = watch(report, &mut child, tool, bounds).await;
        let given_up = child.try_wait().unwrap().is_none();
        drop(group);
        (said, given_up)
    }

    const CHILD: &str = "(for i in 1 2 3 4 5 6 7 8; do read -r x < /proc/self/stat; sleep 0.4; done) & wait; echo done";

    /// Crash recovery says nothing between its first line and its last, however long it takes.
    #[tokio::test]
    async fn a_silent_tool_is_waited_for_while_what_it_started_works() {
        assert_eq!(watched(CHILD, Tool::Postgres).await.0, ["done"]);
        let dead = "(while :; do read -r x < /proc/self/stat; sleep 0.1; done) & wait; echo done";
        assert_eq!(watched(dead, Tool::BaseBackup).await, (vec![], true), "only its log moves");
        assert_eq!(watched("sleep 60", Tool::Rewind).await, (vec![], true));
    }

    /// Its connection is at its end, and what is left to come is the log, which the other process gets.
    #[tokio::test]
    async fn a_base_backup_that_waits_for_its_log_is_waited_for_while_that_comes() {
        let last = "pg_basebackup: waiting for background process to finish streaming ...";
        assert_eq!(watched(&format!("echo '{last}'; {CHILD}"), Tool::BaseBackup).await.0, [last, "done"]);
    }

    /// `pg_rewind` asks its source for a list of all files, which takes as long as the source needs to look at them.
    #[tokio::test]
    async fn a_tool_that_waits_for_a_source_at_work_is_waited_for() {
        for (tool, awaited) in [(Tool::Rewind, Some(Awaited::Rewind)), (Tool::BaseBackup, Some(Awaited::Backup)), (Tool::Postgres, None)] {
            let report = Reporter::start();
            let works = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    report.works_for(awaited.unwrap_or(Awaited::Rewind));
                }
            };
            let waited = tokio::select! {
                waited = watched_by(&report, "sleep 3; echo done", tool) => waited,
                () = works => unreachable!("it looks for ever"),
            };
            assert_eq!(waited.0.is_empty(), awaited.is_none(), "{tool:?}");
        }
    }

    /// It sends, and what is sent does not come.
    #[tokio::test]
    async fn a_base_backup_that_has_begun_to_come_is_not_waited_for_because_the_source_works() {
        let report = Reporter::start();
        report.runs(Whose::TheToolAlone, Some(Awaited::Backup));
        assert_eq!(report.awaited(), Some(Awaited::Backup));
        report.copied(0, 1000);
        assert_eq!(report.awaited(), None);
    }

    /// A server that was recovering has damaged nothing by being given up.
    #[test]
    fn what_was_given_up_leads_to_no_full_copy() {
        assert_eq!(stalled(Tool::Postgres), FailureClass::ToolKilled);
        for tool in [Tool::Postgres, Tool::Rewind, Tool::BaseBackup, Tool::Psql] {
            assert!(!matches!(stalled(tool).answer(), Answer::GoFull), "{tool:?}");
        }
    }
}
