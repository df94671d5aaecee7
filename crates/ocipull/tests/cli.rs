//! The command line as a user and a script meet it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use common::{Place, Run, serve};
use ocipull::exit;
use testkit::registry::RegistryOptions;

#[test]
fn usage_errors_end_with_2() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["centos"],
        &["centos", "d", "extra"],
        &["centos", "d", "--bundle", "b"],
        &["centos", "d", "--no-such-flag"],
        &["centos", "d", "-q", "-v"],
        &["centos", "d", "-q", "--timing"],
        &["centos", "d", "-q", "--progress", "json"],
        &["centos", "d", "--progress", "fancy"],
        &["centos", "d", "--ownership", "mine"],
    ] {
        assert_eq!(place.run(arguments).code, Some(2), "{arguments:?}");
    }
    place.run(&["centos", "d", "extra"]).failed(2, &["unexpected argument 'extra'"]);
    place.run(&["cache"]).failed(2, &["requires a subcommand", "prune"]);
    place.run(&["centos", "/"]).failed(2, &["invalid destination"]);
    place.run(&["centos", "d", "--platform", "amd64"]).failed(2, &["invalid platform \"amd64\""]);
    place.run(&["centos", "d", "--mirror", "http://x"]).failed(2, &["invalid mirror"]);
    place.run(&["centos", "d", "--creds", ":"]).failed(2, &["invalid credentials"]);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn help_states_the_exit_codes() {
    let run = Place::new().run(&["--help"]);
    assert_eq!(run.code, Some(0));
    for word in ["OCIPULL_MIRROR", "ocipull rm DEST"] {
        assert!(run.stdout.contains(word), "{word}: {run}");
    }
    // A line for each of them, in order.
    let (_, table) = run.stdout.split_once("Exit codes:\n").unwrap();
    let codes: Vec<u8> =
        table.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let documented: Vec<u8> = (0..=exit::EXIT_OVER_LIMIT).chain([129]).collect();
    assert_eq!(codes, documented, "{run}");
}

/// Each option's own words stand above it.
#[test]
fn help_describes_each_option_by_its_own_words() {
    let help = Place::new().run(&["-h"]).stdout;
    for (option, words) in [
        ("--sync", "Return only when everything is on the disk"),
        ("--keep-dirlinks", "Where a layer has a directory"),
    ] {
        let (_, after) = help.split_once(option).unwrap();
        assert!(after.trim_start().starts_with(words), "{option}: {help}");
    }
}

#[test]
fn quiet_is_quiet_and_errors_are_not() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    for _ in 0..2 {
        let run = place.run(&["-q", &image, "d"]).succeeded();
        assert_eq!(run.stderr, "", "{run}");
    }
    place.run(&["-q", &format!("{}/app:nope", registry.host()), "e"]).failed(8, &["not found"]);
}

#[test]
fn an_empty_mirror_variable_is_none() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let mut command = place.command(&[&format!("{}/app:v1", registry.host()), "d"]);
    command.env("OCIPULL_MIRROR", "");
    Run::of(command).succeeded();
    assert!(registry.requests().iter().all(|r| r.query.is_empty()));
}

#[test]
fn a_proxy_is_not_asked_for_this_machine() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let mut command = place.command(&[&format!("{}/app:v1", registry.host()), "d"]);
    let dead = format!("http://{}", common::free_port());
    command.env("http_proxy", &dead).env("https_proxy", &dead).env("all_proxy", &dead);
    Run::of(command).succeeded();
}

#[test]
fn a_proxy_is_asked_for_others() {
    // The proxy sees the request line with the whole URL; that it is no proxy does not matter.
    let (proxy, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let mut command = place.command(&["--plain-http", "registry.invalid/app:v1", "d"]);
    command.env("http_proxy", proxy.base_url());
    Run::of(command).succeeded();
    assert_eq!(proxy.walk()[0], "HEAD /v2/app/manifests/v1 200");
}

#[test]
fn localhost_needs_no_name_server() {
    let (registry, _) = serve(RegistryOptions::default());
    let image = format!("localhost:{}/app:v1", registry.addr().port());
    Place::new().run(&[&image, "d"]).succeeded();
}

#[test]
fn rm_takes_the_tree_and_the_record_and_nothing_else() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
    std::fs::create_dir(place.path("mine")).unwrap();
    place.run(&["rm", "mine"]).failed(1, &["no image record"]);
    place.run(&["rm", "d"]).succeeded();
    assert_eq!(place.names(), ["mine"]);
    place.run(&["rm", "d"]).failed(1, &["does not exist"]);
}

#[test]
fn a_terminal_gets_a_bar_and_a_file_plain_lines() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    let run = place.run(&[&image, "d"]).succeeded().says("layer 1/2 ").says("layer 2/2 ");
    assert!(!run.stderr.contains('\u{1b}'), "{run}");
    // script(1) gives the program a terminal and copies what it writes there.
    let program = place.command(&[]).get_program().to_string_lossy().into_owned();
    let mut command = std::process::Command::new("script");
    command
        .args(["-qec", &format!("{program} {image} e"), "/dev/null"])
        .current_dir(place.path(""))
        .stdin(std::process::Stdio::null());
    let run = Run::of(command);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("layer 1/2 ") && run.stdout.contains('\u{1b}'), "{run}");
    assert!(run.stdout.contains("pulled "), "{run}");
}
