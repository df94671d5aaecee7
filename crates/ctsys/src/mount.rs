//! Mounts by descriptor (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)): a target that
//! was looked up once stays that target, whatever happens to its path meanwhile.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::error::{Context, Result, SysError};

/// Longest message taken from a filesystem context's log; the kernel's are one short line each.
const MAX_LOG_BYTES: usize = 512;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Flags of a mount, as mount_setattr(2) has them.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-id bits and file capabilities have no effect.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device files cannot be opened.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// The field that the three access time modes share; relatime is its zero.
    pub const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
    /// Access times are not updated.
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
}

/// How mounts and unmounts spread between copies of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither in nor out.
    Private,
    /// In only.
    Slave,
    /// In and out.
    Shared,
    /// Neither, and no copies can be made.
    Unbindable,
}

/// What mount_setattr(2) is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// [`attr`] flags to set.
    pub set: u64,
    /// [`attr`] flags to clear.
    pub clear: u64,
    /// Propagation to give it.
    pub propagation: Option<Propagation>,
    /// On all mounts below too.
    pub recursive: bool,
}

/// A filesystem that is being configured.
#[derive(Debug)]
pub struct NewFilesystem {
    fd: OwnedFd,
    kind: String,
}

impl NewFilesystem {
    /// Starts one of the type `kind` (`proc`, `tmpfs`, …).
    pub fn open(kind: &str) -> Result<Self> {
        let name = c_string(kind.as_bytes(), "fsopen")?;
        // SAFETY: `name` is a string with a final NUL that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        let fd = new_fd(fd).call("fsopen", || format!("{kind:?}"))?;
        Ok(Self { fd, kind: kind.into() })
    }

    /// Sets an option: `key` alone, or `key=value`.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        let shown = || match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_owned(),
        };
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        let key_c = c_string(key.as_bytes(), "fsconfig")?;
        let value_c = value.map(|v| c_string(v.as_bytes(), "fsconfig")).transpose()?;
        self.configure(command, Some(&key_c), value_c.as_deref(), shown)
    }

    /// Makes the filesystem and a mount of it that is attached nowhere yet.
    pub fn mount(self, attrs: u64) -> Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, None, || "create".into())?;
        // SAFETY: three integers; touches no memory of ours.
        let fd = unsafe {
            libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), FSMOUNT_CLOEXEC, attrs)
        };
        new_fd(fd).call("fsmount", || format!("{:?}, {attrs:#x}", self.kind))
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&std::ffi::CStr>,
        value: Option<&std::ffi::CStr>,
        shown: impl FnOnce() -> String,
    ) -> Result<()> {
        let key = key.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
        let fd = self.fd.as_raw_fd();
        // SAFETY: `key` and `value` are each null or a string with a final NUL that outlives the
        // call.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) };
        if result == 0 {
            return Ok(());
        }
        let errno = Errno::last();
        Err(SysError::new("fsconfig", format!("{:?}, {}{}", self.kind, shown(), self.log()), errno))
    }

    /// What the filesystem says about its refusal, if anything.
    fn log(&self) -> String {
        let mut buffer = [0; MAX_LOG_BYTES];
        match nix::unistd::read(&self.fd, &mut buffer) {
            Ok(length) if length > 2 => {
                let text = String::from_utf8_lossy(buffer.get(2..length).unwrap_or_default());
                format!("; {}", text.trim())
            }
            _ => String::new(),
        }
    }
}

/// A copy of the mount at `path` (relative to `dir`, or the working directory), attached nowhere;
/// with `recursive`, of all mounts below it too. An empty path means `dir` itself.
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let name = c_string(path.as_os_str().as_bytes(), "open_tree")?;
    let at_fd = dir.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= libc::AT_EMPTY_PATH.cast_unsigned();
    }
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: `name` is a string with a final NUL that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, at_fd, name.as_ptr(), flags) };
    new_fd(fd).call("open_tree", || format!("{at_fd}, {path:?}, OPEN_TREE_CLONE"))
}

/// Attaches the mount `from` (by [`clone_tree`] or [`NewFilesystem::mount`]) on top of `onto`.
pub fn attach(from: impl AsFd, onto: impl AsFd) -> Result<()> {
    let (from, onto) = (from.as_fd().as_raw_fd(), onto.as_fd().as_raw_fd());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are the empty string with its final NUL, and static.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), onto, c"".as_ptr(), flags)
    };
    Errno::result(result).map(drop).call("move_mount", || format!("{from}, {onto}"))
}

/// mount_setattr(2) on the mount that `fd` is in.
pub fn change(fd: impl AsFd, change: Change) -> Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let attr = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation.map_or(0, Propagation::flag),
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a static empty string, `attr` outlives the call and its size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop).call("mount_setattr", || format!("{fd}, {change:?}"))
}

/// Makes the directory `root`, which must be a mount's root, the root of this mount namespace, and
/// takes the old one away (pivot_root(2), "pivot_root(".", ".")").
pub fn pivot_root(root: impl AsFd) -> Result<()> {
    nix::unistd::fchdir(&root).call("fchdir", || format!("{}", root.as_fd().as_raw_fd()))?;
    nix::unistd::pivot_root(".", ".").call("pivot_root", || "\".\", \".\"".into())?;
    // The old root now lies on top of the new one.
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)
        .call("umount2", || "\".\", MNT_DETACH".into())?;
    nix::unistd::chdir("/").call("chdir", || "\"/\"".into())
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

fn c_string(bytes: &[u8], call: &'static str) -> Result<CString> {
    CString::new(bytes).map_err(|_| {
        SysError::new(call, format!("{:?}", String::from_utf8_lossy(bytes)), Errno::EINVAL)
    })
}

/// The descriptor that a successful call returned.
fn new_fd(result: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the caller passes the result of a call that returns a fresh descriptor, which
    // nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
