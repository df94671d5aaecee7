//! A copy of the running program that nobody can change.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Context, Result};

const OWN_FILE: &str = "/proc/self/exe";

/// Goes on from a sealed copy in memory (memfd_create(2)): executes the program anew, with the same
/// arguments and environment, unless it runs from such a copy already.
///
/// For a process that executes a container's program among others of that container: where that
/// program is, or names as its interpreter, `/proc/self/exe`, the container's root owns a process
/// that runs the caller's file, and through it could change that file (CVE-2019-5736).
///
/// To be called before anything is done that must not be done twice. Returns in the copy only.
pub fn run_from_sealed_copy() -> Result<()> {
    let mut own = File::open(OWN_FILE).call("open", || format!("{OWN_FILE:?}"))?;
    // A file on a disk has no seals (EINVAL), one of a tmpfs has F_SEAL_SEAL alone.
    let seals = fcntl(&own, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if SealFlag::from_bits_truncate(seals).contains(wanted()) {
        return Ok(());
    }
    let mut copy = File::from(new_memory_file()?);
    std::io::copy(&mut own, &mut copy).call("write", || "memfd".into())?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(wanted())).call("fcntl", || "memfd, F_ADD_SEALS".into())?;
    let args = c_strings(std::env::args_os());
    let env = c_strings(std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }));
    match nix::unistd::fexecve(&copy, &args, &env) {
        Err(errno) => Err(errno).call("fexecve", || "memfd".into()),
        Ok(never) => match never {},
    }
}

fn wanted() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn new_memory_file() -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Said since Linux 6.3, where vm.memfd_noexec may take it for not executable else.
    let executable = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    match memfd_create(c"minirun", flags | executable) {
        Err(Errno::EINVAL) => memfd_create(c"minirun", flags),
        other => other,
    }
    .call("memfd_create", String::new)
}

/// What came in by execve(2) has no NUL.
fn c_strings(words: impl Iterator<Item = OsString>) -> Vec<CString> {
    words.filter_map(|word| CString::new(word.into_vec()).ok()).collect()
}
