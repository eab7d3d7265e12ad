//! What servers and tools say, and what it means: environment, configuration, damage and the unknown are four different
//! things, and damage alone is mended by copying. They have no codes; these are their own untranslated words, each read in
//! their source or seen. `docs/messages.md` is written from these tables, and each row is tested with what was said.
//!
//! `system`: errors of the operating system. `server`: a server that ends, or does not start. `tools`: what copies.

mod server;
mod system;
mod tools;

use super::server_log::{self, Said};
use model::{FailureClass, page::ExitClass};

/// One known message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// What stands in it.
    pub words: &'static str,
    /// Who says it: Greenplum 6 (PostgreSQL 9.4), Greenplum 7 (12), PostgreSQL 15.
    pub versions: &'static str,
    /// As it was said in full.
    pub example: &'static str,
    /// As other versions, or other lines of theirs, say it.
    pub others: &'static [&'static str],
}

const fn said(words: &'static str, versions: &'static str, example: &'static str) -> Message {
    Message { words, versions, example, others: &[] }
}

/// What is not said alike by all of them.
const fn variously(words: &'static str, versions: &'static str, example: &'static str, others: &'static [&'static str]) -> Message {
    Message { words, versions, example, others }
}

/// Why a server ends or does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The files themselves are damaged or incomplete.
    Damage,
    /// The directory's history is not that of its primary.
    Diverged,
    /// A disk or a quota is full.
    Room,
    /// Memory, processes or file handles are short.
    Scarce,
    /// Whatever else the machine, the image or the mounts refuse.
    Environment,
    /// A setting, or a file that settings name.
    Configuration,
    /// The server is of another version than its files.
    Version,
}

impl Cause {
    pub const ALL: &[Self] =
        &[Self::Damage, Self::Diverged, Self::Room, Self::Scarce, Self::Environment, Self::Configuration, Self::Version];

    /// Of a repair, whose `postgres --single` says it of the target.
    pub fn failure(self) -> FailureClass {
        match self {
            Self::Damage => FailureClass::TargetUnusable,
            Self::Diverged => FailureClass::CannotRewind,
            Self::Room => FailureClass::NoRoom,
            Self::Scarce => FailureClass::ToolKilled,
            Self::Environment => FailureClass::Environment,
            Self::Configuration => FailureClass::Configuration,
            Self::Version => FailureClass::VersionDiffers,
        }
    }

    /// Of an instance that ended.
    pub fn exit(self) -> ExitClass {
        match self {
            Self::Damage => ExitClass::DataUnusable,
            Self::Diverged => ExitClass::TimelineDiverged,
            Self::Room | Self::Scarce | Self::Environment => ExitClass::Environment,
            Self::Configuration | Self::Version => ExitClass::Configuration,
        }
    }

    /// Nothing of the directory is known by it: what could not be opened or read is not damaged.
    pub fn is_of_the_machine(self) -> bool {
        match self {
            Self::Room | Self::Scarce | Self::Environment => true,
            Self::Damage | Self::Diverged | Self::Configuration | Self::Version => false,
        }
    }
}

/// Who speaks in a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `postgres --single`, of the target.
    Postgres,
    Rewind,
    BaseBackup,
    /// `psql`, of the source.
    Psql,
}

impl Tool {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rewind => "pg_rewind",
            Self::BaseBackup => "pg_basebackup",
            Self::Psql => "psql",
        }
    }
}

/// What the first row means of which one message is said.
fn first<T: Copy>(rows: &[(T, &[Message])], said: impl Fn(&str) -> bool) -> Option<T> {
    rows.iter().find(|(_, messages)| messages.iter().any(|known| said(known.words))).map(|(meaning, _)| *meaning)
}

/// What a server's message means, with its DETAIL where it has one; `None`: nobody knows it, which is neither damage nor
/// anything else. What the machine refused may stand in either, and wins over what the message is about.
pub fn of_server(message: &str, detail: Option<&str>) -> Option<Cause> {
    let of = |rows| first(rows, |words| says(message, words));
    let refused = || detail.and_then(system::of_detail);
    let of_message = of(server::FIRST).or_else(|| of(system::ROWS)).or_else(refused).or_else(|| of(server::ROWS));
    of_message.or_else(|| system::missing(message)).or_else(|| of_detail(message, detail?))
}

/// The oid of a tablespace behind whose link a server missed something.
pub fn missed_space(message: &str) -> Option<&str> {
    system::space(message)
}

/// Of a message that says nothing by itself. No other message's DETAIL means damage: it may quote anybody.
fn of_detail(message: &str, detail: &str) -> Option<Cause> {
    let explained = server::EXPLAINED.iter().any(|words| says(message, words));
    let cause = || first(server::DETAILS, |words| says(detail, words)).or_else(|| system::missing(detail));
    explained.then(cause).flatten()
}

