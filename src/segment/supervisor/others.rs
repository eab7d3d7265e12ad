//! Asks the other coordinators whether one of them has taken over. A page only says whom to ask; that one was overtaken is
//! believed over SQL alone, from a database with our system identifier. When nobody can be asked, the segments are
//! witnesses: each of their volumes holds the highest timeline of a coordinator that it believed.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use super::{
    config::Config,
    facts::{OtherHere, RowHere},
    peer,
};
use greenplum::{Dialect, Server, Session, resolve::resolve, topology};
use model::{Begins, Catalog, Content, Look, Page, Role, SystemIdentifier, Timeline, page::Shape};

/// A database that its page calls a primary answers within this, or it is not known what it is.
const PATIENCE: Duration = Duration::from_secs(3);

/// The coordinator that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub timeline: Option<Timeline>,
    pub system_identifier: Option<SystemIdentifier>,
    /// Before it is opened as a primary.
    pub begins: Option<Begins>,
}

/// What the other coordinators say. With no other there is nobody who could have taken over.
pub async fn ask(config: &Config, own: &Own) -> Look<OtherHere> {
    let others = others(config).await;
    let said = futures::future::join_all(others.iter().map(|server| one(config, server, own))).await;
    together(said)
}

/// One that has taken over counts whatever the rest say; else all have to have said that they have not.
fn together(said: Vec<Look<OtherHere>>) -> Look<OtherHere> {
    let (mut silent, mut more, mut rivals) = (vec![], None, None);
    for one in said {
        match one {
            Look::Seen(OtherHere::Overtook(timeline)) => return Look::Seen(OtherHere::Overtook(timeline)),
            Look::Seen(OtherHere::Rivals(timeline)) => rivals = Some(timeline),
            Look::Seen(OtherHere::HoldsMore(why)) => more = Some(why),
            Look::Seen(OtherHere::Behind) => {}
            Look::Unknown(why) => silent.push(why),
        }
    }
    if let Some(timeline) = rivals {
        return Look::Seen(OtherHere::Rivals(timeline));
    }
    if let Some(why) = more {
        return Look::Seen(OtherHere::HoldsMore(why));
    }
    if silent.is_empty() { Look::Seen(OtherHere::Behind) } else { Look::Unknown(silent.join("; ")) }
}

/// All but this one, which may be named in another way.
async fn others(config: &Config) -> Vec<&Server> {
    let own = within(resolve(&config.address)).await;
    let mut others = vec![];
    for server in &config.coordinator {
        let same_port = server.port == config.port;
        let itself = same_port && (server.host == config.address || (own.is_some() && within(resolve(&server.host)).await == own));
        if !itself {
            others.push(server);
        }
    }
    others
}

async fn within<T, E>(question: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(peer::PATIENCE, question).await.ok()?.ok()
}

async fn one(config: &Config, server: &Server, own: &Own) -> Look<OtherHere> {
    let page = match page_of(config, server).await {
        Look::Seen(page) => page,
        Look::Unknown(why) => return Look::Unknown(why),
    };
    if page.system_identifier.is_some() && own.system_identifier.is_some() && page.system_identifier != own.system_identifier {
        return Look::Unknown(format!("the page of {server} is of another database"));
    }
    if page.serves == Some(Role::Primary) {
        return tokio::time::timeout(PATIENCE, asked(config, server, &page, own))
            .await
            .unwrap_or_else(|_| Look::Unknown(format!("{server} serves as a primary, as its page says, and does not answer")));
    }
    idle(server, &page, own)
}

/// Its postgres takes no writes now.
fn idle(server: &Server, page: &Page, own: &Own) -> Look<OtherHere> {
    if let Some(why) = peer::lacks(page, own.begins.as_ref()) {
        return Look::Seen(OtherHere::HoldsMore(why));
    }
    if let Some(why) = peer::unsettled(page, own.begins.as_ref()) {
        return Look::Unknown(why);
    }
    match page.shape {
        Shape::Primary if page.timeline > own.timeline => {
            Look::Unknown(format!("the directory of {server} is on a higher timeline than this one's, as its page says, and it is down"))
        }
        Shape::Primary | Shape::Mirror | Shape::Empty | Shape::Unusable => Look::Seen(OtherHere::Behind),
        Shape::Unknown => Look::Unknown(format!("the page of {server} does not know what its directory is")),
    }
}

