//! Why a container's limits cannot be set, and how it is made possible.

use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::report::Explain;
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::place::MOUNT;
use super::systemd::SystemdError;
use crate::refusal;

/// Why a container got no cgroup; implements `Explain` (125).
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has the old hierarchies, alone or beside the unified one.
    #[error("cannot limit {limits}: got cgroup v1{}, want v2 alone", if *.hybrid { " and v2 side by side" } else { "" })]
    NotUnified {
        /// What was to be limited.
        limits: String,
        /// Whether v2 is there, too.
        hybrid: bool,
    },
    /// The caller's cgroup is not the caller's to divide, and systemd gave no other.
    #[error("cannot limit {limits}: {cgroup:?} is {}", if *.occupied { "delegated, but other processes are in it" } else { "not delegated to this user" })]
    NotDelegated {
        /// What was to be limited.
        limits: String,
        /// The caller's cgroup, as /proc/self/cgroup has it.
        cgroup: PathBuf,
        /// It would do if the caller were alone in it.
        occupied: bool,
        /// Why there is no other.
        #[source]
        source: SystemdError,
    },
    /// A controller that is not handed down to the caller.
    #[error("cannot limit {missing}: {cgroup:?} has not got {}: got {available:?}", if missing.contains(',') { "these controllers" } else { "this controller" })]
    Controllers {
        /// What is not there, in the controllers' names.
        missing: String,
        /// What is.
        available: String,
        /// The delegated cgroup.
        cgroup: PathBuf,
    },
    /// The kernel does not take a limit.
    #[error("cannot set {file} to {value:?}")]
    Limit {
        /// The cgroup's file.
        file: String,
        /// The line.
        value: String,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// Something else runs in the cgroup that should be the container's.
    #[error("cgroup {0:?} is in use")]
    InUse(PathBuf),
    /// A system call.
    #[error("cannot {step}")]
    Sys {
        /// What it was for.
        step: &'static str,
        /// The cause.
        #[source]
        source: SysError,
    },
}

impl Explain for CgroupError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotUnified { .. } => "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or run without limits".into(),
            Self::NotDelegated { source, .. } => not_delegated_hint(source),
            Self::Controllers { missing, .. } => controllers_hint(missing),
            Self::Limit { source, .. } => match source.errno() {
                Errno::ENOENT => "this kernel has no such limit: run without it".into(),
                Errno::EINVAL | Errno::ERANGE | Errno::ENODEV => {
                    "the kernel takes no such value here: see its cgroup-v2 documentation".into()
                }
                errno => refusal::step(errno).hint(),
            },
            Self::InUse(_) => "is another container of that name running? choose another --name".into(),
            Self::Sys { source, .. } if source.errno() == Errno::EROFS => {
                READ_ONLY.into()
            }
            Self::Sys { source, .. } => refusal::step(source.errno()).hint(),
        })
    }

    fn exit_code(&self) -> u8 {
        125
    }
}

/// Where systemd runs the machine it is the one to ask; elsewhere an administrator.
fn not_delegated_hint(cause: &SystemdError) -> String {
    if statvfs(MOUNT).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)) {
        return READ_ONLY.into();
    }
    if !has_systemd() {
        return "as root, make a cgroup for this user: mkdir /sys/fs/cgroup/USER, chown it with its cgroup.procs and cgroup.subtree_control, and start minirun in it".into();
    }
    match cause {
        SystemdError::Unreachable(_) | SystemdError::Absent => "log in by ssh, login or machinectl shell, so that the user's systemd runs (package dbus-user-session), or as root: loginctl enable-linger USER".into(),
        _ => "try it by hand: systemd-run --user --scope -p Delegate=yes minirun ...".into(),
    }
}

fn controllers_hint(missing: &str) -> String {
    if !has_systemd() {
        return "as root, hand them down: write +CONTROLLER to cgroup.subtree_control of the cgroups above".into();
    }
    if missing.split(", ").any(|name| !SYSTEMD_DELEGATES.contains(&name)) {
        return "systemd does not hand these down: run without them".into();
    }
    "as root: mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' >/etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload; then log in again".into()
}

const READ_ONLY: &str =
    "/sys/fs/cgroup is read-only, as in other containers: run minirun outside, or without limits";

/// The controllers that systemd knows (systemd.resource-control(5)) and that users may have.
const SYSTEMD_DELEGATES: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// As sd_booted(3).
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
