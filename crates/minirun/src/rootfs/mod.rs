//! From the plan to the container's file tree: mounts, devices, masks, the new root.

mod dev;
mod mask;
mod mounts;
mod overlay;
mod sysctl;
mod target;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ctsys::error::Context;
use ctsys::mount::{Change, Propagation, attach, attr, change, clone_tree, pivot_root};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

pub(crate) use dev::open_pty;

use crate::handshake::{Failure, Step};
use crate::plan::{MountSource, Plan};
use target::{Kind, Made, Root};

/// A terminal of the container.
#[derive(Debug)]
pub struct Terminal {
    /// For the process outside.
    pub master: OwnedFd,
    /// For the user's program.
    pub slave: OwnedFd,
}

/// Builds the container's file tree in the caller's own mount namespace and makes it the root.
/// `notice` is told what the user should know; `made`, also where it fails, what was made in the root
/// filesystem itself because a place to mount on was missing.
pub fn set_up(
    plan: &Plan,
    notice: &mut dyn FnMut(String),
    made: &mut dyn FnMut(PathBuf),
) -> Result<Option<Terminal>, Failure> {
    // In a namespace of a user's own the kernel has made all mounts slaves already; where it is
    // not, nothing may spread to the host.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .call("mount", || "\"/\", MS_REC|MS_SLAVE".into())
        .step(|| "cannot detach the mounts from the host's".into())?;
    let tree = attach_root(plan, notice)?;
    let all = Made::default();
    let result = build(plan, &tree, Root::new(tree.as_fd(), &all), notice);
    // What lies in a mount goes with that, as all of an overlay does.
    let covered = |path: &PathBuf| {
        plan.ephemeral.is_some()
            || plan.mounts.iter().any(|m| path.starts_with(&m.target) && *path != m.target)
    };
    all.into_paths().into_iter().filter(|path| !covered(path)).for_each(made);
    result
}

fn build(
    plan: &Plan,
    tree: &OwnedFd,
    root: Root<'_>,
    notice: &mut dyn FnMut(String),
) -> Result<Option<Terminal>, Failure> {
    let dev = Path::new("/dev");
    for mount in &plan.mounts {
        // A read-only /dev is filled first.
        let later = if mount.target == dev { attr::RDONLY } else { 0 };
        mounts::make(root, mount, later, plan, notice)?;
    }
    let dev_mount = plan.mounts.iter().rfind(|m| m.target == dev);
    if !dev_mount.is_some_and(|m| matches!(m.source, MountSource::Bind { .. })) {
        dev::fill(root, &plan.devices)?;
    }
    let terminal = if plan.process.terminal {
        let (master, slave) = dev::open_terminal(root, &plan.process)?;
        Some(Terminal { master, slave })
    } else {
        None
    };
    root.open_or_make(&plan.process.cwd, Kind::Directory)
        .step(|| format!("cannot open the working directory {:?}", plan.process.cwd))
        .map_err(|f| f.hint("it must be a directory of the container, or one that can be made there: choose another with -w DIR"))?;
    sysctl::write(&plan.sysctls)?;
    mask::make_readonly(root, &plan.readonly_paths)?;
    mask::mask(root, &plan.masked_paths)?;
    if dev_mount.is_some_and(|m| m.set & attr::RDONLY != 0) {
        let readonly = Change { set: attr::RDONLY, ..Change::default() };
        root.open(dev)
            .and_then(|dev| change(dev, readonly))
            .step(|| "cannot make /dev read-only".into())?;
    }
    let last = Change {
        set: if plan.readonly { attr::RDONLY } else { 0 },
        propagation: plan.propagation.filter(|p| *p != Propagation::Private),
        ..Change::default()
    };
    if last != Change::default() {
        change(tree, last).step(|| "cannot change the root mount".into())?;
    }
    pivot_root(tree).step(|| "cannot change the root".into())?;
    Ok(terminal)
}

/// A copy of the mount at the root filesystem on top of it, or an overlay of it: what pivot_root(2)
/// wants, a mount's root.
fn attach_root(plan: &Plan, notice: &mut dyn FnMut(String)) -> Result<OwnedFd, Failure> {
    let rootfs = &plan.rootfs;
    let what = || format!("cannot open the root filesystem {rootfs:?}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let place = open(rootfs, flags, Mode::empty())
        .call("open", || format!("{rootfs:?}"))
        .step(what)
        .map_err(|f| f.hint("every directory on the way must let the container's root in (x)"))?;
    if let Some(ephemeral) = plan.ephemeral {
        return overlay::cover(place.as_fd(), ephemeral, notice);
    }
    let tree = clone_tree(Some(place.as_fd()), Path::new(""), true).step(what)?;
    let private =
        Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    change(&tree, private).step(what)?;
    attach(&tree, &place).step(what)?;
    Ok(tree)
}
