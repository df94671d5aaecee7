//! User namespaces, and the others that a container is born into.

use ctsys::mount::NewFilesystem;
use ctsys::report::chain;
use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::attempt::{self, Refusal};
use super::finding::Finding;
use crate::caller::Caller;
use crate::handshake::Step;
use crate::refusal::{self, Reason};

const CHECK: &str = "user namespaces";

/// Each kind by the name that its limit has.
const KINDS: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::empty()),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// All namespaces at once, and a mount in them: AppArmor lets them be made, and takes the rights.
pub(super) fn check(caller: &Caller) -> Finding {
    let maps = caller.own_maps();
    let all = KINDS.iter().fold(CloneFlags::empty(), |all, (_, kind)| all | *kind);
    let mounting = || {
        attempt::detach_mounts()?;
        NewFilesystem::open("tmpfs")
            .and_then(|tmpfs| tmpfs.mount(0))
            .map(drop)
            .step(|| "cannot mount in a user namespace".into())
    };
    let Err(refusal) = attempt::with_namespaces(all, &maps, mounting) else {
        return Finding::fine(CHECK, "can be made, and mounted in");
    };
    let reason = match &refusal {
        Refusal::Namespaces(error) if error.errno() == Errno::ENOSPC => used_up(caller),
        Refusal::Namespaces(error) => refusal::namespaces(error.errno()),
        Refusal::Maps(error) => refusal::maps(false, error),
        Refusal::Inside(failure) => refusal::namespaces(Errno::from_raw(failure.errno)),
        Refusal::Outside(error) => refusal::step(error.errno()),
        Refusal::Killed => refusal::step(Errno::ENOMEM),
    };
    Finding::missing(CHECK, format!("{}: {}", reason.cause, chain(&refusal)), reason.remedy)
}

/// Which kind there is no more of, each tried by itself.
fn used_up(caller: &Caller) -> Reason {
    let maps = caller.own_maps();
    let is_used_up = |kind| {
        let tried = attempt::with_namespaces(kind, &maps, || Ok(()));
        matches!(tried, Err(Refusal::Namespaces(error)) if error.errno() == Errno::ENOSPC)
    };
    let kind = KINDS.iter().find(|(_, kind)| is_used_up(*kind)).map(|(name, _)| name);
    refusal::limited(kind)
}

/// Whether AppArmor stands in the way. Its switch alone does not say: a profile may let minirun.
pub(super) fn apparmor(refused: bool) -> Finding {
    let restricts = refusal::apparmor().is_some();
    judge_apparmor(restricts, refused)
}

fn judge_apparmor(restricts: bool, refused: bool) -> Finding {
    let check = "AppArmor";
    match (restricts, refused) {
        (false, _) => Finding::fine(check, "does not restrict user namespaces"),
        (true, false) => Finding::fine(check, "restricts user namespaces, but not minirun's"),
        (true, true) => Finding::missing(check, "restricts user namespaces", refusal::profile()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_restriction_counts_only_where_it_refuses_something() {
        assert_eq!(judge_apparmor(true, false).status, Status::Fine);
        assert_eq!(judge_apparmor(false, true).status, Status::Fine);
        let finding = judge_apparmor(true, true);
        assert_eq!(finding.status, Status::Missing);
        let remedy = finding.remedy.unwrap();
        assert!(remedy.contains("userns,") && remedy.contains("apparmor_parser -r"), "{remedy}");
    }
}
