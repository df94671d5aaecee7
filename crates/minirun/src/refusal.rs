//! Why this machine refuses what a container needs, and what removes that: read off the switches
//! that do it. Looked at only once something failed, and by `doctor`.

use ctsys::state::StateError;
use ctsys::{SysError, capability};
use nix::errno::Errno;
use nix::sys::prctl;

/// `CAP_SETFCAP`.
const SETFCAP: u64 = 1 << 31;
/// The kinds of namespaces, as user.max_*_namespaces (namespaces(7)) names them.
const LIMITED: [&str; 7] = ["user", "net", "mnt", "pid", "ipc", "uts", "cgroup"];
/// Switches and a process's status are some lines of text; what is longer is none of them.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// What stands in the way, and what removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    /// As a clause: `user namespaces are switched off here`.
    pub(crate) cause: String,
    /// A command ready to paste, or what to do.
    pub(crate) remedy: String,
}

impl Reason {
    fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into() }
    }

    /// Both as one line.
    pub(crate) fn hint(&self) -> String {
        format!("{}: {}", self.cause, self.remedy)
    }
}

/// Why clone3(2) with new namespaces failed.
pub(crate) fn namespaces(errno: Errno) -> Reason {
    match errno {
        Errno::ENOSPC => limited(LIMITED.iter().find(|kind| limit(kind).as_deref() == Some("0"))),
        Errno::EPERM | Errno::EACCES => denied(),
        Errno::EAGAIN | Errno::ENOMEM | Errno::ENOSYS => step(errno),
        _ => Reason::new(
            "user namespaces need a kernel that has them",
            "use one with CONFIG_USER_NS, Linux 5.12 or later",
        ),
    }
}

/// Why no more namespaces of a kind can be had; without a kind, of one that is not known.
pub(crate) fn limited(kind: Option<&&str>) -> Reason {
    let Some(kind) = kind else {
        return Reason::new(
            "all namespaces that this machine, or the container around, allows are in use",
            "end some containers, or as root raise user.max_*_namespaces (sysctl)",
        );
    };
    let raise = format!("sudo sysctl -w user.max_{kind}_namespaces=15000");
    match limit(kind).as_deref() {
        Some("0") => Reason::new(format!("this machine allows no {kind} namespaces"), raise),
        _ => Reason::new(
            format!(
                "all {kind} namespaces that this machine, or the container around, allows are in use"
            ),
            format!("end some containers, or raise the limit where it is set: {raise}"),
        ),
    }
}

/// Why the kernel refuses user namespaces, or what they are for, to this process.
fn denied() -> Reason {
    if switch("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Reason::new(
            "user namespaces are switched off here",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if let Some(reason) = apparmor() {
        return reason;
    }
    if is_filtered() {
        return Reason::new(
            "the kernel refuses user namespaces to processes in a chroot or behind a seccomp filter, and there is a filter here, as in other containers",
            "run minirun outside, or give the container --security-opt seccomp=unconfined",
        );
    }
    Reason::new(
        "the kernel refuses user namespaces to processes in a chroot or behind a security module",
        "run minirun outside, or change the root by pivot_root instead",
    )
}

/// The reason where AppArmor denies what a user namespace is for; `None` where it does not.
pub(crate) fn apparmor() -> Option<Reason> {
    let restricts = switch("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1");
    // Root is not meant, nor a program that has a profile of its own.
    let is_meant = !nix::unistd::geteuid().is_root()
        && read("/proc/self/attr/current").is_none_or(|label| label.trim() == "unconfined");
    (restricts && is_meant).then(|| {
        Reason::new(
            "AppArmor restricts user namespaces here",
            format!("allow minirun: {}", profile()),
        )
    })
}

/// The command that loads an AppArmor profile by which this program may make user namespaces
/// (Ubuntu's security notes on apparmor_restrict_unprivileged_userns).
pub(crate) fn profile() -> String {
    let own = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned));
    // Other characters mean something to AppArmor or to the shell.
    let plain =
        |path: &String| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c));
    let path = own.filter(plain).unwrap_or_else(|| "/usr/local/bin/minirun".into());
    format!(
        "printf 'abi <abi/4.0>,\\nprofile minirun {path} flags=(unconfined) {{\\n  userns,\\n}}\\n' | sudo tee /etc/apparmor.d/minirun && sudo apparmor_parser -r /etc/apparmor.d/minirun"
    )
}

