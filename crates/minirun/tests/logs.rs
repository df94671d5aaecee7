//! What a container in the background writes: kept within a bound, shown, followed.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::path::Path;
use std::process::Command;

use common::{As, give};
use container::{Container, Detached, assert_refused, wait_until};
use testkit::programs::{Run, binary};
use testkit::user::TestUser;

/// A shell function that waits for the test to make a file in the root filesystem.
const AWAIT: &str = "await() { while [ ! -e /$1 ]; do sleep 0.02; done; };";

fn detach<'a>(c: &'a Container, options: &[&str], script: &str) -> Detached<'a> {
    let words = [&["--rootless", "-d"], options, &["--", "/bin/sh", "-c", script]].concat();
    c.minirun(&words).assert_code(0).assert_stdout(&format!("{}\n", c.name));
    Detached(c)
}

/// Lets a container go on that waits for `name`.
fn go(c: &Container, name: &str) {
    std::fs::write(c.bundle.join("rootfs").join(name), "").unwrap();
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

#[test]
fn the_log_is_shown_whole_and_by_its_last_lines() {
    for c in Container::all() {
        let running = c.detach("for n in 1 2 3 4; do echo $n; done; echo five >&2; printf six");
        c.minirun(&["wait", &c.name]).assert_code(0).assert_stdout("0\n");
        let all = "1\n2\n3\n4\nfive\nsix";
        c.minirun(&["logs", &c.name]).assert_code(0).assert_stdout(all);
        c.minirun(&["logs", "-f", &c.name]).assert_code(0).assert_stdout(all);
        c.minirun(&["logs", "--tail", "all", &c.name]).assert_code(0).assert_stdout(all);
        c.minirun(&["logs", "-n", "2", &c.name]).assert_code(0).assert_stdout("five\nsix");
        c.minirun(&["logs", "--tail=0", &c.name]).assert_code(0).assert_stdout("");
        c.minirun(&["logs", "-n", "-1", &c.name]).assert_code(0).assert_stdout(all);
        assert_refused(&c.minirun(&["logs", "-n", "x", &c.name]), 1, "--tail", "help");
        drop(running);
    }
    let c = Container::single();
    assert_refused(&c.minirun(&["logs", "nosuch"]), 1, "does not exist", "minirun list");
}

#[test]
fn a_log_is_followed_to_the_containers_end() {
    for terminal in ["--tty=false", "--tty"] {
        let c = Container::single();
        let script = format!("{AWAIT} echo one; await go; echo two; await end; echo three; exit 4");
        let running = detach(&c, &[terminal], &script);
        let mut follower = Run::new(c.command(&["logs", "-f", &c.name])).spawn();
        follower.wait_stdout("one");
        let mut late = Run::new(c.command(&["logs", "--follow", "--tail=0", &c.name])).spawn();
        go(&c, "go");
        follower.wait_stdout("two");
        assert!(follower.is_running() && late.is_running());
        go(&c, "end");
        let all = follower.finish();
        all.assert_code(0);
        assert_eq!(all.stdout_text().replace('\r', ""), "one\ntwo\nthree\n", "{all}");
        let end = late.finish();
        assert!(end.assert_code(0).stdout_text().trim_end().ends_with("three"), "{end}");
        c.minirun(&["wait", &c.name]).assert_stdout("4\n");
        drop(running);
    }
}

/// Many times the bound, but never so far ahead of the reader that it could miss something.
#[test]
fn a_follower_misses_nothing_when_the_log_begins_anew() {
    let c = Container::single();
    let script = format!(
        "{AWAIT} for n in $(seq 20); do for i in $(seq 101 200); do \
         echo $n.$i padding padding padding; done; echo end of $n; await $n; done"
    );
    let running = detach(&c, &["--log-opt", "max-size=16k"], &script);
    let follower = Run::new(c.command(&["logs", "-f", &c.name])).spawn();
    for n in 1..=20 {
        follower.wait_stdout(&format!("end of {n}\n"));
        let log = c.state_dir().join("log");
        assert!(size(&log) + size(&log.with_extension("1")) <= 16 << 10);
        go(&c, &n.to_string());
    }
    let done = follower.finish();
    let block = |n| {
        let lines = (101..=200).map(|i| format!("{n}.{i} padding padding padding\n"));
        lines.collect::<String>() + &format!("end of {n}\n")
    };
    let want: String = (1..=20).map(block).collect();
    assert!(done.stdout_text() == want, "got {} bytes, want {}", done.stdout.len(), want.len());
    drop(running);
}

#[test]
fn the_newest_is_kept_within_the_bound() {
    for (options, bound) in [(&["--log-opt", "max-size=64k"][..], 64 << 10), (&[], 8 << 20)] {
        let c = Container::single();
        // Some fourteen megabytes.
        let running = detach(&c, options, "seq 1000000 2800000");
        c.minirun(&["wait", &c.name]).assert_stdout("0\n");
        let log = c.state_dir().join("log");
        let kept = size(&log) + size(&log.with_extension("1"));
        assert!(kept <= bound && kept >= bound / 2, "{kept} of {bound}");
        let done = c.minirun(&["logs", &c.name]);
        let text = done.assert_code(0).stdout_text();
        assert_eq!(text.len() as u64, kept);
        let mut lines = text.lines().rev();
        for n in (1_000_000..=2_800_000).rev().take(text.lines().count() - 1) {
            assert_eq!(lines.next(), Some(n.to_string().as_str()));
        }
        c.minirun(&["logs", "-n", "1", &c.name]).assert_stdout("2800000\n");
        drop(running);
    }
}

#[test]
fn a_bound_that_is_none_is_refused_and_one_can_be_taken_away() {
    let c = Container::single();
    for bad in ["10m", "max-size=", "max-size=x", "max-size=1k", "max-file=3"] {
        let done = c.minirun(&["--rootless", "-d", "--log-opt", bad, "--", "true"]);
        assert_refused(&done, 125, "invalid log option", "--log-opt max-size=10m");
    }
    let running = detach(&c, &["--log-opt", "max-size=-1"], "seq 1000000 2800000");
    c.minirun(&["wait", &c.name]).assert_stdout("0\n");
    assert_eq!(size(&c.state_dir().join("log")), 1_800_001 * 8);
    drop(running);
}

/// A program that opens its output anew, as `>` does, neither empties the log nor is refused.
#[test]
fn dev_stdout_can_be_opened_by_everybody_inside() {
    let c = Container::new(As::User(TestUser::with_subids().isolated()));
    let record = common::record(c.who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    give(&c.bundle.join("rootfs.image.json"), &c.who);
    for user in ["0", "1000"] {
        let script = "echo one; echo two >/dev/stdout; echo three >/dev/stderr; echo four";
        let running = detach(&c, &["-u", user], script);
        c.minirun(&["wait", &c.name]).assert_stdout("0\n");
        let done = c.minirun(&["logs", &c.name]);
        done.assert_code(0).assert_stdout("one\ntwo\nthree\nfour\n");
        drop(running);
    }
}

#[test]
fn a_reader_that_has_gone_away_ends_what_follows_for_it() {
    let c = Container::single();
    let running = c.detach("echo one; echo two; sleep 1000");
    wait_until("its words", || c.log() == "one\ntwo\n");
    let mut command = c.who.command("sh");
    command.args(["-c", "\"$0\" logs -f \"$1\" | head -n 1"]).arg(binary("minirun"));
    let done = Run::new({
        command.arg(&c.name);
        command
    })
    .finish();
    done.assert_code(0).assert_stdout("one\n").assert_stderr("");
    assert_eq!(c.status(), "running");
    drop(running);
}

#[test]
fn a_container_in_the_foreground_has_no_log() {
    let c = Container::single();
    let script = format!("{AWAIT} echo up; await go");
    let running = c.start(&script);
    running.wait_stdout("up");
    assert_refused(&c.minirun(&["logs", &c.name]), 1, "has no log", "-d");
    go(&c, "go");
    running.finish().assert_code(0);
}

/// What the container writes has no room beside something else on the same disk: it goes on, and the
/// newest is there.
#[test]
fn a_container_goes_on_when_its_log_has_filled_the_disk() {
    let c = Container::single();
    let As::User(user) = &c.who else { unreachable!("Container::single is a user's") };
    let inner = c.who.command("sh");
    let script = "mount -t tmpfs -o size=1m,mode=700,uid=$0 tmpfs \"$1\" && shift && exec \"$@\"";
    let body = "cd \"$1\" && \"$0\" -d --name full -- sh -c 'seq 1000000 1500000; exit 3' >/dev/null && \
        \"$0\" wait full && \"$0\" logs -n 1 full && \"$0\" list | grep -c 'stopped (3)'; \
        \"$0\" rm full; ls -A \"$XDG_RUNTIME_DIR/minirun\"; \
        head -c 2m /dev/zero >\"$XDG_RUNTIME_DIR/fill\" 2>/dev/null; \
        \"$0\" -d --name more -- true; echo $?; rm \"$XDG_RUNTIME_DIR/fill\"; \
        ls -A \"$XDG_RUNTIME_DIR/minirun\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, &user.uid().to_string()]);
    command.arg(user.runtime_dir()).arg(inner.get_program()).args(inner.get_args());
    command.args(["-c", body]).arg(binary("minirun")).arg(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = Run::new(command).finish();
    done.assert_stdout("3\n1500000\n1\nfull\n.lock\n125\n.lock\n");
    done.assert_stderr("ENOSPC").assert_stderr("hint: there is no room for");
}
