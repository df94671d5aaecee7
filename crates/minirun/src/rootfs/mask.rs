//! Paths that the container may not see, or not write.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ctsys::error::Result as SysResult;
use ctsys::mount::{Change, NewFilesystem, Propagation, attach, attr, change, clone_tree};
use nix::errno::Errno;
use nix::sys::stat::SFlag;

use super::dev::host_device;
use super::target::{Root, file_type, stat};
use crate::handshake::{Failure, Step};

/// Makes each path that exists read-only: the mount over it keeps what its source had (locked
/// flags) and adds that.
pub(super) fn make_readonly(root: Root<'_>, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let what = || format!("cannot make {path:?} read-only");
        let Some(place) = existing(root, path).step(what)? else { continue };
        let tree = clone_tree(Some(place.as_fd()), Path::new(""), true).step(what)?;
        let readonly = Change {
            set: attr::RDONLY,
            propagation: Some(Propagation::Private),
            ..Change::default()
        };
        change(&tree, readonly).step(what)?;
        attach(&tree, &place).step(what)?;
    }
    Ok(())
}

/// Covers each path that exists: a directory with the same empty one, a file with /dev/null.
pub(super) fn mask(root: Root<'_>, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let what = || format!("cannot mask {path:?}");
        let Some(place) = existing(root, path).step(what)? else { continue };
        if file_type(&stat(&place).step(what)?) != SFlag::S_IFDIR {
            let null = host_device(Path::new("/dev/null"), SFlag::S_IFCHR, 1, 3)?;
            attach(&null, &place).step(what)?;
            continue;
        }
        match &empty {
            // A mount can be copied once it is attached somewhere.
            Some(first) => {
                let copy = clone_tree(Some(first.as_fd()), Path::new(""), false).step(what)?;
                attach(&copy, &place).step(what)?;
            }
            None => {
                let first = empty_directory().step(what)?;
                attach(&first, &place).step(what)?;
                empty = Some(first);
            }
        }
    }
    Ok(())
}

fn empty_directory() -> SysResult<OwnedFd> {
    let filesystem = NewFilesystem::open("tmpfs")?;
    filesystem.set("mode", Some("0555"))?;
    filesystem.set("nr_inodes", Some("1"))?;
    filesystem.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// A kernel or an image without the path has nothing to protect there.
fn existing(root: Root<'_>, path: &Path) -> SysResult<Option<OwnedFd>> {
    match root.open(path) {
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        other => other.map(Some),
    }
}
