//! A network that breaks, stalls, lies or wants to be left alone, and pulls that are cut off: what
//! is fetched again, what is not, and what the user is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod transfer_support;

use std::process::Command;
use std::time::Duration;

use common::{Place, Run, wait_until};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
use testkit::tree::{Options, Tree, assert_same};
use transfer_support::{
    FIRST_BYTES, blob, ended_well, fetches, from, image, partial, push, right, serve, spawn,
};

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    for (fault, said) in [
        (Fault::TruncateAt(FIRST_BYTES), "truncated"),
        (Fault::ResetAt(FIRST_BYTES), "GET"),
        (Fault::StallAt(FIRST_BYTES), "timed out within the answer"),
    ] {
        for cached in [&[][..], &["--no-cache"]] {
            let (registry, layers) = serve(&[300_000]);
            registry.inject(Rule::new(fault.clone()).path(&layers[0]).times(1));
            let place = Place::new();
            let image = image(&registry);
            let arguments = [cached, &["--timeout", "1", &image, "d"]].concat();
            let run = place.run(&arguments).succeeded().says("retry 1 of 5").says(said);
            right(&place, "d", &[300_000]);
            let got = fetches(&registry, &layers[0]);
            assert_eq!(got[0], (200, None), "{run}");
            // A reset may overtake what was sent before it.
            let reset = matches!(fault, Fault::ResetAt(_));
            if reset {
                assert_eq!(got.len(), 2, "{got:?}");
            } else {
                assert_eq!(got[1..], [(206, from(FIRST_BYTES))], "{run}");
            }
        }
    }
}

#[test]
fn a_trickle_is_as_good_as_a_stall() {
    let (registry, layers) = serve(&[300_000]);
    let trickle = Fault::Trickle { bytes: 10, pause: Duration::from_millis(200) };
    registry.inject(Rule::new(trickle.clone()).path(&layers[0]).times(1));
    let place = Place::new();
    let run = place.run(&["--timeout", "1", &image(&registry), "d"]).succeeded();
    run.says("less than 512 bytes came");
    right(&place, "d", &[300_000]);
    assert_eq!(fetches(&registry, &layers[0]).len(), 2);
    // A document does not hold a pull for ever either.
    registry.inject(Rule::new(trickle).path("/manifests/").method("GET"));
    let arguments = ["--no-cache", "--retries", "0", "--timeout", "1", &image(&registry), "e"];
    place.run(&arguments).failed(5, &["timed out within the answer"]).hints("--timeout");
}

#[test]
fn a_range_that_is_not_served_as_asked_is_not_joined() {
    let odd = |value: &str| Fault::ContentRange(value.to_owned());
    for fault in [
        Fault::IgnoreRange,
        odd("bytes 0-299999/300000"),
        odd("bytes 70001-300105/300106"),
        odd("bytes 70000-70001/70002"),
        odd("nonsense"),
        Fault::Header("Content-Range".into(), None),
        Fault::status(416, "RANGE_INVALID"),
    ] {
        let (registry, layers) = serve(&[300_000]);
        registry.inject(Rule::new(Fault::TruncateAt(FIRST_BYTES)).path(&layers[0]).times(1));
        registry.inject(Rule::new(fault.clone()).path(&layers[0]).with_range(true));
        let place = Place::new();
        place.run(&[&image(&registry), "d"]).succeeded();
        right(&place, "d", &[300_000]);
        let got = fetches(&registry, &layers[0]);
        assert_eq!(got[1].1, from(FIRST_BYTES), "{fault:?}");
        let whole = got.iter().filter(|(status, _)| *status == 200).count();
        assert_eq!(whole, 2, "the cut one and a whole one: {fault:?}: {got:?}");
        // What was joined is what it should be.
        assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    }
}

