//! Mounts as they are typed, `--read-only`, an image's volumes, and `--dry-run`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;
mod mounted;

use common::{As, give, record};
use container::{Container, assert_refused};
use mounted::after_mounting;
use serde_json::{Value, json};
use testkit::programs::Finished;
use testkit::tree::{Options, Tree, assert_same};

/// The container with `src/`, which has a file `f`, and a plain file `one` in its bundle.
fn with_source(c: Container) -> Container {
    std::fs::create_dir_all(c.bundle.join("src/sub")).unwrap();
    std::fs::write(c.bundle.join("src/f"), "f\n").unwrap();
    std::fs::write(c.bundle.join("one"), "one\n").unwrap();
    give(&c.bundle, &c.who);
    c
}

fn with_image(c: Container, config: Value) -> Container {
    let text = record(c.who.ownership(), config).to_string();
    std::fs::write(c.bundle.join("rootfs.image.json"), text).unwrap();
    c
}

fn run(c: &Container, options: &[&str], script: &str) -> Finished {
    c.minirun(&[options, &["--", "/bin/sh", "-c", script]].concat())
}

#[test]
fn every_kind_of_mount_is_there_as_asked_for() {
    for c in Container::all().map(with_source) {
        let options = [
            "-v",
            "./src:/a:ro,nosuid",
            "-v",
            "./one:/etc/one",
            "--mount",
            "type=bind,src=./src,dst=/deep/b,bind-nonrecursive=true",
            "--mount",
            "type=tmpfs,target=/t2,tmpfs-size=2m,tmpfs-mode=0711,ro",
            "--tmpfs",
            "/t1:size=1m,exec",
            "--tmpfs",
            "/deep",
            "--shm-size",
            "3m",
            "--device",
            "/dev/zero:/dev/nought",
        ];
        let script = "cat /a/f /etc/one; touch /a/x || touch /deep/b/written; \
            for p in /a /deep /deep/b /t1 /t2 /dev/shm; do grep \" $p \" /proc/mounts; done | \
                cut -d' ' -f2- | sed 's/,[ug]id=[0-9]*//g; s/,inode64//'; \
            stat -c %a /t1 /t2; head -c 2 /dev/nought | wc -c; df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2";
        let done = run(&c, &options, script);
        let text = done.assert_code(0).assert_stderr("Read-only file system").stdout_text();
        let mut lines = text.lines();
        assert_eq!((lines.next(), lines.next()), (Some("f"), Some("one")), "{done}");
        for (place, with, without) in [
            ("/a ", &["ro,", "nosuid"][..], "noexec"),
            ("/deep ", &["tmpfs rw", "nosuid", "nodev", "noexec"], "size="),
            ("/deep/b ", &["rw"], "tmpfs"),
            ("/t1 ", &["tmpfs rw", "nosuid", "nodev", "size=1024k"], "noexec"),
            ("/t2 ", &["tmpfs ro", "noexec", "size=2048k", "mode=711"], "exec,rw"),
            ("/dev/shm ", &["tmpfs rw", "noexec", "size=3072k"], "64"),
        ] {
            let line = lines.next().unwrap_or_else(|| panic!("no {place}\n{done}"));
            let fits = with.iter().all(|word| line.contains(word)) && !line.contains(without);
            assert!(line.starts_with(place) && fits, "{place}: {line}\n{done}");
        }
        assert_eq!(lines.collect::<Vec<_>>(), ["1777", "711", "2", "3072"], "{done}");
        assert!(c.bundle.join("src/written").exists() && !c.bundle.join("src/x").exists());
    }
}

#[test]
fn what_is_mounted_below_a_source_is_read_only_too() {
    let c = with_source(Container::single());
    let below = "mount -t tmpfs -o mode=1777 t src/sub";
    let write = |option: &str, value: &str| {
        let script = "touch /a/sub/x && echo written || echo kept";
        let args = [option, value, "--", "/bin/sh", "-c", script];
        after_mounting(&c, below, &args)
    };
    write("-v", "./src:/a").assert_code(0).assert_stdout("written\n");
    write("-v", "./src:/a:ro").assert_code(0).assert_stdout("kept\n");
    let long = "type=bind,src=./src,dst=/a,ro";
    write("--mount", long).assert_code(0).assert_stdout("kept\n");
    write("--mount", &format!("{long},bind-recursive=writable")).assert_stdout("written\n");
    let alone = write("--mount", &format!("{long},bind-nonrecursive"));
    assert_refused(&alone, 125, "cannot bind", "something is mounted below");
}

