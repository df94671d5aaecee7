//! Which hosts are asked for an image, by the files of containerd and podman.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::sync::Arc;

use common::{Place, Run, free_port, serve, small_image};
use ocipull::event::Silent;
use ocipull::registry::{RegistryError, RetryPolicy};
use testkit::nginx::Nginx;
use testkit::registry::{Auth, Fault, Listener, Registry, RegistryOptions, Rule};

/// A registry with `repository:v1`.
fn with(repository: &str, options: RegistryOptions) -> Registry {
    let registry = Registry::start(options);
    small_image().push(&registry, repository, "v1");
    registry
}

#[test]
fn a_line_of_configuration_serves_a_registry_from_elsewhere() {
    let registry = with("pause", RegistryOptions::default());
    let host = registry.host();
    for (file, text) in [
        (
            ".config/containers/registries.conf",
            format!("[[registry]]\nprefix = \"k8s.gcr.io\"\nlocation = \"{host}\"\n"),
        ),
        (
            ".config/containerd/certs.d/k8s.gcr.io/hosts.toml",
            format!("server = \"http://{host}\"\n"),
        ),
    ] {
        let place = Place::new();
        place.write(file, text);
        let run = place.run(&["k8s.gcr.io/pause:v1", "d"]).succeeded();
        let says =
            format!("note: k8s.gcr.io/pause is served by {host} ({}", place.path("").display());
        run.says(&says).says("pulled k8s.gcr.io/pause:v1@sha256:");
        let record = place.record("d");
        assert_eq!(record["canonicalReference"], "k8s.gcr.io/pause:v1");
    }
}

#[test]
fn hosts_are_asked_in_the_order_of_their_sources() {
    let serving = with("team/app", RegistryOptions::default());
    let (typed, second) = (free_port(), free_port());
    let third = Registry::start(RegistryOptions::default());
    let place = Place::new();
    place.hosts_toml(
        "quay.io",
        &format!("[host.\"http://{second}\"]\n[host.\"http://{}\"]\n", third.host()),
    );
    place.registries_conf(&format!(
        "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"{}/team\"\n",
        serving.host()
    ));
    // What lies in the namespace of the mirror is quay.io's all.
    let run = place.run(&["--mirror", &typed, "quay.io/app:v1", "d"]).succeeded();
    let failed: Vec<&str> =
        run.stderr.lines().filter_map(|line| line.strip_prefix("ocipull: note: mirror ")).collect();
    let hosts: Vec<&str> = failed.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(hosts, [typed.as_str(), &second, &third.host()], "{run}");
    assert_eq!(third.walk(), ["HEAD /v2/app/manifests/v1?ns=quay.io 404"]);
    // podman's mirrors are rewritten names, with nothing told beside.
    assert_eq!(serving.walk()[0], "HEAD /v2/team/app/manifests/v1 200");
    assert_eq!(serving.walk().len(), 5, "asked for all the rest: {:?}", serving.walk());
}

#[test]
fn several_mirrors_may_be_typed_or_set() {
    let serving = with("library/app", RegistryOptions::default());
    let gone = free_port();
    let place = Place::new();
    let typed = ["--mirror", &gone, "--mirror", &serving.host(), "app:v1", "d"];
    place.run(&typed).succeeded().says(&format!("mirror {gone} failed"));
    let mut command = place.command(&["app:v1", "e"]);
    command.env("OCIPULL_MIRROR", format!("{gone},{}", serving.host()));
    Run::of(command).succeeded().says(&format!("is served by {} (--mirror)", serving.host()));
}

#[test]
fn a_host_does_what_it_is_capable_of() {
    let blobs = with("app", RegistryOptions::default());
    let names = with("app", RegistryOptions::default());
    let place = Place::new();
    place.hosts_toml(
        "quay.io",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
            names.host(),
            blobs.host()
        ),
    );
    place.run(&["quay.io/app:v1", "d"]).succeeded();
    assert_eq!(names.walk(), ["HEAD /v2/app/manifests/v1?ns=quay.io 200"]);
    assert_eq!(blobs.walk().len(), 4, "{:?}", blobs.walk());
    let text = format!("server = \"http://{}\"\ncapabilities = [\"pull\"]\n", names.host());
    place.hosts_toml("quay.io", &text);
    place
        .run(&["quay.io/app:v1", "e"])
        .failed(1, &["no host is configured to resolve quay.io/app"])
        .hints("capabilities");
}

