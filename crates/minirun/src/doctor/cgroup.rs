//! Whether the caller may limit what containers use: a cgroup v2 subtree that is delegated, or that
//! systemd delegates when it is asked to.

use nix::sched::CloneFlags;

use super::attempt::{self, Refusal};
use super::finding::Finding;
use crate::cgroup;
use crate::handshake::Failure;
use ctsys::report::{Explain, chain};

const CHECK: &str = "cgroups";
/// Without these --memory, --cpus and --pids-limit cannot be had.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

/// Looks for the place of a container's cgroup, in a child: systemd may move that to a scope.
pub(super) fn check() -> Finding {
    let looking = || match cgroup::look(&WANTED) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(chain(&error)).hint(error.hint().unwrap_or_default())),
    };
    match attempt::run(CloneFlags::empty(), None, looking) {
        Ok(()) => Finding::fine(CHECK, format!("containers can be limited: {}", WANTED.join(" "))),
        Err(Refusal::Inside(failure)) => {
            let remedy = failure.remedy();
            Finding::warning(CHECK, failure.what, remedy)
        }
        Err(other) => Finding::warning(CHECK, chain(&other), "see the user namespaces above"),
    }
}
