//! What the command may do: capabilities, limits, groups, kernel parameters.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use common::{As, record};
use container::{Container, Detached, assert_refused};
use testkit::programs::{Finished, Run, binary};

/// Docker's fourteen.
const USUAL: u64 = 0xa804_25fb;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
/// What the kernel has; 40 is CAP_CHECKPOINT_RESTORE, of Linux 5.9.
const ALL: u64 = (1 << 41) - 1;

/// A container in which a user can be another than root: as root, and with subordinate ids.
fn with_users() -> [Container; 2] {
    let [root, subids, _] = Container::all();
    for c in [&root, &subids] {
        let text = record(c.who.ownership(), serde_json::json!({ "Cmd": ["true"] })).to_string();
        std::fs::write(c.bundle.join("rootfs.image.json"), text).unwrap();
    }
    [root, subids]
}

fn run(c: &Container, options: &[&str], script: &str) -> Finished {
    c.minirun(&[options, &["--", "/bin/sh", "-c", script]].concat())
}

/// Inheritable, permitted, effective, bounding and ambient capabilities of the command.
fn capabilities(c: &Container, options: &[&str]) -> [u64; 5] {
    let done = run(c, options, "grep ^Cap /proc/self/status");
    sets(&done.assert_code(0).stdout_text())
}

