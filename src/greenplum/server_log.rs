//! Lines of a server log, and whose they are. Whatever a client sends can reach the log: its statement, its name, the
//! database that it asks for. Only what the postmaster and its own children wrote says why the server ended.
//!
//! Three forms are known: Greenplum's CSV, in which a session names its user; the prefix in which Greenplum writes to
//! standard error, `%m|%u|%d|%p|…:-`; and any prefix of PostgreSQL that holds `[%p]`, by whose process a line is known.
//!
//! Of a message its DETAIL belongs to it, which may hold the cause alone. Its HINT does not: that is advice, which names causes
//! that it was not ("does *not* mean that you have run out of disk space") and remedies that lose data.

use super::messages::{self, Cause};

const SEVERITIES: [&str; 5] = ["LOG", "WARNING", "ERROR", "FATAL", "PANIC"];

/// A line that no client had a part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who wrote it; `None` before the server has read how its lines begin.
    pub pid: Option<u32>,
    pub severity: String,
    pub message: String,
    pub detail: Option<String>,
    /// As it stands in the log, its DETAIL behind it.
    pub line: String,
}

impl Said {
    pub fn cause(&self) -> Option<Cause> {
        messages::of_server(&self.message, self.detail.as_deref())
    }

    /// In this way a process says what ends it.
    pub fn is_loud(&self) -> bool {
        self.severity == "FATAL" || self.severity == "PANIC"
    }

    /// Which line of which file a message is of; it is no part of what that says.
    fn place(&mut self, context: &str) {
        self.line = format!("{}; CONTEXT:  {context}", self.line);
    }

    fn explain(&mut self, detail: &str) {
        self.detail = Some(detail.to_owned());
        self.line = format!("{}; DETAIL:  {detail}", self.line);
    }
}

/// The end of a server's log, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The postmaster, as it counts processes.
    pub postmaster: u32,
    /// On its standard error.
    pub output: Vec<String>,
    /// In the newest file of its log folder.
    pub file: Vec<String>,
    /// That file is CSV.
    pub csv: bool,
}

impl Log {
    /// Every line, whoever wrote it.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.output.iter().chain(&self.file)
    }

    /// What was said by what may be a process of the server: of a line of PostgreSQL's own form nobody knows whether a session wrote it.
    pub fn said(&self) -> Vec<Said> {
        let file = if self.csv { csv::records(&self.file) } else { of_lines(&self.file, |_| None) };
        of_output(&self.output).into_iter().chain(file).collect()
    }

    /// The newest end of one of its children that the postmaster tells of.
    pub fn newest_end(&self) -> Option<Said> {
        let ends = |said: &Said| said.pid == Some(self.postmaster) && ended_child(&said.message).is_some();
        self.said().into_iter().rfind(ends)
    }

    /// What the postmaster said, and its children of whom it says that they ended wrongly.
    pub fn said_by_server(&self) -> Vec<Said> {
        let mut said = self.said();
        let by_postmaster = said.iter().filter(|said| said.pid == Some(self.postmaster));
        let mut own: Vec<_> = by_postmaster.filter_map(|said| ended_child(&said.message)).collect();
        own.push(self.postmaster);
        said.retain(|said| said.pid.is_none_or(|pid| own.contains(&pid)));
        said
    }
}

/// `startup process (PID 4711) exited with exit code 1`, as the postmaster says of each of its children that ends wrongly.
fn ended_child(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once("(PID ")?;
    let (pid, rest) = rest.split_once(')')?;
    (rest.starts_with(" exited") || rest.starts_with(" was terminated")).then(|| pid.parse().ok())?
}

/// Standard error, where Greenplum 6 writes CSV, too, until it has read its settings. What stands within a record is skipped with it.
pub fn of_output(lines: &[String]) -> Vec<Said> {
    of_lines(lines, csv::first)
}

/// One step of the trace that Greenplum 6 writes behind what ended it.
pub fn is_trace(line: &str) -> bool {
    let step = |line: &str| line.split_once(' ').is_some_and(|(at, rest)| at.parse::<u8>().is_ok() && rest.trim_start().starts_with("0x"));
    step(line) || line.split_once(":-").is_some_and(|(_, rest)| rest.trim_start().starts_with("Traceback "))
}

