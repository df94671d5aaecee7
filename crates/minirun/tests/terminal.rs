//! Terminals, through a real one that script(1) makes.

mod common;
mod container;

use std::process::Command;

use container::{Container, wait_until};
use testkit::programs::{Finished, Run};

/// Runs a shell script with a terminal, whose keyboard is `input`.
fn on_terminal(c: &Container, script: &str, input: &str) -> Finished {
    let inner = c.command(&[]);
    let program = inner.get_program().to_string_lossy().into_owned();
    let words = inner.get_args().map(|a| a.to_string_lossy().into_owned());
    let minirun = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    let mut command = Command::new("script");
    command.args(["-qefc", &script.replace("MINIRUN", &minirun), "/dev/null"]);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(&c.bundle);
    // A shell of the caller's choice would bring its own start-up files.
    command.env("SHELL", "/bin/sh");
    Run::new(command).stdin(input).finish()
}

/// What stood on the terminal, without what script(1) makes of the end of its own input.
fn shown(done: &Finished) -> String {
    done.stdout_text().replace('\r', "").replace("^@", "")
}

#[test]
fn the_container_has_a_terminal_of_its_own_of_the_callers_size() {
    for c in Container::all() {
        let script = "stty rows 33 cols 77; stty -g >before; \
             MINIRUN --rootless -t -- sh -c 'tty; stty size; stat -c %t:%T /dev/console; \
             echo x >/dev/tty; ps -o tty,args | grep -c pts; exit 6'; \
             code=$?; stty -g >after; cmp before after && exit $code";
        let done = on_terminal(&c, script, "");
        done.assert_code(6);
        let text = shown(&done);
        assert!(text.contains("/dev/pts/0\n33 77\n88:0\nx\n"), "as {}\n{done}", c.who.name());
    }
}

#[test]
fn keys_reach_the_container_and_interrupt_its_command() {
    let c = Container::single();
    let script = "MINIRUN --rootless -t -- sh -c 'read line; echo got $line; \
         trap \"echo interrupted; exit 4\" INT; echo ready; while :; do sleep 0.05; done'";
    let inner = "(echo word; while ! grep -q ready seen; do sleep 0.05; done; printf '\\003'; sleep 5) | script -qefc \"$0\" /dev/null >seen; code=$?; cat seen; exit $code";
    let program = c.command(&[]);
    let words: Vec<_> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let mut command = Command::new("sh");
    command.args(["-c", inner, &script.replace("MINIRUN", &words.join(" "))]);
    command.envs(program.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(&c.bundle);
    command.env("SHELL", "/bin/sh");
    std::fs::write(c.bundle.join("seen"), "").unwrap();
    let done = Run::new(command).finish();
    done.assert_code(4);
    let text = done.stdout_text().replace('\r', "");
    assert!(text.contains("got word\n") && text.contains("interrupted\n"), "{done}");
}

#[test]
fn the_size_of_the_window_is_followed() {
    let c = Container::single();
    let script = "stty rows 20 cols 40; (sleep 0.5; stty rows 21 cols 41 </dev/tty) & \
         MINIRUN --rootless -t -- sh -c 'n=0; while [ \"$(stty size)\" != \"21 41\" ] && \
         [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done; stty size'";
    let done = on_terminal(&c, script, "");
    done.assert_code(0);
    assert!(done.stdout_text().contains("21 41"), "{done}");
}

#[test]
fn much_output_arrives_whole() {
    let c = Container::single();
    let script = "stty -onlcr; MINIRUN --rootless -t -- sh -c 'stty -onlcr; seq 1 100000'";
    let done = on_terminal(&c, script, "");
    done.assert_code(0);
    let want: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let text = shown(&done);
    assert!(text.ends_with(&want), "{} bytes, want {}", text.len(), want.len());
}

#[test]
fn a_command_in_a_running_container_gets_one_too() {
    let c = Container::single();
    let running = c.detach("echo up; while :; do sleep 0.05; done");
    wait_until("its start", || c.log() == "up\n");
    let script = format!(
        "stty rows 12 cols 34; MINIRUN exec -t {} -- sh -c 'tty; stty size; exit 7'",
        c.name
    );
    let done = on_terminal(&c, &script, "");
    done.assert_code(7);
    let text = shown(&done);
    assert!(text.contains("/dev/pts/0\n12 34\n"), "{done}");
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
