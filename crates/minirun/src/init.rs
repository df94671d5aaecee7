//! The container's PID 1, from its birth to the loop that reaps. It never executes anything: the
//! host's binary stays out of the container's reach, and nothing has to exist in the image.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::error::Context;
use ctsys::signal::SignalSet;
use ctsys::{capability, clone, isolate, netif, process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};

use crate::command;
use crate::guest::Children;
use crate::handshake::{self, Failure, Message, Step};
use crate::plan::Plan;
use crate::reap::{self, Duty};
use crate::rootfs::{self, Terminal};

/// `CAP_KILL`: the one capability that the init keeps, to pass signals on to other users.
const CAP_KILL: u64 = 1 << 5;

/// Sets the container up and is its init. Runs in the child that was born into the plan's
/// namespaces; returns the code that the child is to exit with. `mask` is the set of blocked
/// signals that the user's program starts with; with `awaits_go`, that has to wait for what works
/// for the container outside.
pub fn run(plan: &Plan, socket: &OwnedFd, mask: &SignalSet, awaits_go: bool) -> u8 {
    match start(plan, socket.as_fd(), mask, awaits_go) {
        Ok((main, children)) => {
            // Nothing of the host's stays open in a process that lives as long as the container.
            let _ = isolate::close_all_but(children.as_ref().map(Children::fd).as_slice());
            let code = reap::run(&duty(plan, main), &mut |_| {}).unwrap_or(125);
            if let Some(children) = children {
                children.end();
            }
            code
        }
        Err(failure) => {
            let code = failure.code;
            // Without an outside to tell there is nobody who waits for the code either.
            let _ = handshake::send(socket, &Message::Failed(failure), None);
            code
        }
    }
}

/// What asks the container to stop asks for all of it: the other processes may finish what SIGTERM
/// has them do, as users of tini wish (tini#78, tini#180). A command that ends by itself ends the
/// container at once, as everywhere.
fn duty(plan: &Plan, main: i32) -> Duty {
    let stop = reap::Stop { signal: plan.stop.signal, timeout: plan.stop.timeout };
    Duty { main, to_group: false, strict: false, stop: Some(stop) }
}

/// Everything up to the user's program; its process number. In a process namespace that is not the
/// container's own, also the list of what is to end with it.
fn start(
    plan: &Plan,
    socket: BorrowedFd<'_>,
    mask: &SignalSet,
    awaits_go: bool,
) -> Result<(i32, Option<Children>), Failure> {
    let is_guest = plan.joins(CloneFlags::CLONE_NEWPID);
    // 1. Nothing of the launcher's but the standard streams and the socket.
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    isolate::close_all_but(&[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), socket])
        .step(|| "cannot close descriptors".into())?;
    // 2. The end of the outside is the container's end.
    die_with_parent()?;
    if !handshake::wait_mapped(socket).step(|| "cannot hear from outside".into())? {
        return Err(Failure::new("the process outside is gone"));
    }
    isolate::erase_command_line().step(|| "cannot erase the init's command line".into())?;
    // 3. Root of the container, in a session without the caller's terminal.
    become_root(plan)?;
    nix::unistd::setsid().call("setsid", String::new).step(|| "cannot start a session".into())?;
    umask(Mode::empty());
    new_keyring()?;
    if !is_guest {
        command::adjust_oom_score(&plan.process)?;
    }
    enter_cgroup_namespace(plan)?;
    let exposed = command::own_file::is_exposed();
    // 4. Names and network.
    set_names(plan)?;
    if plan.namespaces.contains(CloneFlags::CLONE_NEWNET) {
        netif::loopback_up().step(|| "cannot bring the loopback interface up".into())?;
    }
    // 5. Files.
    let mut notice = |text: String| {
        let _ = handshake::send(socket, &Message::Notice(text), None);
    };
    let mut made = |path| {
        let _ = handshake::send(socket, &Message::Made(path), None);
    };
    let terminal = rootfs::set_up(plan, &mut notice, &mut made)?;
    let slave = match terminal {
        Some(Terminal { master, slave }) => {
            handshake::send(socket, &Message::Terminal, Some(master.as_fd()))
                .step(|| "cannot pass the terminal out".into())?;
            Some(slave)
        }
        None => None,
    };
    let children = if is_guest { Some(Children::open()?) } else { None };
    // What connects the network looks at this process until it is done.
    if awaits_go && !handshake::wait_go(socket).step(|| "cannot hear from outside".into())? {
        return Err(Failure::new("the process outside is gone"));
    }
    // 6. From here on nobody inside looks into this process, not even the container's root with
    //    all capabilities (CVE-2019-5736, CVE-2016-9962); nor into its child until that executes.
    prctl::set_dumpable(false)
        .call("prctl", || "PR_SET_DUMPABLE, 0".into())
        .step(|| "cannot hide the init".into())?;
    Ok((start_main(plan, socket, slave, mask, exposed)?, children))
}

