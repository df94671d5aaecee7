//! `minirun spec` against Debian's runc: the same bytes, for root and for real users, on the host
//! as it is and on one with the unified cgroup hierarchy.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::path::Path;

use common::{As, give, read_json, tempdir};
use testkit::programs::binary;

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
                who.run_on(unified, &ours, &binary("minirun"), rootless).assert_success();
                who.run_on(unified, &theirs, Path::new("runc"), rootless).assert_success();
                let case = format!("{} unified={unified} {rootless:?}", who.name());
                let [ours, theirs] = [ours, theirs].map(|side| side.join("config.json"));
                let config = read_json(&ours);
                assert_eq!(config, read_json(&theirs), "{case}");
                let [ours, theirs] =
                    [ours, theirs].map(|file| std::fs::read_to_string(file).unwrap());
                assert_eq!(ours, theirs, "{case}: the text differs");
                let named = config["linux"]["namespaces"].to_string().contains("\"cgroup\"");
                assert!(named || !unified, "{case}: no cgroup namespace");
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
        again.assert_code(1).assert_stderr("config.json\" exists");
        assert_eq!(again.stderr_text().lines().count(), 2, "{}", again.stderr_text());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(path).unwrap();
    }
    As::Root.minirun(dir.path(), &["spec", "-b", "none"]).assert_code(1);
    As::Root.minirun(dir.path(), &["spec", "--nonsense"]).assert_code(1);
}
