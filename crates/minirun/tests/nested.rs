//! minirun in other containers: what the kernel refuses there is taken from outside, and told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use common::As;
use container::{Container, assert_refused};
use testkit::programs::{Finished, Run, binary};
use testkit::user::TestUser;

/// A container with minirun in it and root filesystems for `depth` more, each in the one before.
fn with_inner(who: As, depth: usize) -> Container {
    let c = Container::new(who);
    let mut rootfs = c.bundle.join("rootfs");
    for _ in 0..depth {
        std::fs::copy(binary("minirun"), rootfs.join("bin/minirun")).unwrap();
        common::bundle(&rootfs, "inner", &c.who, None);
        rootfs = rootfs.join("inner/rootfs");
    }
    c
}

/// Runs a script in the outermost container. The usual filter of system calls lets no container make
/// another one; `$OPEN` takes it off the next.
fn sh(c: &Container, script: &str) -> Finished {
    let open = ["--security-opt", "seccomp=unconfined"];
    let variable = format!("OPEN={}", open.join(" "));
    let args = ["--rootless", "-e", &variable, "--", "/bin/sh", "-c", script];
    c.minirun(&[&open[..], &args[..]].concat())
}

#[test]
fn the_usual_filter_allows_no_container_inside_and_says_so() {
    let c = with_inner(As::User(TestUser::without_subids().isolated()), 1);
    let done = c.sh("cd /inner && minirun -- true");
    assert_refused(&done, 125, "EPERM", "--security-opt seccomp=unconfined");
}

fn assert_told_of(done: &Finished, kind: &str) {
    done.assert_stderr(&format!("the kernel allows no {kind} of its own here"));
}

#[test]
fn three_deep_the_outer_proc_and_sys_are_shown_and_told_of() {
    for who in As::all() {
        let c = with_inner(who, 2);
        let script = "cd /inner && minirun $OPEN -- sh -c \
            'cd /inner && minirun --security-opt seccomp=unconfined -- sh -c \"id -u; cat /proc/self/comm; \
             ls /sys/class/net; head -c1 /proc/kcore | wc -c; echo 1 2>&1 >/proc/sys/kernel/hostname; exit 9\"'";
        let done = sh(&c, script);
        done.assert_code(9);
        let text = done.stdout_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.get(..2), Some(&["0", "cat"][..]), "as {}\n{done}", c.who.name());
        assert!(text.contains("\nlo\n0\n"), "as {}\n{done}", c.who.name());
        assert!(text.contains("Read-only file system"), "as {}\n{done}", c.who.name());
        assert_told_of(&done, "proc");
        assert_eq!(done.stderr_text().matches("of its own here").count(), 4, "{done}");
    }
}

#[test]
fn a_nested_container_is_started_joined_and_ended_as_any_other() {
    let c = with_inner(As::User(TestUser::with_subids().isolated()), 1);
    let script = "cd /inner && minirun -d --name web -- sh -c 'echo up; while :; do sleep 0.05; done' && \
        minirun exec web -- sh -c 'id -u; exit 4'; echo $?; minirun list -q; \
        minirun kill web && while minirun list | grep -q running; do sleep 0.05; done; \
        minirun delete web; minirun list -q; echo done";
    let done = sh(&c, script);
    done.assert_code(0).assert_stdout("web\n0\n4\nweb\ndone\n");
}

/// The init of the outer container, and the launcher outside of the nested one, are seen in the
/// outer /proc, but not into.
#[test]
fn what_the_outer_proc_shows_is_not_open() {
    let c = with_inner(As::User(TestUser::without_subids().isolated()), 1);
    let look = "for p in /proc/[0-9]*; do [ $p = /proc/self ] && continue; \
        [ \"$(readlink $p/ns/user)\" = \"$(readlink /proc/self/ns/user)\" ] && continue; \
        for f in exe root cwd; do readlink $p/$f && echo open: $p/$f; done; \
        for f in environ mem maps; do head -c1 $p/$f && echo open: $p/$f; done; \
        done 2>/dev/null; echo looked";
    let script = format!("cd /inner && SECRET=x minirun $OPEN -- sh -c '{look}'");
    sh(&c, &script).assert_code(0).assert_stdout("looked\n");
}

/// In a container of another runtime's, as root without the capabilities that map ids.
#[test]
fn other_runtimes_containers_are_no_obstacle() {
    let c = with_inner(As::Root, 1);
    let at = c.bundle.to_str().unwrap();
    Run::program("runc", &["spec", "--bundle", at]).finish().assert_success();
    let path = c.bundle.join("config.json");
    let mut config = common::read_json(&path);
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    let inner = "id -u; cat /proc/self/uid_map; exit 6";
    config["process"]["args"] =
        serde_json::json!(["/bin/minirun", "--bundle", "/inner", "--", "sh", "-c", inner]);
    std::fs::write(&path, config.to_string()).unwrap();
    let run = || Run::program("runc", &["run", "--bundle", at, &c.name]).finish();
    let done = run();
    assert_refused(&done, 125, "cannot map ids", "--cap-add setfcap");
    for set in ["bounding", "effective", "permitted"] {
        let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
        set.push("CAP_SETFCAP".into());
    }
    std::fs::write(&path, config.to_string()).unwrap();
    let done = run();
    done.assert_code(6).assert_stdout("0\n         0          0          1\n");
    assert_told_of(&done, "proc");
}
