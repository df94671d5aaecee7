//! Filters at work in real containers: what the kernel says to a call that one denies.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::path::Path;
use std::process::Command;

use common::{As, read_json};
use container::{Container, assert_refused};
use nix::libc;
use serde_json::{Value, json};
use testkit::programs::Finished;
use testkit::user::TestUser;

const EPERM: i64 = -1;
const ENOSYS: i64 = -38;

/// Flags and values of calls that the usual profile denies.
const CLONE_NEWUSER: i64 = 0x1000_0000;
const ADDR_NO_RANDOMIZE: i64 = 0x4_0000;

/// Puts a program into the root filesystem that makes calls as it is told.
fn add_caller(c: &Container) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/call.c");
    let program = c.bundle.join("rootfs/bin/call");
    let mut cc = Command::new("cc");
    let built = cc.args(["-static", "-O1", "-o"]).arg(&program).arg(source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    common::give(&program, &c.who);
}

/// What calls return in the container; of an error its negative number.
fn calls(c: &Container, options: &[&str], calls: &[String]) -> Vec<i64> {
    let words = options.iter().copied().chain(["--", "call"]);
    let args: Vec<&str> = words.chain(calls.iter().map(String::as_str)).collect();
    results(c.minirun(&args).assert_code(0))
}

fn results(done: &Finished) -> Vec<i64> {
    done.stdout_text().lines().map(|line| line.parse().unwrap()).collect()
}

fn call(number: libc::c_long, args: &[i64]) -> String {
    args.iter().fold(number.to_string(), |text, arg| format!("{text},{arg}"))
}

fn write_profile(c: &Container, profile: &Value) -> String {
    let path = c.bundle.join("profile.json");
    std::fs::write(&path, profile.to_string()).unwrap();
    common::give(&path, &c.who);
    "seccomp=profile.json".into()
}

/// Everything but `names`, which fail with EACCES: nothing else says that here.
fn all_but(names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EACCES }],
    })
}

#[test]
fn the_usual_profile_is_on_by_default() {
    for c in Container::all() {
        add_caller(&c);
        let family = |family| call(libc::SYS_socket, &[family, i64::from(libc::SOCK_DGRAM), 0]);
        let denied = [
            call(libc::SYS_add_key, &[]),
            call(libc::SYS_keyctl, &[]),
            call(libc::SYS_unshare, &[CLONE_NEWUSER]),
            call(libc::SYS_mount, &[]),
            call(libc::SYS_bpf, &[]),
            call(libc::SYS_clone, &[CLONE_NEWUSER | i64::from(libc::SIGCHLD)]),
            call(libc::SYS_personality, &[ADDR_NO_RANDOMIZE]),
            family(libc::AF_VSOCK.into()),
            family(libc::AF_ALG.into()),
        ];
        let absent = [call(libc::SYS_clone3, &[]), call(999, &[])];
        let allowed = [
            call(libc::SYS_getpid, &[]),
            call(libc::SYS_personality, &[0xffff_ffff]),
            family(libc::AF_UNIX.into()),
        ];
        let got = calls(&c, &[], &[&denied[..], &absent, &allowed].concat());
        let who = c.who.name();
        let (denials, rest) = got.split_at(denied.len());
        assert_eq!(denials, vec![EPERM; denied.len()], "{who}");
        assert_eq!(rest[..2], [ENOSYS; 2], "{who}");
        assert!(rest[2..].iter().all(|result| *result >= 0), "{rest:?} {who}");
        // With nothing to filter them, these do what they do.
        let open = ["--security-opt", "seccomp=unconfined"];
        let got = calls(&c, &open, &[denied[6].clone(), absent[0].clone()]);
        assert!(got[0] >= 0 && got[1] != ENOSYS, "{got:?} {who}");
    }
}

/// The 32-bit entry and x32's numbers are not a way around.
#[test]
#[cfg(target_arch = "x86_64")]
fn other_entries_are_governed_too() {
    let c = Container::single();
    add_caller(&c);
    // add_key, keyctl, personality (linux/unistd_32.h); add_key of x32.
    let words = ["int80:286", "int80:288", "int80:136,0x40000", "x32:248"].map(String::from);
    assert_eq!(calls(&c, &[], &words), [EPERM; 4]);
    // getpid, and personality with a value that is allowed.
    let allowed = calls(&c, &[], &["int80:20".into(), "int80:136,0xffffffff".into()]);
    assert!(allowed[0] > 0 && allowed[1] >= 0, "{allowed:?}");
    let open = calls(&c, &["--security-opt", "seccomp=unconfined"], &["int80:136,0x40000".into()]);
    assert!(open[0] >= 0, "{open:?}");
}

