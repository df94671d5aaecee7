//! File operations below a directory that somebody else's data fills.
//!
//! Nothing here takes a path that could leave the directory: a directory inside is opened by
//! [`RootDir::open_dir`], which refuses every symbolic link on the way, and everything else acts
//! on one name in an open directory and never follows that name. So neither a link that an image
//! brings nor one that another process puts there in mid-flight leads anywhere else.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use crate::error::{Context, Result, SysError};

/// Directories below each other that [`remove_at`] holds open at once. A deeper one is moved up
/// first, so that a tree of any depth is removed with few descriptors and little stack.
const MAX_REMOVE_DEPTH: usize = 8;

/// The permission of a directory that is being filled: its owner's alone, whatever it will be.
const WORKING_DIR_MODE: u32 = 0o700;

/// Which kind of file a [`Node`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A named pipe.
    Fifo,
    /// A character device by major and minor number.
    Char(u32, u32),
    /// A block device by major and minor number.
    Block(u32, u32),
}

/// A point in time as the kernel takes it: seconds and nanoseconds since 1970, the latter 0 to
/// 999,999,999 also before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// What the seconds lack.
    pub nanoseconds: u32,
}

/// A directory whose contents are reached by descriptors only.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    has_openat2: bool,
}

impl RootDir {
    /// Takes the open directory. Whether openat2(2) serves is found out here: seccomp filters of
    /// older engines deny it, and then each component is opened by itself.
    pub fn new(fd: OwnedFd) -> Self {
        let has_openat2 = open_beneath(fd.as_fd(), b".").is_ok();
        Self { fd, has_openat2 }
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens the directory at `path`, which is relative, has no `..`, and is empty for the root.
    /// A symbolic link in it, also as the last component, is `ELOOP` or `ENOTDIR`.
    pub fn open_dir(&self, path: &[u8]) -> Result<OwnedFd> {
        if path.is_empty() {
            return open_dir_at(self.fd.as_fd(), b".");
        }
        if self.has_openat2 {
            return open_beneath(self.fd.as_fd(), path);
        }
        let mut dir: Option<OwnedFd> = None;
        for name in path.split(|&b| b == b'/') {
            dir = Some(open_dir_at(dir.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd), name)?);
        }
        dir.map_or_else(|| open_dir_at(self.fd.as_fd(), b"."), Ok)
    }
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    nix::fcntl::openat2(root, path, how).call("openat2", || shown(root, path))
}

/// Opens the directory that a path of the caller's own names, following links: the way in.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .call("open", || format!("{path:?}, O_DIRECTORY"))
}

/// Opens the directory `name` in `dir`; a symbolic link is `ENOTDIR`.
pub fn open_dir_at(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(&dir, name, flags, Mode::empty()).call("openat", || shown(&dir, name))
}

/// Makes the regular file `name` in `dir`, for writing by the owner alone; one that is there
/// already, as anything, is `EEXIST`.
pub fn create_file_at(dir: impl AsFd, name: &[u8]) -> Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    nix::fcntl::openat(&dir, name, flags | OFlag::O_CLOEXEC, Mode::from_bits_retain(0o600))
        .map(File::from)
        .call("openat", || format!("{}, O_CREAT|O_EXCL", shown(&dir, name)))
}

/// Makes the directory `name` in `dir` with the mode of one that is being filled.
pub fn make_dir_at(dir: impl AsFd, name: &[u8]) -> Result<()> {
    nix::sys::stat::mkdirat(&dir, name, Mode::from_bits_retain(WORKING_DIR_MODE))
        .call("mkdirat", || shown(&dir, name))
}

/// Makes the symbolic link `name` in `dir`.
pub fn symlink_at(dir: impl AsFd, name: &[u8], target: &[u8]) -> Result<()> {
    nix::unistd::symlinkat(target, &dir, name).call("symlinkat", || {
        format!("{:?}, {}", target.escape_ascii().to_string(), shown(&dir, name))
    })
}

/// The target of the symbolic link `name` in `dir`.
pub fn read_link_at(dir: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    nix::fcntl::readlinkat(&dir, name)
        .map(OsStringExt::into_vec)
        .call("readlinkat", || shown(&dir, name))
}