#[test]
fn a_server_that_always_breaks_is_given_up() {
    let (registry, layers) = serve(&[300_000]);
    registry.inject(Rule::new(Fault::TruncateAt(10)).path(&layers[0]));
    let place = Place::new();
    place
        .run(&["--retries", "2", &image(&registry), "d"])
        .failed(4, &["truncated", "got 30 bytes", &layers[0]]);
    assert_eq!(fetches(&registry, &layers[0]).len(), 3);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn what_may_pass_is_tried_again() {
    for part in ["/manifests/", "/blobs/"] {
        for fault in [
            Fault::status(500, "UNKNOWN"),
            Fault::status(502, "UNKNOWN"),
            Fault::status(503, "UNAVAILABLE").with_header("Retry-After", "0"),
            Fault::status(504, "UNKNOWN"),
            Fault::status(408, "UNKNOWN"),
            Fault::status(429, "TOOMANYREQUESTS").with_header("Retry-After", "880.092µs"),
            Fault::status(429, "TOOMANYREQUESTS"),
            Fault::Close,
            Fault::Reset,
            Fault::TruncateAt(20),
        ] {
            let (registry, _) = serve(&[1000]);
            registry.inject(Rule::new(fault.clone()).path(part).method("GET").times(2));
            let place = Place::new();
            let run = place.run(&[&image(&registry), "d"]).succeeded().says("retry 1 of 5");
            right(&place, "d", &[1000]);
            assert_eq!(registry.walk().len(), 4 + 2, "{fault:?}: {run}");
        }
    }
}

#[test]
fn what_will_stay_is_asked_once() {
    for (code, exit_code) in [(400, 1), (403, 9), (404, 8), (405, 1), (410, 1), (416, 1), (501, 1)]
    {
        let (registry, layers) = serve(&[1000]);
        registry.inject(Rule::new(Fault::status(code, "NO")).path(&layers[0]));
        let place = Place::new();
        place.run(&[&image(&registry), "d"]).failed(exit_code, &[&code.to_string()]);
        assert_eq!(fetches(&registry, &layers[0]), [(code, None)]);
    }
    let (registry, layers) = serve(&[1000]);
    registry.inject(Rule::new(Fault::WrongBytes).path(&layers[0]));
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).failed(4, &["altered"]).hints("damages content");
    assert_eq!(fetches(&registry, &layers[0]), [(200, None)]);
    // And nothing of it is kept.
    assert!(!partial(&place, &layers[0]).exists() && !blob(&place, &layers[0]).exists());
}

#[test]
fn a_rate_limit_is_waited_out_or_told() {
    let limited =
        |after: &str| Fault::status(429, "TOOMANYREQUESTS").with_header("Retry-After", after);
    let (registry, layers) = serve(&[1000]);
    registry.inject(Rule::new(limited("2")).path(&layers[0]).times(1));
    let place = Place::new();
    // Two seconds, and up to half a one drawn.
    place
        .run(&[&image(&registry), "d"])
        .succeeded()
        .says("retry 1 of 5 in 2.")
        .says("rate limited until");

    let later = std::time::SystemTime::now() + Duration::from_secs(7200);
    let epoch = later.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    for after in ["7200", "2h0m0.5s", &epoch, "Fri, 01 Jan 2100 00:00:00 GMT"] {
        registry.clear_faults();
        registry.inject(Rule::new(limited(after)).path(&layers[0]));
        registry.clear_requests();
        place
            .run(&["--no-cache", &image(&registry), "e"])
            .failed(3, &["rate limited until", " GMT", "TOOMANYREQUESTS"])
            .hints("until then");
        assert_eq!(fetches(&registry, &layers[0]).len(), 1, "{after}");
    }
    // A storm ends when the attempts do.
    registry.clear_faults();
    registry.inject(Rule::new(limited("0")).method("HEAD"));
    registry.clear_requests();
    place.run(&["--retries", "3", &image(&registry), "e"]).failed(3, &["rate limited"]);
    assert_eq!(registry.walk().len(), 4);
}

