//! What is typed, against what happens: flags over bundles of every kind, whose config.json is
//! whose, and every bad input with its one line, its hint and its code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{As, bundle, give, record, tempdir, unique};
use serde_json::{Value, json};
use testkit::programs::{Finished, Run};
use testkit::tree::{Options, Tree, assert_same};
use testkit::user::TestUser;

fn sh(script: &str) -> Option<Value> {
    Some(json!({ "Cmd": ["/bin/sh", "-c", script] }))
}

fn user() -> As {
    As::User(TestUser::with_subids().isolated())
}

fn config_text(bundle: &Path) -> String {
    std::fs::read_to_string(bundle.join("config.json")).unwrap()
}

/// One line that says what failed, one hint, the code.
fn assert_refused(done: &Finished, code: i32, says: &str) {
    done.assert_code(code).assert_stderr(says);
    let text = done.stderr_text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("minirun: "), "{text}");
    assert!(lines[1].starts_with("hint: "), "{text}");
    assert_eq!(done.stdout_text(), "");
}

#[test]
fn flags_change_one_run_and_not_the_file() {
    for who in As::all() {
        let dir = tempdir();
        let print = "echo $0 $1 $A $B; pwd; cat /proc/sys/kernel/hostname; cat /home/f; \
                     touch /made || echo read-only; touch /home/g || echo no write";
        let name = unique("flags");
        let bundle = bundle(
            dir.path(),
            &name,
            &who,
            Some(json!({
                "Entrypoint": ["/bin/sh", "-c", print], "Cmd": ["zero", "one"],
                "Env": ["A=a", "B=b"],
            })),
        );
        std::fs::create_dir(bundle.join("extra")).unwrap();
        std::fs::write(bundle.join("extra/f"), "extra\n").unwrap();
        give(&bundle, &who);
        let run = |args: &[&str]| who.minirun(&bundle, args).assert_code(0).stdout_text();
        let volume = "./extra:/home:ro";
        assert_eq!(
            run(&["--rootless", "-v", "./extra:/home"]),
            format!("zero one a b\n/\n{name}\nextra\n")
        );
        let before = config_text(&bundle);
        let changed = run(&[
            "-e",
            "B=c",
            "-e",
            "NOT_SET_BY_ANYBODY",
            "-w",
            "/tmp",
            "--hostname",
            "other",
            "--read-only",
            "-v",
            volume,
            "--",
            "0",
            "1",
        ]);
        assert_eq!(changed, "0 1 a c\n/tmp\nother\nextra\nread-only\nno write\n");
        let other = unique("named");
        let named = run(&["--name", &other, "-v", volume, "-e", "A="]);
        assert_eq!(named, format!("zero one b\n/\n{other}\nextra\nno write\n"));
        assert_eq!(config_text(&bundle), before, "{}", who.name());
    }
}

#[test]
fn the_user_is_chosen_by_name_or_number() {
    for who in [As::Root, user()] {
        let dir = tempdir();
        let bundle =
            bundle(dir.path(), &unique("user"), &who, sh("echo $(id -u) $(id -g) $(id -G) $HOME"));
        let run = |args: &[&str]| who.minirun(&bundle, args).assert_code(0).stdout_text();
        assert_eq!(run(&[]), "0 0 0 /root\n");
        assert_eq!(run(&["-u", "user"]), "1000 1000 1000 33 /home/user\n");
        assert_eq!(run(&["-u", "1000"]), "1000 1000 1000 /home/user\n");
        assert_eq!(run(&["-u", "user:www"]), "1000 33 33 /home/user\n");
        assert_eq!(run(&["-u", "7:8"]), "7 8 8 /\n");
        assert_eq!(run(&["-u", "user", "-e", "HOME=/h"]), "1000 1000 1000 33 /h\n");
    }
}

#[test]
fn the_entrypoint_stays_unless_replaced() {
    let dir = tempdir();
    let who = user();
    let config = json!({ "Entrypoint": ["/bin/echo", "ep"], "Cmd": ["cmd"] });
    let bundle = bundle(dir.path(), "ep", &who, Some(config));
    let run = |args: &[&str]| who.minirun(&bundle, args).assert_code(0).stdout_text();
    assert_eq!(run(&[]), "ep cmd\n");
    assert_eq!(run(&["--", "a", "b"]), "ep a b\n");
    assert_eq!(run(&["--entrypoint", "/bin/echo", "--", "x"]), "x\n");
    assert_eq!(run(&["--entrypoint", "/bin/echo"]), "\n");
    assert_eq!(run(&["--entrypoint", "", "--", "/bin/echo", "y"]), "y\n");
}

