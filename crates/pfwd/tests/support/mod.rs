//! Targets with a network of their own, real servers in them, and pfwd in front.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use testkit::programs::{Background, Run, binary};
use testkit::user::TestUser;

/// Far longer than anything here takes: past it a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Who runs the target and pfwd.
#[derive(Debug)]
pub enum Who {
    Root,
    User(Box<TestUser>),
}

impl Who {
    /// Everything is tested as both.
    pub fn each() -> [Self; 2] {
        [Self::Root, Self::user()]
    }

    pub fn user() -> Self {
        Self::User(Box::new(TestUser::without_subids().isolated()))
    }

    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        match self {
            Self::Root => Command::new(program.as_ref()),
            Self::User(user) => user.command(program.as_ref()),
        }
    }
}

/// A process in a network namespace of its own, whose `lo` is up; rootless in a user namespace, too.
pub struct Pod {
    process: Background,
    pub pid: i32,
}

impl Pod {
    pub fn start(who: &Who) -> Self {
        Self::running(who, "exec sleep infinity")
    }

    /// With `script` run by sh in there, after `ready` was printed.
    pub fn running(who: &Who, script: &str) -> Self {
        let mut command = who.command("unshare");
        if let Who::User(user) = who {
            command.args(["--user", "--map-root-user"]);
            command.args(user.subuids().map(|_| "--map-auto"));
        }
        let script = format!("ip link set lo up && echo ready && {script}");
        command.args(["--net", "--", "sh", "-c", &script]);
        let process = Run::new(command).spawn();
        process.wait_stdout("ready");
        let pid = process.pid();
        Self { process, pid }
    }

    pub fn target(&self) -> String {
        format!("pid:{}", self.pid)
    }

    /// Runs `work` with the network of the pod.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        // setns(2) for a network namespace concerns the calling thread alone.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// A listener in there on a free port of 127.0.0.1.
    pub fn listen(&self) -> (TcpListener, u16) {
        let listener = self.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// A server in there on a free port, which gives each connection to `serve` in turn, for as long
    /// as the test runs.
    pub fn serve(&self, serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> u16 {
        let (listener, port) = self.listen();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = patient(stream.unwrap());
                std::thread::spawn(move || serve(stream));
            }
        });
        port
    }

    /// Kills the process and waits until it is no more.
    pub fn kill(self) {
        drop(self.process);
    }
}

/// A running pfwd.
pub struct Pfwd {
    pub process: Background,
    pub pid: i32,
}

impl Pfwd {
    /// Forwards a free port to each of `remotes`.
    pub fn start(who: &Who, target: &str, remotes: &[u16]) -> Self {
        // Whatever started the tests may have them ignored, as nohup(1) does.
        Self::start_with(who, "--default-signal=HUP,INT", target, remotes)
    }

    /// As [`Pfwd::start`], with an option of env(1) about the signals that it inherits.
    pub fn start_with(who: &Who, signals: &str, target: &str, remotes: &[u16]) -> Self {
        let specs: Vec<String> = remotes.iter().map(|port| format!(":{port}")).collect();
        let inner = who.command(binary("pfwd"));
        let mut command = Command::new("env");
        if let Who::User(_) = who {
            command.env_clear();
        }
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        if let Some(dir) = inner.get_current_dir() {
            command.current_dir(dir);
        }
        command.arg(signals).arg(inner.get_program()).args(inner.get_args());
        command.arg(target).args(&specs);
        let pfwd = Self::spawn(command);
        for port in remotes {
            pfwd.process.wait_stderr(&format!(" -> {target}:{port}\n"));
        }
        pfwd
    }

    pub fn spawn(command: Command) -> Self {
        let process = Run::new(command).spawn();
        let pid = process.pid();
        Self { process, pid }
    }

    /// The local address that leads to `remote`, as pfwd printed it.
    pub fn address(&self, remote: u16) -> SocketAddr {
        let text = self.process.wait_stderr(&format!(":{remote}\n"));
        let line = text.lines().find(|l| l.ends_with(&format!(":{remote}"))).unwrap();
        let address = line.strip_prefix("forwarding ").and_then(|l| l.split(' ').next());
        address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    pub fn connect(&self, remote: u16) -> TcpStream {
        patient(TcpStream::connect(self.address(remote)).unwrap())
    }

    /// The process in the target's namespaces.
    pub fn helper(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let children = std::fs::read_to_string(path).unwrap();
        let [helper] = children.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("want one child: {children:?}")
        };
        helper.parse().unwrap()
    }
}

/// The pfwd binary with `args`, run to its end.
pub fn pfwd(who: &Who, args: &[&str]) -> testkit::programs::Finished {
    let mut command = who.command(binary("pfwd"));
    command.args(args);
    Run::new(command).finish()
}

/// A stream whose reads and writes give up after [`PATIENCE`].
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Breaks the connection off: its close sends RST.
pub fn reset(stream: TcpStream) {
    let linger = libc_linger();
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

fn libc_linger() -> nix::libc::linger {
    nix::libc::linger { l_onoff: 1, l_linger: 0 }
}

/// What comes until the end of the stream.
pub fn read_all(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// Sends `text`, ends the sending side, and returns the answer.
pub fn ask(mut stream: TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    read_all(&mut stream)
}

/// Sends back whatever comes, then the end.
pub fn echo(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
}

/// Waits until `holds`, or fails saying `what` did not come about.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether this machine has IPv6 on its loopback; says so when not.
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("SKIPPED: the IPv6 part, as this machine has no ::1");
    }
    has
}

/// What a process has open.
pub fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok()).collect()
}

/// Whether there is a process with this number, be it a zombie.
pub fn process_runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
