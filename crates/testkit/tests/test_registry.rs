//! The program `test-registry`.

use rustix::process::Signal;
use std::process::Command;
use testkit::image::Image;
use testkit::images;
use testkit::programs::Run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_test-registry");

#[test]
fn serves_what_it_is_told_to_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, layout) = (dir.path().join("ready"), dir.path().join("layout"));
    let image = Image::new().layer(images::busybox_layer()).build();
    image.write_oci_layout(&layout, "one");
    let mut command = Command::new(PROGRAM);
    command.args(["--busybox", "library/centos:latest", "--centos", "old/centos:8"]);
    command.arg("--ready-file").arg(&ready);
    command.arg("--oci-layout").arg(&layout).arg("a/b:one");
    let running = Run::new(command).spawn();
    let host = running.wait_stdout("\n");
    let host = host.trim();

    let inspect = |name: &str| {
        let from = format!("docker://{host}/{name}");
        let run = Run::program("skopeo", &["inspect", "--tls-verify=false", "--config", &from]);
        run.finish().assert_success().stdout_text()
    };
    let config = inspect("library/centos:latest");
    assert!(config.contains("8080/tcp") && config.contains("httpd"), "{config}");
    assert!(inspect("old/centos:8").contains("CentOS"));
    inspect("a/b:one");
    assert_eq!(std::fs::read_to_string(&ready).unwrap().trim(), host);
    running.signal(Signal::TERM);
    running.finish().assert_success();
}

#[test]
fn refuses_what_it_does_not_understand() {
    for (args, want) in [
        (&["--busybox", "no-tag"][..], "no-tag is not REPO:TAG"),
        (&["--oci-layout", "x"][..], "--oci-layout needs DIR REPO:TAG"),
        (&["--frob"][..], "unknown option --frob"),
    ] {
        Run::program(PROGRAM, args).finish().assert_code(2).assert_stderr(want);
    }
    let nowhere = Run::program(PROGRAM, &["--oci-layout", "/nonexistent", "a:b"]).finish();
    nowhere.assert_code(1).assert_stderr("test-registry: cannot read /nonexistent/index.json");
}

#[test]
fn is_found_as_a_binary_of_the_workspace() {
    let found = testkit::programs::binary("test-registry");
    assert_eq!(found.canonicalize().unwrap(), std::path::Path::new(PROGRAM));
}
