//! A certificate authority of the test's own, and a server certificate from it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;

/// What a TLS registry needs.
pub(crate) struct Tls {
    /// The authority's certificate, for `--ca-cert`.
    pub(crate) ca_pem: String,
    pub(crate) config: Arc<ServerConfig>,
}

/// Makes a new authority and a certificate for the loopback names.
pub(crate) fn make() -> Tls {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "testkit CA");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();

    let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(names.to_vec()).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "testkit registry");
    let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    Tls { ca_pem, config: Arc::new(config) }
}
