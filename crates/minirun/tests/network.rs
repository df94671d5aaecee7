//! What connects a container, what its name look-up says, and what becomes of its helpers.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;
mod private_net;

use std::path::{Path, PathBuf};

use common::As;
use container::{Container, assert_refused, wait_until};
use private_net::PrivateNet;
use testkit::programs::{Run, process_runs};
use testkit::user::TestUser;

/// The processes whose parent is `pid`, by name.
fn children(pid: i32) -> Vec<(i32, String)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|child| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let (start, rest) = stat.rsplit_once(") ")?;
        let parent: i32 = rest.split(' ').nth(1)?.parse().ok()?;
        (parent == pid).then(|| (child, start.split_once('(').unwrap().1.to_owned()))
    })
    .collect()
}

/// The process that waits outside a container.
fn monitor(c: &Container) -> i32 {
    let record = common::read_json(&c.state_dir().join("state.json"));
    i32::try_from(record["monitor"]["pid"].as_i64().unwrap()).unwrap()
}

/// The helpers of a container, by name.
fn helpers(c: &Container) -> Vec<(i32, String)> {
    let mut all = children(monitor(c));
    all.retain(|(pid, _)| *pid != c.init_pid());
    all
}

/// The host's curl: busybox has its resolver from a static glibc, which cannot look up names.
const HOST_PROGRAMS: [&str; 6] =
    ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];

fn is_pasta(name: &str) -> bool {
    name.starts_with("pasta") || name.starts_with("passt")
}

#[test]
fn the_host_and_its_names_are_reached_and_its_loopback_is_not() {
    let net = PrivateNet::new();
    net.serve("198.51.100.1:8000", "from the host");
    net.serve("127.0.0.1:8000", "from its loopback");
    net.serve_names();
    for c in Container::all() {
        // The image's own file is covered, not changed.
        let hosts = c.bundle.join("rootfs/etc/hosts");
        std::fs::write(&hosts, "the image's\n").unwrap();
        std::fs::write(c.bundle.join("rootfs/etc/hostname"), "the image's\n").unwrap();
        for program in ["pasta", "slirp4netns"] {
            let script = "curl -sS http://some.name:8000/; echo; cat /etc/resolv.conf /etc/hostname; \
                 grep box /etc/hosts; ps -o pid,comm | tail -n +2 | head -2; ls /proc/self/fd | wc -l; \
                 for a in 10.0.2.2 10.0.2.3 127.0.0.1; do curl -s -m 2 http://$a:8000/ & done; wait; \
                 echo >>/etc/hosts && echo end";
            let options = [&["--net", program, "--hostname", "box"], &HOST_PROGRAMS[..]].concat();
            let done = net.sh(&c, &options, script);
            done.assert_code(0);
            let want = "from the host\nnameserver 10.0.2.3\nsearch corp.example\nbox\n\
                        10.0.2.100\tbox\n    1 minirun\n    2 sh\n";
            let text = done.stdout_text();
            assert!(text.starts_with(want), "{program} as {}\n{done}", c.who.name());
            assert!(text.ends_with("4\nend\n"), "the loopback or a descriptor\n{done}");
            assert_eq!(done.stderr_text(), "", "{done}");
        }
        assert_eq!(std::fs::read_to_string(hosts).unwrap(), "the image's\n");
    }
}

#[test]
fn the_default_is_what_works() {
    // Pasta takes its addresses from the default route, slirp4netns needs none.
    let cases = [
        ("", "pasta", ""),
        ("ip route del default", "slirp4netns", ""),
        ("mount --bind /dev/null /usr/bin/pasta", "slirp4netns", ""),
        ("chmod 600 /dev/net/tun", "", "/dev/net/tun cannot be opened: Permission denied"),
        (
            "mount --bind /dev/null /usr/bin/pasta; mount --bind /dev/null /usr/bin/slirp4netns",
            "",
            "neither pasta nor slirp4netns is installed",
        ),
        (
            "printf '#!/bin/sh\\necho no luck >&2\\n' >/mnt/fake; chmod 755 /mnt/fake; \
             mount --bind /mnt/fake /usr/bin/pasta; mount --bind /mnt/fake /usr/bin/slirp4netns",
            "",
            "pasta: no luck; slirp4netns: no luck",
        ),
    ];
    for (script, program, says) in cases {
        let net = PrivateNet::with(script);
        let c = Container::single();
        std::fs::write(c.bundle.join("rootfs/etc/hosts"), "").unwrap();
        std::fs::write(c.bundle.join("rootfs/etc/resolv.conf"), "nameserver 1.2.3.4\n").unwrap();
        let done = net.minirun(&c, &["--rootless", "-d", "--", "sleep", "1000"]);
        let _running = container::Detached(&c);
        done.assert_code(0);
        let found = helpers(&c);
        let is_it = match program {
            "pasta" => matches!(&found[..], [(_, name)] if is_pasta(name)),
            "" => found.is_empty(),
            name => matches!(&found[..], [(_, found)] if found == name),
        };
        assert!(is_it, "want {program:?}, got {found:?} with {script:?}\n{done}");
        let lines = done.stderr_text().lines().count();
        assert_eq!(lines, usize::from(!says.is_empty()), "{script:?}\n{done}");
        done.assert_stderr(says);
        let seen =
            net.minirun(&c, &["exec", &c.name, "sh", "-c", "cat /etc/resolv.conf /etc/hosts"]);
        let text = seen.stdout_text();
        assert!(!text.contains("1.2.3.4"), "{seen}");
        assert_eq!(text.contains("nameserver"), !program.is_empty(), "{script:?}\n{seen}");
        assert_eq!(text.contains("10.0.2.100"), !program.is_empty(), "{script:?}\n{seen}");
    }
}

