//! Names to addresses, in the program itself: the binary is static, and a static glibc's
//! `getaddrinfo` would load the name-service modules of whatever image it was copied into.

use std::net::IpAddr;

use hickory_resolver::{Resolver, TokioResolver, net::NetError};

/// A name that has no address now.
#[derive(Debug, thiserror::Error)]
#[error("the name {host} cannot be resolved ({why}); check the headless service and publishNotReadyAddresses")]
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
    let resolver = resolver().map_err(|error| unresolved(format!("/etc/resolv.conf cannot be used: {error}")))?;
    let lookup = resolver.lookup_ip(host).await.map_err(|error| unresolved(plainly(&error)))?;
    let all: Vec<IpAddr> = lookup.iter().collect();
    all.iter().find(|ip| ip.is_ipv4()).or(all.first()).copied().ok_or_else(|| unresolved(NO_ADDRESS.into()))
}

const NO_ADDRESS: &str = "the name has no address";

/// The library tells its query as it is made of; people want to know what came of it.
fn plainly(error: &NetError) -> String {
    match error {
        error if error.is_nx_domain() => "there is no such name".into(),
        error if error.is_no_records_found() => NO_ADDRESS.into(),
        NetError::Timeout => "no name server answered in time".into(),
        NetError::NoConnections => "no name server can be reached".into(),
        NetError::Io(error) => format!("no name server can be reached: {error}"),
        other => format!("the name servers gave no usable answer: {other}"),
    }
}

/// A fresh resolver each time: pods' addresses change, and nothing may be cached over a restart.
fn resolver() -> Result<TokioResolver, Box<dyn std::error::Error + Send + Sync>> {
    let mut builder = Resolver::builder_tokio()?;
    builder.options_mut().cache_size = 0;
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
    };
    use tokio::net::UdpSocket;

    use super::*;

    /// What is told of a name whose server answers with this code, or never.
    async fn told(code: Option<u8>) -> String {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                let Some(code) = code else { continue };
                // The question as it came, answered: recursion is available, and this is the code.
                (query[2], query[3]) = (query[2] | 0x80, 0x80 | code);
                query[10..12].fill(0); // without the additional record, which is left out
                let question = length.min(query.len());
                let end = 12 + query[12..question].iter().position(|byte| *byte == 0).unwrap() + 5;
                socket.send_to(&query[..end], from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let servers = vec![NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection])];
        let mut builder = Resolver::builder_with_config(ResolverConfig::from_parts(None, vec![], servers), TokioRuntimeProvider::default());
        (builder.options_mut().attempts, builder.options_mut().timeout) = (0, std::time::Duration::from_millis(300));
        let error = builder.build().unwrap().lookup_ip("nobody.gp.").await.unwrap_err();
        server.abort();
        plainly(&error)
    }

    #[tokio::test]
    async fn what_came_of_a_name_is_told_in_a_sentence() {
        assert_eq!(told(Some(3)).await, "there is no such name");
        assert_eq!(told(Some(0)).await, NO_ADDRESS);
        assert_eq!(told(None).await, "no name server answered in time");
    }
}