/// Why the maps could not be installed.
pub(crate) fn maps(by_helpers: bool, error: &SysError) -> Reason {
    if by_helpers {
        if prctl::get_no_new_privs().unwrap_or(false) {
            return Reason::new(
                "no_new_privs is set here (by a service's NoNewPrivileges, or another container), so newuidmap gets no rights",
                "run minirun without it",
            );
        }
        return Reason::new(
            "newuidmap and newgidmap must be set-uid root, and /etc/subuid and /etc/subgid grant the ranges (one user's must not overlap another's)",
            "see which it is: minirun doctor",
        );
    }
    let is_root = nix::unistd::geteuid().is_root();
    let lacks_setfcap = || capability::effective().is_ok_and(|set| set & SETFCAP == 0);
    match (error.errno(), apparmor()) {
        (Errno::EPERM | Errno::EACCES, Some(reason)) => reason,
        (Errno::EPERM, _) if is_root && lacks_setfcap() => Reason::new(
            "root may map user 0 only with the capability setfcap (user_namespaces(7)), which this container's root has not got",
            "give it that (--cap-add setfcap), or run minirun as another user in it",
        ),
        (Errno::ENOENT, _) => {
            Reason::new("/proc is needed here", "mount it: sudo mount -t proc proc /proc")
        }
        (Errno::EPERM | Errno::EINVAL, _) => Reason::new(
            "without root only the caller's own user and group can be mapped, one id each",
            "correct linux.uidMappings and linux.gidMappings where config.json has others, else see what is refused: minirun doctor",
        ),
        (errno, _) => step(errno),
    }
}

/// Why a system call failed where nothing more is known than its errno.
pub(crate) fn step(errno: Errno) -> Reason {
    let (cause, remedy) = match errno {
        Errno::EPERM | Errno::EACCES => return forbidden(),
        Errno::ENOSYS => (
            "this kernel lacks the call, or a seccomp filter hides it",
            "use Linux 5.12 or later, and run minirun outside of other containers",
        ),
        Errno::EAGAIN => (
            "this user runs as many processes as allowed",
            "end some, or raise the limit (ulimit -u)",
        ),
        Errno::ENOMEM => {
            ("memory is short", "end something, or raise the limit (ulimit -v, or the cgroup's)")
        }
        Errno::EMFILE | Errno::ENFILE => {
            ("too many files are open", "raise the limit (ulimit -n), or close some")
        }
        Errno::ENOSPC => (
            "a disk is full, or a limit on mounts or watches is reached",
            "make room (df -h; df -i), or as root raise fs.mount-max (sysctl)",
        ),
        Errno::EDQUOT => ("the user's quota is used up", "remove something (quota)"),
        Errno::EROFS => ("that filesystem is read-only", "use a place that can be written"),
        Errno::EIO => ("the disk or server does not answer", "look at the kernel's log (dmesg)"),
        Errno::ELOOP => ("a symbolic link is in the way", "remove it, or name another place"),
        Errno::ENOENT | Errno::ENOTDIR => (
            "something on that way is not there",
            "check the path, and that nothing is removed meanwhile",
        ),
        Errno::E2BIG => {
            ("arguments and environment are too long", "pass less, or raise the limit (ulimit -s)")
        }
        Errno::ETXTBSY => ("that file is being written", "try again when it is complete"),
        _ => ("this machine cannot do it as it is", "see what it lacks: minirun doctor"),
    };
    Reason::new(cause, remedy)
}

fn forbidden() -> Reason {
    if let Some(reason) = apparmor() {
        return reason;
    }
    if is_filtered() {
        return Reason::new(
            "there is a seccomp filter here, as in other containers, which may refuse it",
            "run minirun outside, or see what is refused: minirun doctor",
        );
    }
    Reason::new(
        "file permissions, the kernel or a security module refuse it",
        "see what this machine refuses: minirun doctor",
    )
}

/// The remedy of a failure at the state directory; `None` where it depends on what was wanted.
pub(crate) fn of_state(error: &StateError) -> Option<String> {
    error.remedy().or_else(|| match error {
        StateError::Sys(error) => Some(step(error.errno()).hint()),
        _ => None,
    })
}

/// Whether a seccomp filter is on this process (proc_pid_status(5)).
pub(crate) fn is_filtered() -> bool {
    read("/proc/self/status").is_some_and(|text| {
        text.lines()
            .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
    })
}

/// How many namespaces of a kind may be made here, as text.
pub(crate) fn limit(kind: &str) -> Option<String> {
    switch(&format!("user/max_{kind}_namespaces"))
}

/// The value of a kernel parameter, by its path below /proc/sys; `None` where it cannot be read.
pub(crate) fn switch(name: &str) -> Option<String> {
    read(&format!("/proc/sys/{name}")).map(|text| text.trim().to_owned())
}

/// A small text file of the kernel's; `None` where it cannot be read.
pub(crate) fn read(path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
