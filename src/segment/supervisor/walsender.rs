//! The walsender of a mirror as a process of ours: how it looks from outside, and its end.
//!
//! It is ended by closing its connection, from our own duplicate of its socket. A signal would do for most, but a walsender of
//! Greenplum 6 that is told to end says so to its client first, and where the buffers are full, as after a COPY, it waits in
//! `send()` for a mirror that reads no more: deaf then to everything that would not restart the whole instance, its own
//! timeout too.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use socket2::Socket;

use super::hang::Outside;
use crate::volume::processes::Process;
use greenplum::replication::Sender;

/// A walsender whose connection is gone has ended after so long.
const ENDING: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// How it was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its connection was closed.
    Closed,
    /// It was told to end: the kernel, or a seccomp profile, does not lend us its socket.
    Told,
    /// It had ended by itself.
    Before,
}

/// Why it was not ended.
#[derive(Debug, thiserror::Error)]
pub enum Stays {
    #[error("process {0} is no walsender of ours")]
    NotOurs(i32),
    #[error("it has no connection to {0}")]
    NoConnection(String),
    #[error("it cannot be looked at: {0}")]
    Unseen(io::Error),
    #[error(
        "its socket cannot be closed from here ({0}), and a signal alone would leave it in send(): allow pidfd_getfd in the pod's seccomp profile"
    )]
    FullBuffer(io::Error),
    #[error("it has not ended within {} s of the end of its connection", ENDING.as_secs())]
    Lives,
}

/// Its connection, by the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    fd: i32,
    state: State,
    /// Bytes that wait to be sent or acknowledged, and to be read.
    unsent: u64,
    unread: u64,
}

/// How far a connection is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Established,
    /// The other side has closed it, and this one has not noticed.
    HalfClosed,
    /// It is being made, or this side has closed it.
    Other,
}

impl State {
    /// By the kernel's number (`include/net/tcp_states.h`).
    fn of(number: &str) -> Self {
        match number {
            "01" => Self::Established,
            "08" => Self::HalfClosed,
            _ => Self::Other, // the kernel has ten more, and this side is through with each
        }
    }

    /// There is something to close.
    fn is_open(self) -> bool {
        match self {
            Self::Established | Self::HalfClosed => true,
            Self::Other => false,
        }
    }
}

/// How the walsender looks from outside. `None`: it is no process of ours, or it works and its connection cannot be found. One that
/// does not work is judged without: a connection that its mirror has broken off is in no table any more.
pub fn outside(postmaster: Pid, sender: &Sender) -> Option<Outside> {
    let works = is_ours(postmaster, sender.pid).then(|| works(sender.pid))??;
    let connection = sender.client.as_ref().and_then(|(_, port)| connection(sender.pid, *port).ok().flatten());
    match (connection, works) {
        (Some(connection), _) => Some(Outside { works, unread: connection.unread }),
        (None, false) => Some(Outside { works, unread: 0 }),
        (None, true) => None,
    }
}

/// It has not ended between two looks; that it cannot be looked at says nothing.
pub fn lives(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).try_exists().unwrap_or(true)
}

/// It runs, or sleeps until there is work; else it is stopped, or sits in the kernel.
pub fn works(pid: i32) -> Option<bool> {
    state(pid).map(|state| matches!(state, 'R' | 'S'))
}

/// What its title says: on it stands how far it has sent.
pub fn title(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}

/// Ends exactly this walsender. Its number is held by a descriptor from before it is looked at, so that it is this process
/// which is ended and none that has the number later. Blocks for some seconds at most.
///
/// # Errors
/// [`Stays`]
pub fn end(postmaster: Pid, sender: &Sender) -> Result<Ended, Stays> {
    let Some(process) = Process::at(sender.pid) else { return Ok(Ended::Before) };
    let raw = rustix::process::Pid::from_raw(sender.pid).ok_or(Stays::NotOurs(sender.pid))?;
    let held = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| Stays::Unseen(error.into()))?;
    if !is_ours(postmaster, sender.pid) || !process.lives() {
        return Err(Stays::NotOurs(sender.pid));
    }
    let (client, port) = sender.client.as_ref().ok_or_else(|| Stays::NoConnection("a client".into()))?;
    let found = connection(sender.pid, *port).map_err(Stays::Unseen)?;
    let open = found.filter(|connection| connection.state.is_open());
    let connection = open.ok_or_else(|| Stays::NoConnection(format!("{client}, port {port}")))?;
    let ended = match close(&held, connection, *port) {
        Ok(()) => Ended::Closed,
        Err(_) if connection.unsent < ROOM => {
            pidfd_send_signal(&held, Signal::TERM).map_err(|error| Stays::Unseen(error.into()))?;
            Ended::Told
        }
        Err(error) => return Err(Stays::FullBuffer(error)),
    };
    let until = Instant::now() + ENDING;
    while process.lives() {
        if Instant::now() > until {
            return Err(Stays::Lives);
        }
        std::thread::sleep(LOOK);
    }
    Ok(ended)
}

