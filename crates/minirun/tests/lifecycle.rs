//! Containers in the background, and what is done to them by name.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::os::unix::fs::PermissionsExt;

use common::{As, read_json};
use container::{Container, assert_refused, wait_until};
use testkit::programs::{Run, process_runs};
use testkit::user::TestUser;

const WAITS: &str = "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.05; done";

#[test]
fn a_container_lives_in_the_background_until_it_is_stopped_and_deleted() {
    for c in Container::all() {
        let running = c.detach(WAITS);
        let state = c.state();
        assert_eq!(state["status"], "running", "{state}");
        assert_eq!(state["id"], c.name.as_str());
        assert_eq!(state["bundle"], c.bundle.to_str().unwrap());
        assert_eq!(state["rootfs"], c.bundle.join("rootfs").to_str().unwrap());
        assert!(process_runs(c.init_pid()));
        assert!(state["created"].as_str().unwrap().ends_with('Z'), "{state}");
        assert_eq!(state["owner"], c.who.name());

        let table = c.minirun(&["list"]).stdout_text();
        let row = table.lines().find(|l| l.starts_with(&c.name)).unwrap_or_default();
        assert!(row.contains("running"), "{table}");
        wait_until("its first words", || c.log() == "hello\n");
        let log = std::fs::metadata(c.state_dir().join("log")).unwrap();
        assert_eq!(log.permissions().mode() & 0o777, 0o600);

        let refused = c.minirun(&["delete", &c.name]);
        assert_refused(&refused, 1, "that is not stopped: running", "--force");
        c.minirun(&["kill", &c.name]).assert_success();
        wait_until("its end", || c.status() == "stopped");
        wait_until("its last words", || c.log() == "hello\nbye\n");
        wait_until("its exit code", || {
            read_json(&c.state_dir().join("state.json"))["exitCode"] == 3
        });
        assert_eq!(c.state()["pid"], 0);
        let refused = c.minirun(&["kill", &c.name]);
        assert_refused(&refused, 1, "container not running", "delete");
        c.minirun(&["delete", &c.name]).assert_success();
        let refused = c.minirun(&["state", &c.name]);
        assert_refused(&refused, 1, "does not exist", "minirun list");
        assert!(!c.state_dir().exists());
        drop(running);
    }
}

