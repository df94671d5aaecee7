//! What can be said of a root filesystem from outside.

use std::path::Path;

use ctsys::error::Context;
use nix::errno::Errno;

use super::{Result, RunError};

/// Told apart from what else can fail inside, where it would be one of many mounts.
pub(super) fn check(path: &Path) -> Result<()> {
    match std::fs::metadata(path).call("stat", || format!("{path:?}")) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Err(source) if !matches!(source.errno(), Errno::ENOENT | Errno::ENOTDIR) => {
            Err(RunError::Outside { step: "get to the root filesystem", source })
        }
        _ => Err(RunError::NoRootfs(path.into())),
    }
}

/// A bundle that was named as a root filesystem has no program where one is looked for.
pub(super) fn name_bundle(error: RunError, rootfs: &Path) -> RunError {
    match error {
        RunError::Inside(failure) if failure.code == 127 && rootfs.join("rootfs").is_dir() => {
            let rootfs = rootfs.display();
            let hint =
                format!("there is a rootfs in {rootfs}, as in a bundle: minirun --bundle {rootfs}");
            RunError::Inside(failure.hint(hint))
        }
        other => other,
    }
}