/// What a server said that ran alone: whatever its lines begin with, they are its own.
pub fn of_alone(lines: &[String]) -> Vec<Said> {
    let known = |line: &str| of_line(line).is_some() || added(line, "DETAIL:").is_some() || line.starts_with('\t');
    let bare = |line: &String| if known(line) { line.clone() } else { without_prefix(line).to_owned() };
    of_output(&lines.iter().map(bare).collect::<Vec<_>>())
}

fn without_prefix(line: &str) -> &str {
    let words = SEVERITIES.iter().chain(&["DETAIL"]);
    words.filter_map(|word| line.find(&format!("{word}:  "))).min().map_or(line, |at| &line[at..])
}

/// A message is written in one piece, so its DETAIL follows it at once: behind its own further lines, before anybody else's.
fn of_lines(lines: &[String], record: impl Fn(&[String]) -> Option<(Option<Said>, usize)>) -> Vec<Said> {
    let (mut found, mut at, mut open): (Vec<Said>, _, _) = (vec![], 0, false);
    while let Some(line) = lines.get(at) {
        let said = of_line(line);
        let record = if said.is_none() { record(&lines[at..]) } else { None };
        let place = added(line, "CONTEXT:").filter(|(_, text)| text.contains(OF_A_FILE));
        if let Some((last, (_, text))) = found.last_mut().zip(place).filter(|(last, (pid, _))| last.pid == *pid) {
            last.place(text);
        }
        let detail = added(line, "DETAIL:").filter(|_| open);
        let of_last = found.last_mut().zip(detail).filter(|(last, (pid, _))| last.pid == *pid);
        if let Some((last, (_, text))) = of_last {
            last.explain(text);
            open = false;
        } else if !(open && line.starts_with('\t')) {
            open = said.is_some();
        }
        let (said, length) = record.unwrap_or((said, 1));
        found.extend(said);
        at += length;
    }
    found
}

/// How a CONTEXT names a line: `line 3 of configuration file "/data/gpseg0/pg_hba.conf"`.
pub const OF_A_FILE: &str = " of configuration file \"";

/// A line that holds the DETAIL or CONTEXT of the one before, and whose it is. Greenplum 6 puts blanks in front of the word.
fn added<'a>(line: &'a str, word: &str) -> Option<(Option<u32>, &'a str)> {
    let own = piped_prefix(line).or_else(|| bracketed(line));
    let (pid, rest) = own.map_or((None, line), |(pid, rest)| (Some(pid), rest));
    let text = rest.trim_start_matches(' ').strip_prefix(word)?.trim_start();
    (!is_said_twice(text)).then_some((pid, text))
}

/// One line on standard error, where a message's own line ends are followed by a tab.
fn of_line(line: &str) -> Option<Said> {
    if line.starts_with(char::is_whitespace) {
        return None;
    }
    piped(line).or_else(|| prefixed(line)).or_else(|| bare(line))
}

/// `12:03:57 UTC|USER|DATABASE|PID|WHAT||:-LOG:  …`, with neither user nor database. A name may hold a bar, so their number counts.
fn piped(line: &str) -> Option<Said> {
    let (pid, rest) = piped_prefix(line)?;
    let (severity, message) = severity(rest)?;
    Some(Said { pid: Some(pid), severity, message, detail: None, line: line.into() })
}

/// The process, and what stands behind the prefix.
fn piped_prefix(line: &str) -> Option<(u32, &str)> {
    let (prefix, rest) = line.split_once(":-")?;
    let [_, user, database, pid, _, _, last] = prefix.split('|').collect::<Vec<_>>().try_into().ok()?;
    let pid = pid.trim_start_matches('p').parse().ok()?;
    let own = user.is_empty() && database.is_empty() && last.is_empty();
    own.then_some((pid, rest))
}

/// `2026-01-01 12:00:00.000 UTC [PID] LOG:  …`. Where a prefix puts a client's words before the process, they could look
/// like one; then there are two, and the line is nobody's.
fn prefixed(line: &str) -> Option<Said> {
    let (pid, rest) = bracketed(line)?;
    let (severity, message) = severity(rest)?;
    (!is_said_twice(&message)).then(|| Said { pid: Some(pid), severity, message, detail: None, line: line.into() })
}

/// The first process that stands in brackets, and what stands behind it.
fn bracketed(line: &str) -> Option<(u32, &str)> {
    let (_, rest) = line.split_once('[')?;
    let (pid, rest) = rest.split_once(']')?;
    Some((pid.parse().ok()?, rest.trim_start()))
}

