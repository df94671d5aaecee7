//! A program that works for a container from outside: started, heard until it is ready, ended.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ctsys::clone::{self, Child};
use ctsys::error::{Context, Result};
use ctsys::signal::{self, SignalSet};
use ctsys::{SysError, isolate, wait};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

/// How long a helper may take until it is ready: tens of milliseconds usually, on a machine that
/// is busy with other things some hundred times that.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// What is kept of what a helper says: its last words on why it cannot are a line or two.
const MAX_SAID_BYTES: usize = 4 << 10;
/// What is read until a helper is ready: a line a forwarded port, of some hundred bytes.
const MAX_READY_BYTES: usize = 64 << 10;

/// A helper at work: killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself; then it is only reaped.
        let _ = signal::send(&self.0.pidfd, libc::SIGKILL);
        let _ = wait::wait(&self.0.pidfd);
    }
}

/// A helper that is not ready yet.
#[derive(Debug)]
pub(super) struct Starting {
    helper: Helper,
    ready: OwnedFd,
    said: File,
}

/// Where a helper tells that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// Its standard input, which it is told to write to by number: the only one of the first three
    /// that no program prints to. (pasta closes all others that it inherits.)
    Input,
    /// In what it prints to standard error.
    Errors,
}

/// Starts the program, with nothing of the caller's but what it needs. `mask` is the set of blocked
/// signals that it starts with.
pub(super) fn start(
    program: &Path,
    args: &[String],
    ready: Ready,
    mask: &SignalSet,
) -> Result<Starting> {
    let nul = || SysError::new("execve", format!("{program:?}"), Errno::EINVAL);
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| nul())?;
    let words = args.iter().map(|word| CString::new(word.as_str()));
    let words: std::result::Result<Vec<_>, _> =
        std::iter::once(Ok(path.clone())).chain(words).collect();
    let words = words.map_err(|_| nul())?;
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).call("pipe2", String::new)?;
    let said = bounded_file()?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.call("open", || "\"/dev/null\"".into())?;
    let outside = nix::unistd::getpid();
    let child = clone::spawn(CloneFlags::empty(), || {
        let (input, errors) = match ready {
            Ready::Input => (writer.as_fd(), said.as_fd()),
            Ready::Errors => (null.as_fd(), writer.as_fd()),
        };
        let settled = dup2_stdin(input)
            .and_then(|()| dup2_stdout(&said))
            .and_then(|()| dup2_stderr(errors))
            .call("dup2", String::new)
            .and_then(|()| settle(outside, mask));
        let failed: Result<()> =
            settled.and_then(|()| match execve(&path, &words, &[] as &[CString]) {
                Err(errno) => Err(errno).call("execve", || format!("{path:?}")),
                Ok(never) => match never {},
            });
        if let Err(error) = failed {
            let _ = nix::unistd::write(std::io::stderr(), error.to_string().as_bytes());
        }
        127
    })?;
    Ok(Starting { helper: Helper(child), ready: reader, said })
}

/// In the child: it ends with its starter, keeps nothing of it, and no key pressed on its terminal
/// reaches it.
fn settle(outside: Pid, mask: &SignalSet) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).call("prctl", || "PR_SET_PDEATHSIG, SIGKILL".into())?;
    if nix::unistd::getppid() != outside {
        return Err(SysError::new("getppid", String::new(), Errno::ESRCH));
    }
    setsid().call("setsid", String::new)?;
    chdir("/").call("chdir", || "\"/\"".into())?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    isolate::close_all_but(&[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    signal::reset_dispositions();
    mask.block().map(drop)
}

/// A file in memory that takes so many bytes and no more: unlike a pipe it never blocks a writer,
/// and ends none by SIGPIPE when nobody reads any more.
fn bounded_file() -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"said", flags).call("memfd_create", String::new)?;
    let file = File::from(file);
    file.set_len(MAX_SAID_BYTES as u64).call("ftruncate", String::new)?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).call("fcntl", || "F_ADD_SEALS".into())?;
    Ok(file)
}

impl Starting {
    /// Waits until `is_ready` says so of what the helper told: the helper, and what it told. `Err`
    /// has what it said when it ended before that, or took too long.
    pub(super) fn finish(
        self,
        is_ready: impl Fn(&str) -> bool,
    ) -> Result<std::result::Result<(Helper, String), String>> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut told = Vec::new();
        let mut buffer = [0; 1024];
        while wait_readable(&self.ready, deadline)? {
            let length = match nix::unistd::read(&self.ready, &mut buffer) {
                Err(Errno::EINTR) => continue,
                other => other.call("read", || "pipe from a helper".into())?,
            };
            told.extend_from_slice(buffer.get(..length).unwrap_or_default());
            let text = String::from_utf8_lossy(&told);
            if is_ready(&text) {
                let text = text.into_owned();
                return Ok(Ok((self.helper, text)));
            }
            if length == 0 {
                return Ok(Err(format!("{text}{}", self.said()?)));
            }
            if told.len() > MAX_READY_BYTES {
                break;
            }
        }
        Ok(Err(format!("not ready within {} s", READY_LIMIT.as_secs())))
    }

    fn said(&self) -> Result<String> {
        let mut bytes = [0; MAX_SAID_BYTES];
        let length = self.said.read_at(&mut bytes, 0).call("pread", || "memfd".into())?;
        let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
        Ok(text.trim_end_matches('\0').to_owned())
    }
}

/// False when the time is up.
fn wait_readable(fd: &OwnedFd, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => {}
            other => return other.map(|n| n > 0).call("poll", || fd.as_raw_fd().to_string()),
        }
    }
}
