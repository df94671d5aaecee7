//! Why this machine refuses user namespaces: read off the switches that do it.

use ctsys::SysError;
use nix::errno::Errno;
use nix::sys::prctl;

/// The remedy when clone3(2) with new namespaces failed.
pub(super) fn hint(errno: Errno) -> String {
    if errno == Errno::ENOSPC {
        for limit in ["user", "net", "mnt", "pid", "ipc", "uts", "cgroup"] {
            if switch(&format!("user/max_{limit}_namespaces")).as_deref() == Some("0") {
                return format!(
                    "this machine allows no {limit} namespaces; as root: sysctl -w user.max_{limit}_namespaces=15000"
                );
            }
        }
        return "all namespaces that this machine allows are in use; as root, raise user.max_*_namespaces (sysctl)".into();
    }
    if errno == Errno::EPERM {
        if switch("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
            return "user namespaces are switched off here; as root: sysctl -w kernel.unprivileged_userns_clone=1".into();
        }
        if let Some(hint) = apparmor() {
            return hint;
        }
        return "the kernel refuses user namespaces to processes in a chroot or behind a seccomp filter, as in other containers: run minirun outside".into();
    }
    if let Some(hint) = processes_hint(errno) {
        return hint;
    }
    "user namespaces need a kernel that has them (CONFIG_USER_NS), and memory".into()
}

/// The remedy where no process could be made because there are enough; `None` for other causes.
pub(super) fn processes_hint(errno: Errno) -> Option<String> {
    (errno == Errno::EAGAIN).then(|| {
        "this user runs as many processes as allowed: end some, or raise the limit (ulimit -u)"
            .into()
    })
}

/// The remedy where AppArmor denies what a user namespace is for; `None` where it does not.
pub(super) fn apparmor() -> Option<String> {
    (switch("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")).then(|| {
        "AppArmor restricts user namespaces here; as root, add a profile for minirun with `userns,`, or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into()
    })
}

/// The remedy when the maps could not be installed.
pub(super) fn maps_hint(by_helpers: bool, error: &SysError) -> String {
    if by_helpers {
        if prctl::get_no_new_privs().unwrap_or(false) {
            return "no_new_privs is set here (by a service's NoNewPrivileges, or another container), so newuidmap gets no rights: run minirun without it".into();
        }
        return "check that newuidmap and newgidmap are set-uid root and that /etc/subuid and /etc/subgid grant the ranges (one user's must not overlap another's)".into();
    }
    match (error.errno(), apparmor()) {
        (Errno::EPERM | Errno::EACCES, Some(hint)) => hint,
        _ => "without root only the caller's own user and group can be mapped, one id each: correct linux.uidMappings and linux.gidMappings".into(),
    }
}

fn switch(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}
