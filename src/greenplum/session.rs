//! Sessions: one instance only (utility), or the whole cluster through the coordinator (dispatch).

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use futures::TryStreamExt;
use socket2::SockRef;
use tokio::{net::TcpStream, sync::oneshot};
use tokio_postgres::{
    CancelToken, Client, Config, NoTls, SimpleQueryMessage,
    error::SqlState,
    tls::MakeTlsConnect,
    types::{ToSql, Type},
};

use super::{
    Dialect,
    dialect::UnknownVersion,
    resolve::{Unresolved, resolve},
    settings,
    tls::{Tls, TlsFault},
    wire::{Guarded, MOST_ROWS, Strange},
};

/// Bound of connecting and logging in.
const CONNECT: Duration = Duration::from_secs(5);
/// Bound of one statement, kept by the server and, in case it hangs, by us.
const STATEMENT: Duration = Duration::from_secs(10);
/// Bound of taking leave.
const LEAVE: Duration = Duration::from_secs(1);

/// A server says so of text that it cannot convert, or that is not what its database's encoding allows.
const NO_UTF8: [&str; 2] = ["22021", "22P05"];

/// Who logs in, and over what kind of connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
    pub tls: Tls,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The name by which it is asked for, and which its certificate has to carry.
    pub host: String,
    pub port: u16,
    pub database: String,
    /// Its address, when it is known without the name; else the name is resolved at each connection.
    pub at: Option<IpAddr>,
}

impl Server {
    /// Database `postgres`; its name says where.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, database: "postgres".into(), at: None }
    }

    /// From `host:port`; an address of IPv6 stands in brackets there, and nowhere else.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').map_or(Some(host), |rest| rest.strip_suffix(']')).filter(|host| !host.is_empty())?;
        Some(Self::new(host, port.parse().ok()?))
    }

    /// The same by its address.
    #[must_use]
    pub fn at(self, address: IpAddr) -> Self {
        Self { at: Some(address), ..self }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// Why there is no session, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// 57M02: a healthy mirror refuses every client so (docs/greenplum.md#what-a-mirror-answers).
    #[error("{0} is a mirror in recovery")]
    InRecovery(Server),
    /// 57P03: it starts up, or shuts down.
    #[error("{0} is starting up or shutting down")]
    NotYet(Server),
    /// 28xxx: password, role or pg_hba.
    #[error("{server} refuses the login: {message}; check the credentials secret and pg_hba.conf")]
    LoginRefused { server: Server, message: String },
    #[error("{server}: {fault}")]
    Tls { server: Server, fault: TlsFault },
    #[error("{server} did not answer within {seconds} s")]
    TimedOut { server: Server, seconds: u64 },
    #[error("{server} cannot be reached: {message}")]
    Unreachable { server: Server, message: String },
    #[error("{server} is no Greenplum: {message}")]
    NotGreenplum { server: Server, message: String },
    #[error("{server}: {strange}")]
    Strange { server: Server, strange: Strange },
    #[error("{server} is no acting coordinator: {message}")]
    NotCoordinator { server: Server, message: String },
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    #[error("{server}: {message}")]
    Statement { server: Server, message: String, code: Option<String> },
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub server: Server,
    pub dialect: Dialect,
    /// What a tool's own sessions with this server are told at login, so that they are bounded by nothing either; empty for a
    /// session that dispatches.
    pub tool_options: String,
    /// Where the server was found.
    at: SocketAddr,
    tls: Tls,
    _connection: Connection,
}

/// The session's hold on the task that carries it. The task takes leave of the server as the protocol has it (over TLS,
/// a server writes a line into its log for each client that just goes away), and ends soon after the session, also when a
/// stopped server owes it an answer: otherwise every look at such a server would leave a task and a socket behind.
#[derive(Debug)]
struct Connection {
    _held: oneshot::Sender<Infallible>,
}

impl Connection {
    fn carry(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) -> Self {
        let (held, dropped) = oneshot::channel();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                _ = dropped => tokio::time::timeout(LEAVE, connection).await.unwrap_or(Ok(())),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a database session ended");
            }
        });
        Self { _held: held }
    }
}

impl Session {
    /// A session that sees this one instance only. Without a hint the dialect is found by asking for
    /// Greenplum 6's option first: every version either knows it as "utility" or refuses the name, while
    /// Greenplum 7's `gp_role` means something else on 6 (docs/greenplum.md#utility-mode).
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn utility(server: &Server, login: &Login, hint: Option<Dialect>) -> Result<Self, SessionError> {
        Self::short(server, login, hint).await?.with_our_settings().await
    }