/// The child that becomes the user's program.
fn start_main(
    plan: &Plan,
    socket: BorrowedFd<'_>,
    slave: Option<OwnedFd>,
    mask: &SignalSet,
    exposed: bool,
) -> Result<i32, Failure> {
    reap::signals().block().step(|| "cannot block signals".into())?;
    let mut slave = slave;
    let main = clone::spawn_until_exec(|| {
        // Where no PID 1 of its own takes it along it ends with this one all the same.
        if plan.joins(CloneFlags::CLONE_NEWPID) {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        }
        // The outside writes its record while the program is loaded.
        let failure = match tell_of_main(socket) {
            Ok(()) => {
                let filter = plan.seccomp.as_ref();
                command::become_program(&plan.process, filter, slave.take(), mask, exposed)
            }
            Err(failure) => failure,
        };
        let code = failure.code;
        let _ = handshake::send(socket, &Message::Failed(failure), None);
        code
    })
    .step(|| "cannot start the command's process".into())?;
    capability::set(CAP_KILL, CAP_KILL, 0).step(|| "cannot drop capabilities".into())?;
    die_with_parent()?;
    outside_is_there(socket)?;
    Ok(main.pid)
}

/// The command's process, not yet executed, passes itself out.
fn tell_of_main(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    process::pidfd_open(std::process::id().cast_signed())
        .and_then(|pidfd| handshake::send(socket, &Message::Main, Some(pidfd.as_fd())))
        .step(|| "cannot tell the outside about the command".into())
}

/// Asks for SIGKILL at the parent's end. A change of user takes that back (prctl(2)), so it is
/// asked for again after the last one.
fn die_with_parent() -> Result<(), Failure> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .call("prctl", || "PR_SET_PDEATHSIG, SIGKILL".into())
        .step(|| "cannot tie the container to its launcher".into())
}

/// The parent may have ended just before [`die_with_parent`]; then the socket has too.
fn outside_is_there(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let gone = fds[0].revents().is_some_and(|e| e.contains(PollFlags::POLLHUP));
    if gone { Err(Failure::new("the process outside is gone")) } else { Ok(()) }
}

/// The new namespace's first process has all capabilities in it whatever its user; files it makes
/// should belong to the container's root.
fn become_root(plan: &Plan) -> Result<(), Failure> {
    if !plan.maps_root {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    if nix::unistd::getegid() != gid {
        nix::unistd::setresgid(gid, gid, gid)
            .call("setresgid", || "0".into())
            .step(|| "cannot become the container's root group".into())?;
    }
    if nix::unistd::geteuid() != uid {
        nix::unistd::setresuid(uid, uid, uid)
            .call("setresuid", || "0".into())
            .step(|| "cannot become the container's root".into())?;
        die_with_parent()?;
    }
    Ok(())
}

/// Where the container has a cgroup of its own, which it was born into: a namespace that begins
/// there ([`Plan::born_into`]).
fn enter_cgroup_namespace(plan: &Plan) -> Result<(), Failure> {
    let late = plan.namespaces - plan.born_into();
    if late.is_empty() {
        return Ok(());
    }
    nix::sched::unshare(late)
        .call("unshare", || format!("{late:?}"))
        .step(|| "cannot make the container's cgroup namespace".into())
}

/// Shared with `exec`: neither may see the keys of the caller's session.
pub(crate) fn new_keyring() -> Result<(), Failure> {
    isolate::join_new_keyring()
        .step(|| "cannot make a new keyring".into())
        .map_err(|f| f.hint("the caller's quota of keys may be used up; as root, raise kernel.keys.maxkeys (sysctl)"))
}

fn set_names(plan: &Plan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name)
            .call("sethostname", || format!("{name:?}"))
            .step(|| "cannot set the host name".into())?;
    }
    if let Some(name) = &plan.domainname {
        isolate::set_domain_name(name).step(|| "cannot set the domain name".into())?;
    }
    Ok(())
}