#[test]
fn nothing_of_the_callers_stays_open_in_the_background() {
    let c = Container::single();
    let inner = c.command(&["--rootless", "-d", "--", "sleep", "1000"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec 7</etc 9</; exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = testkit::programs::Run::new(command).finish();
    let running = container::Detached(&c);
    done.assert_success();
    assert!(!done.held_open, "the container holds the caller's pipes\n{done}");
    let record = read_json(&c.state_dir().join("state.json"));
    // The pipe is the one that the container writes to, not the caller's.
    let main = record["main"]["pid"].as_i64().unwrap();
    let output = std::fs::read_link(format!("/proc/{main}/fd/1")).unwrap();
    let log = c.state_dir().join("log");
    for (who, most) in [("monitor", 7), ("init", 0)] {
        let fds = format!("/proc/{}/fd", record[who]["pid"]);
        let open: Vec<_> = std::fs::read_dir(&fds)
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap())
            .collect();
        let known = |to: &std::path::PathBuf| {
            if [&output, &log].contains(&to) {
                return true;
            }
            let to = to.to_string_lossy();
            to == "/dev/null" || to.starts_with("anon_inode:")
        };
        assert!(open.len() <= most && open.iter().all(known), "{who}: {open:?}");
    }
    drop(running);
}

#[test]
fn a_start_that_fails_is_told_by_the_foreground_and_leaves_nothing() {
    let c = Container::single();
    let done = c.minirun(&["--rootless", "-d", "--", "nosuch"]);
    assert_refused(&done, 127, "executable file not found in $PATH", "check");
    done.assert_stdout("");
    assert!(!c.state_dir().exists());
}

#[test]
fn signals_by_name_and_number() {
    let c = Container::single();
    for (signal, name) in [("USR1", "USR1"), ("SIGHUP", "HUP"), ("12", "USR2"), ("ABRT", "ABRT")] {
        let script =
            format!("trap 'echo got; exit 0' {name}; echo up; while :; do sleep 0.05; done");
        let running = c.detach(&script);
        wait_until("its start", || c.log() == "up\n");
        c.minirun(&["kill", &c.name, signal]).assert_success();
        wait_until("its end", || c.log() == "up\ngot\n");
        drop(running);
    }
    let running = c.detach(WAITS);
    let done = c.minirun(&["kill", &c.name, "NOPE"]);
    assert_refused(&done, 1, "unknown signal \"NOPE\"", "TERM");
    drop(running);
}

#[test]
fn force_kills_and_forgives() {
    let c = Container::single();
    let running = c.detach("trap '' TERM; while :; do sleep 0.05; done");
    let init = c.init_pid();
    c.minirun(&["delete", "--force", &c.name]).assert_success();
    assert!(!process_runs(init) || c.minirun(&["state", &c.name]).code() == Some(1));
    c.minirun(&["delete", "--force", &c.name]).assert_success();
    let done = c.minirun(&["delete", &c.name]);
    assert_refused(&done, 1, "does not exist", "minirun list");
    drop(running);
}

#[test]
fn a_name_in_use_is_refused_and_that_of_a_stopped_container_is_free() {
    let c = Container::single();
    let running = c.detach(WAITS);
    let args = ["--rootless", "--name", &c.name, "--", "true"];
    let done = c.minirun(&args);
    assert_refused(&done, 125, "already exists", "delete --force");
    c.minirun(&["kill", &c.name, "KILL"]).assert_success();
    wait_until("its end", || c.status() == "stopped");
    c.minirun(&args).assert_success();
    drop(running);
}

#[test]
fn a_container_whose_monitor_was_killed_is_stopped_and_can_be_deleted() {
    let c = Container::single();
    let running = c.detach(WAITS);
    let init = c.init_pid();
    let monitor = read_json(&c.state_dir().join("state.json"))["monitor"]["pid"].as_i64().unwrap();
    let monitor = rustix::process::Pid::from_raw(i32::try_from(monitor).unwrap()).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    wait_until("the end of the init", || !process_runs(init));
    wait_until("the status", || c.status() == "stopped");
    c.minirun(&["delete", &c.name]).assert_success();
    drop(running);
}

#[test]
fn the_list_as_json_is_an_array_of_states() {
    let c = Container::single();
    let empty = c.minirun(&["list", "--json"]);
    empty.assert_code(0).assert_stdout("[]\n");
    let running = c.detach(WAITS);
    let done = c.minirun(&["list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{done}");
    assert_eq!(list[0]["id"], c.name.as_str());
    assert_eq!(list[0]["status"], "running");
    c.minirun(&["list", "-q"]).assert_code(0).assert_stdout(&format!("{}\n", c.name));
    drop(running);
}

/// The command may speak, and be answered, before the record says that it runs.
#[test]
fn a_container_that_is_being_set_up_is_waited_for() {
    let c = Container::new(As::User(TestUser::with_subids().isolated()));
    let record = common::record(c.who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    // The helpers are looked for in the caller's PATH: one that waits to be let go.
    let (helpers, go) = (c.bundle.join("helpers"), c.bundle.join("go"));
    std::fs::create_dir(&helpers).unwrap();
    let script = format!(
        "#!/bin/sh\nwhile [ ! -e {go:?} ]; do sleep 0.02; done\nexec /usr/bin/newgidmap \"$@\"\n"
    );
    std::fs::write(helpers.join("newgidmap"), script).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(helpers.join("newgidmap"), mode).unwrap();
    let mut command = c.command(&["--rootless", "--", "sh", "-c", "trap '' TERM; sleep 1000"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", helpers.display()));
    let running = Run::new(command).spawn();
    wait_until("the record", || c.state_dir().join("state.json").exists());
    assert_eq!(c.status(), "creating");
    let exec = Run::new(c.command(&["exec", &c.name, "--", "echo", "in"])).spawn();
    std::thread::sleep(std::time::Duration::from_millis(200));
    std::fs::write(&go, "").unwrap();
    exec.finish().assert_code(0).assert_stdout("in\n");
    c.minirun(&["kill", &c.name, "KILL"]).assert_success();
    running.finish().assert_code(137);
}

#[test]
fn a_damaged_record_is_named_with_the_remedy() {
    let c = Container::single();
    c.minirun(&["--rootless", "--", "true"]).assert_success();
    std::fs::create_dir(c.state_dir()).unwrap();
    std::fs::write(c.state_dir().join("state.json"), "").unwrap();
    common::give(&c.state_dir(), &c.who);
    let remedy = format!("rm -r {}", c.state_dir().display());
    assert_refused(&c.minirun(&["list"]), 1, "is damaged", &remedy);
    assert_refused(&c.minirun(&["--rootless", "--", "true"]), 125, "is damaged", &remedy);
}

/// A host whose /proc shows a user nothing of processes that hide themselves, as the init does.
#[test]
fn a_container_on_a_host_that_hides_processes_is_managed_as_any_other() {
    let c = Container::single();
    let script = "minirun() { \"$0\" \"$@\"; }; \
        minirun -d --name hid -- sh -c 'while :; do sleep 0.05; done' && \
        minirun list | grep -o running; minirun exec hid echo in; minirun delete hid && echo bad; \
        minirun kill hid TERM; for i in $(seq 500); do \
        minirun list | grep -q stopped && break; sleep 0.02; done; minirun delete hid && \
        minirun -d --name hid -- sleep 1000 && minirun delete --force hid; minirun list -q";
    let mut inner = c.who.command("sh");
    inner.args(["-c", script]).arg(testkit::programs::binary("minirun"));
    let mut command = std::process::Command::new("unshare");
    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    command.args(["-m", "sh", "-c", hide, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(&c.bundle);
    let done = Run::new(command).finish();
    done.assert_stdout("hid\nrunning\nin\nhid\n").assert_code(0);
}
