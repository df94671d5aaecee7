//! Terminals, through a real pseudo-terminal.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::process::Command;

use container::{Container, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use testkit::programs::{Run, process_runs};
use testkit::pty::{Ended, Session};

/// Runs a shell script on a terminal, with `MINIRUN` in it for the program as the container's owner.
fn on_terminal(c: &Container, script: &str) -> Session {
    let inner = c.command(&[]);
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let minirun = words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut command = Command::new("sh");
    command.args(["-c", &script.replace("MINIRUN", &minirun)]);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(&c.bundle);
    Session::start(command, 20, 40)
}

fn finish(session: Session, code: i32) -> Ended {
    let done = session.finish();
    assert_eq!(done.code, Some(code), "{done:?}");
    assert!(!done.raw, "the terminal was left raw: {done:?}");
    done
}

/// The process that a session's shell waits for.
fn child_of(session: &Session) -> Pid {
    let path = format!("/proc/{0}/task/{0}/children", session.pid());
    let child = || std::fs::read_to_string(&path).unwrap().trim().parse().ok();
    wait_until("the shell's child", || child().is_some());
    Pid::from_raw(child().unwrap()).unwrap()
}

#[test]
fn the_container_has_a_terminal_of_its_own_of_the_callers_size() {
    for c in Container::all() {
        let script = "stty rows 33 cols 77; stty -g >before; \
             MINIRUN --rootless -t -- sh -c 'tty; stty size; stat -c %t:%T /dev/console; \
             echo x >/dev/tty; ps -o tty,args | grep -c pts; exit 6'; \
             code=$?; stty -g >after; cmp before after && exit $code";
        let done = finish(on_terminal(&c, script), 6);
        assert!(done.shown.contains("/dev/pts/0\n33 77\n88:0\nx\n"), "{done:?}");
    }
}

#[test]
fn the_command_has_the_foreground_of_its_terminal() {
    let c = Container::single();
    // pid, process group, session, terminal, the terminal's foreground group: proc_pid_stat(5).
    let script = "MINIRUN --rootless -t -- sh -c 'cut -d\" \" -f5-6,8 /proc/$$/stat; echo $$'";
    let done = finish(on_terminal(&c, script), 0);
    let numbers: Vec<&str> = done.shown.split_whitespace().collect();
    assert!(numbers.len() == 4 && numbers.iter().all(|n| *n == numbers[3]), "{done:?}");
}

#[test]
fn keys_reach_the_container_and_interrupt_its_command() {
    let c = Container::single();
    let session = on_terminal(
        &c,
        "MINIRUN --rootless -t -- sh -c 'read line; echo got $line; \
         trap \"echo interrupted; exit 4\" INT; echo rea\"\"dy; while :; do sleep 0.05; done'",
    );
    session.keys("word\r");
    session.wait_shown("ready");
    assert!(session.is_raw());
    session.keys("\x03");
    let done = finish(session, 4);
    assert!(done.shown.contains("got word\n") && done.shown.contains("interrupted\n"), "{done:?}");
}

#[test]
fn a_shell_in_the_container_stops_and_continues_jobs_of_its_own() {
    let c = Container::single();
    let session = on_terminal(
        &c,
        "MINIRUN --rootless -t -- sh -c 'set -m; sh -c \"echo st\\\"\\\"arted; exec sleep 1000\"; \
         echo code $?; jobs; kill -9 %1; wait; exit 3'",
    );
    session.wait_shown("started");
    session.keys("\x1a");
    let done = finish(session, 3);
    assert!(done.shown.contains("code 148") && done.shown.contains("Stopped"), "{done:?}");
}

#[test]
fn the_size_of_the_window_is_followed() {
    let c = Container::single();
    let session = on_terminal(
        &c,
        "MINIRUN --rootless -t -- sh -c 'trap \"stty size; exit 5\" WINCH; stty size; \
         while :; do sleep 0.05; done'",
    );
    session.wait_shown("20 40");
    session.resize(21, 41);
    let done = finish(session, 5);
    assert!(done.shown.ends_with("21 41\n"), "{done:?}");
}

#[test]
fn much_output_arrives_whole() {
    let c = Container::single();
    let script = "stty -onlcr; MINIRUN --rootless -t -- sh -c 'stty -onlcr; seq 1 100000'";
    let done = finish(on_terminal(&c, script), 0);
    let want: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(done.shown.ends_with(&want), "{} bytes, want {}", done.shown.len(), want.len());
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() {
    let c = Container::single();
    // No shell in front: a signal that its handler takes is lost when it executes something else.
    std::fs::write(c.bundle.join("rootfs/tmp/file"), "ready\n").unwrap();
    let script =
        format!("ulimit -c 0; MINIRUN --rootless --name {} -t -- tail -f /tmp/file", c.name);
    // The last two are not passed in: minirun itself dies of them.
    for (signal, code) in [
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::INT, 130),
        (Signal::QUIT, 131),
        (Signal::ABORT, 134),
        (Signal::SEGV, 139),
    ] {
        let session = on_terminal(&c, &format!("{script}; exit $?"));
        session.wait_shown("ready");
        assert!(session.is_raw());
        kill_process(child_of(&session), signal).unwrap();
        finish(session, code);
    }
    // The init itself is killed, so everything in the container is.
    let session = on_terminal(&c, &format!("{script}; exit $?"));
    session.wait_shown("ready");
    c.minirun(&["kill", &c.name, "KILL"]).assert_success();
    finish(session, 137);
}

#[test]
fn the_caller_has_its_terminal_while_minirun_is_stopped() {
    let c = Container::single();
    let session = on_terminal(
        &c,
        "set -m; MINIRUN --rootless -t -- sh -c 'trap \"echo x >/tmp/told\" TSTP; \
         trap \"echo continued; stty size\" CONT; echo rea\"\"dy; \
         while :; do sleep 0.05; done'; echo stop code $?; read answer; echo typed $answer; fg; exit $?",
    );
    session.wait_shown("ready");
    kill_process(child_of(&session), Signal::TSTP).unwrap();
    session.wait_shown("stop code 148");
    assert!(!session.is_raw());
    // Before it goes on: SIGCONT takes back what stop signals are still on their way (signal(7)).
    wait_until("the command's trap", || c.bundle.join("rootfs/tmp/told").exists());
    session.resize(22, 42);
    session.keys("words\r");
    session.wait_shown("typed words");
    session.wait_shown("continued\r\n22 42");
    assert!(session.is_raw());
    kill_process(child_of(&session), Signal::USR1).unwrap();
    finish(session, 128 + 10);
}

#[test]
fn input_or_output_alone_may_be_a_terminal() {
    let c = Container::single();
    let inside = "sh -c 'read x; echo got $x; tty; exit 3'";
    let session = on_terminal(
        &c,
        &format!("echo piped | MINIRUN --rootless -t -- {inside}; echo code $?; stty -a"),
    );
    let done = finish(session, 0);
    assert!(done.shown.contains("got piped\n/dev/pts/0\ncode 3\n"), "{done:?}");
    let session = on_terminal(&c, &format!("MINIRUN --rootless -t -- {inside} | cat -A"));
    wait_until("raw mode", || session.is_raw());
    session.keys("keys\r");
    let done = finish(session, 0);
    assert!(done.shown.contains("got keys^M$\n/dev/pts/0^M$\n"), "{done:?}");
}

#[test]
fn without_any_terminal_the_command_can_have_one() {
    let c = Container::single();
    let args = ["--rootless", "-t", "--", "sh", "-c", "read x; echo got $x; tty; exit 3"];
    let done = Run::new(c.command(&args)).stdin("in\n").finish();
    done.assert_code(3);
    let text = done.stdout_text().replace('\r', "");
    assert!(text.ends_with("got in\n/dev/pts/0\n"), "{done}");
}

#[test]
fn a_terminal_that_hangs_up_ends_its_container() {
    let c = Container::single();
    let words = c.command(&["--rootless", "-t", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    let all = std::iter::once(words.get_program()).chain(words.get_args());
    let line = all.map(|w| format!("'{}'", w.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).current_dir(&c.bundle).env("SHELL", "/bin/sh");
    script.envs(words.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let running = Run::new(script).stdin("").spawn();
    running.wait_stdout("up");
    wait_until("the record", || c.status() == "running");
    let init = c.init_pid();
    // The pseudo-terminal's other end is its own.
    running.signal(Signal::KILL);
    running.finish();
    wait_until("the end of the init", || !process_runs(init));
    wait_until("the end of the record", || {
        !c.minirun(&["list", "-q"]).stdout_text().contains(&c.name)
    });
}

#[test]
fn a_command_in_a_running_container_gets_one_too() {
    let c = Container::single();
    let running = c.detach("echo up; while :; do sleep 0.05; done");
    wait_until("its start", || c.log() == "up\n");
    let session = on_terminal(
        &c,
        &format!(
            "MINIRUN exec -t {} -- sh -c 'trap \"stty size; exit 7\" WINCH; tty; stty size; \
             while :; do sleep 0.05; done'",
            c.name
        ),
    );
    session.wait_shown("/dev/pts/0\r\n20 40");
    assert!(session.is_raw());
    session.resize(12, 34);
    let done = finish(session, 7);
    assert!(done.shown.ends_with("12 34\n"), "{done:?}");
    drop(running);
}

#[test]
fn a_background_containers_terminal_goes_to_its_log() {
    let c = Container::single();
    let args = ["--rootless", "-d", "-t", "--", "sh", "-c", "tty; echo done; sleep 1000"];
    c.minirun(&args).assert_success();
    let running = container::Detached(&c);
    wait_until("its words", || c.log().replace('\r', "") == "/dev/pts/0\ndone\n");
    drop(running);
}
