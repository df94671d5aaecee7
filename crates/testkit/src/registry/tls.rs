//! TLS of a registry: a certificate from an authority of its own.

use crate::authority::Authority;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

/// What a TLS registry needs.
pub(crate) struct Tls {
    pub(crate) authority: Authority,
    pub(crate) config: Arc<ServerConfig>,
}

/// The names that a registry's certificate is for: the loopback ones, and one for who comes through
/// a proxy.
const NAMES: [&str; 4] = ["127.0.0.1", "::1", "localhost", "registry.test"];

/// Makes a new authority and a certificate. With `client_certs`, clients have to show one of the
/// same authority.
pub(crate) fn make(client_certs: bool) -> Tls {
    let authority = Authority::new();
    let issued = authority.server(&NAMES);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_certs {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(authority.ca_pem.as_bytes()).unwrap())
                .unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let config = builder
        .with_single_cert(vec![issued.cert_der.into()], PrivateKeyDer::Pkcs8(issued.key_der.into()))
        .unwrap();
    Tls { authority, config: Arc::new(config) }
}
