//! Logging in and out, and what is kept meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Place, Run, serve};
use serde_json::{Value, json};
use testkit::registry::{Auth, Bearer, Fault, Registry, RegistryOptions, Rule};

/// Logs in as alice with the password on standard input.
fn login(place: &Place, password: &str, arguments: &[&str]) -> Run {
    place.write("password", format!("{password}\n"));
    let given = ["login", "--username", "alice", "--password-stdin"];
    let mut command = place.command(&[&given, arguments].concat());
    command.stdin(std::fs::File::open(place.path("password")).unwrap());
    Run::of(command).keeps_secret(password)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_kept_is_found_again() {
    for auth in [Auth::basic("alice", "s3cret"), Auth::bearer_user("alice", "s3cret")] {
        let (registry, _) = serve(RegistryOptions::auth(auth));
        let (host, place) = (registry.host(), Place::new());
        let image = format!("{host}/app:v1");
        let config = place.path(".docker/config.json");
        let mixed = json!({"auths": {"quay.io": {"auth": "eDp5"}}, "psFormat": "table"});
        place.write(".docker/config.json", mixed.to_string());
        login(&place, "s3cret", &[&host])
            .succeeded()
            .says(&format!("logged in to {host} as alice; kept in {}", config.display()));
        let kept = json(&config);
        // base64 of `alice:s3cret`
        assert_eq!(kept["auths"][&host]["auth"], "YWxpY2U6czNjcmV0");
        assert_eq!(
            (&kept["auths"]["quay.io"]["auth"], &kept["psFormat"]),
            (&json!("eDp5"), &json!("table"))
        );
        assert_eq!(mode(&config), 0o600);
        place.run(&[&image, "d"]).succeeded();
        place.run(&["logout", &host]).succeeded().says("logged out of");
        assert_eq!(json(&config), mixed);
        place.run(&[&image, "e"]).failed(9, &[&host]);
        place.run(&["logout", &host]).failed(1, &["not logged in to", &host]).hints("--authfile");
        let names: Vec<_> = std::fs::read_dir(place.path(".docker")).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
    }
}

#[test]
fn a_login_outlasts_a_moment_without_the_registry() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    registry.inject(Rule::new(Fault::status(503, "UNAVAILABLE")).times(1));
    let place = Place::new();
    login(&place, "s3cret", &[&registry.host()]).succeeded().says("note: retry 1 of 5");
    registry.inject(Rule::new(Fault::status(503, "UNAVAILABLE")));
    registry.clear_requests();
    let arguments = ["--retries", "0", &registry.host()];
    login(&place, "s3cret", &arguments).failed(1, &["cannot log in to", "503"]);
    assert_eq!(registry.walk().len(), 1);
}

#[test]
fn what_the_registry_refuses_is_not_kept() {
    for auth in [Auth::basic("alice", "s3cret"), Auth::bearer_user("alice", "s3cret")] {
        let (registry, _) = serve(RegistryOptions::auth(auth));
        let place = Place::new();
        login(&place, "guess99", &[&registry.host()])
            .failed(9, &["cannot log in to", "access denied", "\"alice\""])
            .hints("password");
        assert!(!place.path(".docker").exists());
    }
    let place = Place::new();
    let gone = common::free_port();
    login(&place, "guess99", &[&gone]).failed(1, &["cannot log in to", "connection refused"]);
    login(&place, "guess99", &["a/b/c"]).failed(2, &["invalid registry"]);
    place.run(&["login", "quay.io"]).failed(2, &["no user to log in as"]).hints("--username");
    place
        .run(&["login", "-u", "alice", "--password-stdin", "quay.io"])
        .failed(1, &["cannot read the password"])
        .hints("standard input");
}

#[test]
fn a_login_goes_to_the_file_that_is_named_or_knows_the_registry() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let (host, place) = (registry.host(), Place::new());
    login(&place, "s3cret", &["--authfile", "new/auth.json", &host]).succeeded();
    assert!(json(&place.path("new/auth.json"))["auths"][&host]["auth"].is_string());
    assert_eq!(mode(&place.path("new")), 0o700);
    // An old entry in a file that is read first would hide a new one in docker's.
    let old = json!({"auths": {&host: {"auth": "b2xkOm9sZA=="}}});
    place.write(".config/containers/auth.json", old.to_string());
    std::fs::rename(place.path(".config/containers/auth.json"), place.path("dotfile")).unwrap();
    std::os::unix::fs::symlink(place.path("dotfile"), place.path(".config/containers/auth.json"))
        .unwrap();
    login(&place, "s3cret", &[&host]).succeeded().says("containers/auth.json");
    assert_eq!(json(&place.path("dotfile"))["auths"][&host]["auth"], "YWxpY2U6czNjcmV0");
    assert!(place.path(".config/containers/auth.json").is_symlink());
    assert!(!place.path(".docker").exists());
    place.run(&[&format!("{host}/app:v1"), "d"]).succeeded();
}

/// A helper that keeps one secret in a file.
const HELPER: &str = r#"#!/bin/sh
dir=$(dirname "$0")
case $1 in
store) cat >"$dir/kept" ;;
get) read server; [ -e "$dir/kept" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$dir/kept" ;;
erase) read server; [ -e "$dir/kept" ] || { echo "credentials not found in native keychain"; exit 1; }; rm "$dir/kept" ;;
esac
"#;

