//! The config.json that minirun writes is any runtime's: Debian's runc and crun run it unchanged,
//! as root and as real users.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::path::Path;

use common::{As, bundle, read_json, tempdir};
use serde_json::json;

const SCRIPT: &str = "id -u; id -g; cat /proc/sys/kernel/hostname; pwd; echo $HOME $WORD; \
    ls /sys/class/net; touch /written && echo writable; grep CapEff /proc/self/status; exit 7";

/// Has minirun write the config.json; what the run itself does is other tests' matter.
fn write_config(who: &As, unified: bool, bundle: &Path) {
    let minirun = testkit::programs::binary("minirun");
    let name = common::unique("peers");
    who.run_on(unified, bundle, &minirun, &["--rootless", "--name", &name, "--", "/bin/true"]);
}

fn runtimes_run_it(image: impl Fn(&As) -> Option<serde_json::Value>, want: impl Fn(&As) -> String) {
    for who in As::all() {
        // crun refuses to do anything where both cgroup versions are mounted, as on some machines.
        for (runtime, unified) in [("runc", false), ("runc", true), ("crun", true)] {
            let case = format!("{runtime} unified={unified} {}", who.name());
            let dir = tempdir();
            let bundle = bundle(dir.path(), "pod", &who, image(&who));
            write_config(&who, unified, &bundle);
            let before = std::fs::read_to_string(bundle.join("config.json"))
                .unwrap_or_else(|e| panic!("{case}: {e}"));
            let state = bundle.join("state");
            // Unique beyond the state directory: root's crun names a cgroup by it, and kills
            // whatever is in there at the end.
            let id = common::unique("minirun-peers");
            let args = ["--root", state.to_str().unwrap(), "run", &id];
            let done = who.run_on(unified, &bundle, Path::new(runtime), &args);
            assert_eq!(done.code(), Some(7), "{case}\n{before}\n{}", done.stderr_text());
            assert_eq!(done.stdout_text(), want(&who), "{case}\n{}", done.stderr_text());
            let after = std::fs::read_to_string(bundle.join("config.json")).unwrap();
            assert_eq!(before, after, "{case}");
        }
    }
}

#[test]
fn an_images_command_as_root_inside() {
    let image = |_: &As| {
        Some(json!({
            "Cmd": ["/bin/sh", "-c", SCRIPT], "WorkingDir": "/var/www", "Env": ["WORD=hello"],
            "Labels": { "a": "b" },
        }))
    };
    runtimes_run_it(image, |_| {
        "0\n0\npod\n/var/www\n/root hello\nlo\nwritable\nCapEff:\t00000000a80425fb\n".into()
    });
}

#[test]
fn an_images_user() {
    // runc sets no supplementary groups for a caller without privileges.
    let groups = |who: &As| if who.ownership() == "root" { "1000 33" } else { "1000" };
    // With one id mapped there is no other user to be.
    let user = |who: &As| if who.ownership() == "single" { "0" } else { "user" };
    let image = move |who: &As| {
        Some(json!({
            "Entrypoint": ["/bin/sh", "-c", "id -u; id -G; echo $HOME; grep CapEff /proc/self/status; exit 7"],
            "User": user(who),
        }))
    };
    runtimes_run_it(image, move |who| match user(who) {
        "0" => "0\n0\n/root\nCapEff:\t00000000a80425fb\n".into(),
        _ => format!("1000\n{}\n/home/user\nCapEff:\t0000000000000000\n", groups(who)),
    });
}

#[test]
fn the_file_says_the_callers_ids() {
    for who in As::all() {
        let dir = tempdir();
        let bundle = bundle(dir.path(), "pod", &who, Some(json!({ "Cmd": ["true"] })));
        write_config(&who, false, &bundle);
        let config = read_json(&bundle.join("config.json"));
        let first = &config["linux"]["uidMappings"][0];
        let want = match &who {
            As::Root => json!({ "containerID": 0, "hostID": 0, "size": u32::MAX }),
            As::User(user) => json!({ "containerID": 0, "hostID": user.uid(), "size": 1 }),
        };
        assert_eq!(*first, want, "{}", who.name());
        let lines = config["linux"]["uidMappings"].as_array().unwrap().len();
        assert_eq!(lines, if who.ownership() == "subuid" { 2 } else { 1 }, "{}", who.name());
    }
}
