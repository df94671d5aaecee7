//! The three tools together on real images: a Debian root filesystem of several layers, made by
//! mmdebstrap and umoci (`scripts/test-deps`), served by Debian's docker-registry.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::docker_registry::DockerRegistry;
use testkit::images;
use testkit::programs::{Background, Finished, Run, binary};
use testkit::registry::{Registry, RegistryOptions};
use testkit::tree::{IdMap, Options, Tree, assert_same};
use testkit::user::TestUser;

/// A pull or an unpack of the Debian image on a busy machine.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn a_tree_pulled_by_root_equals_the_one_umoci_unpacks() {
    let registry = DockerRegistry::start();
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("umoci");
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image"]).arg(layout_reference()).arg(&bundle);
    Run::new(umoci).limit(LONG).finish().assert_success();
    let want = Tree::of(&bundle.join("rootfs"), &Options::default());
    assert!(want.paths().len() > 3000, "this is no Debian: {} entries", want.paths().len());

    for (tag, options) in [
        ("gzip", &[][..]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"][..]),
        ("docker", &["--format", "v2s2"][..]),
    ] {
        registry.push(&debian_image(), &format!("debian:{tag}"), options);
        let dest = dir.path().join(tag);
        let mut pull = Command::new(binary("ocipull"));
        pull.env("XDG_CACHE_HOME", dir.path().join("cache"));
        pull.arg(format!("{}/debian:{tag}", registry.host())).arg(&dest);
        Run::new(pull).limit(LONG).finish().assert_success();
        assert_same(&want, &Tree::of(&dest, &Options::default()));
    }
}

#[test]
fn a_tree_pulled_by_a_user_has_the_owners_of_one_pulled_by_root() {
    let registry = DockerRegistry::start();
    registry.push(&debian_image(), "debian:latest", &[]);
    let reference = format!("{}/debian:latest", registry.host());
    let user = TestUser::with_subids().isolated();
    let dir = user.tempdir();

    let mut as_root = Command::new(binary("ocipull"));
    as_root.env("XDG_CACHE_HOME", dir.path().join("root's cache"));
    as_root.arg(&reference).arg(dir.path().join("root"));
    Run::new(as_root).limit(LONG).finish().assert_success();
    let theirs = dir.path().join("pod/rootfs");
    let mut as_user = user.command(binary("ocipull"));
    as_user.env("XDG_CACHE_HOME", dir.path().join("user's cache"));
    as_user.arg("--bundle").arg(dir.path().join("pod")).arg(&reference);
    Run::new(as_user).limit(LONG).finish().assert_success();

    let ((first_uid, uids), (first_gid, gids)) = (user.subuids().unwrap(), user.subgids().unwrap());
    let map = |own, outside, count| {
        vec![IdMap { inside: 0, outside: own, count: 1 }, IdMap { inside: 1, outside, count }]
    };
    let inside = Options {
        uid_map: map(user.uid(), first_uid, uids),
        gid_map: map(user.gid(), first_gid, gids),
        ..Options::default()
    };
    let want = Tree::of(&dir.path().join("root"), &Options::default());
    assert_same(&want, &Tree::of(&theirs, &inside));

    let mut remove = user.command(binary("ocipull"));
    remove.arg("rm").arg(&theirs);
    Run::new(remove).limit(LONG).finish().assert_success();
    assert!(!theirs.exists());
    assert!(!dir.path().join("pod/rootfs.image.json").exists());
}

#[test]
fn a_user_with_subordinate_ids_pulls_runs_and_reaches_nginx() {
    let registry = DockerRegistry::start();
    registry.push(&debian_image(), "library/debian:latest", &[]);
    let pod = Pod::new(TestUser::with_subids(), registry.host());
    pod.run("ocipull", &["debian:latest", "./rootfs"]).assert_success();
    let container = pod.start("minirun", &["--rootless"]);
    pod.wait_running();
    let forward = pod.start("pfwd", &["pod", "0:8080"]);

    let port = local_port(&forward);
    let page = curl(port, &["--include"]);
    assert!(page.contains("Server: nginx"), "{page}");
    assert!(page.contains("nginx in a rootless container"), "{page}");
    // The workers run as www-data, whom only the full range maps.
    let ids = pod.run("minirun", &["exec", "pod", "sh", "-c", "stat -c %U /proc/[0-9]*"]);
    assert!(ids.assert_success().stdout_text().contains("www-data"), "{ids}");
    let listed = pod.run("minirun", &["list"]);
    assert!(listed.assert_success().stdout_text().contains("pod"), "{listed}");

    // The end of the container is the end of the forward, and is said.
    pod.run("minirun", &["kill", "pod", "TERM"]).assert_success();
    container.finish().assert_success();
    let ended = forward.finish();
    assert!(!ended.timed_out && ended.stderr_text().contains("pod"), "{ended}");
    assert_eq!(pod.run("minirun", &["list", "-q"]).assert_success().stdout_text(), "");
    pod.run("ocipull", &["rm", "./rootfs"]).assert_success();
}

