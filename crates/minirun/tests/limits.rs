//! Limits: the cgroup that a container is born into, where it may be made, and what is said where it
//! may not. The hierarchy here has no controllers for memory and the like: what those do is shown in
//! a virtual machine (scripts/e2e-vm).

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;
mod delegated;

use std::path::PathBuf;
use std::process::Command;

use common::{As, read_json};
use container::{Container, Detached, assert_refused, wait_until};
use delegated::{Delegated, UNIFIED, root_sh, unshared, wrap};
use serde_json::json;
use testkit::programs::{Run, binary};
use testkit::user::TestUser;

fn users() -> [As; 2] {
    [As::User(TestUser::with_subids().isolated()), As::User(TestUser::without_subids().isolated())]
}

const MAX_DESCENDANTS: &str = "cgroup.max.descendants";

#[test]
fn a_container_is_born_into_its_cgroup_and_sees_it_as_the_root() {
    for who in users().into_iter().chain([As::Root]) {
        let c = Delegated::new(who);
        c.configure(json!({"unified": {"cgroup.max.descendants": "7"}}));
        let look = "cat /proc/self/cgroup /proc/1/cgroup /sys/fs/cgroup/cgroup.max.descendants; \
                    ls /sys/fs/cgroup | grep -c cgroup.procs; wc -l </sys/fs/cgroup/cgroup.procs; \
                    (echo 9 >/sys/fs/cgroup/cgroup.max.descendants) 2>&1";
        let done = c.minirun(&["--", "sh", "-c", look]);
        done.assert_code(1);
        assert_eq!(done.stderr_text(), "", "{done}");
        let text = done.stdout_text();
        let lines: Vec<_> =
            text.lines().filter(|l| !l.contains(':') || l.starts_with("0:")).collect();
        // The shell, wc and the init, which is in there as well.
        assert_eq!(lines, ["0::/", "0::/", "7", "1", "3"], "{done}");
        assert!(text.contains("Read-only file system"), "{done}");
        assert_eq!(c.left(), "", "{done}");
    }
}

#[test]
fn a_command_that_is_added_is_in_the_cgroup_too_and_all_of_it_goes() {
    for who in users() {
        let c = Delegated::new(who);
        c.configure(json!({"unified": {MAX_DESCENDANTS: "7"}}));
        let name = c.container.name.as_str();
        c.minirun(&["-d", "--", "sleep", "1000"]).assert_code(0);
        let running = Detached(&c.container);
        let record = read_json(&c.container.state_dir().join("state.json"));
        let path = record["cgroup"].as_str().unwrap();
        assert_eq!(path, format!("/sys/fs/cgroup/{}/minirun-{name}", c.cgroup));
        assert_eq!(c.left(), format!("./minirun-{name}\n"));
        let done = c.minirun(&["exec", name, "cat", "/proc/self/cgroup"]);
        done.assert_code(0);
        assert!(done.stdout_text().lines().any(|line| line == "0::/"), "{done}");
        c.minirun(&["delete", "--force", name]).assert_success();
        assert_eq!(c.left(), "");
        drop(running);
    }
}

#[test]
fn what_a_killed_minirun_leaves_the_next_call_removes() {
    let c = Delegated::new(As::User(TestUser::without_subids().isolated()));
    c.configure(json!({"unified": {MAX_DESCENDANTS: "7"}}));
    let name = c.container.name.as_str();
    for next in [&["delete", name][..], &["--", "true"]] {
        c.minirun(&["-d", "--", "sleep", "1000"]).assert_code(0);
        let running = Detached(&c.container);
        let record = read_json(&c.container.state_dir().join("state.json"));
        let monitor = record["monitor"]["pid"].as_i64().unwrap().to_string();
        Run::program("kill", &["-9", &monitor]).finish().assert_success();
        wait_until("its end", || c.container.status() == "stopped");
        assert_eq!(c.left(), format!("./minirun-{name}\n"));
        c.minirun(next).assert_success();
        assert_eq!(c.left(), "", "after {next:?}");
        drop(running);
    }
}

/// The one controller that every kernel's second hierarchy is likely to have left.
const SPARE: &str = "hugetlb";

#[test]
fn controllers_are_handed_down_and_minirun_makes_room() {
    let controllers = root_sh("cat /sys/fs/cgroup/cgroup.controllers").stdout_text();
    if !controllers.split_whitespace().any(|name| name == SPARE) {
        eprintln!("SKIPPED: the unified hierarchy here has no {SPARE} controller: {controllers:?}");
        return;
    }
    for who in users() {
        let mut c = Delegated::new(who);
        c.controllers = "+hugetlb";
        let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
        c.configure(resources);
        let done = c.minirun(&["--", "sh", "-c", "cat /sys/fs/cgroup/hugetlb.2MB.max; kill -9 $$"]);
        done.assert_code(137).assert_stdout("4194304\n");
        assert_eq!(done.stderr_text(), "", "another 137 is not memory's: {done}");
        assert_eq!(c.left(), "./minirun\n", "the process outside was beside the container");

        // With another process there, nothing can be handed down, and there is no systemd to ask.
        let mut other = Delegated::new(As::User(TestUser::without_subids().isolated()));
        other.controllers = "+hugetlb";
        other.configure(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}));
        let inner = other.container.command(&["--", "true"]);
        let mut sh = Command::new("sh");
        sh.args(["-c", "\"$@\"; exit $?", "sh"]).current_dir(inner.get_current_dir().unwrap());
        let done = Run::new(other.inside(&wrap(sh, &inner))).finish();
        assert_refused(&done, 125, "delegated, but other processes are in it", "");
        assert_eq!(other.left(), "");
    }
}