#[test]
fn what_the_host_has_locked_stays_so_and_is_told() {
    let c = with_source(Container::single());
    let locked = "mount --bind src src && mount -o remount,bind,noexec,ro src";
    let bind = |options: &str| {
        let volume = format!("./src:/a{options}");
        after_mounting(&c, locked, &["-v", &volume, "--", "cat", "/a/f"])
    };
    bind("").assert_code(0).assert_stdout("f\n");
    bind(":rw").assert_code(0).assert_stdout("f\n");
    assert_refused(&bind(":exec"), 125, "cannot bind", "the host has mounted it with");
}

#[test]
fn a_read_only_root_has_scratch_space_when_asked_for() {
    for c in Container::all() {
        let script = "for d in / /tmp /run /var/tmp /dev/shm; do touch $d/x 2>/dev/null && echo $d; done; true";
        run(&c, &["--read-only"], script).assert_code(0).assert_stdout("/dev/shm\n");
        let scratch = ["--read-only", "--read-only-tmpfs", "--tmpfs", "/tmp:ro"];
        run(&c, &scratch, script).assert_code(0).assert_stdout("/run\n/var/tmp\n/dev/shm\n");
    }
}

#[test]
fn an_images_volumes_are_directories_or_in_memory() {
    for c in Container::all() {
        let config = json!({ "Cmd": ["true"], "Volumes": { "/data": {}, "/tmp/v": {}, "../x": {}, "/": {} } });
        let c = with_image(with_source(c), config);
        let script = "for d in /data /tmp/v; do grep -q \"tmpfs $d tmpfs\" /proc/mounts && touch $d/x && echo $d; done; true";
        let plain = run(&c, &[], script);
        plain.assert_code(0).assert_stdout("");
        assert_eq!(plain.stderr_text(), "");
        let tmpfs = ["--image-volume", "tmpfs", "--read-only", "-v", "./src:/tmp/v"];
        let done = run(&c, &tmpfs, script);
        done.assert_code(0).assert_stdout("/data\n");
        assert_eq!(done.stderr_text(), "");
        let note = run(&c, &["--read-only", "-v", "./src:/data"], "true");
        note.assert_code(0).assert_stderr("the image's volume \"/tmp/v\" may not be written");
        assert_eq!(note.stderr_text().lines().count(), 1, "{note}");
    }
}

#[test]
fn a_working_directory_is_made() {
    let c = Container::single();
    run(&c, &["-w", "/made/here"], "pwd; stat -c %a:%u .").assert_stdout("/made/here\n755:0\n");
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    for c in Container::all().map(with_source) {
        let everything = || Tree::of(c.bundle.parent().unwrap(), &Options::default());
        let before = everything();
        let options = [
            "--dry-run",
            "-v",
            "./src:/a:ro",
            "--ephemeral=1m",
            "--cap-drop",
            "all",
            "-e",
            "A=b",
            "--ulimit",
            "core=0",
            "--umask",
            "077",
            "--sysctl",
            "net.ipv4.ip_forward=1",
        ];
        let script = "echo $A; umask; ulimit -c; ls /a; cat /proc/sys/net/ipv4/ip_forward; \
            grep CapEff /proc/self/status";
        for target in [&["-b", "."][..], &["./rootfs"]] {
            let done = run(&c, &[&options[..], target].concat(), script);
            let said: Value = serde_json::from_slice(&done.assert_code(0).stdout).unwrap();
            assert_eq!(done.stderr_text(), "");
            assert_eq!(said["annotations"], json!({ "minirun.ephemeral": "1048576" }));
            assert_eq!(said["process"]["args"], json!(["/bin/sh", "-c", script]));
            assert_eq!(said["linux"]["sysctl"], json!({ "net.ipv4.ip_forward": "1" }));
            let bind = said["mounts"].as_array().unwrap().last().unwrap();
            let source = c.bundle.join("src");
            assert_eq!(
                *bind,
                json!({
                    "destination": "/a", "type": "bind", "source": source, "options": ["rbind", "rprivate", "rro"],
                })
            );
        }
        assert_same(&before, &everything());
        assert!(!c.state_dir().exists());

        // What was said is what runs: also when it is a bundle's own.
        let said = run(&c, &options, script).stdout_text();
        let direct = run(&c, &options[1..], script);
        direct.assert_code(0).assert_stdout("b\n0077\n0\nf\nsub\n1\nCapEff:\t0000000000000000\n");
        std::fs::write(c.bundle.join("config.json"), said).unwrap();
        c.minirun(&[]).assert_code(0).assert_stdout(&direct.stdout_text());
    }
}

