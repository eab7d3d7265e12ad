//! Asks the other side of a pair, by the page of its supervisor. A page is no proof: anybody on the network could serve one.
//! So it only ever keeps something from being started or killed, or has a mirror stopped; the one start that rests on it is
//! that of a primary without a coordinator to ask, whose peer says that it was not promoted.

use std::time::Duration;

use super::{
    config::Config,
    facts::{HoldsMore, PeerHere, PeerRole},
};
use crate::volume::token::Peer;
use model::{Begins, Content, InstanceState, Look, Page, Role, Row, SystemIdentifier, page::Shape};
use web;

/// A primary's start and a fence wait for its peer no longer than this.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Who the other side has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    pub peer: Peer,
    pub content: Content,
    /// Ours: both sides of a pair are copies of one database.
    pub system_identifier: Option<SystemIdentifier>,
}

impl Other {
    /// It is its page.
    ///
    /// # Errors
    /// What differs.
    fn has(&self, page: &Page, cluster: &str) -> Result<(), String> {
        let Self { peer, content, system_identifier } = self;
        let said = (page.cluster.as_str(), page.dbid, page.content, page.address.as_str(), page.port);
        if said != (cluster, Some(peer.dbid), Some(*content), peer.address.as_str(), peer.port) {
            return Err(format!("the page of {} is not that of dbid {} of content {content}", peer.address, peer.dbid));
        }
        match (page.system_identifier, system_identifier) {
            (Some(theirs), Some(ours)) if theirs != *ours => {
                Err(format!("the page of {} is of another database: its system identifier is {theirs}, ours {ours}", peer.address))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }
}

/// What the other side says of itself, beside one that `begins` as a primary, if it does.
pub async fn ask(config: &Config, other: Option<&Other>, begins: Option<&Begins>) -> Look<PeerHere> {
    let Some(other) = other else { return Look::Unknown("no peer was ever seen".into()) };
    match page_of_other(config, other).await {
        Look::Seen(page) => here(&page, begins),
        Look::Unknown(why) => Look::Unknown(why),
    }
}

/// The page of the other side.
pub async fn page_of_other(config: &Config, other: &Other) -> Look<Page> {
    match page(&other.peer.address, config).await {
        Look::Seen(page) => match other.has(&page, &config.cluster) {
            Ok(()) => Look::Seen(page),
            Err(why) => Look::Unknown(why),
        },
        unknown @ Look::Unknown(_) => unknown,
    }
}

/// What a copy that would follow holds, and whoever `begins` as its primary lacks.
pub fn lacks(page: &Page, begins: Option<&Begins>) -> Option<HoldsMore> {
    let begins = begins.filter(|_| page.shape == Shape::Mirror)?;
    let why = begins.lacks(&page.followed, page.reaches)?;
    let why = format!("dbid {} holds what this one lacks: {why}; was this one restored from an older copy?", shown(page));
    Some(HoldsMore { why, copy: page.followed.last().map(|last| last.nonce.clone()).unwrap_or_default() })
}

/// Why a page does not say yet what its copy holds: it has not looked, or takes itself for a receiver of one that is down.
pub fn unsettled(page: &Page, begins: Option<&Begins>) -> Option<String> {
    let copies = begins.is_some() && page.shape == Shape::Mirror && !page.followed.is_empty();
    let known = page.reaches.is_some() && !page.receiving;
    (copies && !known).then(|| format!("how far the log of dbid {} reaches is not known yet", shown(page)))
}

fn shown(page: &Page) -> String {
    page.dbid.map_or_else(|| "?".into(), |dbid| dbid.to_string())
}

fn here(page: &Page, begins: Option<&Begins>) -> Look<PeerHere> {
    let role = match (page.serves, page.shape) {
        (Some(Role::Primary), _) | (_, Shape::Primary) => PeerRole::Promoted,
        (Some(Role::Mirror), Shape::Mirror) => PeerRole::InRecovery,
        (None, Shape::Mirror) => PeerRole::Idle,
        (Some(Role::Mirror) | None, Shape::Unknown | Shape::Empty | Shape::Unusable) => {
            return Look::Unknown(format!("it says {}", page.state));
        }
    };
    let promotion = page.incarnations.last().filter(|last| Some(last.timeline) == page.timeline).map(|last| last.nonce.clone());
    let (holds_more, unsettled) = (lacks(page, begins), unsettled(page, begins));
    // One that takes itself for stale has given way, perhaps by a person's word.
    let alone = page.served_alone.as_ref().filter(|_| page.state != InstanceState::NeedsRecovery);
    let alone = alone.map(|incarnation| format!("{}@{incarnation}", shown(page)));
    Look::Seen(PeerHere { role, timeline: page.timeline, promotion, holds_more, unsettled, alone })
}

/// The page of the instance of this row.
pub async fn page_of(config: &Config, row: &Row) -> Look<Page> {
    match page(&row.address, config).await {
        Look::Seen(page) => match page.is_of(&config.cluster, row) {
            Ok(()) => Look::Seen(page),
            Err(why) => Look::Unknown(why),
        },
        unknown @ Look::Unknown(_) => unknown,
    }
}

/// Every instance of a cluster serves its page at the same port.
pub async fn page(host: &str, config: &Config) -> Look<Page> {
    match tokio::time::timeout(PATIENCE, web::read::page(host, config.listen.port())).await {
        Ok(page) => page.into(),
        Err(_) => Look::Unknown(format!("no page of {host} within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Dbid, Timeline,
        world::fixtures::{page, row},
    };

    fn other() -> Other {
        let peer = Peer { dbid: Dbid(2), address: "seg-2.gp".into(), port: 6000, in_sync: true };
        Other { peer, content: Content(0), system_identifier: Some(SystemIdentifier(7)) }
    }

    #[test]
    fn only_the_page_of_that_instance_and_of_that_database_counts() {
        let is = |change: fn(&mut Page)| {
            let mut page = page(&row("2:0ppsu"));
            change(&mut page);
            other().has(&page, "demo").is_ok()
        };
        assert!(is(|_| ()));
        assert!(is(|p| p.system_identifier = None), "its directory is empty");
        for wrong in [
            (|p: &mut Page| p.cluster = "other".into()) as fn(&mut Page),
            |p| p.dbid = Some(Dbid(3)),
            |p| p.content = Some(Content(1)),
            |p| p.address = "seg-3.gp".into(),
            |p| p.port = 7000,
            |p| p.system_identifier = Some(SystemIdentifier(8)),
        ] {
            assert!(!is(wrong));
        }
    }

    #[test]
    fn one_that_serves_alone_is_named_until_it_has_given_way() {
        let alone = |state| {
            let page = Page { served_alone: Some("n".into()), state, shape: Shape::Primary, ..page(&row("2:0ppnu")) };
            here(&page, None).seen().and_then(|peer| peer.alone.clone())
        };
        assert_eq!(alone(InstanceState::CatalogOutdated).as_deref(), Some("2@n"));
        assert_eq!(alone(InstanceState::NeedsRecovery), None);
    }

    #[test]
    fn what_it_could_open_as_counts_as_what_it_serves_as() {
        let says = |serves, shape| {
            let page = Page { serves, shape, timeline: Some(Timeline(2)), ..page(&row("2:0ppsu")) };
            here(&page, None).seen().map(|peer| peer.role)
        };
        assert_eq!(says(Some(Role::Primary), Shape::Primary), Some(PeerRole::Promoted));
        assert_eq!(says(None, Shape::Primary), Some(PeerRole::Promoted));
        assert_eq!(says(Some(Role::Primary), Shape::Mirror), Some(PeerRole::Promoted), "it has just been promoted");
        assert_eq!(says(Some(Role::Mirror), Shape::Mirror), Some(PeerRole::InRecovery));
        assert_eq!(says(None, Shape::Mirror), Some(PeerRole::Idle));
        assert_eq!(says(None, Shape::Empty), None);
    }
}
