//! Needs a process with one thread, so it brings its own `main` instead of the test harness.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panic")]

use ctsys::{clone, ns};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() {
    exit_code_comes_back();
    child_is_born_into_its_namespaces_and_can_be_joined();
    one_that_shares_memory_executes_or_ends();
    println!("test result: ok. 3 passed; 0 failed");
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

fn one_that_shares_memory_executes_or_ends() {
    let code = |child: &clone::Child| waitpid(Pid::from_raw(child.pid), None).unwrap();
    let mut seen = 0;
    let ended = clone::spawn_until_exec(|| {
        seen = std::process::id();
        7
    })
    .unwrap();
    assert_eq!(i32::try_from(seen).unwrap(), ended.pid, "the child writes the caller's memory");
    assert_eq!(code(&ended), WaitStatus::Exited(Pid::from_raw(ended.pid), 7));

    let (shell, script) = (c"/bin/sh", c"exit 9");
    let executed = clone::spawn_until_exec(|| {
        nix::unistd::chdir("/").unwrap();
        let _ = nix::unistd::execv(shell, &[shell, c"-c", script]);
        1
    })
    .unwrap();
    assert_eq!(code(&executed), WaitStatus::Exited(Pid::from_raw(executed.pid), 9));
    assert_ne!(std::env::current_dir().unwrap(), std::path::Path::new("/"));
}
