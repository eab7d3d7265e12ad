use jiff::Timestamp;

use super::*;
use crate::{
    model::{Dbid, Repair, SystemIdentifier, Timeline},
    volume::{Copy, Hold, Token},
};

fn mine() -> TokenState {
    TokenState::Mine(Box::new(Token {
        cluster: "demo".into(),
        system_identifier: SystemIdentifier(7),
        dbid: Dbid(5),
        content: Content(0),
        address: "a".into(),
        port: 1,
        data_directory: "/data/gpseg".into(),
        coordinator_timeline: Timeline(1),
        peer: None,
        followed: vec![],
        replaced: None,
        coordinator: None,
        adopted: Timestamp::UNIX_EPOCH,
    }))
}

fn row(role: Role, in_sync: bool) -> Look<RowHere> {
    Look::Seen(RowHere::Mine { role, in_sync })
}

fn facts(shape: Shape, row: Look<RowHere>) -> Facts {
    Facts {
        marks: Marks::default(),
        token: mine(),
        shape,
        shape_why: "why".into(),
        content: Some(Content(0)),
        timeline: Some(Timeline(1)),
        row,
        peer: Look::Unknown("silent".into()),
        primary: Look::Seen(PrimaryHere::HasAll),
        waited_for_peer: false,
        was_in_sync: true,
        unusable: None,
        diverged: None,
    }
}

fn hold() -> Hold {
    Hold { attempt: "a1".into(), dbid: Dbid(5), reason: "r".into(), heartbeat: Timestamp::UNIX_EPOCH }
}

fn copy() -> Copy {
    Copy { attempt: "a1".into(), repair: Repair::Full, since: Timestamp::UNIX_EPOCH }
}

/// `start` or the state in which it stays down.
fn says(facts: &Facts) -> String {
    match decide(facts) {
        Decision::Start => "start".into(),
        Decision::StartCoordinator => "start in two steps".into(),
        Decision::Stay(state, _) => format!("{state:?}"),
    }
}

/// Every row of the table in design §3.3.
#[test]
fn the_table_of_a_segment() {
    let (p, m) = (Role::Primary, Role::Mirror);
    let none = || Look::Seen(RowHere::NotMine("no row".into()));
    let blind = || Look::Unknown("timed out".into());
    for (expected, shape, row) in [
        ("NeedsFull", Shape::Empty, row(m, false)),
        ("NeedsFull", Shape::Unusable, row(m, false)),
        ("PrimaryDataMissing", Shape::Empty, row(p, false)),
        ("PrimaryDataMissing", Shape::Unusable, row(p, false)),
        ("StayingDown", Shape::Empty, row(p, true)),
        ("start", Shape::Primary, row(p, true)),
        ("start", Shape::Primary, row(p, false)),
        ("start", Shape::Mirror, row(p, false)),
        ("start", Shape::Mirror, row(m, true)),
        ("start", Shape::Mirror, row(m, false)),
        ("NeedsRecovery", Shape::Primary, row(m, false)),
        ("NotInCatalog", Shape::Primary, none()),
        ("NotInCatalog", Shape::Mirror, none()),
        ("NotInCatalog", Shape::Empty, none()),
        ("start", Shape::Mirror, blind()),
        ("WaitingForPeer", Shape::Primary, blind()),
        ("WaitingForCoordinator", Shape::Empty, blind()),
    ] {
        assert_eq!(says(&facts(shape, row.clone())), expected, "{shape:?} {row:?}");
    }
}

#[test]
fn marks_come_before_the_catalog() {
    for (shape, role) in [(Shape::Primary, Role::Primary), (Shape::Mirror, Role::Mirror)] {
        let with = |change: fn(&mut Marks)| {
            let mut facts = facts(shape, row(role, true));
            change(&mut facts.marks);
            says(&facts)
        };
        assert_eq!(with(|m| m.hold = Some(hold())), "Held");
        assert_eq!(with(|m| m.copy = Some(copy())), "CopyUnfinished");
        assert_eq!(with(|m| (m.copy, m.hold) = (Some(copy()), Some(hold()))), "Held");
        assert_eq!(with(|m| m.retired = true), "Retired");
        assert_eq!(with(|m| m.unreadable = Some("?".into())), "CopyUnfinished");
        assert_eq!(with(|m| (m.maintenance, m.retired) = (true, true)), "start");
    }
}