/// Without no_new_privs a filter has to go on while there are rights left to do so. Nothing that
/// sets a container up may be in its way all the same.
#[test]
fn a_profile_need_not_allow_what_the_set_up_does() {
    let set_up = [
        "setuid",
        "setresuid",
        "setgroups",
        "setresgid",
        "prctl",
        "chdir",
        "mount",
        "umount2",
        "pivot_root",
        "setsid",
        "close_range",
        "unshare",
        "clone3",
        "getcwd",
        "sethostname",
    ];
    let c = Container::new(As::User(TestUser::with_subids().isolated()));
    add_caller(&c);
    let [_, who, _] = As::all();
    let record = common::record(who.ownership(), json!({}));
    std::fs::write(c.bundle.join("rootfs.image.json"), record.to_string()).unwrap();
    let option = write_profile(&c, &all_but(&set_up));
    let denied =
        [call(libc::SYS_setuid, &[0]), call(libc::SYS_prctl, &[]), call(libc::SYS_chdir, &[])];
    for user in ["0", "1000:1000"] {
        for privileges in ["no-new-privileges=false", "no-new-privileges"] {
            let options = ["--security-opt", &option, "--security-opt", privileges, "-u", user];
            let got = calls(&c, &options, &denied);
            assert_eq!(got, [-i64::from(libc::EACCES); 3], "{user} {privileges}");
        }
    }
}

#[test]
fn what_keeps_a_command_from_running_is_named() {
    let c = Container::single();
    let option = write_profile(&c, &all_but(&["capset"]));
    let options = ["--security-opt", &option, "--", "true"];
    let done = c.minirun(&options);
    assert_refused(&done, 125, "cannot set capabilities: capset", "must allow capset");
    c.minirun(&[&["--security-opt", "no-new-privileges"][..], &options].concat()).assert_code(0);
    let option = write_profile(&c, &all_but(&["execve"]));
    let done = c.minirun(&["--security-opt", &option, "--", "true"]);
    done.assert_code(126).assert_stderr("permission denied");
    let option = write_profile(
        &c,
        &json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["sched_yield"], "action": "SCMP_ACT_KILL_PROCESS" }],
        }),
    );
    add_caller(&c);
    let yields = call(libc::SYS_sched_yield, &[]);
    c.minirun(&["--security-opt", &option, "--", "call", &yields]).assert_code(128 + libc::SIGSYS);
}

#[test]
fn capabilities_and_the_machine_decide_what_of_a_file_is_in_force() {
    let c = Container::single();
    add_caller(&c);
    let only = |condition: &str, value: Value, name: &str, errno: i32| json!({ condition: value, "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno });
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        only("includes", json!({"caps": ["CAP_CHOWN"]}), "getuid", 70),
        only("includes", json!({"caps": ["CAP_SYS_ADMIN"]}), "geteuid", 71),
        only("excludes", json!({"caps": ["CAP_CHOWN"]}), "getgid", 72),
        only("includes", json!({"arches": [own]}), "getegid", 73),
        only("includes", json!({"minKernel": "4.8"}), "getppid", 74),
        only("includes", json!({"minKernel": "99.0"}), "getpid", 75),
    ]});
    let option = write_profile(&c, &profile);
    let numbers = [
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getppid,
        libc::SYS_getpid,
    ];
    let got = calls(&c, &["--security-opt", &option], &numbers.map(|number| call(number, &[])));
    assert_eq!(got[..5], [-70, 0, 0, -73, -74]);
    assert!(got[5] > 0, "{got:?}");
}

/// Podman's own profile file, as Debian installs it.
#[test]
fn podmans_profile_runs() {
    let path = "/usr/share/containers/seccomp.json";
    assert!(Path::new(path).exists(), "{path} comes with podman (scripts/test-deps)");
    let c = Container::single();
    add_caller(&c);
    let words = [call(libc::SYS_getpid, &[]), call(libc::SYS_kexec_load, &[]), call(999, &[])];
    let got = calls(&c, &["--security-opt", &format!("seccomp={path}")], &words);
    assert!(got[0] > 0 && got[1..] == [EPERM, ENOSYS], "{got:?}");
}

#[test]
fn one_more_process_has_the_same_filter() {
    let c = Container::single();
    add_caller(&c);
    let words = [call(libc::SYS_add_key, &[]), call(libc::SYS_clone3, &[])];
    let exec = |words: &[String]| {
        let args = ["exec", &c.name, "call"].into_iter();
        let args: Vec<&str> = args.chain(words.iter().map(String::as_str)).collect();
        results(c.minirun(&args).assert_code(0))
    };
    let running = c.detach("exec sleep 1000");
    assert_eq!(exec(&words), [EPERM, ENOSYS]);
    drop(running);
    let option = write_profile(&c, &all_but(&["getpid", "setresuid"]));
    let args = ["-d", "--security-opt", &option, "--", "sleep", "1000"];
    c.minirun(&args).assert_code(0);
    let running = container::Detached(&c);
    let got = exec(&[call(libc::SYS_getpid, &[]), call(libc::SYS_setresuid, &[0, 0, 0])]);
    assert_eq!(got, [-i64::from(libc::EACCES); 2]);
    drop(running);
}