/// The machine refused it, as an error of a session says with its DETAIL.
pub fn is_refused(error: &str) -> bool {
    system::of(error).is_some()
}

/// What a tool that failed said, by the first row of its table that one of its lines matches.
pub fn of_tool(tool: Tool, lines: &[String]) -> FailureClass {
    match tool {
        Tool::Postgres => of_single(lines),
        Tool::Rewind => of_copy(lines, &[tools::REWIND, tools::LIBPQ]),
        Tool::BaseBackup => of_copy(lines, &[tools::BASE_BACKUP, tools::LIBPQ]),
        Tool::Psql => of_copy(lines, &[tools::LIBPQ]),
    }
}

/// A line that holds one of these was read with its severity, or belongs to one that was.
const OTHERS: &[&str] = &["FATAL:", "PANIC:", "ERROR:", "WARNING:", "LOG:", "DETAIL:", "HINT:", "CONTEXT:"];

/// What ends a server is said so loudly; what the machine refused it, it may have said more softly just before.
fn of_single(lines: &[String]) -> FailureClass {
    let said = server_log::of_alone(lines);
    let refused = said.iter().rev().filter_map(Said::cause).find(|cause| cause.is_of_the_machine());
    let loud = || said.iter().rev().filter(|said| said.is_loud()).find_map(Said::cause);
    // Before it has a log, `postgres: could not access …`. What stands in a log below FATAL ends nothing: that a log ends in a
    // page of an earlier round is said at every recovery.
    let alone = |line: &&String| !OTHERS.iter().any(|word| line.contains(word));
    let bare = || lines.iter().rev().filter(alone).find_map(|line| of_server(line.strip_prefix("postgres: ").unwrap_or(line), None));
    let cause = refused.or_else(loud).or_else(bare);
    cause.map_or(FailureClass::Unclassified, Cause::failure)
}

/// Own words of a tool, and those of the source's server that it passes on, the DETAIL of an error on a line of its own.
fn of_copy(lines: &[String], tables: &[&[(FailureClass, &[Message])]]) -> FailureClass {
    let relayed = |line: &String| ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().find_map(|word| Some(line.split_once(word)?.1.to_owned()));
    let of_source: Vec<_> = lines.iter().filter_map(relayed).collect();
    let added = |line: &str| ["DETAIL:", "HINT:", "CONTEXT:"].iter().any(|word| line.starts_with(word));
    let own: Vec<_> = lines.iter().filter(|line| relayed(line).is_none() && !added(line) && !tools::is_connecting(line)).collect();
    let by_source = first(tools::RELAYED, |words| of_source.iter().any(|line| says(line, words)));
    let machine = || own.iter().find_map(|line| system::of(line)).map(Cause::failure);
    let details = || lines.iter().filter(|line| line.starts_with("DETAIL:"));
    let machine_of_source = || of_source.iter().chain(details()).find_map(|line| system::of(line)).map(|_| FailureClass::SourceEnvironment);
    let by_tool = || tables.iter().find_map(|table| first(table, |words| lines.iter().any(|line| line.contains(words))));
    by_source.or_else(machine).or_else(machine_of_source).or_else(by_tool).unwrap_or(FailureClass::Unclassified)
}

/// The message says so itself: what stands between its quotes is a name, and may be anybody's.
fn says(message: &str, word: &str) -> bool {
    message.starts_with(word) || message.split('"').step_by(2).collect::<Vec<_>>().join("\"\"").contains(word)
}

/// A table for `docs/messages.md`: its heading, and for each row the words, who says them, what it is.
pub fn tables() -> Vec<(&'static str, Vec<(&'static Message, String)>)> {
    let of_server = |rows: &'static [(Cause, &'static [Message])]| {
        rows.iter().flat_map(|(cause, messages)| messages.iter().map(move |message| (message, format!("{cause:?}")))).collect()
    };
    let of_tool = |rows: &'static [(FailureClass, &'static [Message])]| {
        rows.iter().flat_map(|(class, messages)| messages.iter().map(move |message| (message, class.as_str().to_owned()))).collect()
    };
    vec![
        ("Errors of the operating system", of_server(system::ROWS)),
        ("A server that ends or does not start", of_server(server::FIRST).into_iter().chain(of_server(server::ROWS)).collect()),
        ("The DETAIL of a server's message that says nothing by itself", of_server(server::DETAILS)),
        ("The acting primary, as a tool passes it on", of_tool(tools::RELAYED)),
        ("pg_rewind", of_tool(tools::REWIND)),
        ("pg_basebackup", of_tool(tools::BASE_BACKUP)),
        ("A connection, in front of any tool", of_tool(tools::LIBPQ)),
    ]
}

#[cfg(test)]
mod tests;