#[test]
fn a_timeout_tells_what_was_waited_for() {
    let (registry, layers) = serve(&[300_000]);
    let place = Place::new();
    for (fault, words) in [
        (Fault::Hang, "timed out waiting for the answer"),
        (Fault::StallAt(10), "timed out within the answer"),
    ] {
        registry.inject(Rule::new(fault).path(&layers[0]));
        place
            .run(&["--timeout", "1", "--retries", "1", "--no-cache", &image(&registry), "d"])
            .failed(5, &[words, "1 s"])
            .hints("--timeout");
        assert_eq!(fetches(&registry, &layers[0]).len(), 2);
        registry.clear_faults();
        registry.clear_requests();
    }
    // A listener that never accepts: once its queue is full, the kernel drops what comes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let brief = Duration::from_millis(300);
    let queue: Vec<_> =
        std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, brief).ok()).collect();
    place
        .run(&["--timeout", "1", "--retries", "0", &format!("{address}/app:v1"), "d"])
        .failed(5, &["cannot reach registry", &address.to_string(), "timed out while connecting"])
        .hints("--timeout");
    drop(queue);
}

#[test]
fn a_registry_that_starts_again_is_waited_for() {
    let (first, layers) = serve(&[300_000]);
    first.inject(Rule::new(Fault::StallAt(FIRST_BYTES)).path(&layers[0]));
    let (address, name) = (first.addr(), image(&first));
    let place = Place::new();
    let pull = spawn(&place, &["--retries", "9", &name, "d"]);
    let part = partial(&place, &layers[0]);
    wait_until("the part is there", || part.metadata().is_ok_and(|m| m.len() == FIRST_BYTES));
    drop(first);
    let second = Registry::start(RegistryOptions { addr: address, ..RegistryOptions::default() });
    push(&second, &[300_000]);
    let said = ended_well(pull);
    assert!(said.contains("retry 1 of 9"), "{said}");
    right(&place, "d", &[300_000]);
    assert_eq!(fetches(&second, &layers[0]).last(), Some(&(206, from(FIRST_BYTES))));
}

