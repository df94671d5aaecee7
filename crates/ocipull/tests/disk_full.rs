//! A disk that is full at any point of a pull: of blocks, and of inodes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod pulls;

use std::path::Path;
use std::process::Command;

use common::Run;
use pulls::{Found, Site, old_image, small_image};
use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::user::TestUser;

/// A tmpfs of its own over a directory, gone with this value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn over(dir: &'a Path, options: &str) -> Self {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir);
        Run::of(command).succeeded();
        Self(dir)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Sixty pages of files in two layers.
fn large_image() -> Image {
    let files = |layer: LayerBuilder, from: u32| {
        (from..from + 6).fold(layer, |layer, n| layer.file(format!("f{n}"), vec![7; 20_000]))
    };
    let lower = files(LayerBuilder::new(), 0);
    let upper = files(LayerBuilder::new().whiteout("f1"), 6);
    Image::new().layer(lower.build(Compression::Gzip)).layer(upper.build(Compression::Gzip))
}

/// Pulls onto disks of growing size, until one is large enough for all.
fn on_growing_disks(site: &Site, option: impl Fn(u32) -> String) {
    for had_old in [false, true] {
        let mut failures = 0;
        for size in 3.. {
            let options = option(size);
            let dir = site.dir();
            let _disk = SmallDisk::over(&dir, &options);
            site.own_dir();
            if had_old && Run::of(site.pull(&[], "old", "d")).code != Some(0) {
                // Too small for the old tree already.
                assert_eq!(site.names(), [""; 0], "{options}");
                continue;
            }
            let arguments: &[&str] = if had_old { &["--force"] } else { &[] };
            let run = Run::of(site.pull(arguments, "new", "d"));
            if run.code == Some(0) {
                assert_eq!(site.found(&options), Found::New);
                break;
            }
            run.failed(6, &["(ENOSPC)"]).hints("free some space");
            site.assert_as_before(had_old, &options);
            failures += 1;
        }
        assert!(failures > 5, "only {failures} disks were too small");
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_the_destination_as_it_was() {
    let root = Site::root(&old_image(), &large_image());
    on_growing_disks(&root, |pages| format!("size={}k,mode=755", 4 * pages));
    let user = Site::user(TestUser::with_subids(), &old_image(), &large_image());
    on_growing_disks(&user, |pages| format!("size={}k,mode=755", 16 * pages));
}

#[test]
fn a_disk_without_inodes_is_named_and_leaves_the_destination_as_it_was() {
    let root = Site::root(&old_image(), &small_image());
    on_growing_disks(&root, |inodes| format!("nr_inodes={inodes},mode=755"));
    let user = Site::user(TestUser::without_subids(), &old_image(), &small_image());
    on_growing_disks(&user, |inodes| format!("nr_inodes={inodes},mode=755"));
}
