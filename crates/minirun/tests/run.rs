//! Containers in the foreground: what is in them, what is not, and how they end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::os::unix::fs::symlink;
use std::process::Command;

use common::As;
use container::{Container, assert_refused};
use testkit::programs::Run;

#[test]
fn every_namespace_is_new_and_the_networks_loopback_is_up() {
    for c in Container::all() {
        let kinds = ["user", "pid", "mnt", "ipc", "uts", "net"];
        let done = c.sh("for n in user pid mnt ipc uts net; do readlink /proc/self/ns/$n; done");
        done.assert_code(0);
        for (kind, inside) in kinds.iter().zip(done.stdout_text().lines()) {
            let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(inside.starts_with(kind), "{done}");
            assert_ne!(outside.to_string_lossy(), inside, "as {}", c.who.name());
        }
        let done = c.sh("cat /sys/class/net/lo/flags; ls /sys/class/net; ping -c1 127.0.0.1 >&2");
        done.assert_code(0).assert_stdout("0x9\nlo\n");
    }
}

#[test]
fn the_file_tree_is_the_configured_one() {
    for c in Container::all() {
        c.configure(|_| {});
        let done = c.sh("cat /proc/self/mounts; ls /.oldroot 2>/dev/null; exit 0");
        done.assert_code(0);
        let text = done.stdout_text();
        let mount = |target: &str| {
            let mut all = text.lines().map(|l| l.split(' ').collect::<Vec<_>>());
            let found = all.rfind(|f| f.get(1) == Some(&target));
            found.unwrap_or_else(|| panic!("no mount on {target}\n{done}"))[2..4].join(" ")
        };
        assert!(mount("/").contains(" ro,"), "{done}");
        assert_eq!(mount("/proc"), "proc rw,relatime");
        assert!(mount("/dev").starts_with("tmpfs rw,nosuid,size=65536k,mode=755"), "{done}");
        assert!(mount("/dev/pts").starts_with("devpts rw,nosuid,noexec,relatime,mode=620"));
        assert!(mount("/dev/shm").starts_with("tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k"));
        assert_eq!(mount("/dev/mqueue"), "mqueue rw,nosuid,nodev,noexec,relatime");
        for readonly in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
            // A kernel that lacks one has nothing to protect there.
            if std::path::Path::new(readonly).exists() {
                assert_eq!(mount(readonly), "proc ro,relatime", "{readonly}");
            }
        }
        let mut targets: Vec<_> = text.lines().filter_map(|l| l.split(' ').nth(1)).collect();
        targets.retain(|t| !["/proc", "/sys", "/dev"].iter().any(|top| t.starts_with(top)));
        assert_eq!(targets, ["/"], "nothing else of the host's is left\n{done}");
        let nodes = "for d in null zero full random urandom tty; do stat -c '%n %t:%T' /dev/$d; done; \
                     for l in fd stdin ptmx; do readlink /dev/$l; done; echo lost >/dev/null && head -c3 /dev/zero | wc -c";
        c.sh(nodes).assert_code(0).assert_stdout(
            "/dev/null 1:3\n/dev/zero 1:5\n/dev/full 1:7\n/dev/random 1:8\n/dev/urandom 1:9\n\
             /dev/tty 5:0\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n3\n",
        );
    }
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_cannot_be_written() {
    for c in Container::all() {
        let host = |path: &str| std::fs::read(path).map_or(0, |text| text.len());
        assert!(host("/proc/keys") + host("/proc/timer_list") > 0, "nothing here to be masked");
        c.configure(|_| {});
        let done = c.sh("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; \
             find /sys/firmware /proc/acpi /proc/scsi -mindepth 1 2>/dev/null | wc -l; \
             for f in /made /proc/sys/kernel/hostname /sys/firmware/x; do \
             (: >$f) 2>&1; done");
        let text = done.stdout_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.get(..2), Some(&["0", "0"][..]), "{done}");
        let denied = lines.iter().filter(|l| l.ends_with("Read-only file system")).count();
        assert_eq!((denied, lines.len()), (3, 5), "{done}");
    }
}