#[test]
fn a_helper_that_was_asked_for_and_cannot_be_had_is_an_error() {
    let c = Container::single();
    let run = |script: &str, program: &str| {
        let net = PrivateNet::with(script);
        net.minirun(&c, &["--rootless", "--net", program, "--", "true"])
    };
    assert_refused(&run("chmod 600 /dev/net/tun", "pasta"), 125, "Permission denied", "chmod 0666");
    let done = run("mount --bind /dev/null /usr/bin/pasta", "pasta");
    assert_refused(&done, 125, "pasta is not installed", "apt-get install passt");
    let done = run("ip route del default", "pasta");
    assert_refused(&done, 125, "External interface not usable", "--net slirp4netns");
    assert!(!c.state_dir().exists(), "the failed container's record is gone");
}

#[test]
fn helpers_end_with_their_container_however_that_ends() {
    let net = PrivateNet::new();
    for who in [As::Root, As::User(TestUser::with_subids().isolated())] {
        let c = Container::new(who);
        for (program, end) in [
            ("pasta", "command"),
            ("pasta", "delete"),
            ("pasta", "minirun"),
            ("slirp4netns", "minirun"),
        ] {
            let _running =
                net.detach(&c, &["--net", program], "trap 'exit 3' TERM; sleep 1000 & wait");
            let found = helpers(&c);
            let [(helper, _)] = found[..] else { panic!("one helper, got {found:?}") };
            match end {
                "command" => drop(c.minirun(&["kill", &c.name])),
                "delete" => drop(c.minirun(&["delete", "--force", &c.name])),
                _ => nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(monitor(&c)),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .unwrap(),
            }
            wait_until(&format!("the end of {program} after that of {end}"), || {
                !process_runs(helper)
            });
        }
    }
}

#[test]
fn a_key_pressed_on_the_terminal_reaches_no_helper() {
    let net = PrivateNet::new();
    let c = Container::single();
    let _running = net.detach(&c, &["--net", "pasta"], "sleep 1000");
    let (helper, _) = helpers(&c)[0];
    let session = |pid: i32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap();
    assert_eq!(session(helper).as_raw(), helper, "a session of its own has no terminal");
    let open = format!("/proc/{helper}/fd");
    let sockets = std::fs::read_dir(open).unwrap().flatten();
    let state = c.state_dir();
    let leaked = |path: &Path| path.starts_with(&state) || path.starts_with(&c.bundle);
    let links: Vec<PathBuf> = sockets.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    assert!(!links.is_empty() && !links.iter().any(|link| leaked(link)), "{links:?}");
}

#[test]
fn a_network_of_none_or_the_hosts_has_files_that_are_right() {
    let net = PrivateNet::new();
    for c in Container::all() {
        for name in ["hosts", "hostname", "resolv.conf"] {
            std::fs::write(c.bundle.join("rootfs/etc").join(name), "nameserver 1.2.3.4\n").unwrap();
        }
        let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf; ls /sys/class/net | xargs";
        let options = ["--net", "none", "--hostname", "box", "--add-host", "db:10.1.1.1"];
        net.sh(&c, &options, script).assert_code(0).assert_stdout(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tbox\n\
             10.1.1.1\tdb\nbox\n# no network, so no name server\nlo\n",
        );
        let script = "cat /etc/hosts /etc/resolv.conf; ls /proc/sys/net/ipv4/conf | xargs";
        net.sh(&c, &["--net", "host"], script).assert_code(0).assert_stdout(
            "127.0.0.1 localhost\n198.51.100.1 the-host\nnameserver 127.0.0.53\n\
             search corp.example\nall default lo v0 v1\n",
        );
        let text = std::fs::read_to_string(c.bundle.join("rootfs/etc/resolv.conf")).unwrap();
        assert_eq!(text, "nameserver 1.2.3.4\n");
    }
    let c = Container::single();
    let etc = c.bundle.join("rootfs/etc");
    let before = std::fs::read_dir(&etc).unwrap().count();
    net.sh(&c, &["--net", "none"], "true").assert_code(0);
    assert_eq!(std::fs::read_dir(&etc).unwrap().count(), before, "no mount point is made");
}

