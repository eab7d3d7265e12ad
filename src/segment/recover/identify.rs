//! Who the acting primary is in the replication protocol, which is also how a repair and its mirror are let in.

use std::time::Duration;

use super::{
    Work,
    fault::{Classified, Fault},
};
use greenplum::messages::{self, Tool};
use model::{FailureClass, Lsn, SystemIdentifier, Timeline};

/// What the source says in the replication protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    pub system_identifier: SystemIdentifier,
    pub timeline: Timeline,
    /// How far its log is flushed.
    pub at: Lsn,
}

/// It did not say so.
#[derive(Debug, thiserror::Error)]
#[error("the acting primary could not be identified: {said}")]
pub struct Unidentified {
    said: String,
    class: FailureClass,
}

impl Classified for Unidentified {
    fn class(&self) -> FailureClass {
        self.class
    }
}

/// System identifier, timeline and position, by the replication protocol: every version tells them so.
pub async fn identify(work: &Work) -> Result<Identified, Fault> {
    let source = &work.attempt.source;
    let conninfo = format!(
        "host={} port={} user={} dbname=postgres replication=true connect_timeout=10",
        source.address, source.port, work.login.user
    );
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-X", "-A", "-t", "-w", "-F", "|", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"])
        .env("PGPASSFILE", &work.passfile)
        .env("LC_ALL", "C") // its words are classified
        .envs(work.login.tls.libpq_environment())
        .kill_on_drop(true);
    let said = tokio::time::timeout(Duration::from_secs(30), psql.output()).await;
    let output = said.map_err(|_| unidentified("psql did not answer within 30 s"))?.map_err(|e| unidentified(&format!("psql: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| unidentified(&format!("{text}{}", String::from_utf8_lossy(&output.stderr))))
}

fn unidentified(why: &str) -> Fault {
    let lines: Vec<_> = why.lines().map(str::to_owned).collect();
    Unidentified { said: why.trim().to_owned(), class: not_identified(messages::of_tool(Tool::Psql, &lines)) }.into()
}

/// What libpq and the server refuse by name is that; whatever else kept it from answering, it is not ready.
fn not_identified(said: FailureClass) -> FailureClass {
    let named = [FailureClass::LoginRefused, FailureClass::TlsRefused, FailureClass::SlotActive];
    if named.contains(&said) { said } else { FailureClass::SourceNotReady }
}

fn parse(text: &str) -> Option<Identified> {
    let mut fields = text.trim().split('|');
    let system_identifier = fields.next()?.parse().ok()?;
    let timeline = Timeline(fields.next()?.parse().ok()?);
    Some(Identified { system_identifier, timeline, at: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_replication_is_called_one() {
        let class = |said: &str| unidentified(said).class;
        let no_entry =
            "psql: error: FATAL:  no pg_hba.conf entry for replication connection from host \"10.0.0.9\", user \"g\", no encryption";
        assert_eq!(class(no_entry), FailureClass::LoginRefused);
        assert_eq!(class("psql: FATAL:  must be superuser or replication role to start walsender"), FailureClass::LoginRefused);
        let full = "psql: FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)";
        assert_eq!(class(full), FailureClass::SlotActive);
        assert_eq!(class("psql: error: SSL error: certificate verify failed"), FailureClass::TlsRefused);
        for passing in ["psql: could not connect to server: Connection refused", "psql: FATAL:  the database system is starting up", "?"] {
            assert_eq!(class(passing), FailureClass::SourceNotReady, "{passing}");
        }
    }

    #[test]
    fn the_answer_of_identify_system_is_read() {
        let read = parse("7389204512345678901|2|0/40000A0|\n").unwrap();
        assert_eq!((read.timeline, read.at), (Timeline(2), Lsn(0x400_00A0)));
        assert!(parse("FATAL: no").is_none());
    }
}