#[test]
fn what_is_not_delegated_is_told_and_how_to_get_it() {
    for c in users().map(Container::new) {
        // The caller's cgroup is root's.
        let inner = c.command(&["--memory", "64m", "--cpus", "0.4", "--", "true"]);
        let done = Run::new(wrap(unshared(UNIFIED), &inner)).finish();
        let says =
            "cannot limit cpu, memory: \"/\" is not delegated to this user: cannot ask systemd";
        assert_refused(&done, 125, says, "chown");
        assert!(!c.state_dir().exists(), "{done}");

        // The old hierarchies, and both.
        for (more, says) in
            [("", "got cgroup v1, want v2"), ("/unified", "got cgroup v1 and v2 side by side")]
        {
            let script = format!(
                "mount -t tmpfs none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup{more} && exec \"$@\""
            );
            let inner = c.command(&["--pids-limit", "9", "--", "true"]);
            let done = Run::new(wrap(unshared(&script), &inner)).finish();
            assert_refused(&done, 125, says, "systemd.unified_cgroup_hierarchy=1");
            assert_eq!(done.stderr_text().matches("cannot limit pids:").count(), 1, "{done}");
        }

        // No noise without a limit.
        let inner = c.command(&["--", "true"]);
        let done = Run::new(wrap(unshared(UNIFIED), &inner)).finish();
        assert_eq!((done.code(), done.stderr_text()), (Some(0), String::new()), "{done}");
    }
}

#[test]
fn controllers_that_are_not_handed_down_are_named() {
    let c = Delegated::new(As::User(TestUser::without_subids().isolated()));
    let done = c.minirun(&["--memory", "64m", "--pids-limit", "9", "--", "true"]);
    let says =
        format!("cannot limit memory, pids: \"/{}\" has not got these controllers", c.cgroup);
    assert_refused(&done, 125, &says, "cgroup.subtree_control");
    assert_eq!(c.left(), "");
}

/// A real bus, with no systemd on it: what it says reaches the user.
#[test]
fn a_bus_without_systemd_is_told_apart() {
    let c = Container::single();
    let inner = c.command(&["--memory", "64m", "--", "true"]);
    // dbus-run-session starts the bus as the user does, and ends it with the command.
    let As::User(user) = &c.who else { unreachable!("single() is a user's") };
    let mut bus = user.command("dbus-run-session");
    bus.arg("--")
        .arg(binary_of(&inner))
        .args(["--memory", "64m", "--", "true"])
        .current_dir(&c.bundle);
    let done = Run::new(wrap(unshared(UNIFIED), &bus)).finish();
    // Where systemd is installed, the bus itself says that it does not start.
    let says = "not delegated to this user: no systemd manager is on the bus";
    done.assert_code(125).assert_stderr(says).assert_stderr("\nhint: as root, make a cgroup");
}

/// The program that a user's command runs, which may be a copy.
fn binary_of(command: &Command) -> PathBuf {
    let mut words = command.get_args().skip_while(|word| *word != "--");
    words.nth(1).map_or_else(|| binary("minirun"), PathBuf::from)
}

#[test]
fn the_score_for_the_oom_killer_can_be_raised_and_not_lowered() {
    for c in users().map(Container::new) {
        let show = ["--", "cat", "/proc/self/oom_score_adj"];
        let done = c.minirun(&[&["--oom-score-adj", "600"][..], &show].concat());
        done.assert_code(0).assert_stdout("600\n");
        let done = c.minirun(&[&["--oom-score-adj=-900"][..], &show].concat());
        assert_refused(&done, 125, "cannot set process.oomScoreAdj to -900", "only be raised");
    }
}

#[test]
fn limits_that_cannot_be_are_named_with_what_can() {
    let c = Container::single();
    for (option, value, want) in [
        ("--memory", "1m", "want a size of at least 6m"),
        ("--memory", "lots", "got \"lots\""),
        ("-m", "", "want a size"),
        ("--memory-swap", "-2", "or -1"),
        ("--cpus", "0", "want a number of processors"),
        ("--cpus", "1e2", "want a number of processors"),
        ("--pids-limit", "0", "want a number from 2 on"),
        ("--oom-score-adj", "1001", "want -1000 to 1000"),
    ] {
        let done = c.minirun(&[option, value, "--", "true"]);
        assert_refused(&done, 125, want, "minirun --help");
    }
    let done = c.minirun(&["--memory", "64m", "--memory-swap", "32m", "--", "true"]);
    assert_refused(&done, 125, "want at least what --memory is", "minirun --help");
    c.configure(|config| config["linux"]["resources"] = json!({"memory": {"swappiness": 3}}));
    let done = c.minirun(&["--", "true"]);
    let says = "linux.resources.memory.swappiness, which cgroup v2 does not have";
    assert_refused(&done, 125, says, "remove it");
}