/// Asks the database itself: a page is no proof.
async fn asked(config: &Config, server: &Server, page: &Page, own: &Own) -> Look<OtherHere> {
    let login = match config.login() {
        Ok(login) => login,
        Err(error) => return Look::Unknown(error.to_string()),
    };
    let answer = match Session::short(server, &login, None).await {
        Ok(session) => topology::whose(&session).await.map(|said| (session.dialect, said)),
        Err(error) => Err(error),
    };
    match answer {
        Ok((dialect, (timeline, whose))) => judge(server, (timeline, identified(dialect, whose, page)), own),
        Err(error) => Look::Unknown(error.to_string()),
    }
}

/// Greenplum 6 has no SQL for it: there its own supervisor has to say.
fn identified(dialect: Dialect, by_sql: Option<SystemIdentifier>, page: &Page) -> Option<SystemIdentifier> {
    match dialect {
        Dialect::Seven => by_sql,
        Dialect::Six => page.system_identifier,
    }
}

fn judge(server: &Server, (timeline, whose): (Timeline, Option<SystemIdentifier>), own: &Own) -> Look<OtherHere> {
    let Some(ours) = own.timeline else { return Look::Unknown("this coordinator's own timeline is not known".into()) };
    if whose.is_none() || whose != own.system_identifier {
        return Look::Unknown(format!("{server} takes writes, and nothing shows that it is a copy of this database"));
    }
    Look::Seen(match timeline.cmp(&ours) {
        Ordering::Greater => OtherHere::Overtook(timeline),
        Ordering::Equal => OtherHere::Rivals(timeline),
        Ordering::Less => OtherHere::Behind,
    })
}

/// The page of a coordinator at that server.
async fn page_of(config: &Config, server: &Server) -> Look<Page> {
    let page = match peer::page(&server.host, config).await {
        Look::Seen(page) => page,
        unknown @ Look::Unknown(_) => return unknown,
    };
    match speaks_for(&page, &config.cluster, server) {
        Err(why) => Look::Unknown(why),
        Ok(()) if page.address == server.host => Look::Seen(page),
        // Another name of the same place.
        Ok(()) => match (within(resolve(&page.address)).await, within(resolve(&server.host)).await) {
            (Some(its), Some(asked)) if its == asked => Look::Seen(page),
            (Some(_) | None, Some(_) | None) => {
                Look::Unknown(format!("the page of {} is that of {}:{}", server.host, page.address, page.port))
            }
        },
    }
}

/// A segment named by mistake, or an address that another cluster's pod has by now, says nothing about a coordinator.
fn speaks_for(page: &Page, cluster: &str, server: &Server) -> Result<(), String> {
    if page.cluster != cluster {
        return Err(format!("the page of {} is of cluster '{}'", server.host, page.cluster));
    }
    if page.content.is_some_and(|content| content != Content::COORDINATOR) || page.port != server.port {
        let content = page.content.map_or_else(|| "?".into(), |content| content.to_string());
        return Err(format!("the page of {} is of content {content} at port {}: it is no coordinator's", server.host, page.port));
    }
    Ok(())
}

/// Whose database a coordinator is on that is on this timeline, as far as its supervisor's page goes.
pub async fn identity(config: &Config, server: &Server, timeline: Timeline) -> Option<SystemIdentifier> {
    let page = page_of(config, server).await.seen().cloned()?;
    (page.serves == Some(Role::Primary) && page.timeline == Some(timeline)).then_some(page.system_identifier)?
}

/// The page of the coordinator that a standby follows: one of the same database that serves as a primary.
pub async fn source(config: &Config, own: &Own) -> Look<Page> {
    let others = others(config).await;
    let pages = futures::future::join_all(others.iter().map(|server| page_of(config, server))).await;
    let acts = |page: &Page| page.serves == Some(Role::Primary) && page.system_identifier == own.system_identifier;
    let found = pages.into_iter().find(|page| page.seen().is_some_and(acts));
    found.unwrap_or_else(|| Look::Unknown("no other coordinator serves as a primary".into()))
}

/// What the segments have seen of coordinators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witnesses {
    /// A majority of the contents answers, and none that answers has seen a higher timeline.
    ForUs,
    /// Too few answer: so many of so many contents.
    TooFew { answer: usize, contents: usize },
    /// One has believed a coordinator on a higher timeline.
    Against(String),
}

