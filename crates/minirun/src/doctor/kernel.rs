//! The kernel itself.

use ctsys::report::chain;
use ctsys::support;
use nix::sys::utsname::uname;

use super::finding::Finding;
use crate::refusal;

/// The first Linux with all that is used: mount_setattr(2).
const OLDEST: (u32, u32) = (5, 12);

/// The version.
pub(super) fn version() -> Finding {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    judge_version(&release.unwrap_or_default())
}

fn judge_version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => {
            Finding::fine("kernel", format!("Linux {release}"))
        }
        _ => Finding::missing(
            "kernel",
            format!("got Linux {release:?}, want 5.12 or later"),
            "boot a later kernel (or, where a sandbox stands in for one, run minirun outside)",
        ),
    }
}

/// Filters for system calls, and whether one is on this process already.
pub(super) fn seccomp() -> Finding {
    let check = "seccomp";
    match support::seccomp_filters() {
        Ok(()) if refusal::is_filtered() => Finding::fine(
            check,
            "filters can be set; one is on this process already, as in other containers",
        ),
        Ok(()) => Finding::fine(check, "filters can be set"),
        Err(error) => Finding::warning(
            check,
            format!("no filters: {}", chain(&error)),
            "use a kernel with CONFIG_SECCOMP_FILTER, or run with --security-opt seccomp=unconfined",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, status) in [
            ("6.18.44-generic", Status::Fine),
            ("5.12", Status::Fine),
            ("5.12-rc1", Status::Fine),
            ("10.0", Status::Fine),
            ("5.9.16", Status::Missing),
            ("4.99", Status::Missing),
            ("99999999999.1", Status::Missing),
            ("", Status::Missing),
        ] {
            assert_eq!(judge_version(release).status, status, "{release}");
        }
    }
}