#[test]
fn the_hosts_network_is_shared_when_asked_for() {
    for who in [As::Root, user()] {
        let dir = tempdir();
        let script = "readlink /proc/self/ns/net; ls /sys/class/net | wc -l";
        let bundle = bundle(dir.path(), &unique("net"), &who, sh(script));
        let host = std::fs::read_link("/proc/self/ns/net").unwrap();
        let shared = who.minirun(&bundle, &["--net", "host"]);
        let shared = shared.assert_code(0).stdout_text();
        assert!(shared.starts_with(host.to_str().unwrap()), "{shared}");
        for args in [&["--network=none"][..], &[]] {
            let own = who.minirun(&bundle, args).assert_code(0).stdout_text();
            assert!(!own.contains(host.to_str().unwrap()) && own.ends_with("\n1\n"), "{own}");
        }
        // Names are looked up as on the host, through files that cannot be changed from inside.
        let hosts = std::fs::read_to_string("/etc/hosts").expect("the host has an /etc/hosts");
        let inside = bundle.join("rootfs/etc/hosts");
        std::fs::write(&inside, "the image's\n").unwrap();
        let script = "cat /etc/hosts; echo x >> /etc/hosts || echo kept";
        let args = ["--net", "host", "--", "/bin/sh", "-c", script];
        let seen = who.minirun(&bundle, &args).assert_code(0).stdout_text();
        assert_eq!(seen, format!("{hosts}kept\n"));
        assert_eq!(std::fs::read_to_string(inside).unwrap(), "the image's\n");
    }
}

#[test]
fn an_untouched_config_follows_the_image_and_an_edited_one_stays() {
    let dir = tempdir();
    let who = user();
    let bundle = bundle(dir.path(), "pod", &who, sh("echo one"));
    let run = || who.minirun(&bundle, &[]).assert_code(0).stdout_text();
    assert_eq!(run(), "one\n");
    let first = config_text(&bundle);
    assert_eq!((run(), config_text(&bundle)), ("one\n".into(), first.clone()));

    let new = record(who.ownership(), sh("echo two").unwrap());
    std::fs::write(bundle.join("rootfs.image.json"), new.to_string()).unwrap();
    assert_eq!(run(), "two\n");
    let second = config_text(&bundle);
    assert_ne!(first, second, "generated anew");

    std::fs::write(bundle.join("config.json"), second.replace("echo two", "echo edited")).unwrap();
    let edited = config_text(&bundle);
    let new = record(who.ownership(), sh("echo three").unwrap());
    std::fs::write(bundle.join("rootfs.image.json"), new.to_string()).unwrap();
    assert_eq!((run(), config_text(&bundle)), ("edited\n".into(), edited));
    assert_eq!(who.minirun(&bundle, &["--", "/bin/echo", "typed"]).stdout_text(), "typed\n");
}

#[test]
fn a_foreign_config_is_used_as_it_is() {
    for who in As::all() {
        let dir = tempdir();
        let bundle = bundle(dir.path(), &unique("foreign"), &who, sh("echo image"));
        who.minirun(&bundle, &["spec", "--rootless"]).assert_success();
        let path = bundle.join("config.json");
        let text = config_text(&bundle)
            .replace("\"sh\"", "\"sh\", \"-c\", \"hostname; touch /x || exit 4\"");
        std::fs::write(&path, &text).unwrap();
        let done = who.minirun(&bundle, &[]);
        done.assert_code(4).assert_stdout("runc\n");
        assert_eq!(config_text(&bundle), text);
    }
}

#[test]
fn nothing_in_a_root_filesystem_is_read_as_configuration() {
    let dir = tempdir();
    let who = user();
    let bundle = bundle(dir.path(), "pod", &who, None);
    let rootfs = bundle.join("rootfs");
    for name in ["config.json", "image.json", "rootfs.image.json"] {
        std::fs::write(rootfs.join(name), "{\"hooks\": 5}").unwrap();
    }
    let tree = || Tree::of(dir.path(), &Options::default());
    let before = tree();
    let done = who.minirun(dir.path(), &["pod/rootfs", "--", "/bin/echo", "ran"]);
    done.assert_code(0).assert_stdout("ran\n");
    assert_same(&before, &tree());
}

