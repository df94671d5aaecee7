//! Proxies, as the environment names them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use common::{Place, Run, free_port, serve};
use testkit::proxy::Proxy;
use testkit::registry::RegistryOptions;

/// Only the proxy knows where that is.
const IMAGE: &str = "registry.test:5000/app:v1";

#[test]
fn tls_goes_through_a_tunnel() {
    let (registry, _) = serve(RegistryOptions::tls());
    let proxy = Proxy::start(registry.addr());
    let place = Place::new();
    let ca = registry.ca_file().to_str().unwrap();
    let run = |dest: &str, variables: &[(&str, &str)]| {
        let mut command = place.command(&["--ca-cert", ca, IMAGE, dest]);
        command.envs(variables.iter().copied());
        Run::of(command)
    };
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        run(name, &[(name, &proxy.url())]).succeeded();
    }
    let seen = proxy.seen();
    assert!(seen.iter().all(|line| line == "CONNECT registry.test:5000 HTTP/1.1"), "{seen:?}");
    assert!(!seen.is_empty());
    run("d", &[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", "registry.test")])
        .failed(1, &["cannot resolve \"registry.test\""]);
    assert_eq!(proxy.seen().len(), seen.len());
}

#[test]
fn without_tls_the_proxy_gets_whole_urls() {
    let (registry, _) = serve(RegistryOptions::default());
    let proxy = Proxy::start(registry.addr());
    let place = Place::new();
    let mut command = place.command(&["--plain-http", IMAGE, "d"]);
    command.env("HTTP_PROXY", proxy.url());
    Run::of(command).succeeded();
    let first = "HEAD http://registry.test:5000/v2/app/manifests/v1 HTTP/1.1";
    assert_eq!(proxy.seen()[0], first);
    // A registry on this machine is not the proxy's.
    let before = proxy.seen().len();
    let mut command = place.command(&[&format!("{}/app:v1", registry.host()), "e"]);
    command.env("HTTP_PROXY", proxy.url()).env("HTTPS_PROXY", proxy.url());
    Run::of(command).succeeded();
    assert_eq!(proxy.seen().len(), before);
}

#[test]
fn a_proxys_password_is_not_shown() {
    let place = Place::new();
    let mut command = place.command(&["-v", IMAGE, "d"]);
    command.env("HTTPS_PROXY", format!("http://me:s3cret@{}", free_port()));
    Run::of(command).failed(1, &["cannot reach registry", "registry.test"]).keeps_secret("s3cret");
}
