use jiff::Timestamp;

use super::*;
use crate::{
    supervisor::{facts::PeerHere, person::Word},
    volume::{Copy, Hold, Token, token::Replaced},
};
use model::{Dbid, Repair, Timeline};

fn mine() -> TokenState {
    TokenState::Mine(Box::new(Token::of_a_test()))
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
        other: Look::Unknown("silent".into()),
        primary: Look::Seen(PrimaryHere::HasAll),
        alone: Alone::Waits,
        not_replaced: Word::not_replaced(Some(Dbid(2)), &[]),
        replaced: Word::replaced(Some(Dbid(2)), &[]),
        served_alone: Look::Seen(None),
        was_in_sync: true,
        unusable: None,
        diverged: None,
        may_wait: true,
        allowed: None,
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
        Decision::Dispatch => "dispatch at once".into(),
        Decision::Replaced(_) => "replaced".into(),
        Decision::Stay(state, _) => format!("{state:?}"),
    }
}

/// Every row of the table.
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
        ("replaced", Shape::Primary, row(m, false)),
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
    facts.peer = peer(PeerRole::InRecovery, Some(1));
    assert_eq!(says(&facts), "start");
    facts.was_in_sync = false;
    assert_eq!(says(&facts), "WaitingForCoordinator");
    facts.peer = peer(PeerRole::Promoted, None);
    assert_eq!(says(&facts), "WaitingForPeer");
    (facts.peer, facts.was_in_sync, facts.token) = (peer(PeerRole::InRecovery, Some(1)), true, replaced());
    assert_eq!(says(&facts), "Replaced", "that it was replaced stands on its volume");
}

fn peer(role: PeerRole, timeline: Option<u32>) -> Look<PeerHere> {
    Look::Seen(PeerHere { role, timeline: timeline.map(Timeline), promotion: None, holds_more: None, unsettled: None, alone: None })
}

/// A claim was put back on an older copy while all was down: the mirror alone holds what was acknowledged since.
#[test]
fn a_primary_that_lacks_what_its_mirror_holds_stays_closed_where_that_can_be_promoted() {
    let holds_more = |role| {
        Look::Seen(PeerHere {
            role,
            timeline: Some(Timeline(1)),
            promotion: None,
            holds_more: Some(more("dbid 5 holds more")),
            unsettled: None,
            alone: None,
        })
    };
    for role in [PeerRole::InRecovery, PeerRole::Idle] {
        let with = |row| Facts { peer: holds_more(role), ..facts(Shape::Primary, row) };
        assert_eq!(says(&with(row(Role::Primary, true))), "PutBack", "{role:?}");
        assert_eq!(says(&with(row(Role::Primary, false))), "start", "{role:?}: FTS has decided for this one");
        assert_eq!(says(&with(Look::Unknown("no coordinator".into()))), "PutBack", "{role:?}");
        let of = |row, copy: &str| says(&Facts { not_replaced: not_replaced(copy), ..with(row) });
        assert_eq!(of(row(Role::Primary, true), &more("").copy), "start", "{role:?}: a person said so");
        assert_eq!(of(row(Role::Primary, true), "another"), "PutBack", "{role:?}: of another copy");
        assert_eq!(of(Look::Unknown("no coordinator".into()), "another"), "PutBack", "{role:?}");
    }
    let idle = Facts { peer: peer(PeerRole::Idle, Some(1)), ..facts(Shape::Primary, Look::Unknown("no coordinator".into())) };
    assert_eq!(says(&idle), "WaitingForPeer", "whether it was promoted, a directory does not say");
}

fn more(why: &str) -> HoldsMore {
    HoldsMore { why: why.into(), copy: "n".into() }
}

/// Its page answers, and does not say yet how far its log reaches: both started at once, or its receiver hangs.
#[test]
fn a_primary_waits_for_what_its_mirror_is_about_to_tell_but_not_for_ever() {
    let unsettled = Some("how far dbid 5 reaches is not known yet".into());
    let peer = Look::Seen(PeerHere {
        role: PeerRole::InRecovery,
        timeline: Some(Timeline(1)),
        promotion: None,
        holds_more: None,
        unsettled,
        alone: None,
    });
    for (row, over) in [(row(Role::Primary, true), "start"), (Look::Unknown("no coordinator".into()), "start")] {
        let waits = Facts { peer: peer.clone(), ..facts(Shape::Primary, row) };
        assert_eq!(says(&waits), "WaitingForPeer");
        assert_eq!(says(&Facts { may_wait: false, ..waits }), over);
    }
    let not_in_sync = Facts { peer, ..facts(Shape::Primary, row(Role::Primary, false)) };
    assert_eq!(says(&not_in_sync), "start");
}

