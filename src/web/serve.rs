//! Serves small pages to whoever asks, and lets nobody take more than a little: connections, memory and time are bounded.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
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

/// After a failed `accept`, doubled with each in a row.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Before a listener is made again, doubled with each that failed in a row.
const REBIND: Duration = Duration::from_millis(100);
const LONGEST_REBIND: Duration = Duration::from_secs(5);

/// Listens at `at`. `[::]` is every address of a pod, of both families; of IPv4 alone where the kernel has no other.
///
/// # Errors
/// As of the socket.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    or_by_ipv4(at, bind)
}

fn or_by_ipv4<T>(at: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(at) {
        Err(error) if at.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port()))
        }
        bound => bound,
    }
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?; // whatever net.ipv6.bindv6only says
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn has_no_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let none = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL, Errno::EPROTONOSUPPORT, Errno::EPFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| none.contains(&Errno::from_raw(code)))
}

/// Where connections come from.
pub trait Accept {
    /// The next connection.
    fn next(&mut self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Accept for TcpListener {
    async fn next(&mut self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves for as long as the listener is one; what it returns is why it is none any more. No other error of `accept(2)`
/// ends it: they are the other side's, the network's, or pass when there is memory and a descriptor again, and the process
/// that serves a page has more important things to do than to die of it.
pub async fn serve(mut listener: impl Accept, router: Router) -> io::Error {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    let mut failed: u32 = 0;
    loop {
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) if is_broken(&error) => return error,
            Err(error) => {
                if failed == 0 {
                    tracing::warn!(%error, "a connection to our pages could not be accepted; it is tried again until it goes");
                }
                sleep(PAUSE.saturating_mul(1 << failed.min(10)).min(LONGEST_PAUSE)).await;
                failed = failed.saturating_add(1);
                continue;
            }
        };
        if failed > 0 {
            tracing::info!(failed, "connections to our pages are accepted again");
        }
        failed = 0;
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

/// There is no listener behind the descriptor, whatever passes (accept(2)).
fn is_broken(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let broken = [Errno::EBADF, Errno::EFAULT, Errno::EINVAL, Errno::ENOTSOCK, Errno::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| broken.contains(&Errno::from_raw(code)))
}

/// Serves at `at` for ever: binds again where the listener broke or could not be had, and goes on after a panic of what
/// serves. `fault` is told why the page is away, and when it is not any more.
pub async fn keep_served(at: SocketAddr, router: Router, fault: impl Fn(Option<String>)) -> Infallible {
    let mut failed: u32 = 0;
    loop {
        let begun = Instant::now();
        let why = match listen(at) {
            Ok(listener) => {
                fault(None);
                match tokio::spawn(serve(listener, router.clone())).await {
                    Ok(error) => format!("the listener at {at} broke: {error}"),
                    Err(error) => format!("what serves at {at} ended: {error}"),
                }
            }
            Err(error) => format!("{at} cannot be listened at: {error}"),
        };
        if begun.elapsed() > LONGEST {
            failed = 0;
        }
        tracing::error!(why, "our pages are not served; it is tried again until they are");
        fault(Some(why));
        sleep(REBIND.saturating_mul(1 << failed.min(10)).min(LONGEST_REBIND)).await;
        failed = failed.saturating_add(1);
    }
}

/// How a connection ends concerns whoever opened it.
async fn one(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD).keep_alive(false);
    let whole = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(LONGEST, whole).await {
        tracing::debug!(error = model::error::chain(&error), "a connection to our pages ended");
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
    async fn every_address_is_listened_at_of_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, at.port())).await.is_ok(), "{at}");
        if at.is_ipv6() {
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, at.port())).await.is_ok(), "{at}");
        }
        let taken = listen(SocketAddr::new(at.ip(), at.port())).unwrap_err();
        assert!(!has_no_ipv6(&taken), "that another has it is no reason to listen elsewhere: {taken}");
        assert!(has_no_ipv6(&io::Error::from_raw_os_error(nix::errno::Errno::EAFNOSUPPORT as i32)));
    }

    #[test]
    fn where_the_kernel_has_no_ipv6_every_address_of_ipv4_is_listened_at() {
        use nix::errno::Errno;
        let tried = |at: &str, refusal: Errno| {
            let bound = or_by_ipv4(at.parse().unwrap(), |at: SocketAddr| if at.is_ipv4() { Ok(at) } else { Err(refusal.into()) });
            bound.map(|at| at.to_string()).map_err(|error| error.raw_os_error())
        };
        for refusal in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            assert_eq!(tried("[::]:8090", refusal), Ok("0.0.0.0:8090".into()));
        }
        assert_eq!(tried("[::]:8090", Errno::EADDRINUSE), Err(Some(Errno::EADDRINUSE as i32)));
        assert!(tried("[::1]:8090", Errno::EAFNOSUPPORT).is_err(), "who names an address wants that one");
    }

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

    /// A listener that fails as often as there are errors in it, and then is the real one.
    struct Failing(Vec<i32>, TcpListener);

    impl Accept for Failing {
        async fn next(&mut self) -> io::Result<TcpStream> {
            match self.0.pop() {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => self.1.next().await,
            }
        }
    }

    /// Every error that accept(2) names, and some that it does not.
    #[tokio::test]
    async fn no_error_of_accept_ends_the_page_unless_there_is_no_listener() {
        use nix::errno::Errno::{self, *};
        let passing: [Errno; 26] = [
            EAGAIN,
            ECONNABORTED,
            ECONNRESET,
            EINTR,
            EMFILE,
            ENFILE,
            ENOBUFS,
            ENOMEM,
            EPERM,
            EPROTO,
            ENETDOWN,
            ENOPROTOOPT,
            EHOSTDOWN,
            ENONET,
            EHOSTUNREACH,
            ENETUNREACH,
            ENOSR,
            ESOCKTNOSUPPORT,
            EPROTONOSUPPORT,
            ETIMEDOUT,
            EACCES,
            EIO,
            ENOSPC,
            ENOSYS,
            EPIPE,
            ENODEV,
        ];
        for errors in passing.chunks(3) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let router = Router::new().route("/livez", get(|| async { "lives" }));
            let failing = Failing(errors.iter().map(|errno| *errno as i32).collect(), listener);
            let served = tokio::spawn(serve(failing, router));
            assert!(say(&mut connect(port).await, LIVEZ).await.ends_with("lives"), "{errors:?}");
            assert!(!served.is_finished(), "{errors:?}");
        }
        for broken in [EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP, EFAULT] {
            let failing = Failing(vec![broken as i32], TcpListener::bind("127.0.0.1:0").await.unwrap());
            let ended = timeout(Duration::from_secs(5), serve(failing, Router::new())).await.expect("it has to be bound again");
            assert_eq!(ended.raw_os_error(), Some(broken as i32));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_goes_on_failing_is_not_asked_in_a_circle() {
        let failing = Failing(vec![nix::errno::Errno::ENOMEM as i32; 1000], TcpListener::bind("127.0.0.1:0").await.unwrap());
        let begun = Instant::now();
        let broken = Failing([vec![nix::errno::Errno::EBADF as i32], failing.0].concat(), failing.1);
        serve(broken, Router::new()).await;
        assert!(begun.elapsed() > Duration::from_mins(15), "{:?} for a thousand errors", begun.elapsed());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_and_had_when_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let faults = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
        let told = faults.clone();
        let router = Router::new().route("/livez", get(|| async { "lives" }));
        tokio::spawn(keep_served(at, router, move |fault| told.lock().unwrap().push(fault)));
        sleep(Duration::from_millis(250)).await;
        assert!(faults.lock().unwrap().iter().any(|fault| fault.as_ref().is_some_and(|why| why.contains("cannot be listened at"))));
        drop(taken);
        let until = Instant::now() + Duration::from_secs(10);
        while faults.lock().unwrap().last() != Some(&None) {
            assert!(Instant::now() < until, "it is not bound");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(say(&mut connect(at.port()).await, LIVEZ).await.ends_with("lives"));
    }
}
