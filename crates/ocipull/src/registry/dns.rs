//! Names to addresses, without the C library's NSS: a static binary cannot load its modules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::target::is_link_local_address;
use super::timing;

/// Why a name has no usable address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The system's configuration cannot be read.
    #[error("cannot resolve {name:?}: cannot read /etc/resolv.conf: {reason}")]
    Configuration {
        /// The host.
        name: String,
        /// Why.
        reason: String,
    },
    /// No name server answers.
    #[error("cannot resolve {name:?}: timed out looking up the name: no name server answers")]
    TimedOut {
        /// The host.
        name: String,
    },
    /// No name server knows it.
    #[error("cannot resolve {name:?}: {reason}")]
    Lookup {
        /// The host.
        name: String,
        /// Why.
        reason: String,
    },
    /// Only addresses that no registry has, and at which clouds serve secrets.
    #[error("cannot resolve {name:?}: it has link-local addresses only")]
    LinkLocal {
        /// The host.
        name: String,
    },
}

/// Asks /etc/hosts and the servers of /etc/resolv.conf. `localhost` needs neither (RFC 6761,
/// section 6.3). Addresses that clouds serve secrets at are left out, whatever name leads there.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    // Made by the first name that needs it: a pull from an address never reads the configuration.
    system: std::sync::Arc<OnceLock<TokioResolver>>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let system = std::sync::Arc::clone(&self.system);
        Box::pin(async move {
            let name = name.as_str();
            timing::looks_up();
            let found = if name == "localhost" || name.ends_with(".localhost") {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            } else {
                look_up(&system, name).await?
            };
            timing::looked_up();
            // The port is the URL's.
            let usable: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| !is_link_local_address(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if usable.is_empty() {
                return Err(DnsError::LinkLocal { name: name.into() }.into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

async fn look_up(system: &OnceLock<TokioResolver>, name: &str) -> Result<Vec<IpAddr>, DnsError> {
    let configuration =
        |error: NetError| DnsError::Configuration { name: name.into(), reason: error.to_string() };
    let resolver = match system.get() {
        Some(resolver) => resolver,
        None => {
            let mut builder = TokioResolver::builder_tokio().map_err(configuration)?;
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
            let made = builder.build().map_err(configuration)?;
            system.get_or_init(|| made)
        }
    };
    let found = resolver.lookup_ip(name).await.map_err(|error| failed(name, &error))?;
    Ok(found.iter().collect())
}

fn failed(name: &str, error: &NetError) -> DnsError {
    let name = name.to_owned();
    match error {
        NetError::Timeout => DnsError::TimedOut { name },
        error if error.is_no_records_found() => {
            DnsError::Lookup { name, reason: "no such host".into() }
        }
        other => DnsError::Lookup { name, reason: other.to_string() },
    }
}
