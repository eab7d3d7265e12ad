//! Rows, pages and attempts of tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "of tests")]

use jiff::Timestamp;

use crate::{Attempt, Content, Dbid, InstanceState, Mode, Page, Place, Repair, Role, Row, Status, SystemIdentifier, page::Shape};

/// Reads the notation of the field, `5:0mmnd`.
pub fn row(text: &str) -> Row {
    let (dbid, rest) = text.split_once(':').unwrap();
    let split = rest.len() - 4;
    let letters: Vec<char> = rest[split..].chars().collect();
    let dbid: i16 = dbid.parse().unwrap();
    Row {
        dbid: Dbid(dbid),
        content: Content(rest[..split].parse().unwrap()),
        role: Role::try_from(letters[0]).unwrap(),
        preferred_role: Role::try_from(letters[1]).unwrap(),
        mode: Mode::try_from(letters[2]).unwrap(),
        status: Status::try_from(letters[3]).unwrap(),
        port: 6000,
        hostname: format!("seg-{dbid}.gp"),
        address: format!("seg-{dbid}.gp"),
        datadir: "/data/gpseg".into(),
    }
}

pub const NOW: i64 = 1_800_000_000;

pub fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

pub fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds).unwrap()
}

pub fn page(row: &Row) -> Page {
    Page {
        dbid: Some(row.dbid),
        content: Some(row.content),
        state: InstanceState::Serving,
        shape: if row.role == Role::Primary { Shape::Primary } else { Shape::Mirror },
        serves: Some(row.role),
        receiving: row.role == Role::Mirror,
        system_identifier: Some(SystemIdentifier(7)),
        ..Page::first("demo", (&row.address, row.port, &row.datadir), ago(3600))
    }
}

/// The first attempt of a recovery of dbid 5 of content 0, whose acting primary is dbid 2.
pub fn attempt(repair: Repair) -> Attempt {
    Attempt {
        id: "mend-d5-a1".into(),
        cluster: "demo".into(),
        recovery: "mend".into(),
        number: 1,
        repair,
        content: Content(0),
        target: Place::from(&row("5:0mmnd")),
        source: Place::from(&row("2:0ppnu")),
        max_rate: None,
        recovery_uid: None,
        source_incarnations: vec![],
        source_followed: vec![],
        source_postmaster: None,
        waives_history: false,
    }
}
