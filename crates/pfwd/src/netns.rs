//! Sockets made inside the target's network namespace.
//!
//! Only socket(2) has to run in there: connect(2) uses the namespace that the socket was made in,
//! whoever calls it. So no process of ours lives in the container. A helper joins the namespaces
//! and hands out sockets that are not connected:
//!
//! ```text
//! event loop                          helper, one thread, no capabilities, holds this channel only
//!    |  Joined                     <-    | setns through the pidfd
//!    |  request: family, count     ->    | socket(2) count times
//!    |  answer: errno + sockets    <-    |
//!    |  end of the channel         ->    | exits
//! ```
//!
//! Without root, setns(2) takes a network namespace only together with the user namespace that owns
//! it, and that only from a process with one thread: hence a process, cloned before the first
//! thread exists.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::clone::{self, Child};
use ctsys::error::{Context as _, Result as SysResult};
use ctsys::{SysError, confine, fdpass, ns};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::target::{Network, Target, namespace_inode};

/// A connection that is silent this long is asked whether its peer still is there.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
/// The most bytes of the helper's messages.
const MESSAGE_BYTES: usize = 8;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Why the helper could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespaces may not be joined.
    #[error("cannot join the network namespace of {target}")]
    Join {
        /// The target's name.
        target: String,
        /// The call.
        #[source]
        source: SysError,
    },
    /// The target left the namespace that it was seen in.
    #[error("{target} changed its network namespace meanwhile: got {got}, want {want}")]
    Changed {
        /// The target's name.
        target: String,
        /// The inode number of the namespace joined.
        got: u64,
        /// The inode number of the namespace seen first.
        want: u64,
    },
    /// The helper did not come up.
    #[error("cannot start the helper in the target's namespaces")]
    Start(#[source] SysError),
}

/// Where sockets come from.
#[derive(Debug)]
pub enum Namespace {
    /// The caller's own network.
    Own,
    /// A helper in another one.
    Joined(Helper),
}

/// The helper; it ends with this value.
#[derive(Debug)]
pub struct Helper {
    channel: OwnedFd,
    child: Child,
}

impl Namespace {
    /// Joins the target's network. The caller must have one thread only.
    pub fn enter(target: &Target) -> Result<Self, NetnsError> {
        match target.network {
            Network::Own => Ok(Self::Own),
            Network::Other { inode } => Helper::start(target, inode).map(Self::Joined),
        }
    }

    /// `count` TCP sockets, at most [`fdpass::MAX_FDS`]: not connected, non-blocking, close-on-exec.
    pub fn sockets(&self, family: Family, count: u8) -> SysResult<Vec<OwnedFd>> {
        match self {
            Self::Own => (0..count).map(|_| make_socket(family)).collect(),
            Self::Joined(helper) => helper.sockets(family, count),
        }
    }

    /// Readable once the helper has ended, which it does not do by itself; `None` without one.
    pub fn helper_pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own => None,
            Self::Joined(helper) => Some(helper.child.pidfd.as_fd()),
        }
    }
}

impl Helper {
    fn start(target: &Target, inode: u64) -> Result<Self, NetnsError> {
        let (channel, theirs) = fdpass::pair().map_err(NetnsError::Start)?;
        let child = clone::spawn(CloneFlags::empty(), || run(&theirs, &target.pidfd))
            .map_err(NetnsError::Start)?;
        drop(theirs);
        let helper = Self { channel, child };
        let mut message = [0; MESSAGE_BYTES];
        let (length, _) =
            fdpass::receive(&helper.channel, &mut message).map_err(NetnsError::Start)?;
        let name = || target.name.clone();
        match Joined::decode(message.get(..length).unwrap_or_default()) {
            Some(Joined::Inode(got)) if got == inode => Ok(helper),
            Some(Joined::Inode(got)) => {
                Err(NetnsError::Changed { target: name(), got, want: inode })
            }
            Some(Joined::Refused(errno)) => {
                let source = SysError::new("setns", "pidfd, CLONE_NEWUSER|CLONE_NEWNET", errno);
                Err(NetnsError::Join { target: name(), source })
            }
            None => Err(NetnsError::Start(SysError::new("recvmsg", "helper", Errno::EPIPE))),
        }
    }

