//! As ordinary users: with subordinate ids, and without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use common::Run;
use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
use testkit::user::TestUser;

const CACHE: &str = "cache";

fn serve() -> Registry {
    let layer = LayerBuilder::new()
        .dir("home", 0o755)
        .file("home/file", "of user 1000\n")
        .owner(1000, 1001);
    let registry = Registry::start(RegistryOptions::default());
    Image::new().layer(layer.build(Compression::Gzip)).push(&registry, "app", "v1");
    registry
}

fn command(user: &TestUser, dir: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = user.command(env!("CARGO_BIN_EXE_ocipull"));
    // Of the test's own: the user's home stays from test to test.
    command.args(arguments).current_dir(dir).env("XDG_CACHE_HOME", dir.join(CACHE));
    command
}

/// Names in the directory, but for the cache's.
fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != CACHE).collect()
}

fn record(dest: &Path) -> serde_json::Value {
    let record = std::fs::read(ctsys::record::record_path(dest)).unwrap();
    serde_json::from_slice(&record).unwrap()
}

#[test]
fn with_subordinate_ids_files_keep_their_owners_inside_the_namespace() {
    let user = TestUser::with_subids();
    let (registry, dir) = (serve(), user.tempdir());
    let image = format!("{}/app:v1", registry.host());
    Run::of(command(&user, dir.path(), &[&image, "d"])).succeeded();
    let dest = dir.path().join("d");
    assert_eq!(record(&dest)["ownership"], "subuid");
    let (first, _) = user.subuids().unwrap();
    let (first_group, _) = user.subgids().unwrap();
    let file = dest.join("home/file").metadata().unwrap();
    // 0 is the user, 1 the first of the range.
    assert_eq!((file.uid(), file.gid()), (first + 999, first_group + 1000));
    assert_eq!(dest.join("home").metadata().unwrap().uid(), user.uid());
    Run::of(command(&user, dir.path(), &[&image, "d"])).succeeded().says("up to date");
    // Another way to store owners is another tree.
    let other = ["--ownership", "single", &image, "d"];
    Run::of(command(&user, dir.path(), &other)).failed(1, &["not empty"]);
    Run::of(command(&user, dir.path(), &["rm", "d"])).succeeded();
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn without_subordinate_ids_everything_is_the_users() {
    let user = TestUser::without_subids();
    let (registry, dir) = (serve(), user.tempdir());
    let image = format!("{}/app:v1", registry.host());
    Run::of(command(&user, dir.path(), &[&image, "d"])).succeeded();
    let dest = dir.path().join("d");
    assert_eq!(record(&dest)["ownership"], "single");
    assert_eq!(dest.join("home/file").metadata().unwrap().uid(), user.uid());
    let asked = ["--ownership", "subuid", &image, "e"];
    Run::of(command(&user, dir.path(), &asked)).failed(1, &["subordinate ids"]).hints("single");
    let asked = ["--ownership", "root", &image, "e"];
    Run::of(command(&user, dir.path(), &asked)).failed(1, &["needs root"]);
    Run::of(command(&user, dir.path(), &["rm", "d"])).succeeded();
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn the_users_own_login_is_found_inside_the_namespace() {
    use testkit::registry::Auth;
    let user = TestUser::with_subids();
    let registry = Registry::start(RegistryOptions::auth(Auth::basic("alice", "s3cret")));
    common::small_image().push(&registry, "app", "v1");
    let dir = user.tempdir();
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6czNjcmV0"}}}}}}"#, registry.host());
    let file = dir.path().join("auth.json");
    std::fs::write(&file, auth).unwrap();
    user.own(&file);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let image = format!("{}/app:v1", registry.host());
    let arguments = ["--authfile", "auth.json", &image, "d"];
    Run::of(command(&user, dir.path(), &arguments)).succeeded();
}

#[test]
fn a_terminated_pull_leaves_nothing_in_the_namespace_either() {
    let user = TestUser::with_subids();
    let (registry, dir) = (serve(), user.tempdir());
    registry.inject(Rule::new(Fault::StallAt(10)).path("/blobs/").skip(1));
    let image = format!("{}/app:v1", registry.host());
    let mut child = command(&user, dir.path(), &[&image, "d"]);
    child.stderr(std::process::Stdio::piped());
    let child = child.spawn().unwrap();
    let mut tries = 0;
    while registry.walk().iter().filter(|line| line.ends_with(" 200")).count() < 4 {
        tries += 1;
        assert!(tries < 1000, "the layer was never asked for: {:?}", registry.walk());
        std::thread::sleep(Duration::from_millis(20));
    }
    // setpriv became ocipull, which waits for its child inside the namespace.
    let kill = std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    assert!(names(dir.path()).is_empty(), "{:?}: {stderr}", names(dir.path()));
}
