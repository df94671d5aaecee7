//! A host's TLS material, read: CAs to trust beside the system's, what the client shows of itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::{ConfigError, ConfigSources, TlsFiles, read_bytes};
use crate::host::RegistryHost;

/// How a connection to a host is made. Hosts with equal ones share their HTTP client.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whether any certificate is taken.
    pub(crate) skip_verify: bool,
    /// CA certificates in PEM, one or several in each.
    pub(crate) roots: Vec<Arc<[u8]>>,
    /// The client's certificate and key in PEM.
    pub(crate) identity: Option<Arc<[u8]>>,
    /// How long a connection may take to be made, if configured for this host.
    pub(crate) connect_timeout: Option<Duration>,
}

impl Tls {
    /// For where a host's answers lead: its CAs are good there too (a private registry's token
    /// server mostly has its CA), but the client shows nothing of itself.
    pub(crate) fn elsewhere(&self) -> Self {
        Self { skip_verify: false, identity: None, ..self.clone() }
    }

    /// Reads what is configured for `host`: `files`, those in folders for it, and `more` CAs. Blocks.
    pub(crate) fn load(
        host: &RegistryHost,
        files: &TlsFiles,
        sources: &ConfigSources,
        more: Option<&Arc<[u8]>>,
        connect_timeout: Option<Duration>,
    ) -> Result<Self, ConfigError> {
        let mut all = files.clone();
        all.add(sources.certs(host)?);
        let mut roots: Vec<Arc<[u8]>> = more.into_iter().cloned().collect();
        for path in &all.ca {
            roots.push(certificates(path, read_bytes(path)?)?);
        }
        let identity = match all.client.first() {
            None => None,
            Some(pair) => {
                let mut pem = read_bytes(&pair.cert)?;
                if let Some(key) = &pair.key {
                    pem.push(b'\n');
                    pem.extend(read_bytes(key)?);
                }
                Some(identity(&pair.cert, pem)?)
            }
        };
        Ok(Self { skip_verify: all.skip_verify, roots, identity, connect_timeout })
    }
}

/// `pem` if it holds a certificate.
pub(crate) fn certificates(path: &Path, pem: Vec<u8>) -> Result<Arc<[u8]>, ConfigError> {
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(pem.into()),
        _ => {
            let reason = "it holds no certificate in PEM".into();
            Err(ConfigError::Unusable { path: path.to_path_buf(), reason })
        }
    }
}

fn identity(path: &Path, pem: Vec<u8>) -> Result<Arc<[u8]>, ConfigError> {
    match reqwest::Identity::from_pem(&pem) {
        Ok(_) => Ok(pem.into()),
        Err(_) => {
            let reason = "it and its key are no client certificate in PEM".into();
            Err(ConfigError::Unusable { path: path.to_path_buf(), reason })
        }
    }
}
