//! Certificates: whom ocipull trusts, what it shows of itself, and what it says where that fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use common::{Place, Run, serve, small_image};
use testkit::authority::{AUTHORITY_NAME, Authority};
use testkit::docker_registry::DockerRegistry;
use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::nginx::Nginx;
use testkit::proxy::Proxy;
use testkit::registry::{Auth, Listener, Registry, RegistryOptions};

#[test]
fn a_ca_in_a_folder_is_trusted_for_its_host() {
    let (registry, _) = serve(RegistryOptions::tls());
    let ca = &registry.authority().ca_pem;
    let host = registry.host();
    for folder in [".docker/certs.d", ".config/containers/certs.d", ".config/containerd/certs.d"] {
        let place = Place::new();
        place.write(&format!("{folder}/{host}/ca.crt"), ca);
        place.run(&[&format!("{host}/app:v1"), "d"]).succeeded();
        // For its host, and for no other.
        let (other, _) = serve(RegistryOptions::tls());
        place.run(&[&format!("{}/app:v1", other.host()), "e"]).failed(11, &["not trusted"]);
    }
    let place = Place::new();
    place.write("docker/certs.d/x/unused", "");
    place.write(&format!("docker/certs.d/{host}/ca.crt"), ca);
    let mut command = place.command(&[&format!("{host}/app:v1"), "d"]);
    command.env("DOCKER_CONFIG", place.path("docker"));
    Run::of(command).succeeded();
}

#[test]
fn who_issued_a_certificate_is_said() {
    let (registry, _) = serve(RegistryOptions::tls());
    let image = format!("{}/app:v1", registry.host());
    let place = Place::new();
    place
        .run(&["--creds", "alice:s3cret", &image, "d"])
        .failed(11, &["TLS certificate is not trusted", &format!("CN={AUTHORITY_NAME}")])
        .hints(&format!("certs.d/{}/ca.crt", registry.host()));
    // Whoever answered is not trusted: nothing was told to it.
    for request in registry.requests() {
        assert_eq!((request.path.as_str(), request.authorization()), ("/v2/", None), "{request:?}");
    }
    place.write("other.pem", Authority::new().ca_pem);
    place
        .run(&["--ca-cert", "other.pem", &image, "d"])
        .failed(11, &["not trusted", AUTHORITY_NAME]);
    place.run(&["--ca-cert", registry.ca_file().to_str().unwrap(), &image, "d"]).succeeded();
}

/// The system's bundle, as distributions keep it, and one that the environment names instead.
#[test]
fn the_systems_cas_are_trusted() {
    let (registry, _) = serve(RegistryOptions::tls());
    let image = format!("{}/app:v1", registry.host());
    let place = Place::new();
    let mut command = place.command(&[&image, "d"]);
    command.env("SSL_CERT_FILE", registry.ca_file());
    Run::of(command).succeeded();
    let inner = place.command(&[&image, "e"]);
    let mut command = std::process::Command::new("unshare");
    let setup = "mount --bind \"$0\" /etc/ssl/certs/ca-certificates.crt && exec \"$@\"";
    command.args(["-m", "sh", "-c", setup]).arg(registry.ca_file());
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(place.path(""));
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(command).succeeded();
    place.run(&[&image, "f"]).failed(11, &["not trusted"]);
}

#[test]
fn a_name_that_the_certificate_does_not_have() {
    let addr = "127.0.0.2:0".parse().unwrap();
    let registry = Registry::start(RegistryOptions { addr, ..RegistryOptions::tls() });
    let (host, ca) = (registry.host(), &registry.authority().ca_pem);
    let place = Place::new();
    place.write(&format!(".docker/certs.d/{host}/ca.crt"), ca);
    place.run(&[&format!("{host}/app:v1"), "d"]).failed(11, &["not trusted", "\"127.0.0.2\""]);
}

#[test]
fn plain_http_is_told_from_broken_tls() {
    let (registry, _) = serve(RegistryOptions::default());
    let proxy = Proxy::start(registry.addr());
    let place = Place::new();
    // Not by a loopback name, where it would be tried without TLS.
    let mut command = place.command(&["registry.test:5000/app:v1", "d"]);
    command.env("HTTPS_PROXY", proxy.url());
    Run::of(command)
        .failed(11, &["cannot reach registry registry.test:5000", "plain HTTP"])
        .hints("--plain-http");
}

