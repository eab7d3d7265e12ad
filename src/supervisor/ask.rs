//! Asks the others: the coordinator for our row, the peer's supervisor whether it was promoted.
//! Short sessions only: a coordinator has a few hundred connections for everyone.

use std::{fmt, time::Duration};

use super::{
    config::Config,
    decide::{PeerHere, PrimaryHere, RowHere},
};
use crate::{
    greenplum::{
        Server, Session, replication,
        resolve::resolve,
        topology,
        wal::{self, Standing},
    },
    model::{Catalog, Content, Dbid, Look, Lsn, Role, Timeline, Unread, page::Shape},
    volume::token::Peer,
    web::read::page,
};

/// A mirror that FTS may have to promote is not kept from its start by a primary that hangs.
const PRIMARY_PATIENCE: Duration = Duration::from_secs(3);

pub use crate::greenplum::topology::Answer;

/// Why no coordinator's catalog is known: of each in its order, so that the first is the acting one's as a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRead(pub Vec<Unread>);

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Unread::why).collect::<Vec<_>>().join("; "))
    }
}

/// The catalog, from the coordinator on the highest timeline that answers in utility mode, never from one that is older
/// than what we have seen: an old coordinator that came back would have the acting primary fenced.
pub async fn catalog(config: &Config, seen: Timeline) -> Look<Answer, NotRead> {
    let servers = &config.coordinator;
    let answers = futures::future::join_all(servers.iter().map(|server| one(config, server))).await;
    let mut why = vec![];
    let mut newest: Option<Answer> = None;
    for (server, answer) in servers.iter().zip(answers) {
        match answer {
            Ok(answer) if answer.timeline < seen => {
                let why_older = format!("{server} is on timeline {}, older than {seen} which was seen before", answer.timeline);
                why.push(Unread::OldCoordinator { why: why_older });
            }
            Ok(answer) if newest.as_ref().is_none_or(|newest| newest.timeline < answer.timeline) => newest = Some(answer),
            Ok(_) => {}
            Err(error) => why.push(error),
        }
    }
    newest.map_or_else(|| Look::Unknown(NotRead(why)), Look::Seen)
}

async fn one(config: &Config, server: &Server) -> Result<Answer, Unread> {
    let login = config.login().map_err(|e| Unread::CredentialsMissing { why: e.to_string() })?;
    let session = Session::utility(server, &login, None).await.map_err(|e| e.unread())?;
    topology::read(&session).await.map_err(|e| e.unread())
}

/// Our row: that of this dbid *and* address, port and directory.
pub fn row_here(config: &Config, catalog: &Catalog, dbid: Option<Dbid>) -> RowHere {
    let directory = config.data_directory.to_string_lossy();
    let here = |row: &&crate::model::Row| row.address == config.address && row.port == config.port && row.datadir == directory;
    match (catalog.rows.iter().find(here), dbid) {
        (Some(row), Some(dbid)) if row.dbid != dbid => {
            RowHere::NotMine(format!("the catalog has dbid {} at this place, the directory says {dbid}", row.dbid))
        }
        (Some(row), _) => RowHere::Mine { role: row.role, in_sync: row.well() },
        (None, dbid) => {
            let elsewhere = dbid
                .and_then(|dbid| catalog.row(dbid))
                .map(|row| format!("; dbid {} lives at {}:{} {}", row.dbid, row.address, row.port, row.datadir));
            RowHere::NotMine(format!("no catalog row has {}:{} {directory}{}", config.address, config.port, elsewhere.unwrap_or_default()))
        }
    }
}

/// The other side of our pair, to be remembered for the time without a coordinator.
pub fn peer_of(catalog: &Catalog, content: Content, dbid: Dbid) -> Option<Peer> {
    let row = catalog.rows.iter().find(|row| row.content == content && row.dbid != dbid)?;
    Some(Peer { dbid: row.dbid, address: row.address.clone(), port: row.port, in_sync: row.well() })
}

/// Whether the acting primary of `content` has all of a log that reaches so far.
pub async fn primary(config: &Config, catalog: &Catalog, content: Content, reach: (Timeline, Lsn)) -> Look<PrimaryHere> {
    let Some(row) = catalog.rows.iter().find(|row| row.content == content && row.role == Role::Primary) else {
        return Look::Unknown(format!("content {content} has no primary"));
    };
    match tokio::time::timeout(PRIMARY_PATIENCE, position(config, row)).await {
        Ok(Ok((timeline, at))) => Look::Seen(beside(reach, (timeline, at), row.dbid)),
        Ok(Err(why)) => Look::Unknown(why),
        Err(_) => Look::Unknown(format!("dbid {} did not answer within {} s", row.dbid, PRIMARY_PATIENCE.as_secs())),
    }
}

fn beside((timeline, end): (Timeline, Lsn), (source, at): (Timeline, Lsn), dbid: Dbid) -> PrimaryHere {
    // Where timelines forked is no question here: only what is ahead is kept from following.
    if wal::standing(timeline, end, source, at, &[]) != Standing::Ahead {
        return PrimaryHere::HasAll;
    }
    PrimaryHere::Lacks(format!(
        "this mirror's log reaches {end} on timeline {timeline}, the acting primary, dbid {dbid}, is at {at} on timeline {source}: was it restored from an older copy?"
    ))
}

