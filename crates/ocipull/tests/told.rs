//! What a run tells of itself: every request's steps by `--timing`, all of it for a program by
//! `--progress json`, and bars on a terminal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod transfer_support;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Place, Run, serve};
use serde_json::Value;
use testkit::proxy::Proxy;
use testkit::registry::{Fault, RegistryOptions, Rule};

/// The objects that a run wrote to standard error, which holds nothing else.
fn objects(run: &Run) -> Vec<Value> {
    let parsed = run.stderr.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}: {run}"))
}

fn of_kind<'a>(objects: &'a [Value], event: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["event"] == event).collect()
}

fn steps(request: &Value) -> [Option<f64>; 5] {
    ["lookup", "connect", "tls", "firstByte", "total"]
        .map(|step| request[format!("{step}Seconds")].as_f64())
}

#[test]
fn a_requests_steps_come_one_after_the_other() {
    for (options, has_tls) in [(RegistryOptions::tls(), true), (RegistryOptions::default(), false)]
    {
        let (registry, _) = serve(options);
        let place = Place::new();
        let image = format!("localhost:{}/app:v1", registry.addr().port());
        let mut arguments = vec!["--progress", "json", "--jobs", "1"];
        let ca = has_tls.then(|| registry.ca_file().display().to_string());
        match &ca {
            Some(ca) => arguments.extend(["--ca-cert", ca]),
            None => arguments.push("--plain-http"),
        }
        let run = place.run(&[&arguments[..], &[&image, "d"]].concat()).succeeded();
        let objects = objects(&run);
        let requests = of_kind(&objects, "request");
        assert_eq!(requests.len(), registry.walk().len(), "{run}");
        // The first one finds no connection, so it has all of the steps.
        let [lookup, connect, tls, first_byte, total] = steps(requests[0]);
        assert!(lookup.is_some() && lookup < connect, "{run}");
        assert_eq!(tls.is_some(), has_tls, "{run}");
        assert!(!has_tls || connect < tls, "{run}");
        assert!(tls.or(connect) < first_byte && first_byte <= total, "{run}");
        // The next ones find that connection, so their first step is the answer's first byte;
        // but one that asks before the connection is back begins a new one beside it, and takes
        // whichever is there first. That one has the steps that it got to, in their order.
        let begun: Vec<_> = requests[1..].iter().filter(|r| steps(r)[0].is_some()).collect();
        assert!(begun.len() < requests.len() - 1, "{run}");
        assert!(registry.connections() <= 1 + begun.len(), "{run}");
        for request in &requests[1..] {
            let [lookup, connect, tls, first_byte, total] = steps(request);
            let begun: Vec<f64> = [lookup, connect, tls].into_iter().flatten().collect();
            assert!(begun.is_sorted() && (lookup.is_some() || begun.is_empty()), "{run}");
            assert!(first_byte.is_some() && first_byte <= total, "{run}");
        }
    }
}

#[test]
fn timing_is_a_line_a_request_of_every_command() {
    let (registry, _) = serve(RegistryOptions::tls());
    let place = Place::new();
    let ca = registry.ca_file().display().to_string();
    let image = format!("localhost:{}/app:v1", registry.addr().port());
    for (command, requests) in [(&["digest"][..], 1), (&["tags"], 1), (&[], 5)] {
        let dest: &[&str] = if command.is_empty() { &["--jobs", "1", "d"] } else { &[] };
        let run = place.run(&[command, &["--timing", "--ca-cert", &ca, &image], dest].concat());
        assert_eq!(run.code, Some(0), "{run}");
        let lines: Vec<&str> =
            run.stderr.lines().filter(|line| line.starts_with("timing: ")).collect();
        assert_eq!(lines.len(), requests, "{run}");
        for word in [" 200: lookup ", " ms, connect ", " ms, TLS ", " ms, first byte "] {
            assert!(lines[0].contains(word), "{word}: {run}");
        }
        for line in &lines {
            assert!(line.contains(" ms, total ") && line.contains(" bytes, "), "{run}");
            assert!(line.ends_with("B/s") || line.ends_with("bytes/s"), "{run}");
        }
        // Of the later ones at least one finds the connection of the first.
        let reused = " 200: lookup -, connect -, TLS -, first byte ";
        assert!(requests == 1 || lines[1..].iter().any(|line| line.contains(reused)), "{run}");
    }
}

