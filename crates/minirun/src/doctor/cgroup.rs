//! Whether the caller may limit what containers use: a cgroup v2 subtree that is delegated
//! (systemd's CGROUP_DELEGATION, the kernel's cgroup-v2, "Delegation").

use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::refusal;

const CHECK: &str = "cgroups";
/// Where the unified hierarchy is: alone, or beside version 1's.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Without these --memory, --cpus and --pids-limit cannot be had.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

const DELEGATE: &str = "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload, then log in again";

/// Which controllers the caller's cgroup has, if it may make cgroups below.
pub(super) fn check() -> Finding {
    let is_v2 =
        |root: &&&str| statfs(**root).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let Some(root) = ROOTS.iter().find(is_v2) else {
        return judge(None);
    };
    let own = own_cgroup(&refusal::read("/proc/self/cgroup").unwrap_or_default());
    let Some(dir) = own.map(|own| Path::new(root).join(own)) else { return judge(None) };
    judge(Some(&Subtree::look(&dir)))
}

/// The caller's cgroup below the unified hierarchy's root: the line `0::/PATH` (cgroups(7)). One
/// outside of what a cgroup namespace shows begins with `..`, and is not to be had here.
fn own_cgroup(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.split('/').any(|name| name == "..")).then(|| path.into())
}

/// A cgroup of the caller's, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subtree {
    /// Processes may be moved in it and cgroups made below.
    writable: bool,
    /// What it can limit.
    controllers: Vec<String>,
}

impl Subtree {
    fn look(dir: &Path) -> Self {
        let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
        let text = refusal::read(&dir.join("cgroup.controllers").to_string_lossy());
        Self {
            writable: writable(dir) && writable(&dir.join("cgroup.procs")),
            controllers: text.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// `None`: there is no unified hierarchy, or not the caller's part of it.
fn judge(subtree: Option<&Subtree>) -> Finding {
    let Some(subtree) = subtree else {
        return Finding::warning(
            CHECK,
            "there is no cgroup version 2 here, so containers cannot be limited (--memory, --cpus, --pids-limit)",
            "boot with systemd.unified_cgroup_hierarchy=1; in a container, mount /sys/fs/cgroup",
        );
    };
    if !subtree.writable {
        return Finding::warning(
            CHECK,
            "the caller's cgroup is not delegated, so containers cannot be limited (--memory, --cpus, --pids-limit)",
            format!(
                "run as `systemd-run --user --scope -p Delegate=yes minirun …`; for all sessions: {DELEGATE}"
            ),
        );
    }
    let has = |name: &&&str| subtree.controllers.iter().any(|c| c == **name);
    let lacking: Vec<&str> = WANTED.iter().filter(|name| !has(name)).copied().collect();
    if lacking.is_empty() {
        return Finding::fine(CHECK, format!("delegated: {}", subtree.controllers.join(" ")));
    }
    Finding::warning(
        CHECK,
        format!("the caller's cgroup lacks controllers: {}", lacking.join(" ")),
        DELEGATE,
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_own_cgroup_is_the_unified_hierarchys() {
        let text = "12:memory:/user.slice\n0::/user.slice/user-1000.slice\n";
        assert_eq!(own_cgroup(text), Some("user.slice/user-1000.slice".into()));
        assert_eq!(own_cgroup("0::/\n"), Some("".into()));
        assert_eq!(own_cgroup("0::/../../x\n"), None);
        assert_eq!(own_cgroup("1:cpu:/\n"), None);
    }

    #[test]
    fn what_is_delegated_decides() {
        let subtree = |writable, controllers: &str| Subtree {
            writable,
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        };
        assert_eq!(judge(Some(&subtree(true, "cpu io memory pids"))).status, Status::Fine);
        assert_eq!(judge(Some(&subtree(false, "cpu io memory pids"))).status, Status::Warning);
        assert_eq!(judge(None).status, Status::Warning);
        let partly = judge(Some(&subtree(true, "memory pids")));
        assert!(partly.cause.ends_with(": cpu"), "{partly:?}");
    }
}