#[test]
fn a_volume_without_a_token_is_adopted_only_with_a_database_in_it() {
    let mut empty = facts(Shape::Empty, row(Role::Mirror, false));
    empty.token = TokenState::Absent;
    assert_eq!(says(&empty), "VolumeUnrecognised");
    let mut first = facts(Shape::Mirror, row(Role::Mirror, false));
    first.token = TokenState::Absent;
    assert_eq!(says(&first), "start");
    first.token = TokenState::Foreign("another's".into());
    assert_eq!(says(&first), "VolumeUnrecognised");
}

#[test]
fn without_a_coordinator_the_peer_decides_and_silence_is_not_yes() {
    let mut facts = facts(Shape::Primary, Look::Unknown("gone".into()));
    facts.peer = Look::Seen(PeerHere::InRecovery);
    assert_eq!(says(&facts), "start");
    facts.was_in_sync = false;
    assert_eq!(says(&facts), "WaitingForCoordinator");
    facts.peer = Look::Seen(PeerHere::Promoted);
    assert_eq!(says(&facts), "WaitingForPeer");
}

#[test]
fn what_died_of_its_data_is_not_started_again() {
    let mut mirror = facts(Shape::Mirror, row(Role::Mirror, false));
    mirror.unusable = Some("no checkpoint".into());
    assert_eq!(says(&mirror), "NeedsFull");
    mirror.unusable = None;
    mirror.diverged = Some("another history".into());
    assert_eq!(says(&mirror), "NeedsRecovery");
    let mut primary = facts(Shape::Primary, row(Role::Primary, false));
    primary.unusable = Some("no checkpoint".into());
    assert_eq!(says(&primary), "PrimaryDataMissing");
}

#[test]
fn the_coordinator_asks_its_standby_only() {
    let mut facts = facts(Shape::Primary, Look::Unknown("itself".into()));
    facts.content = Some(Content::COORDINATOR);
    assert_eq!(says(&facts), "WaitingForPeer", "a silent standby may have taken over");
    facts.waited_for_peer = true;
    assert_eq!(says(&facts), "start in two steps");
    (facts.waited_for_peer, facts.peer) = (false, Look::Seen(PeerHere::InRecovery));
    assert_eq!(says(&facts), "start in two steps");
    facts.peer = Look::Seen(PeerHere::Overtook(Timeline(2)));
    assert_eq!(says(&facts), "WaitingForPeer");
    (facts.waited_for_peer, facts.peer) = (true, Look::Unknown("silent".into()));
    facts.timeline = Some(Timeline(0));
    assert_eq!(says(&facts), "WaitingForPeer", "it was overtaken, as the token says, however long the other is silent");
    facts.shape = Shape::Mirror;
    assert_eq!(says(&facts), "start", "it was made the other one's standby");
    facts.shape = Shape::Empty;
    assert_eq!(says(&facts), "PrimaryDataMissing");
}