#[test]
fn a_mirror_whose_primary_turns_out_to_have_another_history_is_stopped() {
    let lacks = || Look::Seen(PrimaryHere::Lacks("another history".into()));
    for row in [row(Role::Mirror, true), row(Role::Mirror, false), Look::Unknown("no coordinator".into())] {
        let running = |primary| watch(&Facts { primary, ..facts(Shape::Mirror, row.clone()) });
        assert!(matches!(running(lacks()), Watch::Stop(_)), "{row:?}");
        assert_eq!(running(Look::Seen(PrimaryHere::HasAll)), Watch::LetRun);
        assert_eq!(running(Look::Unknown("silent".into())), Watch::LetRun);
    }
    let promoted = facts(Shape::Primary, row(Role::Primary, true));
    assert_eq!(watch(&Facts { primary: lacks(), ..promoted }), Watch::LetRun, "it follows nobody any more");
}

/// What a person says of dbid 2.
fn not_replaced(evidence: &str) -> Word {
    Word::not_replaced(Some(Dbid(2)), &[format!("2@{evidence}")])
}

fn replaced() -> TokenState {
    let TokenState::Mine(token) = mine() else { unreachable!() };
    let replaced = Replaced { coordinator_timeline: Timeline(1), at: Timestamp::UNIX_EPOCH };
    TokenState::Mine(Box::new(Token { replaced: Some(replaced), ..*token }))
}

/// A standby coordinator whose catalog is from before the failover was activated: it calls the replaced one a primary.
#[test]
fn a_primary_that_was_replaced_is_not_opened_on_the_word_of_an_older_catalog() {
    let with = |token: TokenState, peer: Look<PeerHere>| says(&Facts { token, peer, ..facts(Shape::Primary, row(Role::Primary, true)) });
    let silent = || Look::Unknown("silent".into());
    assert_eq!(with(replaced(), silent()), "Replaced", "its volume remembers");
    assert_eq!(with(mine(), peer(PeerRole::Promoted, Some(2))), "Replaced", "the other side is on a higher timeline");
    assert_eq!(with(mine(), peer(PeerRole::Promoted, Some(1))), "start", "the stale one of the two");
    assert_eq!(with(mine(), peer(PeerRole::InRecovery, Some(1))), "start");
    assert_eq!(with(mine(), silent()), "start", "a silent side leaves it to the row");
    let lifted = |token, peer, evidence: &str| {
        says(&Facts { token, peer, not_replaced: not_replaced(evidence), ..facts(Shape::Primary, row(Role::Primary, true)) })
    };
    let at = Timestamp::UNIX_EPOCH.to_string();
    assert_eq!(lifted(replaced(), silent(), &at), "start", "a person said so");
    assert_eq!(lifted(replaced(), silent(), "2026-01-01T00:00:00Z"), "Replaced", "of another time");
    assert_eq!(lifted(mine(), peer(PeerRole::Promoted, Some(2)), "timeline-2"), "start");
    assert_eq!(lifted(mine(), peer(PeerRole::Promoted, Some(3)), "timeline-2"), "Replaced", "of the promotion before");
    let again = |nonce: &str| PeerHere { promotion: Some(nonce.into()), ..peer(PeerRole::Promoted, Some(2)).seen().unwrap().clone() };
    assert_eq!(lifted(mine(), Look::Seen(again("n7")), "n7"), "start");
    for stale in ["n6", "timeline-2"] {
        assert_eq!(lifted(mine(), Look::Seen(again("n7")), stale), "Replaced", "of an earlier promotion to the same timeline");
    }
    assert_eq!(lifted(replaced(), peer(PeerRole::Promoted, Some(2)), "timeline-2"), "Replaced", "both have to be lifted");
}

