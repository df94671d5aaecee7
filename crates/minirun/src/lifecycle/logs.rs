//! `logs`: what a container in the background has written, and writes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use ctsys::error::Context;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

use super::{LifecycleError, Result, find_settled, open, root_with, sys};
use crate::log::{LOG_FILE, OLD_LOG_FILE};

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How often the two files are opened anew because a new part began in between: a part is megabytes.
/// Past that the newer one has to do.
const OPEN_ATTEMPTS: usize = 100;

/// What of a log is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// At most so many lines of what is there already.
    pub tail: Option<u64>,
}

/// Writes a container's log to `out`, byte for byte. Ends early, and well, when `out` is a pipe that
/// nobody reads.
pub fn logs(name: &str, options: LogOptions, out: impl Write + AsFd) -> Result<()> {
    let state = find_settled(name)?;
    let failed = |source| LifecycleError::Io { step: "read the log", name: name.into(), source };
    let path = root_with(name)?.container_dir(&state.id)?;
    // Before the first look, so that nothing is missed between the two.
    let watch = if options.follow {
        let monitor = open("follow", &state, state.monitor.as_ref())?;
        monitor.map(|monitor| Watch::begin(monitor, &path)).transpose()
    } else {
        Ok(None)
    };
    let watch = watch.map_err(|source| sys("follow", name, source))?;
    let dir = Dir::open(&path).map_err(failed)?;
    let parts = dir.parts().map_err(failed)?;
    let Some(parts) = parts else { return Err(LifecycleError::NoLog(state.name)) };
    let mut reader = Reader { dir, out };
    match reader.run(parts, options.tail, watch) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(failed),
    }
}

/// A container's state directory, held open: another container may take its name.
struct Dir(OwnedFd);

impl Dir {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(Self(open_file(path, flags, Mode::empty())?))
    }

    fn file(&self, name: &str) -> io::Result<Option<File>> {
        match openat(&self.0, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(None),
            other => Ok(Some(File::from(other?))),
        }
    }

    /// The parts of the log, the oldest first; `None` when there is no log.
    fn parts(&self) -> io::Result<Option<Vec<File>>> {
        let mut attempts = OPEN_ATTEMPTS;
        loop {
            let Some(current) = self.file(LOG_FILE)? else { return Ok(None) };
            let old = self.file(OLD_LOG_FILE)?;
            // When a part began in between, one more may lie before the two.
            let is_whole = self.file(LOG_FILE)?.is_some_and(|now| same(&now, &current));
            if is_whole || attempts == 0 {
                let old = old.filter(|old| is_whole && !same(old, &current));
                return Ok(Some(old.into_iter().chain([current]).collect()));
            }
            attempts -= 1;
        }
    }

    /// The parts that were begun after `last`, the oldest first. Of those that came and went
    /// meanwhile nothing is left.
    fn parts_after(&self, last: &File) -> io::Result<Vec<File>> {
        let mut parts = self.parts()?.unwrap_or_default();
        if let Some(at) = parts.iter().position(|part| same(part, last)) {
            parts.drain(..=at);
        }
        Ok(parts)
    }
}

fn same(a: &File, b: &File) -> bool {
    let inode = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    inode(a) == inode(b)
}

struct Reader<W> {
    dir: Dir,
    out: W,
}

