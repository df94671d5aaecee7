//! The birth of a container's init: into new namespaces by one clone3, into those that are there
//! already by way of a process that joins them first.
//!
//! ```text
//! minirun ─ clone3 ─▶ init                                      all namespaces new
//! minirun ─ clone ─▶ joiner ─ setns, clone3(CLONE_PARENT) ─▶ init, a child of minirun's
//! ```

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::clone::{self, Child};
use ctsys::error::Context;
use ctsys::{fdpass, ns, signal, wait};
use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::prctl;

use super::{Result, RunError, outside};
use crate::command;
use crate::handshake::{self, Failure, Message, Step};
use crate::network::NetworkError;
use crate::plan::{Joined, Plan};

/// The namespaces to join, opened: whatever becomes of the paths, it is these.
#[derive(Debug, Default)]
pub(super) struct Open(Vec<OwnedFd>);

impl Open {
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let open = |joined: &Joined| {
            let path = &joined.path;
            let file = File::open(path).call("open", || format!("{path:?}"));
            let sys = |source| NetworkError::Namespace { path: path.clone(), source };
            file.map(OwnedFd::from).map_err(sys).map_err(RunError::Network)
        };
        plan.joined.iter().map(open).collect::<Result<_>>().map(Self)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }
}

/// The init, which runs `body`, in the cgroup whose directory is `cgroup`.
pub(super) fn init(
    plan: &Plan,
    open: &Open,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> u8,
) -> Result<Child> {
    if plan.joined.is_empty() {
        return clone::spawn_into(plan.born_into(), cgroup, body).map_err(RunError::Namespaces);
    }
    let (ours, theirs) = fdpass::pair().map_err(outside("make a socket"))?;
    let joiner = clone::spawn(CloneFlags::empty(), || {
        let told = match by_joining(plan, open, cgroup, body) {
            Ok(child) => handshake::send(&theirs, &Message::Init, Some(child.pidfd.as_fd())),
            Err(failure) => handshake::send(&theirs, &Message::Failed(failure), None),
        };
        u8::from(told.is_err())
    })
    .map_err(outside("start a process"))?;
    drop(theirs);
    let told = handshake::receive(&ours).map_err(outside("hear from the joining process"));
    let code = wait::wait(&joiner.pidfd).map_err(outside("wait for the joining process"))?;
    match told? {
        Some((Message::Init, Some(pidfd))) => match handshake::pid_of(&pidfd) {
            Ok(pid) => Ok(Child { pid, pidfd }),
            Err(error) => {
                let _ = signal::send(&pidfd, libc::SIGKILL);
                wait::wait(&pidfd).map_err(outside("wait for the init"))?;
                Err(outside("identify the init")(error))
            }
        },
        Some((Message::Failed(failure), _)) => Err(RunError::Inside(failure)),
        _ => Err(RunError::InitDied(code)),
    }
}

/// The joiner's part.
fn by_joining(
    plan: &Plan,
    open: &Open,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> u8,
) -> std::result::Result<Child, Failure> {
    if plan.joins(CloneFlags::CLONE_NEWPID) {
        command::adjust_oom_score(&plan.process)?;
        // From its birth on the init can be seen by others in there: none may look into it
        // (CVE-2016-9962).
        prctl::set_dumpable(false)
            .call("prctl", || "PR_SET_DUMPABLE, 0".into())
            .step(|| "cannot hide from the other container".into())?;
    }
    for (joined, fd) in plan.joined.iter().zip(&open.0) {
        let Joined { kind, path } = joined;
        ns::join(fd, *kind).step(|| format!("cannot join the namespace {path:?}")).map_err(|f| {
            if f.errno == Errno::EPERM as i32 {
                f.hint("it takes root's rights in the user namespace that owns it: join that too, or run minirun as root")
            } else {
                f
            }
        })?;
    }
    clone::spawn_into(plan.born_into() | CloneFlags::CLONE_PARENT, cgroup, body)
        .step(|| "cannot create the container's namespaces".into())
}
