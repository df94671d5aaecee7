//! What a container in the background writes, kept on disk: the newest of it, within a bound.
//!
//! ```text
//! log      being written
//! log.1    written before; goes when the next one takes its place
//! ```
//!
//! The monitor alone writes the files. The container has a pipe or a terminal: a program that opens
//! `/dev/stdout` anew, with `>` in a shell, would otherwise truncate the log, and no bound would
//! hold against one that writes faster than the monitor looks.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::error::Context;
use nix::errno::Errno;

use crate::launch::MIN_LOG_BYTES;

/// The part that is being written.
pub(crate) const LOG_FILE: &str = "log";
/// The part before it.
pub(crate) const OLD_LOG_FILE: &str = "log.1";
/// The next part, until it has its name.
const NEW_LOG_FILE: &str = ".log.new";
/// A second name of the part that is full, until it is the older one.
const LOG_LINK: &str = ".log.old";

/// A container's log, as its monitor holds it.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    file: File,
    /// Bytes in `file`.
    written: u64,
    /// At so many bytes a part is full; half of the bound.
    part_bytes: u64,
}

impl Log {
    /// An empty log in a container's state directory, of at most `max_bytes`.
    pub(crate) fn create(dir: &Path, max_bytes: u64) -> Result<Self, SysError> {
        let path = dir.join(LOG_FILE);
        let file = new_file(&path).call("open", || format!("{path:?}, O_CREAT"))?;
        let part_bytes = max_bytes.max(MIN_LOG_BYTES) / 2;
        Ok(Self { dir: dir.into(), file, written: 0, part_bytes })
    }

    /// Adds to the log. What the disk has no room for even without the older part is lost: the
    /// container must not wait for somebody to clear the disk.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.written >= self.part_bytes {
                self.begin_part();
            }
            let room = usize::try_from(self.part_bytes - self.written).unwrap_or(usize::MAX);
            let (now, _) = bytes.split_at(bytes.len().min(room));
            match self.file.write(now) {
                Ok(length) => {
                    self.written += length as u64;
                    bytes = bytes.get(length..).unwrap_or_default();
                }
                Err(error) => {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    if errno != Errno::EINTR && !(is_full(errno) && self.give_room()) {
                        return;
                    }
                }
            }
        }
    }

    /// Gives the oldest part of the log back to a disk that is full; whether there was one.
    fn give_room(&mut self) -> bool {
        if drop_old_part(&self.dir) {
            return true;
        }
        // What lies in the new part is all that there is room for: from now on two have to share it.
        self.part_bytes = (self.written / 2).clamp(MIN_LOG_BYTES / 2, self.part_bytes);
        self.written > 0 && self.empty().is_ok()
    }

    fn begin_part(&mut self) {
        if self.replace_file().is_err() && self.empty().is_err() {
            // Neither works where the directory is gone; then nobody reads it either.
            self.written = 0;
        }
    }

    /// At every moment there is a file of either name, so that who reads misses nothing.
    fn replace_file(&mut self) -> io::Result<()> {
        let (new, log) = (self.dir.join(NEW_LOG_FILE), self.dir.join(LOG_FILE));
        let link = self.dir.join(LOG_LINK);
        let file = new_file(&new)?;
        let _ = fs::remove_file(&link);
        fs::hard_link(&log, &link)?;
        fs::rename(&link, self.dir.join(OLD_LOG_FILE))?;
        fs::rename(&new, &log)?;
        (self.file, self.written) = (file, 0);
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.written = 0;
        Ok(())
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An empty file that only its owner may read, appended to. What a creation that was cut off has
/// left of that name goes.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    File::options().create_new(true).append(true).mode(0o600).open(path)
}

/// Whether a write failed for want of room.
pub(crate) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT)
}

/// Removes the older part of the log in a container's state directory; whether there was one.
pub(crate) fn drop_old_part(dir: &Path) -> bool {
    fs::remove_file(dir.join(OLD_LOG_FILE)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(dir: &Path) -> String {
        let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
        read(OLD_LOG_FILE) + &read(LOG_FILE)
    }

    #[test]
    fn the_newest_is_kept_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path(), 16 << 10).unwrap();
        let mut all = String::new();
        for line in 0..4000 {
            let text = format!("line {line}\n");
            log.append(text.as_bytes());
            all += &text;
            let kept = kept(dir.path());
            assert!(kept.len() <= 16 << 10 && all.ends_with(&kept), "{}", kept.len());
            assert!(kept.len() >= all.len().min(8 << 10), "{} of {}", kept.len(), all.len());
        }
        // At once, and more than all.
        log.append(&vec![b'x'; 100 << 10]);
        assert!(kept(dir.path()).len() <= 16 << 10);
        assert!(kept(dir.path()).bytes().all(|b| b == b'x'));
    }

    #[test]
    fn a_log_whose_directory_is_gone_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path(), 0).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        log.append(&vec![b'x'; 100 << 10]);
        assert!(!dir.path().exists());
    }
}
