//! Asks the coordinator for our row, and an acting primary whether it has all that its mirror has.
//! Short sessions only: a coordinator has a few hundred connections for everyone.

use std::{fmt, time::Duration};

use super::{
    config::Config,
    facts::{PrimaryHere, RowHere},
    history::{opens, other_history},
    others,
    peer::{self, Other},
    person::Allowed,
};
use crate::volume::token::Peer;
use greenplum::{
    Server, Session, replication,
    topology::{self, Scope},
    wal::{self, Standing},
};
use model::{
    Catalog, Content, Dbid, Incarnation, Lineage, Look, Lsn, Page, Reach, Row, SystemIdentifier, Timeline, Unread, incarnation::lineage,
};

/// A mirror that FTS may have to promote is not kept from its start by a primary that hangs.
const PRIMARY_PATIENCE: Duration = Duration::from_secs(3);

pub use greenplum::topology::Answer;

/// Why no coordinator's catalog is known: of each in its order, so that the first is the acting one's as a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRead(pub Vec<Unread>);

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Unread::why).collect::<Vec<_>>().join("; "))
    }
}

/// What this place knows already when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The highest timeline of a coordinator that was believed here.
    pub seen: Timeline,
    /// The system identifier of the coordinator's database, once it was learned.
    pub coordinator: Option<SystemIdentifier>,
    /// What a person has said of coordinators that counts no more.
    pub spent: Option<Allowed>,
    /// The rows that are needed.
    pub scope: Scope,
}

/// The catalog, from the coordinator on the highest timeline that answers in utility mode, never from one that is older
/// than what we have seen: an old coordinator that came back would have the acting primary fenced.
pub async fn catalog(config: &Config, known: Known) -> Look<Answer, NotRead> {
    let servers = &config.coordinator;
    let answers = futures::future::join_all(servers.iter().map(|server| one(config, server, known))).await;
    let mut why = vec![];
    let mut newest: Option<Answer> = None;
    for answer in answers {
        match answer {
            Ok(answer) if newest.as_ref().is_none_or(|newest| newest.timeline < answer.timeline) => newest = Some(answer),
            Ok(_) => {}
            Err(error) => why.push(error),
        }
    }
    newest.map_or_else(|| Look::Unknown(NotRead(why)), Look::Seen)
}

async fn one(config: &Config, server: &Server, known: Known) -> Result<Answer, Unread> {
    let login = config.login().map_err(|e| Unread::CredentialsMissing { why: e.to_string() })?;
    let session = Session::short(server, &login, None).await.map_err(|e| e.unread())?;
    let mut answer = topology::read_of(&session, known.scope).await.map_err(|e| e.unread())?;
    if answer.system_identifier.is_none() && (answer.timeline > known.seen || known.coordinator.is_none()) {
        answer.system_identifier = others::identity(config, server, answer.timeline).await;
    }
    believe(server, answer, known)
}

/// A timeline counts only with the system identifier of the coordinator's database: whatever else answers at that name for
/// a moment, a test cluster on a higher timeline, would have the real coordinator disbelieved for ever.
fn believe(server: &Server, answer: Answer, known: Known) -> Result<Answer, Unread> {
    let (now, seen) = (answer.timeline, known.seen);
    if now < seen {
        let how = Allowed::how(now, seen, known.spent);
        return Err(Unread::OldCoordinator {
            why: format!("{server} is on timeline {now}, older than {seen} which was seen before ({how})"),
        });
    }
    match (answer.system_identifier, known.coordinator) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(Unread::NotCoordinator {
            why: format!("{server} is another database: its system identifier is {theirs}, that of our coordinator {ours}"),
        }),
        (None, Some(ours)) if now > seen => Err(Unread::NotCoordinator {
            why: format!("{server} is on timeline {now}, and nothing shows that it is the database {ours} that was on {seen}"),
        }),
        (Some(_) | None, Some(_) | None) => Ok(answer),
    }
}

