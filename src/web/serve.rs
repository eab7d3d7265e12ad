//! Serves small pages to whoever asks, and lets nobody take more than a little: connections, memory and time are bounded.

use std::{collections::VecDeque, io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Connections at once. When one more comes, the oldest gives way: a kubelet that asks whether we live must be answered,
/// whoever else keeps connections open.
const MOST: usize = 32;
/// Request line and headers.
const LARGEST_HEAD: usize = 16 * 1024;
/// Until a request's headers are there.
const HEAD: Duration = Duration::from_secs(5);
/// Until a connection is over: one request, one answer.
const LONGEST: Duration = Duration::from_secs(15);

/// Serves until the listener fails.
///
/// # Errors
/// Of the listener, when it can not accept at all any more.
pub async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Theirs, or there is no descriptor left for a moment; neither ends the server.
            Err(error) if is_passing(&error) => {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        while connections.try_join_next().is_some() {}
        oldest_first.retain(|connection: &tokio::task::AbortHandle| !connection.is_finished());
        if oldest_first.len() >= MOST
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        oldest_first.push_back(connections.spawn(one(stream, router.clone())));
    }
}

fn is_passing(error: &io::Error) -> bool {
    let theirs = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted];
    let no_descriptor = [nix::errno::Errno::EMFILE as i32, nix::errno::Errno::ENFILE as i32];
    theirs.contains(&error.kind()) || error.raw_os_error().is_some_and(|code| no_descriptor.contains(&code))
}

/// How a connection ends concerns whoever opened it.
async fn one(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD).keep_alive(false);
    let whole = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(LONGEST, whole).await {
        tracing::debug!(error = crate::error::chain(&error), "a connection to our pages ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/livez", get(|| async { "lives" }));
        tokio::spawn(serve(listener, router));
        port
    }

    async fn connect(port: u16) -> TcpStream {
        TcpStream::connect(("127.0.0.1", port)).await.unwrap()
    }

    /// Everything that is answered, until the server closes.
    async fn say(stream: &mut TcpStream, text: &[u8]) -> String {
        let _ = stream.write_all(text).await;
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn a_flood_of_silent_connections_keeps_nobody_out_and_the_oldest_give_way() {
        let port = server().await;
        let mut silent = vec![];
        for _ in 0..3 * MOST {
            silent.push(connect(port).await);
        }
        assert!(say(&mut connect(port).await, LIVEZ).await.ends_with("lives"));
        let mut gone = 0;
        for stream in &mut silent[..2 * MOST] {
            // Closed by the server, at once; one that were still served would wait for its headers.
            gone += usize::from(matches!(timeout(Duration::from_secs(2), stream.read(&mut [0])).await, Ok(Ok(0) | Err(_))));
        }
        assert_eq!(gone, 2 * MOST);
    }

    #[tokio::test]
    async fn one_connection_is_one_answer() {
        let port = server().await;
        let twice = [LIVEZ, LIVEZ].concat();
        let answer = say(&mut connect(port).await, &twice).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    }

    #[tokio::test]
    async fn headers_without_an_end_are_refused() {
        let port = server().await;
        let endless = [b"GET /livez HTTP/1.1\r\nx-long: ".to_vec(), vec![b'x'; 4 * LARGEST_HEAD]].concat();
        let answer = say(&mut connect(port).await, &endless).await;
        assert!(!answer.contains(" 200 "), "{answer}");
        assert!(!say(&mut connect(port).await, b"\x16\x03\x01 no HTTP at all\r\n\r\n").await.contains(" 200 "));
    }

    #[tokio::test]
    async fn headers_that_do_not_come_are_not_waited_for() {
        let mut stream = connect(server().await).await;
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let mut answer = vec![];
        let closed = timeout(HEAD + Duration::from_secs(3), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "it is still open");
    }
}