#[test]
fn a_full_disk_says_so() {
    let (registry, layers) = serve(&[3_000_000]);
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let inner = place.command(&[&image(&registry), "/mnt/d"]);
    let mut command = Command::new("unshare");
    let setup = "mount -t tmpfs -o size=1m tmpfs /mnt && exec \"$@\"";
    command.args(["-m", "sh", "-c", setup, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(command).failed(6, &["No space left on device"]).hints("free some space");
    // The cache is not to blame.
    assert_eq!(fetches(&registry, &layers[0]), [(200, None)]);
}

#[test]
fn a_killed_pull_goes_on_in_another_process() {
    let (registry, layers) = serve(&[20_000, 300_000]);
    registry.inject(Rule::new(Fault::StallAt(FIRST_BYTES)).path(&layers[1]).times(1));
    let place = Place::new();
    let mut pull = spawn(&place, &[&image(&registry), "d"]);
    let left = partial(&place, &layers[1]);
    wait_until("the part is there", || left.metadata().is_ok_and(|m| m.len() == FIRST_BYTES));
    pull.kill().unwrap();
    pull.wait().unwrap();
    // A registry that has no time meanwhile costs nothing of it.
    registry.inject(Rule::new(Fault::status(503, "UNAVAILABLE")).path(&layers[1]));
    place.run(&["--retries", "0", &image(&registry), "d"]).failed(1, &["503"]);
    registry.clear_faults();
    registry.clear_requests();
    place.run(&[&image(&registry), "d"]).succeeded();
    right(&place, "d", &[20_000, 300_000]);
    let rest = format!("GET /v2/app/blobs/{} 206", layers[1]);
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200".to_owned(), rest]);
    assert_eq!(fetches(&registry, &layers[1]), [(206, from(FIRST_BYTES))]);
    assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    assert!(!left.exists());
}

#[test]
fn a_part_that_is_whole_too_long_or_damaged() {
    let (registry, layers) = serve(&[300_000]);
    let first = Place::new();
    first.run(&[&image(&registry), "d"]).succeeded();
    let whole = std::fs::read(blob(&first, &layers[0])).unwrap();
    let mut damaged = whole[..100_000].to_vec();
    damaged[50_000] ^= 1;
    let zeros = vec![0; 100_000];
    let long = [whole.clone(), vec![0]].concat();
    for (part, want) in [
        (whole.clone(), vec![]),
        (long, vec![(200, None)]),
        (damaged, vec![(206, from(100_000)), (200, None)]),
        (zeros, vec![(206, from(100_000)), (200, None)]),
    ] {
        let place = Place::new();
        std::fs::create_dir_all(place.cache().join("partial")).unwrap();
        std::fs::write(partial(&place, &layers[0]), part).unwrap();
        registry.clear_requests();
        let run = place.run(&[&image(&registry), "d"]).succeeded();
        right(&place, "d", &[300_000]);
        assert_eq!(fetches(&registry, &layers[0]), want, "{run}");
        assert_eq!(std::fs::read(blob(&place, &layers[0])).unwrap(), whole);
    }
}

#[test]
fn two_pulls_at_once_download_once() {
    let sizes = [200_000, 400_000];
    let (registry, layers) = serve(&sizes);
    let slow = Fault::Trickle { bytes: 10_000, pause: Duration::from_millis(10) };
    registry.inject(Rule::new(slow).path("/blobs/"));
    let place = Place::new();
    let pulls = ["a", "b", "c"].map(|dest| spawn(&place, &[&image(&registry), dest]));
    for pull in pulls {
        ended_well(pull);
    }
    for dest in ["a", "b", "c"] {
        right(&place, dest, &sizes);
    }
    for layer in &layers {
        assert_eq!(fetches(&registry, layer), [(200, None)], "{:?}", registry.walk());
    }
    let manifests =
        registry.walk().iter().filter(|line| line.starts_with("GET /v2/app/man")).count();
    assert_eq!(manifests, 1, "{:?}", registry.walk());
}

#[test]
fn who_follows_a_pull_that_dies_takes_over() {
    let (registry, layers) = serve(&[400_000]);
    registry.inject(Rule::new(Fault::StallAt(FIRST_BYTES)).path(&layers[0]).times(1));
    let place = Place::new();
    let mut first = spawn(&place, &[&image(&registry), "a"]);
    let part = partial(&place, &layers[0]);
    wait_until("the part is there", || part.metadata().is_ok_and(|m| m.len() == FIRST_BYTES));
    let second = spawn(&place, &["-v", &image(&registry), "b"]);
    wait_until("the second has asked", || {
        registry.walk().iter().filter(|line| line.starts_with("HEAD")).count() == 2
    });
    first.kill().unwrap();
    first.wait().unwrap();
    ended_well(second);
    right(&place, "b", &[400_000]);
    assert_eq!(fetches(&registry, &layers[0]), [(200, None), (206, from(FIRST_BYTES))]);
}

#[test]
fn who_follows_a_pull_that_hangs_goes_on_alone() {
    let (registry, layers) = serve(&[400_000]);
    registry.inject(Rule::new(Fault::StallAt(FIRST_BYTES)).path(&layers[0]).times(1));
    let place = Place::new();
    let mut first = spawn(&place, &[&image(&registry), "a"]);
    let part = partial(&place, &layers[0]);
    wait_until("the part is there", || part.metadata().is_ok_and(|m| m.len() == FIRST_BYTES));
    place.run(&["--timeout", "1", &image(&registry), "b"]).succeeded();
    right(&place, "b", &[400_000]);
    assert_eq!(fetches(&registry, &layers[0]), [(200, None), (206, from(FIRST_BYTES))]);
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn one_layer_twice_at_once_in_one_process_is_downloaded_once() {
    use ocipull::cache::Cache;
    use ocipull::event::Silent;
    use ocipull::fetch::{Place as Layer, fetch};
    use std::io::Read;
    use std::sync::Arc;
    // More than waits for a reader: who downloads must not wait for the one that reads last.
    let (served, digests) = serve(&[9_000_000]);
    let slow = Fault::Trickle { bytes: 100_000, pause: Duration::from_millis(5) };
    served.inject(Rule::new(slow).path(&digests[0]));
    let whole = served.blob(&digests[0]).unwrap();
    let layer = oci_descriptor(&digests[0], whole.len() as u64);
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::open(&dir.path().join("cache"), Arc::new(Silent)).unwrap());
    let reference = image(&served).parse().unwrap();
    let registry =
        ocipull::registry::Registry::new(&reference, &Default::default(), Arc::new(Silent))
            .unwrap();
    let source = ocipull::source::Source::registry(registry, reference);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let start = |index| fetch(&source, Some(&cache), &layer, Layer { index, total: 3 });
        let first = start(0);
        while fetches(&served, &digests[0]).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (_fetch, mut reader) in [start(1), start(2), first] {
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            });
            assert!(read.await.unwrap().unwrap() == whole);
        }
    });
    assert_eq!(fetches(&served, &digests[0]), [(200, None)]);
}

