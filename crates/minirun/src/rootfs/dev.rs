//! `/dev`: the host's devices by bind mount, as a user namespace makes none of its own; the usual
//! links; the container's terminal. All below one descriptor of the directory (CVE-2026-41579).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ctsys::error::Context;
use ctsys::mount::{attach, clone_tree};
use ctsys::tty::{self, WindowSize};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchown, symlinkat};

use super::target::{Kind, Root, is_device, make_file, stat};
use crate::handshake::{Failure, Step};
use crate::plan::{Device, Process};

/// Name, major and minor number of what every container has (runtime-spec, config-linux.md,
/// "Default Devices").
const DEFAULT: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Link, and what it says. `core` is what runc adds.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`.
pub(super) fn fill(root: Root<'_>, more: &[Device]) -> Result<(), Failure> {
    let dev = root
        .open_or_make(Path::new("/dev"), Kind::Directory)
        .step(|| "cannot open /dev in the root filesystem".into())?;
    for &(name, major, minor) in DEFAULT {
        let tree =
            host_device(Path::new("/dev").join(name).as_path(), SFlag::S_IFCHR, major, minor)?;
        let what = || format!("cannot make /dev/{name}");
        let onto = make_file(&dev, OsStr::new(name)).step(what)?;
        attach(&tree, &onto).step(what)?;
    }
    for &(name, to) in LINKS {
        match symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => {
                return Err(errno)
                    .call("symlinkat", || format!("{to:?}, {name:?}"))
                    .step(|| format!("cannot make /dev/{name}"));
            }
        }
    }
    for device in more.iter().filter(|d| !is_default(d)) {
        let kind = if device.is_block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let tree = host_device(&device.path, kind, device.major, device.minor)?;
        let what = || format!("cannot make {:?}", device.path);
        let onto = root.open_or_make(&device.path, Kind::File).step(what)?;
        attach(&tree, &onto).step(what)?;
    }
    Ok(())
}

/// A mount of the host's device at `path`, which must be the one with these numbers: something else
/// in its place would be shown, or written to, in its name (CVE-2025-31133).
pub(super) fn host_device(
    path: &Path,
    kind: SFlag,
    major: u32,
    minor: u32,
) -> Result<OwnedFd, Failure> {
    let what = || format!("cannot bind the host's {}", path.display());
    let tree = clone_tree(None, path, false).step(what)?;
    if is_device(&stat(&tree).step(what)?, kind, major, minor) {
        return Ok(tree);
    }
    Err(Failure::new(format!("{}: it is not device {major}:{minor}", what()))
        .hint("restore the device file on the host"))
}

/// A terminal in the container's own devpts: (master, slave), the slave also `/dev/console`.
pub(super) fn open_terminal(
    root: Root<'_>,
    process: &Process,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let what = || "cannot open a terminal in the container".to_owned();
    let pts = root.open_plain(Path::new("/dev/pts")).step(what)?;
    // Set before the program can ask: the caller's window, which nobody has in the background.
    let size = tty::callers_window_size().or(process.console_size);
    let (master, slave) = open_pty(&pts, process.uid, size)?;
    let tree = clone_tree(Some(slave.as_fd()), Path::new(""), false).step(what)?;
    // Where an image's own /dev has a link of that name, it is covered, not followed (CVE-2025-52565).
    let dev = root.open_or_make(Path::new("/dev"), Kind::Directory).step(what)?;
    let console = make_file(&dev, OsStr::new("console")).step(what)?;
    attach(&tree, &console).step(what)?;
    Ok((master, slave))
}

/// A new terminal of the devpts at `pts`, owned by `uid`: (master, slave).
pub(crate) fn open_pty(
    pts: impl AsFd,
    uid: u32,
    size: Option<WindowSize>,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let what = || "cannot open a terminal in the container".to_owned();
    let kind = fstatfs(&pts).call("fstatfs", || "/dev/pts".into()).step(what)?.filesystem_type();
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(Failure::new("cannot open a terminal: /dev/pts in the container is no devpts")
            .hint("add a devpts mount on /dev/pts, or run without a terminal"));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let master =
        openat(&pts, "ptmx", flags, Mode::empty()).call("openat", || "/dev/pts/ptmx".into());
    let master = master.step(what)?;
    if !is_device(&stat(&master).step(what)?, SFlag::S_IFCHR, 5, 2) {
        return Err(Failure::new("cannot open a terminal: /dev/pts/ptmx is no terminal device"));
    }
    if let Some(size) = size {
        tty::set_window_size(&master, size).step(what)?;
    }
    let slave = tty::open_slave(&master).step(what)?;
    fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>)
        .call("fchown", || format!("slave, {uid}"))
        .step(what)?;
    Ok((master, slave))
}

fn is_default(device: &Device) -> bool {
    device.path.strip_prefix("/dev").is_ok_and(|name| {
        DEFAULT.iter().any(|(n, major, minor)| {
            Path::new(n) == name && (*major, *minor) == (device.major, device.minor)
        })
    })
}