#[test]
fn a_primary_on_the_higher_timeline_is_neither_killed_nor_called_stale_by_a_catalog_alone() {
    let with = |peer: Look<PeerHere>| {
        let facts = Facts { timeline: Some(Timeline(2)), peer, ..facts(Shape::Primary, row(Role::Mirror, false)) };
        (says(&facts), watch(&facts))
    };
    let (down, running) = with(peer(PeerRole::Promoted, Some(1)));
    assert_eq!(down, "CatalogOutdated");
    assert!(matches!(running, Watch::NotOverruled(why) if why.contains("timeline 2")));
    for peer in [
        peer(PeerRole::Promoted, Some(2)),
        peer(PeerRole::Promoted, Some(3)),
        peer(PeerRole::InRecovery, None),
        Look::Unknown("silent".into()),
    ] {
        let (down, running) = with(peer.clone());
        assert_eq!(down, "replaced", "{peer:?}");
        assert!(matches!(running, Watch::Fence(_)), "{peer:?}: the row decides");
    }
}

/// The other side is behind on the same timeline, promoted from there on a higher one, down, or silent: by none of that it shows.
#[test]
fn a_primary_that_served_alone_is_neither_killed_nor_called_stale_by_a_catalog_alone() {
    let alone = |incarnation: &str| Look::Seen(Some(incarnation.to_owned()));
    let calls_it_mirror = |peer| Facts { served_alone: alone("n"), peer, ..facts(Shape::Primary, row(Role::Mirror, true)) };
    let said = |facts: &Facts| (says(facts), watch(facts));
    for other in [
        peer(PeerRole::InRecovery, Some(1)),
        peer(PeerRole::Promoted, Some(1)),
        peer(PeerRole::Promoted, Some(2)),
        peer(PeerRole::Idle, Some(1)),
        Look::Unknown("silent".into()),
    ] {
        let (down, running) = said(&calls_it_mirror(other.clone()));
        assert_eq!(down, "CatalogOutdated", "{other:?}");
        assert!(matches!(&running, Watch::NotOverruled(why) if why.contains("gpheal.io/replaced=2@n")), "{other:?}: {running:?}");
    }
    let silent = || calls_it_mirror(Look::Unknown("silent".into()));
    let word = |incarnation: &str| Word::replaced(Some(Dbid(2)), &[format!("2@{incarnation}")]);
    let stale = |facts: Facts, why: &str| {
        let (down, running) = said(&facts);
        assert!(down == "replaced" && matches!(running, Watch::Fence(_)), "{why}: {down}");
    };
    stale(Facts { replaced: word("n"), ..silent() }, "a person says that it was replaced");
    stale(Facts { token: replaced(), ..silent() }, "and its volume remembers that");
    stale(Facts { served_alone: Look::Seen(None), ..silent() }, "its commits waited for the mirror that was promoted");
    assert_eq!(says(&Facts { replaced: word("another"), ..silent() }), "CatalogOutdated", "a person spoke of another time");
    let holds_more = PeerHere {
        role: PeerRole::InRecovery,
        timeline: None,
        promotion: None,
        holds_more: Some(more("dbid 5 holds more")),
        unsettled: None,
        alone: None,
    };
    assert_eq!(says(&calls_it_mirror(Look::Seen(holds_more))), "replaced", "its settings are as old as the copy that it was put back on");
}

#[test]
fn whether_it_served_alone_is_not_known_leaves_it_to_the_row_and_is_told() {
    let unread = Facts { served_alone: Look::Unknown("EIO".into()), ..facts(Shape::Primary, row(Role::Mirror, false)) };
    assert!(matches!(decide(&unread), Decision::Replaced(why) if why.ends_with("; EIO")));
    assert!(matches!(watch(&unread), Watch::Fence(why) if why.ends_with("; EIO")));
    let lost = Facts { row: row(Role::Primary, true), shape: Shape::Unusable, ..unread };
    assert_eq!(says(&lost), "StayingDown");
}