/// Gives the file `from` in `from_dir` the further name `to` in `to_dir`. A symbolic link is
/// linked itself.
pub fn link_at(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> Result<()> {
    nix::unistd::linkat(&from_dir, from, &to_dir, to, AtFlags::empty())
        .call("linkat", || format!("{}, {}", shown(&from_dir, from), shown(&to_dir, to)))
}

/// Makes the special file `name` in `dir`.
pub fn make_node_at(dir: impl AsFd, name: &[u8], kind: NodeKind) -> Result<()> {
    let (flag, device) = match kind {
        NodeKind::Fifo => (SFlag::S_IFIFO, 0),
        NodeKind::Char(major, minor) => {
            (SFlag::S_IFCHR, nix::sys::stat::makedev(major.into(), minor.into()))
        }
        NodeKind::Block(major, minor) => {
            (SFlag::S_IFBLK, nix::sys::stat::makedev(major.into(), minor.into()))
        }
    };
    nix::sys::stat::mknodat(&dir, name, flag, Mode::from_bits_retain(0o600), device)
        .call("mknodat", || format!("{}, {kind:?}", shown(&dir, name)))
}

/// What stands at `name` in `dir`, a symbolic link not followed; `None` when nothing does.
pub fn stat_at(dir: impl AsFd, name: &[u8]) -> Result<Option<FileStat>> {
    match nix::sys::stat::fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        other => other.map(Some).call("fstatat", || shown(&dir, name)),
    }
}

/// What the descriptor refers to.
pub fn stat(fd: impl AsFd) -> Result<FileStat> {
    nix::sys::stat::fstat(&fd).call("fstat", || raw(&fd).to_string())
}

/// Whether `stat` is of this type (`libc::S_IFDIR` …).
pub fn is_type(stat: &FileStat, wanted: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == wanted
}

/// Sets the owner of an open file. An id that the user namespace does not map is `EINVAL`.
pub fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    nix::unistd::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .call("fchown", || format!("{}, {uid}, {gid}", raw(&fd)))
}

/// As [`set_owner`], of `name` in `dir` itself.
pub fn set_owner_at(dir: impl AsFd, name: &[u8], uid: u32, gid: u32) -> Result<()> {
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    nix::unistd::fchownat(&dir, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)
        .call("fchownat", || format!("{}, {uid}, {gid}", shown(&dir, name)))
}

/// Sets the permission bits of an open file, not subject to the umask.
pub fn set_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(&fd, Mode::from_bits_retain(mode))
        .call("fchmod", || format!("{}, {mode:#o}", raw(&fd)))
}

/// As [`set_mode`], of `name` in `dir`, which is not a symbolic link: a link is `ELOOP`.
///
/// fchmodat(2) before Linux 6.6 cannot be told not to follow, so the file is held by a descriptor
/// first and reached through it; special files cannot be opened otherwise.
pub fn set_mode_at(dir: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let held = nix::fcntl::openat(&dir, name, flags, Mode::empty())
        .call("openat", || format!("{}, O_PATH", shown(&dir, name)))?;
    if is_type(&stat(&held)?, libc::S_IFLNK) {
        return Err(SysError::new("chmod", shown(&dir, name), Errno::ELOOP));
    }
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    let bits = Mode::from_bits_retain(mode);
    nix::sys::stat::fchmodat(&held, path.as_str(), bits, FchmodatFlags::FollowSymlink)
        .call("chmod", || format!("{}, {mode:#o}", shown(&dir, name)))
}

/// Sets access and modification time of an open file.
pub fn set_times(fd: impl AsFd, accessed: FileTime, modified: FileTime) -> Result<()> {
    nix::sys::stat::futimens(fd.as_fd(), &time_spec(accessed), &time_spec(modified))
        .call("futimens", || format!("{}, {modified:?}", raw(&fd)))
}

/// As [`set_times`], of `name` in `dir` itself.
pub fn set_times_at(
    dir: impl AsFd,
    name: &[u8],
    accessed: FileTime,
    modified: FileTime,
) -> Result<()> {
    let (accessed, modified) = (time_spec(accessed), time_spec(modified));
    let flag = UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(&dir, name, &accessed, &modified, flag)
        .call("utimensat", || shown(&dir, name))
}

/// Removes the name `name` in `dir`; a directory is `EISDIR`.
pub fn unlink_at(dir: impl AsFd, name: &[u8]) -> Result<()> {
    nix::unistd::unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir)
        .call("unlinkat", || shown(&dir, name))
}

/// Removes the empty directory `name` in `dir`.
pub fn remove_dir_at(dir: impl AsFd, name: &[u8]) -> Result<()> {
    nix::unistd::unlinkat(&dir, name, UnlinkatFlags::RemoveDir)
        .call("unlinkat", || format!("{}, AT_REMOVEDIR", shown(&dir, name)))
}

