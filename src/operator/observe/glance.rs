//! Between two looks at a cluster that is well: its supervisors' pages alone, which cost the database no statement. What they see
//! at once (a mirror that hangs, a postgres that ended) is not to wait for the next look.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};

use super::{
    PAGES_AT_ONCE,
    places::{self, Place},
};
use model::{Dbid, World};
use web;

/// Between two glances, where there are few instances.
const APART: Duration = Duration::from_secs(5);
/// Pages that are read in a second at most.
const PER_SECOND: u32 = 50;

/// Where the pages are that were calm at the last look.
#[derive(Debug, Default)]
pub struct Glance(Vec<(String, u16)>);

impl Glance {
    pub fn of(world: &World, places: &BTreeMap<Dbid, Place>) -> Self {
        let catalog = world.catalog.seen();
        let rows = catalog.iter().flat_map(|catalog| &catalog.rows).filter(|row| row.content.0 >= 0);
        let calm = rows.filter(|row| world.page_of(row).is_ok_and(model::Page::is_calm));
        let at = calm.filter_map(|row| match places.get(&row.dbid)? {
            Place::One(pod) => Some((places::ips(pod).into_iter().next()?, places::page_port(pod))),
            Place::None | Place::Several(_) => None,
        });
        Self(at.collect())
    }

    /// Until one of them is calm no more, or silent.
    pub async fn until_something_happens(&self) {
        let all = Duration::from_secs(1) * u32::try_from(self.0.len()).unwrap_or(u32::MAX) / PER_SECOND;
        self.looked_at_every(APART.max(all)).await;
    }

    async fn looked_at_every(&self, apart: Duration) {
        loop {
            tokio::time::sleep(apart).await;
            let read = |(ip, port): (String, u16)| async move { web::read::page(&ip, port).await };
            let pages = stream::iter(self.0.clone()).map(read).buffer_unordered(PAGES_AT_ONCE);
            if pages.any(|page| std::future::ready(!page.is_ok_and(|page| page.is_calm()))).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use model::{Page, page::MirrorHang, world::fixtures};

    /// Answers each question with the next of these pages, and then no more.
    async fn supervisor(pages: Vec<Page>) -> Glance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for page in pages {
                let (mut stream, _) = listener.accept().await.unwrap();
                let body = serde_json::to_string(&page).unwrap();
                let _asked = stream.read(&mut [0; 4096]).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Glance(vec![("127.0.0.1".into(), port)])
    }

    fn page() -> Page {
        Page { state: model::InstanceState::Serving, ..fixtures::page(&fixtures::row("2:0ppsu")) }
    }

    #[tokio::test]
    async fn a_mirror_that_hangs_and_a_supervisor_that_falls_silent_end_the_rest() {
        let hangs = MirrorHang { since: fixtures::now(), detail: "it has acknowledged nothing".into(), ended: false, slow: false };
        for last in [vec![Page { mirror_hangs: Some(hangs), ..page() }], vec![]] {
            let glance = supervisor([vec![page()], last].concat()).await;
            let (begun, apart) = (std::time::Instant::now(), Duration::from_millis(50));
            tokio::time::timeout(APART, glance.looked_at_every(apart)).await.unwrap();
            assert!(begun.elapsed() >= apart * 2, "the first page was calm");
        }
    }

    #[tokio::test]
    async fn a_cluster_without_calm_pages_is_not_glanced_at() {
        let never = Glance::default();
        tokio::time::timeout(Duration::from_millis(200), never.looked_at_every(Duration::from_millis(10))).await.unwrap_err();
    }
}
