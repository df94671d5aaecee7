//! Who sees a password, and who does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use common::{Place, serve};
use testkit::registry::{Auth, Bearer, Fault, Registry, RegistryOptions, Rule};

fn image(registry: &Registry) -> String {
    format!("{}/app:v1", registry.host())
}

fn bearer(bearer: Bearer) -> (Registry, testkit::image::BuiltImage) {
    serve(RegistryOptions::auth(Auth::Bearer(bearer)))
}

/// base64 of `mallory:guess99`
const MALLORYS: &str = "bWFsbG9yeTpndWVzczk5";

#[test]
fn an_anonymous_token_is_fetched_once_for_the_whole_pull() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_anonymous()));
    let place = Place::new();
    let run = place.run(&["-v", &image(&registry), "d"]).succeeded().keeps_secret("testkit-token");
    let tokens = registry.token_requests();
    assert_eq!(tokens.len(), 1, "{run}");
    assert_eq!(tokens[0].scopes, ["repository:app:pull"]);
    assert_eq!(tokens[0].service.as_deref(), Some("testkit-registry"));
    assert_eq!((tokens[0].user.as_deref(), tokens[0].granted), (None, true));
    let walk = registry.walk();
    assert_eq!(walk[0], "HEAD /v2/app/manifests/v1 401");
    assert!(walk[1].starts_with("GET /token?"));
    assert_eq!(walk[2], "HEAD /v2/app/manifests/v1 200");
    assert_eq!(walk.len(), 3 + 4, "{walk:?}");
}

#[test]
fn a_token_may_have_its_oauth_name() {
    let (registry, _) = bearer(Bearer { oauth_name_only: true, ..Bearer::default() });
    Place::new().run(&[&image(&registry), "d"]).succeeded();
}

#[test]
fn creds_go_to_basic_and_to_bearer() {
    for auth in [Auth::basic("alice", "s3cret"), Auth::bearer_user("alice", "s3cret")] {
        let (registry, _) = serve(RegistryOptions::auth(auth.clone()));
        let place = Place::new();
        let run = place.run(&["-v", "--creds", "alice:s3cret", &image(&registry), "d"]);
        run.succeeded().keeps_secret("s3cret").keeps_secret("YWxpY2U6czNjcmV0");
        let by_token = matches!(auth, Auth::Bearer(_));
        for request in registry.requests().iter().filter(|r| r.path.starts_with("/v2/")) {
            let basic = request.authorization().is_some_and(|a| a.starts_with("Basic "));
            assert!(!(by_token && basic), "the password is for the token service: {request:?}");
        }
    }
}

#[test]
fn a_password_may_come_on_standard_input() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let place = Place::new();
    std::fs::write(place.path("password"), "s3cret\n").unwrap();
    let mut command = place.command(&["--creds", "alice", &image(&registry), "d"]);
    command.stdin(std::fs::File::open(place.path("password")).unwrap());
    common::Run::of(command).succeeded();
}

#[test]
fn wrong_and_missing_credentials_say_whose() {
    for auth in [Auth::basic("alice", "s3cret"), Auth::bearer_user("alice", "s3cret")] {
        let (registry, _) = serve(RegistryOptions::auth(auth.clone()));
        let place = Place::new();
        place
            .run(&["-v", "--creds", "mallory:guess99", &image(&registry), "d"])
            .failed(9, &["access denied", "mallory", "--creds"])
            .keeps_secret("guess99");
        let run = place.run(&[&image(&registry), "d"]);
        match auth {
            Auth::Basic { .. } => {
                run.failed(9, &["wants a login"]).hints("ocipull login");
            }
            _ => {
                run.failed(9, &["access denied", "anonymous"]).hints("--creds");
            }
        }
        assert_eq!(place.names(), Vec::<String>::new());
        // A password that was kept is said to be from there.
        let kept = format!(r#"{{"auths":{{"{}":{{"auth":"{MALLORYS}"}}}}}}"#, registry.host());
        place.write("kept.json", kept);
        place
            .run(&["--authfile", "kept.json", &image(&registry), "d"])
            .failed(9, &["access denied to user \"mallory\"", "kept.json"])
            .hints("--creds")
            .keeps_secret("guess99");
    }
}

#[test]
fn the_files_of_docker_and_podman_are_read() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let auth = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"YWxpY2U6czNjcmV0"}}}}}}"#);
    let host = registry.host();
    for (file, variable, key) in [
        (".docker/config.json", None, format!("https://{host}/v2/")),
        ("docker/config.json", Some(("DOCKER_CONFIG", "docker")), host.clone()),
        (".config/containers/auth.json", None, format!("{host}/app")),
        ("run/containers/auth.json", Some(("XDG_RUNTIME_DIR", "run")), host.clone()),
        ("my.json", Some(("REGISTRY_AUTH_FILE", "my.json")), host.clone()),
        ("other.json", None, host.clone()),
    ] {
        let place = Place::new();
        let path = place.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, auth(&key)).unwrap();
        let image = image(&registry);
        let mut arguments = vec![image.as_str(), "d"];
        if file == "other.json" {
            arguments.extend(["--authfile", file]);
        }
        let mut command = place.command(&arguments);
        if let Some((name, value)) = variable {
            command.env(name, place.path(value));
        }
        common::Run::of(command).succeeded();
    }
}