fn oci_descriptor(digest: &str, size: u64) -> oci_spec::image::Descriptor {
    let value = serde_json::json!({
        "mediaType": testkit::media::OCI_LAYER_GZIP, "digest": digest, "size": size,
    });
    serde_json::from_value(value).unwrap()
}

/// Ten times a pull is killed, whatever it is at; then one goes through. The registry counts.
#[test]
fn killed_at_ten_random_moments_a_pull_ends_right_and_fetches_nothing_twice() {
    let sizes = [300_000, 500_000, 200_000, 400_000];
    let (registry, layers) = serve(&sizes);
    let want = Place::new();
    want.run(&[&image(&registry), "d"]).succeeded();
    registry.clear_requests();
    // About 700 milliseconds for all of it.
    let slow = Fault::Trickle { bytes: 4096, pause: Duration::from_millis(2) };
    registry.inject(Rule::new(slow).path("/blobs/"));
    let place = Place::new();
    for _ in 0..10 {
        let mut pull = spawn(&place, &[&image(&registry), "d"]);
        std::thread::sleep(Duration::from_millis(random(150)));
        let _ = pull.kill();
        pull.wait().unwrap();
    }
    place.run(&[&image(&registry), "d"]).succeeded();
    let options = Options::default();
    assert_same(&Tree::of(&want.path("d"), &options), &Tree::of(&place.path("d"), &options));
    assert_eq!(place.names(), ["d", "d.image.json"]);
    for layer in &layers {
        let size = registry.blob(layer).unwrap().len() as u64;
        let requests = registry.requests();
        let of_layer = requests.iter().filter(|r| r.path.ends_with(layer.as_str()));
        let (count, sent) = of_layer.fold((0, 0), |(n, sum), r| (n + 1, sum + r.sent_bytes()));
        // What a killed pull had not read from its socket is all that may come again.
        assert!(sent < 2 * size, "{sent} of {size} bytes in {count} requests");
        let starts: Vec<u64> = fetches(&registry, layer)
            .iter()
            .map(|(_, range)| range.as_ref().map_or(0, |r| r[6..r.len() - 1].parse().unwrap()))
            .collect();
        assert!(starts.is_sorted(), "each goes on from where the last one was: {starts:?}");
        assert!(starts.iter().all(|start| *start < size), "{starts:?}");
    }
    assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    registry.clear_requests();
    place.run(&[&image(&registry), "e"]).succeeded();
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
}

fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % below
}
