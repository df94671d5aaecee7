//! A root filesystem whose changes are thrown away: an overlay of it, all written to memory.
//!
//! ```text
//! tmpfs, on top of the root filesystem's place     in this mount namespace only
//!   lower/   the root filesystem, untouched
//!   upper/   what is changed
//!   work/    the kernel's own
//! overlay, on top of that                          becomes the root
//! ```
//!
//! The tmpfs goes away with the old root (pivot_root(2)): nothing in the container reaches it by a
//! path, and with the last process it is gone, so there is nothing to be cleaned up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ctsys::error::{Context, Result as SysResult};
use ctsys::mount::{Change, NewFilesystem, Propagation, attach, attr, change, clone_tree};
use ctsys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchdir, fchownat};

use super::target::stat;
use crate::config::ephemeral::Ephemeral;
use crate::handshake::{Failure, Step};

/// Only to see whether it can be set. The overlay shows no attribute of that name space.
const PROBE: &[u8] = b"user.overlay.minirun";

/// Mounts an overlay of the directory `place` on top of it, and returns it.
pub(super) fn cover(
    place: BorrowedFd<'_>,
    ephemeral: Ephemeral,
    notice: &mut dyn FnMut(String),
) -> Result<OwnedFd, Failure> {
    let lower = copy_of(place)?;
    let room = room(&lower, ephemeral).step(|| "cannot make room in memory".into())?;
    attach(&room, place)
        .and_then(|()| attach(&lower, open_directory(&room, "lower")?))
        .step(|| "cannot put room for changes over the root filesystem".into())?;
    let probed = open_directory(&room, "upper").and_then(|upper| xattr::set(upper, PROBE, b""));
    if probed.is_err_and(|error| error.errno() == Errno::EOPNOTSUPP) {
        notice(
            "this kernel keeps no attributes in memory (Linux 6.6 does): in an ephemeral container \
             a directory of the image that was removed cannot be made again"
                .into(),
        );
    }
    let tree = overlay(&room).map_err(refused)?;
    attach(&tree, place).step(|| "cannot put an overlay over the root filesystem".into())?;
    Ok(tree)
}

/// A mount of the root filesystem alone: overlays look into no mount below.
fn copy_of(place: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let lower = clone_tree(Some(place), Path::new(""), false)
        .step(|| "cannot put an overlay over the root filesystem".into())
        .map_err(|failure| match failure.errno {
            // The kernel makes no copy without what covers parts of it (mount_namespaces(7)).
            errno if errno == Errno::EINVAL as i32 => failure.hint(
                "something is mounted inside the root filesystem: unmount it, or leave --ephemeral out",
            ),
            _ => failure,
        })?;
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    change(&lower, private).step(|| "cannot make the root filesystem's mount private".into())?;
    Ok(lower)
}

/// The tmpfs with its three directories. `upper` is the container's `/`, so it is what `lower` is.
fn room(lower: &OwnedFd, ephemeral: Ephemeral) -> SysResult<OwnedFd> {
    let filesystem = NewFilesystem::open("tmpfs")?;
    filesystem.set("mode", Some("0700"))?;
    if let Some(size) = ephemeral.size_bytes {
        filesystem.set("size", Some(&size.to_string()))?;
    }
    let room = filesystem.mount(attr::NOSUID | attr::NODEV)?;
    let root = stat(lower)?;
    let mode = Mode::from_bits_truncate(root.st_mode);
    for (name, mode) in [("lower", Mode::S_IRWXU), ("upper", mode), ("work", Mode::S_IRWXU)] {
        mkdirat(&room, name, mode).call("mkdirat", || format!("{name:?}"))?;
    }
    let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    match fchownat(&room, "upper", Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW) {
        // An owner whom the container does not have shows as nobody's id, which it may not have
        // either: then the directory stays root's.
        Err(Errno::EINVAL) => Ok(room),
        other => other.map(|()| room).call("fchownat", || format!("upper, {uid}, {gid}")),
    }
}

/// The directories are named relative to the room: no name of the host's has to be quoted in an
/// option, and no /proc is needed.
fn overlay(room: &OwnedFd) -> SysResult<OwnedFd> {
    fchdir(room).call("fchdir", || "the room for changes".into())?;
    let filesystem = NewFilesystem::open("overlay")?;
    filesystem.set("source", Some("ephemeral"))?;
    filesystem.set("lowerdir", Some("lower"))?;
    filesystem.set("upperdir", Some("upper"))?;
    filesystem.set("workdir", Some("work"))?;
    // The kind of attributes that is open to a user namespace.
    filesystem.set("userxattr", None)?;
    filesystem.mount(0)
}

fn refused(error: ctsys::SysError) -> Failure {
    let errno = error.errno();
    let failure =
        Err::<(), _>(error).step(|| "cannot make an overlay of the root filesystem".into());
    let failure = failure.err().unwrap_or_else(|| Failure::new("cannot make an overlay"));
    failure.hint(match errno {
        Errno::ENODEV => "this kernel has no overlay filesystem; as root: modprobe overlay, or leave --ephemeral out",
        Errno::EPERM => "this kernel allows no overlay in a user namespace (Linux 5.11 does): leave --ephemeral out",
        _ => "the kernel puts no overlay over what the root filesystem lies on (more than one overlay already, or another filesystem that it does not take): move the root filesystem, or leave --ephemeral out",
    })
}

fn open_directory(room: &OwnedFd, name: &str) -> SysResult<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(room.as_fd(), name, flags, Mode::empty()).call("openat", || format!("{name:?}"))
}