#[test]
fn a_credential_helper_is_asked() {
    use std::os::unix::fs::PermissionsExt;
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let place = Place::new();
    let helper = place.path("docker-credential-test");
    std::fs::write(
        &helper,
        "#!/bin/sh\nread host\necho \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"alice\\\",\\\"Secret\\\":\\\"s3cret\\\"}\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.host());
    std::fs::write(place.path("auth.json"), config).unwrap();
    let mut command = place.command(&["--authfile", "auth.json", &image(&registry), "d"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", place.path("").display()));
    common::Run::of(command).succeeded();
    place
        .run(&["--authfile", "auth.json", &image(&registry), "e"])
        .failed(1, &["credential helper \"test\"", "auth.json"])
        .hints("docker-credential-test");
}

#[test]
fn a_token_that_ends_in_mid_pull_is_renewed_once() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_anonymous()));
    let challenge = format!(
        "Bearer realm=\"{}/token\",service=\"testkit-registry\",scope=\"repository:app:pull\"",
        registry.base_url()
    );
    let expired = Fault::status(401, "UNAUTHORIZED").with_header("WWW-Authenticate", &challenge);
    registry.inject(Rule::new(expired.clone()).path("/blobs/").skip(1).times(1));
    let place = Place::new();
    let run = place.run(&[&image(&registry), "d"]).succeeded();
    assert_eq!(registry.token_requests().len(), 2, "{run}");

    // A registry that refuses new tokens as well is not asked for ever.
    registry.clear_faults();
    registry.inject(Rule::new(expired).path("/blobs/"));
    let before = registry.token_requests().len();
    let place = Place::new();
    place.run(&[&image(&registry), "e"]).failed(9, &["access denied"]);
    assert_eq!(registry.token_requests().len(), before + 2);
}

/// As ECR says it of a token whose time is over, without a challenge.
#[test]
fn a_403_for_what_was_good_before_is_answered_with_a_new_token() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_user("alice", "s3cret")));
    let creds = ["--creds", "alice:s3cret"];
    let image = image(&registry);
    registry.inject(Rule::new(Fault::status(403, "DENIED")).path("/blobs/").skip(1).times(1));
    let place = Place::new();
    place.run(&[&creds[..], &[&image, "d"]].concat()).succeeded();
    assert_eq!(registry.token_requests().len(), 2);

    // It is final for a new token, and for whoever has none.
    registry.clear_faults();
    registry.inject(Rule::new(Fault::status(403, "DENIED")).path("/blobs/"));
    place
        .run(&[&creds[..], &["--no-cache", &image, "e"]].concat())
        .failed(9, &["access denied", "403", "DENIED"]);
    assert_eq!(registry.token_requests().len(), 4);
    registry.clear_faults();
    registry.inject(Rule::new(Fault::status(403, "DENIED")));
    place.run(&[&image, "e"]).failed(9, &["access denied", "403"]);
    assert_eq!(registry.token_requests().len(), 4);
}

#[test]
fn a_token_that_lives_shorter_than_the_pull_is_renewed() {
    let life = std::time::Duration::from_secs(2);
    let (registry, _) = bearer(Bearer { life, ..Bearer::default() });
    // Held up until the token's time is over, and then asked for it.
    registry.inject(Rule::new(Fault::Delay(2 * life)).path("/blobs/").skip(1).times(1));
    Place::new().run(&[&image(&registry), "d"]).succeeded();
    assert!(registry.token_requests().len() >= 2, "{:?}", registry.walk());
}

