//! Reads the page of one supervisor, by a plain GET.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use greenplum::resolve::{Unresolved, resolve};
use model::Page;

/// A page is a few KiB; whatever answers on that port with more is no supervisor.
const LARGEST: usize = 64 * 1024;
/// Status line and headers.
const LARGEST_HEAD: usize = 16 * 1024;
/// A supervisor answers from memory: what takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bound of finding the address.
const RESOLVE: Duration = Duration::from_secs(5);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error("the name {0} was not resolved within {seconds} s", seconds = RESOLVE.as_secs())]
    NoName(String),
    #[error("no answer from {0} within {seconds} s", seconds = PATIENCE.as_secs())]
    TimedOut(String),
    #[error("no connection to {at}: {source}")]
    Unreachable { at: String, source: std::io::Error },
    #[error("{at} does not speak HTTP as a supervisor does: {why}")]
    Protocol { at: String, why: String },
    #[error("{at}/status answers {status}")]
    Status { at: String, status: u16 },
    #[error("{at}/status is no page of a supervisor: {source}")]
    Unreadable { at: String, source: serde_json::Error },
}

impl PageError {
    /// Something answered, and it was no page: waiting does not make it one.
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Self::Protocol { .. } | Self::Status { .. } | Self::Unreadable { .. })
    }
}

/// Reads `http://HOST:PORT/status`; a name is resolved each time. Whose page it is has to be asked of the page.
///
/// # Errors
/// [`PageError`]
pub async fn page(host: &str, port: u16) -> Result<Page, PageError> {
    let ip = timeout(RESOLVE, resolve(host)).await.map_err(|_| PageError::NoName(host.to_owned()))??;
    let at = SocketAddr::new(ip, port).to_string();
    let body = timeout(PATIENCE, body(&at)).await.map_err(|_| PageError::TimedOut(at.clone()))??;
    serde_json::from_slice(&body).map_err(|source| PageError::Unreadable { at, source })
}

async fn body(at: &str) -> Result<bytes::Bytes, PageError> {
    let protocol = |why: &dyn std::error::Error| PageError::Protocol { at: at.to_owned(), why: model::error::chain(why) };
    let stream = TcpStream::connect(at).await.map_err(|source| PageError::Unreachable { at: at.to_owned(), source })?;
    let mut client = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) =
        client.max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(stream)).await.map_err(|error| protocol(&error))?;
    let driver = tokio::spawn(connection);
    let _ended_with_us = AbortOnDrop(driver.abort_handle());
    let request = http::Request::get("/status").header(http::header::HOST, at).body(Empty::<bytes::Bytes>::new());
    let answer = sender.send_request(request.map_err(|error| protocol(&error))?).await.map_err(|error| protocol(&error))?;
    if !answer.status().is_success() {
        return Err(PageError::Status { at: at.to_owned(), status: answer.status().as_u16() });
    }
    let collected = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| protocol(&*error))?;
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
    use model::world::fixtures;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const OK: &str = "HTTP/1.1 200 OK\r\n";

    /// Says `head` to whoever asks, then `tail` again and again until nobody listens.
    async fn serve(head: String, tail: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(head.as_bytes()).await;
            while !tail.is_empty() && stream.write_all(tail).await.is_ok() {}
            let _ = stream.read(&mut asked).await; // open until the other side closes
        });
        port
    }

    async fn ask(head: String, tail: &'static [u8]) -> Result<Page, PageError> {
        page("127.0.0.1", serve(head, tail).await).await
    }

    fn with_body(body: &str) -> String {
        format!("{OK}content-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_page_is_read() {
        let page = fixtures::page(&fixtures::row("5:0mmnd"));
        assert_eq!(ask(with_body(&serde_json::to_string(&page).unwrap()), b"").await.unwrap(), page);
    }

    #[tokio::test]
    async fn whatever_is_no_page_is_nonsense_and_says_so() {
        let mut other = serde_json::to_value(fixtures::page(&fixtures::row("5:0mmnd"))).unwrap();
        other["state"] = "Levitating".into();
        for (head, tail, said) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), &b""[..], "answers 404"),
            (with_body("{}"), b"", "no page of a supervisor"),
            (with_body("\u{0}\u{1}\u{fffd}"), b"", "no page of a supervisor"),
            (with_body(&other.to_string()), b"", "no page of a supervisor"),
            (with_body(&"[".repeat(60_000)), b"", "no page of a supervisor"),
            (with_body(&"x".repeat(LARGEST + 1)), b"", "does not speak HTTP"),
            ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), b"", "does not speak HTTP"),
            // Without an end: of the body, of the headers, of one header.
            (
                format!("{OK}transfer-encoding: chunked\r\n\r\n"),
                b"1000\r\n\
                ................................................................",
                "does not speak HTTP",
            ),
            (format!("{OK}content-length: 99999999999\r\n\r\n"), b"megabytes of it ", "does not speak HTTP"),
            (OK.to_owned(), b"x-more: and more\r\n", "does not speak HTTP"),
            (format!("{OK}x-long: "), b"and longer and longer ", "does not speak HTTP"),
        ] {
            let error = ask(head.clone(), tail).await.unwrap_err();
            let head = &head[..head.len().min(60)];
            assert!(error.is_nonsense() && error.to_string().contains(said), "{head}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_that_never_answers_or_never_ends_is_given_up() {
        let silent = ask(String::new(), b"").await.unwrap_err();
        assert!(matches!(silent, PageError::TimedOut(_)) && !silent.is_nonsense());
        assert!(matches!(ask(format!("{OK}content-length: 9\r\n\r\n{{"), b"").await, Err(PageError::TimedOut(_))));
        assert!(matches!(page("127.0.0.1", 1).await, Err(PageError::Unreachable { .. })));
    }
}