/// As curl's `--write-out` has it: what was reached has its time, the rest a dash.
#[test]
fn a_request_that_reaches_nobody_has_its_line_too() {
    let place = Place::new();
    let image = format!("{}/app:v1", common::free_port());
    let refused = ["--retries", "0", "--plain-http", &image, "d"];
    let run = place.run(&[&["--timing"][..], &refused].concat());
    let line = run.stderr.lines().find(|line| line.starts_with("timing: HEAD "));
    let line = line.unwrap_or_else(|| panic!("no line: {run}"));
    assert!(line.contains(" failed: lookup -, connect -, TLS -, first byte -, total "), "{run}");
    // Without the option the error alone tells of it.
    let run = place.run(&[&["-v"][..], &refused].concat());
    assert!(!run.stderr.lines().any(|line| line.starts_with("HEAD ")), "{run}");
}

#[test]
fn a_program_is_told_all() {
    let (registry, layers) = transfer_support::serve(&[300_000, 20_000]);
    // Slow enough for several objects of its bytes.
    let slow = Fault::Trickle { bytes: 4096, pause: Duration::from_millis(5) };
    registry.inject(Rule::new(slow).path(&layers[0]));
    registry.inject(Rule::new(Fault::status(503, "UNAVAILABLE")).path(&layers[1]).times(1));
    let place = Place::new();
    let image = transfer_support::image(&registry);
    let run = place.run(&["--progress", "json", &image, "d"]).succeeded();
    let objects = objects(&run);
    for (at, layer) in layers.iter().enumerate() {
        let size = registry.blob(layer).unwrap().len() as u64;
        for event in ["layer-started", "layer-done"] {
            let found = of_kind(&objects, event);
            let found = found.iter().find(|object| object["layer"] == at + 1).unwrap();
            assert_eq!((&found["digest"], &found["layers"]), (&layer.as_str().into(), &2.into()));
            assert_eq!(found["bytes"], size, "{run}");
        }
        let progress = of_kind(&objects, "layer-progress");
        let progress = progress.iter().filter(|object| object["layer"] == at + 1);
        let bytes: Vec<u64> = progress.map(|object| object["bytes"].as_u64().unwrap()).collect();
        assert!(bytes.is_sorted() && bytes.iter().all(|bytes| *bytes <= size), "{run}");
        assert!(at == 1 || bytes.len() > 1, "{run}");
    }
    let retry = of_kind(&objects, "retry");
    assert_eq!(
        (retry.len(), &retry[0]["attempt"], &retry[0]["attempts"]),
        (1, &1.into(), &5.into())
    );
    assert!(retry[0]["why"].as_str().unwrap().contains("503"), "{run}");
    let statuses: Vec<_> =
        of_kind(&objects, "request").iter().map(|object| object["status"].as_u64()).collect();
    assert_eq!(statuses.len(), registry.walk().len(), "{run}");
    assert!(statuses.contains(&Some(503)), "{run}");
    let last = objects.last().unwrap();
    assert_eq!(last["event"], "done");
    assert_eq!(last["digest"], place.record("d")["manifestDigest"]);
    assert_eq!(last["dest"], place.path("d").to_str().unwrap());
    // A second one too, and into a layout.
    let run = place.run(&["--progress", "json", &image, "d"]).succeeded();
    let told = self::objects(&run);
    assert!(told.last().unwrap()["text"].as_str().unwrap().contains("up to date"), "{run}");
    let run = place.run(&["--progress", "json", &image, "oci:l"]).succeeded();
    assert_eq!(self::objects(&run).last().unwrap()["event"], "done", "{run}");
}