#[test]
fn an_image_without_the_files_gets_them_where_they_can_be_made() {
    let net = PrivateNet::new();
    let run = |c: &Container| {
        net.sh(c, &["--net", "slirp4netns"], "cat /etc/resolv.conf /etc/hosts | grep -c 10.0.2")
    };
    let c = Container::single();
    run(&c).assert_code(0).assert_stdout("2\n");
    // As engines leave them: empty places.
    let etc = c.bundle.join("rootfs/etc");
    for name in ["resolv.conf", "hosts"] {
        assert_eq!(std::fs::read_to_string(etc.join(name)).unwrap(), "", "{name}");
    }
    assert!(!etc.join("hostname").exists());
    // systemd-resolved's link, which leads nowhere in an image.
    let c = Container::single();
    let link = c.bundle.join("rootfs/etc/resolv.conf");
    let target = Path::new("../run/systemd/resolve/stub-resolv.conf");
    std::os::unix::fs::symlink(target, &link).unwrap();
    run(&c).assert_code(0).assert_stdout("2\n");
    assert_eq!(std::fs::read_link(&link).unwrap(), target);
    // One that the caller may not write.
    let c = Container::single();
    std::os::unix::fs::chown(c.bundle.join("rootfs/etc"), Some(0), Some(0)).unwrap();
    run(&c).assert_code(1).assert_stdout("0\n");
}

#[test]
fn the_callers_umask_and_name_servers_are_minded() {
    let net = PrivateNet::new();
    let c = Container::new(As::User(TestUser::with_subids().isolated()));
    let record = common::record(c.who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let args = ["--dns", "192.0.2.9", "-u", "1000", "--", "cat", "/etc/resolv.conf"];
    let inner = net.minirun_command(&c, &[&["--rootless"], &args[..]].concat());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(inner.get_program());
    command.args(inner.get_args()).envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = Run::new(command).finish();
    done.assert_code(0).assert_stdout("nameserver 192.0.2.9\nsearch corp.example\n");
}

#[test]
fn the_default_of_the_environment_holds_for_generated_configurations() {
    let net = PrivateNet::new();
    let c = Container::single();
    let with = |value: &str, args: &[&str]| {
        let mut inner = c.command(args);
        inner.env("MINIRUN_NET", value);
        Run::new(net.command(&inner)).finish()
    };
    let list = ["--rootless", "--", "ls", "/sys/class/net"];
    with("none", &list).assert_code(0).assert_stdout("lo\n");
    with("pasta", &list).assert_code(0).assert_stdout("eth0\nlo\n");
    with("pasta", &[&["--net", "none"], &list[..]].concat()).assert_stdout("lo\n");
    assert_refused(&with("bridge", &list), 125, "invalid MINIRUN_NET \"bridge\"", "unset");
    // One that somebody wrote says itself what it wants.
    c.configure(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({"type": "network"}));
    });
    let links = ["--rootless", "--", "ip", "-o", "link"];
    let done = with("pasta", &links);
    assert_eq!(done.assert_code(0).stdout_text().lines().count(), 1, "{done}");
    let done = with("pasta", &[&["--net", "slirp4netns"], &links[..]].concat());
    assert_eq!(done.assert_code(0).stdout_text().lines().count(), 2, "{done}");
}

#[test]
fn published_ports_are_reached_from_the_host() {
    let net = PrivateNet::new();
    for c in Container::all() {
        let script = "echo from the container >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
        for network in ["none", "pasta"] {
            let options = ["--net", network, "-p", "8080:80", "-p", "127.0.0.1:8081:80/tcp"];
            let running = net.detach(&c, &options, script);
            for port in ["8080", "8081"] {
                let url = format!("http://127.0.0.1:{port}/");
                // It listens a moment after it runs.
                let retry = ["-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1"];
                let done = net.run("curl", &[&retry, &[&url[..]][..]].concat());
                assert_eq!(done.stdout_text(), "from the container\n", "{network}\n{done}");
            }
            // The port is taken, and that is known before the command runs.
            let again = Container::new(As::User(TestUser::without_subids().isolated()));
            let done = net.sh(&again, &["--net", "none", "-p", "8080:80"], "echo ran");
            assert_refused(&done, 125, "cannot publish ports: ", "");
            done.assert_stdout("");
            drop(running);
            let closed = || net.run("curl", &["-sS", "http://127.0.0.1:8080/"]).code() == Some(7);
            wait_until("the port to be closed", closed);
        }
    }
    let c = Container::single();
    let done = net.sh(&c, &["--net", "none", "-p", "5353:53/udp"], "echo ran");
    assert_refused(&done, 125, "cannot publish ports: ", "");
    let done = net.sh(&c, &["--net", "host", "-p", "8080:80"], "echo ran");
    assert_refused(&done, 125, "a network that is the container's own", "");
    // Any free port, which has to be told.
    let done = net.sh(&c, &["--net", "none", "-p", "80"], "echo ran");
    done.assert_code(0).assert_stderr("port 80 is published on 127.0.0.1:");
}
