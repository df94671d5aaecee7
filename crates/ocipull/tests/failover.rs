//! A bad network with somebody else to ask: who is asked next, who again, and what is not fetched
//! twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod transfer_support;

use std::time::Duration;

use common::{Place, free_port, wait_until};
use testkit::registry::{Fault, Registry, Rule};
use transfer_support::{
    FIRST_BYTES, blob, ended_well, fetches, from, image, partial, right, serve, spawn,
};

/// A mirror and the registry that it stands in for, with the same image.
fn pair(sizes: &[usize]) -> (Registry, Registry, Vec<String>) {
    let (mirror, layers) = serve(sizes);
    let (origin, same) = serve(sizes);
    assert_eq!(layers, same);
    (mirror, origin, layers)
}

fn busy(code: u16, after: &str) -> Fault {
    Fault::status(code, "TOOMANYREQUESTS").with_header("Retry-After", after)
}

#[test]
fn where_a_mirror_dies_the_registry_goes_on() {
    let sizes = [20_000, 300_000];
    let (mirror, origin, layers) = pair(&sizes);
    mirror.inject(Rule::new(Fault::StallAt(FIRST_BYTES)).path(&layers[1]));
    let place = Place::new();
    let (host, name) = (mirror.host(), image(&origin));
    let pull = spawn(&place, &["--retries", "0", "--mirror", &host, &name, "d"]);
    let (whole, part) = (blob(&place, &layers[0]), partial(&place, &layers[1]));
    wait_until("one layer is there, and a part of the other", || {
        whole.exists() && part.metadata().is_ok_and(|m| m.len() == FIRST_BYTES)
    });
    drop(mirror);
    let said = ended_well(pull);
    // Whether its listener or the connection goes first is a race.
    assert!(said.contains(&format!("note: mirror {host} failed: ")), "{said}");
    assert!(said.contains(&format!("asking {} now", origin.host())), "{said}");
    right(&place, "d", &sizes);
    assert_eq!(fetches(&origin, &layers[1]), [(206, from(FIRST_BYTES))], "{said}");
    assert_eq!(origin.walk().len(), 1, "nothing else is fetched again: {:?}", origin.walk());
    assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
}

#[test]
fn a_mirror_that_keeps_breaking_off_is_left() {
    for (fault, breaks) in [
        // Asked a second time; but not one that is silent, which costs its time each time.
        (Fault::TruncateAt(10_000), 2),
        (Fault::StallAt(10_000), 1),
    ] {
        let (mirror, origin, layers) = pair(&[300_000]);
        mirror.inject(Rule::new(fault.clone()).path(&layers[0]));
        let place = Place::new();
        let (host, name) = (mirror.host(), image(&origin));
        // That another host is asked is no retry.
        let run = place
            .run(&["--retries", "0", "--timeout", "1", "--mirror", &host, &name, "d"])
            .succeeded()
            .says(&format!("note: mirror {host} failed: "));
        right(&place, "d", &[300_000]);
        let asked = [(200, None), (206, from(10_000))];
        assert_eq!(fetches(&mirror, &layers[0]), asked[..breaks], "{run}");
        let rest = from(10_000 * breaks as u64);
        assert_eq!(fetches(&origin, &layers[0]), [(206, rest)], "{fault:?}: {run}");
        assert_eq!(origin.walk().len(), 1, "{:?}", origin.walk());
    }
}

#[test]
fn where_nobody_else_helps_a_mirror_goes_on_itself() {
    let (mirror, layers) = serve(&[300_000]);
    mirror.inject(Rule::new(Fault::TruncateAt(10_000)).path(&layers[0]).times(3));
    let place = Place::new();
    place.hosts_toml(
        "quay.io",
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", free_port(), mirror.host()),
    );
    let run = place.run(&["quay.io/app:v1", "d"]).succeeded();
    right(&place, "d", &[300_000]);
    let starts = [None, from(10_000), from(20_000), from(30_000)];
    let asked: Vec<_> = fetches(&mirror, &layers[0]).into_iter().map(|(_, range)| range).collect();
    assert_eq!(asked, starts, "{run}");
}

#[test]
fn a_mirror_without_time_is_not_waited_for() {
    for fault in [busy(429, "50"), busy(503, "50"), Fault::status(503, "UNAVAILABLE")] {
        let (mirror, origin, _) = pair(&[1000]);
        mirror.inject(Rule::new(fault.clone()));
        let place = Place::new();
        let run = place.run(&["--mirror", &mirror.host(), &image(&origin), "d"]).succeeded();
        assert!(!run.stderr.contains("retry"), "{fault:?}: {run}");
        assert_eq!(mirror.walk().len(), 1, "{:?}", mirror.walk());
        assert_eq!(origin.walk().len(), 4, "{:?}", origin.walk());
    }
}