#[test]
fn capabilities_limits_and_identity_are_the_configured_ones() {
    for c in Container::all() {
        c.configure(|config| {
            config["process"]["user"]["umask"] = 0o027.into();
            config["hostname"] = "box".into();
            config["process"]["cwd"] = "/work/deep".into();
            config["root"]["readonly"] = false.into();
        });
        let done = c.sh("grep -E '^(Cap|NoNewPrivs|Groups|Uid|Gid|Seccomp:)' /proc/self/status; \
             ulimit -n; umask; hostname; pwd; env");
        done.assert_code(0);
        let text = done.stdout_text().replace(['\t', ' '], "");
        for want in [
            "CapInh:0000000000000000",
            "CapPrm:0000000020000420",
            "CapEff:0000000020000420",
            "CapBnd:0000000020000420",
            "CapAmb:0000000000000000",
            "NoNewPrivs:1",
            "Uid:0000",
            "Gid:0000",
            "Groups:\n",
            "\n1024\n0027\nbox\n/work/deep\n",
        ] {
            assert!(text.contains(want), "want {want:?} as {}\n{done}", c.who.name());
        }
        assert!(!text.contains("USER="), "the caller's environment stays outside\n{done}");
    }
}

#[test]
fn another_user_can_be_run_as_where_ids_allow() {
    let c = Container::new(As::User(testkit::user::TestUser::with_subids().isolated()));
    let [_, who, _] = As::all();
    let record = common::record(who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let args =
        ["--rootless", "-u", "1000:1000", "--", "sh", "-c", "id -u; id -g; id -G; kill -0 1"];
    let done = c.minirun(&args);
    done.assert_stdout("1000\n1000\n1000\n").assert_code(1);
    let done = Container::single().minirun(&["--rootless", "-u", "1000", "--", "true"]);
    assert_refused(&done, 125, "user 1000 is not mapped", "/etc/subuid");
}

#[test]
fn nothing_of_the_launchers_is_open_in_the_container() {
    let c = Container::single();
    let mut command = Command::new("sh");
    let inner = c.command(&[
        "--rootless",
        "--",
        "sh",
        "-c",
        "ls -l /proc/self/fd/; ls -l /proc/$$/fd/; true",
    ]);
    let env = inner.get_envs().filter_map(|(k, v)| Some((k, v?)));
    command.args(["-c", "exec 7</ 9</etc; exec \"$@\"", "sh"]).envs(env);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    let done = Run::new(command).finish();
    done.assert_code(0);
    let text = done.stdout_text();
    let numbers: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().nth(8)).collect();
    // The 3 of the first listing is the directory that ls itself reads.
    assert_eq!(numbers, ["0", "1", "2", "3", "0", "1", "2"], "{done}");
}

#[test]
fn input_and_output_pass_unchanged() {
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let c = Container::single();
    let command = c.command(&["--rootless", "--", "cat"]);
    let done = Run::new(command).stdin(bytes.clone()).finish();
    assert_eq!(done.code(), Some(0), "{}", done.stderr_text());
    assert!(done.stdout == bytes, "{} bytes came back of {}", done.stdout.len(), bytes.len());
}