#[test]
fn a_hosts_settings_are_its_own() {
    let cdn = Registry::start(RegistryOptions::redirecting());
    let built = small_image().push(&cdn, "proj/app", "v1");
    let place = Place::new();
    place.hosts_toml(
        "_default",
        &format!(
            "[host.\"http://{}/v2/proj\"]\noverride_path = true\ndial_timeout = \"5s\"\n\
             [host.\"http://{}/v2/proj\".header]\nx-access = [\"key-s3cret\"]\n",
            cdn.host(),
            cdn.host()
        ),
    );
    place.run(&["-v", "any.example/app:v1", "d"]).succeeded().keeps_secret("key-s3cret");
    assert_eq!(place.record("d")["manifestDigest"], built.digest());
    for request in cdn.requests() {
        let sent = request.header("x-access");
        match request.listener {
            Listener::Registry => assert_eq!(sent, Some("key-s3cret"), "{request:?}"),
            _ => assert_eq!(sent, None, "{request:?}"),
        }
    }
}

#[test]
fn mirrors_for_digests_see_no_tags() {
    let mirror = with("app", RegistryOptions::default());
    let (origin, built) = serve(RegistryOptions::default());
    let place = Place::new();
    place.registries_conf(&format!(
        "[[registry]]\nlocation = \"{}\"\nmirror-by-digest-only = true\n\
         [[registry.mirror]]\nlocation = \"{}\"\n",
        origin.host(),
        mirror.host()
    ));
    place.run(&[&format!("{}/app:v1", origin.host()), "d"]).succeeded();
    assert_eq!(mirror.walk(), Vec::<String>::new());
    origin.clear_requests();
    place.run(&[&format!("{}/app@{}", origin.host(), built.digest()), "e"]).succeeded();
    assert_eq!(origin.walk(), Vec::<String>::new());
}

#[test]
fn what_is_blocked_is_not_asked_for() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let text = format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", registry.host());
    place.write(".config/containers/registries.conf.d/10-policy.conf", text);
    let image = format!("{}/app:v1", registry.host());
    place
        .run(&["--mirror", &registry.host(), &image, "d"])
        .failed(1, &["is blocked", "10-policy.conf", &registry.host()])
        .hints("10-policy.conf");
    assert_eq!(registry.connections(), 0);
}

#[test]
fn bad_configuration_names_file_and_line() {
    let place = Place::new();
    place.registries_conf("\n[[registry]]\nlocation = \"https://quay.io\"\n");
    place
        .run(&["quay.io/app", "d"])
        .failed(1, &["bad configuration", "registries.conf\", line 3: location: want HOST"])
        .hints("registries.conf");
    place.registries_conf("");
    place.hosts_toml("quay.io", "[host.\"https://a.example\"]\ncapabilities = [\"fly\"]\n");
    place
        .run(&["quay.io/app", "d"])
        .failed(1, &["hosts.toml\", line 2: capabilities: unknown capability \"fly\""]);
    // Of other registries nothing is read.
    place.run(&["127.0.0.1:1/app", "d"]).failed(1, &["cannot reach registry"]);
    let mut command = place.command(&["quay.io/app", "d"]);
    command.env("CONTAINERS_REGISTRIES_CONF", place.path("nowhere.conf"));
    Run::of(command).failed(1, &["cannot read", "nowhere.conf", "not found"]);
}

#[test]
fn a_short_name_may_stand_for_another() {
    let registry = with("team/app", RegistryOptions::default());
    let place = Place::new();
    place.write(
        "r.conf",
        format!(
            "[aliases]\napp = \"{}/team/app\"\n",
            registry.host().replace("127.0.0.1", "localhost")
        ),
    );
    let mut command = place.command(&["app:v1", "d"]);
    command.env("CONTAINERS_REGISTRIES_CONF", place.path("r.conf"));
    Run::of(command).succeeded().says("note: app:v1 is localhost:").says("r.conf)");
    assert_eq!(place.record("d")["reference"], "app:v1");
    // A search list without a choice.
    let other = with("app", RegistryOptions::default());
    let text = format!("unqualified-search-registries = [\"{}\"]\n", other.host());
    place.write("r.conf", text);
    let mut command = place.command(&["app:v1", "e"]);
    command.env("CONTAINERS_REGISTRIES_CONF", place.path("r.conf"));
    Run::of(command).succeeded();
    assert_eq!(other.walk()[0], "HEAD /v2/app/manifests/v1 200");
}

