//! Reading a file of a root filesystem without leaving it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use crate::error::{Context, Result, SysError};

/// Opens `path` as a process with `root` as its root directory would: symbolic links and `..`
/// cannot lead out of it (openat2(2), `RESOLVE_IN_ROOT`).
pub fn open(root: &Path, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let dir = File::open(root).call("open", || format!("{root:?}"))?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    nix::fcntl::openat2(dir.as_fd(), path, how).call("openat2", || format!("{root:?}, {path:?}"))
}

/// The contents of the regular file `path` inside `root`. `EFBIG` past `limit_bytes`; `EINVAL` for
/// what is no regular file, such as a FIFO that would never end.
pub fn read(root: &Path, path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let shown = || format!("{root:?}, {path:?}");
    // O_NONBLOCK: opening a FIFO would wait for a writer.
    let file = File::from(open(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
    if !file.metadata().call("fstat", shown)?.is_file() {
        return Err(SysError::new("read", shown(), Errno::EINVAL));
    }
    // Room for a usual file of accounts, which then takes one read.
    let mut bytes = Vec::with_capacity(4 << 10);
    file.take(limit_bytes + 1).read_to_end(&mut bytes).call("read", shown)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(SysError::new("read", shown(), Errno::EFBIG));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let errno = |path: &str, limit| {
            read(dir.path(), Path::new(path), limit).map_err(|e| e.errno()).err()
        };
        assert_eq!(read(dir.path(), Path::new("/f"), 5).unwrap(), b"12345");
        assert_eq!(errno("f", 4), Some(Errno::EFBIG));
        assert_eq!(errno("fifo", 5), Some(Errno::EINVAL));
        assert_eq!(errno("/", 5), Some(Errno::EINVAL));
        assert_eq!(errno("none", 5), Some(Errno::ENOENT));
    }
}