/// Renames `from` to `to`, both in `dir`.
pub fn rename_at(dir: impl AsFd, from: &[u8], to: &[u8]) -> Result<()> {
    nix::fcntl::renameat(&dir, from, &dir, to)
        .call("renameat", || format!("{}, {}", shown(&dir, from), shown(&dir, to)))
}

/// Moves `from` in `from_dir` to `to` in `to_dir`, on the same file system. Two names of one file
/// stay as they are, both of them (rename(2)).
pub fn move_at(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> Result<()> {
    nix::fcntl::renameat(&from_dir, from, &to_dir, to)
        .call("renameat", || format!("{}, {}", shown(&from_dir, from), shown(&to_dir, to)))
}

/// Exchanges `one` and `other`, both in `dir`, in one step.
pub fn exchange_at(dir: impl AsFd, one: &[u8], other: &[u8]) -> Result<()> {
    let exchanged = one.with_nix_path(|from| {
        other.with_nix_path(|to| {
            let (dir, from, to) = (raw(&dir), from.as_ptr(), to.as_ptr());
            // By number, as nix has a wrapper for one C library only.
            // SAFETY: both names are zero-terminated and outlive the call.
            let result = unsafe {
                libc::syscall(libc::SYS_renameat2, dir, from, dir, to, libc::RENAME_EXCHANGE)
            };
            Errno::result(result).map(drop)
        })
    });
    exchanged.and_then(|inner| inner).and_then(|inner| inner).call("renameat2", || {
        format!("{}, {}, RENAME_EXCHANGE", shown(&dir, one), shown(&dir, other))
    })
}

/// Takes the lock of an open file or directory (flock(2)), which its last descriptor's end
/// releases, also by SIGKILL. `false` when another holds it.
pub fn try_lock(fd: impl AsFd) -> Result<bool> {
    #[allow(deprecated)] // nix's `Flock` owns what it locks; this one is used on meanwhile.
    match nix::fcntl::flock(raw(&fd), nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Err(Errno::EWOULDBLOCK) => Ok(false),
        other => other.map(|()| true).call("flock", || raw(&fd).to_string()),
    }
}

/// The names in an open directory, without `.` and `..`, in the kernel's order.
pub fn names(dir: impl AsFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    // A descriptor of its own: the position of the caller's is left alone.
    let mut stream =
        Dir::from_fd(open_dir_at(&dir, b".")?).call("fdopendir", || raw(&dir).to_string())?;
    for entry in stream.iter() {
        let entry = entry.call("getdents64", || raw(&dir).to_string())?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes whatever stands at `name` in `dir`, a directory with all in it, also where modes that
/// an image set keep its owner out. What is gone already is no error. What is mounted in there is
/// somebody else's: it stays, and is `EXDEV` (a directory) or `EBUSY` (a file).
pub fn remove_at(dir: impl AsFd, name: &[u8]) -> Result<()> {
    let mut moved_up = 0;
    remove_below(dir.as_fd(), name, None, 0, &mut moved_up)
}

/// `top` is the directory that deep ones are moved up to: the one that is being removed.
fn remove_below(
    dir: BorrowedFd<'_>,
    name: &[u8],
    top: Option<BorrowedFd<'_>>,
    depth: usize,
    moved_up: &mut u64,
) -> Result<()> {
    match unlink_at(dir, name) {
        // POSIX has EPERM for an unlinked directory, Linux EISDIR.
        Err(e) if matches!(e.errno(), Errno::EISDIR | Errno::EPERM) => {
            if !stat_at(dir, name)?.is_some_and(|s| is_type(&s, libc::S_IFDIR)) {
                return Err(e);
            }
        }
        Err(e) if e.errno() == Errno::ENOENT => return Ok(()),
        other => return other,
    }
    let own = match open_to_remove(dir, name) {
        // Another run removes the same.
        Err(e) if e.errno() == Errno::ENOENT => return Ok(()),
        other => other?,
    };
    if let Some(top) = top.filter(|_| depth >= MAX_REMOVE_DEPTH) {
        *moved_up += 1;
        let aside = format!(".removing-{}-{moved_up}", std::process::id());
        return nix::fcntl::renameat(dir, name, top, aside.as_bytes())
            .call("renameat", || format!("{}, {aside:?}", shown(dir, name)));
    }
    loop {
        let moved_before = *moved_up;
        for child in names(&own)? {
            let top = top.unwrap_or(own.as_fd());
            remove_below(own.as_fd(), child.to_bytes(), Some(top), depth + 1, moved_up)?;
        }
        // Only the top gets new names from below.
        if top.is_some() || *moved_up == moved_before {
            break;
        }
    }
    match remove_dir_at(dir, name) {
        Err(e) if e.errno() == Errno::ENOENT => Ok(()),
        other => other,
    }
}

/// Opens a directory whose names are to go, after taking the rights for it where they lack.
fn open_to_remove(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let own = match open_unmounted(dir, name) {
        Err(e) if e.errno() == Errno::EACCES => {
            set_mode_at(dir, name, WORKING_DIR_MODE)?;
            open_unmounted(dir, name)?
        }
        other => other?,
    };
    if stat(&own)?.st_mode & WORKING_DIR_MODE != WORKING_DIR_MODE {
        // Root may remove without; for others the next step says why it cannot.
        let _ = set_mode(&own, WORKING_DIR_MODE);
    }
    Ok(own)
}

/// As [`open_dir_at`]; `EXDEV` when something is mounted on the directory, also another part of the
/// same file system.
fn open_unmounted(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match nix::fcntl::openat2(dir, name, how) {
        // Denied by a seccomp filter: file systems are told apart by their number at least.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let own = open_dir_at(dir, name)?;
            if stat(&own)?.st_dev != stat(dir)?.st_dev {
                return Err(SysError::new("openat", shown(dir, name), Errno::EXDEV));
            }
            Ok(own)
        }
        other => other.call("openat2", || format!("{}, RESOLVE_NO_XDEV", shown(dir, name))),
    }
}

fn time_spec(time: FileTime) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanoseconds.into())
}

