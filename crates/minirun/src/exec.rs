//! One more command in a container that runs.
//!
//! ```text
//! minirun ─ joins user and pid namespaces ─ clone3 ─▶ child ─ joins the others ─▶ the command
//! ```
//!
//! The program runs from a sealed copy of its own file: with hostile processes around it the child
//! may execute that very file. The way in is the main command's pidfd: the init, hidden, lets none but root in.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ctsys::error::{Context, SysError};
use ctsys::idmap::{self, IdMaps};
use ctsys::process::ProcessId;
use ctsys::report::Explain;
use ctsys::signal::{self, SignalSet};
use ctsys::state::{ContainerState, StateError, StateRoot, Status};
use ctsys::{clone, fdpass, isolate, ns, seal, tty, wait};
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::Mode;
use oci_spec::runtime::{self, Spec};

use crate::cgroup::{Cgroup, CgroupError};
use crate::command;
use crate::config::overrides::{self, Overrides};
use crate::handshake::{self, Failure, Message, Step};
use crate::init;
use crate::lifecycle::{self, LifecycleError};
use crate::monitor;
use crate::plan::{Plan, PlanError, Process};
use crate::record::{CONFIG_FILE, MAX_CONFIG_BYTES};
use crate::refusal;
use crate::rootfs::open_pty;
use crate::terminal::Relay;
use crate::user::{Accounts, UserError, UserSpec};

/// Joined before the child is made: it is born into the process namespace, and what else it joins
/// belongs to the user namespace.
const JOINED_FIRST: CloneFlags = CloneFlags::CLONE_NEWUSER.union(CloneFlags::CLONE_NEWPID);

/// What to run in which container.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// Id, name or unique start of an id.
    pub container: String,
    /// Command and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, added to the environment of the container's configuration.
    pub env: Vec<String>,
    /// Working directory instead of the configuration's.
    pub cwd: Option<String>,
    /// User instead of the configuration's; names are those of the container's root filesystem.
    pub user: Option<UserSpec>,
    /// Give it a terminal of its own.
    pub tty: bool,
}

/// Why a command could not be run; implements `Explain` (125, 126, 127 as for run; 1 when there is
/// no such container).
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such container, or it does not run.
    #[error(transparent)]
    Container(#[from] LifecycleError),
    /// The configuration that the container was started with cannot be read.
    #[error("cannot read the container's configuration {path:?}")]
    Config {
        /// Where it is kept.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The process asked for cannot be had in this container.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The user asked for is none of the container's.
    #[error(transparent)]
    User(#[from] UserError),
    /// The container's limits cannot be made to hold for the command.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A step in the container failed; the message is complete.
    #[error("{0}")]
    Inside(Failure),
    /// A system call.
    #[error("cannot {step}")]
    Outside {
        /// What it was for.
        step: &'static str,
        /// The cause.
        #[source]
        source: SysError,
    },
}

impl Explain for ExecError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Container(error) => error.hint(),
            Self::Plan(error) => error.hint(),
            Self::User(error) => error.hint(),
            Self::Cgroup(error) => error.hint(),
            Self::Inside(failure) => Some(failure.remedy()),
            Self::Config { .. } => Some("start the container anew".into()),
            Self::Outside { source, .. } => Some(refusal::step(source.errno()).hint()),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Container(error) => error.exit_code(),
            Self::Inside(failure) => failure.code,
            _ => 125,
        }
    }
}

type Result<T> = std::result::Result<T, ExecError>;

/// Runs the command and returns its exit code (128 + n when signal n ended it).
///
/// Must be called before any thread is started.
pub fn exec(options: &ExecOptions) -> Result<u8> {
    let container = lifecycle::find_started(&options.container)?;
    let not_running =
        || LifecycleError::NotRunning { name: container.name.clone(), status: Status::Stopped };
    let main = container.main.as_ref();
    let pidfd = main.map(ProcessId::open).transpose().map_err(outside("open the container"))?;
    let (Some(main), Some(pidfd)) = (main, pidfd.flatten()) else {
        return Err(not_running().into());
    };
    seal::run_from_sealed_copy().map_err(outside("seal the program's own file"))?;
    let spec = kept_config(&container)?;
    let maps = idmap::of_process(main.pid).map_err(outside("read the container's id maps"))?;
    let plan = Plan::new(&spec, &container.rootfs, &maps)?;
    let process = Process::new(&process_of(&spec, options, &container.rootfs, &maps)?, &maps)?;

    let cgroup = container.cgroup.as_deref().map(Cgroup::join).transpose()?;
    let mask = monitor::signals().block().map_err(outside("block signals"))?;
    let (child, relay) = start(&process, &plan, &pidfd, cgroup.as_ref(), &mask)?;
    monitor::wait_for(&child, relay).map_err(outside("wait for the command"))
}