/// Asks the segments of our own catalog; `None` when that cannot be read.
pub async fn own_witnesses(config: &Config, own: Timeline) -> Option<Witnesses> {
    let catalog = own_catalog(config).await.ok()?;
    Some(witnesses(config, &catalog, own).await)
}

/// What the coordinator of this place has in its catalog.
///
/// # Errors
/// Why it cannot be read.
pub async fn own_catalog(config: &Config) -> Result<Catalog, String> {
    let login = config.login().map_err(|e| e.to_string())?;
    let session = Session::short(&config.local(), &login, None).await.map_err(|e| e.to_string())?;
    topology::read(&session).await.map(|answer| answer.catalog).map_err(|e| e.to_string())
}

/// Asks both sides of every content.
pub async fn witnesses(config: &Config, catalog: &Catalog, own: Timeline) -> Witnesses {
    let rows = catalog.rows.iter().filter(|row| row.content != Content::COORDINATOR);
    let asked = rows.map(|row| async move { (row.content, peer::page_of(config, row).await) });
    let said = futures::future::join_all(asked).await;
    count(&catalog.contents(), said.iter().filter_map(|(content, page)| Some((*content, page.seen()?))), own)
}

fn count<'a>(contents: &[Content], said: impl Iterator<Item = (Content, &'a Page)>, own: Timeline) -> Witnesses {
    let mut heard: BTreeMap<Content, Timeline> = BTreeMap::new();
    for (content, page) in said {
        // One that never believed a coordinator has nothing to tell.
        let Some(seen) = page.coordinator_timeline else { continue };
        if seen > own {
            return Witnesses::Against(format!("dbid {} of content {content} has believed a coordinator on timeline {seen}", shown(page)));
        }
        heard.insert(content, seen);
    }
    if contents.is_empty() || heard.len() * 2 > contents.len() {
        Witnesses::ForUs
    } else {
        Witnesses::TooFew { answer: heard.len(), contents: contents.len() }
    }
}

fn shown(page: &Page) -> String {
    page.dbid.map_or_else(|| "?".into(), |dbid| dbid.to_string())
}

