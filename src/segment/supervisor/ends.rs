//! What is remembered of how postgres ends: as a whole, and within a postmaster that lives and begins anew with all its other
//! processes, which no exit tells of. A repair is judged by it. And what its WAL receiver says while it does not stream.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Supervisor, crash, process::End, watch::Running};
use crate::volume::spaces;
use greenplum::server_log::Log;
use model::{
    Role,
    page::{AttemptSeen, ExitClass, LastExit, Shape},
};

/// Between two looks at its processes. One that begins anew faster than that is counted less often than it did.
const PROCESSES: Duration = Duration::from_millis(500);
/// Between two looks for the words of a receiver that does not stream.
const RECEIVER: Duration = Duration::from_secs(2);

/// Why a WAL receiver does not stream, as the words of PostgreSQL begin; what a primary answers stands in them.
const RECEIVER_WORDS: &[&str] = &[
    "could not connect to the primary server",
    "could not receive database system identifier and timeline ID from the primary server",
    "could not receive timeline history file from the primary server",
    "could not start WAL streaming",
    "could not receive data from WAL stream",
    "could not send data to WAL stream",
    "could not write to log segment",
    "could not write to log file",
    "database system identifier differs between the primary and standby",
    "highest timeline",
    "new timeline ", // of its primary's, which is not its own's: said softly, each time that it has looked for one
    "invalid response from primary server",
    "unexpected result set after end-of-streaming",
    "error reading result of streaming command",
    "terminating walreceiver due to timeout",
    "replication terminated by primary server",
];

impl Supervisor {
    /// Takes down an end that nobody had asked for.
    pub(super) fn remember_end(&mut self, how: String, class: ExitClass, evidence: String, inside: bool) {
        self.memory.ends += 1;
        let after = self.memory.attempt.clone().map(|(attempt, recovery_uid)| AttemptSeen { attempt, recovery_uid });
        let (at, since) = (Timestamp::now(), self.memory.ends);
        self.memory.last_exit = Some(LastExit { at, how, class, evidence, after, since, inside });
    }

    /// The class of an end, and what led to it: where its words do not say whether something is lost, the disk does.
    pub(super) fn why_ended(&self, end: End, log: &Log) -> (ExitClass, String) {
        let (class, evidence) = crash::classify(end.signal(), log);
        let oid = crash::missed_space(log).filter(|_| class == ExitClass::Unclassified);
        let lost = oid.zip(spaces::lost(self.volume.data()).ok()).and_then(|(oid, lost)| lost.into_iter().find(|lost| lost.oid == *oid));
        match lost {
            Some(lost) => (ExitClass::DataUnusable, format!("{evidence}; the folder of tablespace {} is gone", lost.folder.display())),
            None => (class, evidence),
        }
    }

    /// What no exit tells of.
    pub(super) fn look_inside(&mut self, running: &mut Running) {
        let now = Instant::now();
        if now >= running.next_generation {
            running.next_generation = now + PROCESSES;
            self.notice_restart(running);
        }
        if now >= running.next_receiver_error {
            running.next_receiver_error = now + RECEIVER;
            self.notice_receiver(running);
        }
    }

    /// Others under the same postmaster: one of its processes ended wrongly, and it ended all others.
    fn notice_restart(&mut self, running: &mut Running) {
        if !running.generation.turns_into(running.postgres.generation()) {
            return;
        }
        self.memory.restarts += 1;
        running.serving_since = None;
        let (how, class, evidence) = inside(&running.postgres.last_lines(self.volume.data(), running.dialect));
        tracing::warn!(how, ?class, evidence, restarts = self.memory.restarts, "postgres began anew within its postmaster");
        self.remember_end(how, class, evidence, true);
    }

    fn notice_receiver(&mut self, running: &Running) {
        let page = self.board.page();
        let waits = !page.receiving && page.serves != Some(Role::Primary) && self.shape_now(running.dialect) == Shape::Mirror;
        self.memory.receiver_error = if waits { receiver(&running.postgres.last_lines(self.volume.data(), running.dialect)) } else { None };
    }
}