    fn sockets(&self, family: Family, count: u8) -> SysResult<Vec<OwnedFd>> {
        fdpass::send(&self.channel, &[family.to_byte(), count], &[])?;
        let mut message = [0; MESSAGE_BYTES];
        let (length, sockets) = fdpass::receive(&self.channel, &mut message)?;
        match message.get(..length) {
            Some(&[a, b, c, d]) => match i32::from_le_bytes([a, b, c, d]) {
                0 => Ok(sockets),
                errno => {
                    let shown = format!("{family:?}, SOCK_STREAM");
                    Err(SysError::new("socket", shown, Errno::from_raw(errno)))
                }
            },
            _ => Err(SysError::new("recvmsg", "helper", Errno::EPIPE)),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Not collected yet, so the number is its own.
        let pid = Pid::from_raw(self.child.pid);
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }
}

impl Family {
    fn to_byte(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// As socket(2) wants it.
    pub(crate) fn domain(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

/// The helper's first message.
enum Joined {
    /// It is in the network namespace with this inode number.
    Inode(u64),
    /// setns(2) failed.
    Refused(Errno),
}

impl Joined {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Inode(inode) => inode.to_le_bytes().to_vec(),
            Self::Refused(errno) => (*errno as i32).to_le_bytes().to_vec(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if let Ok(inode) = bytes.try_into() {
            return Some(Self::Inode(u64::from_le_bytes(inode)));
        }
        let errno = i32::from_le_bytes(bytes.try_into().ok()?);
        Some(Self::Refused(Errno::from_raw(errno)))
    }
}

/// The helper's life; returns its exit code, which nobody looks at.
fn run(channel: &OwnedFd, pidfd: &OwnedFd) -> u8 {
    let joined = match confine::hide().and_then(|()| join(pidfd)) {
        // Looked at now: nothing is opened any more once capabilities are gone.
        Ok(()) => namespace_inode("/proc/self/ns/net").map(Joined::Inode),
        Err(error) => Ok(Joined::Refused(error.errno())),
    };
    // A helper that cannot be locked down ends, which its parent takes for a failed start.
    let ready = joined.and_then(|joined| lock_down(channel).map(|()| joined));
    match ready.and_then(|joined| fdpass::send(channel, &joined.encode(), &[])) {
        Ok(()) => serve(channel),
        Err(_) => 1,
    }
}

/// Root needs, and has the right to, the network namespace alone: joining its user namespace as well
/// would be refused to a root without all privileges. Others get that right by joining the user
/// namespace first, which the kernel does in one call.
fn join(pidfd: &OwnedFd) -> SysResult<()> {
    match ns::join(pidfd, CloneFlags::CLONE_NEWNET) {
        Err(first) if first.errno() == Errno::EPERM => {
            match ns::join(pidfd, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
                // The target is in the caller's own user namespace, which nobody can join again.
                Err(second) if second.errno() == Errno::EINVAL => Err(first),
                other => other,
            }
        }
        other => other,
    }
}

fn lock_down(channel: &OwnedFd) -> SysResult<()> {
    confine::close_all_but(channel)?;
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
        let cleared = caps::clear(None, set).map_err(|_| Errno::EPERM);
        cleared.call("capset", || format!("{set:?}, none"))?;
    }
    confine::bind_to_parent()
}

/// Answers requests until the channel ends.
fn serve(channel: &OwnedFd) -> u8 {
    loop {
        let mut request = [0; 2];
        let Ok((2, _)) = fdpass::receive(channel, &mut request) else { return 0 };
        let [family, count] = request;
        let Some(family) = Family::from_byte(family) else { return 1 };
        let made: SysResult<Vec<OwnedFd>> = (0..count).map(|_| make_socket(family)).collect();
        let (errno, sockets) = match made {
            Ok(sockets) => (0, sockets),
            Err(error) => (error.errno() as i32, Vec::new()),
        };
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        if fdpass::send(channel, &errno.to_le_bytes(), &fds).is_err() {
            return 0;
        }
    }
}

fn make_socket(family: Family) -> SysResult<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family.domain(), SockType::Stream, flags, None)
        .call("socket", || format!("{family:?}, SOCK_STREAM"))?;
    tune(&made)?;
    Ok(made)
}

/// What both sides of a connection have: no delay of small writes, urgent data in its place among
/// the rest, where else it would be lost, and a question to a peer that has long been silent.
pub(crate) fn tune(socket: &OwnedFd) -> SysResult<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true).call("setsockopt", || "TCP_NODELAY".into())?;
    setsockopt(socket, sockopt::OobInline, &true).call("setsockopt", || "SO_OOBINLINE".into())?;
    setsockopt(socket, sockopt::KeepAlive, &true).call("setsockopt", || "SO_KEEPALIVE".into())?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)
        .call("setsockopt", || format!("TCP_KEEPIDLE, {KEEPALIVE_IDLE_SECONDS}"))
}