#[test]
fn a_program_is_told_of_a_failure_too() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let host = registry.host();
    for (name, code, words, hint) in [
        (format!("{host}/app:none"), 8, "has no \"none\"", "tags that are there: v1"),
        ("Bad".into(), 2, "invalid image reference", "try bad"),
    ] {
        let run = place.run(&["--progress", "json", &name, "d"]);
        assert_eq!(run.code, Some(code), "{run}");
        let objects = objects(&run);
        let last = objects.last().unwrap();
        assert_eq!((&last["event"], &last["exitCode"]), (&"failed".into(), &code.into()), "{run}");
        assert!(last["message"].as_str().unwrap().contains(words), "{run}");
        assert!(last["hint"].as_str().unwrap().contains(hint), "{run}");
    }
    // What verify prints for programs stays apart from what it tells them.
    place.run(&[&format!("{host}/app:v1"), "d"]).succeeded();
    std::fs::write(place.path("d/etc/name"), "changed\n").unwrap();
    let run = place.run(&["verify", "--json", "--progress", "json", "d"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap()["path"], "etc/name", "{run}");
    assert!(!objects(&run).is_empty());
}

#[test]
fn a_name_server_that_is_silent_is_what_timed_out() {
    let silent = std::net::UdpSocket::bind("127.0.0.9:53").unwrap();
    let place = Place::new();
    // Ours, and the resolver's own, which the file may say.
    for (timeout, options, words) in [
        ("1", "", "timed out looking up the name: nothing came for 1 s"),
        ("60", "options timeout:1 attempts:1\n", "timed out looking up the name: no name server"),
    ] {
        let server = silent.local_addr().unwrap().ip();
        place.write("resolv.conf", format!("nameserver {server}\n{options}"));
        let name = "registry.example/app:v1";
        let inner = place.command(&["--timeout", timeout, "--retries", "0", name, "d"]);
        let mut command = Command::new("unshare");
        let setup = "mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        command.args(["-m", "sh", "-c", setup, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(place.path("")).stdin(Stdio::null());
        Run::of(command).failed(5, &[words]).hints("name servers");
    }
}

#[test]
fn a_tls_handshake_that_stands_still_is_what_timed_out() {
    // It takes connections, and the kernel what comes on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(silent.local_addr().unwrap());
    let place = Place::new();
    let arguments = ["--timeout", "1", "--retries", "0", "registry.test:5000/app:v1", "d"];
    let mut command = place.command(&arguments);
    command.env("HTTPS_PROXY", proxy.url());
    Run::of(command)
        .failed(5, &["registry.test:5000", "timed out within the TLS handshake", "1 s"])
        .hints("--timeout");
}

/// Two layers that come slowly at once: each has its bar, with bytes of how many, the rate and the
/// time that is left.
#[test]
fn a_terminal_shows_the_bars_of_all_layers() {
    let (registry, layers) = transfer_support::serve(&[600_000, 500_000]);
    let slow = Fault::Trickle { bytes: 4096, pause: Duration::from_millis(5) };
    registry.inject(Rule::new(slow).path("/blobs/"));
    let place = Place::new();
    let program = place.command(&[]).get_program().to_string_lossy().into_owned();
    let image = transfer_support::image(&registry);
    // script(1) gives the program a terminal and copies what it writes there.
    let script = format!("stty cols 150; {program} --no-cache {image} d");
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).current_dir(place.path("")).stdin(Stdio::null());
    let run = Run::of(command);
    assert_eq!(run.code, Some(0), "{run}");
    for (at, layer) in layers.iter().enumerate() {
        let name = format!("layer {}/2 {} [", at + 1, &layer["sha256:".len()..][..12]);
        let drawn: Vec<&str> = run.stdout.split(&name).skip(1).collect();
        assert!(drawn.len() > 1, "the bar moves: {run}");
        assert!(drawn.iter().any(|bar| bar.contains("kB/") && bar.contains("kB/s ")), "{run}");
    }
}

#[test]
fn lines_can_be_had_on_a_terminal_too() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let program = place.command(&[]).get_program().to_string_lossy().into_owned();
    let script = format!("{program} --no-cache --progress plain {}/app:v1 d", registry.host());
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).current_dir(place.path("")).stdin(Stdio::null());
    let run = Run::of(command);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("layer 2/2 ") && !run.stdout.contains('\u{1b}'), "{run}");
}