/// How one of the processes ended, and of what: in its own words or, where it had none left, in its postmaster's.
fn inside(log: &Log) -> (String, ExitClass, String) {
    let ended = log.newest_end();
    let how = ended.as_ref().map_or_else(|| "one of its processes ended".to_owned(), |said| model::error::cut(&said.message, 200));
    match (crash::classify(None, log), ended) {
        ((ExitClass::Unclassified, evidence), Some(said)) if !is_loud(log, &evidence) => (how, ExitClass::Unclassified, said.line),
        ((class, evidence), _) => (how, class, evidence),
    }
}

/// The line is of a process that says what ends it, though nobody knows what it means.
fn is_loud(log: &Log, line: &str) -> bool {
    log.said_by_server().iter().any(|said| said.line == line && said.is_loud())
}

/// The newest words of its WAL receiver. What a session makes look like them is shown, and nothing goes by it.
fn receiver(log: &Log) -> Option<String> {
    let said = log
        .said()
        .into_iter()
        .rfind(|said| said.severity != "WARNING" && RECEIVER_WORDS.iter().any(|words| said.message.starts_with(words)));
    said.map(|said| said.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Log {
        Log { postmaster: 7, output: lines.iter().map(|line| (*line).to_owned()).collect(), ..Log::default() }
    }

    #[test]
    fn a_process_that_dies_in_a_living_postmaster_is_told_in_its_own_words_or_its_postmasters() {
        let ended = "x UTC [7] LOG:  checkpointer process (PID 9) was terminated by signal 6: Aborted";
        let began = "x UTC [7] LOG:  all server processes terminated; reinitializing";
        let (how, class, evidence) = inside(&log(&[ended, began]));
        assert_eq!((how.as_str(), class), ("checkpointer process (PID 9) was terminated by signal 6: Aborted", ExitClass::Unclassified));
        assert_eq!(evidence, ended);
        let panic = "x UTC [9] PANIC:  could not open file \"pg_xact/0000\": Input/output error";
        assert_eq!(inside(&log(&[panic, ended, began])).2, panic);
        let unknown = "x UTC [9] PANIC:  nobody has ever seen this";
        assert_eq!(inside(&log(&[unknown, ended, began])), (how, ExitClass::Unclassified, unknown.to_owned()));
        assert_eq!(inside(&log(&[])).0, "one of its processes ended");
    }

    #[test]
    fn why_a_mirror_does_not_receive_is_told_in_its_receivers_words() {
        let gone =
            "could not receive data from WAL stream: ERROR:  requested WAL segment 00000001000000000000000A has already been removed";
        let older = "x UTC [9] FATAL:  could not connect to the primary server: connection refused";
        let lines = [older, &format!("x UTC [10] FATAL:  {gone}"), "x UTC [11] FATAL:  the database system is in recovery mode"];
        assert_eq!(receiver(&log(&lines)).as_deref(), Some(gone));
        assert_eq!(receiver(&log(&["x UTC [11] FATAL:  the database system is starting up"])), None);
        let forked = "new timeline 2 forked off current database system timeline 1 before current recovery point 0/5000000";
        let lines = [&format!("x UTC [10] FATAL:  {gone}"), &*format!("x UTC [9] LOG:  {forked}")];
        assert_eq!(receiver(&log(&lines)).as_deref(), Some(forked));
        let csv = "2026-01-01 12:00:00 UTC,,,p9,th-1,,,,0,,,seg0,,,,,\"ERROR\",\"XX000\",\
                   \"highest timeline 1 of the primary is behind recovery timeline 2\",,,,,,,0,,\"walreceiver.c\",1,";
        let csv = Log { postmaster: 7, output: vec![], file: vec![csv.into()], csv: true };
        assert!(receiver(&csv).unwrap().starts_with("highest timeline 1"));
    }
}
