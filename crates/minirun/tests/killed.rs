//! Containers whose minirun was killed, and state directories that cannot be used: nothing is left
//! that the next call does not clean up.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::process::Command;

use common::{As, read_json, unique};
use container::{Container, Detached, assert_refused, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::programs::{Run, binary, process_runs};

const WAITS: &str = "echo up; while :; do sleep 0.05; done";

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until("the end of a killed process", || !process_runs(pid));
}

/// The process numbers of a container's record.
fn pid_of(c: &Container, who: &str) -> i32 {
    let record = read_json(&c.state_dir().join("state.json"));
    i32::try_from(record[who]["pid"].as_i64().unwrap()).unwrap()
}

/// Nothing of the container but perhaps its record is left on this machine: no process of it, and so
/// none of its namespaces and their mounts.
fn assert_gone(pids: &[i32], namespaces: &[String]) {
    wait_until("the end of its processes", || !pids.iter().any(|&pid| process_runs(pid)));
    wait_until("the end of its namespaces", || {
        !namespaces.iter().any(|namespace| is_used(namespace))
    });
}

/// A container's mount and pid namespace, as links in /proc name them.
fn namespaces(pid: i32) -> Vec<String> {
    let link = |kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    ["mnt", "pid"].map(|kind| link(kind).to_string_lossy().into_owned()).into()
}

fn is_used(namespace: &str) -> bool {
    let kind = namespace.split(':').next().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| {
        let link = std::fs::read_link(process.path().join("ns").join(kind));
        link.is_ok_and(|link| link.to_string_lossy() == namespace)
    })
}