#[test]
fn a_bundle_that_may_not_be_written_gets_one_note() {
    let dir = tempdir();
    let who = user();
    let bundle = bundle(dir.path(), "pod", &who, sh("echo ran"));
    std::fs::set_permissions(&bundle, std::fs::Permissions::from_mode(0o555)).unwrap();
    let done = who.minirun(&bundle, &[]);
    done.assert_code(0).assert_stdout("ran\n").assert_stderr("may not be written");
    assert_eq!(done.stderr_text().lines().count(), 1, "{}", done.stderr_text());
}

#[test]
fn a_path_is_no_subcommand() {
    let dir = tempdir();
    let who = user();
    let bundle = bundle(dir.path(), "pod", &who, None);
    std::fs::rename(bundle.join("rootfs"), bundle.join("list")).unwrap();
    who.minirun(&bundle, &["./list", "--", "/bin/echo", "ran"]).assert_stdout("ran\n");
    who.minirun(&bundle, &["list", "-q"]).assert_code(0).assert_stdout("");
    assert_refused(&who.minirun(&bundle, &["init"]), 125, "no command to run");
}

#[test]
fn bad_input_is_one_line_one_hint_and_125() {
    let dir = tempdir();
    let who = user();
    let plain = bundle(dir.path(), "pod", &who, None);
    let bare = bundle(dir.path(), "bare", &who, Some(json!({})));
    let refused = |at: &Path, args: &[&str], says: &str| {
        assert_refused(&who.minirun(at, args), 125, says);
    };
    refused(dir.path(), &[], "no root filesystem");
    refused(dir.path(), &["none"], "no root filesystem");
    refused(dir.path(), &["--bundle", "none"], "no bundle");
    refused(&bare, &[], "no command");
    assert!(!bare.join("config.json").exists());
    refused(&plain, &["-u", "nobodyelse"], "no user \"nobodyelse\"");
    refused(&plain, &["-u", "4294967296"], "invalid user");
    refused(&plain, &["-u", "300000"], "user 300000 is not mapped");
    refused(&plain, &["-v", "/none/such:/x"], "cannot show \"/none/such\" of the host");
    refused(&plain, &["-v", "data:/x"], "the source is no path");
    refused(&plain, &["-v", "/tmp:x"], "no absolute path");
    refused(&plain, &["-e", "=x"], "invalid environment variable");
    refused(&plain, &["-w", "tmp"], "invalid working directory");
    refused(&plain, &["--name", "a/b"], "invalid");
    refused(&plain, &["--hostname", &"x".repeat(65)], "invalid host name");
    refused(&plain, &["--net", "bridge"], "invalid value");
    refused(&plain, &["--nonsense"], "unexpected argument");
    refused(&plain, &["rootfs", "sh"], "unexpected argument");
    refused(&plain, &["rootfs", "--bundle", "."], "cannot be used with");
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"pod\xff"));
    std::fs::create_dir(&odd).unwrap();
    std::os::unix::fs::symlink(plain.join("rootfs"), odd.join("rootfs")).unwrap();
    refused(&odd, &[], "is not UTF-8");
    let other = As::User(TestUser::without_subids().isolated());
    let single = bundle(dir.path(), "single", &other, None);
    assert_refused(&other.minirun(&single, &["-u", "1"]), 125, "user 1 is not mapped");

    std::fs::write(plain.join("config.json"), "{").unwrap();
    refused(&plain, &[], "no runtime configuration");
    std::fs::write(plain.join("config.json"), "{\"ociVersion\": \"1.0.2\"}").unwrap();
    refused(&plain, &[], "names no root filesystem");
    std::fs::write(plain.join("rootfs.image.json"), "{").unwrap();
    std::fs::remove_file(plain.join("config.json")).unwrap();
    refused(&plain, &[], "damaged");
}

