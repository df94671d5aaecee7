//! `minirun doctor`, where something is missing for real.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::process::Command;

use common::{As, tempdir};
use serde_json::Value;
use testkit::programs::{Finished, Run, binary};
use testkit::user::TestUser;

/// The findings, and that the exit code is as they say.
fn findings(done: &Finished) -> Vec<Value> {
    let all: Vec<Value> =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{done}"));
    let is_missing = all.iter().any(|f| f["status"] == "missing");
    done.assert_code(i32::from(is_missing));
    for finding in &all {
        let fine = finding["status"] == "fine";
        assert_eq!(fine, finding["remedy"].is_null(), "{finding}");
        assert!(!finding["cause"].as_str().unwrap().is_empty(), "{finding}");
    }
    all
}

fn find<'a>(all: &'a [Value], check: &str) -> &'a Value {
    all.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no {check} in {all:#?}"))
}

#[track_caller]
fn assert_finding(all: &[Value], check: &str, status: &str, cause: &str, remedy: &str) {
    let finding = find(all, check);
    assert_eq!(finding["status"], status, "{finding}");
    assert!(finding["cause"].as_str().unwrap().contains(cause), "want {cause:?}: {finding}");
    let found = finding["remedy"].as_str().unwrap_or_default();
    assert!(found.contains(remedy), "want {remedy:?}: {finding}");
}

fn doctor(who: &As) -> Command {
    let mut command = who.command(binary("minirun"));
    command.args(["doctor", "--json"]);
    command
}

/// Runs the doctor by way of a command line that ends by executing what follows it, as `who`.
fn by_way_of(who: &As, wrapper: &[&str]) -> Vec<Value> {
    let mut command = who.command(wrapper[0]);
    command.args(&wrapper[1..]).arg(binary("minirun")).args(["doctor", "--json"]);
    findings(&Run::new(command).finish())
}

/// Runs the doctor as `who` after root has run `script` in namespaces of its own.
fn after(who: &As, unshare: &[&str], script: &str) -> Vec<Value> {
    let inner = doctor(who);
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    if let As::User(_) = who {
        command.env_clear();
    }
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    findings(&Run::new(command).finish())
}

fn with_subids() -> As {
    As::User(TestUser::with_subids().isolated())
}

fn without_subids() -> As {
    As::User(TestUser::without_subids().isolated())
}

#[test]
fn a_machine_that_runs_containers_is_found_fit_and_left_as_it_was() {
    for who in As::all() {
        let dir = tempdir();
        common::give(dir.path(), &who);
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        let mut command = doctor(&who);
        command.current_dir(dir.path());
        let done = Run::new(command).finish();
        assert!(!done.held_open && done.stderr.is_empty(), "{done}");
        let all = findings(&done);
        for check in ["kernel", "user namespaces", "AppArmor", "overlay", "d_type", "seccomp"] {
            assert_finding(&all, check, "fine", "", "");
        }
        let ids = if who.ownership() == "single" { "warning" } else { "fine" };
        assert_finding(&all, "subordinate ids", ids, "", "");
        assert_finding(&all, "state directory", "fine", "", "");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(mounts(), before);
        if let As::User(user) = &who {
            let left = std::fs::read_dir(user.runtime_dir()).unwrap().count();
            assert_eq!(left, 0, "no container, no state directory");
        }
    }
}

#[test]
fn people_get_a_table_without_colours_in_a_pipe() {
    let mut command = without_subids().command(binary("minirun"));
    command.arg("doctor");
    let done = Run::new(command).finish();
    done.assert_code(0);
    let text = done.stdout_text();
    assert!(text.contains("✓ user namespaces "), "{done}");
    assert!(text.contains("! subordinate ids ") && text.contains("-> sudo usermod"), "{done}");
    assert!(!text.contains('\u{1b}'), "{done}");
    let coloured = |set: &str| {
        let minirun = binary("minirun");
        let script = format!("script -qec '{set} {} doctor' /dev/null", minirun.display());
        Run::program("sh", &["-c", &script]).finish().stdout_text().contains("\u{1b}[1;33m")
    };
    assert!(coloured("env -u NO_COLOR"));
    assert!(!coloured("env NO_COLOR=1"));
}

#[test]
fn namespaces_that_are_not_allowed_are_named_by_kind() {
    for kind in ["user", "net", "mnt"] {
        let script =
            format!("mount -t tmpfs run /run; echo 0 >/proc/sys/user/max_{kind}_namespaces");
        let all = after(&As::Root, &["-Urm"], &script);
        let remedy = format!("sudo sysctl -w user.max_{kind}_namespaces=15000");
        let cause = format!("this machine allows no {kind} namespaces");
        assert_finding(&all, "user namespaces", "missing", &cause, &remedy);
    }
}

