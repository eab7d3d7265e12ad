//! A mirror's directory under the row of a primary: FTS promotes it as soon as it runs.

use super::*;

fn under_primarys_row(peer: Look<PeerHere>) -> Facts {
    Facts { peer, ..facts(Shape::Mirror, row(Role::Primary, true)) }
}

fn other(change: impl FnOnce(&mut PeerHere)) -> Look<PeerHere> {
    let mut other =
        PeerHere { role: PeerRole::Promoted, timeline: Some(Timeline(1)), promotion: None, holds_more: None, unsettled: None, alone: None };
    change(&mut other);
    Look::Seen(other)
}

#[test]
fn it_starts_in_place_of_a_primary_that_is_lost_or_waited_for_it() {
    for peer in [Look::Unknown("silent".into()), other(|_| ()), other(|other| other.timeline = None)] {
        assert_eq!(says(&under_primarys_row(peer.clone())), "start", "{peer:?}");
    }
}

/// Its volume was put back to when it was the mirror: what followed it since holds what it has forgotten.
#[test]
fn it_stays_closed_beside_a_copy_that_followed_it_since() {
    let copy = |role| other(|other| (other.role, other.holds_more) = (role, Some(more("dbid 5 holds more"))));
    for role in [PeerRole::InRecovery, PeerRole::Idle] {
        assert_eq!(says(&under_primarys_row(copy(role))), "PutBack", "{role:?}");
        let not_in_sync = Facts { row: row(Role::Primary, false), ..under_primarys_row(copy(role)) };
        assert_eq!(says(&not_in_sync), "PutBack", "{role:?}: it was promoted once, so nobody has decided for this copy");
        let blind = Facts { row: Look::Unknown("no coordinator".into()), ..under_primarys_row(copy(role)) };
        assert_eq!(says(&blind), "PutBack", "{role:?}");
        assert_eq!(
            says(&Facts { not_replaced: not_replaced("n"), ..under_primarys_row(copy(role)) }),
            "start",
            "{role:?}: a person said so"
        );
    }
    let about_to_tell =
        || under_primarys_row(other(|other| (other.role, other.unsettled) = (PeerRole::InRecovery, Some("not yet".into()))));
    assert_eq!(says(&about_to_tell()), "WaitingForPeer");
    assert_eq!(says(&Facts { may_wait: false, ..about_to_tell() }), "start");
}

/// The catalog is one of before.
#[test]
fn it_is_not_opened_beside_a_primary_that_serves_alone_or_was_promoted_since() {
    assert_eq!(says(&under_primarys_row(other(|other| other.alone = Some("n".into())))), "CatalogOutdated");
    let running = watch(&under_primarys_row(other(|other| other.alone = Some("n".into()))));
    assert!(matches!(running, Watch::Stop(_)), "it was started before the catalog could be read: {running:?}");
    let blind = |peer| Facts { row: Look::Unknown("no coordinator".into()), ..under_primarys_row(peer) };
    assert_eq!(says(&blind(other(|other| other.alone = Some("n".into())))), "WaitingForCoordinator");
    assert_eq!(says(&blind(other(|_| ()))), "start", "the coordinator may be down for long");
    let newer = || under_primarys_row(other(|other| (other.timeline, other.promotion) = (Some(Timeline(2)), Some("p".into()))));
    assert_eq!(says(&newer()), "Replaced");
    assert_eq!(says(&Facts { not_replaced: not_replaced("p"), ..newer() }), "start");
    assert_eq!(says(&Facts { timeline: Some(Timeline(2)), ..newer() }), "start", "it has followed that one there");
}