#[test]
fn a_running_postgres_is_fenced_held_or_left_alone() {
    let (p, m) = (Role::Primary, Role::Mirror);
    let watched = |row: Look<RowHere>, read_write: bool, held: bool| {
        let mut facts = facts(if read_write { Shape::Primary } else { Shape::Mirror }, row);
        facts.marks.hold = held.then(hold);
        watch(&facts)
    };
    assert_eq!(watched(row(p, true), true, false), Watch::LetRun);
    assert_eq!(watched(row(m, true), false, false), Watch::LetRun);
    assert!(matches!(watched(row(m, false), true, false), Watch::Fence(_)));
    assert!(matches!(watched(row(m, false), true, true), Watch::Fence(_)));
    assert_eq!(watched(row(m, false), false, true), Watch::Obey);
    assert!(matches!(watched(row(m, true), false, true), Watch::Disobey(_)), "it came back: it is redundancy that is there");
    assert!(matches!(watched(row(p, true), true, true), Watch::Disobey(_)), "a hold on the acting primary");
    assert!(matches!(watched(row(p, true), false, true), Watch::Disobey(_)), "a mirror that FTS is about to promote");
    assert_eq!(watched(Look::Unknown("gone".into()), false, true), Watch::LetRun, "unknown is not yes");
    assert_eq!(watched(Look::Unknown("gone".into()), true, false), Watch::LetRun);
}

/// Seen on the bed: a mirror that FTS had promoted was fenced by the row of a minute before.
#[test]
fn a_promoted_mirror_is_not_fenced_by_the_row_of_before() {
    let asked = Instant::now();
    let promoted = asked + std::time::Duration::from_secs(1);
    let old = row(Role::Mirror, true);
    let mut facts = facts(Shape::Primary, believed(&old, asked, promoted));
    assert_eq!(watch(&facts), Watch::LetRun);
    facts.row = believed(&old, promoted, promoted);
    assert!(matches!(watch(&facts), Watch::Fence(_)), "asked after it was opened, the same row is a stale primary's");
}

/// Seen on the bed: its marker had gone with all the rest, and it was told to run read-write.
#[test]
fn a_mirror_whose_directory_was_removed_is_ended_for_that() {
    let watched = |row| watch(&facts(Shape::Empty, row));
    let ended = watched(row(Role::Mirror, true));
    assert!(matches!(&ended, Watch::Kill(why) if why.contains("was removed")), "{ended:?}");
    assert_eq!(watched(row(Role::Primary, true)), Watch::LetRun, "it may hold commits that nobody else has");
    assert_eq!(watched(Look::Unknown("gone".into())), Watch::LetRun);
}

#[test]
fn what_can_not_be_looked_at_neither_starts_nor_stops_anything() {
    let mut facts = facts(Shape::Unknown, row(Role::Primary, true));
    assert_eq!(says(&facts), "Deciding");
    facts.shape = Shape::Primary;
    facts.marks.unknown = Some("too many open files".into());
    assert_eq!(says(&facts), "Deciding");
    assert_eq!(watch(&facts), Watch::LetRun);
}

#[test]
fn marks_stop_a_running_postgres_unless_a_person_works_there() {
    let watched = |change: fn(&mut Marks)| {
        let mut facts = facts(Shape::Mirror, row(Role::Mirror, false));
        change(&mut facts.marks);
        watch(&facts)
    };
    assert!(matches!(watched(|m| m.copy = Some(copy())), Watch::Stop(_)));
    assert!(matches!(watched(|m| m.retired = true), Watch::Stop(_)));
    assert!(matches!(watched(|m| m.unreadable = Some("?".into())), Watch::Stop(_)));
    assert_eq!(watched(|m| (m.retired, m.maintenance) = (true, true)), Watch::LetRun);
}

/// Seen on Greenplum 6: a mirror that was ahead of its restored primary by less than a segment streamed, and was called in sync.
#[test]
fn a_mirror_that_has_more_than_its_primary_does_not_follow_it() {
    let with = |in_sync: bool, primary: Look<PrimaryHere>| says(&Facts { primary, ..facts(Shape::Mirror, row(Role::Mirror, in_sync)) });
    let lacks = || Look::Seen(PrimaryHere::Lacks("0/9 against 0/5".into()));
    let silent = || Look::Unknown("refused".into());
    assert_eq!((with(true, lacks()).as_str(), with(false, lacks()).as_str()), ("NeedsRecovery", "NeedsRecovery"));
    assert_eq!(with(false, silent()), "WaitingForPrimary", "unknown is not yes");
    assert_eq!(with(true, silent()), "start", "FTS may have to promote it");
}
