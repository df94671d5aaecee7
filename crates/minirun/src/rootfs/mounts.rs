//! The configured mounts, each onto a target that was opened first.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ctsys::mount::{Change, NewFilesystem, Propagation, attach, attr, change, clone_tree};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::SFlag;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, fstatfs, statfs};

use super::target::{Kind, Root, file_type, stat};
use crate::handshake::{Failure, Step};
use crate::plan::{Mount, MountSource, Plan};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Filesystems that a user namespace can mount (`FS_USERNS_MOUNT` in the kernel): where one of them
/// is refused, its type is not why.
const MOUNTABLE: &[&str] = &[
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "overlay", "cgroup", "cgroup2", "fuse",
];

/// Makes one mount. `later` are attribute flags that must wait until the set-up is done with it.
pub(super) fn make(
    root: Root<'_>,
    mount: &Mount,
    later: u64,
    plan: &Plan,
    notice: &mut dyn FnMut(String),
) -> Result<(), Failure> {
    let path = &mount.target;
    match &mount.source {
        MountSource::Bind { path: source, recursive } => bind(root, mount, source, *recursive),
        MountSource::New { kind, source, options } => {
            let new = || new_filesystem(kind, source.as_deref(), options, mount.set & !later);
            match new() {
                Ok(tree) => place(root, path, &tree, kind == "proc" || kind == "sysfs"),
                // The kernel makes no new one where the one outside has parts covered, as in a
                // container: it would show them (mount_too_revealing in fs/namespace.c).
                Err(error) if error.errno() == Errno::EPERM && is_nested(kind, plan) => {
                    let numbers = if kind == "proc" { ", with its process numbers" } else { "" };
                    notice(format!(
                        "the kernel allows no {kind} of its own here (the one outside is partly \
                         covered, as in a container): {path:?} shows the outer one{numbers}"
                    ));
                    outer(root, mount, kind)
                }
                Err(error) => Err(refused(error, mount, kind, plan.all_namespaces())),
            }
        }
        MountSource::Cgroup => cgroup(root, mount, plan.all_namespaces()),
    }
}

/// Whether the namespaces would allow a new filesystem of that kind, so that only covered parts of
/// the outer one can be the reason of a refusal.
fn is_nested(kind: &str, plan: &Plan) -> bool {
    kind == "proc" || kind == "sysfs" && plan.all_namespaces().contains(CloneFlags::CLONE_NEWNET)
}

/// Shows the outer procfs or sysfs instead of a new one.
fn outer(root: Root<'_>, mount: &Mount, kind: &str) -> Result<(), Failure> {
    let source = Path::new(if kind == "proc" { "/proc" } else { "/sys" });
    let tree =
        clone_tree(None, source, true).step(|| format!("cannot bind the outer {source:?}"))?;
    let all = Change {
        set: mount.set,
        propagation: Some(Propagation::Private),
        recursive: true,
        ..Change::default()
    };
    change(&tree, all).step(|| shown(mount))?;
    place(root, &mount.target, &tree, true)
}

fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
    attrs: u64,
) -> ctsys::error::Result<OwnedFd> {
    let filesystem = NewFilesystem::open(kind)?;
    if let Some(source) = source {
        filesystem.set("source", Some(source))?;
    }
    for (key, value) in options {
        filesystem.set(key, value.as_deref())?;
    }
    filesystem.mount(attrs)
}

fn refused(error: ctsys::SysError, mount: &Mount, kind: &str, namespaces: CloneFlags) -> Failure {
    let errno = error.errno();
    let failure = Err::<(), _>(error).step(|| shown(mount)).err();
    let failure = failure.unwrap_or_else(|| Failure::new(shown(mount)));
    match (kind, errno) {
        ("devpts", Errno::EINVAL) => failure
            .hint("a gid= that the user namespace does not map is refused: remove it from the mount's options"),
        ("tmpfs", Errno::EINVAL) => {
            failure.hint("check its options; a uid= or gid= must be an id that the container has")
        }
        ("sysfs", Errno::EPERM) if !namespaces.contains(CloneFlags::CLONE_NEWNET) => failure.hint(
            "a new sysfs needs a network namespace of its own: bind /sys instead (options rbind, ro)",
        ),
        ("mqueue", Errno::EPERM) if !namespaces.contains(CloneFlags::CLONE_NEWIPC) => {
            failure.hint("a new mqueue needs an ipc namespace of its own")
        }
        (_, Errno::ENODEV) => failure.hint("this kernel has no such filesystem: check the type"),
        (_, Errno::EPERM) if !MOUNTABLE.contains(&kind) => {
            failure.hint("this filesystem cannot be mounted in a user namespace: bind a mounted one")
        }
        _ => failure,
    }
}

