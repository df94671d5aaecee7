//! The namespaces of a configuration: those to create, and those to join.

use std::path::PathBuf;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{PlanError, Result, container_path, invalid};

/// A namespace that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its kind.
    pub kind: CloneFlags,
    /// The absolute path of its file.
    pub path: PathBuf,
}

/// All of them.
pub(super) fn with_joined(new: CloneFlags, joined: &[Joined]) -> CloneFlags {
    joined.iter().fold(new, |all, joined| all | joined.kind)
}

/// Those to create and those to join.
pub(super) fn of(linux: &Linux) -> Result<(CloneFlags, Vec<Joined>)> {
    let (mut flags, mut new) = (CloneFlags::empty(), CloneFlags::empty());
    let mut joined = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        let flag = match kind {
            LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
            LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
            LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
            LinuxNamespaceType::Time => {
                return Err(PlanError::Unsupported("a time namespace".into()));
            }
        };
        if flags.contains(flag) {
            return Err(invalid("linux.namespaces", &kind.to_string(), "each type once"));
        }
        flags |= flag;
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => new |= flag,
            // The file tree is built in a mount namespace of its own: in another's it would be
            // built for all who are there.
            Some(_) if flag == CloneFlags::CLONE_NEWNS => {
                return Err(PlanError::Unsupported(format!("an existing {kind} namespace")));
            }
            Some(path) => {
                let path = container_path(path, "linux.namespaces path")?;
                joined.push(Joined { kind: flag, path });
            }
        }
    }
    if !flags.contains(CloneFlags::CLONE_NEWUSER) {
        return Err(PlanError::NoUserNamespace);
    }
    if !flags.contains(CloneFlags::CLONE_NEWPID) {
        return Err(PlanError::Missing("a pid namespace in linux.namespaces"));
    }
    if !flags.contains(CloneFlags::CLONE_NEWNS) {
        return Err(PlanError::Missing("a mount namespace in linux.namespaces"));
    }
    // Rights in the others come with the user namespace.
    joined.sort_by_key(|joined| joined.kind != CloneFlags::CLONE_NEWUSER);
    Ok((new, joined))
}