#[test]
fn help_and_version_are_data() {
    let dir = tempdir();
    let shown = |args: &[&str], what: &str| {
        let done = As::Root.minirun(dir.path(), args);
        assert!(
            done.assert_code(0).stdout_text().contains(what),
            "{args:?}: {}",
            done.stdout_text()
        );
        assert_eq!(done.stderr_text(), "", "{args:?}");
    };
    shown(&["--help"], "Exit codes:");
    shown(&["--help"], "--rootless");
    shown(&["--version"], "minirun ");
    for name in ["spec", "list", "state", "kill", "delete", "exec"] {
        shown(&[name, "--help"], "Usage:");
        let done = As::Root.minirun(dir.path(), &[name, "--nonsense"]);
        assert_refused(&done, 1, "unexpected argument");
    }
}

#[test]
fn an_image_whose_user_cannot_be_had_runs_as_another() {
    let dir = tempdir();
    let cases = [(user(), "nosuchuser"), (As::User(TestUser::without_subids().isolated()), "7")];
    for (who, image_user) in cases {
        let config = json!({ "Cmd": ["/bin/id", "-u"], "User": image_user });
        let bundle = bundle(dir.path(), image_user, &who, Some(config));
        assert_refused(&who.minirun(&bundle, &[]), 125, image_user);
        assert_eq!(who.minirun(&bundle, &["-u", "0"]).assert_code(0).stdout_text(), "0\n");
        assert!(!bundle.join("config.json").exists(), "it would run nowhere");
    }
}

#[test]
fn a_label_that_gives_orders_is_noted() {
    let dir = tempdir();
    let who = user();
    let config = json!({ "Cmd": ["true"], "Labels": { "run.oci.handler": "wasm" } });
    let bundle = bundle(dir.path(), "pod", &who, Some(config));
    who.minirun(&bundle, &[]).assert_code(0).assert_stderr("run.oci.handler");
    assert!(!config_text(&bundle).contains("run.oci"));
}

#[test]
fn on_a_terminal_the_command_has_one() {
    let dir = tempdir();
    let who = As::Root;
    let bundle = bundle(dir.path(), &unique("tty"), &who, sh("tty; echo $TERM"));
    let minirun = testkit::programs::binary("minirun");
    let on_terminal = |args: &str| {
        let mut command = who.command("script");
        let typed = format!("{} {args}", minirun.display());
        command.args(["-qefc", &typed, "/dev/null"]).current_dir(&bundle);
        let done = testkit::programs::Run::new(command).finish();
        done.assert_code(0).stdout_text()
    };
    let shown = on_terminal("");
    // script(1) types an end of file of its own, which may be echoed in between.
    assert!(shown.contains("/dev/pts/0\r\n") && shown.contains("xterm\r\n"), "{shown:?}");
    let before = config_text(&bundle);
    assert!(before.contains("\"terminal\": true"), "{before}");
    let shown = on_terminal("--tty=false");
    assert!(shown.contains("not a tty"), "{shown:?}");
    let piped = who.minirun(&bundle, &[]).assert_code(0).stdout_text();
    assert_eq!(piped, "not a tty\n\n");
    assert_eq!(config_text(&bundle), before, "a pipe does not change the file");
}

#[test]
fn the_ids_are_those_that_the_tree_was_unpacked_with() {
    let dir = tempdir();
    let user = TestUser::with_subids().isolated();
    let (start, _) = user.subuids().unwrap();
    let who = As::User(user);
    let bundle = bundle(dir.path(), "pod", &who, None);
    let record_file = bundle.join("rootfs.image.json");
    let lines = || {
        let done = who.minirun(&bundle, &["--", "/bin/cat", "/proc/self/uid_map"]);
        (done.assert_code(0).stdout_text().lines().count(), done.stderr_text())
    };
    assert_eq!(lines(), (1, String::new()), "no record, all the caller's");
    for (ownership, want) in [("single", 1), ("subuid", 2)] {
        std::fs::write(&record_file, record(ownership, json!({})).to_string()).unwrap();
        assert_eq!(lines(), (want, String::new()), "{ownership}");
    }
    std::fs::write(&record_file, record("root", json!({})).to_string()).unwrap();
    let (count, note) = lines();
    assert!(count == 1 && note.contains("unpacked by root"), "{note}");
    std::fs::remove_file(record_file).unwrap();
    std::os::unix::fs::chown(bundle.join("rootfs/home"), Some(start), None).unwrap();
    assert_eq!(lines(), (2, String::new()), "no record, a directory of a subordinate id's");
}