fn raw(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

fn shown(dir: impl AsFd, name: &[u8]) -> String {
    format!("{}, \"{}\"", raw(&dir), name.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Both ways to open: by openat2 and by single components.
    fn both(dir: &Path) -> [RootDir; 2] {
        let open = || open_dir(dir).unwrap();
        assert!(RootDir::new(open()).has_openat2, "openat2 is needed to test it");
        [RootDir::new(open()), RootDir { fd: open(), has_openat2: false }]
    }

    #[test]
    fn no_link_is_followed_on_the_way_to_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("root/a/b")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        symlink("../outside", temp.path().join("root/up")).unwrap();
        symlink("b", temp.path().join("root/a/link")).unwrap();
        fs::write(temp.path().join("root/file"), "").unwrap();
        for root in both(&temp.path().join("root")) {
            root.open_dir(b"").unwrap();
            root.open_dir(b"a/b").unwrap();
            for (path, want) in [
                (&b"up"[..], [Errno::ELOOP, Errno::ENOTDIR]),
                (b"a/link", [Errno::ELOOP, Errno::ENOTDIR]),
                (b"a/link/x", [Errno::ELOOP, Errno::ENOTDIR]),
                (b"file/x", [Errno::ENOTDIR; 2]),
                (b"none", [Errno::ENOENT; 2]),
            ] {
                let got = root.open_dir(path).unwrap_err().errno();
                assert!(want.contains(&got), "{}: {got:?}", path.escape_ascii());
            }
        }
    }

    #[test]
    fn a_tree_goes_whatever_its_depth_and_modes_and_a_link_in_it_stays_unfollowed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("kept"), "").unwrap();
        let mut deep = temp.path().join("tree");
        for _ in 0..300 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        symlink(temp.path(), deep.join("link")).unwrap();
        fs::set_permissions(temp.path().join("tree/d"), PermissionsExt::from_mode(0o000)).unwrap();
        let parent = open_dir(temp.path()).unwrap();
        remove_at(&parent, b"tree").unwrap();
        remove_at(&parent, b"tree").unwrap();
        let left: Vec<_> = names(&parent).unwrap();
        assert_eq!(left, [c"kept".to_owned()]);
    }

    #[test]
    fn a_mode_is_not_set_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        symlink("file", temp.path().join("link")).unwrap();
        let dir = open_dir(temp.path()).unwrap();
        assert_eq!(set_mode_at(&dir, b"link", 0o4777).unwrap_err().errno(), Errno::ELOOP);
        set_mode_at(&dir, b"file", 0o4751).unwrap();
        let mode = fs::metadata(temp.path().join("file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o4751);
    }

    #[test]
    fn a_lock_is_seen_by_another_descriptor() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (open_dir(temp.path()).unwrap(), open_dir(temp.path()).unwrap());
        assert!(try_lock(&one).unwrap());
        assert!(!try_lock(&two).unwrap());
        drop(one);
        assert!(try_lock(&two).unwrap());
    }
}