#[test]
fn a_client_shows_its_certificate_to_its_registry_only() {
    let options = RegistryOptions { client_certs: true, ..RegistryOptions::tls() };
    let (registry, _) = serve(options.clone());
    let (host, image) = (registry.host(), format!("{}/app:v1", registry.host()));
    let client = registry.authority().client("alice");
    let place = Place::new();
    let folder = format!(".config/containers/certs.d/{host}");
    place.write(&format!("{folder}/ca.crt"), &registry.authority().ca_pem);
    place.run(&[&image, "d"]).failed(1, &[&host]);
    place.write(&format!("{folder}/client.cert"), &client.cert_pem);
    place.run(&[&image, "d"]).failed(1, &["client.cert", "client.key is missing"]);
    place.write(&format!("{folder}/client.key"), &client.key_pem);
    place.run(&[&image, "d"]).succeeded().keeps_secret("PRIVATE KEY");
    place.write(&format!("{folder}/client.key"), "rubbish");
    place.run(&[&image, "e"]).failed(1, &["client.cert", "no client certificate"]);

    // Where blobs lie it is not shown.
    let redirecting = RegistryOptions { redirect_blobs: true, ..options };
    let (registry, _) = serve(redirecting);
    let client = registry.authority().client("alice");
    let folder = format!(".config/containers/certs.d/{}", registry.host());
    place.write(&format!("{folder}/ca.crt"), &registry.authority().ca_pem);
    place.write(&format!("{folder}/client.cert"), &client.cert_pem);
    place.write(&format!("{folder}/client.key"), &client.key_pem);
    let image = format!("{}/app:v1", registry.host());
    place.run(&["--no-cache", &image, "f"]).failed(1, &[&registry.blob_host()]);
    assert!(registry.requests().iter().all(|request| request.listener == Listener::Registry));
}

#[test]
fn hosts_toml_has_tls_files_of_its_own() {
    let options = RegistryOptions { client_certs: true, ..RegistryOptions::tls() };
    let mirror = Registry::start(options);
    small_image().push(&mirror, "app", "v1");
    let client = mirror.authority().client("alice");
    let place = Place::new();
    let folder = ".config/containerd/certs.d/quay.io";
    place.write(&format!("{folder}/mirror.crt"), &mirror.authority().ca_pem);
    place.write(&format!("{folder}/both.pem"), format!("{}{}", client.cert_pem, client.key_pem));
    let host = format!("https://{}", mirror.host());
    let ca = "ca = \"mirror.crt\"\nclient = \"both.pem\"\n";
    place.hosts_toml("quay.io", &format!("[host.\"{host}\"]\n{ca}"));
    place.run(&["quay.io/app:v1", "d"]).succeeded();
    place.hosts_toml(
        "quay.io",
        &format!("server = \"{host}\"\nskip_verify = true\nclient = \"both.pem\"\n"),
    );
    place.run(&["quay.io/app:v1", "e"]).succeeded();
    place.hosts_toml("quay.io", &format!("server = \"{host}\"\nclient = \"both.pem\"\n"));
    place.run(&["quay.io/app:v1", "f"]).failed(11, &["not trusted"]);
    place.hosts_toml("quay.io", &format!("server = \"{host}\"\nca = \"gone.crt\"\n"));
    place.run(&["quay.io/app:v1", "f"]).failed(1, &["cannot read", "gone.crt"]);
}

#[test]
fn podmans_insecure_takes_any_certificate_and_none() {
    for options in [RegistryOptions::tls(), RegistryOptions::default()] {
        let (registry, _) = serve(options);
        let place = Place::new();
        place.registries_conf(&format!(
            "[[registry]]\nprefix = \"quay.io\"\nlocation = \"{}\"\ninsecure = true\n",
            registry.host()
        ));
        place.run(&["quay.io/app:v1", "d"]).succeeded();
    }
}

#[test]
fn a_private_ca_is_good_for_where_its_registry_leads() {
    let auth = Auth::bearer_user("alice", "s3cret");
    let options = RegistryOptions {
        redirect_blobs: true,
        separate_tokens: true,
        auth,
        ..RegistryOptions::tls()
    };
    let (registry, _) = serve(options);
    let place = Place::new();
    let ca = &registry.authority().ca_pem;
    place.write(&format!(".docker/certs.d/{}/ca.crt", registry.host()), ca);
    let image = format!("{}/app:v1", registry.host());
    place.run(&["-v", "--creds", "alice:s3cret", &image, "d"]).succeeded().keeps_secret("s3cret");
}