#[test]
fn ids_that_are_not_granted_are_refused() {
    let dir = tempdir();
    let who = As::User(TestUser::without_subids().isolated());
    let bundle = bundle(dir.path(), "pod", &who, None);
    let record_file = bundle.join("rootfs.image.json");
    std::fs::write(&record_file, record("subuid", json!({})).to_string()).unwrap();
    assert_refused(&who.minirun(&bundle, &["--", "true"]), 125, "subordinate ids");
    std::fs::remove_file(record_file).unwrap();
    As::Root.minirun(&bundle, &["spec", "--rootless"]).assert_success();
    assert_refused(&who.minirun(&bundle, &["--", "true"]), 125, "not the caller's");
}

/// A container in the background, gone when the test is, however it ends.
struct Background<'a> {
    who: &'a As,
    bundle: &'a Path,
    name: String,
}

impl<'a> Background<'a> {
    fn start(who: &'a As, bundle: &'a Path, word: &str) -> Self {
        let name = unique(word);
        let args = ["-d", "--name", &name, "--", "/bin/sleep", "1000"];
        let done = who.minirun(bundle, &args);
        done.assert_code(0).assert_stdout(&format!("{name}\n"));
        Self { who, bundle, name }
    }

    fn exec(&self, flags: &[&str], script: &str) -> Finished {
        let words = [&["exec"], flags, &[&self.name, "/bin/sh", "-c", script]].concat();
        self.who.minirun(self.bundle, &words)
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        self.who.minirun(self.bundle, &["delete", "--force", &self.name]);
    }
}

#[test]
fn exec_runs_as_who_and_with_what_is_asked_for() {
    let script = "echo $(id -u) $(id -G) $HOME $A; grep CapEff /proc/self/status; pwd";
    for who in [As::Root, user()] {
        let dir = tempdir();
        let bundle = bundle(dir.path(), "pod", &who, sh("true"));
        let container = Background::start(&who, &bundle, "exec");
        let run = |flags: &[&str]| container.exec(flags, script).assert_code(0).stdout_text();
        assert_eq!(run(&[]), "0 0 /root\nCapEff:\t00000000a80425fb\n/\n");
        let as_user = ["-u", "user", "-e", "A=b", "-w", "/tmp"];
        assert_eq!(run(&as_user), "1000 1000 33 /home/user b\nCapEff:\t0000000000000000\n/tmp\n");
        assert_refused(&container.exec(&["-u", "none"], "true"), 125, "no user \"none\"");
        assert_refused(&container.exec(&["-u", "0:x:y"], "true"), 125, "invalid user");
        container.exec(&[], "exit 9").assert_code(9);
    }
}

#[test]
fn a_name_in_use_is_an_error_that_names_it() {
    let dir = tempdir();
    let who = user();
    let bundle = bundle(dir.path(), "pod", &who, None);
    let container = Background::start(&who, &bundle, "busy");
    let again = who.minirun(&bundle, &["--name", &container.name, "--", "true"]);
    assert_refused(&again, 125, &container.name);
    assert!(again.stderr_text().contains("--name"), "{}", again.stderr_text());
    // One that has ended is in nobody's way.
    who.minirun(&bundle, &["kill", &container.name, "KILL"]).assert_code(0);
    let stopped = || who.minirun(&bundle, &["list"]).stdout_text().contains("stopped");
    while !stopped() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    who.minirun(&bundle, &["--name", &container.name, "--", "true"]).assert_code(0);
}

#[test]
fn a_volume_of_what_the_host_mounted_read_only_stays_so() {
    let dir = tempdir();
    let who = As::User(TestUser::without_subids().isolated());
    let bundle = bundle(dir.path(), "pod", &who, None);
    let mut inner = who.command(testkit::programs::binary("minirun"));
    inner.args(["--rootless", "-v", "./mnt:/mnt", "--", "sh", "-c"]).current_dir(&bundle);
    inner.arg("cat /mnt/file; (: >/mnt/made) 2>&1 | grep -o 'Read-only.*'");
    std::fs::create_dir(bundle.join("mnt")).unwrap();
    let mut command = std::process::Command::new("unshare");
    let script =
        "mount -t tmpfs t mnt && echo text >mnt/file && mount -o remount,ro mnt && exec \"$@\"";
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let done = Run::new(command).finish();
    done.assert_code(0).assert_stdout("text\nRead-only file system\n");
}
