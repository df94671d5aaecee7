//! Debian's docker-registry: a real registry of somebody else's making to pull from.

use crate::programs::Run;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running docker-registry with an empty store in a directory of its own; killed on drop.
#[derive(Debug)]
pub struct DockerRegistry {
    addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl DockerRegistry {
    /// Starts one on a free port of 127.0.0.1, plain HTTP, no credentials.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts one with more lines at the end of its configuration (`auth:` and the like); `DIR` in
    /// them becomes its directory's path.
    pub fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port is free now and may be taken in between; then docker-registry ends, and the next
        // one is tried.
        for _ in 0..5 {
            let addr = free_port();
            let config = config(dir.path(), addr, more);
            let path = dir.path().join("config.yml");
            std::fs::write(&path, config).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry runs (scripts/test-deps installs it)");
            if answers(addr, &mut child) {
                return Self { addr, child, _dir: dir };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry did not start: run `docker-registry serve` to see why");
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Copies an image into it with skopeo: `from` as skopeo names sources, `oci:DIR:TAG`.
    pub fn push(&self, from: &str, name: &str, options: &[&str]) {
        let to = format!("docker://{}/{name}", self.host());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        command.args(options).args([from, &to]);
        Run::new(command).limit(Duration::from_secs(300)).finish().assert_success();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(dir: &Path, addr: SocketAddr, more: &str) -> String {
    let dir = dir.display().to_string();
    let more = more.replace("DIR", &dir);
    format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {dir}/store\n\
         http:\n  addr: {addr}\n{more}"
    )
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn answers(addr: SocketAddr, child: &mut Child) -> bool {
    let deadline = Instant::now() + START_LIMIT;
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        if TcpStream::connect(addr).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
