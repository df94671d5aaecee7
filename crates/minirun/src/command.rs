//! The last steps of a process before it becomes the user's program: session, limits, identity,
//! rights. Shared by the main command and by `exec`.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use ctsys::error::{Context, Result as SysResult};
use ctsys::signal::SignalSet;
use ctsys::{capability, isolate, seccomp, signal, tty};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

use crate::handshake::{Failure, Step};
use crate::plan::Process;
use crate::seccomp::Filter;

/// What installing a filter asks for, unless no_new_privs is set (seccomp(2)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

pub(crate) mod own_file;

/// Where execvp(3) looks when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Becomes the program that `process` describes, in the container that the caller is in already.
/// Returns only if that failed. `mask` is the set of blocked signals that it is to start with;
/// `exposed` says that an image must not have the file run that this process runs from.
pub(crate) fn become_program(
    process: &Process,
    filter: Option<&Filter>,
    terminal: Option<OwnedFd>,
    mask: &SignalSet,
    exposed: bool,
) -> Failure {
    match prepare(process, filter, terminal, mask) {
        Ok(()) => execute(process, exposed),
        Err(failure) => failure,
    }
}

/// Sets the caller's own score for the out-of-memory killer; its children inherit it. To be called
/// while the host's /proc is still there.
pub(crate) fn adjust_oom_score(process: &Process) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    let path = "/proc/self/oom_score_adj";
    std::fs::write(path, score.to_string())
        .call("write", || format!("{path:?}, {score}"))
        .step(|| format!("cannot set process.oomScoreAdj to {score}"))
        .map_err(|f| f.hint("without root it can only be raised: remove it, or ask for more"))
}

fn prepare(
    process: &Process,
    filter: Option<&Filter>,
    terminal: Option<OwnedFd>,
    mask: &SignalSet,
) -> Result<(), Failure> {
    // A session of its own: no access to the terminal that started the container but by the
    // descriptors it was given, so no input can be pushed into it (TIOCSTI, CVE-2017-5226).
    setsid().call("setsid", String::new).step(|| "cannot start a session".into())?;
    if let Some(terminal) = terminal {
        take_terminal(&terminal).step(|| "cannot take the container's terminal".into())?;
    }
    for limit in &process.rlimits {
        let what = || format!("cannot set the limit {:?}", limit.resource);
        setrlimit(limit.resource, limit.soft, limit.hard)
            .call("setrlimit", || format!("{:?}, {}, {}", limit.resource, limit.soft, limit.hard))
            .step(what)
            .map_err(|f| f.hint("a hard limit above the caller's own needs root outside: lower it in process.rlimits"))?;
    }
    umask(Mode::from_bits_truncate(process.umask));
    let early = chdir(&process.cwd);
    // Without no_new_privs a filter asks for CAP_SYS_ADMIN: one capability more until it is there.
    let for_filter = if filter.is_some() && !process.no_new_privileges { CAP_SYS_ADMIN } else { 0 };
    become_user(process, for_filter)?;
    // What root may not enter, the user may (a home on a network filesystem).
    early
        .or_else(|_| chdir(&process.cwd))
        .call("chdir", || format!("{:?}", process.cwd))
        .and_then(|()| check_cwd())
        .step(|| format!("cannot enter the working directory {:?}", process.cwd))
        .map_err(|f| f.hint("choose another with -w DIR, one that the command's user may enter"))?;
    if process.no_new_privileges {
        prctl::set_no_new_privs()
            .call("prctl", || "PR_SET_NO_NEW_PRIVS".into())
            .step(|| "cannot set no_new_privs".into())?;
    }
    isolate::close_on_exec_from(3).step(|| "cannot mark descriptors close-on-exec".into())?;
    signal::reset_dispositions();
    mask.block().map(drop).step(|| "cannot restore the signal mask".into())?;
    match filter {
        Some(filter) => install(filter, process, for_filter),
        None => Ok(()),
    }
}

/// The last step: what follows has to be allowed by the filter. That is execve(2), and capset(2)
/// where a capability was kept for this.
fn install(filter: &Filter, process: &Process, kept: u64) -> Result<(), Failure> {
    seccomp::install(&filter.program, filter.flags)
        .step(|| "cannot install the seccomp filter".into())
        .map_err(|f| f.hint("run without it: --security-opt seccomp=unconfined"))?;
    let sets = &process.capabilities;
    if sets.effective & sets.permitted & kept == kept {
        return Ok(());
    }
    capability::set(sets.effective, sets.permitted, sets.inheritable)
        .step(|| "cannot set capabilities".into())
        .map_err(|f| {
            f.hint("the seccomp profile must allow capset, or process.noNewPrivileges be true")
        })
}

fn take_terminal(terminal: &OwnedFd) -> SysResult<()> {
    tty::set_controlling(terminal)?;
    dup2_stdin(terminal).call("dup2", || "terminal, 0".into())?;
    dup2_stdout(terminal).call("dup2", || "terminal, 1".into())?;
    dup2_stderr(terminal).call("dup2", || "terminal, 2".into())
}

