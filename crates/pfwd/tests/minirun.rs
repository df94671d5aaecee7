//! Containers that minirun runs, by the names it gives them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panic")]

mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, StateRoot};
use rustix::process::{Pid, Signal, kill_process};
use support::{PATIENCE, Pfwd, Who, pfwd};
use testkit::programs::{Run, binary};
use testkit::user::TestUser;

/// A container of `who`'s that runs a web server on port 80; removed at the end.
struct Container<'a> {
    who: &'a Who,
    name: String,
    root: StateRoot,
    _dir: Box<dyn std::any::Any>,
}

impl<'a> Container<'a> {
    fn start(who: &'a Who, options: &[&str], port: u16) -> Self {
        let (path, dir): (PathBuf, Box<dyn std::any::Any>) = match who {
            Who::Root => {
                let dir = tempfile::tempdir().unwrap();
                (dir.path().to_owned(), Box::new(dir))
            }
            Who::User(user) => {
                let dir = user.tempdir();
                (dir.path().to_owned(), Box::new(dir))
            }
        };
        rootfs(&path.join("rootfs"));
        if let Who::User(user) = who {
            user.own_tree(&path);
        }
        let name = format!("web-{}", path.file_name().unwrap().display()).replace('.', "");
        let mut command = who.command(binary("minirun"));
        // What works on this machine depends on the caller; pfwd needs none of it.
        command.env("MINIRUN_NET", "none");
        command.args(["--rootless", "-d", "--name", &name, "--bundle"]).arg(&path).args(options);
        command.args(["--", "httpd", "-f", "-h", "/www", "-p", &port.to_string()]);
        Run::new(command).finish().assert_success();
        let root = match who {
            Who::Root => StateRoot::open_default(),
            Who::User(user) => StateRoot::open(user.runtime_dir().join("minirun"), user.uid()),
        };
        Self { who, name, root: root.unwrap(), _dir: dir }
    }

    /// Kills one of its processes as nobody else could: without a chance to clean up.
    fn kill(&self, which: impl Fn(&ContainerState) -> Option<ProcessId>) {
        let state = self.root.load(&self.name).unwrap();
        let pid = Pid::from_raw(which(&state).unwrap().pid).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut command = self.who.command(binary("minirun"));
        command.args(["delete", "--force", &self.name]);
        Run::new(command).finish();
    }
}

fn rootfs(path: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        std::fs::create_dir_all(path.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
    symlink("busybox", path.join("bin/httpd")).unwrap();
    std::fs::write(path.join("www/page"), "from the container\n").unwrap();
}

#[track_caller]
fn assert_fetched(pfwd: &Pfwd, port: u16) {
    let url = format!("http://{}/page", pfwd.address(port));
    let patience = PATIENCE.as_secs().to_string();
    let done = Run::program(
        "curl",
        &["-sSf", "--noproxy", "*", "--retry-connrefused", "--retry", "9", "-m", &patience, &url],
    );
    done.finish().assert_success().assert_stdout("from the container\n");
}

#[test]
fn a_container_is_reached_by_name_and_prefix_until_it_is_killed() {
    let with_subids = Who::User(Box::new(TestUser::with_subids().isolated()));
    for who in Who::each().into_iter().chain([with_subids]) {
        for network in ["none", "host"] {
            // On the host's network it shares the ports of this machine.
            let port = match network {
                "host" => free_port(),
                _ => 80,
            };
            let container = Container::start(&who, &["--net", network], port);
            let name = container.name.as_str();
            let by_prefix = Pfwd::start(&who, &name[..name.len() - 1], &[port]);
            assert_fetched(&by_prefix, port);
            let by_name = Pfwd::start(&who, name, &[port]);
            assert_fetched(&by_name, port);
            let address = by_name.address(port);
            container.kill(|state| state.init);
            by_name.process.finish().assert_code(1).assert_stderr("ended\n");
            by_prefix.process.finish().assert_code(1);
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            let done = pfwd(&who, &[name, ":80"]);
            done.assert_code(1).assert_stderr("pfwd: ").assert_stderr("hint: ");
        }
    }
}

#[test]
fn a_command_that_runs_as_another_user_is_reached() {
    let container = Container::start(&Who::Root, &["--user", "33:33"], 8080);
    let pfwd = Pfwd::start(&Who::Root, &container.name, &[8080]);
    assert_fetched(&pfwd, 8080);
}

/// The init hides itself from its owner, so that a /proc that shows one's own processes only
/// (proc(5), "hidepid") has no entry for it.
#[test]
fn a_container_runs_where_proc_hides_its_init() {
    let who = Who::user();
    let container = Container::start(&who, &[], 80);
    let user = who.command(binary("pfwd"));
    let mut command = Command::new("unshare");
    let script = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    command.args(["--mount", "--", "sh", "-c", script, "sh"]);
    command.arg(user.get_program()).args(user.get_args()).args([&container.name, ":80"]);
    for (name, value) in user.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let pfwd = Pfwd::spawn(command);
    pfwd.process.wait_stderr("forwarding");
    assert_fetched(&pfwd, 80);
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
