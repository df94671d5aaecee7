//! Namespaces that a container shares with another, or that a file names.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ctsys::error::Context;
use ctsys::idmap::{self, IdMaps, IdRange};
use ctsys::ns;
use ctsys::process::ProcessId;
use ctsys::state::{StateError, StateRoot, Status};
use nix::sys::statfs::{FsType, fstatfs};

use super::{Network, NetworkError, Result};
use crate::config::network::{Changes, Namespace, Net, NetworkOptions};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// What there is to share.
#[derive(Debug)]
pub(crate) struct Shared {
    main: Option<ProcessId>,
    user: Option<(PathBuf, IdMaps)>,
    held: Option<OwnedFd>,
    net: Namespace,
    pid: Option<PathBuf>,
    /// The state directory of the container whose network it is.
    dir: Option<PathBuf>,
}

impl Shared {
    /// Looks for it; `None` when nothing is to be shared.
    pub(crate) fn find(options: &NetworkOptions) -> Result<Option<Self>> {
        match (&options.net, &options.pid) {
            (Some(Net::Path(path)), None) => Self::file(path).map(Some),
            (Some(Net::Path(_)), Some(_)) => Err(NetworkError::Two),
            (Some(Net::Container(net)), pid) => {
                let shared = Self::container(net, true)?;
                let other = pid.as_ref().map(|pid| Self::container(pid, false)).transpose()?;
                if other.as_ref().is_some_and(|other| other.main != shared.main) {
                    return Err(NetworkError::Two);
                }
                Ok(Some(Self { pid: other.and_then(|other| other.pid), ..shared }))
            }
            // As a pod does, it shares the network too unless another is asked for.
            (net, Some(pid)) => Self::container(pid, net.is_none()).map(Some),
            _ => Ok(None),
        }
    }

    /// The maps of the user namespace that is to be shared, if `wanted`, which the root filesystem
    /// needs, are among them.
    pub(crate) fn maps(&self, wanted: &IdMaps) -> Result<Option<IdMaps>> {
        let Some((_, maps)) = &self.user else { return Ok(None) };
        let holds = |theirs: &[IdRange], own: &[IdRange]| {
            own.iter().all(|r| theirs.iter().any(|t| contains(t, r)))
        };
        if holds(&maps.uids, &wanted.uids) && holds(&maps.gids, &wanted.gids) {
            Ok(Some(maps.clone()))
        } else {
            Err(NetworkError::OtherMaps)
        }
    }

    /// Changes what is decided; the directory that has the other container's files.
    pub(super) fn change(self, network: &mut Network, changes: &mut Changes) -> Option<PathBuf> {
        network.shared = self.main;
        network._held = self.held;
        changes.own_sysfs = self.user.is_some() && self.net != Namespace::Host;
        changes.user = self.user.map(|(path, _)| path);
        changes.pid = self.pid;
        if self.net == Namespace::Unchanged {
            changes.own_sysfs = changes.net != Namespace::Host;
            return None;
        }
        changes.net = self.net;
        self.dir
    }

    /// By its main command: its init lets nobody in.
    fn container(name: &str, with_net: bool) -> Result<Self> {
        let root = StateRoot::find_default().map_err(NetworkError::State)?;
        let root = root.ok_or_else(|| NetworkError::State(StateError::NotFound(name.into())))?;
        let state = root.find(name).map_err(NetworkError::State)?;
        let status = state.live_status().map_err(NetworkError::State)?;
        let main = state.main.or(state.init).filter(|_| status == Status::Running);
        let not_running = || NetworkError::NotRunning { name: state.name.clone(), status };
        let main = main.ok_or_else(not_running)?;
        let of = |kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", main.pid));
        let look = |source| NetworkError::Sys { step: "look at the other container", source };
        let maps = idmap::of_process(main.pid).map_err(look)?;
        let net = match with_net {
            true if is_own(&of("net"))? => Namespace::Host,
            true => Namespace::At(of("net")),
            false => Namespace::Unchanged,
        };
        // Alive still, so the number was the command's own all the while.
        if !main.is_alive().map_err(look)? {
            return Err(NetworkError::NotRunning { name: state.name, status: Status::Stopped });
        }
        let dir = root.container_dir(&state.id).map_err(NetworkError::State)?;
        let user = Some((of("user"), maps));
        let dir = Some(dir).filter(|_| matches!(net, Namespace::At(_)));
        Ok(Self { main: Some(main), user, held: None, net, pid: Some(of("pid")), dir })
    }

    /// A namespace file. Where a user namespace of the caller's owns it, it is joined by that one's
    /// root, in it; where the caller's own does, by the caller, who has to be root.
    fn file(path: &Path) -> Result<Self> {
        let sys = |source| NetworkError::Namespace { path: path.into(), source };
        let file = File::open(path).call("open", || format!("{path:?}")).map_err(sys)?;
        let kind = fstatfs(&file).call("fstatfs", || format!("{path:?}")).map_err(sys)?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NetworkError::NotNamespace { path: path.into() });
        }
        let foreign = |source| NetworkError::Foreign { path: path.into(), source };
        let owner = ns::owner(&file).map_err(foreign)?;
        let mut shared =
            Self { main: None, user: None, held: None, net: at(path), pid: None, dir: None };
        if inode(format!("/proc/self/fd/{}", owner.as_raw_fd()))? == inode("/proc/self/ns/user")? {
            if !nix::unistd::geteuid().is_root() {
                let errno = nix::errno::Errno::EPERM;
                return Err(foreign(ctsys::SysError::new("setns", format!("{path:?}"), errno)));
            }
            return Ok(shared);
        }
        let maps = idmap::of_namespace(&owner).map_err(foreign)?;
        let user = PathBuf::from(format!("/proc/self/fd/{}", owner.as_raw_fd()));
        shared.user = Some((user, maps));
        shared.held = Some(owner);
        Ok(shared)
    }
}

fn at(path: &Path) -> Namespace {
    Namespace::At(path.into())
}

fn is_own(path: &Path) -> Result<bool> {
    Ok(inode(path)? == inode("/proc/self/ns/net")?)
}

/// A namespace is known by its inode on nsfs, which is one device.
fn inode(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let looked = std::fs::metadata(path).call("stat", || format!("{path:?}"));
    let looked = looked.map(|meta| meta.ino());
    looked.map_err(|source| NetworkError::Namespace { path: path.into(), source })
}

/// Whether `range` lies in `whole`, at the same ids outside.
fn contains(whole: &IdRange, range: &IdRange) -> bool {
    let offset = range.inside.checked_sub(whole.inside);
    offset.is_some_and(|offset| {
        range.outside.checked_sub(whole.outside) == Some(offset)
            && whole.count.checked_sub(offset).is_some_and(|rest| rest >= range.count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_held_at_the_same_place_only() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let whole = range(1, 1_000_000, 65_536);
        assert!(contains(&whole, &whole));
        assert!(contains(&whole, &range(5, 1_000_004, 10)));
        assert!(!contains(&whole, &range(5, 1_000_005, 10)));
        assert!(!contains(&whole, &range(0, 999_999, 1)));
        assert!(!contains(&whole, &range(65_536, 1_065_535, 2)));
    }
}
