//! A small world of one healthy pair, bent by chained modifiers.
#![allow(clippy::return_self_not_must_use, clippy::unwrap_used, clippy::wildcard_imports, reason = "modifiers of test objects")]

use super::*;
use crate::{Repair, Role, Status};
pub use protocol::fixtures::*;

fn instance(row: &Row) -> Instance {
    Instance {
        pod: Look::Seen(PodSeen { name: format!("seg-{}", row.dbid), ips: vec![format!("10.0.0.{}", row.dbid)], node: Some("n1".into()) }),
        contract: vec![],
        access_mode: None,
        page: Look::Seen(page(row)),
        unwell_since: None,
        seen_promoted: row.role == Role::Primary,
        last_history: Some(ago(7200)),
        written: Some(1),
        still: None,
        silent: None,
        deaf: None,
        unmarked: None,
        ended: None,
        ends_lately: 0,
        marked: None,
        walsender: None,
        node_lost: None,
        job_lacks: None,
        promoted_at: (row.role != row.preferred_role && row.role == Role::Primary).then(|| ago(7200)),
    }
}

fn source(row: &Row, mirror: &Row) -> Source {
    Source {
        dbid: row.dbid,
        content: row.content,
        in_recovery: false,
        system_identifier: Some(SystemIdentifier(7)),
        walsenders: vec![walsender(mirror.dbid.0)],
    }
}

/// Of an acting primary that streams to this mirror.
pub fn walsender(mirror: i16) -> Walsender {
    Walsender {
        application_name: "gp_walreceiver".into(),
        state: "streaming".into(),
        client: Some(format!("10.0.0.{mirror}")),
        pid: None,
        flush: None,
    }
}

impl World {
    /// A world whose catalog has these rows, where everything answers.
    pub fn of(rows: &[&str]) -> Self {
        Self::of_rows(rows.iter().map(|text| row(text)).collect())
    }

    /// The same of rows that need not make sense.
    pub fn of_rows(rows: Vec<Row>) -> Self {
        let catalog = Catalog { rows };
        let mut sources = BTreeMap::new();
        for content in catalog.contents() {
            if let Ok(pair) = catalog.pair(content) {
                let mut source = source(pair.primary, pair.mirror);
                if pair.mirror.status == Status::Down {
                    source.walsenders.clear();
                }
                sources.insert(content, Look::Seen(source));
            }
        }
        Self {
            instances: catalog.rows.iter().map(|row| (row.dbid, instance(row))).collect(),
            dispatch: Look::Seen(catalog.contents()),
            coordinator_timeline: Some(Timeline(1)),
            selected: catalog.rows.len(),
            catalog: Look::Seen(catalog),
            sources,
            recoveries: vec![],
            unreadable: vec![],
            unprobed: None,
            not_made: vec![],
            at_work: Look::Seen(vec![]),
            cluster_uid: "uid".into(),
            cluster_name: "demo".into(),
        }
    }

    pub fn page(mut self, dbid: i16, change: impl FnOnce(&mut Page)) -> Self {
        if let Look::Seen(page) = &mut self.instances.get_mut(&Dbid(dbid)).unwrap().page {
            change(page);
        }
        self
    }

    /// No page of an instance came.
    pub fn silent(self, dbid: i16) -> Self {
        self.instance(dbid, |i| i.page = Look::Unknown(NoPage::Silent("no answer".into())))
    }

    /// The catalog could not be read.
    pub fn blind(mut self) -> Self {
        self.catalog = Look::Unknown(Unread::CoordinatorSilent { why: "timed out".into() });
        self
    }

    /// No selected pod is at an instance's address.
    pub fn without_pod(self, dbid: i16) -> Self {
        self.silent(dbid).instance(dbid, |i| {
            i.pod = Look::Unknown("no pod".into());
            i.contract = vec![ContractPoint::NoPod { address: "seg.gp".into() }];
        })
    }

    pub fn instance(mut self, dbid: i16, change: impl FnOnce(&mut Instance)) -> Self {
        change(self.instances.get_mut(&Dbid(dbid)).unwrap());
        self
    }

    pub fn down_for(self, dbid: i16, seconds: i64) -> Self {
        self.instance(dbid, |i| i.unwell_since = Some(ago(seconds)))
    }

    pub fn source(mut self, content: i16, look: Look<Source>) -> Self {
        self.sources.insert(Content(content), look);
        self
    }

    pub fn source_with(mut self, content: i16, change: impl FnOnce(&mut Source)) -> Self {
        if let Look::Seen(source) = self.sources.get_mut(&Content(content)).unwrap() {
            change(source);
        }
        self
    }

    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recoveries.push(recovery);
        self
    }
}

/// A recovery asked for by hand, not begun.
pub fn asked(name: &str, dbids: &[i16], wanted: Option<Repair>) -> Recovery {
    Recovery {
        name: name.into(),
        uid: format!("uid-of-{name}"),
        automatic: false,
        owner: None,
        targets: Targets::Dbids(dbids.iter().map(|d| Dbid(*d)).collect()),
        wanted,
        phase: Phase::Pending,
        deleting: false,
        follows: None,
        ended: None,
        instances: BTreeMap::new(),
    }
}

/// One whose first attempt at one instance is running.
pub fn running(name: &str, dbid: i16, content: i16, repair: Repair, state: JobState) -> Recovery {
    let mut recovery = asked(name, &[dbid], None);
    recovery.phase = Phase::Running;
    let instance = RecoveryInstance {
        phase: Phase::Running,
        attempt: 1,
        repair: Some(repair),
        attempt_started: Some(ago(20)),
        job: Some(JobView::new(&format!("{name}-a1"), state)),
        ..RecoveryInstance::untouched(Content(content))
    };
    recovery.instances.insert(Dbid(dbid), instance);
    recovery
}
