use super::*;

fn tool(tool: Tool, line: &str) -> FailureClass {
    of_tool(tool, &["something before".into(), line.into(), "something after".into()])
}

impl Message {
    fn wordings(&self) -> impl Iterator<Item = &'static str> {
        [self.example].into_iter().chain(self.others.iter().copied())
    }
}

/// What a server of each version writes when it ends of a message: on its standard error before and after it has read its
/// settings, as PostgreSQL and as Greenplum 6 do, and in Greenplum's CSV.
fn forms(message: &str, detail: Option<&str>) -> Vec<server_log::Log> {
    let lines = |before: &str, blanks: &str| {
        let detail = detail.map(|detail| format!("{before}{blanks}DETAIL:  {detail}"));
        [Some(format!("{before}FATAL:  {message}")), detail].into_iter().flatten().collect::<Vec<_>>()
    };
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let csv = format!(
        "2026-11-28 16:17:26.561032 UTC,,,p9,th-1,,,,0,,,seg0,,,,,\"FATAL\",\"XX000\",{},{},,,,,,,\"x\",\"x.c\",879,",
        quoted(message),
        detail.map(quoted).unwrap_or_default()
    );
    let log = |output, file, csv| server_log::Log { postmaster: 9, output, file, csv };
    let plain = [
        lines("", ""),
        lines("2026-11-28 16:17:28.435 UTC [9] ", ""),
        lines("2026-11-28 16:17:28.435 UTC|||9|startup||:-", "          "),
        vec![csv.clone()],
    ];
    let collected = [log(vec![], plain[1].clone(), false), log(vec![], vec![csv], true)];
    plain.map(|lines| log(lines, vec![], false)).into_iter().chain(collected).collect()
}

fn is_found(cause: Cause, message: &str, detail: Option<&str>) {
    assert_eq!(of_server(message, detail), Some(cause), "{message}");
    for log in forms(message, detail) {
        let said = log.said_by_server();
        assert_eq!(said.iter().map(Said::cause).collect::<Vec<_>>(), [Some(cause)], "{log:?}");
        let lines: Vec<_> = log.lines().cloned().collect();
        assert_eq!(of_tool(Tool::Postgres, &lines), cause.failure(), "{lines:?}");
    }
}

/// Each row, in the words of each version, in each form of a log, by `postgres --single`, and by the tool.
#[test]
fn every_row_is_found_by_what_was_said() {
    for (cause, messages) in system::ROWS.iter().chain(server::FIRST).chain(server::ROWS) {
        messages.iter().flat_map(Message::wordings).for_each(|wording| is_found(*cause, wording, None));
    }
    for (cause, message) in server::DETAILS.iter().flat_map(|(cause, messages)| messages.iter().map(move |message| (cause, message))) {
        for (begin, wording) in server::EXPLAINED.iter().flat_map(|begin| message.wordings().map(move |wording| (begin, wording))) {
            is_found(*cause, begin, Some(wording));
        }
    }
    for (of, table) in
        [(Tool::Rewind, tools::REWIND), (Tool::BaseBackup, tools::BASE_BACKUP), (Tool::Psql, tools::LIBPQ), (Tool::Psql, tools::RELAYED)]
    {
        for (class, message) in table.iter().flat_map(|(class, messages)| messages.iter().map(move |message| (class, message))) {
            for wording in message.wordings() {
                assert_eq!(tool(of, wording), *class, "{of:?}: {wording}");
            }
        }
    }
}

/// A row that never decides, since another one before it does, says something that is not true.
#[test]
fn no_row_hides_behind_another() {
    for (_, rows) in tables() {
        for (message, _) in rows {
            for wording in message.wordings() {
                assert!(wording.contains(message.words) || says(wording, message.words), "{message:?}");
            }
        }
    }
}

#[test]
fn damage_alone_leads_to_a_full_copy_and_the_unknown_to_none() {
    for cause in Cause::ALL {
        let full = cause.failure().answer() == model::Answer::GoFull;
        assert_eq!(full, matches!(cause, Cause::Damage | Cause::Diverged), "{cause:?}");
    }
    let other_languages = [
        "FATAL:  konnte keinen gültigen Checkpoint-Datensatz finden",
        "PANIK:  konnte keinen gültigen Checkpoint-Datensatz finden",
        "致命错误:  无法找到有效的检查点记录",
    ];
    for line in other_languages {
        assert_eq!(tool(Tool::Postgres, line), FailureClass::Unclassified, "{line}");
    }
    for line in ["FATAL:  a sentence that nobody has ever seen", "", "PANIC:  could not open file \"/etc/x\": No such file or directory"] {
        assert_eq!(tool(Tool::Postgres, line), FailureClass::Unclassified, "{line}");
        assert_eq!(tool(Tool::Rewind, line.split("  ").last().unwrap_or_default()), FailureClass::Unclassified, "{line}");
    }
}

