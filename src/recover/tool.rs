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
use crate::model::FailureClass;

/// Lines of a tool's output that are kept.
const KEPT: usize = 30;
/// A tool whose processes do nothing for so long is broken off: the network is gone and TCP has not noticed.
const STALLED: Duration = Duration::from_mins(15);
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
    let said = watch(&work.report, &mut child, whose(tool), (STALLED, LOOK)).await;
    let status = match tokio::time::timeout(Duration::from_mins(1), child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(failed(error.to_string(), &said, FailureClass::Unclassified)),
        Err(_) => return Err(failed("nothing moved for a long time".into(), &said, stalled(tool))),
    };
    if !status.success() {
        let killed = status.signal().is_some();
        return Err(failed(status.to_string(), &said, if killed { FailureClass::ToolKilled } else { classify(&said) }));
    }
    group.0 = None;
    Ok(said)
}

/// A tool that is not there is a fault of the image; one that could not be started now is not.
fn unspawned(error: &std::io::Error) -> FailureClass {
    if error.kind() == std::io::ErrorKind::NotFound { FailureClass::VersionDiffers } else { FailureClass::ToolKilled }
}

/// A server in single-user mode has no connection that could be lost.
fn stalled(tool: &str) -> FailureClass {
    if tool == "postgres" { FailureClass::ToolKilled } else { FailureClass::ConnectionLost }
}

fn whose(tool: &str) -> Whose {
    if tool == "pg_basebackup" { Whose::TheToolAlone } else { Whose::All }
}

/// Reads what it says until it says no more, or nothing moves any more.
async fn watch(report: &Reporter, child: &mut Child, whose: Whose, (bound, look): (Duration, Duration)) -> Vec<String> {
    let (out, err, pid) = (child.stdout.take(), child.stderr.take(), child.id());
    let mut lines = Lines::default();
    let mut other = Lines::default();
    let reading = async {
        tokio::join!(read(report, out, &mut lines), read(report, err, &mut other));
    };
    let stalled = async {
        let mut before = None;
        report.moved();
        while report.still_for() < bound {
            tokio::time::sleep(look).await;
            let now = pid.and_then(|pid| Activity::of(pid, whose));
            if now.is_some() && now != before {
                report.moved();
            }
            if let Some(Activity { read, written, .. }) = now {
                report.worked(read, written);
            }
            before = now.or(before);
        }
    };
    tokio::select! { () = reading => {}, () = stalled => {} }
    report.idles();
    lines.kept.into_iter().chain(other.kept).collect()
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    partial: Vec<u8>,
}

async fn read(report: &Reporter, stream: Option<impl AsyncRead + Unpin>, lines: &mut Lines) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0_u8; 4096];
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

/// A disk, an owner or an image: whatever could not be done for these, they say nothing of the directory.
pub const REFUSED: &[&str] =
    &["Input/output error", "Permission denied", "error while loading shared libraries", "could not load library", "could not access file"];

/// What tools say, and what it means (reference §7.2, O §6). Tools have no codes; these are their own
/// untranslated words, each seen or read in their source. The first that matches wins.
const WORDS: &[(FailureClass, &[&str])] = &[
    (FailureClass::NoRoom, &["No space left on device"]),
    // Whatever could not be done, it was for want of these.
    (
        FailureClass::ToolKilled,
        &[
            "Too many open files",
            "Cannot allocate memory",
            "out of memory",
            "could not fork",
            "Resource temporarily unavailable",
            "could not map anonymous shared memory",
            "could not create shared memory",
            "could not create semaphores",
        ],
    ),
    (FailureClass::Unclassified, REFUSED),
    (
        FailureClass::TlsRefused,
        &[
            "certificate verify failed",
            "does not support SSL",
            "does not match host name",
            "root certificate file",
            "tlsv1 alert",
            "sslv3 alert",
        ],
    ),
    (FailureClass::LoginRefused, &["password authentication failed", "no pg_hba.conf entry", "no password supplied"]),
    (
        FailureClass::SlotActive,
        &["is already active", "is active for PID", "all replication slots are in use", "number of requested standby connections exceeds"],
    ),
    // A tablespace that was made after the source was asked for them lies in place, where nothing is overwritten.
    (FailureClass::WorldMoved, &["exists but is not empty"]),
    (FailureClass::SystemIdentifierDiffers, &["different systems", "system identifier differs"]),
    (FailureClass::VersionDiffers, &["clusters are not compatible with this version", "incompatible server version"]),
    (
        FailureClass::CannotRewind,
        &[
            "could not find common ancestor",
            "could not find previous WAL record",
            "could not read WAL record",
            "could not open WAL",
            // The target's own log, which was recycled. Of any other file it says nothing.
            "pg_wal/0",
            "pg_xlog/0",
            "needs to use either data checksums",
            "must be shut down cleanly",
            "out of valid range",
            "single-user mode in target cluster failed",
            "unexpected control file size",
            "invalid control file",
        ],
    ),
    (
        FailureClass::ConnectionLost,
        &[
            "could not connect to server",
            "connection to server",
            "server closed the connection",
            "terminating connection",
            "could not receive data",
            "could not send",
            "could not translate host name",
            "the database system is",
            "SSL SYSCALL",
            "unexpected eof while reading",
            "could not read COPY data",
            "could not fetch",
        ],
    ),
];

