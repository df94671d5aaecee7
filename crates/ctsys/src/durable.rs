//! Getting what was written onto the disk: after a power cut it is there. Each of these waits for
//! the disk.

use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Context, Result};

/// All that was written to the file system that `fd` is on (syncfs(2)). Since Linux 5.8 it also
/// tells of what could not be written back.
pub fn sync_file_system(fd: impl AsFd) -> Result<()> {
    nix::unistd::syncfs(fd.as_fd()).call("syncfs", || fd.as_fd().as_raw_fd().to_string())
}

/// An open file with its size, or the names in an open directory (fsync(2)).
pub fn sync(fd: impl AsFd) -> Result<()> {
    nix::unistd::fsync(fd.as_fd()).call("fsync", || fd.as_fd().as_raw_fd().to_string())
}
