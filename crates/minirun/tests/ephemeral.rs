//! `--ephemeral`: the container writes where it likes, and the root filesystem stays as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;
mod mounted;

use std::os::unix::fs::chown;

use common::{As, record};
use container::{Container, assert_refused, wait_until};
use mounted::after_mounting;
use testkit::programs::{Finished, Run};
use testkit::tree::{Options, Tree, assert_same};
use testkit::user::TestUser;

/// Every way to change a tree; what comes of it is printed.
const CHANGE: &str = "set -e; echo more >>/etc/group; rm /etc/passwd; echo anew >/etc/passwd; \
    rm -r /home; mkdir /home; touch /home/only; mv /var/www /www; chmod 700 /root; \
    ln -s x /link; mkfifo /fifo; ln /bin/busybox /hard; \
    cat /etc/passwd; ls /home /www; tail -n1 /etc/group; test ! -e /var/www";
const CHANGED: &str = "anew\n/home:\nonly\n\n/www:\nindex.html\nmore\n";

/// A root filesystem in which also somebody else owns something, where that can be.
fn containers() -> [Container; 3] {
    let all = Container::all();
    for c in &all {
        let config = serde_json::json!({ "Cmd": ["/bin/sh"] });
        let text = record(c.who.ownership(), config).to_string();
        std::fs::write(c.bundle.join("rootfs.image.json"), text).unwrap();
        let owner = match &c.who {
            As::Root => 33,
            As::User(user) => user.subuids().map_or(user.uid(), |(first, _)| first + 32),
        };
        let file = c.bundle.join("rootfs/var/www/index.html");
        chown(file, Some(owner), Some(owner)).unwrap();
    }
    all
}

fn tree(c: &Container) -> Tree {
    Tree::of(&c.bundle.join("rootfs"), &Options::default())
}

fn ephemeral(c: &Container, more: &[&str], script: &str) -> Finished {
    c.minirun(&[&["--ephemeral"], more, &["--", "/bin/sh", "-c", script]].concat())
}

#[test]
fn all_changes_are_thrown_away() {
    for c in containers() {
        let before = tree(&c);
        let done = ephemeral(&c, &[], CHANGE);
        done.assert_code(0).assert_stdout(CHANGED);
        assert_eq!(done.stderr_text(), "");
        assert_same(&before, &tree(&c));
        // What is mounted needs places in the root filesystem; those are not left either.
        ephemeral(&c, &["--tmpfs", "/new/place", "-w", "/new/dir"], "pwd")
            .assert_stdout("/new/dir\n");
        assert_same(&before, &tree(&c));
        let text = "touch /x && exit 1; touch /tmp/x && exit 2; touch /dev/shm/x";
        ephemeral(&c, &["--read-only"], text).assert_code(0).assert_stderr("Read-only file system");
        assert_same(&before, &tree(&c));
    }
}

#[test]
fn files_of_the_root_filesystem_change_owners() {
    for c in containers().iter().filter(|c| c.who.ownership() != "single") {
        let before = tree(c);
        let script = "stat -c %u:%g /var/www/index.html / && chown 7:8 /var/www/index.html && \
                      stat -c %u:%g /var/www/index.html";
        ephemeral(c, &[], script).assert_code(0).assert_stdout("33:33\n0:0\n7:8\n");
        assert_same(&before, &tree(c));
    }
}

#[test]
fn two_of_one_root_filesystem_do_not_see_each_other() {
    let c = Container::single();
    let args = ["--ephemeral", "-d", "--", "/bin/sh", "-c", "echo one >/etc/motd; cat"];
    let args = &[&args[..2], &["-t"], &args[2..]].concat();
    c.minirun(args).assert_success();
    let detached = container::Detached(&c);
    let inside = |script: &str| c.minirun(&["exec", &c.name, "/bin/sh", "-c", script]);
    wait_until("the first has written", || inside("cat /etc/motd").stdout_text() == "one\n");
    let other = common::unique("other");
    let done = ephemeral(&c, &["--name", &other], "cat /etc/motd; echo two >/etc/motd");
    done.assert_code(0).assert_stderr("No such file");
    inside("cat /etc/motd; echo three >/etc/motd; cat /etc/motd").assert_stdout("one\nthree\n");
    drop(detached);
    assert!(!c.bundle.join("rootfs/etc/motd").exists());
}

#[test]
fn the_size_of_the_changes_is_limited() {
    let c = Container::single();
    let script = "for f in a b; do dd if=/dev/zero of=/tmp/$f bs=1M count=3 || exit 4; done";
    c.minirun(&["--ephemeral=4m", "--", "/bin/sh", "-c", script])
        .assert_code(4)
        .assert_stderr("No space left");
    c.minirun(&["--ephemeral=8m", "--", "/bin/sh", "-c", script]).assert_code(0);
}

#[test]
fn it_lies_on_a_tmpfs_or_an_overlay_as_well() {
    let tmpfs =
        "mkdir m && mount -t tmpfs t m && cp -a rootfs m/rootfs && mount --bind m/rootfs rootfs";
    let overlay = "mkdir u && mount -t tmpfs t u && mkdir u/u u/w && \
                   mount -t overlay o -o lowerdir=rootfs,upperdir=u/u,workdir=u/w rootfs";
    for mount in [tmpfs, overlay] {
        let c = Container::single();
        let before = tree(&c);
        let done = after_mounting(&c, mount, &["--ephemeral", "--", "/bin/sh", "-c", CHANGE]);
        done.assert_code(0).assert_stdout(CHANGED);
        assert_same(&before, &tree(&c));
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_the_reason() {
    let args = ["--ephemeral", "--", "true"];
    let c = Container::single();
    let done = after_mounting(&c, "mount -t tmpfs t rootfs/tmp", &args);
    assert_refused(&done, 125, "cannot put an overlay", "mounted inside the root filesystem");
    let twice = "for n in 1 2; do mkdir u$n && mount -t tmpfs t u$n && mkdir u$n/u u$n/w && \
                 mount -t overlay o -o lowerdir=rootfs,upperdir=u$n/u,workdir=u$n/w rootfs; done";
    let done = after_mounting(&Container::single(), twice, &args);
    assert_refused(&done, 125, "cannot make an overlay", "more than one overlay");
    let c = Container::single();
    c.configure(|config| {
        config["annotations"] = serde_json::json!({ "minirun.ephemeral": "much" });
    });
    assert_refused(&c.sh("true"), 125, "minirun.ephemeral", "correct config.json");
}

/// What older kernels lack, by injected failures.
#[test]
fn an_older_kernel_is_told_by_what_it_lacks() {
    let injected = |what: &str, script: &str| {
        let c = Container::new(As::User(TestUser::without_subids().isolated()));
        let mut command = c.who.command("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", what]);
        command.arg(testkit::programs::binary("minirun")).current_dir(&c.bundle);
        command.args(["--ephemeral", "--", "/bin/sh", "-c", script]);
        Run::new(command).finish()
    };
    // The first is the tmpfs.
    let done = injected("inject=fsopen:error=ENODEV:when=2", "true");
    assert_refused(&done, 125, "cannot make an overlay", "modprobe overlay");
    let done = injected("inject=fsmount:error=EPERM:when=2", "true");
    assert_refused(&done, 125, "cannot make an overlay", "Linux 5.11");
    let done = injected("inject=fsetxattr:error=EOPNOTSUPP", "rm /etc/passwd; echo ran");
    done.assert_code(0).assert_stdout("ran\n").assert_stderr("Linux 6.6 does");
    assert_eq!(done.stderr_text().lines().count(), 1, "{done}");
}