/// The capabilities of the process, and `more` of the caller's for a while. Order matters: the bounding set needs CAP_SETPCAP, the groups CAP_SETGID; only with "keep
/// capabilities" does the change of user leave the permitted ones to choose from.
fn become_user(process: &Process, more: u64) -> Result<(), Failure> {
    let sets = &process.capabilities;
    capability::limit_bounding(sets.bounding).step(|| "cannot limit capabilities".into())?;
    prctl::set_keepcaps(true)
        .call("prctl", || "PR_SET_KEEPCAPS".into())
        .step(|| "cannot keep capabilities".into())?;
    if process.can_set_groups {
        let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)
            .call("setgroups", || format!("{:?}", process.groups))
            .step(|| "cannot set additional groups".into())?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    nix::unistd::setresgid(gid, gid, gid)
        .call("setresgid", || gid.to_string())
        .step(|| format!("cannot become group {gid}"))?;
    nix::unistd::setresuid(uid, uid, uid)
        .call("setresuid", || uid.to_string())
        .step(|| format!("cannot become user {uid}"))?;
    capability::set(sets.effective | more, sets.permitted | more, sets.inheritable)
        .and_then(|()| capability::raise_ambient(sets.ambient))
        .step(|| "cannot set capabilities".into())
        .map_err(|f| {
            f.hint("process.capabilities must keep effective and inheritable within permitted and bounding")
        })
}

/// A working directory outside the root has no path that starts there (CVE-2024-21626).
fn check_cwd() -> SysResult<()> {
    let cwd = nix::unistd::getcwd().call("getcwd", String::new)?;
    if cwd.is_absolute() {
        Ok(())
    } else {
        Err(Errno::ENOENT).call("getcwd", || format!("{cwd:?}"))
    }
}

fn execute(process: &Process, exposed: bool) -> Failure {
    let Some(command) = process.args.first() else { return Failure::new("no command to run") };
    let attempt = |path: &CStr| match execve(path, &process.args, &process.env) {
        Err(errno) => errno,
        Ok(never) => match never {},
    };
    if command.as_bytes().contains(&b'/') {
        if exposed && own_file::leads_to_magic(command) {
            return own_file_refused(command);
        }
        return explain(command, command, attempt(command), false);
    }
    // As execvp(3): a name that may not be run is passed over, but remembered.
    let mut denied = None;
    for path in candidates(command, &process.env) {
        if exposed && own_file::leads_to_magic(&path) {
            return own_file_refused(&path);
        }
        match attempt(&path) {
            Errno::ENOENT if !exists(&path) => {}
            Errno::ENOTDIR => {}
            Errno::EACCES => denied = denied.or(Some(path)),
            errno => return explain(command, &path, errno, true),
        }
    }
    match denied {
        Some(path) => explain(command, &path, Errno::EACCES, true),
        None => Failure::new(format!("cannot run {command:?}: executable file not found in $PATH"))
            .hint("check the command's name, the root filesystem and PATH in the container's environment")
            .code(127),
    }
}

fn own_file_refused(path: &CStr) -> Failure {
    Failure::new(format!("cannot run {path:?}: it leads to a file of the host's by way of /proc"))
        .hint("an image that names /proc/self/exe as its program or interpreter means no good (CVE-2019-5736): run another command")
        .code(126)
}

/// `command` in each directory of PATH; an empty entry is the working directory (environ(7)).
fn candidates(command: &CStr, env: &[CString]) -> Vec<CString> {
    let path = env.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(|&b| b == b':')
        .filter_map(|dir| {
            let dir = if dir.is_empty() { b"." } else { dir };
            CString::new([dir, b"/", command.to_bytes()].concat()).ok()
        })
        .collect()
}

fn explain(command: &CStr, path: &CStr, errno: Errno, searched: bool) -> Failure {
    let shown = if searched && command != path {
        format!("{command:?} ({})", path.to_string_lossy())
    } else {
        format!("{command:?}")
    };
    let failure = Failure::new(format!("cannot run {shown}: {}", reason(path, errno)));
    let failure = match errno {
        Errno::ENOENT if exists(path) => failure
            .hint("the file is there, the interpreter or loader that it names is not: install that in the root filesystem")
            .code(127),
        Errno::ENOENT | Errno::ENOTDIR => {
            failure.hint("check the command's path in the root filesystem").code(127)
        }
        Errno::EACCES => failure
            .hint("it must be a file that the container's user may execute, on a mount without noexec")
            .code(126),
        Errno::ENOEXEC => failure
            .hint("the file is neither a program for this machine's architecture nor a script with #!")
            .code(126),
        Errno::ENAMETOOLONG => failure.hint("a path has at most 4095 bytes, a name in it 255").code(126),
        Errno::E2BIG => {
            failure.hint("arguments and environment together are too long for the kernel").code(126)
        }
        Errno::ELOOP => failure.hint("it is a circle of symbolic links").code(126),
        _ => failure.code(126),
    };
    Failure { errno: errno as i32, ..failure }
}

/// The texts are those of Go's errors, which engines over runc look for.
fn reason(path: &CStr, errno: Errno) -> String {
    match errno {
        Errno::EACCES => "permission denied".into(),
        Errno::ENOENT if exists(path) => {
            "its interpreter or loader: no such file or directory".into()
        }
        Errno::ENOENT => "no such file or directory".into(),
        Errno::ENOEXEC => "exec format error".into(),
        errno => errno.desc().to_lowercase(),
    }
}

fn exists(path: &CStr) -> bool {
    std::fs::symlink_metadata(OsStr::from_bytes(path.to_bytes())).is_ok()
}
