//! Filesystems that a container mounts, tried in a child's own mount namespace.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ctsys::error::Context;
use ctsys::mount::{NewFilesystem, attach};
use ctsys::report::chain;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

use super::attempt::{self, Refusal};
use super::finding::Finding;
use crate::caller::Caller;
use crate::handshake::{Failure, Step};
use crate::refusal;

/// Directories one of which every system has, and the current directory need not be seen through.
const PLACES: [&str; 5] = ["/tmp", "/mnt", "/dev", "/usr", "/proc"];
/// Entries of a directory that are looked at for their type; `.` is there always.
const MAX_ENTRIES_LOOKED_AT: usize = 16;

/// A procfs of a container's own.
pub(super) fn proc(caller: &Caller) -> Finding {
    let check = "/proc";
    let is_proc = statfs("/proc").is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC);
    if !is_proc {
        return Finding::missing(check, "not mounted here", "sudo mount -t proc proc /proc");
    }
    match fresh(caller, "proc", CloneFlags::CLONE_NEWPID) {
        Ok(()) => Finding::fine(check, "a container can have its own"),
        Err(refusal) => covered(check, &refusal),
    }
}

/// A sysfs of a container's own.
pub(super) fn sys(caller: &Caller) -> Finding {
    let check = "/sys";
    match fresh(caller, "sysfs", CloneFlags::CLONE_NEWNET) {
        Ok(()) => Finding::fine(check, "a container can have its own"),
        Err(refusal) => covered(check, &refusal),
    }
}

fn fresh(caller: &Caller, kind: &str, namespace: CloneFlags) -> Result<(), Refusal> {
    let kinds = namespace | CloneFlags::CLONE_NEWNS;
    attempt::with_namespaces(kinds, &caller.own_maps(), || {
        NewFilesystem::open(kind)
            .and_then(|fs| fs.mount(0))
            .map(drop)
            .step(|| format!("cannot mount {kind}"))
    })
}

/// The kernel makes no new one where the one outside is covered in part (mount_too_revealing in
/// fs/namespace.c), or is not there.
fn covered(check: &'static str, refusal: &Refusal) -> Finding {
    Finding::warning(
        check,
        format!(
            "no container can have its own: the one here is not mounted, or partly covered as in other containers, so a container gets a view of this one: {}",
            chain(refusal)
        ),
        "where this is a container, start it with its paths unmasked: podman run --security-opt unmask=ALL, docker run --security-opt systempaths=unconfined",
    )
}

/// An overlay over the current directory, written to memory.
pub(super) fn overlay(caller: &Caller) -> Finding {
    let check = "overlay";
    let tried =
        attempt::with_namespaces(CloneFlags::CLONE_NEWNS, &caller.own_maps(), mount_overlay);
    let Err(refusal) = tried else {
        return Finding::fine(check, "can be mounted over the current directory");
    };
    let errno = match &refusal {
        Refusal::Inside(failure) => Errno::from_raw(failure.errno),
        _ => Errno::UnknownErrno,
    };
    let (cause, remedy) = match errno {
        Errno::ENODEV => ("the kernel has none", "sudo modprobe overlay".to_owned()),
        Errno::EINVAL => (
            "the current directory cannot be its lower layer, by its filesystem or by mounts inside",
            "run doctor where the root filesystems are; keep them on ext4, xfs, btrfs or tmpfs"
                .into(),
        ),
        errno => {
            let reason = refusal::step(errno);
            let remedy = format!("{}: {}", reason.cause, reason.remedy);
            ("the kernel refuses it in a user namespace", remedy)
        }
    };
    Finding::warning(
        check,
        format!("{cause}, so --ephemeral cannot be had: {}", chain(&refusal)),
        remedy,
    )
}

fn mount_overlay() -> Result<(), Failure> {
    attempt::detach_mounts()?;
    let tmpfs = NewFilesystem::open("tmpfs").and_then(|fs| fs.mount(0));
    let tmpfs = tmpfs.step(|| "cannot mount a tmpfs".into())?;
    let place = PLACES.iter().find_map(|place| Some((*place, directory(place)?)));
    let (place, onto) = place.ok_or_else(|| Failure::new("no directory to mount on"))?;
    // The current directory stays the same one, also where that covers it.
    attach(&tmpfs, onto.as_fd()).step(|| format!("cannot mount on {place}"))?;
    for name in ["upper", "work"] {
        let path = Path::new(place).join(name);
        std::fs::create_dir(&path)
            .call("mkdir", || format!("{path:?}"))
            .step(|| "cannot make a directory in a tmpfs".into())?;
    }
    let overlay = NewFilesystem::open("overlay").and_then(|fs| {
        fs.set("lowerdir", Some("."))?;
        fs.set("upperdir", Some(&format!("{place}/upper")))?;
        fs.set("workdir", Some(&format!("{place}/work")))?;
        fs.set("userxattr", None)?;
        fs.mount(0)
    });
    overlay.map(drop).step(|| "cannot mount an overlay".into())
}

fn directory(path: &str) -> Option<OwnedFd> {
    open(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

/// Whether the filesystem of the current directory says what its entries are, as an overlay's
/// layers have to (overlayfs in the kernel's documentation: d_type).
pub(super) fn directory_types() -> Finding {
    let check = "d_type";
    let open =
        |path: &str| File::open(path).ok().and_then(|file| Dir::from_fd(OwnedFd::from(file)).ok());
    let Some(mut dir) = open(".") else {
        return Finding::warning(
            check,
            "the current directory cannot be read",
            "run it where the root filesystems are",
        );
    };
    let untyped = dir
        .iter()
        .take(MAX_ENTRIES_LOOKED_AT)
        .any(|entry| entry.is_ok_and(|entry| entry.file_type().is_none()));
    if untyped {
        return Finding::warning(
            check,
            "the filesystem of the current directory does not say what its entries are, so overlays on it fail",
            "keep root filesystems on another one (xfs: made with -n ftype=1)",
        );
    }
    Finding::fine(check, "told by the filesystem of the current directory")
}
