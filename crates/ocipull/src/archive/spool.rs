//! An archive as a file in which one can move about: what is compressed, or comes through a pipe, is
//! copied into a temporary file first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ctsys::{Errno, SysError};
use nix::poll::{PollFd, PollFlags, poll};

use super::{Stoppable, stopped};
use crate::decompress;
use crate::local::LocalError;

/// Longest archive that is copied, in bytes: more than anybody saves, and less than a stream that
/// never ends would write.
const MAX_SPOOLED_BYTES: u64 = 256 << 30;
/// Bytes that may come out of each byte of a compressed archive, past the first 4 GiB: as of a
/// layer's ([`Limits::expansion_ratio`](crate::apply::Limits::expansion_ratio)).
const MAX_EXPANSION_RATIO: u64 = 200;
/// Copied at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Where large temporary files belong; `/tmp` is in memory on many machines (file-hierarchy(7)).
const LARGE_TEMPORARY: &str = "/var/tmp";
/// How often it is looked whether to stop while nothing comes through a pipe, in milliseconds.
const STOP_POLL_MS: u8 = 100;

/// Opens the archive. `stop` ends the copying.
pub(super) fn seekable(path: &Path, stop: &AtomicBool) -> Result<File, LocalError> {
    let failed = |e: &io::Error| LocalError::Open {
        path: path.to_path_buf(),
        source: SysError::from_io("open", format!("{path:?}"), e),
    };
    // Opening a pipe would wait for somebody to write, and nothing could end that.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let mut file = opened.map_err(|e| failed(&e))?;
    let kind = file.metadata().map_err(|e| failed(&e))?.file_type();
    if kind.is_file() {
        let mut head = [0; 6];
        let length = decompress::read_full(&mut file, &mut head).map_err(LocalError::Read)?;
        if decompress::name_of(head.get(..length).unwrap_or_default()).is_none() {
            return Ok(file);
        }
        io::Seek::rewind(&mut file).map_err(LocalError::Read)?;
    } else if !kind.is_fifo() && !kind.is_socket() {
        let reason = "it is neither a file nor a pipe".to_owned();
        return Err(LocalError::NoArchive { path: path.to_path_buf(), reason });
    }
    let mut coming = Coming { file, stop };
    let mut plain = decompress::open("", &mut coming, MAX_EXPANSION_RATIO).map_err(|error| {
        LocalError::NoArchive { path: path.to_path_buf(), reason: ctsys::report::chain(&error) }
    })?;
    let mut plain = Stoppable { inner: &mut plain, stop };
    spool(&mut plain).map_err(|source| LocalError::Spool { path: path.to_path_buf(), source })
}

fn spool(input: &mut dyn Read) -> io::Result<File> {
    let dir = std::env::var_os("TMPDIR").map_or_else(|| LARGE_TEMPORARY.into(), PathBuf::from);
    let mut spooled = tempfile::tempfile_in(dir)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        let length = match input.read(&mut buffer) {
            Ok(0) => return Ok(spooled),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += length as u64;
        if total > MAX_SPOOLED_BYTES {
            return Err(io::Error::other(format!("it is larger than {MAX_SPOOLED_BYTES} bytes")));
        }
        spooled.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

/// A pipe, or a file that is there, whose bytes are waited for until `stop`.
struct Coming<'a> {
    file: File,
    stop: &'a AtomicBool,
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            // A pipe that nobody has written to yet has no end either (poll(2)).
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, STOP_POLL_MS) {
                Ok(0) | Err(Errno::EINTR) => continue,
                other => other?,
            };
            match self.file.read(buffer) {
                // Another reader was faster.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
        Err(stopped())
    }
}