/// What lies in the caller's state directory.
fn files(c: &Container) -> Vec<String> {
    let entries = std::fs::read_dir(c.state_dir().parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

/// A container in the foreground whose minirun is killed while it runs: its processes end, and what
/// lies in the state directory.
fn killed_in_the_foreground(c: &Container) {
    let running = c.start(WAITS);
    running.wait_stdout("up");
    wait_until("its record", || c.status() == "running");
    let (monitor, init, main) = (pid_of(c, "monitor"), pid_of(c, "init"), pid_of(c, "main"));
    let namespaces = namespaces(main);
    kill(monitor);
    drop(running);
    assert_gone(&[monitor, init, main], &namespaces);
    assert_eq!(files(c), [c.name.as_str()], "nobody was left to remove it");
}

#[test]
fn any_call_cleans_up_after_a_killed_foreground() {
    let c = Container::single();
    let other = unique("other");
    let calls: [(&[&str], i32); 4] = [
        (&["list"], 0),
        (&["rm", &c.name], 1),
        (&["--rootless", "--name", &other, "--", "true"], 0),
        (&["--rootless", "--", "true"], 0),
    ];
    for (call, code) in calls {
        killed_in_the_foreground(&c);
        let done = c.minirun(call);
        done.assert_code(code);
        assert_eq!(files(&c), [] as [&str; 0], "{done}");
    }
}

/// Also where the next call comes before the kernel has ended the killed container.
#[test]
fn the_name_of_a_killed_container_is_free_at_once() {
    let c = Container::single();
    for background in [true, false] {
        for _ in 0..5 {
            let running = (!background).then(|| {
                let running = c.start(WAITS);
                running.wait_stdout("up");
                running
            });
            let detached = background.then(|| c.detach(WAITS));
            wait_until("its record", || c.status() == "running");
            kill(pid_of(&c, "monitor"));
            c.minirun(&["--rootless", "--", "echo", "next"]).assert_code(0).assert_stdout("next\n");
            drop(running);
            drop(detached);
        }
    }
    assert_eq!(files(&c), [] as [&str; 0]);
}

#[test]
fn a_killed_monitor_takes_the_container_along_and_its_exit_code_is_unknown() {
    for options in [&[][..], &["--rm"]] {
        let c = Container::single();
        let words = [&["--rootless", "-d"], options, &["--", "sh", "-c", WAITS]].concat();
        c.minirun(&words).assert_code(0);
        let running = Detached(&c);
        wait_until("its words", || c.log() == "up\n");
        let follower = Run::new(c.command(&["logs", "-f", &c.name])).spawn();
        follower.wait_stdout("up");
        let waiter = Run::new(c.command(&["wait", &c.name])).spawn();
        let (monitor, init, main) = (pid_of(&c, "monitor"), pid_of(&c, "init"), pid_of(&c, "main"));
        let namespaces = namespaces(main);
        kill(monitor);
        assert_gone(&[monitor, init, main], &namespaces);
        follower.finish().assert_code(0).assert_stdout("up\n");
        let waited = waiter.finish();
        waited.assert_code(1).assert_stdout("");
        if options.is_empty() {
            assert_refused(&waited, 1, "exit code of container", "minirun inspect");
            let table = c.minirun(&["list"]).stdout_text();
            assert!(table.contains("stopped (?)"), "{table}");
            // From now on no process of that number is taken for its own.
            let record = read_json(&c.state_dir().join("state.json"));
            assert_eq!((&record["status"], &record["pid"]), (&"stopped".into(), &0.into()));
            let told: Value =
                serde_json::from_slice(&c.minirun(&["inspect", &c.name]).stdout).unwrap();
            let told = &told[0];
            assert_eq!((&told["exitCode"], &told["status"]), (&Value::Null, &"stopped".into()));
            assert!(told["error"].as_str().unwrap().contains("exit code unknown"), "{told}");
            c.minirun(&["logs", &c.name]).assert_code(0).assert_stdout("up\n");
            c.minirun(&["stop", &c.name]).assert_code(0);
            c.minirun(&["rm", &c.name]).assert_code(0);
        } else {
            c.minirun(&["list", "-q"]).assert_code(0).assert_stdout("");
        }
        assert_eq!(files(&c), [] as [&str; 0]);
        drop(running);
    }
}

#[test]
fn a_killed_init_is_told_from_a_killed_monitor() {
    let c = Container::single();
    let running = c.detach(WAITS);
    wait_until("its words", || c.log() == "up\n");
    let (monitor, init, main) = (pid_of(&c, "monitor"), pid_of(&c, "init"), pid_of(&c, "main"));
    let namespaces = namespaces(main);
    kill(init);
    c.minirun(&["wait", &c.name]).assert_code(0).assert_stdout("137\n");
    assert_gone(&[monitor, init, main], &namespaces);
    c.minirun(&["rm", &c.name]).assert_code(0);
    assert_eq!(files(&c), [] as [&str; 0]);
    drop(running);
}

#[test]
fn what_a_start_or_removal_that_was_cut_off_has_left_goes() {
    let c = Container::single();
    c.minirun(&["--rootless", "--", "true"]).assert_code(0);
    for call in [&["list"][..], &["--rootless", "--", "true"]] {
        let dir = c.state_dir().with_file_name("cut-off");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(".state.json.new"), "{").unwrap();
        common::give(&dir, &c.who);
        c.minirun(call).assert_code(0);
        assert_eq!(files(&c), [] as [&str; 0], "after {call:?}");
    }
}

/// Runs a shell script as the container's user, in a mount namespace that root has prepared.
fn on_host(c: &Container, prepare: &str, script: &str) -> testkit::programs::Finished {
    let As::User(user) = &c.who else { unreachable!("Container::single is a user's") };
    let mut inner = c.who.command("sh");
    inner.args(["-c", script]).arg(binary("minirun"));
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{prepare} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.env("UID_OF_USER", user.uid().to_string());
    Run::new(command).finish()
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named_with_the_remedy() {
    let run = "\"$0\" --rootless -- true; code=$?; exit $code";
    let cases = [
        (
            "mount -t tmpfs -o ro,mode=700,uid=$UID_OF_USER tmpfs $XDG_RUNTIME_DIR",
            "EROFS",
            "make that writable",
        ),
        (
            "mkdir -m 700 $XDG_RUNTIME_DIR/minirun && chown $UID_OF_USER $XDG_RUNTIME_DIR/minirun && \
             mount --bind $XDG_RUNTIME_DIR/minirun $XDG_RUNTIME_DIR/minirun && \
             mount -o remount,bind,ro $XDG_RUNTIME_DIR/minirun",
            "EROFS",
            "make that writable",
        ),
        ("chmod 500 $XDG_RUNTIME_DIR", "EACCES", "make that writable"),
        ("mkdir -m 700 $XDG_RUNTIME_DIR/minirun", "got owner 0 mode 0o700", "XDG_RUNTIME_DIR"),
        ("ln -s / $XDG_RUNTIME_DIR/minirun", "is not private", "XDG_RUNTIME_DIR"),
        (
            "mkdir -m 777 $XDG_RUNTIME_DIR/minirun && chown $UID_OF_USER $XDG_RUNTIME_DIR/minirun",
            "mode 0o777",
            "remove",
        ),
    ];
    for (prepare, says, hint) in cases {
        let c = Container::single();
        assert_refused(&on_host(&c, prepare, run), 125, says, hint);
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_named_and_nothing_is_left() {
    let full = "mount -t tmpfs -o size=64k,mode=700,uid=$UID_OF_USER tmpfs $XDG_RUNTIME_DIR && \
         setpriv --reuid=$UID_OF_USER --clear-groups mkdir -m 700 $XDG_RUNTIME_DIR/minirun && \
         (head -c 1m /dev/zero >$XDG_RUNTIME_DIR/fill; true) 2>/dev/null";
    for detach in ["", "-d"] {
        let script = format!(
            "\"$0\" --rootless {detach} -- true; code=$?; ls $XDG_RUNTIME_DIR/minirun; exit $code"
        );
        let c = Container::single();
        let done = on_host(&c, full, &script);
        assert_refused(&done, 125, "ENOSPC", "there is no room for");
        done.assert_stdout("");
        let listed =
            on_host(&c, full, "\"$0\" list -q; rm $XDG_RUNTIME_DIR/fill; \"$0\" -- echo in");
        listed.assert_code(0).assert_stdout("in\n").assert_stderr("");
    }
}