/// An ordinary end of a log is told in words that are damage where a server ends of them.
#[test]
fn what_a_log_says_softly_is_no_damage() {
    let softly = [
        "LOG:  unexpected pageaddr 0/1 in log segment 000000010000000000000003, offset 0",
        "x UTC [9] LOG:  invalid magic number 0000 in log segment 000000010000000000000003, offset 0",
        "FATAL:  a sentence that nobody has ever seen",
    ];
    assert_eq!(of_tool(Tool::Postgres, &softly.map(str::to_owned)), FailureClass::Unclassified);
    let bare = "postgres: could not access the server configuration file \"/data/gpseg0/postgresql.conf\": No such file or directory";
    assert_eq!(tool(Tool::Postgres, bare), FailureClass::Configuration);
}

/// Whatever a server could not do for want of something, its files may be whole.
#[test]
fn what_the_machine_refuses_is_never_damage() {
    let operations = [
        "could not open file \"global/pg_control\"",
        "could not read block 3 in file \"base/1/2\"",
        "could not open relation mapping file \"global/pg_filenode.map\"",
        "could not recover two-phase state file for transaction 731",
    ];
    for (cause, message) in system::ROWS.iter().flat_map(|(cause, messages)| messages.iter().map(move |message| (cause, message))) {
        for operation in operations {
            assert_eq!(of_server(&format!("{operation}: {}", message.words), None), Some(*cause));
            let detail = format!("Could not read from file \"pg_xact/0000\" at offset 0: {}.", message.words);
            assert_eq!(of_server(operation, Some(&detail)), Some(*cause), "{detail}");
        }
        let softly = format!("LOG:  could not open file \"pg_wal/000000010000000000000001\": {}", message.words);
        let lines = [softly, "PANIC:  could not locate a valid checkpoint record".into()];
        assert_eq!(of_tool(Tool::Postgres, &lines), cause.failure(), "said softly before");
    }
}

#[test]
fn a_file_of_the_directory_that_is_not_there_is_damage_and_one_that_a_setting_names_is_not() {
    for gone in [
        "could not open directory \"pg_replslot\"",
        "could not open directory \"pg_notify\"",
        "could not open directory \"pg_tblspc\"",
        "could not open file \"base/1/2.1\" (target block 131072)",
        "could not open relation mapping file \"global/pg_filenode.map\"",
        "could not fsync file \"base/1/2\"",
        "could not open file \"global/pg_control\"",
    ] {
        assert_eq!(of_server(&format!("{gone}: No such file or directory"), None), Some(Cause::Damage), "{gone}");
    }
    let states = "could not access status of transaction 712";
    for folder in ["pg_clog", "pg_xact", "pg_subtrans", "pg_multixact/members", "pg_distributedlog", "pg_commit_ts"] {
        let detail = format!("Could not open file \"{folder}/0000\": No such file or directory.");
        assert_eq!(of_server(states, Some(&detail)), Some(Cause::Damage), "{detail}");
        assert_eq!(of_server("nobody has ever seen this", Some(&detail)), None, "{detail}");
    }
    let database = "database \"template1\" does not exist";
    assert_eq!(of_server(database, Some("The database subdirectory \"base/1\" is missing.")), Some(Cause::Damage));
    assert_eq!(of_server(database, Some("The database subdirectory \"pg_tblspc/16385/GPDB_6/1\" is missing.")), None);
    for unknown in
        [None, Some("It seems to have just been dropped or renamed."), Some("Could not open file \"/x/0000\": No such file or directory.")]
    {
        assert_eq!((of_server(states, unknown), of_server(database, unknown)), (None, None), "{unknown:?}");
    }
    for elsewhere in [
        "could not create directory \"pg_tblspc/16385/x\"",
        "could not open directory \"pg_wal\"",
        "could not open file \"pg_xlog/000000010000000000000003\"",
        "could not open file \"/etc/gp/x\"",
        "could not open file \"pg_hba.conf\"",
        "database \"could not open file \"base/1\"\"",
    ] {
        assert_eq!(of_server(&format!("{elsewhere}: No such file or directory"), None), None, "{elsewhere}");
    }
}