#[test]
fn namespaces_that_are_used_up_are_told_from_those_that_are_not_allowed() {
    // Each namespace counts in all user namespaces around it, and the limit of one further out is
    // not seen from inside.
    let script = "mount -t tmpfs run /run; echo 2 >/proc/sys/user/max_user_namespaces
                  exec unshare -Ur --keep-caps unshare -Ur \"$@\"";
    let all = after(&As::Root, &["-Urm"], script);
    let cause = "all user namespaces that this machine, or the container around, allows are in use";
    assert_finding(&all, "user namespaces", "missing", cause, "user.max_user_namespaces");
}

#[test]
fn switches_that_refuse_user_namespaces_are_named() {
    // A kernel without the switch gets one by a mount; what refuses is a chroot.
    let chroot = |switch: &str, value: &str| {
        let dir = tempdir();
        let script = format!(
            "mount -t tmpfs kernel /proc/sys/kernel; echo {value} >/proc/sys/kernel/{switch}
             mount --rbind / {0}; exec chroot {0} \"$@\"",
            dir.path().display()
        );
        after(&without_subids(), &["-m", "--propagation", "private"], &script)
    };
    let all = chroot("unprivileged_userns_clone", "0");
    let remedy = "sudo sysctl -w kernel.unprivileged_userns_clone=1";
    assert_finding(&all, "user namespaces", "missing", "switched off here", remedy);
    let all = chroot("apparmor_restrict_unprivileged_userns", "1");
    let cause = "AppArmor restricts user namespaces here";
    assert_finding(&all, "user namespaces", "missing", cause, "apparmor_parser -r");
    assert_finding(&all, "AppArmor", "missing", "restricts", "userns,");
    let all = chroot("osrelease", "x");
    assert_finding(&all, "user namespaces", "missing", "in a chroot", "run minirun outside");
    // The switch alone refuses nothing: a profile may allow minirun.
    let script = "mount -t tmpfs kernel /proc/sys/kernel
                  echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let all = after(&without_subids(), &["-m"], script);
    assert_finding(&all, "AppArmor", "fine", "but not minirun's", "");
}

/// AppArmor without a profile lets namespaces be made, and refuses every mount in them.
#[test]
fn namespaces_without_rights_are_none() {
    let inject = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=fsopen",
        "-e",
        "inject=fsopen:error=EACCES",
        "-o",
        "/dev/null",
    ];
    let all = by_way_of(&As::Root, &inject);
    assert_finding(
        &all,
        "user namespaces",
        "missing",
        "cannot mount in a user namespace",
        "minirun",
    );
}

#[test]
fn a_limit_on_processes_is_named() {
    let all = by_way_of(&without_subids(), &["prlimit", "--nproc=1"]);
    let cause = "as many processes as allowed";
    assert_finding(&all, "user namespaces", "missing", cause, "ulimit -u");
}

#[test]
fn helpers_without_rights_are_told_why() {
    let who = with_subids();
    let all = by_way_of(&who, &["setpriv", "--no-new-privs"]);
    assert_finding(&all, "no_new_privs", "warning", "set on this process", "NoNewPrivileges=no");
    assert_finding(&all, "subordinate ids", "warning", "no_new_privs is set", "without it");

    let hidden = "mount -t tmpfs none /mnt; cp /usr/bin/new?idmap /mnt";
    let all =
        after(&who, &["-m"], "for f in /usr/bin/new?idmap; do mount --bind /dev/null $f; done");
    assert_finding(&all, "subordinate ids", "warning", "is neither in PATH", "install uidmap");
    let cover = "for f in newuidmap newgidmap; do mount --bind /mnt/$f /usr/bin/$f; done";
    let all = after(&who, &["-m"], &format!("{hidden}; {cover}"));
    assert_finding(&all, "subordinate ids", "warning", "is not set-uid root", "chmod u+s");
    let nosuid = "mount --bind /usr/bin /usr/bin; mount -o remount,bind,nosuid /usr/bin";
    let all = after(&who, &["-m"], nosuid);
    assert_finding(&all, "subordinate ids", "warning", "on a mount with nosuid", "suid");
}

#[test]
fn subordinate_ids_that_are_not_granted_or_too_few_are_told() {
    let all = findings(&Run::new(doctor(&without_subids())).finish());
    let remedy = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 testkit-nosub";
    assert_finding(&all, "subordinate ids", "warning", "none are granted to testkit-nosub", remedy);
    let who = with_subids();
    let script = format!(
        "mount -t tmpfs none /mnt; echo {}:3000000:10 >/mnt/ids
         for f in subuid subgid; do mount --bind /mnt/ids /etc/$f; done",
        who.name()
    );
    let all = after(&who, &["-m"], &script);
    assert_finding(&all, "subordinate ids", "warning", "10 can be mapped", "65536");
}

