//! Subordinate ids, and the set-uid helpers that map them: tried by mapping them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ctsys::idmap::{self, IdMaps};
use ctsys::report::chain;
use ctsys::{SysError, xattr};
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::attempt::{self, Refusal};
use super::finding::Finding;
use crate::caller::Caller;
use crate::refusal;

const CHECK: &str = "subordinate ids";
/// Ids that an ordinary image needs: up to nobody's 65534.
const WANTED_IDS: u64 = 65_536;
const SET_UID: u32 = 0o4000;

/// Whether programs can gain rights here, as newuidmap has to, and su and sudo in containers.
pub(super) fn no_new_privs() -> Finding {
    match prctl::get_no_new_privs() {
        Ok(true) => Finding::warning(
            "no_new_privs",
            "set on this process (by a service's NoNewPrivileges, or another container): newuidmap, and su and sudo in containers, get no rights",
            "run minirun without it: in a systemd unit NoNewPrivileges=no",
        ),
        _ => Finding::fine("no_new_privs", "not set"),
    }
}

/// Whether the caller has more ids than the own one.
pub(super) fn check(caller: &Caller) -> Finding {
    if caller.uid == 0 {
        return Finding::fine(CHECK, "not needed: root has all ids of its namespace");
    }
    match idmap::granted_counts(caller.uid) {
        Err(error) => Finding::warning(
            CHECK,
            format!("cannot be read: {}", chain(&error)),
            "sudo chmod a+r /etc/passwd /etc/subuid /etc/subgid",
        ),
        Ok((uids, gids)) if uids == 0 || gids == 0 => not_granted(caller.uid),
        Ok((uids, gids)) => granted(caller, uids.min(gids)),
    }
}

fn not_granted(uid: u32) -> Finding {
    let name = idmap::login_name(uid).ok().flatten();
    let who = name.clone().unwrap_or_else(|| uid.to_string());
    // Names that a shell takes as they are; others go by number, as subuid(5) allows.
    let plain =
        |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let remedy = match name.filter(plain) {
        Some(name) => {
            format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}")
        }
        None => format!("echo {uid}:100000:65536 | sudo tee -a /etc/subuid /etc/subgid"),
    };
    Finding::warning(
        CHECK,
        format!(
            "none are granted to {who} in /etc/subuid and /etc/subgid: images get along with the one id that is the caller's, or not"
        ),
        format!("{remedy} (ids that nobody else has there)"),
    )
}

fn granted(caller: &Caller, count: u64) -> Finding {
    for name in ["newuidmap", "newgidmap"] {
        if idmap::find_helper(name).is_none() {
            return Finding::warning(
                CHECK,
                format!("{count} are granted, but {name} is neither in PATH nor in /usr/bin"),
                "sudo apt-get install uidmap (elsewhere the package is shadow-utils or newuidmap)",
            );
        }
    }
    let maps = match IdMaps::subordinate(caller.uid, caller.gid) {
        Ok(Some(maps)) => maps,
        // Both were there just before.
        Ok(None) => return not_granted(caller.uid),
        Err(error) => return refused(&error),
    };
    match attempt::with_namespaces(CloneFlags::empty(), &maps, || Ok(())) {
        Ok(()) if count < WANTED_IDS => Finding::warning(
            CHECK,
            format!("{count} can be mapped: too few for images with a user nobody (65534)"),
            "have a range of 65536 granted in /etc/subuid and /etc/subgid",
        ),
        Ok(()) => Finding::fine(CHECK, format!("{count} can be mapped")),
        Err(Refusal::Maps(error)) => refused(&error),
        // That is said of user namespaces themselves.
        Err(other) => Finding::warning(
            CHECK,
            format!("{count} are granted, but could not be tried: {}", chain(&other)),
            "mend the user namespaces first",
        ),
    }
}

/// The helpers are there and fail: looks for the reason that is known of each.
fn refused(error: &SysError) -> Finding {
    let said = chain(error);
    let powerless = ["newuidmap", "newgidmap"]
        .iter()
        .filter_map(|name| idmap::find_helper(name))
        .find_map(|path| lack_of_rights(&path));
    let (cause, remedy) = match powerless {
        Some(reason) if !prctl::get_no_new_privs().unwrap_or(false) => reason,
        _ => {
            let reason = refusal::maps(true, error);
            (reason.cause, reason.remedy)
        }
    };
    Finding::warning(CHECK, format!("cannot be mapped: {cause}: {said}"), remedy)
}

/// Why the helper at `path` runs without the rights that it needs: cause and remedy.
fn lack_of_rights(path: &Path) -> Option<(String, String)> {
    let shown = path.display();
    let nosuid = statvfs(path).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID));
    if nosuid {
        let cause = format!("{shown} is on a mount with nosuid");
        return Some((cause, "sudo mount -o remount,suid the filesystem it is on".into()));
    }
    let meta = std::fs::metadata(path).ok()?;
    let by_set_uid = meta.mode() & SET_UID != 0 && meta.uid() == 0;
    if by_set_uid || has_file_capabilities(path) {
        return None;
    }
    let cause = format!("{shown} is not set-uid root, nor has it file capabilities");
    Some((cause, format!("sudo chown root {shown} && sudo chmod u+s {shown}")))
}

fn has_file_capabilities(path: &Path) -> bool {
    let held: Option<_> =
        open(&PathBuf::from(path), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok();
    let value = held.and_then(|held| xattr::get_held(held, b"security.capability").ok());
    value.flatten().is_some()
}
