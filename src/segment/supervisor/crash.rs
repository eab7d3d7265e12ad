//! Why postgres ended, and when it may be started again. Pure.

use std::time::Duration;

use greenplum::{
    messages::{self, Cause},
    server_log::{self, Log, Said},
};
use model::page::ExitClass;

/// Crashes in a row after which a primary with a mirror in sync stays down, so that FTS can fail over.
pub const ENOUGH: u32 = 3;

/// The class of an end, and what led to it.
pub fn classify(signal: Option<i32>, log: &Log) -> (ExitClass, String) {
    let last = || log.lines().rev().find(|line| tells(line)).cloned().unwrap_or_default();
    if signal.is_some() {
        return (ExitClass::Killed, last()); // whatever the log holds, it did not end for that
    }
    let said = log.said_by_server();
    // What ends a server is said so loudly; whatever it says after that is no cause.
    let loud = || said.iter().rev().filter(|said| said.is_loud());
    if let Some(refused) = loud().find(|said| is_of_the_machine(said)) {
        return (ExitClass::Environment, refused.line.clone());
    }
    // Of the process that spoke last: what another one died of before it is over.
    let last_words = || loud().filter(|said| said.pid == loud().next().and_then(|newest| newest.pid));
    let Some((found, cause)) = last_words().find_map(|said| Some((said, said.cause()?))) else {
        return (ExitClass::Unclassified, loud().next().map_or_else(last, |said| said.line.clone()));
    };
    // What it could not read a moment before, it said more softly.
    if let Some(refused) = said.iter().rev().find(|said| said.pid.is_some() && said.pid == found.pid && is_of_the_machine(said)) {
        return (ExitClass::Environment, refused.line.clone());
    }
    (cause.exit(), with_place(&said, found))
}

fn is_of_the_machine(said: &Said) -> bool {
    said.cause().is_some_and(Cause::is_of_the_machine)
}

/// The tablespace behind whose link it missed what ended it, in words that say nothing else.
pub fn missed_space(log: &Log) -> Option<String> {
    let said = log.said_by_server();
    let newest = said.iter().rev().find(|said| said.is_loud())?;
    messages::missed_space(&newest.message).map(str::to_owned)
}

/// `configuration file "…" contains errors`, it says at last, or `could not load pg_hba.conf`; which line, it said before.
fn with_place(said: &[Said], found: &Said) -> String {
    let names_a_line = |other: &&Said| other.message.contains(".conf\" line ") || other.line.contains(server_log::OF_A_FILE);
    let place = said.iter().rev().find(|other| *other != found && names_a_line(other));
    let says_no_line = ["contains errors", "could not load pg_hba.conf"].iter().any(|words| found.message.contains(words));
    match place.filter(|_| says_no_line) {
        Some(place) => format!("{}; {}", place.line, found.line),
        None => found.line.clone(),
    }
}

/// Neither a continuation of another line nor a refusal of a client, our own looks included: a mirror's log is full of those.
fn tells(line: &str) -> bool {
    const NOTHING: [&str; 5] =
        ["DETAIL:", "HINT:", "CONTEXT:", "the database system is in recovery mode", "the database system is starting up"];
    !line.starts_with(char::is_whitespace) && !NOTHING.iter().any(|words| line.contains(words))
}

/// What follows a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At once: inside FTS's retries the failover is avoided altogether.
    AtOnce,
    /// Stay down, so that FTS fails over.
    StayDown,
    After(Duration),
}