/// Our row: that of this dbid *and* address, port and directory. Unknown where it may be ours and does not say so readably: a
/// server that runs is not stopped for that.
pub fn row_here(config: &Config, catalog: &Catalog, dbid: Option<Dbid>) -> Look<RowHere> {
    let directory = config.data_directory.to_string_lossy();
    let here = |row: &&Row| row.address == config.address && row.port == config.port && row.datadir == directory;
    let may_be = |row: &&Row| dbid.is_none_or(|dbid| row.dbid == dbid) || here(row);
    let known = catalog.rows.iter().find(|row| here(row) && row.unread().is_none());
    let unread = catalog.rows.iter().filter(may_be).find_map(|row| Some((row.dbid, row.unread()?)));
    if let (None, Some((dbid, column))) = (known, unread) {
        return Look::Unknown(format!("the {column} of dbid {dbid} in gp_segment_configuration is no UTF-8; a person has to put it right"));
    }
    Look::Seen(match (known, dbid) {
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
    })
}

/// The other side of our pair, to be remembered for the time without a coordinator.
pub fn peer_of(catalog: &Catalog, content: Content, dbid: Dbid) -> Option<Peer> {
    let row = catalog.rows.iter().find(|row| row.content == content && row.dbid != dbid)?;
    Some(Peer { dbid: row.dbid, address: row.address.clone(), port: row.port, in_sync: row.well() })
}

/// A copy, as it stands on its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyHere {
    pub reaches: Reach,
    pub followed: Vec<Incarnation>,
}

/// Whether `primary`, the acting one as far as is known, has all of a log that reaches so far.
pub async fn primary(config: &Config, primary: &Other, copy: &CopyHere) -> Look<PrimaryHere> {
    let page = async { peer::page_of_other(config, primary).await };
    let position = tokio::time::timeout(PRIMARY_PATIENCE, position(config, &primary.peer));
    let dbid = primary.peer.dbid;
    match tokio::join!(position, page) {
        (Ok(Ok(at)), page) => Look::Seen(beside(copy, at, dbid, page)),
        (Ok(Err(why)), page) => by_page(copy, page.seen()).unwrap_or(Look::Unknown(why)),
        (Err(_), page) => by_page(copy, page.seen())
            .unwrap_or_else(|| Look::Unknown(format!("dbid {dbid} did not answer within {} s", PRIMARY_PATIENCE.as_secs()))),
    }
}

/// What the page of a primary that does not answer yet can say: only that it has another history, and only once it opens.
/// Whoever is about to begin one on an older copy shows that before it is started.
pub fn by_page(copy: &CopyHere, page: Option<&Page>) -> Option<Look<PrimaryHere>> {
    let page = page.filter(|page| opens(page))?;
    match lineage(&copy.followed, &page.incarnations, Some(copy.reaches)) {
        Lineage::Differs(why) => Some(Look::Seen(PrimaryHere::Lacks(other_history(page, &why)))),
        Lineage::Same | Lineage::Unknown(_) => None,
    }
}

/// Its position can only convict: one that was put back on an older copy is past it within moments. That it is the history
/// which this copy followed, its incarnations say.
fn beside(copy: &CopyHere, (source, at): (Timeline, Lsn), dbid: Dbid, page: Look<Page>) -> PrimaryHere {
    let CopyHere { reaches: Reach { timeline, end }, followed } = copy;
    // Where timelines forked is no question here: only what is ahead is kept from following.
    if wal::standing(*timeline, *end, source, at, &[]) == Standing::Ahead {
        return PrimaryHere::Lacks(format!(
            "this mirror's log reaches {end} on timeline {timeline}, the acting primary, dbid {dbid}, is at {at} on timeline {source}: was it restored from an older copy?"
        ));
    }
    let unproven = |why: String| PrimaryHere::Unproven(format!("which history the acting primary, dbid {dbid}, has is not known: {why}"));
    let page = match page {
        Look::Seen(page) => page,
        Look::Unknown(_) if followed.is_empty() => return PrimaryHere::HasAll,
        Look::Unknown(why) => return unproven(why),
    };
    match lineage(followed, &page.incarnations, Some(copy.reaches)) {
        Lineage::Same => PrimaryHere::HasAll,
        Lineage::Differs(why) => PrimaryHere::Lacks(other_history(&page, &why)),
        // Neither side has written down incarnations yet: the position is all that there is.
        Lineage::Unknown(_) if followed.is_empty() || page.incarnations.is_empty() => PrimaryHere::HasAll,
        Lineage::Unknown(why) => unproven(why),
    }
}