/// The acting primary's disk and the target's are two disks.
#[test]
fn what_the_source_says_is_told_apart_from_what_the_tool_says() {
    let of_source = "pg_basebackup: error: could not initiate base backup: ERROR:  could not write to file \"x\": No space left on device";
    assert_eq!(tool(Tool::BaseBackup, of_source), FailureClass::SourceEnvironment);
    assert_eq!(
        tool(Tool::BaseBackup, "pg_basebackup: error: could not write to file \"x\": No space left on device"),
        FailureClass::NoRoom
    );
    assert_eq!(tool(Tool::Rewind, "pg_rewind: could not open file \"base/1/2\": Permission denied"), FailureClass::Environment);
    assert_eq!(
        tool(Tool::Rewind, "pg_rewind: error: could not fetch file list: ERROR:  permission denied for function pg_ls_dir"),
        FailureClass::LoginRefused
    );
    let removed = ["pg_basebackup: error: could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed".into(), "pg_basebackup: error: child process exited with exit code 1".into()];
    assert_eq!(of_tool(Tool::BaseBackup, &removed), FailureClass::WalRemoved);
}

#[test]
fn a_network_that_refuses_is_no_file_system_that_does() {
    for line in [
        "could not connect to server: Connection timed out",
        "connection to server at \"a\" (10.0.0.1), port 1 failed: Permission denied",
        "could not connect to server: Resource temporarily unavailable",
    ] {
        assert_eq!(tool(Tool::Rewind, line), FailureClass::ConnectionLost, "{line}");
    }
}

/// Names are anybody's.
#[test]
fn what_stands_between_quotes_is_not_said() {
    for text in ["could not locate a valid checkpoint record", "Input/output error", "contains errors"] {
        assert_eq!(of_server(&format!("database \"{text}\" does not exist"), None), None, "{text}");
    }
}

/// Where it collects its log, Greenplum 6 writes CSV in single-user mode too.
#[test]
fn a_server_alone_is_understood_in_csv_and_with_its_detail() {
    let csv = |message: &str, detail: &str| {
        let fields = format!("\"FATAL\",\"42501\",\"{}\",\"{}\"", message.replace('"', "\"\""), detail.replace('"', "\"\""));
        let stack = "1    0x55d38b22b735 postgres errstart + 0x235";
        let line = format!(
            "2026-11-28 16:17:26.561032 UTC,,,p23543,th-159,,,,0,,,seg0,,,,,{fields},,,,,,,\"SlruReportIOError\",\"slru.c\",879,{stack}"
        );
        vec![line, "2    0x55d38ade3906 postgres <symbol not found> + 0x8ade3906".to_owned()]
    };
    let plain = |before: &str, message: &str, detail: &str| {
        let blanks = if before.ends_with("||:-") { "          " } else { "" };
        vec![
            format!("{before}FATAL:  {message}"),
            format!("{before}{blanks}DETAIL:  {detail}"),
            format!("{before}{blanks}Traceback 0:  postgres"),
        ]
    };
    for (detail, class) in [
        ("Could not open file \"pg_clog/0000\": Permission denied.", FailureClass::Environment),
        ("Could not read from file \"pg_clog/0000\" at offset 0: Input/output error.", FailureClass::Environment),
        ("Could not write to file \"pg_clog/0000\" at offset 0: No space left on device.", FailureClass::NoRoom),
        ("Could not open file \"pg_clog/0000\": Too many open files.", FailureClass::ToolKilled),
        ("Could not open file \"pg_clog/0000\": No such file or directory.", FailureClass::TargetUnusable),
        ("Could not read from file \"pg_clog/0000\" at offset 0: Success.", FailureClass::TargetUnusable),
        ("Could not open file \"pg_clog/0000\": nobody has ever seen this.", FailureClass::Unclassified),
    ] {
        let message = "could not access status of transaction 712";
        let six = "2026-11-28 16:17:28.435 UTC|||23578|postmaster||:-";
        for lines in [csv(message, detail), plain(six, message, detail), plain("x [9] ", message, detail), plain("", message, detail)] {
            assert_eq!(of_tool(Tool::Postgres, &lines), class, "{lines:?}");
        }
    }
    assert_eq!(of_tool(Tool::Postgres, &csv("could not locate a valid checkpoint record", "")), FailureClass::TargetUnusable);
    assert_eq!(tool(Tool::Postgres, "FATAL:  could not access status of transaction 712"), FailureClass::Unclassified);
}

/// What the source adds to its error is of the source.
#[test]
fn a_detail_that_a_tool_passes_on_is_not_of_the_tools_machine() {
    let said = [
        "pg_basebackup: error: could not initiate base backup: ERROR:  could not access status of transaction 712",
        "DETAIL:  Could not open file \"pg_xact/0000\": Permission denied.",
    ];
    assert_eq!(of_tool(Tool::BaseBackup, &said.map(str::to_owned)), FailureClass::SourceEnvironment);
}
