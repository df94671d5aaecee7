//! Debian's nginx, as a test configures it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running nginx, in the foreground and in one process; killed on drop.
#[derive(Debug)]
pub struct Nginx {
    addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Nginx {
    /// Starts one on a free port of 127.0.0.1 whose `server` block holds `server` after its
    /// `listen` line. `listen` is what follows the address there, `ssl` for instance.
    pub fn start(listen: &str, server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        // The port is free now and may be taken in between; then the next one is tried.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let addr = free.local_addr().unwrap();
            drop(free);
            let config = format!(
                "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
                 events {{}}\nhttp {{ access_log off; client_body_temp_path {path}/body;\n\
                 proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;\n\
                 uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
                 server {{ listen {addr} {listen};\n{server}\n}} }}\n"
            );
            std::fs::write(dir.path().join("conf"), config).unwrap();
            let mut child = Command::new("nginx")
                .arg("-c")
                .arg(dir.path().join("conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx runs (scripts/test-deps installs it)");
            let deadline = Instant::now() + START_LIMIT;
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(addr).is_ok() {
                    return Self { addr, child, _dir: dir };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
        panic!("nginx did not start: {log}");
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