#[test]
fn every_exit_code_and_every_deadly_signal_comes_out() {
    let c = Container::single();
    for code in 0..=255 {
        c.sh(&format!("exit {code}")).assert_code(code);
    }
    // Not SIGQUIT: busybox's shell ignores it.
    for signal in [1, 2, 6, 9, 11, 13, 14, 15, 34, 64] {
        c.sh(&format!("ulimit -c 0; kill -{signal} $$")).assert_code(128 + signal);
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_apart() {
    for c in Container::all() {
        let rootfs = c.bundle.join("rootfs");
        std::fs::write(rootfs.join("plain"), "text").unwrap();
        std::fs::write(rootfs.join("bin/garbled"), "\u{7f}ELF not").unwrap();
        std::fs::write(rootfs.join("bin/orphan"), "#!/no/such/interpreter\n").unwrap();
        for name in ["bin/garbled", "bin/orphan"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(rootfs.join(name), mode).unwrap();
        }
        let run = |command: &str| c.minirun(&["--rootless", "--", command]);
        let missing = "cannot run \"foo\": executable file not found in $PATH";
        assert_refused(&run("foo"), 127, missing, "check the command's name");
        assert_refused(&run("/bin/foo"), 127, "no such file or directory", "path");
        assert_refused(&run("/plain/x"), 127, "cannot run \"/plain/x\"", "path");
        assert_refused(&run("/plain"), 126, "permission denied", "execute");
        assert_refused(&run("/bin"), 126, "permission denied", "execute");
        assert_refused(&run("garbled"), 126, "exec format error", "architecture");
        assert_refused(&run("orphan"), 127, "interpreter", "install");
        std::os::unix::fs::symlink("circle", rootfs.join("circle")).unwrap();
        assert_refused(&run("/circle"), 126, "too many symbolic links", "circle");
        // More than a message between the processes holds.
        assert_refused(&run(&"a/".repeat(60_000)), 126, "name too long", "4095 bytes");
        assert!(!c.state_dir().exists(), "the failed container's record is gone");
    }
}

/// A link in the image that leads out of it leads to its like inside the root: a mount lands there,
/// or fails when there is no such place; never outside.
#[test]
fn the_host_is_the_same_before_and_after() {
    for (is_inside, code) in [(true, 0), (false, 125)] {
        let c = Container::single();
        // Not below /dev, where TMPDIR may be: the container's own /dev covers the root's.
        let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
        let outside = elsewhere.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, c.bundle.join("rootfs/escape")).unwrap();
        if is_inside {
            let like = outside.strip_prefix("/").unwrap();
            std::fs::create_dir_all(c.bundle.join("rootfs").join(like)).unwrap();
            common::give(&c.bundle, &c.who);
        }
        c.configure(|config| {
            let tmpfs = serde_json::json!(
                {"destination": "/escape/made", "type": "tmpfs", "source": "t"});
            config["mounts"].as_array_mut().unwrap().push(tmpfs);
        });
        let inner = c.command(&["--rootless", "--", "grep", "-q", "/outside/made", "/proc/mounts"]);
        let mut command = Command::new("unshare");
        let script = "cat /proc/self/mountinfo >before; \"$@\"; code=$?; \
                      cat /proc/self/mountinfo >after; cmp before after && exit $code";
        command.args(["-m", "sh", "-c", script, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
        command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let done = Run::new(command).finish();
        done.assert_code(code);
        if code != 0 {
            assert_refused(&done, 125, "cannot mount on \"/escape/made\"", "");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{done}");
    }
}

#[test]
fn a_link_in_place_of_proc_sys_or_dev_leads_nowhere_else() {
    for (name, code) in [("proc", 125), ("sys", 125), ("dev", 0)] {
        let c = Container::single();
        let outside = c.bundle.parent().unwrap().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(c.bundle.join("rootfs/inside")).unwrap();
        let place = c.bundle.join("rootfs").join(name);
        let _ = std::fs::remove_dir_all(&place);
        symlink("/inside", &place).unwrap();
        let done = c.sh("exit 0");
        done.assert_code(code);
        if code != 0 {
            assert_refused(&done, 125, "ELOOP", "symbolic link");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(c.bundle.join("rootfs/inside")).unwrap().count(), 0, "{done}");
    }
}

#[test]
fn a_false_null_device_is_not_used_as_a_mask() {
    let c = Container::new(As::Root);
    let inner = c.command(&["--rootless", "--", "true"]);
    let fake = c.bundle.join("fake");
    std::fs::write(&fake, "x").unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind fake /dev/null && exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = Run::new(command).finish();
    assert_refused(&done, 125, "it is not device 1:3", "restore");
}

#[test]
fn a_container_in_a_container_sees_the_outer_proc_and_is_told_so() {
    let c = Container::single();
    let inner = common::bundle(&c.bundle.join("rootfs"), "inner", &c.who, None);
    assert!(inner.join("rootfs/bin").is_dir());
    std::fs::copy(testkit::programs::binary("minirun"), c.bundle.join("rootfs/bin/minirun"))
        .unwrap();
    let script = "cd /inner && minirun --rootless -- sh -c 'id -u; grep -c ^processor /proc/cpuinfo >/dev/null && exit 3'";
    // The usual profile lets nothing inside make namespaces.
    let done = c.sh(script);
    assert_refused(&done, 125, "cannot create the container's namespaces", "seccomp filter");
    let open = ["--rootless", "--security-opt", "seccomp=unconfined", "--", "sh", "-c", script];
    let done = c.minirun(&open);
    done.assert_code(3).assert_stdout("0\n");
    done.assert_stderr("the kernel allows no proc of its own here");
}

#[test]
fn a_machine_without_user_namespaces_is_named_with_the_remedy() {
    let c = Container::new(As::Root);
    let inner = c.command(&["--rootless", "--", "true"]);
    let mut command = Command::new("unshare");
    let script =
        "mount -t tmpfs run /run && echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    command.args(["-Urm", "sh", "-c", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = Run::new(command).finish();
    assert_refused(&done, 125, "ENOSPC", "sysctl -w user.max_user_namespaces=15000");
}

/// A helper is looked for in PATH, so where minirun runs in a container it may be the image's.
#[test]
fn a_helper_cannot_look_into_the_launcher() {
    let c = Container::new(As::User(testkit::user::TestUser::with_subids().isolated()));
    let record = common::record(c.who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let (helpers, seen) = (c.bundle.join("helpers"), c.bundle.join("seen"));
    std::fs::create_dir(&helpers).unwrap();
    let script = format!(
        "#!/bin/sh\n(cat /proc/$PPID/comm; readlink /proc/$PPID/exe) >{seen:?}\n\
         exec /usr/bin/newuidmap \"$@\"\n"
    );
    std::fs::write(helpers.join("newuidmap"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(helpers.join("newuidmap"), mode).unwrap();
    common::give(&c.bundle, &c.who);
    let mut command = c.command(&["--rootless", "--", "cat", "/proc/self/uid_map"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", helpers.display()));
    let done = Run::new(command).finish();
    done.assert_code(0);
    assert_eq!(done.stdout_text().lines().count(), 2, "{done}");
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "minirun\n", "{done}");
}

/// `wrapper` is a command line that ends by executing what follows it.
fn wrapped(c: &Container, wrapper: &[&str]) -> testkit::programs::Finished {
    let mut command = c.who.command(wrapper[0]);
    command.args(&wrapper[1..]).arg(testkit::programs::binary("minirun"));
    command.args(["--rootless", "--", "id", "-u"]).current_dir(&c.bundle);
    Run::new(command).finish()
}

#[test]
fn a_refusal_of_the_kernels_is_told_with_its_reason() {
    let c = Container::single();
    let done = wrapped(&c, &["prlimit", "--nproc=1"]);
    assert_refused(&done, 125, "EAGAIN", "as many processes as allowed");
    let c = Container::new(As::User(testkit::user::TestUser::with_subids().isolated()));
    let record = common::record(c.who.ownership(), serde_json::json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let done = wrapped(&c, &["setpriv", "--no-new-privs"]);
    assert_refused(&done, 125, "EPERM", "no_new_privs is set here");

    // In a chroot the kernel makes no user namespace.
    let root = c.bundle.parent().unwrap().join("root");
    std::fs::create_dir(&root).unwrap();
    let inner = c.command(&["--bundle", c.bundle.to_str().unwrap(), "--", "true"]);
    let mut command = Command::new("unshare");
    let script = "mount --rbind / \"$0\" && exec chroot \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", script]).arg(&root);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    assert_refused(&Run::new(command).finish(), 125, "EPERM", "in a chroot");
}

#[test]
fn root_of_a_users_own_namespace_is_that_user() {
    let c = Container::single();
    wrapped(&c, &["unshare", "-r"]).assert_code(0).assert_stdout("0\n");
    assert!(c.state_dir().parent().unwrap().is_dir(), "the records are the user's");
}

#[test]
fn a_place_that_cannot_be_had_is_told_with_a_hint() {
    let c = Container::single();
    let run = |args: &[&str]| c.minirun(&[&["--rootless"], args, &["--", "true"]].concat());
    assert_refused(&run(&["-w", "/bin/busybox/x"]), 125, "working directory", "choose another");
    assert_refused(&run(&["-v", "/tmp:/proc"]), 125, "it is not procfs", "mount elsewhere");
    assert_refused(&run(&["-v", "/tmp:/proc/self"]), 125, "outside /proc", "mount elsewhere");
}

#[test]
fn a_root_filesystem_that_is_not_there_is_named() {
    let c = Container::single();
    c.configure(|_| {});
    std::fs::rename(c.bundle.join("rootfs"), c.bundle.join("moved")).unwrap();
    let done = c.sh("true");
    assert_refused(&done, 125, "rootfs", "");
}

#[test]
fn kernel_parameters_of_own_namespaces_are_set() {
    let c = Container::single();
    c.configure(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(serde_json::json!({"type": "network"}));
        config["linux"]["sysctl"] =
            serde_json::json!({"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shmmni": "17"});
    });
    let files = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
    c.sh(files).assert_code(0).assert_stdout("81\n17\n");
}

#[test]
fn a_failed_start_takes_back_the_mount_points_that_it_made() {
    for c in Container::all() {
        let rootfs = c.bundle.join("rootfs");
        let listing = || {
            let mut names: Vec<_> = walk(&rootfs).into_iter().collect();
            names.sort();
            names
        };
        for name in ["proc", "sys", "dev"] {
            std::fs::remove_dir_all(rootfs.join(name)).unwrap();
        }
        let source = c.bundle.join("source");
        std::fs::write(&source, "x").unwrap();
        let before = listing();
        let volume = format!("{}:/new/deep/file", source.display());
        let run = |command: &str| c.minirun(&["-v", &volume, "-w", "/also/new", "--", command]);
        run("nosuch").assert_code(127);
        assert_eq!(listing(), before, "as {}", c.who.name());
        // Set-up itself fails, on a path below a file.
        let done = c.minirun(&["-v", &volume, "-w", "/bin/busybox/x", "--", "true"]);
        done.assert_code(125);
        assert_eq!(listing(), before, "as {}", c.who.name());
        // What somebody else is using stays, and what was there before.
        std::fs::create_dir_all(rootfs.join("new")).unwrap();
        common::give(&rootfs.join("new"), &c.who);
        let running = c.detach("while :; do sleep 0.05; done");
        let mut second =
            c.command(&["--name", &common::unique("second"), "-v", &volume, "--", "nosuch"]);
        second.current_dir(&c.bundle);
        Run::new(second).finish().assert_code(127);
        assert!(rootfs.join("proc").is_dir(), "as {}", c.who.name());
        drop(running);
        run("true").assert_code(0);
        assert!(rootfs.join("new/deep/file").is_file(), "a container that ran has been there");
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

#[test]
fn a_bundle_named_as_a_root_filesystem_is_told_apart() {
    let c = Container::single();
    let done = c.minirun(&["--rootless", c.bundle.to_str().unwrap()]);
    let hint = format!("minirun --bundle {}", c.bundle.display());
    assert_refused(&done, 127, "no such file or directory", &hint);
    let mut names: Vec<_> = std::fs::read_dir(&c.bundle).unwrap().collect();
    names.retain(|entry| entry.as_ref().is_ok_and(|e| e.file_name() != "rootfs"));
    assert!(names.is_empty(), "{names:?}");
}