/// While so little waits to be sent or acknowledged, its last word finds room: a kernel gives a socket more than that, and a
/// walsender that has more to send fills it.
const ROOM: u64 = 4096;

/// Closes the connection in both directions, for whoever has it open.
fn close(held: &OwnedFd, connection: Connection, port: u16) -> io::Result<()> {
    let socket = Socket::from(pidfd_getfd(held, connection.fd, PidfdGetfdFlags::empty())?);
    let peer = socket.peer_addr()?.as_socket().map(|peer| peer.port());
    if peer != Some(port) {
        let leads = peer.map_or("to no port".to_owned(), |peer| format!("to port {peer}"));
        return Err(io::Error::other(format!("descriptor {} leads {leads}, not to port {port}", connection.fd)));
    }
    socket.shutdown(std::net::Shutdown::Both)
}

/// A child of this postmaster that calls itself a walsender: `wal sender process` (6), `walsender` (7).
fn is_ours(postmaster: Pid, pid: i32) -> bool {
    children(postmaster).contains(&pid) && is_titled(pid)
}

/// A process of this postmaster sends its log to somebody. That it cannot be looked at says nothing, so it may.
pub fn any(postmaster: Pid) -> bool {
    let children = children(postmaster);
    children.is_empty() || children.into_iter().any(is_titled)
}

fn children(postmaster: Pid) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn is_titled(pid: i32) -> bool {
    let title = title(pid).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    title.contains("wal sender") || title.contains("walsender")
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    String::from_utf8_lossy(&stat).rsplit_once(')')?.1.split_whitespace().next()?.chars().next()
}

/// Its connection to that port of its client, in whatever state (`man 5 proc_pid_net`).
fn connection(pid: i32, port: u16) -> io::Result<Option<Connection>> {
    let mut sockets = vec![];
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let fd = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        let inode = fs::read_link(&path).ok().and_then(|to| inode(&to));
        sockets.extend(fd.zip(inode));
    }
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let lines: Vec<_> = tables.iter().flatten().flat_map(|table| table.lines()).filter_map(|line| entry(line, port)).collect();
    let of = |(fd, inode): &(i32, String)| {
        let (_, state, unsent, unread) = lines.iter().find(|(of, ..)| of == inode)?;
        Some(Connection { fd: *fd, state: *state, unsent: *unsent, unread: *unread })
    };
    Ok(sockets.iter().find_map(of))
}

fn inode(link: &Path) -> Option<String> {
    Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

/// Inode, state, unsent and unread bytes of a line whose connection leads to that port.
fn entry(line: &str, port: u16) -> Option<(String, State, u64, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (_, theirs) = fields.get(2)?.rsplit_once(':')?;
    let (unsent, unread) = fields.get(4)?.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    (u16::from_str_radix(theirs, 16) == Ok(port)).then_some(())?;
    Some(((*fields.get(9)?).to_owned(), State::of(fields.get(3)?), hex(unsent)?, hex(unread)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const LINE: &str =
        "   1: 0100007F:1B59 0100007F:A30C 01 0001ED8E:00000022 02:00000A3C 00000000   101        0 2735388 2 0000 20 4 30 10 -1";

    #[test]
    fn a_connection_is_found_by_its_clients_port() {
        let is = |state| Some(("2735388".into(), state, 0x1_ED8E, 0x22));
        assert_eq!(entry(LINE, 0xA30C), is(State::Established));
        assert_eq!(entry(LINE, 0x1B59), None, "that is our own port");
        assert_eq!(entry(&LINE.replace(" 01 ", " 08 "), 0xA30C), is(State::HalfClosed), "the other side has closed it");
        assert_eq!(entry(&LINE.replace(" 01 ", " 05 "), 0xA30C), is(State::Other));
        assert!(State::HalfClosed.is_open() && !State::Other.is_open());
        assert_eq!(entry("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", 0xA30C), None);
    }

    #[test]
    fn its_own_connection_is_looked_at_with_what_waits_in_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        let me = std::process::id().cast_signed();
        let until = Instant::now() + ENDING;
        while connection(me, peer.port()).unwrap().unwrap().unread != 6 {
            assert!(Instant::now() < until, "{:?}", connection(me, peer.port()));
        }
        server.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(connection(me, peer.port()).unwrap().unwrap().unread, 0);
        drop(client);
        while connection(me, peer.port()).unwrap().unwrap().state != State::HalfClosed {
            assert!(Instant::now() < until + ENDING, "{:?}", connection(me, peer.port()));
        }
    }

    #[test]
    fn a_process_that_is_no_walsender_of_ours_is_never_ended() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let sender = Sender {
            pid: other.id().cast_signed(),
            started: String::new(),
            state: "streaming".into(),
            client: Some(("127.0.0.1".into(), 1)),
            position: greenplum::replication::Position::default(),
        };
        assert!(matches!(end(Pid::this(), &sender), Err(Stays::NotOurs(_))), "our child, and no walsender");
        assert!(matches!(end(Pid::from_raw(1), &sender), Err(Stays::NotOurs(_))));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(matches!(end(Pid::this(), &sender), Ok(Ended::Before)));
    }
}