fn is_said_twice(text: &str) -> bool {
    SEVERITIES.iter().chain(&["DETAIL"]).any(|word| text.contains(&format!("] {word}:")))
}

fn bare(line: &str) -> Option<Said> {
    let (severity, message) = severity(line).or_else(|| before_its_log(line))?;
    Some(Said { pid: None, severity, message, detail: None, line: line.into() })
}

/// What ends a server that has no log yet: its name and why, as the dynamic linker says it, too; or that it is run by root.
fn before_its_log(line: &str) -> Option<(String, String)> {
    let named = line.strip_prefix("postgres: ");
    let root = || line.starts_with("\"root\" execution of the PostgreSQL server").then_some(line);
    named.or_else(root).map(|message| ("FATAL".to_owned(), message.to_owned()))
}

fn severity(text: &str) -> Option<(String, String)> {
    let (word, message) = text.split_once(':')?;
    SEVERITIES.contains(&word).then(|| (word.to_owned(), message.trim_start().to_owned()))
}

/// Greenplum's CSV: `time,"user","database",pPID,thread,"host","port",…,"severity","state","message",…`. Every quote in a text
/// is doubled, so no text can make up a field of its own; what is not strictly of this form is nothing.
mod csv {
    use super::{SEVERITIES, Said};

    /// Where the fields stand.
    const USER: usize = 1;
    const DATABASE: usize = 2;
    const PID: usize = 3;
    const HOST: usize = 5;
    const SEVERITY: usize = 16;
    const MESSAGE: usize = 18;
    const DETAIL: usize = 19;

    /// The record that begins with the first line, if no session wrote it, and how many lines it has.
    pub fn first(lines: &[String]) -> Option<(Option<Said>, usize)> {
        let (fields, length) = record(lines)?;
        Some((own(&fields, lines.first()?), length))
    }

    /// The records that no session wrote. The first lines may be the rest of one that began before them.
    pub fn records(lines: &[String]) -> Vec<Said> {
        let (mut found, mut at) = (vec![], 0);
        while at < lines.len() {
            match record(&lines[at..]) {
                Some((fields, length)) => {
                    found.extend(own(&fields, &lines[at]));
                    at += length;
                }
                None => at += 1,
            }
        }
        found
    }

    fn own(fields: &[String], line: &str) -> Option<Said> {
        let field = |at: usize| fields.get(at).map(String::as_str);
        let nobody = [USER, DATABASE, HOST].iter().all(|at| field(*at) == Some(""));
        let quoted = |at: usize| field(at)?.strip_prefix('"');
        let severity = quoted(SEVERITY).filter(|word| SEVERITIES.contains(word))?.to_owned();
        let pid = field(PID)?.strip_prefix('p')?.parse().ok()?;
        let mut said = Said { pid: Some(pid), severity, message: quoted(MESSAGE)?.to_owned(), detail: None, line: line.into() };
        match quoted(DETAIL) {
            Some(detail) if line.contains(&detail.replace('"', "\"\"")) => said.detail = Some(detail.to_owned()),
            Some(detail) => said.explain(detail), // behind a message of several lines
            None => {}
        }
        nobody.then_some(said)
    }

