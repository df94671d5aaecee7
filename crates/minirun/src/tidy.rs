//! Takes back what a start that failed has made in the root filesystem: the places to mount on that
//! it lacked.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes those of `made` in `rootfs` that are still as they were made: empty. Nothing is followed:
/// where a link leads somewhere else now, that stays. To be called once the container's mounts are
/// gone and while no other container of that root filesystem runs or starts: removing a directory
/// takes away what another namespace has mounted on it (rmdir(2)).
pub(crate) fn remove_made(rootfs: &Path, made: &[PathBuf]) {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(root) = open(rootfs, flags, Mode::empty()) else { return };
    for path in made.iter().rev() {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(parent) = open_plain(&root, parent)
        {
            // What cannot be removed stays, as it would have without a failure.
            let _ = remove_empty(&parent, name);
        }
    }
}

fn open_plain(root: &OwnedFd, dir: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let below = dir.strip_prefix("/").unwrap_or(dir);
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    openat2(root, below, OpenHow::new().flags(flags).resolve(resolve))
}

fn remove_empty(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let found = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => unlinkat(parent, name, UnlinkatFlags::RemoveDir),
        SFlag::S_IFREG if found.st_size == 0 && found.st_nlink == 1 => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
        }
        _ => Ok(()),
    }
}
