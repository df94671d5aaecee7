//! Whose ports are forwarded: a name becomes a process, held by its pidfd, and its network.
//!
//! One file a source of names. An explicit scheme (`pid:`) goes to its source alone; a bare name is
//! looked for in each of the others in turn.

mod minirun;
mod pid;

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ctsys::SysError;
use ctsys::error::Context as _;
use ctsys::process::ProcessId;
use ctsys::report::Explain;
use ctsys::state::StateError;
use nix::errno::Errno;

/// A process whose network is to be reached.
#[derive(Debug)]
pub struct Target {
    /// What to call it in messages: as the user typed it.
    pub name: String,
    /// Its process number, for messages.
    pub pid: i32,
    /// The process itself: readable once it has ended.
    pub pidfd: OwnedFd,
    /// Where its sockets live.
    pub network: Network,
    /// The TCP ports that it says it serves.
    pub exposed_ports: Vec<u16>,
}

/// The network namespace of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The caller's own: its ports are reached without joining anything.
    Own,
    /// Another one, by inode number on nsfs, which is unique while the namespace lives.
    Other {
        /// The inode number.
        inode: u64,
    },
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The text before the colon is no source of names.
    #[error("unknown kind of target {0:?}")]
    UnknownScheme(String),
    /// Not a process number.
    #[error("invalid target {0:?}: want a process number after pid:")]
    InvalidPid(String),
    /// There is no such process.
    #[error("no process {0}")]
    NoProcess(i32),
    /// It has ended, but its parent has not collected it.
    #[error("process {0} has ended already (a zombie)")]
    Zombie(i32),
    /// The number is that of one thread of a process.
    #[error("{thread} is a thread, not a process")]
    Thread {
        /// The thread.
        thread: i32,
        /// Its process.
        process: i32,
    },
    /// No container of that name.
    #[error("unknown target {name:?}")]
    Unknown {
        /// The name.
        name: String,
        /// The containers that there are.
        known: Vec<String>,
        /// Where they are recorded: root's and each user's are apart.
        dir: PathBuf,
    },
    /// A name that means several.
    #[error("ambiguous target {name:?}: could be {}", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it could mean.
        candidates: Vec<String>,
    },
    /// The container has no process to reach it by.
    #[error("container {name:?} is {status}")]
    NotRunning {
        /// The name.
        name: String,
        /// Its status.
        status: &'static str,
    },
    /// The containers' records cannot be read.
    #[error("cannot read minirun's containers")]
    State(#[source] StateError),
    /// The process is somebody else's.
    #[error("not permitted to enter the network of {name}, a process of uid {owner}")]
    NotPermitted {
        /// The target.
        name: String,
        /// Its owner.
        owner: u32,
        /// The call that was refused.
        #[source]
        source: SysError,
    },
    /// A system call failed.
    #[error("cannot look at {name}")]
    Sys {
        /// The target.
        name: String,
        /// The call.
        #[source]
        source: SysError,
    },
}

type Result<T> = std::result::Result<T, TargetError>;

impl Target {
    /// The target that `name` means.
    pub fn find(name: &str) -> Result<Self> {
        match name.split_once(':') {
            Some(("pid", number)) => pid::find(name, number),
            Some((scheme, _)) => Err(TargetError::UnknownScheme(scheme.to_owned())),
            None => minirun::find(name),
        }
    }

    /// The target by the identity of its process; `None` when that has ended.
    fn open(name: &str, process: ProcessId, exposed_ports: Vec<u16>) -> Result<Option<Self>> {
        let sys = |source| TargetError::Sys { name: name.to_owned(), source };
        let pid = process.pid;
        let Some(pidfd) = process.open().map_err(sys)? else { return Ok(None) };
        let network = match network_of(pid) {
            Err(e) if e.errno() == Errno::EACCES || e.errno() == Errno::EPERM => {
                return Err(not_permitted(name, pid, e));
            }
            Err(e) if e.errno() == Errno::ENOENT => return Ok(None),
            other => other.map_err(sys)?,
        };
        // Alive still, so the number was the process's own while the namespace was looked at.
        if !process.is_alive().map_err(sys)? {
            return Ok(None);
        }
        Ok(Some(Self { name: name.to_owned(), pid, pidfd, network, exposed_ports }))
    }
}

impl Explain for TargetError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownScheme(_) | Self::InvalidPid(_) => {
                "want the name or id of a container that minirun runs, or pid:N".into()
            }
            Self::NoProcess(_) | Self::Zombie(_) => "see ps for what runs".into(),
            Self::Thread { process, .. } => format!("its process is pid:{process}"),
            Self::Unknown { known, dir, .. } if known.is_empty() => format!(
                "minirun has recorded no container in {}; pid:N forwards to any process",
                dir.display()
            ),
            Self::Unknown { known, dir, .. } => {
                format!("minirun's containers in {} are: {}", dir.display(), known.join(", "))
            }
            Self::Ambiguous { .. } => "give more of the id, or the name".into(),
            Self::NotRunning { .. } => "see minirun list for what runs".into(),
            Self::NotPermitted { owner, .. } => not_permitted_hint(*owner),
            Self::State(_) | Self::Sys { .. } => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownScheme(_) | Self::InvalidPid(_) => 2,
            _ => 1,
        }
    }
}

fn network_of(pid: i32) -> ctsys::error::Result<Network> {
    let own = namespace_inode("/proc/self/ns/net")?;
    let inode = namespace_inode(&format!("/proc/{pid}/ns/net"))?;
    Ok(if inode == own { Network::Own } else { Network::Other { inode } })
}

/// The inode number of the namespace that `path` leads to.
pub(crate) fn namespace_inode(path: &str) -> ctsys::error::Result<u64> {
    std::fs::metadata(path).map(|m| m.ino()).call("stat", || format!("{path:?}"))
}

fn not_permitted_hint(owner: u32) -> String {
    match nix::unistd::geteuid().as_raw() {
        0 => "this root lacks CAP_SYS_PTRACE; run pfwd where it has not been taken".into(),
        me if me == owner => {
            "the process hides itself from its user; name another one of the container, or be root"
                .into()
        }
        _ => format!("run pfwd as the user with uid {owner}, or as root"),
    }
}

/// The owner is looked up for the message alone.
pub(crate) fn not_permitted(name: &str, pid: i32, source: SysError) -> TargetError {
    let owner = std::fs::metadata(format!("/proc/{pid}")).map_or(0, |m| m.uid());
    TargetError::NotPermitted { name: name.to_owned(), owner, source }
}
