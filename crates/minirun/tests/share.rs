//! Containers that share another's namespaces, and namespaces that files name.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;
mod private_net;

use common::{As, read_json};
use container::{Container, Detached, assert_refused, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_net::PrivateNet;
use testkit::programs::{Run, process_runs};
use testkit::user::TestUser;

/// Another container of the same caller's, in the same state directory.
fn beside(c: &Container) -> Container {
    let who = match &c.who {
        As::Root => As::Root,
        As::User(user) if user.subuids().is_some() => As::User(TestUser::with_subids()),
        As::User(_) => As::User(TestUser::without_subids()),
    };
    Container::new(who)
}

/// Root, and both users with the runtime directory that all of their containers share.
fn owners() -> [Container; 3] {
    let users = [TestUser::with_subids(), TestUser::without_subids()];
    let [with, without] = users.map(|user| Container::new(As::User(user)));
    [Container::new(As::Root), with, without]
}

fn container(c: &Container) -> String {
    format!("container:{}", c.name)
}

fn link(c: &Container, kind: &str) -> String {
    let main = read_json(&c.state_dir().join("state.json"))["main"]["pid"].as_i64().unwrap();
    std::fs::read_link(format!("/proc/{main}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn two_containers_talk_by_the_loopback_they_share() {
    let net = PrivateNet::new();
    net.serve("198.51.100.1:8000", "from the host");
    for a in owners() {
        let script = "echo from a >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
        let _a = net.detach(&a, &["--net", "pasta", "--hostname", "first"], script);
        let b = beside(&a);
        let script = "i=0; until wget -q -O- http://127.0.0.1/; do i=$((i+1)); test $i -lt 60 || exit 9; \
             sleep 1; done 2>/dev/null; wget -q -O- http://198.51.100.1:8000/; echo; \
             grep first /etc/hosts; grep nameserver /etc/resolv.conf; hostname; id -u; \
             ps -o pid,comm | head -2 | tail -1; ls /sys/class/net | xargs; \
             ip link set eth0 down || echo refused; readlink /proc/self/ns/net; readlink /proc/self/ns/pid";
        let done = net.sh(&b, &["--net", &container(&a), "--hostname", "second"], script);
        done.assert_code(0);
        let text = done.stdout_text();
        let want = "from a\nfrom the host\n10.0.2.100\tfirst\nnameserver 10.0.2.3\nsecond\n0\n    \
                    1 minirun\neth0 lo\nrefused\n";
        assert!(text.starts_with(want), "as {}\n{done}", a.who.name());
        let mut links = text.lines().rev();
        let (pid, net_link) = (links.next().unwrap(), links.next().unwrap());
        assert_eq!(net_link, link(&a, "net"));
        assert_ne!(pid, link(&a, "pid"));
    }
}

#[test]
fn a_shared_process_namespace_shows_both_and_ends_with_its_own() {
    let net = PrivateNet::new();
    for a in owners() {
        let _a = net.detach(&a, &["--net", "none"], "exec sleep 1001");
        let b = beside(&a);
        // An orphan in a session of its own, and a child: neither is left.
        let script = "(setsid sleep 1002 &) ; sleep 1003 & \
             ps -o args | grep -c '[s]leep 1001'; cat /proc/1/comm; cat /proc/1/maps 2>&1 | wc -c; \
             cat /proc/$PPID/comm; (cat /proc/$PPID/environ | wc -c) 2>&1 | tail -1; \
             readlink /proc/$PPID/exe; hostname; kill -0 1 && exit 7";
        let options = ["--pid", &container(&a), "--hostname", "second"];
        let done = net.sh(&b, &options, script);
        done.assert_code(7);
        let text = done.stdout_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["1", "minirun"], "as {}\n{done}", a.who.name());
        assert!(lines.contains(&"second") && !text.contains('/'), "the init is open\n{done}");
        let left = net.minirun(&a, &["exec", &a.name, "ps", "-o", "args"]);
        let left = left.stdout_text();
        assert!(left.contains("sleep 1001"), "{left}");
        assert!(!left.contains("sleep 1002") && !left.contains("sleep 1003"), "{left}");
    }
}

#[test]
fn signals_and_ends_reach_a_container_in_anothers_process_namespace() {
    let net = PrivateNet::new();
    let a = Container::new(As::User(TestUser::without_subids()));
    let _a = net.detach(&a, &["--net", "none"], "exec sleep 1001");
    let b = beside(&a);
    let options = ["--pid", &container(&a)];
    let running =
        net.detach(&b, &options, "(setsid sleep 1002 &); trap 'exit 5' TERM; sleep 1000 & wait");
    assert_eq!(link(&b, "pid"), link(&a, "pid"));
    assert_eq!(link(&b, "user"), link(&a, "user"));
    let args = || net.minirun(&a, &["exec", &a.name, "ps", "-o", "args"]).stdout_text();
    assert!(args().contains("sleep 1002"));
    b.minirun(&["exec", &b.name, "true"]).assert_code(0);
    b.minirun(&["kill", &b.name]).assert_code(0);
    wait_until("the end by TERM", || b.status() == "stopped");
    assert!(!args().contains("sleep 1002"), "{}", args());
    drop(running);
    // Its init killed, which so can end nothing itself; and processes that were put in from outside.
    let running = net.detach(&b, &options, "(setsid sleep 1003 &); sleep 1000");
    let mut inside = Run::new(b.command(&["exec", &b.name, "sleep", "1004"])).spawn();
    wait_until("both to run", || args().contains("sleep 1003") && args().contains("sleep 1004"));
    kill(Pid::from_raw(b.init_pid()), Signal::SIGKILL).unwrap();
    wait_until("the end of the rest", || {
        let now = args();
        !["sleep 1003", "sleep 1004", "sleep 1000"].iter().any(|left| now.contains(left))
    });
    wait_until("the end of exec", || !inside.is_running());
    drop(running);
    assert!(args().contains("sleep 1001"), "the other one runs on");
}

#[test]
fn the_end_of_the_shared_process_namespace_is_that_of_its_guests() {
    let net = PrivateNet::new();
    let a = Container::new(As::User(TestUser::without_subids()));
    let first = net.detach(&a, &["--net", "none"], "exec sleep 1001");
    let b = beside(&a);
    let _b = net.detach(&b, &["--pid", &container(&a)], "exec sleep 1000");
    let pid = b.init_pid();
    drop(first);
    wait_until("the guest's end", || !process_runs(pid));
}

#[test]
fn a_namespace_file_is_joined_by_who_may() {
    let net = PrivateNet::with("mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns");
    // Root's, as `ip netns add` makes them.
    net.run("sh", &["-c", "ip netns add made && ip -n made link set lo up"]).assert_success();
    let list = "ls /sys/class/net >/dev/null; ip -o link | wc -l; cat /proc/net/dev | grep -c :";
    let root = Container::new(As::Root);
    let options = ["--net", "ns:/run/netns/made"];
    net.sh(&root, &options, list).assert_code(0).assert_stdout("1\n1\n");
    let user = Container::single();
    let done = net.sh(&user, &options, list);
    assert_refused(&done, 125, "\"/run/netns/made\" is not the caller's to join", "as root");
    // A user's own, by who made the user namespace that owns it.
    for c in [Container::single(), Container::new(As::Root)] {
        let As::User(owner) = &user.who else { panic!("a user") };
        let mut holder = owner.command("unshare");
        holder.args(["-Urn", "sh", "-c", "ip link set lo up; echo ready; exec sleep infinity"]);
        let holder = Run::new(net.command(&holder)).spawn();
        holder.wait_stdout("ready");
        let path = format!("/proc/{}/ns/net", holder.pid());
        let want = std::fs::read_link(&path).unwrap();
        let done =
            net.sh(&c, &["--net", &format!("ns:{path}")], "readlink /proc/self/ns/net; id -u");
        match &c.who {
            As::User(_) => {
                done.assert_code(0).assert_stdout(&format!("{}\n0\n", want.display()));
            }
            // Its root filesystem needs ids that this user namespace does not have.
            As::Root => assert_refused(&done, 125, "does not have", "same ownership"),
        }
    }
    let refused = |path: &str, says: &str| {
        let done = net.sh(&user, &["--net", &format!("ns:{path}")], "true");
        assert_refused(&done, 125, says, "/run/netns/NAME");
    };
    refused("/run/netns/none", "cannot open the namespace");
    refused("/etc/passwd", "is no namespace");
}

#[test]
fn what_cannot_be_shared_is_told() {
    let c = Container::single();
    let run = |args: &[&str]| c.minirun(&[&["--rootless"], args, &["--", "true"]].concat());
    assert_refused(&run(&["--net", "container:none"]), 125, "does not exist", "minirun list");
    assert_refused(&run(&["--pid", "container:none"]), 125, "does not exist", "minirun list");
    let done = run(&["--pid", "host"]);
    done.assert_code(125).assert_stderr("container:NAME");
    // Two owners of one container's namespaces.
    let (a, b) = (
        Container::new(As::User(TestUser::without_subids())),
        Container::new(As::User(TestUser::without_subids())),
    );
    let (_a, _b): (Detached<'_>, Detached<'_>) =
        (a.detach("exec sleep 1000"), b.detach("exec sleep 1000"));
    let third = beside(&a);
    let run = |args: &[&str]| third.minirun(&[&["--rootless"], args, &["--", "true"]].concat());
    let both = ["--net", &container(&a), "--pid", &container(&b)];
    assert_refused(&run(&both), 125, "two different containers", "same one twice");
    run(&["--net", &container(&a), "--pid", &container(&a)]).assert_code(0);
    let helper = ["--net", "pasta", "--pid", &container(&a)];
    let done = run(&helper);
    done.assert_code(125);
    let ports = ["--net", &container(&a), "-p", "1:1"];
    assert_refused(&run(&ports), 125, "container's own", "");
    run(&["--net", "host", "--pid", &container(&a)]).assert_code(0);
    run(&["--net", "none", "--pid", &container(&a)]).assert_code(0);
}