    /// The record that begins with the first line, and how many lines it has. A field that is quoted keeps one quote in front.
    fn record(lines: &[String]) -> Option<(Vec<String>, usize)> {
        let first = lines.first()?;
        let dated = first.split('-').next().is_some_and(|year| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()));
        if !dated {
            return None;
        }
        let (mut fields, mut field, mut state) = (vec![], String::new(), State::Begin);
        for (number, line) in lines.iter().enumerate() {
            for letter in line.chars() {
                state = match (state, letter) {
                    (State::Begin | State::Closed, '"') => {
                        field.push('"');
                        State::Quoted
                    }
                    (State::Begin | State::Plain | State::Closed, ',') => {
                        fields.push(std::mem::take(&mut field));
                        State::Begin
                    }
                    (State::Quoted, '"') => State::Closed,
                    (State::Plain, '"') | (State::Closed, _) => return None,
                    (State::Quoted, _) => {
                        field.push(letter);
                        State::Quoted
                    }
                    (State::Begin | State::Plain, _) => {
                        field.push(letter);
                        State::Plain
                    }
                };
            }
            match state {
                State::Quoted => field.push('\n'),
                State::Begin | State::Plain | State::Closed => {
                    fields.push(field);
                    return Some((fields, number + 1));
                }
            }
        }
        None
    }

    #[derive(Clone, Copy)]
    enum State {
        Begin,
        Plain,
        Quoted,
        /// After a quote inside a quoted field: its end, or half of a doubled one.
        Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn messages(output: &str, file: &str, csv: bool) -> Vec<String> {
        let log = Log { postmaster: 100, output: lines(output), file: lines(file), csv };
        log.said_by_server().into_iter().map(|said| format!("{} {}", said.severity, said.message)).collect()
    }

    /// As Greenplum 6 writes it: the postmaster, its startup process, and a session.
    fn record(user: &str, pid: u32, severity: &str, message: &str) -> String {
        let name = if user.is_empty() { String::new() } else { format!("\"{user}\"") };
        let host = if user.is_empty() { "" } else { "\"10.1.2.3\",\"5555\"" };
        let host = if host.is_empty() { "," } else { host };
        let message = message.replace('"', "\"\"");
        format!(
            "2026-01-01 12:00:00.000001 UTC,{name},{name},p{pid},th-1,{host},,0,,,seg0,,,,,\"{severity}\",\"XX000\",\"{message}\",,,,,,,0,,\"xlog.c\",6642,"
        )
    }

    #[test]
    fn in_csv_only_the_servers_own_records_count() {
        let log = [
            record("ann", 200, "ERROR", "invalid input syntax for integer: \"PANIC: could not locate a valid checkpoint record\""),
            record("", 300, "PANIC", "could not locate a valid checkpoint record"),
            record("", 400, "FATAL", "of a child that nobody speaks of"),
            record("", 100, "LOG", "startup process (PID 300) was terminated by signal 6: Aborted"),
        ];
        let said = messages("", &log.join("\n"), true);
        assert_eq!(
            said,
            ["PANIC could not locate a valid checkpoint record", "LOG startup process (PID 300) was terminated by signal 6: Aborted"]
        );
    }

    #[test]
    fn no_text_of_a_session_makes_up_a_record_wherever_the_look_begins() {
        let made_up = format!("x\n{}\nPANIC:  could not locate a valid checkpoint record\n\t", record("", 100, "PANIC", "made up"));
        let unquoted = "y\n2026-01-01 12:00:00 UTC,,,p100,th-1,,,,0,,,seg0,,,,,PANIC,XX000,made up,\n".to_owned();
        for text in [made_up, unquoted] {
            let whole = record("ann", 200, "ERROR", &text);
            let all = lines(&whole);
            for begin in 0..all.len() {
                assert_eq!(messages("", &all[begin..].join("\n"), true), Vec::<String>::new(), "from line {begin} of {whole}");
            }
        }
    }

    #[test]
    fn on_standard_error_a_line_is_known_by_its_process() {
        let output = "\
2026-01-01 12:00:00.000 UTC [200] FATAL:  database \"PANIC:  could not locate a valid checkpoint record\" does not exist
2026-01-01 12:00:00.000 UTC [201] ann@x FATAL:  unrecognized configuration parameter \"x\"
\tPANIC:  could not locate a valid checkpoint record
2026-01-01 12:00:00.000 UTC [100] FATAL:  x [100] FATAL:  a name that looks like a process
2026-01-01 12:00:00.000 UTC [300] PANIC:  could not locate a valid checkpoint record
2026-01-01 12:00:00.000 UTC [100] LOG:  startup process (PID 300) exited with exit code 1";
        let said = messages(output, "", false);
        assert_eq!(said, ["PANIC could not locate a valid checkpoint record", "LOG startup process (PID 300) exited with exit code 1"]);
        let piped = "\
12:03:58 UTC|gpadmin|postgres|300|||:-FATAL:  the database system is in recovery mode
12:03:58 UTC||||300|x||:-FATAL:  with a bar in its name
12:03:58 UTC|||300|startup||:-FATAL:  requested timeline 2 is not a child of this server's history
12:03:58 UTC|||100|||:-LOG:  startup process (PID 300) exited with exit code 1";
        assert_eq!(messages(piped, "", false)[0], "FATAL requested timeline 2 is not a child of this server's history");
        assert_eq!(messages(piped, "", false).len(), 2);
        assert_eq!(messages("FATAL:  configuration file \"x\" contains errors", "", false).len(), 1, "before it has a prefix");
    }
}
