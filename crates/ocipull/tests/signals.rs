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

#[test]
fn a_signal_ends_the_wait_for_an_archive_that_does_not_come() {
    for has_writer in [false, true] {
        let place = common::Place::new();
        let pipe = place.path("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let open = || std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        let _writer = has_writer.then(open);
        let mut command = place.command(&["docker-archive:pipe", "d"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        common::wait_until("signals are listened to", || catches(child.id(), 15));
        kill("TERM", child.id());
        let end = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + 15), "{has_writer}: {output:?}");
        assert_eq!(place.names(), ["pipe"]);
    }
}

/// Whether the process has a handler for the signal (proc_pid_status(5)).
fn catches(pid: u32, number: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}
