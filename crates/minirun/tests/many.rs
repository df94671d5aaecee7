//! Many containers, one after the other and at the same time: each is found, and nothing stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use container::{Container, wait_until};
use testkit::programs::{Background, Finished, Run, binary};

/// How long a thousand starts may take before something is wrong with the machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a shell script as the container's user in pid and mount namespaces of its own, where every
/// process and mount is the script's or a container's. `$0` is minirun, and so is `$MINIRUN`.
fn alone(c: &Container, script: &str) -> Finished {
    let mut inner = c.who.command("bash");
    inner.args(["-c", script]).arg(binary("minirun")).env("MINIRUN", binary("minirun"));
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--mount"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    Run::new(command).limit(LIMIT).finish()
}

/// What a script's end prints of what is left: processes but its own, mounts, and files.
const LEFT: &str = "\
    sed 's/^[0-9]* [0-9]* //' /proc/self/mountinfo | sort >mounts.after; \
    cmp mounts.before mounts.after && echo same mounts; \
    for i in $(seq 1000); do set -- /proc/[0-9]*; [ $# = 1 ] && break; sleep 0.02; done; \
    echo $# process; (cd \"$XDG_RUNTIME_DIR\" && find . -not -name .); \
    find rootfs | sort >files.after; cmp files.before files.after && echo same files";
const BEFORE: &str = "\
    sed 's/^[0-9]* [0-9]* //' /proc/self/mountinfo | sort >mounts.before; \
    find rootfs | sort >files.before;";
const NOTHING_LEFT: &str = "same mounts\n1 process\n./minirun\n./minirun/.lock\nsame files\n";

/// The control groups of this machine, but those that others make meanwhile for themselves.
fn cgroups(c: &Container) -> BTreeSet<String> {
    let found = Run::program("find", &["/sys/fs/cgroup", "-type", "d"]).finish().stdout_text();
    found.lines().filter(|line| line.contains(&c.name)).map(str::to_owned).collect()
}

#[test]
fn a_thousand_containers_leave_nothing() {
    let c = Container::single();
    // Their root filesystem gets its mount points first.
    c.sh("true").assert_code(0);
    let name = &c.name;
    let run = format!(
        "seq 1000 | xargs -P 4 -I @ sh -c '\"$MINIRUN\" --rootless --name {name}-@ \
         -- sh -c \"exit \\$((@ % 7))\"; [ $? = $((@ % 7)) ] || echo @ failed';"
    );
    let done = alone(&c, &format!("{BEFORE} {run} {LEFT}"));
    done.assert_code(0).assert_stderr("").assert_stdout(NOTHING_LEFT);
    assert_eq!(cgroups(&c), BTreeSet::new());
}

#[test]
fn a_hundred_containers_at_the_same_time_are_listed_and_stopped() {
    let c = Container::single();
    c.sh("true").assert_code(0);
    let name = &c.name;
    let run = format!(
        "seq 100 | xargs -P 4 -I @ \"$0\" --rootless -d --rm --name {name}-@ -- \
         sh -c 'echo @; exec sleep 1000' | wc -l; \
         \"$0\" list --filter status=running -q | grep -c ^{name}-; \
         for n in 1 50 100; do until [ \"$(\"$0\" logs {name}-$n)\" = $n ]; do :; done; done; \
         \"$0\" list | grep -c running; \"$0\" stop --all | wc -l; \"$0\" list -q;"
    );
    let done = alone(&c, &format!("{BEFORE} {run} {LEFT}"));
    done.assert_code(0).assert_stderr("");
    done.assert_stdout(&format!("100\n100\n100\n100\n{NOTHING_LEFT}"));
    assert_eq!(cgroups(&c), BTreeSet::new());
}

#[test]
fn of_many_starts_of_one_name_one_wins() {
    let c = Container::single();
    c.sh("true").assert_code(0);
    let script = "while [ ! -e /go ]; do sleep 0.05; done; echo won";
    let starts: Vec<_> = (0..12).map(|_| c.start(script)).collect();
    let refused = |start: &&Background| start.stderr_text().contains("\nhint: ");
    wait_until("all but one to be refused", || starts.iter().filter(refused).count() == 11);
    std::fs::write(c.bundle.join("rootfs/go"), "").unwrap();
    let mut winners = 0;
    for done in starts.into_iter().map(Background::finish) {
        if done.code() == Some(0) {
            done.assert_stdout("won\n").assert_stderr("");
            winners += 1;
        } else {
            container::assert_refused(&done, 125, "already exists", "--name");
        }
    }
    assert_eq!(winners, 1);
    assert!(!c.state_dir().exists());
}

/// While containers come and go, and some miniruns are killed, every list is whole.
#[test]
fn the_list_never_fails_while_containers_come_and_go() {
    let c = Container::single();
    c.sh("true").assert_code(0);
    let script = format!(
        "churn() {{ seq 60 | xargs -P 3 -I @ sh -c '\"$MINIRUN\" --rootless --name {name}-$1-@ -- true; \
         \"$MINIRUN\" -d --rm --name {name}-$1-@ -- true >/dev/null; \
         \"$MINIRUN\" --name {name}-$1-@ -- sleep 1000 & sleep 0.02; kill -9 $!' sh $1; }}; \
         churn a 2>/dev/null & \
         while [ -n \"$(jobs -r)\" ]; do \"$0\" list >/dev/null || echo failed; \
         \"$0\" list --json | jq -e 'type == \"array\"' >/dev/null || echo no array; done; \
         wait; \"$0\" list -q; {LEFT}",
        name = c.name
    );
    let done = alone(&c, &format!("{BEFORE} {script}"));
    done.assert_code(0).assert_stderr("").assert_stdout(NOTHING_LEFT);
}