fn sets(text: &str) -> [u64; 5] {
    let sets = text.lines().map(|line| u64::from_str_radix(line.split_at(8).1.trim(), 16).unwrap());
    sets.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn root_has_what_is_added_and_lacks_what_is_dropped() {
    for c in Container::all() {
        let root = |options: &[&str]| capabilities(&c, options);
        let held = |set| [0, set, set, set, 0];
        assert_eq!(root(&[]), held(USUAL));
        assert_eq!(root(&["--cap-add", "net_admin"]), held(USUAL | NET_ADMIN));
        assert_eq!(root(&["--cap-drop", "CAP_NET_BIND_SERVICE"]), held(USUAL & !NET_BIND_SERVICE));
        assert_eq!(root(&["--cap-drop", "ALL"]), held(0));
        assert_eq!(root(&["--cap-add=NET_ADMIN", "--cap-drop=all"]), held(NET_ADMIN));
        assert_eq!(root(&["--cap-add=all", "--cap-drop=Net_Admin"]), held(ALL & !NET_ADMIN));
        let lo = "ifconfig lo down && echo down";
        run(&c, &["--cap-add", "net_admin"], lo).assert_code(0).assert_stdout("down\n");
        run(&c, &[], lo).assert_code(1).assert_stderr("Operation not permitted");
    }
}

#[test]
fn another_user_can_use_what_is_added_and_nothing_else() {
    for c in with_users() {
        let user = |options: &[&str]| capabilities(&c, &[&["-u", "user"], options].concat());
        assert_eq!(user(&[]), [0, 0, 0, USUAL, 0]);
        let one = NET_BIND_SERVICE;
        assert_eq!(user(&["--cap-add", "net_bind_service"]), [one, one, one, USUAL, one]);
        let alone = ["--cap-drop", "all", "--cap-add", "net_bind_service"];
        assert_eq!(user(&alone), [one; 5]);
        let serve = "httpd -p 80 -h /var/www && wget -qO- http://127.0.0.1/ | head -n1";
        let serve = |options: &[&str]| run(&c, &[&["-u", "user"], options].concat(), serve);
        serve(&alone).assert_code(0).assert_stdout("<h1>It works</h1>\n");
        serve(&[]).assert_stdout("").assert_stderr("Permission denied");
    }
}

#[test]
fn a_shell_in_the_container_has_its_users_capabilities() {
    let [_, c] = with_users();
    let name = c.name.as_str();
    let options = ["-d", "-u", "user", "--cap-add", "net_bind_service", "--", "sleep", "60"];
    c.minirun(&options).assert_code(0);
    let _container = Detached(&c);
    let exec = |options: &[&str]| {
        let command = [name, "grep", "^Cap", "/proc/self/status"];
        let done = c.minirun(&[&["exec"], options, &command].concat());
        sets(&done.assert_code(0).stdout_text())
    };
    let one = NET_BIND_SERVICE;
    assert_eq!(exec(&[]), [one, one, one, USUAL, one]);
    let [_, permitted, effective, bounding, _] = exec(&["-u", "0"]);
    assert_eq!([permitted, effective, bounding], [USUAL; 3]);
}

#[test]
fn limits_are_set_up_to_the_callers_own() {
    for c in Container::all() {
        let options = ["--ulimit", "nofile=64:128", "--ulimit", "core=0", "--ulimit", "CPU=600"];
        let script = "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -t";
        run(&c, &options, script).assert_code(0).assert_stdout("64\n128\n0\n600\n");
        let limited = |ulimit: &str| {
            let mut command = c.who.command("prlimit");
            command.arg("--nofile=200:300").arg(binary("minirun")).current_dir(&c.bundle);
            command.args(["--ulimit", ulimit, "--", "/bin/sh", "-c", script]);
            Run::new(command).finish()
        };
        assert!(limited("nofile=300").assert_code(0).stdout_text().starts_with("300\n300\n"));
        assert_refused(
            &limited("nofile=10:301"),
            125,
            "above the caller's own, 300",
            "LimitNOFILE",
        );
        assert_refused(&limited("nofile=unlimited"), 125, "above the caller's own", "or less");
    }
}

#[test]
fn groups_are_added_by_name_or_number() {
    for c in with_users() {
        let id = |options: &[&str]| run(&c, options, "id -G");
        id(&["--group-add", "www", "--group-add", "7"]).assert_stdout("0 7 33\n");
        id(&["-u", "user", "--group-add", "nogroup"]).assert_stdout("1000 33 65534\n");
        id(&["-u", "5:6", "--group-add", "www", "--group-add", "6"]).assert_stdout("6 33\n");
        assert_refused(&id(&["--group-add", "wheel"]), 125, "no group \"wheel\"", "numbers");
        // Root's container has all ids.
        if c.who.name() != "root" {
            let refused = id(&["--group-add", "700000"]);
            assert_refused(&refused, 125, "group 700000 is not mapped", "grant subordinate ids");
        }
    }
    let c = Container::single();
    run(&c, &["--group-add", "0"], "id -G").assert_stdout("0\n");
    let refused = run(&c, &["--group-add", "www"], "id -G");
    assert_refused(&refused, 125, "", "grant subordinate ids");
}

#[test]
fn kernel_parameters_names_and_the_mask_are_set() {
    for c in Container::all() {
        let options = [
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=80",
            "--sysctl",
            "kernel.shmmni=17",
            "--domainname",
            "example.org",
            "--umask",
            "0027",
            "--init",
        ];
        let script = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shmmni \
                      kernel/domainname; umask; touch /tmp/x; stat -c %a /tmp/x; rm /tmp/x";
        let want = "80\n17\nexample.org\n0027\n640\n";
        run(&c, &options, script).assert_code(0).assert_stdout(want);
        // The mask is not the user's.
        run(&c, &["-u", "0", "--umask", "0"], "umask").assert_stdout("0000\n");
    }
}

#[test]
fn what_cannot_be_given_is_one_line_one_hint_and_125() {
    let c = Container::single();
    for (options, says, hint) in [
        (&["--privileged"][..], "no rights over the host", "--cap-add ALL"),
        (&["--cap-add", "net_amdin"], "no capability \"net_amdin\"", "NET_BIND_SERVICE"),
        (&["--cap-drop", ""], "no capability \"\"", "NET_BIND_SERVICE"),
        (&["--ulimit", "files=5"], "unknown type \"files\"", "nofile=1024:4096"),
        (&["--ulimit", "nofile=5:4"], "above the hard one", "nofile=1024:4096"),
        (&["--sysctl", "net.ipv4.ip_forward"], "want NAME=VALUE", "ip_forward=1"),
        (&["--sysctl", "vm.swappiness=5"], "invalid linux.sysctl", "are the host's"),
        (&["--sysctl", "net.x=1", "--net", "host"], "invalid linux.sysctl", "network"),
        (&["--sysctl", "net.none=1"], "cannot set the kernel parameter", ""),
        (&["--group-add", "keep-groups"], "invalid group-add", "kept anyway"),
        (&["--umask", "1000"], "no octal number", "0077"),
    ] {
        let done = run(&c, options, "true");
        match hint {
            "" => drop(done.assert_code(125).assert_stderr(says)),
            hint => assert_refused(&done, 125, says, hint),
        }
    }
}

#[test]
fn a_users_own_capabilities_are_not_the_containers() {
    // Ambient ones of the caller's, which a service manager may have given, stay outside.
    let c = Container::new(As::User(testkit::user::TestUser::without_subids().isolated()));
    let As::User(user) = &c.who else { unreachable!() };
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", &user.uid().to_string(), "--regid", &user.gid().to_string()]);
    command.args(["--clear-groups", "--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--"]);
    command.arg(c.command(&[]).get_args().nth(5).unwrap());
    command.args(["--", "/bin/grep", "^Cap", "/proc/self/status"]).current_dir(&c.bundle);
    command.env("XDG_RUNTIME_DIR", user.runtime_dir());
    let done = Run::new(command).finish();
    assert_eq!(sets(&done.assert_code(0).stdout_text()), [0, USUAL, USUAL, USUAL, 0]);
}
