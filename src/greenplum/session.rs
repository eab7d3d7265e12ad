//! Sessions: one instance only (utility), or the whole cluster through the coordinator (dispatch).

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls, config::SslMode, error::SqlState};

use super::{
    Dialect,
    dialect::UnknownVersion,
    resolve::{Unresolved, resolve},
};

/// Bound of connecting and logging in.
const CONNECT: Duration = Duration::from_secs(5);
/// Bound of one statement, kept by the server and, in case it hangs, by us.
const STATEMENT: Duration = Duration::from_secs(10);

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a server listens; a name is resolved at each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub database: String,
}

impl Server {
    /// From `host:port`, database `postgres`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()?, database: "postgres".into() })
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

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub server: Server,
    pub dialect: Dialect,
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
        let _ = tokio::time::timeout(CONNECT, cancel.cancel_query(NoTls)).await;
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

    /// The session is still there, as far as we know.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}

async fn connect(server: &Server, login: &Login, options: &str) -> Result<Session, SessionError> {
    let ip = resolve(&server.host).await?;
    let mut config = Config::new();
    config.hostaddr(ip).host(&server.host).port(server.port).dbname(&server.database);
    config.user(&login.user).password(&login.password).application_name("gpheal").ssl_mode(SslMode::Disable);
    config.connect_timeout(CONNECT).tcp_user_timeout(STATEMENT).options(options);
    let timed_out = |_| SessionError::TimedOut { server: server.clone(), seconds: CONNECT.as_secs() };
    let opened = tokio::time::timeout(CONNECT, config.connect(NoTls)).await.map_err(timed_out)?;
    let (client, connection) = opened.map_err(|error| classify(server, &error))?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database session ended");
        }
    });
    prepare(client, server, Connection(task.abort_handle())).await
}

/// Asks for the version, and empties the search path as Greenplum's own tools do.
async fn prepare(client: Client, server: &Server, connection: Connection) -> Result<Session, SessionError> {
    let session = Session { client, server: server.clone(), dialect: Dialect::Seven, _connection: connection };
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
