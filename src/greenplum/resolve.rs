//! Names to addresses, in the program itself: the binary is static, and a static glibc's
//! `getaddrinfo` would load the name-service modules of whatever image it was copied into.

use std::net::IpAddr;

use hickory_resolver::{Resolver, TokioResolver};

/// A name that has no address now.
#[derive(Debug, thiserror::Error)]
#[error("the name {host} can not be resolved ({why}); check the headless service and publishNotReadyAddresses")]
pub struct Unresolved {
    host: String,
    why: String,
}

/// The first address of `host`, by `/etc/resolv.conf` with its search domains; IPv4 first, as Greenplum does
/// (`src/backend/cdb/cdbutil.c`).
///
/// # Errors
/// [`Unresolved`]
pub async fn resolve(host: &str) -> Result<IpAddr, Unresolved> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let unresolved = |why: String| Unresolved { host: host.to_owned(), why };
    let lookup = resolver().map_err(|e| unresolved(e.to_string()))?.lookup_ip(host).await.map_err(|e| unresolved(e.to_string()))?;
    let all: Vec<IpAddr> = lookup.iter().collect();
    all.iter().find(|ip| ip.is_ipv4()).or(all.first()).copied().ok_or_else(|| unresolved("no address".into()))
}

/// A fresh resolver each time: pods' addresses change, and nothing may be cached over a restart.
fn resolver() -> Result<TokioResolver, Box<dyn std::error::Error + Send + Sync>> {
    let mut builder = Resolver::builder_tokio()?;
    builder.options_mut().cache_size = 0;
    Ok(builder.build()?)
}