pub fn classify(said: &[String]) -> FailureClass {
    let said_one_of = |words: &[&str]| said.iter().any(|line| words.iter().any(|word| line.contains(word)));
    WORDS.iter().find(|(_, words)| said_one_of(words)).map_or(FailureClass::Unclassified, |(class, _)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(line: &str) -> FailureClass {
        classify(&["something before".into(), line.into()])
    }

    #[test]
    fn progress_of_both_tools_is_read() {
        assert_eq!(progress("  1024/2048 kB (50%), 0/1 tablespace"), Some((1024 * 1024, 2048 * 1024)));
        assert_eq!(progress(" 1/2 kB (50%) copied"), Some((1024, 2048)));
        assert_eq!(progress("pg_rewind: need to copy 213 MB (total source directory size is 283 MB)"), None);
    }

    #[test]
    fn what_tools_say_is_classified_and_the_rest_is_not() {
        assert_eq!(
            class("pg_rewind: fatal: could not find common ancestor of the source and target cluster's timelines"),
            FailureClass::CannotRewind
        );
        assert_eq!(class("pg_rewind: error: could not find previous WAL record at 0/5000060"), FailureClass::CannotRewind);
        assert_eq!(class("pg_basebackup: error: connection to server at \"a\" failed: Connection refused"), FailureClass::ConnectionLost);
        assert_eq!(class("ERROR:  replication slot \"internal_wal_replication_slot\" is active for PID 42"), FailureClass::SlotActive);
        assert_eq!(class("could not write file: No space left on device"), FailureClass::NoRoom);
        assert_eq!(class("pg_basebackup: directory \"/data/s/4/GPDB_6_301908232\" exists but is not empty"), FailureClass::WorldMoved);
        assert_eq!(class("FATAL:  password authentication failed for user \"x\""), FailureClass::LoginRefused);
        assert_eq!(class("connection to server at \"a\", port 1 failed: SSL error: certificate verify failed"), FailureClass::TlsRefused);
        assert_eq!(class("SSL error: unexpected eof while reading"), FailureClass::ConnectionLost, "the source went away");
        assert_eq!(class("a sentence that nobody has ever seen"), FailureClass::Unclassified);
    }

    /// `could not open file` led to a full copy, whatever the reason.
    #[test]
    fn what_the_environment_refuses_does_not_lead_to_a_full_copy() {
        let wal = "pg_rewind: fatal: could not open file \"pg_wal/000000010000000000000003\": No such file or directory";
        assert_eq!(class(wal), FailureClass::CannotRewind);
        let dir = "could not open file \"/data/gpseg0/pg_xlog/000000010000000000000003\": No such file or directory";
        assert_eq!(class(dir), FailureClass::CannotRewind);
        assert_eq!(class("could not open file \"base/1/2\": Too many open files"), FailureClass::ToolKilled);
        assert_eq!(class("could not open file \"pg_wal/1\": Input/output error"), FailureClass::Unclassified);
        assert_eq!(class("could not open file \"pg_wal/1\": Permission denied"), FailureClass::Unclassified);
        let dropped = "ERROR:  could not open file \"base/1/16384\" for reading: No such file or directory";
        assert_eq!(class(dropped), FailureClass::Unclassified, "a file that the source dropped meanwhile");
    }

    /// What a tool says that is looked at more often, and given up sooner.
    async fn watched(script: &str, whose: Whose) -> (Vec<String>, bool) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let group = Group(child.id().map(|pid| Pid::from_raw(pid.cast_signed())));
        let bounds = (Duration::from_secs(1), Duration::from_millis(100));
        let said = watch(&Reporter::start(), &mut child, whose, bounds).await;
        let given_up = child.try_wait().unwrap().is_none();
        drop(group);
        (said, given_up)
    }

    /// Crash recovery says nothing between its first line and its last, however long it takes.
    #[tokio::test]
    async fn a_silent_tool_is_waited_for_while_what_it_started_works() {
        let works = "(for i in 1 2 3 4 5 6 7 8; do read -r x < /proc/self/stat; sleep 0.4; done) & wait; echo done";
        assert_eq!(watched(works, Whose::All).await.0, ["done"]);
        let dead = "(while :; do read -r x < /proc/self/stat; sleep 0.1; done) & wait; echo done";
        assert_eq!(watched(dead, Whose::TheToolAlone).await, (vec![], true), "only its log moves");
        assert_eq!(watched("sleep 60", Whose::All).await, (vec![], true));
    }
}
