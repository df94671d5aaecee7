//! Where containers are recorded, and the tools beside this one.

use std::path::Path;

use ctsys::report::chain;
use ctsys::state::StateRoot;
use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use super::network::{in_path, is_program};
use crate::refusal;

/// The state directory, or the one that it is to be made in.
pub(super) fn state() -> Finding {
    let check = "state directory";
    let dir = StateRoot::default_dir();
    let usable = |path: &Path| access(path, AccessFlags::W_OK | AccessFlags::X_OK);
    let found = match StateRoot::find_default() {
        Ok(Some(root)) => usable(root.path()),
        // It is made by the first container.
        Ok(None) => usable(dir.parent().unwrap_or(Path::new("/"))),
        Err(error) => {
            let remedy = refusal::of_state(&error).unwrap_or_default();
            return Finding::missing(check, chain(&error), remedy);
        }
    };
    match found {
        Ok(()) => Finding::fine(check, dir.display().to_string()),
        Err(errno) => Finding::missing(
            check,
            format!("{dir:?} cannot be written: {}", errno.desc()),
            "export XDG_RUNTIME_DIR=$(mktemp -d), in every shell that is to see the containers",
        ),
    }
}

/// pfwd, which publishes ports.
pub(super) fn pfwd() -> Finding {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("pfwd"))).filter(|p| is_program(p));
    match beside.or_else(|| in_path("pfwd")) {
        Some(path) => Finding::fine("pfwd", path.display().to_string()),
        None => Finding::warning(
            "pfwd",
            "neither beside minirun nor in PATH, so no ports can be published (-p)",
            "install it beside minirun, or in PATH",
        ),
    }
}
