//! What hostile images and containers try, tried for real: the host stays as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::As;
use container::{Container, assert_refused, wait_until};
use serde_json::json;
use testkit::programs::{Run, binary};
use testkit::user::TestUser;

const IDLE: &str = "echo up; while :; do sleep 0.05; done";

/// Writes a program into the root filesystem.
fn program(c: &Container, name: &str, text: &str) {
    let path = c.bundle.join("rootfs").join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    common::give(&path, &c.who);
}

/// A minirun of the caller's own, which the container's root could change.
fn own_minirun(c: &Container) -> PathBuf {
    let copy = c.bundle.join("minirun");
    fs::copy(binary("minirun"), &copy).unwrap();
    fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    common::give(&copy, &c.who);
    copy
}

/// CVE-2019-5736: an image's program, or a script's interpreter, is the file that the launcher runs.
#[test]
fn the_hosts_binary_is_not_what_an_image_runs() {
    for c in Container::all() {
        let minirun = own_minirun(&c);
        let before = fs::metadata(&minirun).unwrap();
        symlink("/proc/self/exe", c.bundle.join("rootfs/link")).unwrap();
        symlink("/proc/thread-self/exe", c.bundle.join("rootfs/bin/named")).unwrap();
        program(&c, "script", "#!/proc/self/exe init -- /evil\n");
        program(&c, "second", "#! /script\n");
        program(&c, "linked", "#!/link\n");
        // What would run in the container beside a process that runs the host's file.
        program(&c, "evil", "#!/bin/sh\nchmod 4777 /proc/[0-9]*/exe; echo evil\n");
        for args in [
            &["/proc/self/exe", "init", "--", "/evil"][..],
            &["/link", "init", "--", "/evil"],
            &["named", "init", "--", "/evil"],
            &["/script"],
            &["/second"],
            &["/linked", "init", "--", "/evil"],
        ] {
            let mut command = c.who.command(&minirun);
            command.args(["--rootless", "--"]).args(args).current_dir(&c.bundle);
            let done = Run::new(command).finish();
            assert_refused(&done, 126, "leads to a file of the host's", "CVE-2019-5736");
        }
        let after = fs::metadata(&minirun).unwrap();
        assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
        // Scripts of the usual kind run.
        program(&c, "good", "#!/bin/sh\necho good\n");
        let mut command = c.who.command(&minirun);
        command.args(["--rootless", "--", "/good"]).current_dir(&c.bundle);
        Run::new(command).finish().assert_code(0).assert_stdout("good\n");
    }
}

