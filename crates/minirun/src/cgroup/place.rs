//! Where a container's cgroup can be made.
//!
//! ```text
//! own cgroup, delegated, alone in it   ─▶ it
//! else systemd                         ─▶ a new scope, delegated
//!
//! PARENT                 holds no process once it hands controllers down (cgroup-v2.rst)
//! ├─ minirun             the process outside
//! └─ minirun-ID          the container
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ctsys::error::Context;
use ctsys::{SysError, xattr};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::error::{CgroupError, has_systemd};
use super::systemd;
use crate::plan::Resources;

/// Where the unified hierarchy is mounted (cgroups(7)).
pub(super) const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup of the process outside, beside the container's.
pub(super) const OUTSIDE: &str = "minirun";
/// A file of the kernel's that is read here: names of controllers, or a cgroup of each hierarchy.
const MAX_FILE_BYTES: u64 = 64 << 10;

type Result<T> = std::result::Result<T, CgroupError>;

/// A directory in which the caller may make the container's cgroup, ready for it: the controllers
/// are handed down, the caller is out of the way. May move the calling process.
pub(super) fn find(id: &str, resources: &Resources) -> Result<PathBuf> {
    let needed = resources.controllers();
    let parent = choose(id, &needed)?;
    hand_down(&parent, &needed)?;
    Ok(parent)
}

/// As [`find`], but nothing is handed down: for a process that only wants to know. It may be moved
/// to a new scope, which ends with it.
pub(super) fn look(id: &str, needed: &[&str]) -> Result<PathBuf> {
    let parent = choose(id, needed)?;
    require(&parent, needed)?;
    Ok(inside_mount(&parent))
}

fn choose(id: &str, needed: &[&str]) -> Result<PathBuf> {
    let limits = || if needed.is_empty() { "the cgroup".into() } else { needed.join(", ") };
    if statfs(MOUNT).map(|fs| fs.filesystem_type()) != Ok(CGROUP2_SUPER_MAGIC) {
        let hybrid = Path::new(MOUNT).join("unified").is_dir();
        return Err(CgroupError::NotUnified { limits: limits(), hybrid });
    }
    let own = own_cgroup()?;
    let delegated = is_delegated(&own);
    if delegated && (needed.is_empty() || is_alone(&own)?) {
        return Ok(own);
    }
    systemd::enter_new_scope(id).map_err(|source| CgroupError::NotDelegated {
        limits: limits(),
        cgroup: inside_mount(&own),
        occupied: delegated,
        source,
    })?;
    own_cgroup()
}

/// The caller's own cgroup, below [`MOUNT`].
fn own_cgroup() -> Result<PathBuf> {
    let file = Path::new("/proc/self/cgroup");
    let text = read(file)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    // Outside the caller's cgroup namespace, it has no path.
    let path = path.filter(|path| !path.starts_with(".."));
    let path = path.ok_or(Errno::ENOENT).call("read", || format!("{file:?}, 0::"));
    Ok(Path::new(MOUNT).join(path.map_err(sys("find the caller's cgroup"))?))
}

/// Whether the caller may divide `cgroup` and was given it to do so. Where systemd runs, what is
/// merely writable is not enough: in the slices of a user's manager, say, it sets limits of its own,
/// and takes controllers away again that none of its units asked for (systemd's CGROUP_DELEGATION).
fn is_delegated(cgroup: &Path) -> bool {
    let writable = ["", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|name| access(&cgroup.join(name), AccessFlags::W_OK).is_ok());
    writable && (!has_systemd() || is_marked(cgroup))
}

/// systemd's mark (since version 251) on what it has delegated.
fn is_marked(cgroup: &Path) -> bool {
    let mark = File::open(cgroup).ok().and_then(|dir| xattr::get_held(&dir, b"user.delegate").ok());
    mark.flatten().as_deref() == Some(b"1")
}

fn is_alone(cgroup: &Path) -> Result<bool> {
    let own = std::process::id().to_string();
    Ok(is_root(cgroup) || read(&cgroup.join("cgroup.procs"))?.lines().all(|pid| pid == own))
}

/// The hierarchy's root, which may hold processes and cgroups, has no type (cgroup-v2.rst).
fn is_root(cgroup: &Path) -> bool {
    !cgroup.join("cgroup.type").exists()
}

fn lacks(list: &str, name: &str) -> bool {
    !list.split_whitespace().any(|other| other == name)
}

/// Fails unless `parent` has these controllers to hand down.
fn require(parent: &Path, needed: &[&str]) -> Result<()> {
    let available = read(&parent.join("cgroup.controllers"))?;
    let missing: Vec<_> = needed.iter().copied().filter(|name| lacks(&available, name)).collect();
    if !missing.is_empty() {
        return Err(CgroupError::Controllers {
            missing: missing.join(", "),
            available: available.trim().to_owned(),
            cgroup: inside_mount(parent),
        });
    }
    Ok(())
}

fn hand_down(parent: &Path, needed: &[&str]) -> Result<()> {
    require(parent, needed)?;
    let control = parent.join("cgroup.subtree_control");
    let enabled = read(&control)?;
    let new = needed.iter().filter(|name| lacks(&enabled, name));
    let new: Vec<_> = new.map(|name| format!("+{name}")).collect();
    if new.is_empty() {
        return Ok(());
    }
    if !is_root(parent) {
        let outside = parent.join(OUTSIDE);
        make_directory(&outside).or_else(|error| match error.errno() {
            Errno::EEXIST => Ok(()),
            _ => Err(sys("make a cgroup for minirun itself")(error)),
        })?;
        write(&outside.join("cgroup.procs"), "0").map_err(sys("move minirun to its cgroup"))?;
    }
    write(&control, &new.join(" ")).map_err(sys("hand controllers down to the container's cgroup"))
}

/// As people and systemd name it.
fn inside_mount(cgroup: &Path) -> PathBuf {
    Path::new("/").join(cgroup.strip_prefix(MOUNT).unwrap_or(cgroup))
}

pub(super) fn make_directory(path: &Path) -> std::result::Result<(), SysError> {
    fs::DirBuilder::new().mode(0o755).create(path).call("mkdir", || format!("{path:?}"))
}

/// The text of one of the kernel's files.
pub(super) fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let opened = File::open(path).call("open", || format!("{path:?}"));
    let read = opened.and_then(|file| {
        let limited = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
        limited.call("read", || format!("{path:?}"))
    });
    match read {
        Ok(length) if length as u64 == MAX_FILE_BYTES => Err(Errno::EFBIG)
            .call("read", || format!("{path:?}, {MAX_FILE_BYTES}"))
            .map_err(sys("look at the caller's cgroup")),
        Ok(_) => Ok(text),
        Err(error) => Err(sys("look at the caller's cgroup")(error)),
    }
}

/// Writes to an existing file, in one write(2): each is a command to the kernel.
pub(super) fn write(path: &Path, text: &str) -> std::result::Result<(), SysError> {
    let mut file =
        File::options().write(true).open(path).call("open", || format!("{path:?}, O_WRONLY"))?;
    file.write_all(text.as_bytes()).call("write", || format!("{path:?}, {text:?}"))
}

pub(super) fn sys(step: &'static str) -> impl FnOnce(SysError) -> CgroupError {
    move |source| CgroupError::Sys { step, source }
}