impl<W: Write + AsFd> Reader<W> {
    fn run(&mut self, parts: Vec<File>, tail: Option<u64>, watch: Option<Watch>) -> io::Result<()> {
        let mut starts = starts(&parts, tail)?.into_iter();
        let mut last = None;
        for part in parts {
            let mut at = starts.next().unwrap_or(0);
            self.copy(&part, &mut at)?;
            last = Some((part, at));
        }
        self.out.flush()?;
        let (Some(mut watch), Some((mut part, mut at))) = (watch, last) else { return Ok(()) };
        loop {
            let ended = watch.wait(&self.out)?;
            // A part that has ended does so before the next one begins.
            let next = self.dir.parts_after(&part)?;
            self.copy(&part, &mut at)?;
            for following in next {
                (part, at) = (following, 0);
                self.copy(&part, &mut at)?;
            }
            self.out.flush()?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Writes what `part` has from `at` on, and moves `at` to its end.
    fn copy(&mut self, part: &File, at: &mut u64) -> io::Result<()> {
        // A log on a full disk is emptied, and begins anew.
        if part.metadata()?.len() < *at {
            *at = 0;
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = part.read_at(&mut buffer, *at)?;
            if length == 0 {
                return Ok(());
            }
            self.out.write_all(buffer.get(..length).unwrap_or_default())?;
            *at += length as u64;
        }
    }
}

/// Where in each of the parts the last `tail` lines begin.
fn starts(parts: &[File], tail: Option<u64>) -> io::Result<Vec<u64>> {
    let mut starts = vec![0; parts.len()];
    let Some(mut wanted) = tail else { return Ok(starts) };
    let mut is_last = true;
    for (part, start) in parts.iter().zip(&mut starts).rev() {
        *start = line_start(part, &mut wanted, &mut is_last)?;
    }
    Ok(starts)
}

/// Where the last lines of a part begin, which are taken off `wanted`: its beginning when it does not
/// have that many. `is_last` is cleared once the log's last byte was seen: it ends a line and begins
/// none.
fn line_start(part: &File, wanted: &mut u64, is_last: &mut bool) -> io::Result<u64> {
    let mut end = part.metadata()?.len();
    let mut buffer = vec![0; CHUNK_BYTES];
    if *wanted == 0 {
        return Ok(end);
    }
    while end > 0 {
        let begin = end.saturating_sub(CHUNK_BYTES as u64);
        let length = usize::try_from(end - begin).unwrap_or(CHUNK_BYTES);
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        part.read_exact_at(chunk, begin)?;
        for (&byte, at) in chunk.iter().rev().zip((begin..end).rev()) {
            if byte == b'\n' && !*is_last {
                *wanted -= 1;
                if *wanted == 0 {
                    return Ok(at + 1);
                }
            }
            *is_last = false;
        }
        end = begin;
    }
    Ok(0)
}

/// Waits for more of a log, and for the end of the process that writes it.
struct Watch {
    monitor: OwnedFd,
    inotify: Inotify,
}

impl Watch {
    fn begin(monitor: OwnedFd, dir: &Path) -> ctsys::error::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .call("inotify_init1", String::new)?;
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO;
        inotify
            .add_watch(dir, events)
            .call("inotify_add_watch", || format!("{dir:?}, IN_MODIFY | IN_MOVED_TO"))?;
        Ok(Self { monitor, inotify })
    }

    /// Returns when something was written, or with `true` when nothing more will be.
    fn wait(&mut self, out: &impl AsFd) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            // Says only that a reader has gone away.
            PollFd::new(out.as_fd(), PollFlags::empty()),
        ];
        while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        let [ended, changed, gone] = fds.map(|fd| fd.revents().is_some_and(|e| !e.is_empty()));
        if gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if changed {
            match self.inotify.read_events() {
                Err(Errno::EAGAIN) => {}
                other => drop(other?),
            }
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(parts: &[&str], lines: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<File> = (0..parts.len())
            .map(|n| {
                std::fs::write(dir.path().join(n.to_string()), parts[n]).unwrap();
                File::open(dir.path().join(n.to_string())).unwrap()
            })
            .collect();
        let starts = starts(&files, Some(lines)).unwrap();
        let rest = |(text, start): (&&str, u64)| text[usize::try_from(start).unwrap()..].to_owned();
        parts.iter().zip(starts).map(rest).collect()
    }

    #[test]
    fn the_last_lines_are_found_across_the_parts() {
        assert_eq!(tail(&["a\nb\n", "c\nd\n"], 1), "d\n");
        assert_eq!(tail(&["a\nb\n", "c\nd\n"], 2), "c\nd\n");
        assert_eq!(tail(&["a\nb\n", "c\nd\n"], 3), "b\nc\nd\n");
        assert_eq!(tail(&["a\nb", "c\nd"], 2), "bc\nd");
        assert_eq!(tail(&["a\nb\n", ""], 1), "b\n");
        assert_eq!(tail(&["a\n", "b\n"], 9), "a\nb\n");
        assert_eq!(tail(&["\n\n", "\n"], 2), "\n\n");
        assert_eq!(tail(&["a\nb\n"], 0), "");
        assert_eq!(tail(&[""], 5), "");
        let long = format!("{}\nend\n", "x".repeat(3 * CHUNK_BYTES));
        assert_eq!(tail(&[&long], 1), "end\n");
        assert_eq!(tail(&["first\n", &long], 2), long);
    }
}
