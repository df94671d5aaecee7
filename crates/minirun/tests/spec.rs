//! `minirun spec` against Debian's runc: the same bytes, for root and for real users, on the host
//! as it is and on one with the unified cgroup hierarchy.

mod common;

use std::path::Path;
use std::process::Command;

use common::{As, give, read_json, tempdir};
use testkit::programs::{Run, binary};

/// Runs `program` with `args` in `dir`, in a mount namespace that shows a pure cgroup v2 host when
/// asked for.
fn run_in(who: &As, unified: bool, dir: &Path, program: &Path, args: &[&str]) {
    let inner = {
        let mut command = who.command(program);
        command.args(args).current_dir(dir);
        command
    };
    let command = if unified { on_unified_host(&inner) } else { inner };
    Run::new(command).finish().assert_success();
}

fn on_unified_host(inner: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["-m", "sh", "-c", "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"", "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    inner.get_current_dir().map(|dir| outer.current_dir(dir));
    // A user's command has a cleared environment; what it sets is all that it needs.
    outer.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    outer
}

#[test]
fn writes_what_runc_writes() {
    for who in As::all() {
        for unified in [false, true] {
            for rootless in [&["spec"][..], &["spec", "--rootless"]] {
                let dir = tempdir();
                let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
                for side in [&ours, &theirs] {
                    std::fs::create_dir(side).unwrap();
                    give(side, &who);
                }
                run_in(&who, unified, &ours, &binary("minirun"), rootless);
                run_in(&who, unified, &theirs, Path::new("runc"), rootless);
                let case = format!("{} unified={unified} {rootless:?}", who.name());
                let [ours, theirs] = [ours, theirs].map(|side| side.join("config.json"));
                assert_eq!(read_json(&ours), read_json(&theirs), "{case}");
                let [ours, theirs] =
                    [ours, theirs].map(|file| std::fs::read_to_string(file).unwrap());
                assert_eq!(ours, theirs, "{case}: the text differs");
                assert_eq!(
                    ours.contains("\"cgroup\"\n"),
                    unified || ours.contains("type\": \"cgroup\",\n")
                );
            }
        }
    }
}

#[test]
fn the_bundle_is_named_and_an_existing_config_is_left() {
    let dir = tempdir();
    let bundle = dir.path().join("b");
    std::fs::create_dir(&bundle).unwrap();
    for flag in ["-b", "--bundle"] {
        let done = As::Root.minirun(dir.path(), &["spec", "--rootless", flag, "b"]);
        done.assert_success();
        let path = bundle.join("config.json");
        let before = std::fs::read(&path).unwrap();
        let again = As::Root.minirun(dir.path(), &["spec", flag, "b"]);
        again.assert_code(1).assert_stderr("config.json\\\" exists");
        assert_eq!(again.stderr_text().lines().count(), 2, "{}", again.stderr_text());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(path).unwrap();
    }
    As::Root.minirun(dir.path(), &["spec", "-b", "none"]).assert_code(1);
    As::Root.minirun(dir.path(), &["spec", "--nonsense"]).assert_code(1);
}