#[test]
fn requests_that_fail_together_share_one_new_token() {
    use ocipull::registry::Registry as Client;
    let (registry, built) = serve(RegistryOptions::auth(Auth::bearer_anonymous()));
    let reference = image(&registry).parse().unwrap();
    let observer = std::sync::Arc::new(ocipull::event::Silent);
    let client =
        std::sync::Arc::new(Client::new(&reference, &Default::default(), observer).unwrap());
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let config = &manifest["config"];
    let digest: oci_spec::image::Digest = config["digest"].as_str().unwrap().parse().unwrap();
    let size = config["size"].as_u64().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        client.head_manifest("v1").await.unwrap();
        registry.expire_tokens();
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (client, digest) = (client.clone(), digest.clone());
                tokio::spawn(async move {
                    client.get_blob(&digest, size, "a config", 1 << 20).await.map(drop)
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    assert_eq!(registry.token_requests().len(), 2, "{:?}", registry.walk());
}

#[test]
fn several_challenges_in_several_lines() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_user("alice", "s3cret")));
    let challenge = format!(
        "Negotiate, Basic realm=\"a, b\", Bearer service=\"testkit-registry\", realm=\"{}/token\"",
        registry.base_url()
    );
    let fault = Fault::status(401, "UNAUTHORIZED").with_header("WWW-Authenticate", &challenge);
    let fault = fault.with_header("WWW-Authenticate", "Digest qop=auth");
    registry.inject(Rule::new(fault).method("HEAD").times(1));
    Place::new().run(&["--creds", "alice:s3cret", &image(&registry), "d"]).succeeded();
    // A challenge without a scope: the one that a pull needs is asked for.
    assert_eq!(registry.token_requests()[0].scopes, ["repository:app:pull"]);
}

#[test]
fn a_realm_that_is_not_to_be_trusted_gets_nothing() {
    for (realm, words) in [
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://[::ffff:169.254.169.254]/token", "link-local"),
        ("http://registry.invalid/token", "want one with https"),
        ("file:///etc/passwd", "want one with https"),
        ("nonsense", "not a URL"),
    ] {
        let (registry, _) = bearer(Bearer { realm: Some(realm.into()), ..Bearer::default() });
        let place = Place::new();
        let run = place.run(&["--creds", "alice:s3cret", &image(&registry), "d"]);
        run.failed(1, &[words]).keeps_secret("s3cret");
        assert_eq!(registry.walk().len(), 1, "{:?}", registry.walk());
    }
}

#[test]
fn a_mirror_does_not_see_the_registrys_password() {
    let (mirror, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let (origin, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let place = Place::new();
    place
        .run(&["--creds", "alice:s3cret", "--mirror", &mirror.host(), &image(&origin), "d"])
        .succeeded()
        .says("wants a login");
    assert!(mirror.requests().iter().all(|r| r.authorization().is_none()));
    // What is configured for the mirror itself is the mirror's.
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6czNjcmV0"}}}}}}"#, mirror.host());
    std::fs::write(place.path("auth.json"), auth).unwrap();
    origin.clear_requests();
    place
        .run(&["--authfile", "auth.json", "--mirror", &mirror.host(), &image(&origin), "e"])
        .succeeded();
    assert_eq!(origin.walk(), Vec::<String>::new());
}

#[test]
fn a_challenge_from_where_a_redirect_led_is_not_answered() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_user("alice", "s3cret")));
    let (foreign, _) = serve(RegistryOptions::auth(Auth::bearer_anonymous()));
    let location = format!("{}/v2/app/manifests/v1?signature=hidden", foreign.base_url());
    registry.inject(Rule::new(Fault::redirect(&location)).path("/manifests/"));
    Place::new()
        .run(&["-v", "--creds", "alice:s3cret", &image(&registry), "d"])
        .failed(9, &["status 401"])
        .keeps_secret("hidden");
    assert!(foreign.requests().iter().all(|r| r.authorization().is_none()));
    assert!(foreign.token_requests().is_empty());
}

#[test]
fn a_redirect_leads_to_no_secrets_and_not_round_and_round() {
    let (registry, _) = serve(RegistryOptions::default());
    let round = format!("{}/v2/app/manifests/v1", registry.base_url());
    for (location, words) in [
        ("http://169.254.169.254/latest", "link-local"),
        (round.as_str(), "more than 10 times"),
        ("ftp://x/y", "valid Location"),
    ] {
        registry.inject(Rule::new(Fault::redirect(location)));
        Place::new().run(&[&image(&registry), "d"]).failed(1, &[words]);
        registry.clear_faults();
    }
}

#[test]
fn a_token_service_that_never_ends_or_makes_no_sense() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::bearer_anonymous()));
    for (fault, code, words) in [
        (Fault::Endless(None), 12, "too large: want at most 1048576 bytes of a token"),
        (Fault::Body(b"{\"token\":\"\"}".to_vec()), 1, "no usable token"),
        (Fault::Body(b"<html>".to_vec()), 1, "no usable token"),
        (Fault::redirect("http://127.0.0.1:1/token"), 1, "status 307"),
        (Fault::status(503, "UNAVAILABLE"), 1, "status 503"),
    ] {
        registry.inject(Rule::new(fault).path("/token"));
        Place::new().run(&[&image(&registry), "d"]).failed(code, &["/token", words]);
        registry.clear_faults();
    }
}