#[test]
fn mirrors_are_not_looked_for_on_the_link() {
    let (origin, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", origin.host());
    place.hosts_toml(&origin.host(), "[host.\"http://169.254.169.254\"]\n");
    place.run(&[&image, "d"]).succeeded().says("link-local address 169.254.169.254");
    place.hosts_toml("quay.io", "server = \"http://[fe80::1]\"\n");
    place.run(&["quay.io/app", "e"]).failed(1, &["link-local"]);
    // Nor by a name that leads there.
    place.write("hosts", "169.254.169.254 meta.example\nfe80::1 meta.example\n");
    let inner = place.command(&["--plain-http", "meta.example/app", "e"]);
    let mut command = std::process::Command::new("unshare");
    let setup = "mount --bind hosts /etc/hosts && exec \"$@\"";
    command.args(["-m", "sh", "-c", setup, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(place.path(""));
    Run::of(command).failed(1, &["\"meta.example\"", "link-local addresses only"]);
}

#[test]
fn a_mirrors_login_is_its_own() {
    let mirror = with("app", RegistryOptions::auth(Auth::basic("mia", "m-s3cret")));
    let place = Place::new();
    place.hosts_toml("quay.io", &format!("server = \"http://{}\"\n", mirror.host()));
    let run = place.run(&["-v", "--creds", "alice:s3cret", "quay.io/app:v1", "d"]);
    run.failed(9, &["wants a login"]).hints("ocipull login 127.0.0.1").keeps_secret("s3cret");
    assert!(mirror.requests().iter().all(|request| request.authorization().is_none()));
    // base64 of `mia:m-s3cret`
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"bWlhOm0tczNjcmV0"}}}}}}"#, mirror.host());
    place.write(".docker/config.json", auth);
    place.run(&["quay.io/app:v1", "d"]).succeeded();
}

#[test]
fn what_a_registry_says_beside_is_shown_once() {
    let (registry, _) = serve(RegistryOptions::default());
    let header = |name: &str, value: &str| {
        registry.inject(Rule::new(Fault::Header(name.into(), Some(value.into()))));
    };
    header("Warning", "299 - \"Your plan ends\x07 soon\"".replace('\x07', "").as_str());
    header("RateLimit-Limit", "100;w=21600");
    header("RateLimit-Remaining", "76;w=21600");
    let place = Place::new();
    let run = place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
    let count = |text: &str| run.stderr.matches(text).count();
    assert_eq!(count("warns: Your plan ends soon"), 1, "{run}");
    assert_eq!(count("76 of 100 per 6 h are left"), 1, "{run}");
}

#[test]
fn nginx_serves_as_a_mirror_and_redirects_to_a_store() {
    let (registry, _) = serve(RegistryOptions::default());
    let store =
        Nginx::start("", &format!("location / {{ proxy_pass http://{}; }}", registry.host()));
    let mirror = Nginx::start(
        "",
        &format!(
            "location ~ /blobs/ {{ return 307 http://{}$uri?X-Signature=hidden; }}\n\
             location / {{ proxy_pass http://{}; }}",
            store.host(),
            registry.host()
        ),
    );
    let place = Place::new();
    place.hosts_toml("quay.io", &format!("[host.\"http://{}\"]\n", mirror.host()));
    let run = place.run(&["-v", "quay.io/app:v1", "d"]).succeeded().keeps_secret("hidden");
    let store = format!("http://{}/v2/app/blobs/sha256:", store.host());
    assert_eq!(run.stderr.matches(&store).count(), 3, "{run}");
}

/// The registry is asked as often as it takes to see that it is down, each time with its retries, and
/// then no more.
#[test]
fn a_run_without_hosts_ends() {
    let registry = Registry::start(RegistryOptions::default());
    registry.inject(Rule::new(Fault::status(503, "UNAVAILABLE")));
    let reference = format!("{}/app:v1", registry.host()).parse().unwrap();
    let options = ocipull::registry::RegistryOptions {
        retry: RetryPolicy { retries: 1 },
        ..Default::default()
    };
    let client = ocipull::registry::Registry::new(&reference, &options, Arc::new(Silent)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut last = None;
    for _ in 0..10 {
        last = Some(runtime.block_on(client.get_manifest("v1", None)).unwrap_err());
    }
    assert_eq!(registry.walk().len(), 3 * 2, "{:?}", registry.walk());
    let last = last.unwrap();
    assert!(matches!(last, RegistryError::NoneLeft { .. }), "{last}");
    let (text, host) = (last.to_string(), registry.host());
    assert!(text.contains(&format!("registry {host}")) && text.contains("503"), "{text}");
}