fn kept_config(container: &ContainerState) -> Result<Spec> {
    let dir = StateRoot::find_default()
        .and_then(|root| root.ok_or_else(|| StateError::NotFound(container.id.clone())))
        .and_then(|root| root.container_dir(&container.id))
        .map_err(LifecycleError::State)?;
    let path = dir.join(CONFIG_FILE);
    let parse = || -> std::result::Result<Spec, Box<dyn std::error::Error + Send + Sync>> {
        let mut text = Vec::new();
        File::open(&path)?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(format!("larger than {MAX_CONFIG_BYTES} bytes").into());
        }
        Ok(serde_json::from_slice(&text)?)
    };
    parse().map_err(|source| ExecError::Config { path: path.clone(), source })
}

/// The container's own process with what `options` changes.
fn process_of(
    spec: &Spec,
    options: &ExecOptions,
    rootfs: &Path,
    maps: &IdMaps,
) -> Result<runtime::Process> {
    let mut process = spec.process().clone().ok_or(PlanError::Missing("process"))?;
    let overrides = Overrides {
        command: options.args.clone(),
        // No word of the image's stays in front.
        entrypoint: Some(String::new()),
        env: options.env.clone(),
        workdir: options.cwd.clone().map(PathBuf::from),
        user: options.user.clone(),
        ..Overrides::default()
    };
    let context = overrides::Context {
        entrypoint: &[],
        accounts: &Accounts::read(rootfs),
        maps,
        terminal: options.tty,
        profile: None,
        volumes: &[],
    };
    overrides::change_process(&mut process, &overrides, &context)?;
    Ok(process)
}

/// The child's pidfd once the command runs, and the relay to its terminal.
fn start(
    process: &Process,
    plan: &Plan,
    main: &OwnedFd,
    cgroup: Option<&Cgroup>,
    mask: &SignalSet,
) -> Result<(OwnedFd, Option<Relay>)> {
    command::adjust_oom_score(process).map_err(ExecError::Inside)?;
    let (ours, theirs) = fdpass::pair().map_err(outside("make a socket"))?;
    // From birth in the pid namespace until it executes, the child can be seen from inside; nobody
    // there may look into it or its parent's memory through it (CVE-2016-9962).
    prctl::set_dumpable(false)
        .call("prctl", || "PR_SET_DUMPABLE, 0".into())
        .map_err(outside("hide from the container"))?;
    ns::join(main, JOINED_FIRST).map_err(outside("join the container"))?;
    let child = clone::spawn_into(CloneFlags::empty(), cgroup.map(Cgroup::dir), || {
        let failure = enter(process, plan, main, &theirs, mask);
        let code = failure.code;
        let _ = handshake::send(&theirs, &Message::Failed(failure), None);
        code
    })
    .map_err(outside("start a process"))?;
    drop(theirs);
    match wait_for_start(&ours) {
        Ok(relay) => Ok((child.pidfd, relay)),
        Err(error) => {
            let _ = signal::send(&child.pidfd, libc::SIGKILL);
            wait::wait(&child.pidfd).map_err(outside("wait for the process"))?;
            Err(error)
        }
    }
}

/// The child's part; returns only when something failed.
fn enter(
    process: &Process,
    plan: &Plan,
    main: &OwnedFd,
    socket: &OwnedFd,
    mask: &SignalSet,
) -> Failure {
    match join(process, main, plan.all_namespaces() - JOINED_FIRST, socket) {
        // It runs from a copy that nobody can change.
        Ok(slave) => command::become_program(process, plan.seccomp.as_ref(), slave, mask, false),
        Err(failure) => failure,
    }
}

fn join(
    process: &Process,
    main: &OwnedFd,
    kinds: CloneFlags,
    socket: &OwnedFd,
) -> std::result::Result<Option<OwnedFd>, Failure> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let keep = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), socket.as_fd(), main.as_fd()];
    isolate::close_all_but(&keep).step(|| "cannot close descriptors".into())?;
    ns::join(main, kinds).step(|| "cannot join the container's namespaces".into())?;
    init::new_keyring()?;
    if !process.terminal {
        return Ok(None);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let pts = open(Path::new("/dev/pts"), flags, Mode::empty())
        .call("open", || "\"/dev/pts\"".into())
        .step(|| "cannot open a terminal in the container".into())
        .map_err(|f| f.hint("the container has no /dev/pts: run it without a terminal"))?;
    let (master, slave) = open_pty(pts, process.uid, tty::callers_window_size())?;
    handshake::send(socket, &Message::Terminal, Some(master.as_fd()))
        .step(|| "cannot pass the terminal out".into())?;
    Ok(Some(slave))
}

/// Until the socket's end: the command runs, or the child was killed, which its code will tell.
fn wait_for_start(socket: &OwnedFd) -> Result<Option<Relay>> {
    let mut relay = None;
    while let Some((message, fd)) =
        handshake::receive(socket).map_err(outside("hear from the process"))?
    {
        match (message, fd) {
            (Message::Failed(failure), _) => return Err(ExecError::Inside(failure)),
            (Message::Terminal, Some(fd)) => {
                relay = Some(Relay::interactive(fd).map_err(outside("use the terminal"))?);
            }
            _ => {}
        }
    }
    Ok(relay)
}

fn outside(step: &'static str) -> impl FnOnce(SysError) -> ExecError {
    move |source| ExecError::Outside { step, source }
}