#[test]
fn the_last_host_is_insisted_on() {
    let (mirror, origin, _) = pair(&[1000]);
    mirror.inject(Rule::new(busy(429, "0")));
    origin.inject(Rule::new(busy(503, "0")).method("HEAD").times(2));
    let place = Place::new();
    let run = place
        .run(&["--retries", "2", "--mirror", &mirror.host(), &image(&origin), "d"])
        .succeeded()
        .says("note: retry 2 of 2 in ");
    assert_eq!(mirror.walk().len(), 1, "{run}");
    assert_eq!(origin.walk().len(), 2 + 4, "{run}");
    // And where it has no time either, that is what is told.
    origin.inject(Rule::new(busy(429, "3600")));
    let gone = place.run(&["--no-cache", "--mirror", &mirror.host(), &image(&origin), "e"]);
    gone.failed(3, &[&mirror.host(), "rate limited until"]).hints("until then");
}

/// As behind a firewall that lets nobody out but to the mirror.
#[test]
fn a_mirror_of_a_registry_out_of_reach_is_insisted_on() {
    let (mirror, _) = serve(&[1000]);
    mirror.inject(Rule::new(Fault::status(503, "UNAVAILABLE")).times(2));
    let place = Place::new();
    place.hosts_toml(
        "quay.io",
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", free_port(), mirror.host()),
    );
    place.run(&["quay.io/app:v1", "d"]).succeeded().says("note: retry 1 of 5");
    right(&place, "d", &[1000]);
    // But what the registry itself says counts.
    let (origin, _) = serve(&[1000]);
    mirror.inject(Rule::new(Fault::status(503, "UNAVAILABLE")));
    mirror.clear_requests();
    place
        .run(&["--mirror", &mirror.host(), &format!("{}/app:none", origin.host()), "e"])
        .failed(8, &["503", "not found", "has no \"none\""]);
    assert_eq!(mirror.walk().len(), 1, "{:?}", mirror.walk());
}

#[test]
fn a_mirror_without_ranges_does_not_cost_what_is_there() {
    for fault in [
        Fault::status(416, "RANGE_INVALID"),
        Fault::ContentRange("bytes 0-299999/300000".into()),
        Fault::status(404, "BLOB_UNKNOWN"),
    ] {
        let (mirror, origin, layers) = pair(&[300_000]);
        mirror.inject(Rule::new(Fault::TruncateAt(FIRST_BYTES)).path(&layers[0]).times(1));
        mirror.inject(Rule::new(fault.clone()).path(&layers[0]).with_range(true));
        let place = Place::new();
        let run = place.run(&["--mirror", &mirror.host(), &image(&origin), "d"]).succeeded();
        right(&place, "d", &[300_000]);
        assert_eq!(fetches(&origin, &layers[0]), [(206, from(FIRST_BYTES))], "{fault:?}: {run}");
    }
    // Nobody has the rest: then the whole, of who has it.
    let (mirror, layers) = serve(&[300_000]);
    mirror.inject(Rule::new(Fault::TruncateAt(FIRST_BYTES)).path(&layers[0]).times(1));
    mirror.inject(Rule::new(Fault::status(416, "NO")).path(&layers[0]).with_range(true));
    let (place, gone) = (Place::new(), free_port());
    place.run(&["--mirror", &mirror.host(), &format!("{gone}/app:v1"), "d"]).succeeded();
    right(&place, "d", &[300_000]);
    assert_eq!(fetches(&mirror, &layers[0]).last(), Some(&(200, None)));
}

#[test]
fn offline_no_host_is_asked() {
    let (mirror, origin, _) = pair(&[1000]);
    let place = Place::new();
    place.hosts_toml(&origin.host(), &format!("[host.\"http://{}\"]\n", mirror.host()));
    place.run(&["--offline", &image(&origin), "d"]).failed(1, &["not in the cache"]);
    assert_eq!((mirror.connections(), origin.connections()), (0, 0));
    place.run(&[&image(&origin), "d"]).succeeded();
    let before = mirror.connections();
    place.run(&["--offline", &image(&origin), "e"]).succeeded();
    assert_eq!((mirror.connections(), origin.connections()), (before, 0));
}

#[test]
fn a_configured_time_to_connect_is_the_hosts_own() {
    // A listener that never accepts: once its queue is full, the kernel drops what comes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let brief = Duration::from_millis(300);
    let queue: Vec<_> =
        std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, brief).ok()).collect();
    let place = Place::new();
    let text = format!("[host.\"http://{address}\"]\ndial_timeout = \"1s\"\n");
    let (origin, _) = serve(&[1000]);
    place.hosts_toml(&origin.host(), &text);
    let name = image(&origin);
    for more in [&[][..], &["--timeout", "2"]] {
        let arguments = [more, &["--no-cache", "--force", &name, "d"]].concat();
        let run = place.run(&arguments).succeeded();
        run.says("timed out while connecting: nothing came for 1 s");
    }
    drop(queue);
}
