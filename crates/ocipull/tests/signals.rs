//! The signals that end a pull: by a person, a service manager, a terminal that closes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod pulls;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Run;
use pulls::{Found, Site, busy_image, old_image, small_image};
use testkit::registry::{Fault, Rule};
use testkit::user::TestUser;

/// Moments at which a pull gets each of the signals.
const MOMENTS: u32 = 6;

const SIGNALS: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

fn kill(signal: &str, pid: u32) {
    // It may have ended by itself.
    drop(Command::new("kill").args(["-s", signal, &pid.to_string()]).output().unwrap());
}

#[test]
fn whenever_it_comes_a_signal_ends_a_pull_with_its_code_and_leaves_nothing() {
    let root = Site::root(&old_image(), &busy_image());
    let user = Site::user(TestUser::with_subids(), &old_image(), &busy_image());
    for site in [root, user] {
        // Long enough beside what a busy machine takes to start a program.
        let pause = Duration::from_millis(100);
        site.registry.inject(Rule::new(Fault::Delay(pause)).path("/v2/"));
        let start = Instant::now();
        Run::of(site.pull(&[], "new", "d")).succeeded();
        let whole = start.elapsed();
        let mut in_the_middle = 0;
        for (signal, number) in SIGNALS {
            for n in 0..MOMENTS {
                let had_old = n % 2 == 0;
                site.reset(had_old);
                let options: &[&str] = if had_old { &["--force"] } else { &[] };
                let mut command = site.pull(options, "new", "d");
                command.stdout(Stdio::null()).stderr(Stdio::piped());
                let child = command.spawn().unwrap();
                std::thread::sleep(whole * n / MOMENTS);
                kill(signal, child.id());
                let output = child.wait_with_output().unwrap();
                let when = format!("SIG{signal} at {n}/{MOMENTS} of {whole:?}: {output:?}");
                if output.status.success() {
                    assert_eq!(site.found(&when), Found::New, "{when}");
                    continue;
                }
                site.assert_as_before(had_old, &when);
                if output.status.signal() == Some(number) {
                    // Before it was listened to, so before there was anything to leave.
                    continue;
                }
                assert_eq!(output.status.code(), Some(128 + number), "{when}");
                if output.stderr.is_empty() {
                    // The same of the process inside the namespace.
                    continue;
                }
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(stderr.contains(&format!("interrupted by SIG{signal}")), "{when}");
                in_the_middle += 1;
            }
        }
        assert!(in_the_middle >= MOMENTS, "only {in_the_middle} signals came in the middle");
    }
}

/// As nohup(1) has it, and a shell's `&`.
#[test]
fn a_signal_that_is_ignored_from_the_start_does_not_end_a_pull() {
    let root = Site::root(&old_image(), &small_image());
    let user = Site::user(TestUser::with_subids(), &old_image(), &small_image());
    for site in [root, user] {
        let pause = Duration::from_millis(20);
        site.registry.inject(Rule::new(Fault::Trickle { bytes: 8, pause }).path("/blobs/"));
        site.registry.clear_requests();
        let inner = site.pull(&[], "new", "d");
        let mut command = Command::new("env");
        command.env_clear().envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.current_dir(inner.get_current_dir().unwrap());
        let ignoring = ["--ignore-signal=HUP,INT", "--"];
        command.args(ignoring).arg(inner.get_program());
        // Not the inner one's own word on the matter.
        command.args(inner.get_args().filter(|a| *a != "--default-signal=HUP,INT,TERM"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while !site.registry.walk().iter().any(|line| line.contains("/blobs/")) {
            assert!(Instant::now() < end, "no blob was asked for: {:?}", site.registry.walk());
            std::thread::sleep(Duration::from_millis(5));
        }
        kill("HUP", child.id());
        kill("INT", child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(site.found("SIGHUP, ignored"), Found::New);
    }
}