/// Debian's registry and nginx, with passwords and a private CA, as a company runs them.
#[test]
fn real_servers_with_a_private_ca_and_passwords() {
    let authority = Authority::new();
    let issued = authority.server(&["127.0.0.1"]);
    let place = Place::new();
    place.write("cert.pem", &issued.cert_pem);
    place.write("key.pem", &issued.key_pem);
    // htpasswd -nbB alice s3cret
    let htpasswd =
        std::process::Command::new("htpasswd").args(["-nbB", "alice", "s3cret"]).output();
    place.write("htpasswd", htpasswd.unwrap().stdout);
    let path = |name: &str| place.path(name).display().to_string();
    let registry = DockerRegistry::start_with(&format!(
        "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        path("cert.pem"),
        path("key.pem"),
        path("htpasswd"),
    ));
    let host = registry.host();
    small_image().build().write_oci_layout(&place.path("layout"), "t");
    registry.push(
        &format!("oci:{}:t", path("layout")),
        "team/app:v1",
        &["--dest-creds", "alice:s3cret"],
    );

    let image = format!("{host}/team/app:v1");
    place.run(&[&image, "d"]).failed(11, &["not trusted", AUTHORITY_NAME]);
    place.write(&format!(".docker/certs.d/{host}/ca.crt"), &authority.ca_pem);
    place.run(&[&image, "d"]).failed(9, &["wants a login"]).hints(&format!("ocipull login {host}"));
    let login = |password: &str| {
        place.write("password", password);
        let mut command = place.command(&["login", "-u", "alice", "--password-stdin", &host]);
        command.stdin(std::fs::File::open(place.path("password")).unwrap());
        Run::of(command)
    };
    login("wrong").failed(9, &["access denied", "\"alice\""]);
    login("s3cret").succeeded();
    place.run(&[&image, "d"]).succeeded();
    place.run(&[&format!("{host}/team/none:v1"), "e"]).failed(8, &["no repository \"team/none\""]);
    place.run(&[&format!("{host}/team/app:v2"), "e"]).failed(8, &["has no \"v2\""]).hints("v1");

    // nginx in front of it, as the mirror of another name. What skopeo reads, it finds too.
    let mirror = Nginx::start(
        "ssl",
        &format!(
            "ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ proxy_pass https://{host}; proxy_set_header Host $http_host; }}",
            path("cert.pem"),
            path("key.pem")
        ),
    );
    place.registries_conf(&format!(
        "[[registry]]\nlocation = \"corp.example\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        mirror.host()
    ));
    place.write(&format!(".config/containers/certs.d/{}/ca.crt", mirror.host()), &authority.ca_pem);
    let kept = std::fs::read_to_string(place.path(".docker/config.json")).unwrap();
    place.write(".docker/config.json", kept.replace(&host, &mirror.host()));
    place
        .run(&["corp.example/team/app:v1", "m"])
        .succeeded()
        .says(&format!("corp.example/team/app is served by {}", mirror.host()));
}

/// HTTP/2 has all of them on one connection, and what is not read takes room there: it must not be
/// the room of the layer that the others wait for.
#[test]
fn layers_that_wait_leave_the_others_room_on_their_connection() {
    let authority = Authority::new();
    let issued = authority.server(&["127.0.0.1"]);
    let place = Place::new();
    place.write("cert.pem", &issued.cert_pem);
    place.write("key.pem", &issued.key_pem);
    let registry = Registry::start(RegistryOptions::default());
    let layer = |n: u8| {
        let content = vec![n; 16 << 20];
        LayerBuilder::new().file(format!("f{n}"), content).build(Compression::None)
    };
    (0..8).map(layer).fold(Image::new(), Image::layer).push(&registry, "app", "v1");
    let path = |name: &str| place.path(name).display().to_string();
    let server = Nginx::start(
        "ssl http2",
        &format!(
            "ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; }}",
            path("cert.pem"),
            path("key.pem"),
            registry.host()
        ),
    );
    place.write(&format!(".docker/certs.d/{}/ca.crt", server.host()), &authority.ca_pem);
    let name = format!("{}/app:v1", server.host());
    // Each layer waits for those below it, and nothing is kept that would be read on meanwhile.
    let options = ["--no-cache", "--keep-dirlinks", "--jobs", "8", "--timeout", "5"];
    place.run(&[&options[..], &[&name, "d"]].concat()).succeeded();
    assert!((0..8).all(|n| place.path(&format!("d/f{n}")).exists()));
}
