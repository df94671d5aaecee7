//! A child that is root of new namespaces, as a container's init is, and tries something there. Its
//! end is that of all it made.

use std::os::fd::AsFd;

use ctsys::error::Context;
use ctsys::idmap::IdMaps;
use ctsys::{SysError, clone, fdpass, isolate, wait};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use crate::handshake::{self, Failure, Message, Step};

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// There was no such process.
    #[error("cannot create namespaces")]
    Namespaces(#[source] SysError),
    /// It got no ids.
    #[error("cannot map ids")]
    Maps(#[source] SysError),
    /// What it tried failed.
    #[error("{0}")]
    Inside(Failure),
    /// A system call of this side.
    #[error("cannot talk to a child")]
    Outside(#[source] SysError),
    /// It ended without a word.
    #[error("a child was killed")]
    Killed,
}

/// Runs `body` in a child with a user namespace of these ids and the other namespaces of `kinds`.
pub(super) fn with_namespaces(
    kinds: CloneFlags,
    maps: &IdMaps,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Refusal> {
    run(kinds | CloneFlags::CLONE_NEWUSER, Some(maps), body)
}

/// Runs `body` in a child in new namespaces, once its ids are mapped if they are to be.
pub(super) fn run(
    kinds: CloneFlags,
    maps: Option<&IdMaps>,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Refusal> {
    let (ours, theirs) = fdpass::pair().map_err(Refusal::Outside)?;
    let child = clone::spawn(kinds, || {
        // Its copy of the outside's end would keep it from seeing that close.
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let keep = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), theirs.as_fd()];
        if isolate::close_all_but(&keep).is_err() {
            return 1;
        }
        // Where the outside is gone or found no ids, nothing is to be tried.
        let result = match handshake::wait_mapped(&theirs) {
            Ok(true) => body(),
            _ => return 1,
        };
        match result {
            Ok(()) => 0,
            Err(failure) => {
                let _ = handshake::send(&theirs, &Message::Failed(failure), None);
                1
            }
        }
    })
    .map_err(Refusal::Namespaces)?;
    drop(theirs);
    let mapped = maps.map_or(Ok(()), |maps| maps.install(child.pid)).map_err(Refusal::Maps);
    let talked = mapped.and_then(|()| {
        handshake::send_mapped(&ours).map_err(Refusal::Outside)?;
        handshake::receive(&ours).map_err(Refusal::Outside)
    });
    // Where it still waits for its ids, it sees the end of the socket.
    drop(ours);
    let code = wait::wait(child.pidfd.as_fd()).map_err(Refusal::Outside)?;
    match talked? {
        Some((Message::Failed(failure), _)) => Err(Refusal::Inside(failure)),
        _ if code != 0 => Err(Refusal::Killed),
        _ => Ok(()),
    }
}

/// Keeps what is mounted in the child's mount namespace from the host's, as a container's is.
pub(super) fn detach_mounts() -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .call("mount", || "\"/\", MS_REC|MS_SLAVE".into())
        .step(|| "cannot detach the mounts from the host's".into())
}