fn bind(root: Root<'_>, mount: &Mount, source: &Path, recursive: bool) -> Result<(), Failure> {
    let tree = clone_tree(None, source, recursive)
        .step(|| format!("cannot bind {source:?}"))
        .map_err(|failure| match failure.errno {
            errno if errno == Errno::ENOENT as i32 => {
                failure.hint("the source of a bind mount must exist on the host")
            }
            // Else what a mount below covers would come to light (mount_namespaces(7)).
            errno if errno == Errno::EINVAL as i32 && !recursive => {
                failure.hint("something is mounted below it, which the kernel shows along or not at all: take rbind")
            }
            _ => failure,
        })?;
    let on_proc = mount.target == Path::new("/proc");
    if on_proc {
        let found = fstatfs(&tree).map(|s| s.filesystem_type());
        if found != Ok(PROC_SUPER_MAGIC) {
            return Err(Failure::new(format!("cannot bind {source:?} on /proc: it is not procfs"))
                .hint("mount elsewhere: correct config.json, or the -v"));
        }
    }
    for step in mount.changes() {
        change(&tree, step).step(|| shown(mount)).map_err(|failure| {
            if failure.errno == Errno::EPERM as i32 {
                failure.hint("the host has mounted it with ro, nosuid, nodev or noexec, and only root may take that away: leave rw, suid, dev and exec out")
            } else {
                failure
            }
        })?;
    }
    place(root, &mount.target, &tree, on_proc)
}

/// The version 2 hierarchy as this container's cgroup namespace shows it; in any other layout, and
/// where the kernel refuses that, the host's own.
fn cgroup(root: Root<'_>, mount: &Mount, namespaces: CloneFlags) -> Result<(), Failure> {
    let is_v2 = statfs(CGROUP_ROOT).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if is_v2 && namespaces.contains(CloneFlags::CLONE_NEWCGROUP) {
        match new_filesystem("cgroup2", Some("cgroup"), &[], mount.set) {
            Ok(tree) => return place(root, &mount.target, &tree, false),
            Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EBUSY) => {}
            Err(error) => return Err(error).step(|| shown(mount)),
        }
    }
    let tree = clone_tree(None, Path::new(CGROUP_ROOT), true)
        .step(|| "cannot bind the host's /sys/fs/cgroup".into())?;
    let all = Change {
        set: mount.set,
        clear: mount.clear & attr::ATIME_MASK,
        propagation: Some(Propagation::Private),
        recursive: true,
    };
    change(&tree, all).step(|| shown(mount))?;
    place(root, &mount.target, &tree, false)
}

/// Attaches `tree` at `path`, which is made if it is missing. Where `plain`, a symbolic link on the
/// way is refused: an image must not move /proc or /sys elsewhere (CVE-2019-19921).
fn place(root: Root<'_>, path: &Path, tree: &OwnedFd, plain: bool) -> Result<(), Failure> {
    let what = || format!("cannot mount on {path:?}");
    let is_dir = file_type(&stat(tree).step(what)?) == SFlag::S_IFDIR;
    let kind = if is_dir { Kind::Directory } else { Kind::File };
    let mut onto = root.open_or_make(path, kind).step(what).map_err(|failure| {
        failure.hint(format!(
            "the root filesystem has no such place and it cannot be made there (a file or a dangling link in the way, or no right to write): make {path:?} in the root filesystem, or mount elsewhere"
        ))
    })?;
    if plain {
        onto = root.open_plain(path).step(what).map_err(|failure| {
            if failure.errno == Errno::ELOOP as i32 {
                failure.hint("the image has a symbolic link there, which could hide a fake: remove it from the root filesystem")
            } else {
                failure
            }
        })?;
    }
    attach(tree.as_fd(), &onto).step(what)
}

fn shown(mount: &Mount) -> String {
    let target = &mount.target;
    match &mount.source {
        MountSource::Bind { path, .. } => format!("cannot bind {path:?} on {target:?}"),
        MountSource::New { kind, .. } => format!("cannot mount {kind} on {target:?}"),
        MountSource::Cgroup => format!("cannot mount cgroup on {target:?}"),
    }
}
