//! A cluster of any size, as one look sees it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{
    Catalog, Content, Dbid, Instance, Look, Mode, Page, Role, Row, Source, Status, SystemIdentifier, Timeline, World,
    world::{PodSeen, Walsender},
};

pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// So many contents, of which so many percent have a mirror that is down and asks for a rewind.
pub fn of(contents: i16, percent_down: i16) -> World {
    let down = |content: i16| content % 100 < percent_down;
    let rows: Vec<Row> =
        (0..contents).flat_map(|content| [row(content, Role::Primary, down(content)), row(content, Role::Mirror, down(content))]).collect();
    World {
        instances: rows.iter().map(|row| (row.dbid, instance(row))).collect(),
        sources: (0..contents).map(|content| (Content(content), Look::Seen(source(content, down(content))))).collect(),
        selected: rows.len(),
        catalog: Look::Seen(Catalog { rows }),
        coordinator_timeline: Some(Timeline(1)),
        dispatch: Look::Unknown("not asked".into()),
        recoveries: vec![],
        unprobed: None,
        not_made: vec![],
        unreadable: vec![],
        at_work: Look::Seen(vec![]),
        cluster_uid: "0e6f5d0a-8f0e-4c53-9d43-5a1c2f1f1d10".into(),
        cluster_name: "demo".into(),
    }
}

fn row(content: i16, role: Role, pair_down: bool) -> Row {
    let (number, word) = match role {
        Role::Primary => (0, "primary"),
        Role::Mirror => (1, "mirror"),
    };
    let host = format!("gp-{word}-{content}.gp.demo.svc.cluster.local");
    Row {
        dbid: Dbid(2 + 2 * content + number),
        content: Content(content),
        role,
        preferred_role: role,
        mode: if pair_down { Mode::NotInSync } else { Mode::InSync },
        status: if pair_down && role == Role::Mirror { Status::Down } else { Status::Up },
        port: 6000,
        hostname: host.clone(),
        address: host,
        datadir: "/data/gpseg".into(),
    }
}

fn instance(row: &Row) -> Instance {
    Instance {
        pod: Look::Seen(PodSeen { name: row.address.clone(), ips: vec![address(row.dbid)], node: Some("n1".into()) }),
        job_lacks: None,
        contract: vec![],
        access_mode: None,
        page: Look::Seen(page(row)),
        unwell_since: (row.status == Status::Down).then(|| now() - SignedDuration::from_mins(5)),
        seen_promoted: row.role == Role::Primary,
        promoted_at: None,
        last_history: Some(now() - SignedDuration::from_mins(5)),
        written: Some(4),
        still: None,
        silent: None,
        deaf: None,
        unmarked: None,
        ended: None,
        ends_lately: 0,
        marked: None,
        node_lost: None,
        walsender: None,
    }
}

/// By its own format, so that a new field of the page need not be known here.
fn page(row: &Row) -> Page {
    let down = row.status == Status::Down;
    let mut page = BTreeMap::from([
        ("version", serde_json::json!(1)),
        ("cluster", "demo".into()),
        ("dbid", row.dbid.0.into()),
        ("content", row.content.0.into()),
        ("address", row.address.clone().into()),
        ("port", row.port.into()),
        ("dataDirectory", row.datadir.clone().into()),
        ("state", if down { "NeedsRecovery" } else { "Serving" }.into()),
        ("since", "2027-01-15T07:00:00Z".into()),
        ("detail", "".into()),
        ("shape", if row.role == Role::Primary || down { "Primary" } else { "Mirror" }.into()),
        ("receiving", (row.role == Role::Mirror && !down).into()),
        ("systemIdentifier", "7".into()),
    ]);
    if !down {
        page.insert("serves", serde_json::to_value(row.role).unwrap());
    }
    serde_json::from_value(serde_json::to_value(page).unwrap()).unwrap()
}

fn source(content: i16, pair_down: bool) -> Source {
    let walsender = Walsender {
        application_name: "gp_walreceiver".into(),
        state: "streaming".into(),
        client: Some(address(Dbid(3 + 2 * content))),
        pid: None,
        flush: None,
    };
    Source {
        dbid: Dbid(2 + 2 * content),
        content: Content(content),
        in_recovery: false,
        system_identifier: Some(SystemIdentifier(7)),
        walsenders: if pair_down { vec![] } else { vec![walsender] },
    }
}

fn address(dbid: Dbid) -> String {
    format!("10.1.{}.{}", dbid.0 / 250, dbid.0 % 250)
}
