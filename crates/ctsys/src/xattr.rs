//! Extended attributes (xattr(7)) of open files and of names in open directories.

use std::ffi::{CString, c_void};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Context, Result, SysError};
use crate::held;

/// The kernel's own limit for a list of names (`XATTR_LIST_MAX`).
const MAX_LIST_BYTES: usize = 64 << 10;

/// The kernel's own limit for a value (`XATTR_SIZE_MAX`).
const MAX_VALUE_BYTES: usize = 64 << 10;

/// Sets the attribute `name` of an open file.
pub fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    let shown = || format!("{raw}, \"{}\", {} bytes", name.escape_ascii(), value.len());
    let name_c = c_string("fsetxattr", name)?;
    // SAFETY: the name is NUL-terminated and the value's length is its own; both outlive the call.
    let result = unsafe {
        libc::fsetxattr(raw, name_c.as_ptr(), value.as_ptr().cast::<c_void>(), value.len(), 0)
    };
    Errno::result(result).map(drop).call("fsetxattr", shown)
}

/// Sets the attribute `name` of the file `file` in `dir` itself, which need not be one that can be
/// opened (a symbolic link, a device).
///
/// The kernel has no such call with a directory descriptor before Linux 6.13, so the directory is
/// named by its descriptor's path; the last name is not followed.
pub fn set_at(dir: impl AsFd, file: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(file);
    let shown = || format!("\"{}\", \"{}\"", file.escape_ascii(), name.escape_ascii());
    let path = c_string("lsetxattr", &path)?;
    let name_c = c_string("lsetxattr", name)?;
    let bytes = value.as_ptr().cast::<c_void>();
    // SAFETY: both strings are NUL-terminated and the value's length is its own; all outlive the
    // call.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name_c.as_ptr(), bytes, value.len(), 0) };
    Errno::result(result).map(drop).call("lsetxattr", shown)
}

/// The names of an open file's attributes; none where the file system has no attributes.
pub fn list(fd: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let raw = fd.as_fd().as_raw_fd();
    let mut buffer = vec![0_u8; MAX_LIST_BYTES];
    // SAFETY: the buffer is writable for the length given and outlives the call.
    let length = unsafe { libc::flistxattr(raw, buffer.as_mut_ptr().cast(), buffer.len()) };
    match Errno::result(length) {
        Err(Errno::ENOTSUP) => Ok(Vec::new()),
        Err(errno) => Err(SysError::new("flistxattr", raw.to_string(), errno)),
        Ok(length) => {
            buffer.truncate(length.unsigned_abs());
            Ok(split(&buffer))
        }
    }
}

/// The names of the attributes of a held file ([`crate::held`]), a symbolic link's own; none where
/// the file system has no attributes.
pub fn list_held(held: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let path = held::path(held.as_fd());
    let path_c = c_string("listxattr", path.as_bytes())?;
    let mut buffer = vec![0_u8; MAX_LIST_BYTES];
    // SAFETY: the path is NUL-terminated, the buffer writable for the length given; both outlive
    // the call.
    let length =
        unsafe { libc::listxattr(path_c.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    match Errno::result(length) {
        Err(Errno::ENOTSUP) => Ok(Vec::new()),
        other => {
            buffer.truncate(other.call("listxattr", || path)?.unsigned_abs());
            Ok(split(&buffer))
        }
    }
}

/// The value of the attribute `name` of a held file; `None` when it has none of that name.
pub fn get_held(held: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let path = held::path(held.as_fd());
    let path_c = c_string("getxattr", path.as_bytes())?;
    let name_c = c_string("getxattr", name)?;
    let mut buffer = vec![0_u8; MAX_VALUE_BYTES];
    let start = buffer.as_mut_ptr().cast();
    // SAFETY: both strings are NUL-terminated, the buffer is writable for the length given; all
    // outlive the call.
    let length = unsafe { libc::getxattr(path_c.as_ptr(), name_c.as_ptr(), start, buffer.len()) };
    match Errno::result(length) {
        Err(Errno::ENODATA) => Ok(None),
        other => {
            let shown = || format!("{path}, \"{}\"", name.escape_ascii());
            buffer.truncate(other.call("getxattr", shown)?.unsigned_abs());
            Ok(Some(buffer))
        }
    }
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Removes the attribute `name` of an open file.
pub fn remove(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    let name_c = c_string("fremovexattr", name)?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let result = unsafe { libc::fremovexattr(raw, name_c.as_ptr()) };
    Errno::result(result)
        .map(drop)
        .call("fremovexattr", || format!("{raw}, \"{}\"", name.escape_ascii()))
}

fn c_string(call: &'static str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| SysError::new(call, format!("\"{}\"", bytes.escape_ascii()), Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_set_listed_and_removed() {
        let file = tempfile::tempfile().unwrap();
        set(&file, b"user.one", b"\0value").unwrap();
        set(&file, b"user.two", b"").unwrap();
        let mut names = list(&file).unwrap();
        names.retain(|n| n.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [b"user.one".to_vec(), b"user.two".to_vec()]);
        remove(&file, b"user.one").unwrap();
        assert!(!list(&file).unwrap().contains(&b"user.one".to_vec()));
        assert_eq!(set(&file, b"user.\0", b"").unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn attributes_of_a_held_file_are_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(temp.path().join("file")).unwrap();
        set(&file, b"user.one", b"\0value").unwrap();
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        let dir = crate::rootdir::open_dir(temp.path()).unwrap();
        let hold = |name| held::hold_at(&dir, name).unwrap().unwrap();
        assert_eq!(get_held(hold(b"file"), b"user.one").unwrap().unwrap(), b"\0value");
        assert_eq!(get_held(hold(b"file"), b"user.two").unwrap(), None);
        assert!(list_held(hold(b"file")).unwrap().contains(&b"user.one".to_vec()));
        assert!(!list_held(hold(b"link")).unwrap().contains(&b"user.one".to_vec()));
    }

    #[test]
    fn a_links_attribute_is_not_set_on_its_target() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        let dir = crate::rootdir::open_dir(temp.path()).unwrap();
        // The kernel takes no user attribute on a symbolic link; on its target it would.
        let error = set_at(&dir, b"link", b"user.x", b"1").unwrap_err();
        assert_eq!(error.errno(), Errno::EPERM);
        set_at(&dir, b"file", b"user.x", b"1").unwrap();
    }
}