/// CVE-2024-21626: a working directory that is a descriptor of the runtime's, leaked or not, by name
/// or by a link in the image.
#[test]
fn no_working_directory_lies_outside() {
    let c = Container::single();
    let leaking = |args: &[&str]| {
        let inner = c.command(args);
        let mut command = Command::new("sh");
        command.args(["-c", "exec 5</ 6</ 7</ 8</ 9</; exec \"$@\"", "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
        command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        Run::new(command).finish()
    };
    let running = c.detach(IDLE);
    wait_until("its start", || c.log() == "up\n");
    for fd in 3..12 {
        let link = c.bundle.join("rootfs/cwd");
        let _ = fs::remove_file(&link);
        symlink(format!("/proc/self/fd/{fd}"), &link).unwrap();
        for dir in [format!("/proc/self/fd/{fd}"), "/cwd".into(), format!("/proc/1/fd/{fd}/..")] {
            let name = common::unique("cwd");
            let run = leaking(&["--name", &name, "-w", &dir, "--", "ls", "-a", ".", "../.."]);
            assert_refused(&run, 125, "working directory", "choose another");
            let exec = leaking(&["exec", "-w", &dir, &c.name, "--", "ls", "-a", ".", "../.."]);
            assert_refused(&exec, 125, "working directory", "choose another");
        }
    }
    drop(running);
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2019-19921: places that are mounted on are exchanged for
/// links out of the root filesystem, and back, while containers start.
#[test]
fn a_race_for_the_mount_points_is_lost_by_the_image() {
    let c = Container::single();
    let rootfs = c.bundle.join("rootfs");
    let outside = c.bundle.join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::create_dir_all(c.bundle.join("volume")).unwrap();
    fs::create_dir(rootfs.join("data")).unwrap();
    for name in ["proc", "sys", "dev", "data"] {
        symlink(&outside, rootfs.join(format!("{name}.link"))).unwrap();
    }
    common::give(&c.bundle, &c.who);
    let volume = format!("{}:/data/made/here", c.bundle.join("volume").display());
    let script = "touch /data/made/here/mark; cat /proc/mounts >/dev/null; exit 7";
    let args = ["--rootless", "-v", &volume, "--", "/bin/sh", "-c", script];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in ["data", "proc", "sys", "dev"] {
                    let (place, link) = (rootfs.join(name), rootfs.join(format!("{name}.link")));
                    exchange(&place, &link);
                    std::thread::yield_now();
                    exchange(&place, &link);
                }
            }
        });
        for _ in 0..40 {
            let done = c.minirun(&args);
            assert!(matches!(done.code(), Some(7 | 125)), "{done}");
            let left = listing(&outside);
            assert_eq!(left, [outside.join("deep")], "{done}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(c.bundle.to_str().unwrap()), "{mounts}");
}

fn exchange(a: &Path, b: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names
}

/// Where the configuration mounts no /dev, the image's own is filled: through no link of its
/// (CVE-2025-31133, CVE-2025-52565, CVE-2026-41579).
#[test]
fn an_images_own_dev_leads_nowhere() {
    for (place, to) in [
        ("dev/null", "/precious"),
        ("dev/zero", "/precious"),
        ("dev/console", "/proc/sys/kernel/hostname"),
        ("dev/pts", "/proc/1"),
        ("dev", "/proc/1/root"),
        ("dev/shm", "/proc/self/cwd"),
    ] {
        let c = Container::single();
        c.configure(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/dev");
            config["process"]["terminal"] = true.into();
            config["root"]["readonly"] = false.into();
        });
        let rootfs = c.bundle.join("rootfs");
        fs::write(rootfs.join("precious"), "precious").unwrap();
        let link = rootfs.join(place);
        let _ = fs::remove_dir(&link);
        symlink(to, &link).unwrap();
        common::give(&rootfs, &c.who);
        let done = c.minirun(&["--rootless", "--tty", "--", "/bin/sh", "-c", "echo x >/dev/null"]);
        if done.code() == Some(125) {
            let text = done.stderr_text();
            assert_eq!(text.lines().count(), 2, "{done}");
        }
        assert_eq!(fs::read_to_string(rootfs.join("precious")).unwrap(), "precious", "{done}");
        assert_eq!(fs::metadata("/dev/null").unwrap().rdev(), 0x103, "{done}");
    }
}

/// The paths that the kernel's parameters are protected by may be links, or below links.
#[test]
fn masked_and_read_only_paths_stay_inside() {
    let c = Container::single();
    let outside = c.bundle.join("outside");
    fs::write(&outside, "outside").unwrap();
    c.configure(|config| {
        config["root"]["readonly"] = false.into();
        config["linux"]["maskedPaths"] = json!(["/mask", "/deep/mask", "/proc/kcore"]);
        config["linux"]["readonlyPaths"] = json!(["/ro", "/proc/sys"]);
    });
    let rootfs = c.bundle.join("rootfs");
    symlink(&outside, rootfs.join("mask")).unwrap();
    symlink("/../../../../../../../..", rootfs.join("deep")).unwrap();
    symlink(c.bundle.join("rootfs/../.."), rootfs.join("ro")).unwrap();
    let done = c.sh(
        "head -c1 /proc/kcore | wc -c; (: >/proc/sys/kernel/hostname) 2>/dev/null || echo kept",
    );
    done.assert_code(0).assert_stdout("0\nkept\n");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "outside");
    fs::write(&outside, "still written").unwrap();
}

