//! What rootless containers need of this machine, tried out: `minirun doctor`.
//!
//! ```text
//! finding   what one check says: fine, or the cause and the remedy
//! attempt   a child that is root of new namespaces and tries something there
//! kernel    version, seccomp
//! userns    user namespaces, AppArmor
//! ids       subordinate ids and the helpers that map them
//! files     /proc, /sys, overlays
//! cgroup    what of the cgroup tree the caller may use
//! network   what connects a container's network with the host's
//! place     where state is kept; the tools beside this one
//! show      all of that for people and for programs
//! ```
//!
//! What can be tried is tried, in children that leave nothing behind; switches and files are read
//! only to say why something was refused.

mod attempt;
mod cgroup;
mod files;
mod finding;
mod ids;
mod kernel;
mod network;
mod place;
mod show;
mod userns;

use crate::caller::Caller;

pub use finding::{Finding, Status};
pub use show::{json, table};

/// Checks everything. Must be called before any thread is started.
pub fn examine(caller: &Caller) -> Vec<Finding> {
    let namespaces = userns::check(caller);
    let refused = namespaces.status == Status::Missing;
    let apparmor = userns::apparmor(refused);
    let mut findings =
        vec![kernel::version(), namespaces, apparmor, ids::no_new_privs(), ids::check(caller)];
    // Without namespaces to try them in these would all say the same once more.
    if !refused {
        findings.extend([files::proc(caller), files::sys(caller), files::overlay(caller)]);
    }
    findings.push(files::directory_types());
    findings.extend([cgroup::check(), network::connector(), network::tun()]);
    findings.extend([kernel::seccomp(), place::state(), place::pfwd()]);
    findings
}

/// Whether containers can run: nothing that is needed is missing.
pub fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Missing)
}
