//! Needs a process with one thread, so it brings its own `main` instead of the test harness.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panic")]

use ctsys::{clone, ns};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() {
    exit_code_comes_back();
    child_is_born_into_its_namespaces_and_can_be_joined();
    println!("test result: ok. 2 passed; 0 failed");
}

fn exit_code_comes_back() {
    let child = clone::spawn(CloneFlags::empty(), || 42).unwrap();
    let status = waitpid(Pid::from_raw(child.pid), None).unwrap();
    assert_eq!(status, WaitStatus::Exited(Pid::from_raw(child.pid), 42));
}

fn child_is_born_into_its_namespaces_and_can_be_joined() {
    let mine = std::fs::read_link("/proc/self/ns/uts").unwrap();
    let kinds = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS;
    let child = clone::spawn(kinds, || {
        std::thread::sleep(std::time::Duration::from_secs(60));
        0
    })
    .unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/uts", child.pid)).unwrap();
    assert_ne!(mine, theirs);
    ns::join(&child.pidfd, kinds).unwrap();
    assert_eq!(std::fs::read_link("/proc/self/ns/uts").unwrap(), theirs);
    nix::sys::signal::kill(Pid::from_raw(child.pid), nix::sys::signal::SIGKILL).unwrap();
    waitpid(Pid::from_raw(child.pid), None).unwrap();
}