#[test]
fn a_dry_run_refuses_what_a_run_would() {
    let c = Container::single();
    let dry = |options: &[&str]| run(&c, &[&["--dry-run"], options].concat(), "true");
    assert_refused(&dry(&["-u", "5"]), 125, "user 5 is not mapped", "");
    assert_refused(&dry(&["--sysctl", "vm.swappiness=1"]), 125, "linux.sysctl", "are the host's");
    assert_refused(&dry(&["-v", "/none:/x"]), 125, "of the host: No such file", "make it first");
    assert!(!c.bundle.join("config.json").exists());
}

#[test]
fn a_bad_mount_is_one_line_one_hint_and_125() {
    let c = with_source(Container::single());
    for (options, says, hint) in [
        (&["-v", "/data"][..], "invalid volume \"/data\"", "--tmpfs /data"),
        (&["-v", "./src:/a:U"], "would change owners", "-v ./src:/src:ro"),
        (&["-v", "./none:/a"], "of the host: No such file", "make it first"),
        (&["--mount", "type=volume,src=v,dst=/a"], "keeps no volumes", "type=bind"),
        (&["--mount", "type=bind,src=./none,dst=/a"], "of the host: No such file", "make it first"),
        (&["--tmpfs", "/t:tmpcopyup"], "unknown option or value \"tmpcopyup\"", "--tmpfs /tmp"),
        (&["--tmpfs", "/t:uid=7"], "cannot mount tmpfs on \"/t\"", "must be an id that"),
        (&["--tmpfs", "/proc"], "on /proc", "mount elsewhere"),
        (&["--device", "./one"], "no absolute path", "--device /dev/fuse"),
        (&["--device", "/etc/passwd"], "it is no device", "use -v"),
        (&["--device", "/dev/none"], "of the host: No such file", "make it first"),
        (&["--device", "/dev/zero:/dev/z:r"], "cannot be enforced", "leave it out"),
        (&["--shm-size", "0"], "invalid shm-size", "256m"),
        (&["-v", "./src:/a", "--tmpfs", "/a/"], "two mounts", "leave one"),
        (&["--ephemeral=0"], "invalid ephemeral", "--ephemeral=512m"),
    ] {
        assert_refused(&run(&c, options, "true"), 125, says, hint);
    }
    assert!(!c.state_dir().exists());
}

#[test]
fn a_mount_takes_the_place_of_a_usual_one() {
    for c in [Container::new(As::Root), Container::single()] {
        let c = with_source(c);
        let script = "grep -c ' /dev/shm ' /proc/mounts; cat /dev/shm/f";
        run(&c, &["-v", "./src:/dev/shm"], script).assert_code(0).assert_stdout("1\nf\n");
        // The host's /dev comes with all that it has, and nothing of the container's is put over it.
        let host = std::fs::read_to_string("/proc/mounts").unwrap();
        let want = host.lines().filter(|line| line.contains(" /dev/")).count();
        let script = "echo x >/dev/null && grep -c ' /dev/' /proc/mounts; true";
        run(&c, &["-v", "/dev:/dev"], script).assert_stdout(&format!("{want}\n"));
    }
}
