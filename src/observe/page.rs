//! The page of one supervisor, by a plain GET with a bound on time and size.

use std::{net::IpAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::Page;

/// A page is a few KiB; whatever answers on that port with more is no supervisor.
const LARGEST: usize = 64 * 1024;
/// A supervisor answers from memory: what takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("the pod has no address yet")]
    NoAddress,
    #[error("no answer from {0} within {seconds} s", seconds = PATIENCE.as_secs())]
    TimedOut(String),
    #[error("no connection to {at}: {source}")]
    Unreachable { at: String, source: std::io::Error },
    #[error("{at} does not speak HTTP: {why}")]
    Protocol { at: String, why: String },
    #[error("{at}/status answers {status}")]
    Status { at: String, status: u16 },
    #[error("{at}/status is no page of a supervisor: {source}")]
    Unreadable { at: String, source: serde_json::Error },
}

/// Reads `http://IP:PORT/status`.
///
/// # Errors
/// [`PageError`]
pub async fn read(ip: Option<&String>, port: u16) -> Result<Page, PageError> {
    let ip: IpAddr = ip.and_then(|ip| ip.parse().ok()).ok_or(PageError::NoAddress)?;
    let at = std::net::SocketAddr::new(ip, port).to_string();
    let body = tokio::time::timeout(PATIENCE, body(&at)).await.map_err(|_| PageError::TimedOut(at.clone()))??;
    serde_json::from_slice(&body).map_err(|source| PageError::Unreadable { at, source })
}

async fn body(at: &str) -> Result<bytes::Bytes, PageError> {
    let protocol = |why: String| PageError::Protocol { at: at.to_owned(), why };
    let stream = TcpStream::connect(at).await.map_err(|source| PageError::Unreachable { at: at.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| protocol(e.to_string()))?;
    let driver = tokio::spawn(connection);
    let _ended_with_us = AbortOnDrop(driver.abort_handle());
    let request = http::Request::get("/status").header(http::header::HOST, at).body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|e| protocol(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| protocol(e.to_string()))?;
    if !answer.status().is_success() {
        return Err(PageError::Status { at: at.to_owned(), status: answer.status().as_u16() });
    }
    let collected = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|e| protocol(e.to_string()))?;
    Ok(collected.to_bytes())
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::world::fixtures;
    use axum::{Router, routing::get};

    async fn serve(router: Router) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    async fn ask(router: Router) -> Result<Page, PageError> {
        let port = serve(router).await;
        read(Some(&"127.0.0.1".to_owned()), port).await
    }

    #[tokio::test]
    async fn a_page_is_read() {
        let page = fixtures::page(&fixtures::row("5:0mmnd"));
        let served = page.clone();
        let answer = ask(Router::new().route("/status", get(|| async move { axum::Json(served) }))).await;
        assert_eq!(answer.unwrap(), page);
    }

    #[tokio::test]
    async fn whatever_is_no_page_is_an_error() {
        assert!(matches!(read(None, 1).await, Err(PageError::NoAddress)));
        assert!(matches!(ask(Router::new()).await, Err(PageError::Status { status: 404, .. })));
        let other = ask(Router::new().route("/status", get(|| async { "{}" }))).await;
        assert!(matches!(other, Err(PageError::Unreadable { .. })));
        let huge = ask(Router::new().route("/status", get(|| async { "x".repeat(LARGEST + 1) }))).await;
        assert!(matches!(huge, Err(PageError::Protocol { .. })));
    }

    #[tokio::test]
    async fn a_port_that_never_answers_is_given_up() {
        let hung = get(|| async { std::future::pending::<&'static str>().await });
        assert!(matches!(ask(Router::new().route("/status", hung)).await, Err(PageError::TimedOut(_))));
    }
}
