//! Kernel parameters of the container's namespaces, written through a procfs that nobody else has:
//! the container's /proc may be covered by what the configuration or an image brings
//! (CVE-2025-52881).

use std::io::Write;
use std::path::{Path, PathBuf};

use ctsys::error::Context;
use ctsys::mount::{NewFilesystem, attr};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::handshake::{Failure, Step};

/// Writes the parameters.
pub(super) fn write(sysctls: &[(PathBuf, String)]) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = NewFilesystem::open("proc")
        .and_then(|proc| proc.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC))
        .step(|| "cannot set kernel parameters without a procfs of the own".into())
        .map_err(|f| f.hint("a nested container cannot set linux.sysctl: remove it"))?;
    for (name, value) in sysctls {
        let what = || format!("cannot set the kernel parameter {name:?} to {value:?}");
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_XDEV
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let path = Path::new("sys").join(name);
        let file = openat2(&proc, &path, how).call("openat2", || format!("{path:?}")).step(what)?;
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .call("write", || format!("{path:?}, {value:?}"))
            .step(what)?;
    }
    Ok(())
}