/// FTS that goes by an older catalog would promote what lacks the newest commits: that is nothing to wait for.
#[test]
fn a_lost_primary_that_served_alone_has_no_mirror_in_sync_whatever_the_catalog_says() {
    let lost = |served_alone| Facts { served_alone, ..facts(Shape::Unusable, row(Role::Primary, true)) };
    assert_eq!(says(&lost(Look::Seen(None))), "StayingDown");
    assert_eq!(says(&lost(Look::Seen(Some("n".into())))), "PrimaryDataMissing");
    let closed = |holds_more| {
        let other =
            PeerHere { role: PeerRole::InRecovery, timeline: Some(Timeline(1)), promotion: None, holds_more, unsettled: None, alone: None };
        says(&Facts { peer: Look::Seen(other), ..Facts { shape: Shape::Primary, ..lost(Look::Seen(Some("n".into()))) } })
    };
    assert_eq!((closed(None), closed(Some(more("dbid 5 holds more")))), ("start".into(), "PutBack".into()));
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
    facts.alone = Alone::Waited;
    assert_eq!(says(&facts), "start in two steps");
    facts.alone = Alone::Refuted("a segment has seen timeline 2".into());
    assert_eq!(says(&facts), "WaitingForPeer");
    facts.alone = Alone::InPlace;
    assert_eq!(says(&facts), "dispatch at once", "nobody can have been activated since");
    facts.other = Look::Seen(OtherHere::Overtook(Timeline(2)));
    assert_eq!(says(&facts), "WaitingForPeer", "but for one that was");
    (facts.alone, facts.other) = (Alone::Waits, Look::Seen(OtherHere::Behind));
    assert_eq!(says(&facts), "start in two steps");
    (facts.alone, facts.other) = (Alone::Waited, Look::Unknown("silent".into()));
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
fn what_cannot_be_looked_at_neither_starts_nor_stops_anything() {
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
    let unproven = || Look::Seen(PrimaryHere::Unproven("its page is silent".into()));
    assert_eq!(with(true, unproven()), "WaitingForPrimary", "its primary serves, so nobody needs it yet");
    let blind =
        |was_in_sync, primary| says(&Facts { primary, was_in_sync, ..facts(Shape::Mirror, Look::Unknown("no coordinator".into())) });
    assert_eq!(blind(true, lacks()), "NeedsRecovery", "without a coordinator, too");
    assert_eq!((blind(true, silent()).as_str(), blind(false, silent()).as_str()), ("start", "WaitingForPrimary"));
}

/// Asked while it runs, not only before it starts: two would dispatch for ever.
#[test]
fn a_running_coordinator_that_was_overtaken_is_fenced() {
    let mut facts = facts(Shape::Primary, Look::Unknown("itself".into()));
    facts.content = Some(Content::COORDINATOR);
    assert_eq!(watch(&facts), Watch::LetRun, "silence is not yes");
    facts.other = Look::Seen(OtherHere::Behind);
    assert_eq!(watch(&facts), Watch::LetRun);
    facts.other = Look::Seen(OtherHere::Overtook(Timeline(2)));
    assert!(matches!(watch(&facts), Watch::Fence(why) if why.contains("timeline 2")));
    facts.marks.maintenance = true;
    assert_eq!(watch(&facts), Watch::LetRun, "a person works here");
}

/// A read error that passed, a log that was away for a moment: it alone holds this content's commits, and it was never tried again.
#[test]
fn what_an_acting_primary_died_of_counts_only_until_its_back_off_is_over() {
    let (p, m) = (row(Role::Primary, false), row(Role::Mirror, false));
    let blind = || Look::Unknown("timed out".into());
    let counted = |row: &Look<RowHere>, shape, left| counts("no checkpoint", row, shape, Duration::from_secs(left));
    assert!(counted(&p, Shape::Primary, 4).is_some_and(|why| why.contains("tried again in 5 s")));
    assert_eq!(counted(&p, Shape::Primary, 0), None);
    assert_eq!(counted(&blind(), Shape::Primary, 0), None, "nobody says that another one serves");
    assert_eq!(counted(&m, Shape::Mirror, 0).as_deref(), Some("no checkpoint"), "a mirror is repaired");
    assert_eq!(counted(&blind(), Shape::Mirror, 0).as_deref(), Some("no checkpoint"));
}

#[path = "decide_coordinator_tests.rs"]
mod coordinators;
#[path = "promotion_tests.rs"]
mod promotion;
