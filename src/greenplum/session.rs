//! Sessions: one instance only (utility), or the whole cluster through the coordinator (dispatch).

use std::{net::IpAddr, time::Duration};

use tokio_postgres::{Client, Config, NoTls, Socket, error::SqlState, tls::MakeTlsConnect};

use super::{
    Dialect,
    dialect::UnknownVersion,
    resolve::{Unresolved, resolve},
    tls::{Tls, TlsFault},
};

/// Bound of connecting and logging in.
const CONNECT: Duration = Duration::from_secs(5);
/// Bound of one statement, kept by the server and, in case it hangs, by us.
const STATEMENT: Duration = Duration::from_secs(10);

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

    /// From `host:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
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
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why there is no session, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// 57M02: a healthy mirror refuses every client so (O §2).
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
    #[error("{server} can not be reached: {message}")]
    Unreachable { server: Server, message: String },
    #[error("{server} is no Greenplum: {message}")]
    NotGreenplum { server: Server, message: String },
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    #[error("{server}: {message}")]
    Statement { server: Server, message: String, code: Option<String> },
}

impl SessionError {
    /// Stable word for conditions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LoginRefused { .. } => "LoginRefused",
            Self::Tls { fault, .. } => fault.code(),
            _ => "CoordinatorUnreachable",
        }
    }
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub server: Server,
    pub dialect: Dialect,
    tls: Tls,
    _connection: Connection,
}

/// The task that carries a session. It ends with the session, also when a stopped server owes it an answer:
/// otherwise every look at such a server would leave a task and a socket behind.
#[derive(Debug)]
struct Connection(tokio::task::AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// A session that sees this one instance only. Without a hint the dialect is found by asking for
    /// Greenplum 6's option first: every version either knows it as "utility" or refuses the name, while
    /// Greenplum 7's `gp_role` means something else on 6 (reference §1.4).
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn utility(server: &Server, login: &Login, hint: Option<Dialect>) -> Result<Self, SessionError> {
        let first = hint.unwrap_or(Dialect::Six);
        match connect(server, login, first.utility_option()).await {
            Err(SessionError::NotGreenplum { .. }) if hint.is_none() => connect(server, login, Dialect::Seven.utility_option()).await,
            other => other,
        }
    }

    /// A session that dispatches; on the coordinator only. It may hang while segments are away (O §8).
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

    /// The same with a bound of its own.
    ///
    /// # Errors
    /// [`SessionError::Statement`], [`SessionError::TimedOut`]
    pub async fn rows_within(&self, sql: &str, bound: Duration) -> Result<Vec<tokio_postgres::Row>, SessionError> {
        let cancel = self.client.cancel_token();
        if let Ok(answer) = tokio::time::timeout(bound, self.client.query_typed(sql, &[])).await {
            return answer.map_err(|error| classify(&self.server, &error));
        }
        // A dropped future does not end the server's statement.
        let _ = tokio::time::timeout(CONNECT, async {
            match self.tls.connector() {
                Ok(connector) if self.tls != Tls::Disable => cancel.cancel_query(connector).await,
                _ => cancel.cancel_query(NoTls).await,
            }
        })
        .await;
        Err(SessionError::TimedOut { server: self.server.clone(), seconds: bound.as_secs() })
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
    let mut config = Config::new();
    config.hostaddr(ip).host(&server.host).port(server.port).dbname(&server.database);
    config.user(&login.user).password(&login.password).application_name("gpheal").ssl_mode(login.tls.ssl_mode());
    config.connect_timeout(CONNECT).tcp_user_timeout(STATEMENT).options(options);
    let (client, connection) = match &login.tls {
        Tls::Disable => open(server, &config, &login.tls, NoTls).await?,
        tls => {
            let connector = tls.connector().map_err(|fault| SessionError::Tls { server: server.clone(), fault })?;
            open(server, &config, tls, connector).await?
        }
    };
    prepare(client, server, &login.tls, connection).await
}

/// Opens a connection, bounded in time, and has a task carry it.
async fn open<T>(server: &Server, config: &Config, tls: &Tls, connector: T) -> Result<(Client, Connection), SessionError>
where
    T: MakeTlsConnect<Socket, Stream: Send + 'static>,
{
    let timed_out = |_| SessionError::TimedOut { server: server.clone(), seconds: CONNECT.as_secs() };
    let opened = tokio::time::timeout(CONNECT, config.connect(connector)).await.map_err(timed_out)?;
    let (client, connection) = opened.map_err(|error| match tls.fault(&error, &server.host) {
        Some(fault) => SessionError::Tls { server: server.clone(), fault },
        None => classify(server, &error),
    })?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database session ended");
        }
    });
    Ok((client, Connection(task.abort_handle())))
}

/// Asks for the version, and empties the search path as Greenplum's own tools do.
async fn prepare(client: Client, server: &Server, tls: &Tls, connection: Connection) -> Result<Session, SessionError> {
    let session = Session { client, server: server.clone(), dialect: Dialect::Seven, tls: tls.clone(), _connection: connection };
    let rows =
        session.rows("SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.set_config('search_path', '', false)").await?;
    let number: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    let dialect = Dialect::from_server_version_num(number.parse().unwrap_or(0))?;
    Ok(Session { dialect, ..session })
}

/// Decides on SQLSTATE; the text is for people.
pub(super) fn classify(server: &Server, error: &tokio_postgres::Error) -> SessionError {
    let server = server.clone();
    let message = crate::error::chain(error); // tokio-postgres shows its source no more
    let Some(code) = error.code() else {
        return SessionError::Unreachable { server, message };
    };
    match code.code() {
        "57M02" => SessionError::InRecovery(server),
        _ if *code == SqlState::CANNOT_CONNECT_NOW || *code == SqlState::ADMIN_SHUTDOWN => SessionError::NotYet(server),
        class if class.starts_with("28") => SessionError::LoginRefused { server, message },
        "42704" => SessionError::NotGreenplum { server, message },
        other => SessionError::Statement { server, message, code: Some(other.to_owned()) },
    }
}