    /// The same for a look of a moment, which is made every few seconds by every supervisor: what it is told at login is all
    /// that a single statement of ours depends on, and saves one that would set the rest.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn short(server: &Server, login: &Login, hint: Option<Dialect>) -> Result<Self, SessionError> {
        let first = hint.unwrap_or(Dialect::Six);
        match connect(server, login, first.utility_option()).await {
            Err(SessionError::NotGreenplum { .. }) if hint.is_none() => connect(server, login, Dialect::Seven.utility_option()).await,
            other => other,
        }
    }

    /// Free of what role, database or server have set for sessions.
    async fn with_our_settings(self) -> Result<Self, SessionError> {
        let statement = settings::statement();
        let Ok(answer) = tokio::time::timeout(STATEMENT, self.client.simple_query(&statement)).await else {
            return Err(SessionError::TimedOut { server: self.server.clone(), seconds: STATEMENT.as_secs() });
        };
        let rows = answer.map_err(|error| classify(&self.server, &error))?;
        let name = |message| if let SimpleQueryMessage::Row(row) = message { row.get(0).map(str::to_owned) } else { None };
        let known: Vec<String> = rows.into_iter().filter_map(name).collect();
        Ok(Self { tool_options: settings::options(&known), ..self })
    }

    /// A session that dispatches; on the coordinator only. It may hang while segments are away (docs/greenplum.md#sessions-that-dispatch).
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn dispatch(server: &Server, login: &Login) -> Result<Self, SessionError> {
        connect(server, login, "").await
    }

    /// Rows of a statement without parameters, bounded in time.
    ///
    /// # Errors
    /// [`SessionError::Statement`], [`SessionError::TimedOut`]
    pub async fn rows(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, SessionError> {
        self.rows_within(sql, STATEMENT).await
    }

    /// The same of text that people wrote, of which the server may not be able to make UTF-8: the session gets it as bytes then.
    /// Not for one that dispatches, as each segment would be told.
    ///
    /// # Errors
    /// [`SessionError::Statement`], [`SessionError::TimedOut`]
    pub async fn rows_of_bytes(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, SessionError> {
        match self.rows(sql).await {
            Err(SessionError::Statement { code: Some(code), .. }) if NO_UTF8.contains(&code.as_str()) => {
                self.rows(settings::AS_BYTES).await?;
                self.rows(sql).await
            }
            read => read,
        }
    }

    /// The same with a bound of its own.
    ///
    /// # Errors
    /// [`SessionError::Statement`], [`SessionError::TimedOut`]
    pub async fn rows_within(&self, sql: &str, bound: Duration) -> Result<Vec<tokio_postgres::Row>, SessionError> {
        let cancel = self.client.cancel_token();
        if let Ok(answer) = tokio::time::timeout(bound, self.read(sql)).await {
            return answer;
        }
        // A dropped future does not end the server's statement.
        let _ = tokio::time::timeout(CONNECT, self.cancel(&cancel)).await;
        Err(SessionError::TimedOut { server: self.server.clone(), seconds: bound.as_secs() })
    }

    async fn read(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, SessionError> {
        let failed = |error| classify(&self.server, &error);
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut coming = pin!(self.client.query_typed_raw(sql, none).await.map_err(failed)?);
        let mut rows = vec![];
        while let Some(row) = coming.try_next().await.map_err(failed)? {
            if rows.len() == MOST_ROWS {
                return Err(SessionError::Strange { server: self.server.clone(), strange: Strange::Endless });
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Has the server give up the statement; whether it does, nobody waits for.
    async fn cancel(&self, token: &CancelToken) -> Option<()> {
        let stream = dial(self.at).await.ok()?;
        match &self.tls {
            Tls::Disable => token.cancel_query_raw(stream, NoTls).await.ok(),
            tls => {
                let mut connector = tls.connector().ok()?;
                let encrypted = MakeTlsConnect::<Guarded<TcpStream>>::make_tls_connect(&mut connector, &self.server.host).ok()?;
                token.cancel_query_raw(stream, encrypted).await.ok()
            }
        }
    }

    /// One statement whose rows nobody needs.
    ///
    /// # Errors
    /// [`SessionError::Statement`], [`SessionError::TimedOut`]
    pub async fn run(&self, sql: &str, bound: Duration) -> Result<(), SessionError> {
        match tokio::time::timeout(bound, self.client.batch_execute(sql)).await {
            Ok(done) => done.map_err(|error| classify(&self.server, &error)),
            Err(_) => Err(SessionError::TimedOut { server: self.server.clone(), seconds: bound.as_secs() }),
        }
    }

    /// The session is still there, as far as we know, and another one would be no different: of other authorities only
    /// new connections take note, of another mode all.
    pub fn serves(&self, server: &Server, tls: &Tls) -> bool {
        !self.client.is_closed() && self.server == *server && std::mem::discriminant(&self.tls) == std::mem::discriminant(tls)
    }
}

async fn connect(server: &Server, login: &Login, options: &str) -> Result<Session, SessionError> {
    let ip = match server.at {
        Some(ip) => ip,
        None => resolve(&server.host).await?,
    };
    let at = SocketAddr::new(ip, server.port);
    let mut config = Config::new();
    config.dbname(&server.database).user(&login.user).password(&login.password).application_name("gpheal");
    config.ssl_mode(login.tls.ssl_mode()).options(format!("{options} {}", settings::AT_LOGIN));
    let (client, connection, version) = match &login.tls {
        Tls::Disable => open(server, at, &config, &login.tls, NoTls).await?,
        tls => {
            let connector = tls.connector().map_err(|fault| SessionError::Tls { server: server.clone(), fault })?;
            open(server, at, &config, tls, connector).await?
        }
    };
    let dialect = Dialect::from_server_version(&version)?;
    Ok(Session {
        client,
        server: server.clone(),
        dialect,
        tool_options: String::new(),
        at,
        tls: login.tls.clone(),
        _connection: connection,
    })
}

/// A connection on which a server's word is bounded; one whose other side is gone is noticed while something is owed.
async fn dial(at: SocketAddr) -> io::Result<Guarded<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_keepalive(true)?;
    socket.set_tcp_user_timeout(Some(STATEMENT))?;
    Ok(Guarded::new(stream))
}

/// Opens a connection, bounded in time, and has a task carry it. With it comes the version that the server told while
/// we logged in: asking would be a statement more.
async fn open<T>(
    server: &Server,
    at: SocketAddr,
    config: &Config,
    tls: &Tls,
    mut connector: T,
) -> Result<(Client, Connection, String), SessionError>
where
    T: MakeTlsConnect<Guarded<TcpStream>, Stream: Send + 'static>,
{
    let named = |fault| SessionError::Tls { server: server.clone(), fault };
    let encrypted = connector.make_tls_connect(&server.host).map_err(|error| {
        let error: Box<dyn std::error::Error + Send + Sync> = error.into();
        named(TlsFault::NameMismatch { asked: server.host.clone(), why: error.to_string() })
    })?;
    let opening = async {
        let unreachable = |error: io::Error| SessionError::Unreachable { server: server.clone(), message: error.to_string() };
        let stream = dial(at).await.map_err(unreachable)?;
        let bound = stream.bound();
        let connected = config.connect_raw(stream, encrypted).await.map_err(|error| match tls.fault(&error, &server.host) {
            Some(fault) => named(fault),
            None => classify(server, &error),
        });
        bound.widen();
        connected
    };
    let timed_out = |_| SessionError::TimedOut { server: server.clone(), seconds: CONNECT.as_secs() };
    let (client, connection) = tokio::time::timeout(CONNECT, opening).await.map_err(timed_out)??;
    let version = connection.parameter("server_version").unwrap_or_default().to_owned();
    Ok((client, Connection::carry(connection), version))
}

/// How the client library calls an answer that is none; it has no code for it.
const OUT_OF_ORDER: [&str; 2] = ["unexpected message from server", "error parsing response from server"];

/// Decides on SQLSTATE; the text is for people.
pub(super) fn classify(server: &Server, error: &tokio_postgres::Error) -> SessionError {
    let server = server.clone();
    let message = model::error::chain(error); // tokio-postgres shows its source no more
    if let Some(strange) = Strange::within(error) {
        return SessionError::Strange { server, strange };
    }
    let Some(code) = error.code() else {
        let strange = OUT_OF_ORDER.iter().any(|words| message.starts_with(words));
        return if strange {
            SessionError::Strange { server, strange: Strange::OutOfOrder(message) }
        } else {
            SessionError::Unreachable { server, message }
        };
    };
    match code.code() {
        "57M02" => SessionError::InRecovery(server),
        _ if *code == SqlState::CANNOT_CONNECT_NOW || *code == SqlState::ADMIN_SHUTDOWN => SessionError::NotYet(server),
        class if class.starts_with("28") => SessionError::LoginRefused { server, message },
        "42704" => SessionError::NotGreenplum { server, message },
        other => SessionError::Statement { server, message, code: Some(other.to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Lets the next client in, and gives back what it said at login.
    async fn let_in(listener: &TcpListener) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut startup = vec![0; length as usize - 4];
        stream.read_exact(&mut startup).await.unwrap();
        let said = [&b"R\0\0\0\x08\0\0\0\0"[..], b"S\0\0\0\x1aserver_version\09.4.26\0", b"Z\0\0\0\x05I"].concat();
        stream.write_all(&said).await.unwrap();
        (stream, String::from_utf8_lossy(&startup).into_owned())
    }

    /// A server's side of a session, just logged in, and the session.
    async fn logged_in() -> (TcpStream, Session) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new("127.0.0.1", listener.local_addr().unwrap().port());
        let login = Login { user: "gpadmin".into(), password: "secret".into(), tls: Tls::Disable };
        let ((stream, _), session) = tokio::join!(let_in(&listener), Session::dispatch(&server, &login));
        (stream, session.unwrap())
    }

    /// The one statement of a utility session, answered with the names of what the server knows.
    async fn set(stream: &mut TcpStream, known: &[&str]) -> String {
        let mut kind = [0; 1];
        stream.read_exact(&mut kind).await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut statement = vec![0; length as usize - 4];
        stream.read_exact(&mut statement).await.unwrap();
        let mut answer = b"T\0\0\0\x1d\0\x01name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0".to_vec();
        for name in known {
            let length = u32::try_from(name.len()).unwrap();
            answer.extend([&b"D"[..], &(10 + length).to_be_bytes(), b"\0\x01", &length.to_be_bytes(), name.as_bytes()].concat());
        }
        answer.extend(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        stream.write_all(&answer).await.unwrap();
        String::from_utf8_lossy(&statement).into_owned()
    }

    #[tokio::test]
    async fn what_a_role_has_set_is_set_anew_as_far_as_the_server_knows_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new("127.0.0.1", listener.local_addr().unwrap().port());
        let login = Login { user: "gpadmin".into(), password: "secret".into(), tls: Tls::Disable };
        let lets_in = async {
            let (mut stream, startup) = let_in(&listener).await;
            let statement = set(&mut stream, &["statement_timeout", "lock_timeout"]).await;
            (startup, statement, stream)
        };
        let ((startup, statement, _stream), session) = tokio::join!(lets_in, Session::utility(&server, &login, None));
        assert!(startup.contains("-c statement_timeout=0") && !startup.contains("idle"), "{startup}");
        assert!(statement.contains("('idle_session_timeout', '0')") && statement.contains("pg_settings"), "{statement}");
        assert_eq!(session.unwrap().tool_options, "-c statement_timeout=0 -c lock_timeout=0");
    }

    /// What a supervisor asks every few seconds is no more than the login and its question.
    #[tokio::test]
    async fn a_short_look_is_told_all_at_login_and_sends_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new("127.0.0.1", listener.local_addr().unwrap().port());
        let login = Login { user: "gpadmin".into(), password: "secret".into(), tls: Tls::Disable };
        let ((mut stream, startup), session) = tokio::join!(let_in(&listener), Session::short(&server, &login, None));
        assert!(startup.contains("-c standard_conforming_strings=on") && startup.contains("-c search_path= "), "{startup}");
        drop(session.unwrap());
        assert_eq!(heard(&mut stream).await, b"X\0\0\0\x04", "no statement but its leave");
    }

    #[test]
    fn an_address_of_ipv6_stands_in_brackets() {
        let parsed = |text| Server::parse(text).map(|server| (server.host.clone(), server.port, server.to_string()));
        assert_eq!(parsed("[fd00::1]:5432"), Some(("fd00::1".into(), 5432, "[fd00::1]:5432".into())));
        assert_eq!(parsed("gp-coordinator-0.gp:5432"), Some(("gp-coordinator-0.gp".into(), 5432, "gp-coordinator-0.gp:5432".into())));
        assert_eq!((parsed("[fd00::1:5432"), parsed("[]:5432"), parsed(":5432"), parsed("gp")), (None, None, None, None));
    }

    async fn heard(stream: &mut TcpStream) -> Vec<u8> {
        let mut heard = vec![];
        tokio::time::timeout(LEAVE * 5, stream.read_to_end(&mut heard)).await.expect("the socket stays").unwrap();
        heard
    }

    #[tokio::test]
    async fn a_session_takes_leave_of_its_server() {
        let (mut stream, session) = logged_in().await;
        drop(session);
        assert_eq!(heard(&mut stream).await, b"X\0\0\0\x04");
    }

    #[tokio::test]
    async fn a_server_that_owes_an_answer_keeps_no_socket() {
        let (mut stream, session) = logged_in().await;
        let asked = session.run("SELECT 1", Duration::from_millis(50)).await;
        assert!(matches!(asked, Err(SessionError::TimedOut { .. })), "{asked:?}");
        drop(session);
        assert_eq!(heard(&mut stream).await.first(), Some(&b'Q'));
    }
}