/// When to start again after the `crashes`-th crash in a row.
pub fn again(crashes: u32, primary: bool, mirror_in_sync: bool) -> Again {
    match crashes {
        0 | 1 => Again::AtOnce,
        2 => Again::After(Duration::from_secs(1)),
        n if n >= ENOUGH && primary && mirror_in_sync => Again::StayDown,
        n => Again::After(Duration::from_secs(2_u64.saturating_pow(n.min(6)).min(60))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(signal: Option<i32>, lines: &[&str]) -> ExitClass {
        classify(signal, &log(lines)).0
    }

    fn log(lines: &[&str]) -> Log {
        Log { postmaster: 7, output: lines.iter().map(|line| (*line).to_owned()).collect(), ..Log::default() }
    }

    #[test]
    fn an_end_is_classified_by_its_log() {
        assert_eq!(class(Some(9), &["LOG:  ready"]), ExitClass::Killed);
        assert_eq!(class(Some(9), &["PANIC:  could not locate a valid checkpoint record"]), ExitClass::Killed);
        assert_eq!(class(None, &["LOG:  statement: select 'dbid is out of valid range'"]), ExitClass::Unclassified);
        assert_eq!(class(None, &["PANIC:  could not locate a valid checkpoint record"]), ExitClass::DataUnusable);
        assert_eq!(class(None, &["FATAL:  requested timeline 2 is not a child of this server's history"]), ExitClass::TimelineDiverged);
        assert_eq!(class(None, &["FATAL:  could not write: No space left on device"]), ExitClass::Environment);
        assert_eq!(class(None, &["FATAL:  configuration file \"/x\" contains errors"]), ExitClass::Configuration);
        assert_eq!(class(None, &["something new"]), ExitClass::Unclassified);
    }

    /// Nobody could read it is not that it is damaged: a disk that is away for a moment costs no full copy.
    #[test]
    fn what_the_environment_refused_is_not_damage() {
        for refusal in ["Permission denied", "Too many open files", "Input/output error", "Stale file handle", "Cannot allocate memory"] {
            let control = format!("PANIC:  could not open file \"global/pg_control\": {refusal}");
            assert_eq!(class(None, &[&control]), ExitClass::Environment, "{control}");
            let before = format!("x UTC [9] LOG:  could not open file \"pg_wal/000000010000000000000001\": {refusal}");
            let panic = "x UTC [9] PANIC:  could not locate a valid checkpoint record";
            let ended = "x UTC [7] LOG:  startup process (PID 9) was terminated by signal 6: Aborted";
            assert_eq!(class(None, &[&before, panic, ended]), ExitClass::Environment, "{before}");
            assert_eq!(class(None, &[panic, ended]), ExitClass::DataUnusable);
            let other = before.replace("[9]", "[8]");
            assert_eq!(class(None, &[&other, panic, ended]), ExitClass::DataUnusable, "another process' trouble");
        }
        assert_eq!(class(None, &["PANIC:  could not open file \"global/pg_control\": No such file or directory"]), ExitClass::DataUnusable);
    }

    /// Of a commit log the message says nothing and its DETAIL everything, which Greenplum 6 writes behind its prefix and blanks.
    #[test]
    fn what_stands_in_a_detail_alone_decides_and_is_shown() {
        let (class, evidence) = classify(None, &six("Could not open file \"pg_clog/0000\": Permission denied."));
        assert_eq!(class, ExitClass::Environment, "{evidence}");
        assert!(evidence.contains("of transaction 712") && evidence.contains("pg_clog/0000\": Permission denied"), "{evidence}");
        for refused in ["Input/output error", "Too many open files in system", "Stale file handle", "No space left on device"] {
            let detail = format!("Could not read from file \"pg_multixact/offsets/0000\" at offset 8192: {refused}.");
            for log in [six(&detail), seven(&detail), fifteen(&detail)] {
                assert_eq!(classify(None, &log).0, ExitClass::Environment, "{log:?}");
            }
        }
    }

    #[test]
    fn a_commit_log_that_is_gone_or_cut_short_is_damage_and_without_its_detail_nobody_knows() {
        for gone in [
            six("Could not open file \"pg_clog/0000\": No such file or directory."),
            six("Could not read from file \"pg_clog/0000\" at offset 0: Success."),
            seven("Could not open file \"pg_xact/0000\": No such file or directory."),
            fifteen("Could not read from file \"pg_xact/0000\" at offset 0: read too few bytes."),
        ] {
            assert_eq!(classify(None, &gone).0, ExitClass::DataUnusable, "{gone:?}");
        }
        for mut unknown in [six("x"), fifteen("x"), seven("Could not open file \"pg_xact/0000\": nobody has ever seen this.")] {
            assert_eq!(classify(None, &unknown).0, ExitClass::Unclassified, "{unknown:?}");
            unknown.output.retain(|line| !line.contains("DETAIL"));
            assert_eq!(classify(None, &unknown).0, ExitClass::Unclassified, "{unknown:?}");
        }
    }

    /// What ran when a session's process died is a client's, and stands in a DETAIL of the postmaster itself.
    #[test]
    fn no_detail_of_another_line_and_no_clients_words_in_one_decide() {
        let ended = "x UTC [7] LOG:  startup process (PID 9) exited with exit code 1";
        let panic = "x UTC [9] PANIC:  could not locate a valid checkpoint record";
        let detail = "DETAIL:  Could not open file \"pg_xact/0000\": Permission denied.";
        for other in [format!("x UTC [8] {detail}"), format!("x UTC [8] ann@db {detail}"), format!("\t{detail}"), detail.to_owned()] {
            assert_eq!(class(None, &[panic, &other, ended]), ExitClass::DataUnusable, "{other}");
        }
        let session = "x UTC [8] ERROR:  could not access status of transaction 712";
        assert_eq!(class(None, &[panic, session, &format!("x UTC [9] {detail}"), ended]), ExitClass::DataUnusable, "not next to it");
        let ran = "x UTC [7] DETAIL:  Failed process was running: select 'x', $$Could not open file: Permission denied$$";
        let killed = "x UTC [7] LOG:  server process (PID 8) was terminated by signal 11: Segmentation fault";
        let fatal = "x UTC [7] FATAL:  could not locate a valid checkpoint record";
        assert_eq!(class(None, &[killed, ran, fatal]), ExitClass::DataUnusable);
    }

    /// As a mirror of Greenplum 6.24.3 says it on standard error.
    fn six(detail: &str) -> Log {
        log(&[
            "2026-11-28 16:17:28.435 UTC|||9|startup||:-FATAL:  could not access status of transaction 712",
            &format!("2026-11-28 16:17:28.435 UTC|||9|startup||:-          DETAIL:  {detail}"),
            "2026-11-28 16:17:28.435 UTC|||9|startup||:-          Traceback 0:  postgres(errstart+0x235) [0x55c847726735]",
            "2026-11-28 16:17:28.436 UTC|||7|postmaster||:-LOG:  startup process (PID 9) exited with exit code 1",
        ])
    }

    /// In the CSV of 6 and 7.
    fn seven(detail: &str) -> Log {
        let record = |pid: u32, severity: &str, message: &str, detail: &str| {
            let detail = if detail.is_empty() { String::new() } else { format!("\"{}\"", detail.replace('"', "\"\"")) };
            format!(
                "2026-11-28 16:17:26.561032 UTC,,,p{pid},th-1590695040,,,,0,,,seg0,,,,,\"{severity}\",\"42501\",\"{message}\",{detail},,,,,,,\"SlruReportIOError\",\"slru.c\",879,"
            )
        };
        let fatal = record(9, "FATAL", "could not access status of transaction 712", detail);
        let trace = "2    0x55d38ade3906 postgres <symbol not found> + 0x8ade3906".to_owned();
        let file = vec![
            fatal + "1    0x55d38b22b735 postgres errstart + 0x235",
            trace,
            record(7, "LOG", "startup process (PID 9) exited with exit code 1", ""),
        ];
        Log { postmaster: 7, output: vec![], file, csv: true }
    }

    fn fifteen(detail: &str) -> Log {
        log(&[
            "2026-11-28 16:17:28.435 UTC [9] FATAL:  could not access status of transaction 712",
            &format!("2026-11-28 16:17:28.435 UTC [9] DETAIL:  {detail}"),
            "2026-11-28 16:17:28.435 UTC [9] CONTEXT:  WAL redo at 0/3000110 for Transaction/COMMIT: 2026-11-28 16:17:28.4 UTC",
            "2026-11-28 16:17:28.436 UTC [7] LOG:  startup process (PID 9) exited with exit code 1",
        ])
    }

    /// Greenplum 6 goes on talking after what ended it: a trace, and that it ends.
    #[test]
    fn the_evidence_is_what_ended_it_and_not_its_last_line() {
        let lines = [
            "x UTC [9] FATAL:  could not open directory \"pg_replslot\": No such file or directory",
            "1    0xbf86 postgres errstart + 0x1d6",
            "x UTC [7] LOG:  startup process (PID 9) exited with exit code 1",
            "x UTC [7] LOG:  aborting startup due to startup process failure",
        ];
        assert_eq!(classify(None, &log(&lines)), (ExitClass::DataUnusable, lines[0].to_owned()));
        let unknown = lines[0].replace("could not open directory \"pg_replslot\": No such file or directory", "nobody has ever seen this");
        let lines = [unknown.as_str(), lines[1], lines[2], lines[3]];
        assert_eq!(classify(None, &log(&lines)), (ExitClass::Unclassified, unknown.clone()));
    }

    /// As Greenplum 6 says it on standard error before it has read its settings.
    #[test]
    fn a_broken_line_is_named_in_csv_too() {
        let record = |severity: &str, message: &str| {
            let begin = "2026-11-28 14:18:39.531814 GMT,,,p7,th-1294808192,,,,0,,,seg-10000,,,,,";
            format!("{begin}\"{severity}\",\"F0000\",\"{message}\",,,,,,,,\"ProcessConfigFile\",\"guc-file.l\",456,")
        };
        let syntax = record("LOG", "syntax error in file \"\"/data/gpseg0/postgresql.conf\"\" line 12, near token \"\"setting\"\"");
        let ended = record("FATAL", "configuration file \"\"/data/gpseg0/postgresql.conf\"\" contains errors");
        let (class, evidence) = classify(None, &log(&[&syntax, &ended]));
        assert_eq!(class, ExitClass::Configuration);
        assert!(evidence.contains("line 12") && evidence.contains("contains errors"), "{evidence}");
    }

    #[test]
    fn what_another_process_died_of_before_decides_nothing() {
        let lines = [
            "x UTC [9] FATAL:  could not open directory \"pg_replslot\": No such file or directory",
            "x UTC [7] LOG:  startup process (PID 9) exited with exit code 1",
            "x UTC [11] PANIC:  nobody has ever seen this",
            "x UTC [7] LOG:  startup process (PID 11) was terminated by signal 6: Aborted",
        ];
        assert_eq!(classify(None, &log(&lines)), (ExitClass::Unclassified, lines[2].to_owned()));
    }

    #[test]
    fn a_broken_line_is_named_by_file_and_number() {
        let lines = [
            "x UTC [7] LOG:  syntax error in file \"/data/gpseg0/postgresql.conf\" line 12, near token \"=\"",
            "x UTC [7] FATAL:  configuration file \"/data/gpseg0/postgresql.conf\" contains errors",
        ];
        let (class, evidence) = classify(None, &log(&lines));
        assert_eq!(class, ExitClass::Configuration);
        assert!(evidence.contains("line 12") && evidence.contains("contains errors"), "{evidence}");
    }

    /// As PostgreSQL 15 and Greenplum 6 say it, of which the file is named in a CONTEXT alone.
    #[test]
    fn a_broken_line_of_pg_hba_conf_is_named_by_file_and_number() {
        let said = "invalid connection type \"hots\"";
        let context = "line 91 of configuration file \"/data/gpseg0/pg_hba.conf\"";
        let six = "2026-11-28 16:17:28.435 UTC|||7|postmaster||:-";
        let plain = |before: &str, blanks: &str| {
            [
                format!("{before}LOG:  {said}"),
                format!("{before}{blanks}CONTEXT:  {context}"),
                format!("{before}FATAL:  could not load pg_hba.conf"),
                format!("{before}LOG:  database system is shut down"),
            ]
        };
        let record = |severity: &str, message: &str, context: &str| {
            let quoted = |text: &str| if text.is_empty() { String::new() } else { format!("\"{}\"", text.replace('"', "\"\"")) };
            format!(
                "2026-11-28 14:18:39.531814 GMT,,,p7,th-1294808192,,,,0,,,seg-10000,,,,,\"{severity}\",\"F0000\",{},,,,,{},,,\"x\",\"hba.c\",1,",
                quoted(message),
                quoted(context)
            )
        };
        let csv = [record("LOG", said, context), record("FATAL", "could not load pg_hba.conf", "")];
        for lines in [plain("", "").to_vec(), plain("x UTC [7] ", "").to_vec(), plain(six, "          ").to_vec(), csv.to_vec()] {
            let (class, evidence) = classify(None, &log(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
            assert_eq!(class, ExitClass::Configuration, "{lines:?}");
            assert!(evidence.contains("line 91 of") && evidence.contains("pg_hba.conf\""), "{evidence}");
        }
    }

    /// What it says before it has a log has no severity.
    #[test]
    fn what_a_server_says_before_it_has_a_log_is_read() {
        let settings =
            "postgres: could not access the server configuration file \"/data/gpseg0/postgresql.conf\": No such file or directory";
        assert_eq!(class(None, &[settings]), ExitClass::Configuration);
        assert_eq!(
            class(None, &["postgres: superuser_reserved_connections (3) must be less than max_connections (2)"]),
            ExitClass::Configuration
        );
        let linker =
            "postgres: error while loading shared libraries: libxml2.so.2: cannot open shared object file: No such file or directory";
        assert_eq!(class(None, &[linker]), ExitClass::Environment);
        let root = "\"root\" execution of the PostgreSQL server is not permitted.";
        assert_eq!(class(None, &[root, "The server must be started under an unprivileged user ID to prevent"]), ExitClass::Environment);
        assert_eq!(class(None, &["\tpostgres: could not access the server configuration file"]), ExitClass::Unclassified, "of a statement");
    }

    #[test]
    fn what_is_missed_behind_a_tablespaces_link_is_for_the_disk_to_tell() {
        let ended = "x UTC [7] LOG:  startup process (PID 9) exited with exit code 1";
        let missed = |line: &str| missed_space(&log(&[line, ended]));
        let redo = "x UTC [9] FATAL:  could not create directory \"pg_tblspc/16385/GPDB_6_301908232/16384\": No such file or directory";
        assert_eq!((class(None, &[redo, ended]), missed(redo).as_deref()), (ExitClass::Unclassified, Some("16385")));
        assert_eq!(
            missed("x UTC [9] FATAL:  could not open directory \"pg_tblspc/16385\": No such file or directory").as_deref(),
            Some("16385")
        );
        for other in [
            "x UTC [9] FATAL:  could not create directory \"pg_tblspc/16385/x\": Permission denied",
            "x UTC [9] LOG:  could not open directory \"pg_tblspc/16385\": No such file or directory",
            "x UTC [8] FATAL:  could not open directory \"pg_tblspc/16385\": No such file or directory",
        ] {
            assert_eq!(missed(other), None, "{other}");
        }
    }

    #[test]
    fn no_client_decides_how_an_end_is_classified() {
        for text in [
            "could not locate a valid checkpoint record",
            "requested timeline 2 is not a child of this server's history",
            "contains errors",
        ] {
            for line in [
                format!("x UTC [8] FATAL:  database \"{text}\" does not exist"),
                format!("x UTC [8] ann@db FATAL:  {text}"),
                format!("FATAL:  password authentication failed for user \"{text}\""),
                format!("12:03:58 UTC|ann|db|7|||:-FATAL:  {text}"),
                format!("\tPANIC:  {text}"),
            ] {
                assert_eq!(class(None, &[&line]), ExitClass::Unclassified, "{line}");
            }
        }
    }

    #[test]
    fn the_last_line_that_tells_something_is_the_evidence() {
        // As a mirror of Greenplum 6 logs.
        let lines = [
            "12:03:57 UTC|||2|wal receiver||:-LOG:  started streaming WAL from primary at 0/C000000 on timeline 1",
            "12:03:58 UTC|gpadmin|postgres|3|||:-FATAL:  the database system is in recovery mode",
            "12:03:58 UTC|gpadmin|postgres|3|||:-          DETAIL:  last replayed record at 0/C000000",
            "\t- VERSION: PostgreSQL 9.4.26 (Greenplum Database 6.24.3)",
        ];
        let (class, evidence) = classify(Some(9), &log(&lines));
        assert_eq!((class, evidence.as_str()), (ExitClass::Killed, lines[0]));
    }

    #[test]
    fn the_first_crash_is_answered_at_once_and_a_row_of_them_leaves_it_to_fts() {
        assert_eq!(again(1, true, true), Again::AtOnce);
        assert_eq!(again(3, true, true), Again::StayDown);
        assert!(matches!(again(3, true, false), Again::After(_)), "no mirror in sync: nobody else can serve");
        assert!(matches!(again(3, false, true), Again::After(_)), "a mirror is nobody's hope while it crashes");
        assert_eq!(again(99, false, false), Again::After(Duration::from_mins(1)));
    }
}
