//! `/livez`, `/readyz` and `/metrics`, from the first second on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::report::metrics::Metrics;
use web;

/// Whether the operator is able to act: it has reached the API server, as leader or in reserve.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    pub fn reached(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The three pages.
pub fn pages(metrics: Metrics, health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "lives\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(|State(metrics): State<Metrics>| async move { text(&metrics) }).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    if health.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the Kubernetes API was not reached yet\n")
    }
}

fn text(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(http::header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
}

/// Serves until the listener fails.
///
/// # Errors
/// Of the listener.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health) -> std::io::Result<()> {
    Err(web::serve::serve(listener, pages(metrics, health)).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get_page(port: u16, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_lives_at_once_and_is_ready_when_the_api_was_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, health) = (listener.local_addr().unwrap().port(), Health::default());
        tokio::spawn(serve(listener, Metrics::default(), health.clone()));
        assert!(get_page(port, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get_page(port, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.reached();
        assert!(get_page(port, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get_page(port, "/metrics").await.contains("gpheal_leading"));
    }
}
