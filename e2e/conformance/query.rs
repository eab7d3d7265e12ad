//! Sessions with the servers, and what they answer.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const PATIENCE: Duration = Duration::from_secs(40);

/// A session; it ends with its value.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

/// Why a server did not do what it was asked.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: String,
}

pub async fn connect(port: u16, options: &str) -> Result<Session, tokio_postgres::Error> {
    connect_as(&user(), port, options).await
}

pub async fn connect_as(user: &str, port: u16, options: &str) -> Result<Session, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).dbname("postgres").user(user).options(options);
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(async {
        // The next call of the client says why it ended.
        let _ = connection.await;
    });
    Ok(Session { client, driver })
}

/// The superuser is whoever ran initdb.
pub fn user() -> String {
    if nix::unistd::Uid::effective().is_root() { "postgres".into() } else { std::env::var("USER").unwrap_or_default() }
}

impl Session {
    /// The rows as text, columns joined by `|`.
    pub async fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let answer = timeout(PATIENCE, self.client.simple_query(sql)).await;
        let messages = answer.with_context(|| format!("no answer: {sql}"))?.with_context(|| sql.to_owned())?;
        Ok(messages.iter().filter_map(to_line).collect())
    }

    pub async fn value(&self, sql: &str) -> Result<String> {
        self.rows(sql).await?.pop().with_context(|| format!("no row: {sql}"))
    }

    pub async fn refused(&self, sql: &str) -> Result<Refusal> {
        let answer = timeout(PATIENCE, self.client.simple_query(sql)).await;
        match answer.with_context(|| format!("no answer: {sql}"))? {
            Ok(_) => bail!("was not refused: {sql}"),
            Err(error) => Refusal::of(&error),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Refusal {
    pub fn of(error: &tokio_postgres::Error) -> Result<Self> {
        let said = error.as_db_error().with_context(|| format!("not refused by the server: {error}"))?;
        Ok(Self {
            code: said.code().code().to_owned(),
            message: said.message().to_owned(),
            detail: said.detail().unwrap_or_default().to_owned(),
        })
    }

    pub fn expect(&self, code: &str, message: &str) -> Result<()> {
        ensure!(
            self.code == code && self.message.contains(message),
            "expected {code} {message:?}, was refused with {} {:?}",
            self.code,
            self.message
        );
        Ok(())
    }
}

/// A connection that must not come about.
pub async fn refused_connection(port: u16, options: &str) -> Result<Refusal> {
    match connect(port, options).await {
        Ok(_) => bail!("port {port} let a session in ({options:?})"),
        Err(error) => Refusal::of(&error),
    }
}

pub fn expect_same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<()> {
    ensure!(seen == expected, "{what}: expected {expected:?}, saw {seen:?}");
    Ok(())
}

pub fn pairs(lines: &[String]) -> BTreeMap<String, String> {
    lines.iter().filter_map(|line| line.split_once('|')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn to_line(message: &SimpleQueryMessage) -> Option<String> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let values: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect();
    Some(values.join("|"))
}