#[test]
fn a_helper_keeps_it_where_one_is_configured() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let (host, place) = (registry.host(), Place::new());
    place.write("bin/docker-credential-box", HELPER);
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("bin/docker-credential-box"), executable).unwrap();
    place.write(".docker/config.json", r#"{"credsStore": "box"}"#);
    place.write("password", "s3cret");
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("PATH", &path).stdin(std::fs::File::open(place.path("password")).unwrap());
        Run::of(command).keeps_secret("s3cret")
    };
    let image = format!("{host}/app:v1");
    run(&[&image, "d"]).failed(9, &["wants a login"]);
    run(&["login", "-u", "alice", "--password-stdin", &host])
        .succeeded()
        .says("kept by docker-credential-box");
    let kept = json(&place.path("bin/kept"));
    assert_eq!(kept, json!({"ServerURL": &host, "Username": "alice", "Secret": "s3cret"}));
    assert_eq!(json(&place.path(".docker/config.json"))["auths"], json!({&host: {}}));
    run(&["-v", &image, "d"]).succeeded();
    run(&["logout", &host]).succeeded();
    assert!(!place.path("bin/kept").exists());
    assert_eq!(json(&place.path(".docker/config.json")), json!({"auths": {}, "credsStore": "box"}));
}

#[test]
fn an_identity_token_is_changed_for_a_token() {
    let bearer = Bearer {
        user: Some(("nobody".into(), "else".into())),
        identity_token: Some("id-s3cret".into()),
        ..Bearer::default()
    };
    let (registry, _) = serve(RegistryOptions::auth(Auth::Bearer(bearer)));
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    let file = |token: &str| {
        let entry = json!({"auth": "MDAwMDo=", "identitytoken": token});
        place.write("auth.json", json!({"auths": {registry.host(): entry}}).to_string());
    };
    file("id-s3cret");
    let run = place.run(&["-v", "--authfile", "auth.json", &image, "d"]).succeeded();
    run.keeps_secret("id-s3cret");
    let asked = &registry.token_requests()[0];
    assert_eq!(
        (asked.method.as_str(), asked.grant_type.as_deref()),
        ("POST", Some("refresh_token"))
    );
    assert_eq!(asked.scopes, ["repository:app:pull"]);
    assert!(registry.requests().iter().all(|r| !r.query.contains("id-s3cret")));
    file("id-wrong9");
    place
        .run(&["--authfile", "auth.json", &image, "e"])
        .failed(9, &["access denied to the identity token from auth.json"])
        .keeps_secret("id-wrong9");
}

#[test]
fn a_registry_that_asks_nobody_is_told_about() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    login(&place, "s3cret", &[&registry.host()]).succeeded().says("the password is not checked");
}

#[test]
fn a_password_is_asked_for_without_being_shown() {
    let (registry, _) = serve(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    let place = Place::new();
    let login = format!("{} login {}", env!("CARGO_BIN_EXE_ocipull"), registry.host());
    let typed = [("user name: ", "alice\\n"), ("password of alice: ", "s3cret\\n")];
    let shown = on_a_terminal(&place, &login, &typed);
    assert!(shown.contains("logged in to"), "{shown}");
    let after_prompt = shown.split("password of alice: ").nth(1).unwrap();
    assert!(!after_prompt.contains("s3cret"), "{shown}");
}

/// What the program shows on a terminal of its own, which util-linux's script gives it. Each text is
/// typed once its prompt is there.
fn on_a_terminal(place: &Place, program: &str, typed: &[(&str, &str)]) -> String {
    let feed: Vec<String> = typed
        .iter()
        .map(|(prompt, text)| {
            format!("until grep -qs '{prompt}' shown; do sleep 0.02; done; printf '{text}'")
        })
        .collect();
    let inner = format!(
        "({}) | script --quiet --return --flush --command \"{program}\" shown",
        feed.join("; ")
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &inner]).current_dir(place.path("")).env_clear();
    command.env("HOME", place.path("")).env("PATH", "/usr/bin:/bin");
    testkit::programs::Run::new(command).finish().assert_success();
    std::fs::read_to_string(place.path("shown")).unwrap()
}

#[test]
fn giving_up_leaves_the_terminal_as_it_was() {
    let (place, ocipull) = (Place::new(), env!("CARGO_BIN_EXE_ocipull"));
    place.write(
        "run",
        format!("trap : INT\n{ocipull} login -u alice r.example\necho code $?; stty -a; exit 0\n"),
    );
    let shown = on_a_terminal(&place, "exec sh run", &[("password of alice: ", "\\003")]);
    assert!(shown.contains("code 130"), "ended by SIGINT: {shown}");
    assert!(shown.contains(" echo ") && !shown.contains("-echo "), "{shown}");
}

#[test]
fn logins_at_the_same_time_are_all_kept() {
    let place = Place::new();
    place.write("password", "s3cret");
    let registries: Vec<Registry> = (0..8)
        .map(|_| Registry::start(RegistryOptions::auth(Auth::basic("alice", "s3cret"))))
        .collect();
    let running: Vec<_> = registries
        .iter()
        .map(|registry| {
            let host = registry.host();
            let mut command = place.command(&["login", "-u", "alice", "--password-stdin", &host]);
            command.stdin(std::fs::File::open(place.path("password")).unwrap());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let kept = json(&place.path(".docker/config.json"));
    for registry in &registries {
        assert!(kept["auths"][registry.host()]["auth"].is_string(), "{kept}");
    }
}