/// Timeline and position of what answers there as that instance.
async fn position(config: &Config, primary: &Peer) -> Result<(Timeline, Lsn), String> {
    let server = Server::new(&primary.address, primary.port);
    let login = config.login().map_err(|e| e.to_string())?;
    let session = Session::short(&server, &login, None).await.map_err(|e| e.to_string())?;
    let source = replication::source(&session).await.map_err(|e| e.to_string())?;
    if source.dbid != primary.dbid {
        return Err(format!("what answers at {server} is dbid {}, not {}", source.dbid, primary.dbid));
    }
    let timeline = topology::timeline(&session).await.map_err(|e| e.to_string())?;
    Ok((timeline, replication::position(&session).await.map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::config::fixtures::config;
    use model::{
        InstanceState, Role,
        page::Shape,
        world::fixtures::{page, row},
    };

    fn says(rows: &[&str], dbid: Option<i16>) -> RowHere {
        let said = row_here(&config(), &Catalog { rows: rows.iter().map(|text| row(text)).collect() }, dbid.map(Dbid));
        said.seen().cloned().unwrap()
    }

    fn chain(began: &[u64]) -> Vec<Incarnation> {
        let one = |(at, began): (usize, &u64)| Incarnation {
            number: at as u64 + 1,
            nonce: format!("{began:x}"),
            timeline: Timeline(2),
            began: Lsn(*began),
        };
        began.iter().enumerate().map(one).collect()
    }

    fn held(timeline: u32, end: u64, followed: &[u64], primarys: Option<&[u64]>) -> PrimaryHere {
        let page = primarys.map(|began| Page { incarnations: chain(began), ..page(&row("2:0ppnu")) });
        let reaches = Reach { timeline: Timeline(timeline), end: Lsn(end) };
        beside(
            &CopyHere { reaches, followed: chain(followed) },
            (Timeline(2), Lsn(0x500)),
            Dbid(2),
            page.map_or_else(|| Look::Unknown("silent".into()), Look::Seen),
        )
    }

    #[test]
    fn only_a_log_that_goes_on_where_the_primary_ends_is_ahead() {
        let beside = |timeline, end| held(timeline, end, &[], Some(&[]));
        assert_eq!(beside(2, 0x500), PrimaryHere::HasAll);
        assert!(matches!(beside(2, 0x501), PrimaryHere::Lacks(why) if why.contains("0/501") && why.contains("0/500")));
        assert!(matches!(beside(3, 0x100), PrimaryHere::Lacks(_)), "a newer timeline");
        assert_eq!(beside(1, 0x900), PrimaryHere::HasAll, "it left that timeline: the server itself refuses what diverged");
    }

    /// Its position says nothing: it has written past the end of its mirror since it was put back.
    #[test]
    fn a_primary_that_was_put_back_has_another_history_wherever_it_is_by_now() {
        assert_eq!(held(2, 0x300, &[0x100], Some(&[0x100])), PrimaryHere::HasAll);
        assert_eq!(held(2, 0x300, &[0x100], Some(&[0x100, 0x300])), PrimaryHere::HasAll, "started again, with all it had sent");
        let put_back = held(2, 0x300, &[0x100], Some(&[0x100, 0x200]));
        assert!(matches!(&put_back, PrimaryHere::Lacks(why) if why.contains("0/200")), "{put_back:?}");
    }

    /// Its mirror is all that is left, and has to run for FTS to promote it.
    #[test]
    fn a_primary_that_stays_closed_keeps_no_mirror_from_its_start() {
        let copy = CopyHere { reaches: Reach { timeline: Timeline(2), end: Lsn(0x300) }, followed: chain(&[0x100, 0x200]) };
        let by_page = |incarnations: &[u64], state, serves| {
            let page = Page { incarnations: chain(incarnations), state, serves, shape: Shape::Primary, ..page(&row("2:0ppsu")) };
            super::by_page(&copy, Some(&page))
        };
        assert_eq!(by_page(&[0x100], InstanceState::PutBack, None), None);
        assert_eq!(by_page(&[0x100], InstanceState::StayingDown, None), None);
        for (state, serves) in [(InstanceState::Starting, None), (InstanceState::Maintenance, Some(Role::Primary))] {
            assert!(matches!(by_page(&[0x100, 0x110], state, serves), Some(Look::Seen(PrimaryHere::Lacks(_)))), "{state:?}");
            assert_eq!(by_page(&[0x100, 0x200], state, serves), None, "{state:?}");
        }
    }

    #[test]
    fn without_incarnations_a_position_has_to_do_and_silence_is_no_answer() {
        for (followed, primarys) in [(&[][..], Some(&[][..])), (&[], None), (&[], Some(&[0x100][..])), (&[0x100], Some(&[]))] {
            assert_eq!(held(2, 0x300, followed, primarys), PrimaryHere::HasAll, "{followed:?} {primarys:?}");
        }
        assert!(matches!(held(2, 0x300, &[0x100], None), PrimaryHere::Unproven(_)));
    }

    /// A clone that was promoted thrice, or a test cluster, behind the coordinator's name for a moment.
    #[test]
    fn a_timeline_counts_with_the_coordinators_system_identifier_only() {
        let says = |seen, coordinator: Option<u64>, timeline, theirs: Option<u64>| {
            let known = Known { seen: Timeline(seen), coordinator: coordinator.map(SystemIdentifier), spent: None, scope: Scope::All };
            let answer =
                Answer { catalog: Catalog::default(), timeline: Timeline(timeline), system_identifier: theirs.map(SystemIdentifier) };
            believe(&Server::new("c", 1), answer, known).map(|_| ()).map_err(|unread| unread.name())
        };
        assert_eq!(says(3, Some(7), 3, Some(7)), Ok(()));
        assert_eq!(says(3, Some(7), 4, Some(7)), Ok(()), "it was activated");
        assert_eq!(says(3, Some(7), 9, Some(8)), Err("NotCoordinator"));
        assert_eq!(says(3, Some(7), 3, Some(8)), Err("NotCoordinator"));
        assert_eq!(says(3, Some(7), 9, None), Err("NotCoordinator"), "nothing shows whose it is");
        assert_eq!(says(3, Some(7), 3, None), Ok(()), "no higher than what is believed anyway");
        assert_eq!(says(3, Some(7), 2, Some(7)), Err("OldCoordinator"));
        assert_eq!(says(0, None, 2, None), Ok(()), "the first that is ever heard of");
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

    /// It would have been taken for an instance that the catalog does not know, and its server been stopped.
    #[test]
    fn a_row_that_cannot_be_read_is_not_known_to_be_ours_or_anothers() {
        let says = |bent: i16, dbid: Option<i16>| {
            let mut rows: Vec<_> = ["2:0ppsu", "5:0mmsu"].map(row).into();
            let bend = |row: &mut Row| row.datadir = format!("/data/{}", String::from_utf8_lossy(b"\xd6\xd0"));
            rows.iter_mut().filter(|row| row.dbid.0 == bent).for_each(bend);
            row_here(&config(), &Catalog { rows }, dbid.map(Dbid))
        };
        let unknown = says(5, Some(5));
        assert!(matches!(&unknown, Look::Unknown(why) if why.contains("the datadir of dbid 5")), "{unknown:?}");
        assert!(matches!(says(5, None), Look::Unknown(_)), "an empty directory may be its");
        assert!(matches!(says(2, Some(5)), Look::Seen(RowHere::Mine { .. })), "that of its primary is no matter here");
        assert!(matches!(says(2, Some(6)), Look::Seen(RowHere::NotMine(_))), "a row of another dbid can be read");
    }
}