/// Timeline and position of what answers there as the instance of this row.
async fn position(config: &Config, row: &crate::model::Row) -> Result<(Timeline, Lsn), String> {
    let server = Server::new(&row.address, row.port);
    let login = config.login().map_err(|e| e.to_string())?;
    let session = Session::utility(&server, &login, None).await.map_err(|e| e.to_string())?;
    let source = replication::source(&session).await.map_err(|e| e.to_string())?;
    if source.dbid != row.dbid {
        return Err(format!("what answers at {server} is dbid {}, not {}", source.dbid, row.dbid));
    }
    let timeline = topology::timeline(&session).await.map_err(|e| e.to_string())?;
    Ok((timeline, replication::position(&session).await.map_err(|e| e.to_string())?))
}

/// What the peer's supervisor says: a peer that runs as a mirror was not promoted.
pub async fn peer(config: &Config, peer: Option<&Peer>) -> Look<PeerHere> {
    let Some(peer) = peer else { return Look::Unknown("no peer was ever seen".into()) };
    match page(&peer.address, config.listen.port()).await {
        Ok(page) if page.cluster != config.cluster || page.dbid != Some(peer.dbid) => {
            Look::Unknown(format!("the page of {} is not that of dbid {}", peer.address, peer.dbid))
        }
        Ok(page) if page.shape == Shape::Mirror && page.serves == Some(Role::Mirror) => Look::Seen(PeerHere::InRecovery),
        Ok(page) if page.serves == Some(Role::Primary) || page.shape == Shape::Primary => Look::Seen(PeerHere::Promoted),
        Ok(page) => Look::Unknown(format!("it says {:?}", page.state)),
        Err(error) => Look::Unknown(error.to_string()),
    }
}

/// What the other coordinator says: one that serves on a higher timeline has taken over. With no other there is nobody to ask.
pub async fn other_coordinator(config: &Config, timeline: Option<Timeline>) -> Look<PeerHere> {
    let own = resolve(&config.address).await.ok();
    let mut why = vec![];
    for server in &config.coordinator {
        let itself =
            server.port == config.port && (server.host == config.address || (own.is_some() && resolve(&server.host).await.ok() == own));
        if itself {
            continue;
        }
        match page(&server.host, config.listen.port()).await {
            Ok(page) if page.cluster != config.cluster => why.push(format!("the page of {} is of cluster '{}'", server.host, page.cluster)),
            Ok(page) => {
                let overtook = page.timeline.filter(|theirs| page.serves == Some(Role::Primary) && Some(*theirs) > timeline);
                if let Some(theirs) = overtook {
                    return Look::Seen(PeerHere::Overtook(theirs));
                }
            }
            Err(error) => why.push(error.to_string()),
        }
    }
    if why.is_empty() { Look::Seen(PeerHere::InRecovery) } else { Look::Unknown(why.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::world::fixtures::row, supervisor::config::fixtures::config};

    fn says(rows: &[&str], dbid: Option<i16>) -> RowHere {
        row_here(&config(), &Catalog { rows: rows.iter().map(|text| row(text)).collect() }, dbid.map(Dbid))
    }

    #[test]
    fn only_a_log_that_goes_on_where_the_primary_ends_is_ahead() {
        let beside = |timeline, end| beside((Timeline(timeline), Lsn(end)), (Timeline(2), Lsn(0x500)), Dbid(2));
        assert_eq!(beside(2, 0x500), PrimaryHere::HasAll);
        assert!(matches!(beside(2, 0x501), PrimaryHere::Lacks(why) if why.contains("0/501") && why.contains("0/500")));
        assert!(matches!(beside(3, 0x100), PrimaryHere::Lacks(_)), "a newer timeline");
        assert_eq!(beside(1, 0x900), PrimaryHere::HasAll, "it left that timeline: the server itself refuses what diverged");
    }

    #[test]
    fn a_row_is_ours_by_its_place_and_by_its_dbid() {
        let mine = |role, in_sync| RowHere::Mine { role, in_sync };
        assert_eq!(says(&["2:0ppsu", "5:0mmsu"], Some(5)), mine(Role::Mirror, true));
        assert_eq!(says(&["2:0mpnd", "5:0pmnu"], Some(5)), mine(Role::Primary, false));
        assert_eq!(says(&["2:0ppnu", "5:0mmnd"], None), mine(Role::Mirror, false), "an empty directory says no dbid");
        let other = says(&["2:0ppsu", "5:0mmsu"], Some(7));
        assert!(matches!(&other, RowHere::NotMine(why) if why.contains("dbid 5 at this place")), "{other:?}");
        let none = says(&["2:0ppsu", "6:0mmsu"], Some(6));
        assert!(matches!(&none, RowHere::NotMine(why) if why.contains("dbid 6 lives at seg-6.gp")), "{none:?}");
    }
}