#[test]
fn the_bundles_configuration_has_the_profile_written_out() {
    let c = Container::single();
    let done = c.minirun(&["--", "grep", "^Seccomp:", "/proc/self/status"]);
    done.assert_code(0).assert_stdout("Seccomp:\t2\n");
    let path = c.bundle.join("config.json");
    let config = read_json(&path);
    let profile = &config["linux"]["seccomp"];
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let names = profile["syscalls"][0]["names"].as_array().unwrap();
    assert!(names.iter().any(|name| name == "read") && names.iter().all(|name| name != "mount"));
    assert_eq!(config["annotations"]["minirun.seccomp"], Value::Null);
    // It is still minirun's own, and left as it is.
    let before = std::fs::metadata(&path).unwrap();
    c.minirun(&["--", "true"]).assert_code(0);
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    // What somebody makes of it counts: no filter, or another one.
    let mut edited = config.clone();
    edited["linux"].as_object_mut().unwrap().remove("seccomp");
    std::fs::write(&path, edited.to_string()).unwrap();
    c.minirun(&["--", "grep", "^Seccomp:", "/proc/self/status"]).assert_stdout("Seccomp:\t0\n");
    edited["linux"]["seccomp"] = all_but(&["getpid"]);
    std::fs::write(&path, edited.to_string()).unwrap();
    add_caller(&c);
    assert_eq!(calls(&c, &[], &[call(libc::SYS_getpid, &[])]), [-i64::from(libc::EACCES)]);
    // A flag says otherwise for one run.
    assert!(
        calls(&c, &["--security-opt=seccomp:unconfined"], &[call(libc::SYS_getpid, &[])])[0] > 0
    );
    let got = calls(&c, &["--security-opt=seccomp=builtin"], &[call(libc::SYS_add_key, &[])]);
    assert_eq!(got, [EPERM]);
}

#[test]
fn no_new_privileges_is_set_and_unset() {
    let c = Container::single();
    let grep = ["--", "grep", "^NoNewPrivs:", "/proc/self/status"];
    for (option, want) in
        [("no-new-privileges", 1), ("no-new-privileges:true", 1), ("no-new-privileges=false", 0)]
    {
        let done = c.minirun(&[&["--security-opt", option][..], &grep].concat());
        done.assert_code(0).assert_stdout(&format!("NoNewPrivs:\t{want}\n"));
    }
    c.minirun(&grep).assert_stdout("NoNewPrivs:\t0\n");
}

#[test]
fn what_is_no_option_or_profile_is_refused() {
    let c = Container::single();
    let refused = |option: &str, says: &str, hint: &str| {
        let done = c.minirun(&["--security-opt", option, "--", "true"]);
        assert_refused(&done, 125, says, hint);
    };
    refused("nonsense=1", "invalid --security-opt \"nonsense=1\"", "seccomp=FILE");
    refused("label=disable", "minirun sets no SELinux labels", "leave it out");
    refused("apparmor=x", "minirun sets no AppArmor profiles", "leave it out");
    refused("seccomp=nowhere.json", "cannot read the seccomp profile", "file on the host");
    refused("seccomp=/dev/zero", "larger than 1048576 bytes", "file on the host");
    refused("seccomp=.", "cannot read the seccomp profile", "file on the host");
    let with = |profile: Value, says: &str, hint: &str| {
        refused(&write_profile(&c, &profile), says, hint);
    };
    with(json!({}), "it is no seccomp profile: missing field", "docker's form");
    let rule = |rule: Value| json!({ "defaultAction": "SCMP_ACT_KILL", "syscalls": [rule] });
    with(
        rule(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" })),
        "config asks for SCMP_ACT_NOTIFY in linux.seccomp",
        "unconfined",
    );
    with(
        rule(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1 })),
        "has an errnoRet for SCMP_ACT_ALLOW",
        "correct",
    );
    let arg = json!({ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" });
    with(
        rule(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg] })),
        "invalid argument index for read: got 6",
        "correct",
    );
    let many: Vec<Value> = (0..5000)
        .map(|n| {
            json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 2, "value": 3 * n, "op": "SCMP_CMP_EQ" }] })
        })
        .collect();
    with(
        json!({ "defaultAction": "SCMP_ACT_KILL", "syscalls": many }),
        "the kernel takes 4096 instructions",
        "fewer rules",
    );
}
