//! Asks the others: the coordinator for our row, the peer's supervisor whether it was promoted.
//! Short sessions only: a coordinator has a few hundred connections for everyone.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::{
    config::{Config, login},
    decide::{PeerHere, RowHere},
};
use crate::{
    greenplum::{Server, Session, resolve::resolve, topology},
    model::{Catalog, Content, Dbid, Look, Page, Role, Timeline, page::Shape},
    volume::token::Peer,
};

/// Longest page that is read.
const LONGEST_PAGE: usize = 64 * 1024;
const PAGE_PATIENCE: Duration = Duration::from_secs(2);

/// The catalog with the timeline of the coordinator that gave it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub catalog: Catalog,
    pub timeline: Timeline,
}

/// The catalog, from the first coordinator that answers in utility mode and is not older than what we have seen.
pub async fn catalog(config: &Config, seen: Timeline) -> Look<Answer> {
    let mut why = "no coordinator is configured".to_owned();
    for server in config.coordinators() {
        match one(config, &server).await {
            Ok(answer) if answer.timeline >= seen => return Look::Seen(answer),
            Ok(answer) => why = format!("{server} is on timeline {}, older than {seen} which was seen before", answer.timeline),
            Err(error) => why = error,
        }
    }
    Look::Unknown(why)
}

async fn one(config: &Config, server: &Server) -> Result<Answer, String> {
    let login = login(&config.credentials).map_err(|e| e.to_string())?;
    let session = Session::utility(server, &login, None).await.map_err(|e| e.to_string())?;
    let catalog = topology::catalog(&session).await.map_err(|e| e.to_string())?;
    let timeline = topology::timeline(&session).await.map_err(|e| e.to_string())?;
    Ok(Answer { catalog, timeline })
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
        Err(why) => Look::Unknown(why),
    }
}

/// What the other coordinator says: one that serves on a higher timeline has taken over.
pub async fn other_coordinator(config: &Config, timeline: Option<Timeline>) -> Look<PeerHere> {
    let others =
        config.coordinators().into_iter().filter(|server| (server.host.as_str(), server.port) != (config.address.as_str(), config.port));
    for server in others {
        match page(&server.host, config.listen.port()).await {
            Ok(page) if page.serves == Some(Role::Primary) && page.timeline > timeline => return Look::Seen(PeerHere::Promoted),
            Ok(_) => return Look::Seen(PeerHere::InRecovery),
            Err(_) => {}
        }
    }
    Look::Unknown("no other coordinator answers".into())
}

/// Reads the page of a supervisor.
///
/// # Errors
/// Why it can not be read, for people.
pub async fn page(host: &str, port: u16) -> Result<Page, String> {
    let ip = resolve(host).await.map_err(|e| e.to_string())?;
    let fetched = tokio::time::timeout(PAGE_PATIENCE, fetch(&format!("http://{}/status", std::net::SocketAddr::new(ip, port)))).await;
    let body = fetched.map_err(|_| format!("the page of {host} did not come within {} s", PAGE_PATIENCE.as_secs()))??;
    serde_json::from_slice(&body).map_err(|e| format!("the page of {host} can not be understood: {e}"))
}

async fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let client: Client<_, http_body_util::Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = url.parse().map_err(|_| format!("{url} is no address"))?;
    let response = client.get(uri).await.map_err(|e| format!("{url}: {e}"))?;
    let body = Limited::new(response.into_body(), LONGEST_PAGE).collect().await.map_err(|e| format!("{url}: {e}"))?;
    Ok(body.to_bytes().to_vec())
}
