//! A host of a test's own: network and mount namespaces with an interface, a default route, a
//! /dev/net/tun that users may open, and servers.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panic"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use testkit::programs::{Background, Finished, Run};

use super::container::Container;

/// The host's address, of a documentation network (RFC 5737), where nothing else is.
pub(crate) const HOST: &str = "198.51.100.1";
/// What the host's name server, on its loopback as systemd-resolved's, says of every name.
pub(crate) const ANSWER: [u8; 4] = [198, 51, 100, 1];

/// Makes the host. `tun 0666` is a device file of its own: the machine's may be root's.
const SET_UP: &str = "
    set -e
    ip link set lo up
    ip link add v0 type veth peer name v1
    ip link set v1 up
    ip addr add 198.51.100.1/24 dev v0
    ip link set v0 up
    ip route add default via 198.51.100.254 dev v0
    mount -t tmpfs tmpfs /dev/net
    mknod /dev/net/tun c 10 200
    chmod 666 /dev/net/tun
    mount -t tmpfs tmpfs /mnt
    printf 'nameserver 127.0.0.53\\nsearch corp.example\\n' >/mnt/resolv.conf
    mount --bind /mnt/resolv.conf /etc/resolv.conf
    printf '127.0.0.1 localhost\\n198.51.100.1 the-host\\n' >/mnt/hosts
    mount --bind /mnt/hosts /etc/hosts
";

/// The host; it ends with this value.
pub(crate) struct PrivateNet {
    holder: Background,
}

impl PrivateNet {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more done to it.
    pub(crate) fn with(script: &str) -> Self {
        let script = format!("{SET_UP}{script}\necho ready; exec sleep infinity");
        let holder = Run::program("unshare", &["-mn", "sh", "-c", &script]).spawn();
        holder.wait_stdout("ready");
        Self { holder }
    }

    /// `inner` as run on that host.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.holder.pid().to_string();
        // A new mount namespace's root is the directory too, until the next word.
        let script = "cd \"$0\" && exec \"$@\"";
        command.args(["-t", &pid, "-m", "-n", "--", "sh", "-c", script]);
        command.arg(inner.get_current_dir().unwrap_or("/".as_ref()));
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command
    }

    /// minirun as run there by the container's owner, with the default network.
    pub(crate) fn minirun_command(&self, c: &Container, args: &[&str]) -> Command {
        let mut inner = c.command(args);
        inner.env_remove("MINIRUN_NET");
        self.command(&inner)
    }

    pub(crate) fn minirun(&self, c: &Container, args: &[&str]) -> Finished {
        Run::new(self.minirun_command(c, args)).finish()
    }

    /// A shell script in a container with these options.
    pub(crate) fn sh(&self, c: &Container, options: &[&str], script: &str) -> Finished {
        let command = ["--", "/bin/sh", "-c", script];
        self.minirun(c, &[&["--rootless"], options, &command].concat())
    }

    /// A container in the background.
    pub(crate) fn detach<'a>(
        &self,
        c: &'a Container,
        options: &[&str],
        script: &str,
    ) -> super::container::Detached<'a> {
        let done = self.sh(c, &[&["-d"], options].concat(), script);
        let detached = super::container::Detached(c);
        done.assert_code(0);
        detached
    }

    /// A program of the host's.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Finished {
        let mut inner = Command::new(program);
        inner.args(args);
        Run::new(self.command(&inner)).finish()
    }

    /// A web server, which answers everything with `text`, as long as the test runs.
    pub(crate) fn serve(&self, address: &str, text: &'static str) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = self.inside(move || TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.read(&mut [0; 4096]);
                let length = text.len();
                let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
            }
        });
    }

    /// A name server where the host's resolv.conf says, which knows one IPv4 address.
    pub(crate) fn serve_names(&self) {
        let socket = self.inside(|| UdpSocket::bind("127.0.0.53:53").unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&answer(&buffer[..length]), from);
            }
        });
    }

    /// A socket belongs to the network that its thread was in when it was made.
    fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.holder.pid())).unwrap();
        let thread = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            make()
        });
        thread.join().unwrap()
    }
}

/// The answer to a query for A; to one for anything else that there is none (RFC 1035, section 4).
fn answer(query: &[u8]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|&b| b == 0).unwrap() + 1;
    let is_a = query[name_end..name_end + 2] == [0, 1];
    let mut text = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]].concat();
    text.extend_from_slice(&query[12..name_end + 4]);
    if is_a {
        // A pointer to the name, A, IN, a minute, four bytes.
        text.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        text.extend_from_slice(&ANSWER);
    }
    text
}
