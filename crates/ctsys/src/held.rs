//! Looking at what stands in a directory that somebody else may change meanwhile.
//!
//! A name is held by a descriptor first (`O_PATH`, open(2)), which opens nothing: no pipe is waited
//! at, no device is started, no link is followed. What is asked then is asked of the held file,
//! through `/proc/self/fd`, so it all is of one and the same, whatever the name stands for by then.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;
use nix::unistd::Whence;

use crate::error::{Context, Result, SysError};
use crate::rootdir;

const HOLD: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Holds what stands at `name` in `dir`, a symbolic link itself; `None` when nothing does. Where
/// something is mounted on it that is `EXDEV`: it is not the directory's own.
pub fn hold_at(dir: impl AsFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    let how = OpenHow::new().flags(HOLD).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let dir = dir.as_fd();
    let held = match nix::fcntl::openat2(dir, name, how) {
        // Denied by a seccomp filter.
        Err(Errno::ENOSYS | Errno::EPERM) => return hold_by_number(dir, name),
        other => other,
    };
    match held {
        Err(Errno::ENOENT) => Ok(None),
        other => other.map(Some).call("openat2", || format!("{}, O_PATH", shown(dir, name))),
    }
}

/// Tells directories of another file system by its number; that of a file says nothing, as
/// overlayfs gives files those of its layers.
fn hold_by_number(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>> {
    let held = match nix::fcntl::openat(dir, name, HOLD, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        other => other.call("openat", || format!("{}, O_PATH", shown(dir, name)))?,
    };
    let stat = rootdir::stat(&held)?;
    if rootdir::is_type(&stat, libc::S_IFDIR) && stat.st_dev != rootdir::stat(dir)?.st_dev {
        return Err(SysError::new("openat", shown(dir, name), Errno::EXDEV));
    }
    Ok(Some(held))
}

/// Opens a held regular file for reading. To be asked of nothing else: what may be a pipe or a
/// device is told by [`rootdir::stat`] of the held file.
pub fn open(held: impl AsFd) -> Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = path(held.as_fd());
    nix::fcntl::open(path.as_str(), flags, Mode::empty()).map(File::from).call("open", || path)
}

/// The target of a held symbolic link.
pub fn read_link(held: impl AsFd) -> Result<Vec<u8>> {
    nix::fcntl::readlinkat(held.as_fd(), "")
        .map(OsStringExt::into_vec)
        .call("readlinkat", || held.as_fd().as_raw_fd().to_string())
}

/// Where the file's next byte that is not in a hole stands, from `offset` on: `None` when there is
/// nothing but a hole up to its end (lseek(2), `SEEK_DATA`). A file system that knows no holes says
/// `offset`.
pub fn next_data(file: impl AsFd, offset: u64) -> Result<Option<u64>> {
    let shown = || format!("{}, {offset}, SEEK_DATA", file.as_fd().as_raw_fd());
    let from = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW).call("lseek", shown)?;
    match nix::unistd::lseek(file.as_fd(), from, Whence::SeekData) {
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(offset)),
        other => other.map(|at| u64::try_from(at).ok()).call("lseek", shown),
    }
}

/// The path by which a held file is reached again.
pub(crate) fn path(held: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", held.as_raw_fd())
}

fn shown(dir: BorrowedFd<'_>, name: &[u8]) -> String {
    format!("{}, \"{}\"", dir.as_raw_fd(), name.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::path::Path;

    #[test]
    fn what_is_held_stays_the_same_and_nothing_is_followed_or_opened() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("file"), "one").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let dir = rootdir::open_dir(temp.path()).unwrap();
        rootdir::make_node_at(&dir, b"pipe", rootdir::NodeKind::Fifo).unwrap();
        let file = hold_at(&dir, b"file").unwrap().unwrap();
        std::fs::rename(path("link"), path("file")).unwrap();
        let mut text = String::new();
        open(&file).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        let link = hold_at(&dir, b"file").unwrap().unwrap();
        assert_eq!(read_link(&link).unwrap(), b"file");
        // Opened, it would wait for a writer.
        let pipe = hold_at(&dir, b"pipe").unwrap().unwrap();
        assert!(rootdir::is_type(&rootdir::stat(&pipe).unwrap(), libc::S_IFIFO));
        assert!(hold_at(&dir, b"none").unwrap().is_none());
    }

    #[test]
    fn a_mount_is_not_the_directorys_own() {
        let root = rootdir::open_dir(Path::new("/")).unwrap();
        for hold in [hold_at(&root, b"proc"), hold_by_number(root.as_fd(), b"proc")] {
            assert_eq!(hold.unwrap_err().errno(), Errno::EXDEV);
        }
        assert!(hold_by_number(root.as_fd(), b"none such").unwrap().is_none());
    }

    #[test]
    fn holes_are_passed_over() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(next_data(&file, 5).unwrap(), None);
        file.seek(SeekFrom::Start(1 << 29)).unwrap();
        file.write_all(b"data").unwrap();
        let at = next_data(&file, 5).unwrap().unwrap();
        assert!((5..=1 << 29).contains(&at), "{at}");
    }
}
