//! What the supervisor shows: one page, kept by the loop, served over HTTP, never waited for.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::config::Config;
use crate::volume::holder;
use model::Page;

/// The page and the counters, shared between the loop and the server.
#[derive(Clone)]
pub struct Board {
    page: Arc<Mutex<Page>>,
    registry: Arc<Registry>,
    pub counts: Counts,
    states: Family<StateLabel, Gauge>,
}

/// Things that happened.
#[derive(Clone, Default)]
pub struct Counts {
    pub starts: Counter,
    pub crashes: Counter,
    pub fences: Counter,
    pub holds: Counter,
    pub catalog_reads: Counter,
    pub page_faults: Counter,
    pub round_faults: Counter,
    pub mirror_hangs: Counter,
    pub walsenders_ended: Counter,
    pub frozen: Counter,
    pub mirror_unwatched: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

impl Board {
    pub fn new(config: &Config) -> Self {
        let counts = Counts::default();
        let states = Family::<StateLabel, Gauge>::default();
        let mut registry = Registry::with_prefix("gpheal_supervisor");
        registry.register("starts", "Starts of postgres", counts.starts.clone());
        registry.register("crashes", "Ends of postgres that nobody asked for", counts.crashes.clone());
        registry.register("fences", "Stale primaries killed while they ran", counts.fences.clone());
        registry.register("holds", "Holds obeyed", counts.holds.clone());
        registry.register("catalog_reads", "Reads of the catalog", counts.catalog_reads.clone());
        registry.register("page_faults", "Times that these pages could not be served", counts.page_faults.clone());
        registry.register("round_faults", "Decisions that could not be carried out, each tried again", counts.round_faults.clone());
        registry.register("mirror_hangs", "Times that this primary's mirror was found to hang", counts.mirror_hangs.clone());
        registry.register("walsenders_ended", "Walsenders to a mirror that hangs that were ended", counts.walsenders_ended.clone());
        registry.register("frozen", "Times that a mirror's own postgres was killed because it was stopped", counts.frozen.clone());
        registry.register("mirror_unwatched", "1 while a primary cannot tell whether its mirror hangs", counts.mirror_unwatched.clone());
        registry.register("state", "1 for the state that the instance is in", states.clone());
        Self { page: Arc::new(Mutex::new(first_page(config))), registry: Arc::new(registry), counts, states }
    }

    /// Changes the page; `since` moves only with the state, and each change of state is logged once.
    pub fn show(&self, change: impl FnOnce(&mut Page)) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let before = page.state;
        change(&mut page);
        self.counts.mirror_unwatched.set(page.mirror_unwatched.is_some().into());
        if page.state != before {
            page.since = Timestamp::now();
            self.states.clear();
            self.states.get_or_create(&StateLabel { state: page.state.name().to_owned() }).set(1);
            tracing::info!(from = %before, to = %page.state, detail = page.detail, "state");
        }
    }

    /// The page as it is now.
    pub fn page(&self) -> Page {
        self.page.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn first_page(config: &Config) -> Page {
    let directory = config.data_directory.to_string_lossy();
    Page {
        boot: holder::boot(),
        node: Some(config.node.clone()).filter(|node| !node.is_empty()),
        ..Page::first(&config.cluster, (&config.address, config.port, &directory), Timestamp::now())
    }
}

/// Serves the page for as long as the process lives, whatever happens to its port.
pub async fn serve(board: Board, listen: std::net::SocketAddr) -> Infallible {
    let faults = board.counts.page_faults.clone();
    let router = Router::new()
        .route("/livez", get(|| async { "the supervisor lives\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(|State(board): State<Board>| async move { Json(board.page()) }))
        .route("/metrics", get(metrics))
        .with_state(board);
    let count = move |fault: Option<String>| {
        if fault.is_some() {
            faults.inc();
        }
    };
    web::serve::keep_served(listen, router, count).await
}

async fn ready(State(board): State<Board>) -> (StatusCode, String) {
    let page = board.page();
    let code = if page.serves.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}: {}\n", page.state, page.detail))
}

async fn metrics(State(board): State<Board>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &board.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
