//! What is mounted inside a directory: another file system's files, which are not the directory's
//! to remove.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::error::{Context, Result, SysError};

/// Longest mountinfo that is read, in bytes: the kernel allows 100,000 mounts (`fs.mount-max`) of a
/// few hundred bytes a line.
const MAX_MOUNTINFO_BYTES: u64 = 64 << 20;

/// A mount point below the open directory, in this thread's mount namespace; `None` when there is
/// none. A mount on the directory itself does not count.
pub fn mount_below(dir: impl AsFd) -> Result<Option<PathBuf>> {
    let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    let path = std::fs::read_link(&link).call("readlink", || link)?.into_os_string().into_vec();
    let table = "/proc/thread-self/mountinfo";
    let mut text = Vec::new();
    let file = std::fs::File::open(table).call("open", || table.into())?;
    file.take(MAX_MOUNTINFO_BYTES + 1).read_to_end(&mut text).call("read", || table.into())?;
    if text.len() as u64 > MAX_MOUNTINFO_BYTES {
        return Err(SysError::new("read", table, Errno::EFBIG));
    }
    Ok(first_below(&text, &path).map(|found| OsString::from_vec(found).into()))
}

/// The first mount point of a mountinfo text (proc_pid_mountinfo(5)) that is below `path`.
fn first_below(mountinfo: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let points = mountinfo.split(|&b| b == b'\n').filter_map(|line| {
        // The fifth field.
        line.split(|&b| b == b' ').nth(4).map(unescape)
    });
    let is_below = |point: &[u8]| point.strip_prefix(path).is_some_and(|p| p.starts_with(b"/"));
    points.into_iter().find(|point| is_below(point))
}

/// Space, tab, newline and backslash stand there as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits =
            after.get(..3).filter(|_| byte == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = after.get(3..).unwrap_or_default();
            }
            None => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_counts_whatever_bytes_its_name_has() {
        let table = b"1 0 8:1 / / rw - ext4 d rw\n2 1 0:5 / /a\\040b/x\\134y rw - tmpfs t rw\n";
        assert_eq!(first_below(table, b"/a b").as_deref(), Some(&b"/a b/x\\y"[..]));
        for other in ["/a", "/a b/x\\y", "/a b/x", "/c"] {
            assert_eq!(first_below(table, other.as_bytes()), None, "{other}");
        }
    }

    /// Bind mounts of one file system have the same device number, so that alone tells nothing.
    #[test]
    fn what_is_mounted_inside_is_found_and_survives_the_removal() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(at("tree/a b/inside")).unwrap();
        std::fs::create_dir(at("host")).unwrap();
        std::fs::write(at("host/precious"), "1").unwrap();
        let (host, inside) = (at("host"), at("tree/a b/inside"));
        let parent = crate::rootdir::open_dir(temp.path()).unwrap();
        // A thread's own mount namespace ends with it.
        let (found, removed) = std::thread::spawn(move || {
            use nix::mount::{MsFlags, mount};
            let flags = nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS;
            nix::sched::unshare(flags).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some(&host), &inside, none, MsFlags::MS_BIND, none).unwrap();
            // Opened in here: a descriptor belongs to the mounts that it was opened in.
            let parent = crate::rootdir::open_dir(host.parent().unwrap()).unwrap();
            let tree = crate::rootdir::open_dir_at(&parent, b"tree").unwrap();
            (mount_below(&tree).unwrap(), crate::rootdir::remove_at(&parent, b"tree"))
        })
        .join()
        .unwrap();
        assert_eq!(found, Some(at("tree/a b/inside")));
        assert_eq!(removed.unwrap_err().errno(), Errno::EXDEV);
        assert_eq!(std::fs::read_to_string(at("host/precious")).unwrap(), "1");
        crate::rootdir::remove_at(&parent, b"tree").unwrap();
    }

    #[test]
    fn nothing_is_mounted_in_a_fresh_directory() {
        let temp = tempfile::tempdir().unwrap();
        let empty = crate::rootdir::open_dir(temp.path()).unwrap();
        assert_eq!(mount_below(&empty).unwrap(), None);
    }
}