/// CVE-2022-29162, crun CVE-2022-27650: inheritable capabilities of the caller's are not the
/// container's.
#[test]
fn no_capability_is_inherited() {
    let c = Container::new(As::Root);
    let caps = "grep -E '^Cap(Inh|Amb)' /proc/self/status | tr -d '\\t'";
    let none = "CapInh:0000000000000000\nCapAmb:0000000000000000\n";
    let with_all = |args: &[&str]| {
        let inner = c.command(args);
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=+chown,+dac_override,+sys_admin", "--"]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
        command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        Run::new(command).finish()
    };
    with_all(&["--rootless", "--", "sh", "-c", caps]).assert_code(0).assert_stdout(none);
    let running = c.detach(IDLE);
    with_all(&["exec", &c.name, "--", "sh", "-c", caps]).assert_code(0).assert_stdout(none);
    drop(running);
}

/// crun CVE-2026-30892, containerd CVE-2026-46680: numbers that are no ids never become 0, nor a name.
#[test]
fn ids_that_are_too_large_are_refused_wherever_they_stand() {
    let c = Container::single();
    let accounts = "root:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\n\
                    most:x:4294967295:0::/:/bin/sh\nneg:x:-1:0::/:/bin/sh\nhex:x:0x0:0::/:/bin/sh\n\
                    bigger:x:1:18446744073709551616::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n";
    fs::write(c.bundle.join("rootfs/etc/passwd"), accounts).unwrap();
    let image = Container::single();
    fs::write(image.bundle.join("rootfs/etc/passwd"), accounts).unwrap();
    let running = c.detach(IDLE);
    let refused = |done: &testkit::programs::Finished, user: &str| {
        done.assert_code(125);
        assert_eq!(done.stderr_text().lines().count(), 2, "{user}\n{done}");
        assert!(done.stdout.is_empty(), "{user}\n{done}");
    };
    for user in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "0:4294967296",
        "0:4294967295",
        "-1",
        "0x0",
        "+0",
        "0 ",
        "big",
        "most",
        "neg",
        "hex",
        "bigger",
    ] {
        let user_flag = format!("--user={user}");
        let name = common::unique("ids");
        refused(&c.minirun(&["--name", &name, &user_flag, "--", "id", "-u"]), user);
        refused(&c.minirun(&["exec", &user_flag, &c.name, "--", "id", "-u"]), user);
        let record =
            common::record(c.who.ownership(), json!({ "User": user, "Cmd": ["id", "-u"] }));
        fs::write(image.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
        refused(&image.minirun(&["--rootless"]), user);
    }
    drop(running);
}