#[test]
fn a_covered_proc_is_only_a_warning() {
    let all = after(
        &without_subids(),
        &["-m"],
        "mount -t tmpfs none /proc/irq; mount -t tmpfs none /sys/module",
    );
    assert_finding(&all, "/proc", "warning", "partly covered", "unmask=ALL");
    assert_finding(&all, "/sys", "warning", "partly covered", "systempaths=unconfined");
}

#[test]
fn without_proc_or_sys_it_says_what_is_missing() {
    let all =
        after(&without_subids(), &["-m"], "mount -t tmpfs none /proc; mount -t tmpfs none /sys");
    assert_finding(
        &all,
        "user namespaces",
        "missing",
        "/proc is needed",
        "mount -t proc proc /proc",
    );
    assert_finding(&all, "cgroups", "warning", "want v2 alone", "unified_cgroup_hierarchy");
}

#[test]
fn what_connects_a_network_is_looked_for() {
    let who = without_subids();
    let hide = "mount -t tmpfs none /usr/local/bin; for f in pasta slirp4netns; do
                [ ! -e /usr/bin/$f ] || mount --bind /dev/null /usr/bin/$f; done";
    let all = after(&who, &["-m"], hide);
    assert_finding(&all, "network", "warning", "neither pasta nor slirp4netns", "install passt");
    let device =
        |mode: &str| format!("mount -t tmpfs none /dev/net; mknod -m {mode} /dev/net/tun c 10 200");
    let closed = format!("mkdir -p /dev/net; {}", device("600"));
    let all = after(&who, &["-m"], &closed);
    assert_finding(&all, "/dev/net/tun", "warning", "may not be opened", "chmod 0666");
    let all = after(&who, &["-m"], "mkdir -p /dev/net; mount -t tmpfs none /dev/net");
    assert_finding(&all, "/dev/net/tun", "warning", "not there", "modprobe tun");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named() {
    let who = without_subids();
    let As::User(user) = &who else { panic!("a user") };
    let dir = user.runtime_dir().join("minirun");
    std::fs::create_dir(&dir).unwrap();
    common::give(&dir, &who);
    let all = findings(&Run::new(doctor(&who)).finish());
    assert_finding(&all, "state directory", "missing", "is not private", "remove");
    std::fs::remove_dir(&dir).unwrap();
    let mut command = doctor(&who);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("HOME");
    let all = findings(&Run::new(command).finish());
    assert_finding(&all, "state directory", "fine", &format!("minirun-{}", user.uid()), "");
    // The binary is shown in another place: it may lie below /tmp, as all of the checkout may.
    let script = "mount -t tmpfs none /run; mkdir /run/bin; mount --bind \"$0\" /run/bin\n\
                  mount -t tmpfs -o mode=755 none /tmp\nexec \"$@\"";
    let mut command = Command::new("unshare");
    let inner = doctor(&who);
    let program = binary("minirun");
    command.args(["-m", "sh", "-ec", script]).arg(program.parent().unwrap());
    command.arg(inner.get_program());
    command.args(
        inner.get_args().map(|word| {
            if word == program.as_os_str() { "/run/bin/minirun".as_ref() } else { word }
        }),
    );
    command.env_clear();
    let done = Run::new(command).finish();
    assert_finding(
        &findings(&done),
        "state directory",
        "missing",
        "cannot be written",
        "mktemp -d",
    );
}

/// CLONE_NEWUSER, the bit of clone(2)'s first argument.
const NEWUSER: u64 = 0x1000_0000;

/// As the engines' filters do: unshare and clone3 are refused, or answered as if they were not there.
#[test]
fn behind_a_seccomp_filter_it_says_so() {
    for errno in [1, 38] {
        let dir = tempdir();
        let bundle = common::bundle(dir.path(), "filtered", &As::Root, None);
        std::fs::copy(binary("minirun"), bundle.join("rootfs/bin/minirun")).unwrap();
        let at = bundle.to_str().unwrap();
        Run::program("runc", &["spec", "--bundle", at]).finish().assert_success();
        let path = bundle.join("config.json");
        let mut config = common::read_json(&path);
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/minirun", "doctor", "--json"]);
        config["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["unshare", "clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno},
                {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{
                    "index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": NEWUSER, "valueTwo": NEWUSER,
                }]},
            ],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        let name = common::unique("filtered");
        let all = findings(&Run::program("runc", &["run", "--bundle", at, &name]).finish());
        assert_finding(&all, "user namespaces", "missing", "seccomp filter", "run minirun outside");
        assert_finding(&all, "seccomp", "fine", "one is on this process already", "");
    }
}
