//! Reading the profile that `--security-opt seccomp=FILE` names.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Error, Result};
use crate::config::security::Seccomp;
use crate::seccomp::profile::{MAX_PROFILE_BYTES, Profile, kernel_version};

/// The profile, and this machine's kernel version, which may decide about parts of it; `None` when
/// no file is asked for.
pub(super) fn read(wanted: Option<&Seccomp>) -> Result<Option<(Profile, (u64, u64))>> {
    let Some(Seccomp::File(path)) = wanted else { return Ok(None) };
    let text = read_file(path).map_err(|cause| Error::ReadProfile { path: path.clone(), cause })?;
    let profile =
        Profile::parse(&text).map_err(|source| Error::Profile { path: path.clone(), source })?;
    // Without a readable version nothing that needs a newer kernel is taken from the profile.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Some((profile, kernel_version(&release).unwrap_or_default())))
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    // O_NONBLOCK: opening a FIFO would wait for a writer.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_PROFILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROFILE_BYTES {
        return Err(std::io::Error::other(format!("larger than {MAX_PROFILE_BYTES} bytes")));
    }
    Ok(bytes)
}
