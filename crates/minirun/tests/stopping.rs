//! What becomes of the container's other processes when the main command ends; and that nobody
//! looks at a clock before.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::process::Command;

use common::As;
use container::{Container, wait_until};
use rustix::process::Signal;
use testkit::programs::{Background, Run};

/// A main command that ends with 3 when it is asked to (by `SIGNALS`), and a worker that does `WORK`
/// when it is.
fn script(signals: &str, work: &str) -> String {
    format!(
        "trap 'exit 3' {signals}; sh -c 'trap \"echo asked; {work}\" TERM; echo w; \
         while :; do sleep 0.05; done' & while :; do sleep 0.05; done"
    )
}

const FINISHES: &str = "sleep 0.3; echo done; exit";

fn start(c: &Container, options: &[&str], script: &str) -> Background {
    let args = [&["--rootless"], options, &["--", "sh", "-c", script]].concat();
    let running = Run::new(c.command(&args)).spawn();
    running.wait_stdout("w\n");
    running
}

#[test]
fn the_rest_may_finish_its_work_when_the_container_is_asked_to_stop() {
    for c in Container::all() {
        for signal in [Signal::TERM, Signal::INT] {
            let running = start(&c, &["--stop-timeout", "-1"], &script("TERM INT", FINISHES));
            running.signal(signal);
            running.finish().assert_code(3).assert_stdout("w\nasked\ndone\n");
        }
    }
}

#[test]
fn the_signal_that_asks_is_the_containers_the_rest_is_asked_by_term() {
    let c = Container::single();
    let options = ["--stop-signal", "USR1", "--stop-timeout", "-1"];
    let running = start(&c, &options, &script("USR1", FINISHES));
    running.signal(Signal::USR1);
    running.finish().assert_code(3).assert_stdout("w\nasked\ndone\n");
    // Without that option it is one among many.
    let running = start(&c, &[], &script("USR1", FINISHES));
    running.signal(Signal::USR1);
    let done = running.finish();
    done.assert_code(3).assert_stdout("w\n");
    assert!(!done.held_open, "{done}");
}

#[test]
fn what_does_not_end_is_killed_when_the_time_is_over_or_somebody_has_had_enough() {
    let c = Container::single();
    let running = start(&c, &["--stop-timeout", "1"], &script("TERM", ":"));
    running.signal(Signal::TERM);
    let done = running.finish();
    done.assert_code(3).assert_stdout("w\nasked\n");
    assert!(!done.held_open, "{done}");
    for enough in [Signal::INT, Signal::QUIT] {
        let running = start(&c, &["--stop-timeout", "-1"], &script("TERM", ":"));
        running.signal(Signal::TERM);
        running.wait_stdout("asked");
        running.signal(enough);
        let done = running.finish();
        done.assert_code(3);
        assert!(!done.held_open, "{done}");
    }
}

#[test]
fn a_stopped_process_is_continued_to_be_asked() {
    let c = Container::single();
    let script = "trap 'exit 3' TERM; sh -c 'trap \"echo asked; exit\" TERM; echo w; \
         kill -STOP $$; while :; do sleep 0.05; done' & while :; do sleep 0.05; done";
    let running = start(&c, &["--stop-timeout", "-1"], script);
    running.signal(Signal::TERM);
    running.finish().assert_code(3).assert_stdout("w\nasked\n");
}

#[test]
fn a_command_that_ends_by_itself_ends_the_container_at_once() {
    let c = Container::single();
    let done = c.sh("trap 'exit 4' USR1; sh -c 'trap \"echo asked\" TERM; kill -USR1 $PPID; \
         while :; do sleep 0.05; done' & while :; do sleep 0.05; done");
    done.assert_code(4).assert_stdout("");
    assert!(!done.held_open, "{done}");
}

#[test]
fn stop_gives_the_rest_its_time_too() {
    let c = Container::single();
    let running = c.detach(&script("TERM", FINISHES));
    wait_until("the worker", || c.log() == "w\n");
    c.minirun(&["stop", &c.name]).assert_success();
    // busybox's shell tells of the children that a signal ended.
    assert_eq!(c.log().replace("Terminated\n", ""), "w\nasked\ndone\n");
    assert_eq!(c.minirun(&["wait", &c.name]).stdout_text(), "3\n");
    drop(running);
}

/// The system calls that a process makes from now on, by name; strace(1) ends with it.
fn trace(pid: i32) -> Background {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/stdout", "-p", &pid.to_string()]);
    let tracer = Run::new(command).spawn();
    tracer.wait_stderr("attached");
    tracer
}

fn count(trace: &str, calls: &[&str]) -> usize {
    let is_call = |line: &&str| calls.iter().any(|call| line.starts_with(&format!("{call}(")));
    trace.lines().filter(is_call).count()
}

#[test]
fn init_and_launcher_wake_for_events_only() {
    // Only root may look at the init.
    let c = Container::new(As::Root);
    // Each turn of the loop is news to none but the command's own shell.
    let running = c.start(
        "trap 'echo got' USR1; echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; \
         n=0; while [ $n -lt 30 ]; do sleep 0.1; n=$((n+1)); done",
    );
    running.wait_stdout("up");
    wait_until("the record", || c.status() == "running");
    let (init, launcher) = (trace(c.init_pid()), trace(running.pid()));
    for n in 1..=5 {
        running.signal(Signal::USR1);
        running.wait_stdout(&"got\n".repeat(n));
    }
    // From here three seconds pass in which nothing happens to either.
    std::fs::write(c.bundle.join("rootfs/tmp/go"), "").unwrap();
    running.finish().assert_code(0);
    let [init, launcher] = [init, launcher].map(|tracer| tracer.finish().stdout_text());
    // Five signals and the command's end, each waited for once.
    let waits = count(&init, &["rt_sigtimedwait", "restart_syscall"]);
    assert!((6..=7).contains(&waits), "{init}");
    assert_eq!(count(&init, &["kill"]), 5, "{init}");
    let waits = count(&launcher, &["poll", "restart_syscall"]);
    assert!((6..=7).contains(&waits), "{launcher}");
}