/// The acting coordinator by its own catalog: a standby that was promoted half way is none.
pub fn is_acting(row: &RowHere) -> bool {
    match row {
        RowHere::Mine { role: Role::Primary, .. } => true,
        RowHere::Mine { role: Role::Mirror, .. } | RowHere::NotMine(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::world::fixtures::{page, row};

    const OURS: SystemIdentifier = SystemIdentifier(7);

    fn own() -> Own {
        Own { timeline: Some(Timeline(1)), system_identifier: Some(OURS), begins: None }
    }

    fn server() -> Server {
        Server::new("seg-8.gp", 6000)
    }

    fn of_standby(change: impl FnOnce(&mut Page)) -> Page {
        let mut page = page(&row("8:-1mmsu"));
        change(&mut page);
        page
    }

    /// Any of these kept a coordinator down for ever.
    #[test]
    fn only_a_coordinators_page_speaks_for_a_coordinator() {
        let speaks = |change: fn(&mut Page)| speaks_for(&of_standby(change), "demo", &server()).is_ok();
        assert!(speaks(|_| ()) && speaks(|p| p.content = None));
        assert!(!speaks(|p| p.content = Some(Content(0))), "a segment named by mistake");
        assert!(!speaks(|p| p.cluster = "other".into()) && !speaks(|p| p.port = 7000));
    }

    #[test]
    fn a_timeline_overtakes_only_over_sql_and_with_our_system_identifier() {
        let judged = |timeline, whose: Option<u64>| judge(&server(), (Timeline(timeline), whose.map(SystemIdentifier)), &own());
        assert_eq!(judged(2, Some(7)), Look::Seen(OtherHere::Overtook(Timeline(2))));
        assert_eq!(judged(0, Some(7)), Look::Seen(OtherHere::Behind));
        assert!(matches!(judged(9, Some(8)), Look::Unknown(_)) && matches!(judged(9, None), Look::Unknown(_)));
        assert_eq!(identified(Dialect::Seven, None, &of_standby(|_| ())), None, "there SQL tells it");
    }

    /// Two standbys of one coordinator, each activated while the other was silent: each called the other the one that is behind.
    #[test]
    fn one_that_takes_writes_on_the_same_timeline_is_not_behind() {
        let rivals = || judge(&server(), (Timeline(1), Some(OURS)), &own());
        assert_eq!(rivals(), Look::Seen(OtherHere::Rivals(Timeline(1))));
        let behind = || Look::Seen(OtherHere::Behind);
        let overtook = || Look::Seen(OtherHere::Overtook(Timeline(2)));
        assert_eq!(together(vec![behind(), rivals(), Look::Unknown("silent".into())]), rivals());
        assert_eq!(together(vec![rivals(), overtook()]), overtook());
    }

    #[test]
    fn a_standby_that_runs_or_is_down_has_not_taken_over() {
        let said = |change: fn(&mut Page)| idle(&server(), &of_standby(change), &own());
        assert_eq!(said(|_| ()), Look::Seen(OtherHere::Behind));
        assert_eq!(said(|p| (p.serves, p.shape) = (None, Shape::Empty)), Look::Seen(OtherHere::Behind));
        let promoted = |p: &mut Page| (p.serves, p.shape, p.timeline) = (None, Shape::Primary, Some(Timeline(2)));
        assert!(matches!(said(promoted), Look::Unknown(why) if why.contains("higher timeline")), "promoted, and down at the moment");
        assert!(matches!(said(|p| p.shape = Shape::Unknown), Look::Unknown(_)));
    }

    /// Its primary's node lost power a moment ago: it takes itself for a receiver, and how far it reaches was looked up before.
    #[test]
    fn a_standby_that_does_not_know_yet_how_far_it_reaches_has_not_said_that_it_holds_no_more() {
        let one =
            |number, began| model::Incarnation { number, nonce: format!("n{number}"), timeline: Timeline(1), began: model::Lsn(began) };
        let at = |end| model::Reach { timeline: Timeline(1), end: model::Lsn(end) };
        let begins = Begins { incarnations: vec![one(1, 10)], at: at(80), waived: None };
        let own = Own { begins: Some(begins), ..own() };
        let said = |reaches, receiving| {
            let page = of_standby(|p| (p.followed, p.reaches, p.receiving) = (vec![one(1, 10)], reaches, receiving));
            idle(&server(), &page, &own)
        };
        assert!(matches!(said(Some(at(100)), false), Look::Seen(OtherHere::HoldsMore(_))), "it has looked");
        assert!(matches!(said(Some(at(50)), true), Look::Unknown(_)), "{:?}", said(Some(at(50)), true));
        assert!(matches!(said(None, false), Look::Unknown(_)), "{:?}", said(None, false));
    }

    #[test]
    fn one_that_has_taken_over_outweighs_silence_and_silence_outweighs_the_rest() {
        let (behind, silent) = (|| Look::Seen(OtherHere::Behind), || Look::Unknown("silent".into()));
        let overtook = || Look::Seen(OtherHere::Overtook(Timeline(2)));
        assert_eq!(together(vec![silent(), overtook(), behind()]), overtook());
        assert_eq!(together(vec![behind(), silent()]), silent());
        assert_eq!(together(vec![behind()]), behind());
        assert_eq!(together(vec![]), behind(), "there is no other");
    }

    #[test]
    fn a_coordinator_alone_needs_a_majority_of_contents_and_no_witness_against_it() {
        let contents: Vec<_> = (0..4).map(Content).collect();
        let said = |pages: &[(i16, Option<u32>)]| {
            let pages: Vec<_> = pages
                .iter()
                .map(|(content, seen)| (Content(*content), of_standby(|p| p.coordinator_timeline = seen.map(Timeline))))
                .collect();
            count(&contents, pages.iter().map(|(content, page)| (*content, page)), Timeline(2))
        };
        assert_eq!(said(&[(0, Some(2)), (1, Some(1)), (2, Some(2))]), Witnesses::ForUs);
        assert_eq!(said(&[(0, Some(2)), (0, Some(2)), (1, Some(2))]), Witnesses::TooFew { answer: 2, contents: 4 });
        assert_eq!(said(&[(0, Some(2)), (1, None), (2, None), (3, None)]), Witnesses::TooFew { answer: 1, contents: 4 });
        assert!(matches!(said(&[(0, Some(2)), (1, Some(2)), (2, Some(2)), (3, Some(3))]), Witnesses::Against(_)), "one is enough");
        assert_eq!(said(&[]), Witnesses::TooFew { answer: 0, contents: 4 });
        assert_eq!(count(&[], std::iter::empty(), Timeline(2)), Witnesses::ForUs, "there is nobody to lead, nor to ask");
    }
}
