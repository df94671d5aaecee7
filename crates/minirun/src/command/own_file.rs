//! Keeps a container from running the host's own file (CVE-2019-5736). The process that is to become
//! the container's program still runs minirun: an image's `/proc/self/exe`, as the program or as a
//! script's interpreter, names that file, and would have it run as the container's root, who could
//! change it through the process's `/proc/PID/exe` where it belongs to an id of the container's.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// How many interpreters the kernel goes on to, each named by the one before (fs/exec.c).
const MAX_INTERPRETERS: usize = 5;
/// What the kernel reads of a script's first line (`BINPRM_BUF_SIZE`).
const LINE_BYTES: u64 = 256;
/// The ids of files whose owners are not mapped (fs.overflowuid, fs.overflowgid): the kernel's
/// default.
const UNMAPPED: u32 = 65_534;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;

/// Whether an id of this user namespace could change the file that this process runs. To be called
/// inside, while /proc is the host's. One that cannot be looked at is taken for exposed.
pub(crate) fn is_exposed() -> bool {
    let Ok(meta) = std::fs::metadata("/proc/self/exe") else { return true };
    meta.uid() != UNMAPPED
        || meta.gid() != UNMAPPED && meta.mode() & WRITABLE_BY_GROUP != 0
        || meta.mode() & WRITABLE_BY_ALL != 0
}

/// Whether executing `path` leads through a magic link of procfs, as `/proc/self/exe` is, by itself
/// or by the interpreters that scripts name.
///
/// A file that may be run but not read is not looked into. It takes a user who is not the
/// container's root, and as such cannot change a file of the caller's.
pub(super) fn leads_to_magic(path: &CStr) -> bool {
    let mut path = path.to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = match openat2(AT_FDCWD, Path::new(OsStr::from_bytes(path.to_bytes())), how) {
            Ok(file) => File::from(file),
            Err(errno) => return errno == Errno::ELOOP && !is_circle(&path),
        };
        let mut line = Vec::with_capacity(256);
        let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
        if !is_file || file.take(LINE_BYTES).read_to_end(&mut line).is_err() {
            return false;
        }
        match interpreter(&line) {
            Some(next) => path = next,
            None => return false,
        }
    }
    false
}

/// Whether symbolic links lead to each other for ever: what else fails so has a magic link on its way.
fn is_circle(path: &CStr) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty()).is_err_and(|errno| errno == Errno::ELOOP)
}

/// The interpreter that a script's first line names (execve(2), "Interpreter scripts").
fn interpreter(line: &[u8]) -> Option<CString> {
    let line = line.strip_prefix(b"#!")?;
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = line.iter().position(|b| !is_blank(b))?;
    let rest = line.get(start..)?;
    let end = rest.iter().position(|b| is_blank(b) || matches!(b, b'\n' | 0));
    CString::new(rest.get(..end.unwrap_or(rest.len()))?).ok().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_read_as_the_kernel_does() {
        for (line, path) in [
            (&b"#!/bin/sh\n"[..], Some(c"/bin/sh")),
            (b"#! \t/proc/self/exe init -- x\n", Some(c"/proc/self/exe")),
            (b"#!/a\0b", Some(c"/a")),
            (b"#!/end", Some(c"/end")),
            (b"#! \n", None),
            (b"#!", None),
            (b"\x7fELF", None),
        ] {
            assert_eq!(interpreter(line).as_deref(), path, "{line:?}");
        }
    }
}
