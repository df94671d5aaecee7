//! What the configuration depends on beside image and flags: who calls, and on what machine.

use std::io::IsTerminal;

use ctsys::capability;
use ctsys::idmap::IdMaps;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The caller and the machine, looked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The host has the unified cgroup hierarchy only. runc asks the same way.
    pub cgroup2: bool,
    /// Standard input and standard output are terminals.
    pub on_terminal: bool,
}

/// CAP_SETGID and CAP_SETUID: what mapping more than the own ids takes (user_namespaces(7)).
const SET_IDS: u64 = 1 << 6 | 1 << 7;

impl Caller {
    /// Looks.
    pub fn look() -> Self {
        let cgroups = statfs("/sys/fs/cgroup").map(|fs| fs.filesystem_type());
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            cgroup2: cgroups == Ok(CGROUP2_SUPER_MAGIC),
            on_terminal: std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        }
    }

    /// The ids that this caller may map without anybody's grant: root all of its namespace as they
    /// are, unless it lacks the capabilities, as in most containers; others the own ones.
    pub fn own_maps(&self) -> IdMaps {
        let is_privileged =
            || capability::effective().is_ok_and(|effective| effective & SET_IDS == SET_IDS);
        match self.uid {
            0 if is_privileged() => IdMaps::identity(),
            uid => IdMaps::single(uid, self.gid),
        }
    }
}
