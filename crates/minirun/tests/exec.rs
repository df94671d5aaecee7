//! One more command in a container that runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use common::As;
use container::{Container, assert_refused, wait_until};
use rustix::process::Signal;
use testkit::programs::Run;
use testkit::user::TestUser;

const IDLE: &str = "echo up; while :; do sleep 0.05; done";

#[test]
fn the_command_is_where_the_main_one_is() {
    for c in Container::all() {
        c.configure(|config| config["process"]["cwd"] = "/tmp".into());
        let running = c.detach(IDLE);
        let script = "for n in user pid mnt ipc uts net cgroup; do \
             [ $(readlink /proc/self/ns/$n) = $(readlink /proc/2/ns/$n) ] || echo differs: $n; done; \
             pwd; echo $A; id -u; [ $PPID = 0 ] && echo orphan; exit 42";
        let exec =
            |args: &[&str]| c.minirun(&[&["exec"], args, &["/bin/sh", "-c", script]].concat());
        let done = exec(&["-e", "A=b", &c.name, "--"]);
        done.assert_code(42).assert_stdout("/tmp\nb\n0\norphan\n");
        let done = exec(&["-w", "/bin", &c.name, "--"]);
        done.assert_code(42).assert_stdout("/bin\n\n0\norphan\n");
        drop(running);
    }
}

#[test]
fn the_command_has_the_containers_rights_and_nothing_of_the_hosts() {
    for c in Container::all() {
        c.configure(|_| {});
        let running = c.detach(IDLE);
        let status = "grep -E '^(Cap|NoNewPrivs|Groups|Uid)' /proc/$1/status";
        let script = format!("set -- self; {status}; set -- 2; {status}; ls /proc/$$/fd; true");
        let done = c.minirun(&["exec", &c.name, "--", "sh", "-c", &script]);
        done.assert_code(0);
        let text = done.stdout_text();
        let lines: Vec<_> = text.lines().collect();
        let (own, rest) = lines.split_at(8.min(lines.len()));
        let (mains, fds) = rest.split_at(8.min(rest.len()));
        assert_eq!(own, mains, "{done}");
        assert_eq!(fds, ["0", "1", "2"], "{done}");
        drop(running);
    }
}

#[test]
fn input_signals_and_codes_pass() {
    let c = Container::single();
    let running = c.detach(IDLE);
    let cat = c.command(&["exec", &c.name, "--", "cat"]);
    Run::new(cat).stdin("through").finish().assert_code(0).assert_stdout("through");
    let script = "trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done";
    let exec = Run::new(c.command(&["exec", &c.name, "--", "sh", "-c", script])).spawn();
    exec.wait_stdout("ready");
    exec.signal(Signal::TERM);
    exec.finish().assert_code(8);
    c.minirun(&["exec", &c.name, "--", "sh", "-c", "kill -9 $$"]).assert_code(137);
    drop(running);
}

#[test]
fn a_user_of_the_containers_can_be_chosen() {
    let who = As::User(TestUser::with_subids().isolated());
    let record = common::record(who.ownership(), serde_json::json!({"User": "7:7"}));
    let c = Container::new(who);
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    // The main command's user is not the caller: the way in is the namespace's owner's right.
    let running = c.detach("id -u; while :; do sleep 0.05; done");
    wait_until("its user", || c.log() == "7\n");
    c.minirun(&["exec", &c.name, "--", "id", "-u"]).assert_code(0).assert_stdout("7\n");
    let done = c.minirun(&["exec", "-u", "0", &c.name, "--", "id", "-u"]);
    done.assert_code(0).assert_stdout("0\n");
    let done = c.minirun(&["exec", "-u", "99999", &c.name, "--", "id", "-u"]);
    assert_refused(&done, 125, "user 99999 is not mapped", "");
    drop(running);
}

#[test]
fn what_cannot_be_run_is_told() {
    let c = Container::single();
    let done = c.minirun(&["exec", "nosuch", "--", "true"]);
    assert_refused(&done, 1, "container \"nosuch\" does not exist", "minirun list");
    let running = c.detach(IDLE);
    let done = c.minirun(&["exec", &c.name, "--", "nosuch"]);
    assert_refused(&done, 127, "executable file not found in $PATH", "check");
    let done = c.minirun(&["exec", &c.name, "--", "/etc"]);
    assert_refused(&done, 126, "permission denied", "execute");
    let done = c.minirun(&["exec", "-w", "/none", &c.name, "--", "true"]);
    assert_refused(&done, 125, "working directory \"/none\"", "choose another");
    c.minirun(&["kill", &c.name, "KILL"]).assert_success();
    wait_until("its end", || c.status() == "stopped");
    let done = c.minirun(&["exec", &c.name, "--", "true"]);
    assert_refused(&done, 1, "container not running", "delete");
    drop(running);
}

/// CVE-2019-5736: a program of the container's that names /proc/self/exe as its interpreter makes
/// the container's root the owner of a process that runs minirun's own file.
#[test]
fn the_hosts_binary_cannot_be_changed_through_a_process_that_runs_it() {
    for c in Container::all() {
        let binary = c.bundle.join("minirun");
        std::fs::copy(testkit::programs::binary("minirun"), &binary).unwrap();
        let trap = c.bundle.join("rootfs/bin/trap");
        std::fs::write(&trap, "#!/proc/self/exe\n").unwrap();
        for (file, mode) in [(&binary, 0o755), (&trap, 0o755)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(file, mode).unwrap();
        }
        common::give(&c.bundle, &c.who);
        let before = std::fs::metadata(&binary).unwrap();
        // Whatever runs something else than busybox, and is not on its way there.
        let running = c.detach(
            "echo up; while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in \
             ''|/bin/busybox) ;; *) chmod 4777 $p/exe && echo caught && exit;; \
             esac; done; done 2>/dev/null",
        );
        wait_until("a look at the trapped process", || {
            let mut command = c.who.command(&binary);
            command.args(["exec", &c.name, "--", "/bin/trap"]).current_dir(&c.bundle);
            Run::new(command).finish();
            c.log().contains("caught")
        });
        let after = std::fs::metadata(&binary).unwrap();
        assert_eq!(before.permissions(), after.permissions(), "as {}", c.who.name());
        drop(running);
    }
}
