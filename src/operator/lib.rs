//! `gpheal operator`: wiring of watches, lease, HTTP and one driver per cluster.

pub mod apply;
pub mod clusters;
pub mod driver;
pub mod error;
pub mod http;
pub mod lease;
pub mod observe;
pub mod orphans;
pub mod report;
mod undriven;
pub mod wakers;
pub mod watches;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Context as _;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    driver::Context,
    http::Health,
    lease::{Lease, LeaseLost},
};
use crate::report::{events::Sender, metrics::Metrics};

/// How the operator runs.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Heal clusters of these namespaces only, separated by commas; of all namespaces when none is named.
    #[arg(long, env = "GPHEAL_NAMESPACES", value_delimiter = ',', value_parser = namespace)]
    pub namespaces: Vec<String>,
    /// Namespace of the lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "gpheal-system")]
    pub lease_namespace: String,
    /// Name of the lease: one operator at a time holds it.
    #[arg(long, env = "GPHEAL_LEASE", default_value = "gpheal")]
    pub lease_name: String,
    /// Who holds the lease: unique per pod.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Image of gpheal for the Jobs; without it, the one that the segments' pods install from.
    #[arg(long, env = "GPHEAL_IMAGE")]
    pub image: Option<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "GPHEAL_METRICS_ADDR", default_value = "[::]:8080")]
    pub metrics_addr: SocketAddr,
}

/// An empty name would mean all namespaces to the API, which is more than was asked for.
fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = (1..=63).contains(&text.len()) && text.chars().all(allowed);
    is_name.then(|| text.to_owned()).ok_or_else(|| "it is no name of a namespace; leave the option out to watch all of them".to_owned())
}

/// Runs until it is told to stop, or until the lease is lost.
///
/// # Errors
/// What keeps it from running; a lost lease, too: whoever holds it now acts alone.
pub fn main(options: Options) -> anyhow::Result<()> {
    // Two providers may be compiled in by others' features; which one is used is decided here, once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One thread for the drivers, which wait nearly all the time; the lease is kept on this one, whatever they do. Each
    // thread more would have its own share of memory that was freed and is kept.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(run(options));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn run(options: Options) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let health = Health::default();
    let listener = web::serve::listen(options.metrics_addr)
        .with_context(|| format!("cannot listen on {}; choose another --metrics-addr", options.metrics_addr))?;
    let http = http::serve(listener, metrics.clone(), health.clone());
    tokio::select! {
        ended = http => ended.context("the HTTP server ended"),
        ended = lead(&options, metrics, health) => ended,
    }
}

/// A name that no other process has, where none is given: every container's first process has the same number, and two of one name would
/// each renew the other's lease.
fn identity() -> String {
    format!("gpheal-{:016x}", RandomState::new().build_hasher().finish())
}

async fn lead(options: &Options, metrics: Metrics, health: Health) -> anyhow::Result<()> {
    let mut config = Config::infer().await.context("cannot tell how to reach the Kubernetes API")?;
    config.connect_timeout = Some(Duration::from_secs(10));
    let client = Client::try_from(config).context("cannot make a client of the Kubernetes API")?;
    let identity = options.identity.clone().unwrap_or_else(identity);
    let mut lease = Lease::new(client.clone(), &options.lease_namespace, &options.lease_name, &identity);
    let context =
        Context { client: client.clone(), metrics: metrics.clone(), events: Sender::new(client, &identity), image: options.image.clone() };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let led = async {
        lease.acquire(&health).await;
        metrics.leading(true);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %identity, "this operator leads");
        tokio::select! {
            LeaseLost = lease.keep() => Err(anyhow::anyhow!("the lease was lost; whoever holds it now acts alone")),
            () = clusters::run(context, &options.namespaces) => Err(anyhow::anyhow!("the watches ended")),
        }
    };
    let stopped = tokio::select! {
        ended = led => return ended,
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = stopped, "stops; running Jobs go on, and the next operator finds them");
    lease.release().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn two_that_are_given_no_name_have_two() {
        assert_ne!(identity(), identity());
    }

    fn namespaces(argument: &str) -> Result<Vec<String>, String> {
        Line::try_parse_from(["gpheal", argument]).map(|line| line.options.namespaces).map_err(|error| error.to_string())
    }

    #[test]
    fn namespaces_are_listed_and_an_empty_name_is_not_all_of_them() {
        assert_eq!(namespaces("--namespaces=one,two").unwrap(), ["one", "two"]);
        for wrong in ["--namespaces=", "--namespaces=one,", "--namespaces=One", "--namespaces=a/b"] {
            assert!(namespaces(wrong).unwrap_err().contains("leave the option out"), "{wrong}");
        }
    }
}
