//! What connects a container's network with the host's.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;

const TUN: &str = "/dev/net/tun";

/// pasta, else slirp4netns.
pub(super) fn connector() -> Finding {
    let check = "network";
    match ["pasta", "slirp4netns"].iter().find_map(|name| in_path(name)) {
        Some(path) => Finding::fine(check, path.display().to_string()),
        None => Finding::warning(
            check,
            "neither pasta nor slirp4netns is in PATH, so containers reach nothing outside",
            "sudo apt-get install passt (or slirp4netns), or run with --net host",
        ),
    }
}

/// The device that both make the container's interface with.
pub(super) fn tun() -> Finding {
    let opened = File::options().read(true).write(true).open(TUN);
    let (cause, remedy) = match opened {
        Ok(_) => return Finding::fine(TUN, "can be opened"),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => (
                format!("not there: {error}"),
                "sudo modprobe tun (in a container, give it the device: --device /dev/net/tun)",
            ),
            ErrorKind::PermissionDenied => {
                (format!("may not be opened: {error}"), "sudo chmod 0666 /dev/net/tun")
            }
            _ => (format!("cannot be opened: {error}"), "sudo modprobe tun"),
        },
    };
    Finding::warning(TUN, format!("{cause}: pasta and slirp4netns need it"), remedy)
}

/// A program in PATH or where distributions put it.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

/// Whether there is a file that the caller may execute.
pub(super) fn is_program(file: &Path) -> bool {
    file.is_file() && access(file, AccessFlags::X_OK).is_ok()
}