#[test]
fn a_user_without_subordinate_ids_pulls_runs_and_reaches_busybox() {
    let registry = Registry::start(RegistryOptions::default());
    images::busybox().push(&registry, "library/centos", "latest");
    let pod = Pod::new(TestUser::without_subids(), registry.host());
    pod.run("ocipull", &["centos:latest", "./rootfs"]).assert_success();
    let owner = std::fs::metadata(pod.path("rootfs/bin")).unwrap().uid();
    assert_eq!(owner, pod.user.uid());
    let container = pod.start("minirun", &["--rootless"]);
    pod.wait_running();
    let forward = pod.start("pfwd", &["pod", "0:8080"]);
    assert!(curl(local_port(&forward), &[]).contains('<'), "no page");
    // Ctrl-C ends each of them, and what they made.
    forward.signal(rustix::process::Signal::INT);
    let forward = forward.finish();
    assert!(!forward.timed_out, "{forward}");
    container.signal(rustix::process::Signal::TERM);
    let container = container.finish();
    assert!(!container.timed_out, "{container}");
    assert_eq!(pod.run("minirun", &["list", "-q"]).assert_success().stdout_text(), "");
}

#[test]
fn root_forwards_into_a_users_container_by_its_process() {
    let registry = Registry::start(RegistryOptions::default());
    images::busybox().push(&registry, "library/centos", "latest");
    let pod = Pod::new(TestUser::without_subids(), registry.host());
    pod.run("ocipull", &["centos:latest", "./rootfs"]).assert_success();
    let _container = pod.start("minirun", &["--rootless"]);
    let state = pod.wait_running();
    let pid = state["pid"].as_i64().unwrap();
    let mut command = Command::new(binary("pfwd"));
    command.args([format!("pid:{pid}"), "0:8080".into()]);
    let forward = Run::new(command).spawn();
    assert!(curl(local_port(&forward), &[]).contains('<'), "no page");
}

#[test]
fn an_image_made_by_buildah_is_pulled_and_run() {
    let registry = DockerRegistry::start();
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("base");
    images::busybox_rootfs(&rootfs);
    let storage = dir.path().join("storage");
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(storage.join("root"));
        command.arg("--runroot").arg(storage.join("run")).args(args);
        Run::new(command).limit(LONG).finish().assert_success().stdout_text().trim().to_owned()
    };
    let id = buildah(&["from", "scratch"]);
    buildah(&["add", &id, rootfs.to_str().unwrap(), "/"]);
    buildah(&["config", "--env", "WHO=buildah", "--workingdir", "/tmp", &id]);
    buildah(&[
        "config",
        "--entrypoint",
        r#"["/bin/sh", "-c"]"#,
        "--cmd",
        "'echo $WHO in $PWD; exit 7'",
        &id,
    ]);
    let name = format!("docker://{}/made/by:buildah", registry.host());
    buildah(&["commit", &id, "made"]);
    buildah(&["push", "--tls-verify=false", "made", &name]);

    let pod = Pod::new(TestUser::without_subids(), registry.host());
    let reference = format!("{}/made/by:buildah", registry.host());
    pod.run("ocipull", &[&reference, "./rootfs"]).assert_success();
    let run = pod.run("minirun", &["--rootless"]);
    run.assert_code(7).assert_stdout("buildah in /tmp\n");
}

/// A bundle directory named `pod` of a user's, and the tools run in it.
struct Pod {
    user: TestUser,
    dir: testkit::user::UserDir,
    mirror: String,
}

impl Pod {
    fn new(user: TestUser, mirror: String) -> Self {
        let user = user.isolated();
        let dir = user.tempdir();
        let pod = dir.path().join("pod");
        std::fs::create_dir(&pod).unwrap();
        user.own(&pod);
        Self { user, dir, mirror }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("pod").join(below)
    }

    fn command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = self.user.command(binary(tool));
        command.args(args).env("OCIPULL_MIRROR", &self.mirror).current_dir(self.path(""));
        command.env("XDG_CACHE_HOME", self.dir.path().join("cache"));
        command
    }

    fn run(&self, tool: &str, args: &[&str]) -> Finished {
        Run::new(self.command(tool, args)).limit(LONG).finish()
    }

    fn start(&self, tool: &str, args: &[&str]) -> Background {
        Run::new(self.command(tool, args)).limit(LONG).spawn()
    }

    /// Waits until the container runs, and returns its state.
    fn wait_running(&self) -> serde_json::Value {
        for _ in 0..500 {
            let state = self.run("minirun", &["state", "pod"]);
            if state.code() == Some(0) {
                let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
                if state["status"] == "running" {
                    return state;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the container did not come up: {}", self.run("minirun", &["list"]));
    }
}

/// The port in `forwarding 127.0.0.1:PORT and …`.
fn local_port(forward: &Background) -> u16 {
    let said = forward.wait_stderr(" -> ");
    let after = said.split("127.0.0.1:").nth(1).unwrap_or_else(|| panic!("no port in {said:?}"));
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn curl(port: u16, options: &[&str]) -> String {
    let mut command = Command::new("curl");
    // The server in the container may need a moment more than its start.
    command.args(["--silent", "--show-error", "--max-time", "20"]);
    command.args(["--retry", "50", "--retry-all-errors", "--retry-delay", "1"]);
    command.args(options).arg(format!("http://127.0.0.1:{port}/index.html"));
    Run::new(command).limit(LONG).finish().assert_success().stdout_text()
}

fn layout() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let layout = root.join("target/test-images/debian");
    assert!(layout.join("complete").exists(), "no {layout:?}: run scripts/test-deps");
    layout
}

fn layout_reference() -> String {
    format!("{}:latest", layout().display())
}

fn debian_image() -> String {
    format!("oci:{}", layout_reference())
}