/// Nothing an image contains or says is configuration: no hook, mount, capability or device.
#[test]
fn an_image_brings_neither_hooks_nor_mounts_nor_rights() {
    let c = Container::single();
    let mark = c.bundle.join("mark");
    let hook = json!([{ "path": "/bin/touch", "args": ["touch", mark] }]);
    let mounts = json!([{ "destination": "/stolen", "type": "bind", "source": "/etc", "options": ["bind"] }]);
    let config = json!({
        "ociVersion": "1.0.2", "root": { "path": "/" }, "process": { "args": ["sh"], "cwd": "/" },
        "hooks": { "prestart": hook, "createRuntime": hook, "poststop": hook }, "mounts": mounts,
    });
    for name in ["config.json", "rootfs/config.json"] {
        let path = c.bundle.join("rootfs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, config.to_string()).unwrap();
    }
    let mut record = common::record(
        c.who.ownership(),
        json!({
            "Cmd": ["/bin/sh", "-c", "ls /stolen /dev/mem /dev/sda; grep CapEff /proc/self/status"],
            "Env": ["LD_PRELOAD=/evil.so", "MINIRUN_HOOK=x", "no-variable", "=x"],
            "Volumes": { "/etc/../../..": {}, "/proc": {} },
            "WorkingDir": "../../../../../..",
            "ExposedPorts": { "99999/tcp": {}, "x": {} },
            "Labels": { "run.oci.hooks.stderr": mark, "minirun.generated": "x", "hooks": "x" },
            "Hooks": hook, "hooks": { "prestart": hook }, "Privileged": true,
            "HostConfig": { "Privileged": true, "Binds": ["/:/stolen"], "CapAdd": ["ALL"] },
        }),
    );
    record["hooks"] = json!({ "prestart": hook });
    record["mounts"] = mounts.clone();
    record["config"]["hooks"] = json!({ "prestart": hook });
    record["config"]["mounts"] = mounts;
    fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let rootfs = c.bundle.join("rootfs");
    for args in [&["--rootless"][..], &["--rootless", rootfs.to_str().unwrap()]] {
        let done = c.minirun(args);
        done.assert_code(0).assert_stdout("CapEff:\t00000000a80425fb\n");
        assert!(!mark.exists() && !rootfs.join("stolen").exists(), "{done}");
    }
    let run = |config: serde_json::Value| {
        let text = common::record(c.who.ownership(), config).to_string();
        fs::write(c.bundle.join("rootfs.image.json"), text).unwrap();
        c.minirun(&["--rootless"])
    };
    for config in [
        json!({ "Cmd": ["/bin/sh\u{0}x"] }),
        json!({ "Cmd": ["true"], "Env": ["A=\u{0}B"] }),
        json!({ "Cmd": ["true"], "User": "../../etc/passwd" }),
        json!({ "Cmd": ["true"], "User": "a:b:c" }),
        json!({ "Cmd": ["true"], "WorkingDir": "/bin/busybox" }),
        json!({ "Cmd": { "0": "sh" } }),
        json!({ "Cmd": [""] }),
        json!({ "Cmd": ["true"], "StopSignal": "SIGKILL; rm -rf /" }),
    ] {
        let done = run(config.clone());
        done.assert_code(125);
        assert_eq!(done.stderr_text().lines().count(), 2, "{config}\n{done}");
    }
}

/// CVE-2016-9962 and its like: whoever joins a container cannot be looked into before it is one of it.
#[test]
fn nothing_of_the_caller_is_seen_in_who_joins() {
    for c in Container::all() {
        let look = "echo up; while :; do for p in /proc/[0-9]*; do \
             grep -l the-callers[-]secret $p/environ $p/cmdline && echo caught; \
             case $(readlink $p/cwd) in ''|/|/proc*) ;; *) echo caught;; esac; \
             head -c1 $p/mem >/dev/null && echo caught; done; done 2>/dev/null";
        let running = c.detach(look);
        wait_until("its start", || c.log().contains("up\n"));
        for _ in 0..6 {
            let mut command = c.command(&["exec", &c.name, "--", "/bin/true"]);
            command.env("SECRET", "the-callers-secret");
            Run::new(command).finish().assert_code(0);
        }
        assert!(!c.log().contains("caught"), "as {}: {}", c.who.name(), c.log());
        drop(running);
    }
}

/// A container shares nothing with the host that it could reach by its own /proc.
#[test]
fn a_container_with_a_record_of_its_own_making_fools_nobody() {
    // The state directory is the caller's; what another user has put there is not believed.
    let c = Container::new(As::User(TestUser::with_subids().isolated()));
    let running = c.detach(IDLE);
    let state = c.state_dir().join("state.json");
    let mut record = common::read_json(&state);
    for (key, value) in [
        ("pid", json!(-1)),
        ("init", json!({ "pid": 1, "startTimeTicks": 0 })),
        ("main", json!({ "pid": -5, "startTimeTicks": 18446744073709551615_u64 })),
        ("monitor", json!({ "pid": 2147483647, "startTimeTicks": 1 })),
    ] {
        record[key] = value;
    }
    let before = fs::read_to_string(&state).unwrap();
    fs::write(&state, record.to_string()).unwrap();
    // Process 1 has another start time: it is none of the container's and gets no signal.
    assert_eq!(c.status(), "stopped");
    c.minirun(&["kill", &c.name, "KILL"]).assert_code(1);
    c.minirun(&["exec", &c.name, "--", "true"]).assert_code(1);
    fs::write(&state, before).unwrap();
    assert_eq!(c.status(), "running");
    drop(running);
}
