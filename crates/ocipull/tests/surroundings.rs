//! What an ordinary machine may have around a pull: an odd umask, few descriptors, other users.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use common::{Place, Run, serve};
use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Registry, RegistryOptions};
use testkit::user::TestUser;

/// Runs `inner` behind a line of shell.
fn behind(line: &str, inner: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{line} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn a_umask_that_closes_directories_to_their_owner() {
    let (registry, _) = serve(RegistryOptions::default());
    for user in [TestUser::with_subids(), TestUser::without_subids()] {
        let dir = user.tempdir();
        for (umask, name) in [("0277", "a"), ("0777", "b")] {
            let mut inner = Command::new(env!("CARGO_BIN_EXE_ocipull"));
            inner.args([&format!("{}/app:v1", registry.host()), name]);
            let shell = behind(&format!("umask {umask}"), &inner);
            let mut command = user.command(shell.get_program());
            command.args(shell.get_args()).current_dir(dir.path());
            command.env("XDG_CACHE_HOME", dir.path().join("cache"));
            Run::of(command).succeeded();
            let mode = dir.path().join(name).join("etc").metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
        }
    }
}

#[test]
fn sixty_four_descriptors_are_enough_for_many_directories_deep_ones_too() {
    let mut image = Image::new();
    for layer in 0..4 {
        let mut builder = LayerBuilder::new().file("d/".repeat(200) + &layer.to_string(), "");
        for n in 0..50 {
            builder = builder.file(format!("{n}/a/b/{layer}"), "");
        }
        image = image.layer(builder.build(Compression::Gzip));
    }
    let registry = Registry::start(RegistryOptions::default());
    image.push(&registry, "app", "v1");
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    for arguments in [vec![&*image, "d"], vec!["--force", &image, "d"], vec!["rm", "d"]] {
        let mut command = behind("ulimit -n 64", &place.command(&arguments));
        command.current_dir(place.path(""));
        Run::of(command).succeeded();
    }
    assert!(place.names().is_empty(), "{:?}", place.names());
}

/// In a directory like /tmp anybody may put a tree and a record at the place where the next one
/// pulls to.
#[test]
fn another_users_record_vouches_for_nothing() {
    let (registry, _) = serve(RegistryOptions::default());
    let image = format!("{}/app:v1", registry.host());
    let user = TestUser::without_subids();
    let place = Place::new();
    let single = ["--ownership", "single", &image, "d"];
    place.run(&single).succeeded();
    place.run(&single).succeeded().says("up to date");
    user.own(&ctsys::record::record_path(&place.path("d")));
    place.run(&single).failed(1, &["exists and is not empty"]).hints("--force");
}

#[test]
fn a_link_with_a_record_beside_it_is_refused_all_the_same() {
    let (registry, _) = serve(RegistryOptions::default());
    let image = format!("{}/app:v1", registry.host());
    let place = Place::new();
    place.run(&[&image, "d"]).succeeded();
    symlink("d", place.path("link")).unwrap();
    std::fs::copy(place.path("d.image.json"), place.path("link.image.json")).unwrap();
    place.run(&[&image, "link"]).failed(1, &["is a symbolic link"]);
}

#[test]
fn the_current_directory_is_no_destination() {
    let place = Place::new();
    for arguments in [["app:v1", "."], ["app:v1", "./"], ["rm", "."]] {
        place.run(&arguments).failed(2, &["want a directory with a name"]).hints("./rootfs");
    }
}
